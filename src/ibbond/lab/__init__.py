"""Labs: namespaces as hosts, one process that is their InfiniBand; build, run, measure, report."""
