"""A block session as iSER has it: log in, numbered writes whose data the target reads by RDMA, reconnect and replay.

Read first: RFC 7145 (iSER) for the exchange, docs/rdma.md for what happens at a failover. Both ends are pure: news and
time go in, requests of `stack.rdma_events` come out, so the simulator and separate processes run the same code. Each
write carries its number; the target executes in order, keeps next to the disk a ledger of what it has executed, and
says at log-in which number it wants next. Writes have no end: disk and ledger are written round and round. An initiator
that only waits sends NOP-Out (RFC 7143, 11.18): what is sent meets a dead path, what is awaited does not. Left out:
SCSI, several connections in a session, authentication, a target that begins anew (its disk is another one: the session
does not come back), the 56 bytes that a REQ has left for the program.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections import deque
from dataclasses import dataclass, field

from ibbond.fabric.reliable_verbs import Operation, Receive, Status, Work
from ibbond.machine import MS
from ibbond.stack.rdma_events import (
    Accept,
    Connect,
    Destroy,
    Disconnect,
    Listen,
    MakeQueuePair,
    PostWork,
    RdmaKind,
    RdmaNews,
    RdmaRequest,
    ResolveAddress,
    ResolveRoute,
    WorkOver,
)

SERVICE_PORT = 3260
DEPTH = 16  # writes that may be under way
BLOCK = 512
BLOCKS = 4096
LEDGER = 1 << 14  # entries of the ledger: a write is counted in the one that its number leaves as remainder
ENTRY = struct.Struct("!QQ")  # how many writes were executed, and the sum of their numbers
SUM_MASK = (1 << 64) - 1
MESSAGE = struct.Struct("!IIQIIII")  # kind, key, number, offset, length, crc, extra
MESSAGE_BYTES = 64
LOGIN, LOGGED_IN, WRITE, WRITTEN, NOP = range(1, 6)

COMMANDS = 0  # where things are in the memory of both
ANSWERS = COMMANDS + 2 * DEPTH * MESSAGE_BYTES
DATA = ANSWERS + 2 * DEPTH * MESSAGE_BYTES
DISK = DATA + DEPTH * BLOCK
COUNTS = DISK + BLOCKS * BLOCK
MEMORY_BYTES = COUNTS + LEDGER * ENTRY.size

ACK_TIMEOUT = (
    11  # 8.4 ms; six times without an acknowledgment is 50 ms, which leaves as much for waiting and connecting
)
RETRY_COUNT = 5
RESPONSE_TIMEOUT = 13  # 34 ms until a connection request is repeated
CM_RETRIES = 3
NOP_AFTER = 20 * MS  # of waiting for the target, and again each time
AGAIN_AFTER = 5 * MS  # from a failed attempt to the next


def content(number: int) -> bytes:
    """The 512 bytes of a write: no two are the same."""
    return hashlib.shake_128(number.to_bytes(8)).digest(BLOCK)


def entry_at(number: int) -> int:
    """Where the ledger's entry for a write is in memory."""
    return COUNTS + number % LEDGER * ENTRY.size


