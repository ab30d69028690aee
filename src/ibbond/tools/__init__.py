"""Servers inside a lab for real programs: the InfiniBand tools (umad) and RDMA programs."""
