"""Recordings of the real kernel driver, replayed against ours: the recorded world, the steps, the comparison."""
