"""IP over InfiniBand (RFC 4391): one interface per port and P_Key, its groups, paths and frames."""
