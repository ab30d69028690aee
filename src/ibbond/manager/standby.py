"""How a standby subnet manager learns that the master is gone: it asks again and again.

Read first: InfiniBand Architecture volume 1, 14.4.1 (states), OpenSM's `sminfo_polling_timeout`. A standby that sees a
link of its own switch change asks at once and quickly. Standbys have ranks: a later one waits longer, so that one
takes over and the others find a master again.
"""

from __future__ import annotations

import enum

from ibbond.verbs.timing import Timing


class Verdict(enum.Enum):
    WAIT = enum.auto()
    ASK = enum.auto()
    TAKE_OVER = enum.auto()


class StandbyWatch:
    """Counts the polls of the master that were not answered; rank 0 takes over first."""

    def __init__(self, timing: Timing, rank: int) -> None:
        self._timing = timing
        self._timeout = timing.standby_misses * (rank + 1)
        self._missed = 0
        self._hurried = False
        self._ask_at: int | None = None

    def deadline(self) -> int | None:
        return self._ask_at

    def begin(self, now: int) -> None:
        self._missed, self._hurried = 0, False
        self._ask_at = now + self._timing.standby_poll_ns

    def end(self) -> None:
        self._ask_at = None

    def hurry(self, now: int) -> None:
        """Something nearby changed: ask now, and wait only for an SMP's time."""
        if self._ask_at is not None and not self._hurried:
            self._missed, self._hurried = 0, True
            self._ask_at = now

    def tick(self, now: int) -> Verdict:
        """The time to ask has come; a poll that was not answered by then counts as missed."""
        if self._ask_at is None or now < self._ask_at:
            return Verdict.WAIT
        if self._missed >= self._timeout:
            self._ask_at = None
            return Verdict.TAKE_OVER
        self._missed += 1
        self._ask_at = now + (self._timing.smp_timeout_ns if self._hurried else self._timing.standby_poll_ns)
        return Verdict.ASK

    def answered(self, now: int) -> None:
        """A master is there."""
        self.begin(now)
