"""Reliable datagrams as RDS has them: to any address, each delivered once and in order, connections come and go below.

Read first: Linux Documentation/networking/rds.rst. Pure as `rdma.session`: news and time in, requests out. Each sender
has one connection per destination; datagrams are numbered per destination and kept until the receiver has acknowledged
them by message. A connection begins with the sender's name in the REQ (a number that no other sender and no earlier
life of this one has) and the number that the receiver wants next in the REP: older ones are done, the rest goes again.
Left out: one connection for both directions, congestion maps, RDMA beside the datagrams, fragments.
"""

from __future__ import annotations

import errno
import struct
from collections import deque
from dataclasses import dataclass, field

from ibbond.errors import Refused
from ibbond.fabric.reliable_verbs import Operation, Receive, Status, Work
from ibbond.machine import MS
from ibbond.rdma.session import ACK_TIMEOUT, CM_RETRIES, RESPONSE_TIMEOUT, RETRY_COUNT
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
    Reject,
    ResolveAddress,
    ResolveRoute,
    WorkOver,
)

DEFAULT_PORT = 18634  # RDS over RDMA CM
LARGEST = 4096  # bytes of one datagram
WINDOW = 32  # datagrams to one destination without an acknowledgment
QUEUED = 1024  # datagrams to one destination that wait
PEERS = 8  # destinations, and as many senders
AGAIN_AFTER = 20 * MS  # from a failed attempt to the next

NUMBER = struct.Struct("!Q")  # before each datagram; alone it is an acknowledgment of all before it
SLOT = NUMBER.size + LARGEST
OUT = 0  # what is under way; then room for acknowledgments, then room for what arrives
ACKS = OUT + PEERS * WINDOW * SLOT
IN = ACKS + PEERS * (WINDOW + 1) * NUMBER.size
MEMORY_BYTES = IN + PEERS * (WINDOW + 1) * SLOT


@dataclass(frozen=True, slots=True)
class Arrived:
    """A datagram: `sender` is the name of its endpoint, `address` where that connected from, as text."""

    sender: int
    address: str
    payload: bytes


@dataclass(slots=True)
class _Way:
    """To one destination. `under_way` and `waiting` hold datagrams without an acknowledgment, in order."""

    place: int
    destination: bytes
    id: int = -1
    ready: bool = False
    first: int = 0  # number of the oldest one under way
    under_way: deque[bytes] = field(default_factory=deque)
    waiting: deque[bytes] = field(default_factory=deque)
    again_at: int | None = None
    broken_at: int | None = None


@dataclass(slots=True)
class _Source:
    """From one sender."""

    place: int
    expected: int = 0
    id: int = -1
    address: str = ""


