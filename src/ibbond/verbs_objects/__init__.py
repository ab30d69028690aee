"""Objects of /dev/infiniband/uverbsN: handles, states, queues, and who may do what with them. Pure."""
