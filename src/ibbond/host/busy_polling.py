"""Waiting for work: asleep in epoll, or awake for some microseconds more where that is found to be quicker.

Read first: Documentation/virt/guest-halt-polling.rst, whose idea this is. To be woken on an idle virtual core costs 20
to 50 microseconds, twice in every round trip through the pump; a loop that looks again for a moment before it sleeps
does not pay that. On a busy machine it is the other way round: who looks keeps others from the work that is waited
for. So polling is tried when no process waits for a core (pressure stall information,
Documentation/accounting/psi.rst), and kept while it shortens the waits. Packets that come at a slow pace are waited for
asleep. Left out: what the work is.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from typing import Final

WINDOW_NS: Final = 30_000  # looks at most so long before it sleeps
PAUSE_NS: Final = 80_000  # longer waits say nothing of how quick a wake-up is: there was no traffic
TRIAL: Final = 32  # waits whose mean is compared
TRIALS: Final = 64  # of the quicker way, before the other one is tried again
GAIN: Final = 0.8  # looking must shorten the waits to this share: it costs a core
EVENTS: Final = 64  # descriptors that one wait returns; epoll returns the others next
BUSY: Final = 0.2  # share of the time in which some process waited for a core
PRESSURE: Final = "/proc/pressure/cpu"

Ready = list[tuple[int, int]]


class Pressure:
    """How busy the cores are: the share of time since the last call in which some process had to wait for one."""

    def __init__(self) -> None:
        self._fd = -1
        with contextlib.suppress(OSError):  # a kernel without it: no process is known to wait
            self._fd = os.open(PRESSURE, os.O_RDONLY | os.O_CLOEXEC)
        self._waited_us, self._at = self._read(), time.monotonic_ns()

    def share(self) -> float:
        waited_us, at = self._read(), time.monotonic_ns()
        share = (waited_us - self._waited_us) * 1000 / max(1, at - self._at)
        self._waited_us, self._at = waited_us, at
        return share

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _read(self) -> int:
        """Microseconds since boot: `some avg10=0.00 avg60=0.00 avg300=0.00 total=123`."""
        if self._fd < 0:
            return 0
        return int(os.pread(self._fd, 200, 0).split(b"\n", 1)[0].rpartition(b"=")[2])


class Waiter:
    """Waits on an epoll set; `looking` says whether it polls or sleeps."""

    def __init__(self, epoll: select.epoll, pressure: Pressure) -> None:
        self._pressure = pressure
        self.looking = False
        self._poll = epoll.poll
        self.took = PAUSE_NS
        self._sum = self._count = 0
        self._left = 0  # trials before the other way has its turn
        self._asleep = 0.0  # mean wait when asleep, nanoseconds

    def wait(self) -> Ready:
        """What is ready, at least one. What the last wait teaches is learnt now, when no work waits for us."""
        if self.took < PAUSE_NS or self.looking:
            self._learn()
        began = time.monotonic_ns()
        ready = self._look(began + WINDOW_NS) if self.looking else self._poll(-1, EVENTS)
        self.took = time.monotonic_ns() - began
        return ready

    def _look(self, until: int) -> Ready:
        poll, now = self._poll, time.monotonic_ns
        while now() < until:
            ready = poll(0, EVENTS)
            if ready:
                return ready
        return poll(-1, EVENTS)

    def _learn(self) -> None:
        self._sum += min(self.took, PAUSE_NS)  # a pause while looking counts: the looking was in vain
        self._count += 1
        if self._count < TRIAL:
            return
        mean = self._sum / self._count
        self._sum = self._count = 0
        if not self.looking:
            self._asleep = mean
        if self.looking and (mean > GAIN * self._asleep or self._pressure.share() > BUSY):
            self.looking, self._left = False, TRIALS
        elif self._left:
            self._left -= 1
            if not self._left:
                self._pressure.share()  # the next trial is the one to look at
        elif self.looking:
            self.looking = False  # once, to compare again
        else:
            self.looking = self._pressure.share() < BUSY
            self._left = TRIALS
