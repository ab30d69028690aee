"""The initiator of a block session: numbered writes, reconnect and replay after a break, and the target read back.

Read first: `rdma.session`. One that only waits sends NOP-Out (RFC 7143, 11.18): what is sent meets a dead path, what
is awaited does not. A session that its target has forgotten ends: there is no target to replay to.
"""

from __future__ import annotations

import zlib
from collections import deque
from dataclasses import dataclass, field

from ibbond.machine import MS, earliest
from ibbond.rdma.session import (
    ACK_TIMEOUT,
    AGAIN_AFTER,
    ANSWERS,
    BLOCK,
    BUSY,
    BUSY_FOR,
    CM_RETRIES,
    COUNTS,
    DATA,
    DEPTH,
    DISK,
    HELLO,
    LOGGED_IN,
    LOGIN,
    MARK,
    MEMORY_BYTES,
    MESSAGE,
    MESSAGE_BYTES,
    NOP,
    NOP_AFTER,
    RESPONSE_TIMEOUT,
    RETRY_COUNT,
    SERVICE_PORT,
    WRITE,
    WRITTEN,
    compare,
    content,
    named,
)
from ibbond.rdma_cm.events import (
    Connect,
    Destroy,
    Disconnect,
    MakeQueuePair,
    PostWork,
    RdmaCmEvent,
    RdmaKind,
    RdmaRequest,
    ResolveAddress,
    ResolveRoute,
    WorkCompleted,
)
from ibbond.verbs.reliable_verbs import Completion, Operation, Receive, Status, Work


@dataclass(slots=True)
class Recovery:
    """One break and its repair; times are ns of the caller's clock."""

    sign: str  # what revealed the failure
    seen_at: int
    addr_change_at: int | None = None
    error_at: int | None = None
    resolved_at: int | None = None
    reconnected_at: int | None = None
    first_io_at: int | None = None
    attempts: int = 0


