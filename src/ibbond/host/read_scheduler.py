"""When the loop reads what a host's kernel has: at once while that is cheap, else in a small share of its time.

To read means to go through everything of its kind (routes, addresses, groups), and how much there is, and how often it
changes, is for the programs of the host to decide. What a host has to wait for is looked at once, however often it was
asked for meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from ibbond.machine import MS

CHEAP_NS = 2 * MS  # a host whose last reading took longer has to wait
SHARE = 10  # of the loop's time, one part of so many for readings that are not cheap


class ReadScheduler:
    """By host name. `look` reads one host, `call_at` makes a call later, `cost` is a clock of processor time (ns)."""

    def __init__(
        self,
        look: Callable[[str], None],
        now: Callable[[], int],
        call_at: Callable[[int, Callable[[], object]], None],
        cost: Callable[[], int] = time.thread_time_ns,
    ) -> None:
        self._look = look
        self._now = now
        self._call_at = call_at
        self._cost = cost
        self._took: dict[str, int] = {}  # by host, the last reading
        self._waiting: dict[str, None] = {}
        self._not_before = 0

    def ask(self, host: str) -> None:
        """Something may have changed on this host."""
        if host in self._waiting:
            return
        if self._took.get(host, 0) < CHEAP_NS or (not self._waiting and self._now() >= self._not_before):
            self.look_now(host)
            return
        self._waiting[host] = None
        if len(self._waiting) == 1:
            self._call_at(self._not_before, self._next)

    def look_now(self, host: str) -> None:
        """Read it without delay."""
        began = self._cost()
        try:
            self._look(host)
        finally:
            took = self._took[host] = self._cost() - began
            if took >= CHEAP_NS:
                self._not_before = self._now() + SHARE * took

    def _next(self) -> None:
        host = next(iter(self._waiting))
        del self._waiting[host]
        try:
            self.look_now(host)
        finally:
            if self._waiting:
                self._call_at(max(self._now(), self._not_before), self._next)
