"""The bonding driver: several devices, one address, one of them active. Knows nothing of InfiniBand."""
