"""The InfiniBand subnet: ports, cables, switches, and the managers that bring them to life."""
