"""The events of a running lab as a growing list that a test can wait on.

A thread follows the lab's events (`ibbond lab events --json` prints the same) and wakes threads that wait for the next
one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from ibbond.backend.control_socket import Control
from ibbond.errors import Refused

RECHECK_S = 0.1  # for conditions that change without an event of the lab


@dataclass(frozen=True, slots=True)
class Event:
    """One event: milliseconds since the lab began, CLOCK_MONOTONIC in nanoseconds, kind, place, and details."""

    t_ms: float
    at_ns: int
    what: str
    where: str
    detail: str

    def __str__(self) -> str:
        return f"{self.t_ms:.3f} ms  {self.what}  {self.where}  {self.detail}".rstrip()


class EventLog:
    """Follows the events of one lab from its start until it ends."""

    def __init__(self, lab: str) -> None:
        self._control = Control.of(lab)
        self._events: list[Event] = []
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._follow, name=f"events of lab {lab}", daemon=True)
        self._thread.start()

    @property
    def events(self) -> tuple[Event, ...]:
        """All events so far, in order."""
        with self._changed:
            return tuple(self._events)

    def wait(self, condition: Callable[[], object], within: float) -> bool:
        """Check a condition now, after each event and every 100 ms, until it holds or `within` seconds have passed."""
        until = time.monotonic() + within
        while True:
            with self._changed:
                seen = len(self._events)
            if condition():
                return True
            with self._changed:
                left = until - time.monotonic()
                if left <= 0:
                    return False
                if len(self._events) == seen:
                    self._changed.wait(min(left, RECHECK_S))

    def hang_up(self) -> None:
        """Follow no longer a lab that continues."""
        self._control.hang_up()

    def join(self) -> None:
        """Wait for the last events of a lab that has ended."""
        self._thread.join()
        self._control.close()

    def _follow(self) -> None:
        with suppress(Refused):  # the lab may end before it is asked
            for item in self._control.follow("events", past=True):
                assert isinstance(item, dict)
                with self._changed:
                    self._events.append(Event(**item))
                    self._changed.notify_all()