def due_entry(index: int, writes: int) -> tuple[int, int]:
    """What an entry of the ledger holds when the first `writes` writes were executed once each."""
    count = len(range(index, writes, LEDGER))
    return count, (count * index + LEDGER * (count * (count - 1) // 2)) & SUM_MASK


@dataclass(slots=True)
class Recovery:
    """One break and its repair; times are ns of the caller's clock."""

    sign: str  # what told us
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

    `heed_address_change` off waits for the transport's own error, as a program without ADDR_CHANGE would. Until the
    target was read back (`verified`) nobody knows what is `lost` or `doubled`: None. `lost` are writes that the ledger
    lacks and blocks that do not hold what was written to them last.
    """

    memory: memoryview
    key: int
    target: bytes
    spacing_ns: int = MS
    heed_address_change: bool = True
    writing: bool = True
    verified: bool = False
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
    _slot: int = 0

    def start(self, now: int) -> list[RdmaRequest]:
        self._next_at = now
        return self._resolve()

    def finish(self) -> None:
        """No new writes; once all are answered the target is read back."""
        self.writing = False

    @property
    def unrecovered(self) -> int:
        """Breaks after which nothing was written or read any more."""
        return sum(bool(each.sign) and each.first_io_at is None for each in self.recoveries)

    def hear(self, now: int, news: RdmaNews | WorkOver) -> list[RdmaRequest]:
        if news.id != self._id:
            return []
        if isinstance(news, WorkOver):
            return self._over(now, news)
        recovery = self._recovery
        match news.kind:
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
                        retry_count=RETRY_COUNT,
                        ack_timeout=ACK_TIMEOUT,
                        response_timeout=RESPONSE_TIMEOUT,
                        cm_retries=CM_RETRIES,
                    ),
                ]
            case RdmaKind.ESTABLISHED:
                if recovery is not None:
                    recovery.reconnected_at = now
                self._nop_at = now + NOP_AFTER
                return [self._message(LOGIN, 0, key=self.key)]
            case RdmaKind.ADDR_CHANGE:
                if not self.heed_address_change:
                    self._sign(now, "").addr_change_at = now
                    return []
                return self._broken(now, "ADDR_CHANGE")
            case _:
                return self._broken(now, news.kind.name)

    def tick(self, now: int) -> list[RdmaRequest]:
        requests: list[RdmaRequest] = []
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
        waits = [self._again_at, self._nop_at, self._next_at if self.writing else None]
        return min((at for at in waits if at is not None), default=None)

    # --- inside

    def _resolve(self) -> list[RdmaRequest]:
        self._id += 1
        if self._recovery is not None:
            self._recovery.attempts += 1
        return [ResolveAddress(self._id, self.target, SERVICE_PORT, timeout_ms=1000)]

    def _sign(self, now: int, sign: str) -> Recovery:
        if self._recovery is None:
            self._recovery = Recovery(sign, now)
            self.recoveries.append(self._recovery)
        self._recovery.sign = self._recovery.sign or sign
        return self._recovery

    def _broken(self, now: int, sign: str) -> list[RdmaRequest]:
        """The connection is over, or an attempt at one: drop it and resolve the same IP address again."""
        if self._again_at is not None:
            return []
        first = self._recovery is None or not self._recovery.sign
        recovery = self._sign(now, sign)
        if first:
            recovery.error_at = now
            if sign == "ADDR_CHANGE":
                recovery.addr_change_at = now
        self._ready = self._reading = False
        self._nop_at = None
        gone: list[RdmaRequest] = [Disconnect(self._id), Destroy(self._id)]
        if first:
            return gone + self._resolve()
        self._again_at = now + AGAIN_AFTER
        self._id += 1  # of the dropped one nothing more is heard
        return gone

    def _over(self, now: int, over: WorkOver) -> list[RdmaRequest]:
        done = over.completion
        if done.status is not Status.SUCCESS:
            return self._broken(now, done.status.name)
        if done.operation is Operation.READ and self._reading and done.number == COUNTS:
            self._compare()
            self._works(now)
        if done.operation is not Operation.RECEIVE:
            return []
        self._nop_at = now + NOP_AFTER
        slot = done.number
        kind, key, number, _, _, _, _ = MESSAGE.unpack_from(self.memory, ANSWERS + slot * MESSAGE_BYTES)
        requests: list[RdmaRequest] = [self._receive(slot)]
        if kind == LOGGED_IN:
            self._ready, self._remote_key = True, key
            while self._open and self._open[0] < number:
                self._complete(now)  # executed, only the answer was lost
            requests += [self._write(each) for each in self._open]
        elif kind == WRITTEN and self._open and self._open[0] == number:
            self._complete(now)
            self._works(now)
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
        starts = [*range(DISK, COUNTS, piece), *range(COUNTS, MEMORY_BYTES, piece)]
        starts = starts[: BLOCKS * BLOCK // piece] + starts[: BLOCKS * BLOCK // piece - 1 : -1]  # COUNTS comes last
        return [
            PostWork(self._id, Work(at, Operation.READ, self.key, at, piece, self._remote_key, at)) for at in starts
        ]

    def _compare(self) -> None:
        """Each block against the last write to it, each entry of the ledger against the writes that it counts."""
        lost = doubled = 0
        for number in range(max(0, self.completed - BLOCKS), self.completed):
            at = DISK + number % BLOCKS * BLOCK
            lost += self.memory[at : at + BLOCK] != content(number)
        for index in range(LEDGER):
            count, total = ENTRY.unpack_from(self.memory, entry_at(index))
            due, due_total = due_entry(index, self.completed)
            exchanged = int(count == due and total != due_total)  # one is missing and another was done twice
            lost += max(0, due - count) + exchanged
            doubled += max(0, count - due) + exchanged
        self.lost, self.doubled, self.verified = lost, doubled, True


@dataclass(slots=True)
class _Login:
    """One connection of the initiator at the target."""

    id: int
    ready: bool = False
    waiting: deque[tuple[int, int, int, int, int]] = field(default_factory=deque)  # number, key, offset, crc, slot


@dataclass(slots=True)
class Target:
    """Executes writes in the order of their numbers, each once: fetches the data by RDMA READ, then stores them."""

    memory: memoryview
    key: int
    expected: int = 0  # the next number to execute
    _login: _Login | None = None

    def start(self, now: int) -> list[RdmaRequest]:
        return [Listen(0, SERVICE_PORT)]

    def tick(self, now: int) -> list[RdmaRequest]:
        return []

    def deadline(self) -> int | None:
        return None

    def hear(self, now: int, news: RdmaNews | WorkOver) -> list[RdmaRequest]:
        login = self._login
        if isinstance(news, RdmaNews) and news.kind is RdmaKind.CONNECT_REQUEST:
            gone: list[RdmaRequest] = [] if login is None else [Disconnect(login.id), Destroy(login.id)]
            self._login = _Login(news.id)  # a session has one connection: the newest
            return [
                *gone,
                MakeQueuePair(news.id),
                *(self._receive(news.id, slot) for slot in range(2 * DEPTH)),
                Accept(news.id),
            ]
        if login is None or news.id != login.id:
            return []
        if isinstance(news, RdmaNews):
            if news.kind is RdmaKind.ESTABLISHED:
                return []
            return self._drop(login)
        done = news.completion
        if done.status is not Status.SUCCESS:
            return self._drop(login)
        if done.operation is Operation.RECEIVE:
            return self._command(login, done.number)
        if done.operation is Operation.READ:
            return self._fetched(login, done.number)
        return []

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
        at = DISK + number % BLOCKS * BLOCK
        self.memory[at : at + BLOCK] = staged
        count, total = ENTRY.unpack_from(self.memory, entry_at(number))
        ENTRY.pack_into(self.memory, entry_at(number), count + 1, total + number & SUM_MASK)
        self.expected += 1
        return [self._receive(login.id, slot), self._answer(login, WRITTEN, number)]

    def _answer(self, login: _Login, kind: int, number: int) -> PostWork:
        raw = MESSAGE.pack(kind, self.key, number, 0, 0, 0, 0)
        return PostWork(login.id, Work(number, Operation.SEND, inline=raw))

    def _receive(self, number: int, slot: int) -> PostWork:
        return PostWork(number, Receive(slot, self.key, COMMANDS + slot * MESSAGE_BYTES, MESSAGE_BYTES))
