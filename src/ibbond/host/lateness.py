"""How late a loop runs on a busy machine: it knows when it wanted to be woken. Pure.

A span is a time in which the loop was behind: from the deadline that it missed by `LATE_NS` or more until it had caught
up and slept again. What is lost in a span may have waited for the loop in vain; what is lost outside of one was lost
on its way. A loop without a deadline in such a time does not notice it. Left out: why the machine was busy.
"""

from __future__ import annotations

from collections import deque
from typing import Final

LATE_NS: Final = 20_000_000  # less goes unnoticed: that much a timer and a garbage collection take
SLEPT_NS: Final = 50_000  # a wait this long found nothing to do
MAX_SPANS: Final = 1_000


class Lateness:
    """`worst_ns` is the longest delay so far, `spans` are the last times in which it was behind."""

    def __init__(self) -> None:
        self.worst_ns = 0
        self.spans: deque[tuple[int, int]] = deque(maxlen=MAX_SPANS)
        self.since: int | None = None  # the start of a span that has not ended

    def ran(self, due: int, now: int) -> None:
        """What was due at one time is done at another."""
        if now - due >= LATE_NS:
            self.worst_ns = max(self.worst_ns, now - due)
            self.since = due if self.since is None else min(self.since, due)

    def waited(self, ns: int, now: int) -> None:
        """The loop has waited so long for something to do. Ends a span where it had caught up."""
        if self.since is not None and ns >= SLEPT_NS:
            self.spans.append((self.since, now))
            self.since = None

    def clear(self) -> None:
        self.worst_ns, self.since = 0, None
        self.spans.clear()
