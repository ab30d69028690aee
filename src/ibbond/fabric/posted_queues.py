"""Work that drivers and the Python API post to a queue pair: two lists, and completions as effects."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from ibbond.verbs.reliable_verbs import (
    Arrival,
    Completion,
    Operation,
    PairEvent,
    Receive,
    ReceiveRequest,
    SendRequest,
    Status,
    Work,
    posted,
)
from ibbond.wire.rxe import Sge


class PostedQueues:
    """`verbs.reliable_verbs.Queues` of work requests posted by value; `completed` is called with each completion."""

    __slots__ = ("_completed", "_receives", "waiting")

    def __init__(self, completed: Callable[[Completion], None]) -> None:
        self._completed = completed
        self.waiting: deque[SendRequest] = deque()
        self._receives: deque[ReceiveRequest] = deque()

    def post(self, request: Work | Receive) -> None:
        if isinstance(request, Receive):
            piece = Sge(request.offset, request.length, request.key)
            self._receives.append(ReceiveRequest(request.number, (piece,)))
        else:
            self.waiting.append(posted(request))

    def next_send(self) -> SendRequest | None:
        return self.waiting.popleft() if self.waiting else None

    def next_receive(self) -> ReceiveRequest | None:
        return self._receives.popleft() if self._receives else None

    def left_receives(self) -> Iterator[ReceiveRequest]:
        while self._receives:
            yield self._receives.popleft()

    def sent(self, request: SendRequest, status: Status) -> None:
        if status is not Status.SUCCESS:
            self._completed(Completion(request.number, request.operation, status))
        elif request.signaled:
            self._completed(Completion(request.number, request.operation, status, request.length))

    def received(self, request: ReceiveRequest, status: Status, arrival: Arrival) -> None:
        self._completed(Completion(request.number, Operation.RECEIVE, status, arrival.length))

    def raised(self, event: PairEvent) -> None:
        pass  # users that post by value learn of failures by completions
