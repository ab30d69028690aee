"""The virtual world: the same machines under one clock and one seed; and recordings of the real driver replayed."""
