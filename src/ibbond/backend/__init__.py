"""One contract for bonds and two implementations: ibbond's driver in a lab, the kernel's on this host."""
