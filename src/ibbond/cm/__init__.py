"""The connection manager of a host, whose users are IPoIB's connected mode and RDMA CM."""