@dataclass(slots=True)
class Endpoint:
    """Sends to many and hears many. `name` (64 bits) must differ from every other endpoint's and from earlier lives."""

    memory: memoryview
    key: int
    name: int
    port: int = DEFAULT_PORT
    arrived: deque[Arrived] = field(default_factory=deque)  # the user takes from the left
    acknowledged: int = 0
    replayed: int = 0  # sent again after a reconnect
    dropped: int = 0  # arrived a second time
    reconnects: list[tuple[int, int]] = field(default_factory=list)  # (broken at, flowing again at), ns
    _next_id: int = 1
    _ways: dict[bytes, _Way] = field(default_factory=dict)
    _sources: dict[int, _Source] = field(default_factory=dict)

    def start(self, now: int) -> list[RdmaRequest]:
        return [Listen(0, self.port)]

    def send(self, now: int, destination: bytes, payload: bytes) -> list[RdmaRequest]:
        """Take one datagram for an IP address. `Refused` with EAGAIN while too many wait, EMSGSIZE when too long."""
        if len(payload) > LARGEST:
            why = f"it has {len(payload)} bytes, at most {LARGEST} fit"
            raise Refused("cannot send a datagram", why=why, fix="Split it", code=errno.EMSGSIZE)
        way = self._ways.get(destination)
        requests: list[RdmaRequest] = []
        if way is None:
            if len(self._ways) == PEERS:
                raise Refused("no new destination", why=f"there are {PEERS}", fix="Use another endpoint")
            way = self._ways[destination] = _Way(len(self._ways), destination)
            requests += self._resolve(way)
        if len(way.waiting) == QUEUED:
            raise Refused("cannot send", why=f"{QUEUED} datagrams wait", fix="Send later", code=errno.EAGAIN)
        way.waiting.append(payload)
        return requests + self._pump(way)

    @property
    def unacknowledged(self) -> int:
        return sum(len(way.under_way) + len(way.waiting) for way in self._ways.values())

    def tick(self, now: int) -> list[RdmaRequest]:
        requests: list[RdmaRequest] = []
        for way in self._ways.values():
            if way.again_at is not None and way.again_at <= now:
                way.again_at = None
                requests += self._resolve(way)
        return requests

    def deadline(self) -> int | None:
        return min((way.again_at for way in self._ways.values() if way.again_at is not None), default=None)

    def hear(self, now: int, news: RdmaNews | WorkOver) -> list[RdmaRequest]:
        if isinstance(news, RdmaNews) and news.kind is RdmaKind.CONNECT_REQUEST:
            return self._requested(news)
        for way in self._ways.values():
            if way.id == news.id:
                return self._of_way(now, way, news)
        for source in self._sources.values():
            if source.id == news.id:
                return self._of_source(source, news)
        return []

    # --- sending

    def _resolve(self, way: _Way) -> list[RdmaRequest]:
        way.id = self._next_id
        self._next_id += 1
        return [ResolveAddress(way.id, way.destination, self.port, timeout_ms=1000)]

    def _of_way(self, now: int, way: _Way, news: RdmaNews | WorkOver) -> list[RdmaRequest]:
        if isinstance(news, WorkOver):
            done = news.completion
            if done.status is not Status.SUCCESS:
                return self._broken(now, way)
            return self._acknowledged(way, done.number) if done.operation is Operation.RECEIVE else []
        match news.kind:
            case RdmaKind.ADDR_RESOLVED:
                return [ResolveRoute(way.id, timeout_ms=1000)]
            case RdmaKind.ROUTE_RESOLVED:
                connect = Connect(
                    way.id,
                    NUMBER.pack(self.name),
                    retry_count=RETRY_COUNT,
                    ack_timeout=ACK_TIMEOUT,
                    response_timeout=RESPONSE_TIMEOUT,
                    cm_retries=CM_RETRIES,
                )
                return [MakeQueuePair(way.id), *(self._ack_room(way, slot) for slot in range(WINDOW + 1)), connect]
            case RdmaKind.ESTABLISHED:
                return self._flowing(now, way, NUMBER.unpack_from(news.private)[0])
            case _:
                return self._broken(now, way)

    def _broken(self, now: int, way: _Way) -> list[RdmaRequest]:
        """Drop the connection, or the attempt at one; a connection that flowed is tried again at once."""
        gone: list[RdmaRequest] = [Disconnect(way.id), Destroy(way.id)]
        if way.ready:
            way.ready, way.broken_at = False, now
            return gone + self._resolve(way)
        way.id, way.again_at = -1, now + AGAIN_AFTER
        return gone

    def _flowing(self, now: int, way: _Way, wanted: int) -> list[RdmaRequest]:
        """The receiver wants this number next: what is older has arrived, the rest goes again."""
        self._forget(way, wanted)
        way.ready = True
        if way.broken_at is not None:
            self.reconnects.append((way.broken_at, now))
            way.broken_at = None
        self.replayed += len(way.under_way)
        again = [self._post(way, way.first + at, payload) for at, payload in enumerate(way.under_way)]
        return [*again, *self._pump(way)]

    def _pump(self, way: _Way) -> list[RdmaRequest]:
        requests: list[RdmaRequest] = []
        while way.ready and way.waiting and len(way.under_way) < WINDOW:
            way.under_way.append(way.waiting.popleft())
            requests.append(self._post(way, way.first + len(way.under_way) - 1, way.under_way[-1]))
        return requests

    def _post(self, way: _Way, number: int, payload: bytes) -> RdmaRequest:
        raw = NUMBER.pack(number) + payload
        at = OUT + (way.place * WINDOW + number % WINDOW) * SLOT
        self.memory[at : at + len(raw)] = raw
        return PostWork(way.id, Work(number, Operation.SEND, self.key, at, len(raw)))

    def _ack_room(self, way: _Way, slot: int) -> RdmaRequest:
        return PostWork(way.id, Receive(slot, self.key, self._ack_at(way, slot), NUMBER.size))

    def _ack_at(self, way: _Way, slot: int) -> int:
        return ACKS + (way.place * (WINDOW + 1) + slot) * NUMBER.size

    def _acknowledged(self, way: _Way, slot: int) -> list[RdmaRequest]:
        self._forget(way, NUMBER.unpack_from(self.memory, self._ack_at(way, slot))[0])
        return [self._ack_room(way, slot), *self._pump(way)]

    def _forget(self, way: _Way, wanted: int) -> None:
        while way.under_way and way.first < wanted:
            way.under_way.popleft()
            way.first += 1
            self.acknowledged += 1

    # --- receiving

    def _requested(self, news: RdmaNews) -> list[RdmaRequest]:
        """A sender connects, perhaps again: then its older connection is over, and nothing of that counts any more."""
        (name,) = NUMBER.unpack_from(news.private)
        source = self._sources.get(name)
        if source is None:
            if len(self._sources) == PEERS:
                return [Reject(news.id), Destroy(news.id)]
            source = self._sources[name] = _Source(len(self._sources))
        gone: list[RdmaRequest] = [] if source.id < 0 else [Disconnect(source.id), Destroy(source.id)]
        source.id, source.address = news.id, news.detail
        room = (self._room(source, slot) for slot in range(WINDOW + 1))
        return [*gone, MakeQueuePair(news.id), *room, Accept(news.id, NUMBER.pack(source.expected))]

    def _of_source(self, source: _Source, news: RdmaNews | WorkOver) -> list[RdmaRequest]:
        if isinstance(news, RdmaNews):
            return [] if news.kind is RdmaKind.ESTABLISHED else self._leave(source)
        done = news.completion
        if done.status is not Status.SUCCESS:
            return self._leave(source)
        return self._took(source, done.number, done.length) if done.operation is Operation.RECEIVE else []

    def _leave(self, source: _Source) -> list[RdmaRequest]:
        """The sender will come back; what it wants to know then is `expected`."""
        over, source.id = source.id, -1
        return [Disconnect(over), Destroy(over)]

    def _took(self, source: _Source, slot: int, length: int) -> list[RdmaRequest]:
        at = self._room_at(source, slot)
        if length < NUMBER.size:
            return self._leave(source)
        (number,) = NUMBER.unpack_from(self.memory, at)
        if number > source.expected:
            return self._leave(source)  # a gap: never acknowledge what did not come
        if number < source.expected:
            self.dropped += 1
        else:
            source.expected += 1
            sender = next(name for name, each in self._sources.items() if each is source)
            payload = bytes(self.memory[at + NUMBER.size : at + length])
            self.arrived.append(Arrived(sender, source.address, payload))
        ack = Work(number, Operation.SEND, inline=NUMBER.pack(source.expected))
        return [self._room(source, slot), PostWork(source.id, ack)]

    def _room(self, source: _Source, slot: int) -> RdmaRequest:
        return PostWork(source.id, Receive(slot, self.key, self._room_at(source, slot), SLOT))

    def _room_at(self, source: _Source, slot: int) -> int:
        return IN + (source.place * (WINDOW + 1) + slot) * SLOT
