"""RDMA CM for user programs: resolve, connect, send and recover, over the lab's subnet."""
