"""One host put together (devices, bonds, neighbors, next hops), and all hosts of one world with their subnet."""
