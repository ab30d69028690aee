"""RDMA CM of one host: ids of programs, resolving addresses and paths, connecting; without the host around it."""
