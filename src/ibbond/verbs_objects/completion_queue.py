"""A completion queue: completed work goes into the program's ring, and wakes the program if it asked for that.

Read first: InfiniBand Architecture volume 1, 11.2.8 (completion queues) and 11.4.2.2 (request notification). A
notification is asked for once and given once. A queue that overruns stays in error.
"""

from __future__ import annotations

from typing import Protocol

from ibbond.wire.rxe import Ring
from ibbond.wire.uverbs import AsyncEvent

ANY, SOLICITED = 1, 2


class EventSink(Protocol):
    """How a program is notified of events; what it does not read may be lost."""

    def completion(self, channel: int, user: int) -> bool:
        """An event for a completion channel; whether there was room for it."""
        ...

    def asynchronous(self, element: int, kind: AsyncEvent) -> bool: ...

    def retract_completions(self, channel: int, user: int) -> int:
        """Take back the events of this queue that are not read; how many."""
        ...

    def retract_asynchronous(self, element: int) -> int:
        """The same for a CQ, QP or SRQ."""
        ...


class CompletionQueue:
    """`user` is the program's own number of it, `channel` a descriptor of the program or -1."""

    __slots__ = (
        "_armed",
        "_outlet",
        "channel",
        "completion_events",
        "events",
        "failed",
        "offset",
        "ring",
        "user",
        "users",
    )

    def __init__(self, ring: Ring, offset: int, user: int, channel: int, outlet: EventSink) -> None:
        self.ring = ring
        self.offset = offset
        self.user = user
        self.channel = channel
        self.completion_events = self.events = 0  # that were written for it
        self.users = 0  # queue pairs
        self.failed = False
        self._armed = 0
        self._outlet = outlet

    def notify(self, *, solicited_only: bool) -> None:
        """Notify of the next completion; a request for any is not narrowed by one for solicited ones."""
        if self._armed != ANY:
            self._armed = SOLICITED if solicited_only else ANY

    def push(self, completion: bytes, *, urgent: bool = False) -> bool:
        """Whether there was room for a packed `WorkCompletion`. If not, the queue is in error, which is an event.

        `urgent`: it ends a solicited message or reports a failure, which a request for solicited ones waits for.
        """
        if self.failed or not self.ring.produce(completion):
            if not self.failed:
                self.failed = True
                self.events += self._outlet.asynchronous(self.user, AsyncEvent.CQ_ERR)
            return False
        if self._armed == ANY or (self._armed == SOLICITED and urgent):
            self._armed = 0
            if self.channel >= 0:
                self.completion_events += self._outlet.completion(self.channel, self.user)
        return True

    def reported(self) -> tuple[int, int]:
        """At its end: how many events of both kinds the program has read."""
        if self.channel >= 0:
            self.completion_events -= self._outlet.retract_completions(self.channel, self.user)
        self.events -= self._outlet.retract_asynchronous(self.user)
        return self.completion_events, self.events
