"""Who of many machines wants to be ticked next, without asking all of them.

A heap of deadlines with lazy deletion: whoever touched a machine reports its deadline again. Equal times come in the
order in which they were reported, so that two runs of one seed tick in the same order.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class Agenda(Generic[Key]):
    """Deadlines by key; times are monotonic nanoseconds."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Key]] = []
        self._current: dict[Key, tuple[int, int]] = {}
        self._sequence = 0

    def report(self, key: Key, deadline: int | None) -> None:
        """The deadline of this machine is this now; None while it waits for nothing."""
        current = self._current.get(key)
        if deadline is None:
            if current is not None:
                del self._current[key]
        elif current is None or current[0] != deadline:
            self._sequence += 1
            self._current[key] = (deadline, self._sequence)
            heapq.heappush(self._heap, (deadline, self._sequence, key))

    def earliest(self) -> int | None:
        heap = self._heap
        while heap:
            deadline, sequence, key = heap[0]
            if self._current.get(key) == (deadline, sequence):
                return deadline
            heapq.heappop(heap)
        return None

    def due(self, now: int) -> list[Key]:
        """Take out every machine whose time has come, in order; each must be ticked and reported again."""
        keys = []
        while (deadline := self.earliest()) is not None and deadline <= now:
            _, _, key = heapq.heappop(self._heap)
            del self._current[key]
            keys.append(key)
        return keys
