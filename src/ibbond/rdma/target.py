"""The target of a block session: takes log-ins, and executes writes in the order of their numbers, each once.

Read first: `rdma.session`. It fetches the data of a write by RDMA READ and answers when disk and ledger have it.
"""

from __future__ import annotations

import zlib
from collections import deque
from dataclasses import dataclass, field

from ibbond.rdma.session import (
    BLOCK,
    BUSY,
    COMMANDS,
    COUNTS,
    DATA,
    DEPTH,
    HELLO,
    LOGGED_IN,
    LOGIN,
    MARK,
    MEMORY_BYTES,
    MESSAGE,
    MESSAGE_BYTES,
    NOP,
    SERVICE_PORT,
    WRITE,
    WRITTEN,
    execute,
    named,
)
from ibbond.rdma_cm.events import (
    Accept,
    Destroy,
    Disconnect,
    Listen,
    MakeQueuePair,
    PostWork,
    RdmaCmEvent,
    RdmaKind,
    RdmaRequest,
    Reject,
    WorkCompleted,
)
from ibbond.verbs.reliable_verbs import Operation, Receive, Status, Work


@dataclass(slots=True)
class _Login:
    """One connection of the initiator at the target."""

    id: int
    waiting: deque[tuple[int, int, int, int, int]] = field(default_factory=deque)  # number, key, offset, crc, slot


@dataclass(slots=True)
class Target:
    """Serves one session at a time. `name` is that of its initiator; None before the first."""

    memory: memoryview
    key: int
    name: int | None = None
    expected: int = 0  # the next number to execute
    _login: _Login | None = None

    def start(self, now: int) -> list[RdmaRequest]:
        return [Listen(0, SERVICE_PORT)]

    def tick(self, now: int) -> list[RdmaRequest]:
        return []

    def deadline(self) -> int | None:
        return None

    def on_event(self, now: int, event: RdmaCmEvent | WorkCompleted) -> list[RdmaRequest]:
        login = self._login
        if isinstance(event, RdmaCmEvent) and event.kind is RdmaKind.CONNECT_REQUEST:
            return self._requested(event)
        if login is None or event.id != login.id:
            return []
        if isinstance(event, RdmaCmEvent):
            if event.kind is RdmaKind.ESTABLISHED:
                return []
            return self._drop(login)
        done = event.completion
        if done.status is not Status.SUCCESS:
            return self._drop(login)
        if done.operation is Operation.RECEIVE:
            return self._command(login, done.number)
        if done.operation is Operation.READ:
            return self._fetched(login, done.number)
        return []

    def _requested(self, event: RdmaCmEvent) -> list[RdmaRequest]:
        """The session has one connection, its newest; another session begins only when that has none.

        A NOP-In (RFC 7143, 11.19) finds out whether the session in the way still has a live connection.
        """
        login, name = self._login, named(event.private)
        if name is None:
            return [Reject(event.id), Destroy(event.id)]
        if login is not None and name != self.name:
            return [Reject(event.id, BUSY), Destroy(event.id), self._answer(login, NOP, 0)]
        if name != self.name:
            self.name, self.expected = name, 0
            self.memory[COUNTS:MEMORY_BYTES] = bytes(MEMORY_BYTES - COUNTS)
        gone: list[RdmaRequest] = [] if login is None else [Disconnect(login.id), Destroy(login.id)]
        self._login = _Login(event.id)
        receives = (self._receive(event.id, slot) for slot in range(2 * DEPTH))
        return [*gone, MakeQueuePair(event.id), *receives, Accept(event.id, HELLO.pack(MARK, name))]

    def _drop(self, login: _Login) -> list[RdmaRequest]:
        self._login = None
        return [Disconnect(login.id), Destroy(login.id)]

    def _command(self, login: _Login, slot: int) -> list[RdmaRequest]:
        kind, key, number, offset, length, crc, _ = MESSAGE.unpack_from(self.memory, COMMANDS + slot * MESSAGE_BYTES)
        if kind == LOGIN:
            return [self._receive(login.id, slot), self._answer(login, LOGGED_IN, self.expected)]
        if kind == NOP:
            return [self._receive(login.id, slot)]
        if kind != WRITE or length != BLOCK:
            return self._drop(login)
        login.waiting.append((number, key, offset, crc, slot))
        fetch = Work(number, Operation.READ, self.key, DATA + number % DEPTH * BLOCK, BLOCK, key, offset)
        return [PostWork(login.id, fetch)]

    def _fetched(self, login: _Login, number: int) -> list[RdmaRequest]:
        """The data of a write are here: only now the disk changes, and the number with it."""
        wanted, _, _, crc, slot = login.waiting.popleft()
        staged = self.memory[DATA + number % DEPTH * BLOCK : DATA + number % DEPTH * BLOCK + BLOCK]
        if wanted != number or number != self.expected or zlib.crc32(staged) != crc:
            return self._drop(login)
        execute(self.memory, number, staged)
        self.expected += 1
        return [self._receive(login.id, slot), self._answer(login, WRITTEN, number)]

    def _answer(self, login: _Login, kind: int, number: int) -> PostWork:
        raw = MESSAGE.pack(kind, self.key, number, 0, 0, 0, 0)
        return PostWork(login.id, Work(number, Operation.SEND, inline=raw))

    def _receive(self, number: int, slot: int) -> PostWork:
        return PostWork(number, Receive(slot, self.key, COMMANDS + slot * MESSAGE_BYTES, MESSAGE_BYTES))
