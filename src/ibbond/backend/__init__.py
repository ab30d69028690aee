"""One contract to bonds and two ways to meet it: our driver in a lab, the kernel's on this host."""
