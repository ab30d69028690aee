"""The virtual world: the same machines under one clock and one seed, with faults, checkers and stories."""
