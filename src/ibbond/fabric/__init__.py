"""The physical subnet: ports, cables, switches, channel adapters, and how packets and messages cross them."""
