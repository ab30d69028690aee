"""Goals of speed in live tests: measured on cores that do not sleep, and never a failure."""

import contextlib
import os
from collections.abc import Iterator

import pytest


def judge_speed(good: bool, measured: object) -> None:
    """Speed is a benchmark's business, not a test's: a missed goal is notified, with the figures, and nothing fails."""
    if not good:
        pytest.skip(f"goal missed at load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors: {measured}")


@contextlib.contextmanager
def cores_awake() -> Iterator[str]:
    """Idle cores look around instead of sleeping, as cyclictest has it; says whether that was to be had.

    On a virtual machine a core that sleeps takes 50 to 100 us to wake, and a request of FUSE wakes two.
    """
    try:
        quality = os.open("/dev/cpu_dma_latency", os.O_WRONLY)
    except OSError:
        yield "idle cores asleep"
        return
    try:
        os.write(quality, bytes(4))
        yield "idle cores awake"
    finally:
        os.close(quality)
