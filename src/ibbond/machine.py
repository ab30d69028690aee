"""The contract of a machine: what decides, and never touches the world; and how a machine keeps its times.

Facts and `now` (monotonic nanoseconds, an int) go in; effects come out in the order in which they must happen. Every
machine of this project has the same three verbs, so that a live loop and a simulator drive the same code. A machine
that waits for a few named things has `Timers`; one that holds many machines or entries has `Deadlines` of them; what
happens once at a given time is a call in an `EventQueue`.
"""

from __future__ import annotations

import enum
import heapq
from collections.abc import Callable, Hashable
from typing import Any, Generic, ParamSpec, Protocol, TypeVar

US = 1_000
MS = 1_000_000
SECOND = 1_000_000_000

EventT = TypeVar("EventT", contravariant=True)
EffectT = TypeVar("EffectT")
Key = TypeVar("Key", bound=Hashable)
Timer = TypeVar("Timer", bound=enum.Enum)
Arguments = ParamSpec("Arguments")
MAX_STALE = 64  # entries of a heap beyond twice those in use, before it is made again without the others
_Call = tuple[int, int, Callable[..., Any], tuple[Any, ...]]


class Symbol(enum.Enum):
    """A state, an input or a reaction of a table. Hashed as fast as an object: `Enum` does it by name, in Python."""

    __hash__ = object.__hash__


class Machine(Protocol[EventT, EffectT]):
    """`handle` takes a fact, `tick` says that time has come, `deadline` is how a machine asks for time."""

    def handle(self, now: int, event: EventT) -> list[EffectT]:
        """Take one fact or request at this time (ns); returns the effects in the order in which they must happen."""
        ...

    def tick(self, now: int) -> list[EffectT]:
        """Do what is due by now (ns). Calling it early or twice is harmless."""
        ...

    def deadline(self) -> int | None:
        """The time at which `tick` wants to be called; None while there is nothing to wait for."""
        ...


def earliest(*times: int | None) -> int | None:
    """The earliest of these times, or None if all of them are None."""
    first = None
    for at in times:
        if at is not None and (first is None or at < first):
            first = at
    return first


class Timers(Generic[Timer]):
    """The times at which one machine must act, by name (an enum)."""

    __slots__ = ("_at",)

    def __init__(self) -> None:
        self._at: dict[Timer, int] = {}

    def set(self, timer: Timer, at: int | None) -> None:
        """Let it expire at this time, instead of any earlier setting; None stops it."""
        if at is None:
            self._at.pop(timer, None)
        else:
            self._at[timer] = at

    def stop(self, *timers: Timer) -> None:
        """Forget these timers; those that do not run stay so."""
        for timer in timers:
            self._at.pop(timer, None)

    def get(self, timer: Timer) -> int | None:
        """When it expires; None while it is stopped."""
        return self._at.get(timer)

    def next(self) -> int | None:
        """When the first of them expires."""
        return min(self._at.values()) if self._at else None

    def expired(self, timer: Timer, now: int) -> bool:
        """Whether its time has come. It stays set until it is set again or stopped."""
        at = self._at.get(timer)
        return at is not None and at <= now


class Deadlines(Generic[Key]):
    """Deadlines of many machines or entries by key, without asking all of them: a heap with lazy deletion.

    Equal times come in the order in which they were reported, so that two runs of one seed tick in the same order.
    """

    __slots__ = ("_current", "_heap", "_sequence")

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Key]] = []
        self._current: dict[Key, tuple[int, int]] = {}
        self._sequence = 0

    def report(self, key: Key, deadline: int | None) -> bool:
        """The deadline of this machine is now this, None while it waits for nothing; whether that is a change."""
        current = self._current.get(key)
        if deadline is None:
            if current is None:
                return False
            del self._current[key]
            return True
        if current is not None and current[0] == deadline:
            return False
        self._sequence += 1
        self._current[key] = (deadline, self._sequence)
        heapq.heappush(self._heap, (deadline, self._sequence, key))
        if len(self._heap) > 2 * len(self._current) + MAX_STALE:
            self._heap = [(at, number, each) for each, (at, number) in self._current.items()]
            heapq.heapify(self._heap)
        return True

    def clear(self) -> None:
        """Forget all deadlines."""
        self._heap.clear()
        self._current.clear()

    def __contains__(self, key: Key) -> bool:
        """Whether this machine waits for something."""
        return key in self._current

    def earliest(self) -> int | None:
        """The earliest deadline (ns), or None."""
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


class EventQueue:
    """Calls at given times, equal times in the order of being asked for. `now` is the owner's time."""

    __slots__ = ("_heap", "_sequence", "now")

    def __init__(self) -> None:
        self.now = 0
        self._heap: list[_Call] = []
        self._sequence = 0

    def call_at(
        self, at: int, action: Callable[Arguments, object], *args: Arguments.args, **none: Arguments.kwargs
    ) -> None:
        """Call `action(*args)` at this time; keywords are not passed on."""
        self._sequence += 1
        entry: _Call = (at, self._sequence, action, args)
        heapq.heappush(self._heap, entry)

    def call_after(
        self, delay: int, action: Callable[Arguments, object], *args: Arguments.args, **none: Arguments.kwargs
    ) -> None:
        """Call `action(*args)` `delay` nanoseconds from `now`; delays of zero keep their order."""
        self._sequence += 1
        entry: _Call = (self.now + delay, self._sequence, action, args)
        heapq.heappush(self._heap, entry)

    def run(self, now: int) -> None:
        """Make all calls that are due, and what becomes due by them. A late owner does not catch up with delays."""
        heap = self._heap
        self.now = max(self.now, now)
        while heap and heap[0][0] <= now:
            _, _, action, args = heapq.heappop(heap)
            action(*args)

    def run_next(self) -> None:
        """Make the first call, whatever its time."""
        _, _, action, args = heapq.heappop(self._heap)
        action(*args)

    def deadline(self) -> int | None:
        """The time (ns) of the earliest call, or None."""
        return self._heap[0][0] if self._heap else None
