"""Linux: namespaces, TUN devices, netlink, and the epoll loop that carries packets between them."""
