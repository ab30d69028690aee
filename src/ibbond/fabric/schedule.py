"""What will happen later inside the subnet, in the order of time, equal times in the order of being asked for."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any, ParamSpec

Arguments = ParamSpec("Arguments")


class Schedule:
    """A heap of actions. `now` is the time of the machine that owns it; delays of zero keep their order."""

    __slots__ = ("_heap", "_sequence", "now")

    def __init__(self) -> None:
        self.now = 0
        self._heap: list[tuple[int, int, Callable[..., Any], tuple[Any, ...]]] = []
        self._sequence = 0

    def after(
        self, delay: int, action: Callable[Arguments, None], *args: Arguments.args, **none: Arguments.kwargs
    ) -> None:
        """Call `action(*args)` `delay` nanoseconds from now."""
        self._sequence += 1
        entry: tuple[int, int, Callable[..., Any], tuple[Any, ...]] = (self.now + delay, self._sequence, action, args)
        heapq.heappush(self._heap, entry)

    def run(self, now: int) -> None:
        """Do everything that is due, and what that makes due at once. Who comes late does not catch up with delays."""
        heap = self._heap
        self.now = max(self.now, now)
        while heap and heap[0][0] <= now:
            _, _, action, args = heapq.heappop(heap)
            action(*args)

    def deadline(self) -> int | None:
        return self._heap[0][0] if self._heap else None
