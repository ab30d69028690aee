"""Virtual time: machines that wait, and single things that happen later, in one order.

Read first: `ibbond.machine`, the contract of a machine. Time jumps to the earliest deadline and nothing else moves
it. What is due at one time happens in the order in which it was asked for; machines come before what was put off.
Left out: what ticking a machine means; the owner of the machines passes a function for that.
"""

from __future__ import annotations

from collections.abc import Callable

from ibbond.machine import EventQueue

STORM = 10_000  # this many events at one time are a bug, not a busy world


class VirtualClock:
    """`deadline` and `tick` drive the machines; `later` puts off a call. Nanoseconds, from 0."""

    def __init__(self, deadline: Callable[[], int | None], tick: Callable[[int], None], start: int = 0) -> None:
        self.now = start
        self._deadline = deadline
        self._tick = tick
        self._put_off = EventQueue()

    def later(self, delay: int, action: Callable[[], None]) -> None:
        """Call `action` once `delay` ns from now."""
        self._put_off.call_at(self.now + delay, action)

    def run(self, span: int = 0) -> None:
        """Let `span` ns pass; with 0 only what is due now happens, also what that makes due."""
        end = self.now + span
        at_once = 0
        while True:
            deadline = self._deadline()
            machine_at = deadline if deadline is not None else end + 1
            put_off_at = self._put_off.deadline()
            other_at = put_off_at if put_off_at is not None else end + 1
            at = max(self.now, min(machine_at, other_at))
            if at > end:
                break
            at_once = at_once + 1 if at == self.now else 0
            assert at_once < STORM, f"{STORM} things happened at {self.now} ns: a machine does not move its deadline"
            self.now = at
            if machine_at <= at:
                self._tick(at)
            else:
                self._put_off.run_next()
        self.now = end
