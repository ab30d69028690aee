"""The contract of a machine: what decides, and never touches the world.

Facts and `now` (monotonic nanoseconds, an int) go in; effects come out in the order in which they must happen. Every
machine of this project has the same three verbs, so that a live loop and a simulator drive the same code.
"""

from collections.abc import Iterable
from typing import Protocol, TypeVar

US = 1_000
MS = 1_000_000
SECOND = 1_000_000_000

EventT = TypeVar("EventT", contravariant=True)
EffectT = TypeVar("EffectT")


class Machine(Protocol[EventT, EffectT]):
    """`handle` takes a fact, `tick` says that time has come, `deadline` is how a machine asks for time."""

    def handle(self, now: int, event: EventT) -> list[EffectT]: ...

    def tick(self, now: int) -> list[EffectT]: ...

    def deadline(self) -> int | None:
        """The time at which `tick` wants to be called; None while there is nothing to wait for."""
        ...


class Waiting(Protocol):
    """Whatever has a deadline."""

    def deadline(self) -> int | None: ...


def earliest(machines: Iterable[Waiting]) -> int | None:
    """The earliest deadline of many machines, or None when none of them waits."""
    first = None
    for machine in machines:
        at = machine.deadline()
        if at is not None and (first is None or at < first):
            first = at
    return first
