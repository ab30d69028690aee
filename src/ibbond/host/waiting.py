"""Waiting for work: asleep in epoll when there is none, awake for some microseconds more when work comes and goes.

Read first: Documentation/virt/guest-halt-polling.rst, whose rule of growing and shrinking this is. To be woken on an
idle core costs 20 to 50 microseconds in a virtual machine, twice in every round trip through the pump; a loop that
looks again for a moment before it sleeps does not pay that. Looking is given up as soon as it finds nothing, so that
it takes no time from others on a busy machine. Left out: what the work is.
"""

from __future__ import annotations

import select
import time
from typing import Final

LONGEST_NS: Final = 60_000  # a sleep shorter than this would have been better spent awake
FIRST_NS: Final = 20_000
SHORTEST_NS: Final = 5_000  # below this it is no use
SHORT_SLEEPS: Final = 8  # that many in a row start the looking

Ready = list[tuple[int, int]]


class Waiter:
    """Waits on an epoll set; `window` is for how many nanoseconds it looks before it sleeps."""

    def __init__(self, epoll: select.epoll) -> None:
        self._poll = epoll.poll
        self.window = 0
        self._short_sleeps = 0

    def wait(self) -> Ready:
        """What is ready, at least one."""
        if self.window:
            return self._look()
        slept_at = time.monotonic_ns()
        ready = self._poll()
        if time.monotonic_ns() - slept_at < LONGEST_NS:
            self._short_sleeps += 1
            if self._short_sleeps >= SHORT_SLEEPS:
                self.window = FIRST_NS
        else:
            self._short_sleeps = 0
        return ready

    def _look(self) -> Ready:
        poll, now = self._poll, time.monotonic_ns
        until = now() + self.window
        while True:
            ready = poll(0)
            if ready:
                self.window = min(LONGEST_NS, self.window + SHORTEST_NS)
                return ready
            if now() >= until:
                break
        self.window //= 2
        if self.window < SHORTEST_NS:
            self.window = self._short_sleeps = 0
        return poll()
