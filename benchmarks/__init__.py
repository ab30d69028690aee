"""What a bond in Python costs, against what people would use instead: see docs/benchmarks.md and `./bench --help`."""
