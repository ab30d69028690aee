"""ibbond: high availability for IP over InfiniBand, on real hosts, in a lab of namespaces, and in a simulator."""

__version__ = "0.1.0"