@dataclass(slots=True)
class Initiator:
    """Writes every `spacing_ns` while `writing`; after `finish` reads the target's disk and ledger and compares.

    `name` (64 bits) must differ from every other initiator's and from earlier lives. `heed_address_change` off waits
    for the transport's own error, as a program without ADDR_CHANGE would. Until the target was read back (`verified`)
    `lost` and `doubled` are unknown: None. `lost` are writes that the ledger lacks and blocks that do not hold
    what was written to them last. `over` says why the session cannot come back; then nothing more is asked for.
    """

    memory: memoryview
    key: int
    target: bytes
    name: int
    spacing_ns: int = MS
    heed_address_change: bool = True
    writing: bool = True
    verified: bool = False
    over: str = ""
    lost: int | None = None
    doubled: int | None = None
    issued: int = 0
    completed: int = 0
    recoveries: list[Recovery] = field(default_factory=list)
    silences: list[tuple[int, int]] = field(default_factory=list)  # the longer times without an answered write
    answered_at: int = 0  # the last one
    _id: int = -1
    _ready: bool = False
    _reading: bool = False
    _remote_key: int = 0
    _open: deque[int] = field(default_factory=deque)  # numbers without an answer, in order
    _next_at: int = 0
    _again_at: int | None = None
    _nop_at: int | None = None  # while connected
    _recovery: Recovery | None = None
    _moved: tuple[int, int] | None = None  # at an ADDR_CHANGE not heeded, and the first write to be sent after it
    _written: int = 0  # writes that the target may have executed
    _busy_since: int | None = None

    def __post_init__(self) -> None:
        assert self.spacing_ns > 0, "otherwise the write that is due would be due forever"

    def start(self, now: int) -> list[RdmaRequest]:
        self._next_at = now
        return self._resolve()

    def finish(self) -> None:
        """No new writes; once all are answered the target is read back."""
        self.writing = False

    @property
    def unrecovered(self) -> int:
        """Breaks after which nothing more was written or read."""
        return sum(each.first_io_at is None for each in self.recoveries)

    def on_event(self, now: int, event: RdmaCmEvent | WorkCompleted) -> list[RdmaRequest]:
        if event.id != self._id or self.over:
            return []
        if isinstance(event, WorkCompleted):
            return self._work_over(now, event.completion)
        recovery = self._recovery
        match event.kind:
            case RdmaKind.ADDR_RESOLVED:
                if recovery is not None:
                    recovery.resolved_at = now
                return [ResolveRoute(self._id, timeout_ms=1000)]
            case RdmaKind.ROUTE_RESOLVED:
                return [
                    MakeQueuePair(self._id),
                    *(self._receive(slot) for slot in range(2 * DEPTH)),
                    Connect(
                        self._id,
                        HELLO.pack(MARK, self.name),
                        retry_count=RETRY_COUNT,
                        ack_timeout=ACK_TIMEOUT,
                        response_timeout=RESPONSE_TIMEOUT,
                        cm_retries=CM_RETRIES,
                    ),
                ]
            case RdmaKind.ESTABLISHED if named(event.private) != self.name:
                return self._end("the target speaks another protocol")
            case RdmaKind.ESTABLISHED:
                if recovery is not None:
                    recovery.reconnected_at = now
                self._nop_at = now + NOP_AFTER
                return [self._message(LOGIN, 0, key=self.key)]
            case RdmaKind.ADDR_CHANGE:
                return self._broken(now, "ADDR_CHANGE") if self.heed_address_change else self._ignore(now)
            case RdmaKind.REJECTED if event.private.startswith(BUSY):
                return self._busy(now)
            case _:
                return self._broken(now, event.kind.name)

    def tick(self, now: int) -> list[RdmaRequest]:
        requests: list[RdmaRequest] = []
        if self.over:
            return requests
        if self._again_at is not None and self._again_at <= now:
            self._again_at = None
            requests += self._resolve()
        while self.writing and self._next_at <= now:
            self._next_at += self.spacing_ns
            if len(self._open) < DEPTH:
                number = self.issued
                self.issued += 1
                self._open.append(number)
                if self._ready:
                    requests.append(self._write(number))
        if self._nop_at is not None and self._nop_at <= now:
            self._nop_at = now + NOP_AFTER
            if self._open or not self._ready:
                requests.append(self._message(NOP, 0))
        return requests + self._read_back()

    def deadline(self) -> int | None:
        if self.over:
            return None
        return earliest(self._again_at, self._nop_at, self._next_at if self.writing else None)

    # --- inside

    def _resolve(self) -> list[RdmaRequest]:
        self._id += 1
        if self._recovery is not None:
            self._recovery.attempts += 1
        return [ResolveAddress(self._id, self.target, SERVICE_PORT, timeout_ms=1000)]

    def _ignore(self, now: int) -> list[RdmaRequest]:
        """The address has changed. At a failover the connection is dead; at a failback it continues."""
        if self._recovery is None:
            self._moved = now, self._written
        elif self._recovery.addr_change_at is None:
            self._recovery.addr_change_at = now
        return []

    def _broken(self, now: int, sign: str) -> list[RdmaRequest]:
        """The connection, or an attempt at one, has ended: drop it and resolve the same IP address again."""
        first = self._recovery is None
        if first:
            self._recovery = Recovery(sign, now, error_at=now)
            self.recoveries.append(self._recovery)
            if sign == "ADDR_CHANGE":
                self._recovery.addr_change_at = now
            elif self._moved is not None:
                self._recovery.addr_change_at, _ = self._moved
            self._moved = None
        self._ready = self._reading = False
        self._nop_at = None
        gone: list[RdmaRequest] = [Disconnect(self._id), Destroy(self._id)]
        if first:
            return gone + self._resolve()
        self._again_at = now + AGAIN_AFTER
        self._id += 1  # of the dropped one no more events come
        return gone

    def _busy(self, now: int) -> list[RdmaRequest]:
        """The target serves another session, and finds out now whether that one is still there."""
        if self._busy_since is None:
            self._busy_since = now
        if now - self._busy_since > BUSY_FOR:
            return self._end("the target serves another session")
        return self._broken(now, "REJECTED")

    def _end(self, why: str) -> list[RdmaRequest]:
        self.over, self._ready, self._nop_at, self._again_at = why, False, None, None
        return [Disconnect(self._id), Destroy(self._id)]

    def _work_over(self, now: int, done: Completion) -> list[RdmaRequest]:
        if done.status is not Status.SUCCESS:
            return self._broken(now, done.status.name)
        if done.operation is Operation.READ and self._reading and done.number == COUNTS:
            self.lost, self.doubled = compare(self.memory, self.completed)
            self.verified = True
            self._works(now)
        if done.operation is not Operation.RECEIVE:
            return []
        self._nop_at = now + NOP_AFTER
        slot = done.number
        kind, key, number, _, _, _, _ = MESSAGE.unpack_from(self.memory, ANSWERS + slot * MESSAGE_BYTES)
        requests: list[RdmaRequest] = [self._receive(slot)]
        if kind == LOGGED_IN:
            if not self.completed <= number <= self._written:
                return self._end("the target has restarted with another ledger")
            self._ready, self._remote_key, self._busy_since = True, key, None
            while self._open and self._open[0] < number:
                self._complete(now)  # executed, only the answer was lost
            requests += [self._write(each) for each in self._open]
        elif kind == WRITTEN and self._open and self._open[0] == number:
            self._complete(now)
            self._works(now)
            if self._moved is not None and number >= self._moved[1]:
                self._moved = None  # sent after the ADDR_CHANGE and answered: it broke nothing
        return requests + self._read_back()

    def _works(self, now: int) -> None:
        """A write is answered or the target read back: where the session had broken, it is repaired."""
        if self._recovery is not None and self._recovery.reconnected_at is not None:
            self._recovery.first_io_at, self._recovery = now, None

    def _complete(self, now: int) -> None:
        """The oldest write is answered."""
        self._open.popleft()
        self.completed += 1
        if self.answered_at and now - self.answered_at > 1.5 * self.spacing_ns:
            self.silences.append((self.answered_at, now))
        self.answered_at = now

    def _write(self, number: int) -> RdmaRequest:
        self._written = max(self._written, number + 1)
        data = content(number)
        offset = DATA + number % DEPTH * BLOCK
        self.memory[offset : offset + BLOCK] = data
        return self._message(WRITE, number, key=self.key, offset=offset, length=BLOCK, crc=zlib.crc32(data))

    def _message(
        self, kind: int, number: int, *, key: int = 0, offset: int = 0, length: int = 0, crc: int = 0
    ) -> PostWork:
        raw = MESSAGE.pack(kind, key, number, offset, length, crc, 0)
        return PostWork(self._id, Work(number, Operation.SEND, inline=raw))

    def _receive(self, slot: int) -> PostWork:
        return PostWork(self._id, Receive(slot, self.key, ANSWERS + slot * MESSAGE_BYTES, MESSAGE_BYTES))

    def _read_back(self) -> list[RdmaRequest]:
        """The disk and the ledger of the target, read by RDMA without asking it, in pieces of 64 KiB."""
        if self.writing or self._open or not self._ready or self._reading or self.verified:
            return []
        self._reading = True
        piece = 1 << 16
        starts = [*range(DISK, COUNTS, piece), *range(COUNTS + piece, MEMORY_BYTES, piece), COUNTS]  # which ends it
        return [
            PostWork(self._id, Work(at, Operation.READ, self.key, at, piece, self._remote_key, at)) for at in starts
        ]
