"""Reliable datagrams as RDS has them: to any address, each delivered once and in order, connections come and go below.

Read first: Linux Documentation/networking/rds.rst. Pure like `rdma.session`: events and time in, requests out. Each
sender has one connection per destination; datagrams are numbered per destination and kept until the receiver has
acknowledged them by message. A connection begins with the sender's name in the REQ (a number that no other endpoint and
no earlier life of this one has); the REP has the receiver's name and the number that it wants next: older ones are
done, the rest goes again. A receiver of another name, or one that has forgotten the sender, has begun again: what its
old life has not acknowledged is numbered for the new one. A sender that only waits for acknowledgments sends probes,
for what is awaited meets no dead path. Left out: one connection for both directions, congestion maps, RDMA beside the
datagrams, fragments; a receiver sends nothing by itself, so a sender whose host has vanished keeps its place.
"""

from __future__ import annotations

import errno
import struct
from collections import deque
from dataclasses import dataclass, field

from ibbond.errors import Refused
from ibbond.machine import MS
from ibbond.rdma.session import ACK_TIMEOUT, CM_RETRIES, RESPONSE_TIMEOUT, RETRY_COUNT
from ibbond.rdma_cm.events import (
    Accept,
    Connect,
    Destroy,
    Disconnect,
    Listen,
    MakeQueuePair,
    PostWork,
    RdmaCmEvent,
    RdmaKind,
    RdmaRequest,
    Reject,
    ResolveAddress,
    ResolveRoute,
    WorkCompleted,
)
from ibbond.verbs.reliable_verbs import Operation, Receive, Status, Work
from ibbond.wire.cm import RejectReason

DEFAULT_PORT = 18634  # RDS over RDMA CM
MAX_BYTES = 4096  # bytes of one datagram
WINDOW = 32  # datagrams to one destination without an acknowledgment
QUEUED = 1024  # datagrams to one destination that wait
PEERS = 8  # destinations, and as many senders
AGAIN_AFTER = 20 * MS  # from a failed attempt to the next
PROBE_AFTER = 20 * MS  # of waiting for an acknowledgment, and again each time

NUMBER = struct.Struct("!Q")  # before each datagram; alone it is an acknowledgment of all before it
MARK = int.from_bytes(b"dgrm")  # first in REQ and REP: another service has none
HELLO = struct.Struct("!IQ")  # in a REQ: MARK, the sender's name
WELCOME = struct.Struct("!IQQ")  # in a REP: MARK, the number wanted next, the receiver's name
REFUSAL = struct.Struct("!II")  # in a REJ: what it is from, how many senders there are
FULL = int.from_bytes(b"full")
PROBE = b"?"  # shorter than any datagram; of its number in completions there is no datagram
PROBING = (1 << 64) - 1
SLOT = NUMBER.size + MAX_BYTES
OUT = 0  # what is in flight; then room for acknowledgments, then room for what arrives
ACKS = OUT + PEERS * WINDOW * SLOT
IN = ACKS + PEERS * (WINDOW + 1) * NUMBER.size
MEMORY_BYTES = IN + PEERS * (WINDOW + 1) * SLOT


@dataclass(frozen=True, slots=True)
class Arrived:
    """A datagram: `sender` is the name of its endpoint, `address` where that connected from, as text."""

    sender: int
    address: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Restarted:
    """At `at` a destination was found to have begun again; `again` datagrams were numbered for its new life."""

    at: int
    destination: bytes
    again: int


@dataclass(slots=True)
class _Way:
    """To one destination. `in_flight` and `waiting` hold datagrams without an acknowledgment, in order."""

    place: int
    destination: bytes
    id: int = -1
    ready: bool = False
    peer: int | None = None  # the receiver's name
    refusal: str = ""  # why it does not take us
    first: int = 0  # number of the oldest one in flight
    in_flight: deque[bytes] = field(default_factory=deque)
    waiting: deque[bytes] = field(default_factory=deque)
    again_at: int | None = None
    broken_at: int | None = None
    probe_at: int | None = None  # None while a probe is on its way too


@dataclass(slots=True)
class _Source:
    """From one sender. While it has no connection `id` is -1, since `left_at`."""

    place: int
    expected: int = 0
    id: int = -1
    left_at: int = 0
    address: str = ""


@dataclass(slots=True)
class Endpoint:
    """Sends to many and receives from many.

    `name` (64 bits) must differ from every other endpoint's and from earlier lives.

    Each datagram arrives once and in order in one life of its receiver. Twice may come what a receiver took and could
    not acknowledge before it ended (its new life gets it), or before it forgot the sender: of `PEERS` senders and one
    more, the one without a connection for longest is forgotten, and its check for duplicates with it.
    """

    memory: memoryview
    key: int
    name: int
    port: int = DEFAULT_PORT
    arrived: deque[Arrived] = field(default_factory=deque)  # the user takes from the left
    acknowledged: int = 0
    replayed: int = 0  # sent again after a reconnect
    dropped: int = 0  # arrived a second time
    reconnects: list[tuple[int, int]] = field(default_factory=list)  # (broken at, flowing again at), ns
    began_anew: list[Restarted] = field(default_factory=list)
    _next_id: int = 1
    _ways: dict[bytes, _Way] = field(default_factory=dict)
    _sources: dict[int, _Source] = field(default_factory=dict)

    def start(self, now: int) -> list[RdmaRequest]:
        return [Listen(0, self.port)]

    def send(self, now: int, destination: bytes, payload: bytes) -> list[RdmaRequest]:
        """Take one datagram for an IP address. `Refused` with EAGAIN while too many wait, EMSGSIZE when too long."""
        if len(payload) > MAX_BYTES:
            why = f"it has {len(payload)} bytes, at most {MAX_BYTES} fit"
            raise Refused("cannot send a datagram", why=why, fix="Split it", code=errno.EMSGSIZE)
        way = self._ways.get(destination)
        requests: list[RdmaRequest] = []
        if way is None:
            if len(self._ways) == PEERS:
                raise Refused(
                    "cannot add a destination", why=f"the endpoint already has {PEERS}", fix="Use another endpoint"
                )
            way = self._ways[destination] = _Way(len(self._ways), destination)
            requests += self._resolve(way)
        if len(way.waiting) == QUEUED:
            raise Refused(
                "cannot send a datagram",
                why=f"{QUEUED} are waiting for this destination",
                fix="Send later",
                code=errno.EAGAIN,
            )
        way.waiting.append(payload)
        return requests + self._pump(now, way)

    @property
    def unacknowledged(self) -> int:
        return sum(len(way.in_flight) + len(way.waiting) for way in self._ways.values())

    @property
    def refusals(self) -> dict[bytes, str]:
        """The destinations that do not take us now, and why; we go on asking them."""
        return {way.destination: way.refusal for way in self._ways.values() if way.refusal}

    def tick(self, now: int) -> list[RdmaRequest]:
        requests: list[RdmaRequest] = []
        for way in self._ways.values():
            if way.again_at is not None and way.again_at <= now:
                way.again_at = None
                requests += self._resolve(way)
            if way.probe_at is not None and way.probe_at <= now:
                way.probe_at = None
                requests.append(PostWork(way.id, Work(PROBING, Operation.SEND, inline=PROBE)))
        return requests

    def deadline(self) -> int | None:
        waits = (at for way in self._ways.values() for at in (way.again_at, way.probe_at) if at is not None)
        return min(waits, default=None)

    def on_event(self, now: int, event: RdmaCmEvent | WorkCompleted) -> list[RdmaRequest]:
        if isinstance(event, RdmaCmEvent) and event.kind is RdmaKind.CONNECT_REQUEST:
            return self._requested(now, event)
        for way in self._ways.values():
            if way.id == event.id:
                return self._of_way(now, way, event)
        for source in self._sources.values():
            if source.id == event.id:
                return self._of_source(now, source, event)
        return []

    # --- sending

    def _resolve(self, way: _Way) -> list[RdmaRequest]:
        way.id = self._next_id
        self._next_id += 1
        return [ResolveAddress(way.id, way.destination, self.port, timeout_ms=1000)]

    def _of_way(self, now: int, way: _Way, event: RdmaCmEvent | WorkCompleted) -> list[RdmaRequest]:
        if isinstance(event, WorkCompleted):
            done = event.completion
            if done.status is not Status.SUCCESS:
                return self._broken(now, way)
            if done.operation is Operation.RECEIVE:
                return self._acknowledged(now, way, done.number)
            if done.number == PROBING:
                self._await(now, way)
            return []
        match event.kind:
            case RdmaKind.ADDR_RESOLVED:
                return [ResolveRoute(way.id, timeout_ms=1000)]
            case RdmaKind.ROUTE_RESOLVED:
                connect = Connect(
                    way.id,
                    HELLO.pack(MARK, self.name),
                    retry_count=RETRY_COUNT,
                    ack_timeout=ACK_TIMEOUT,
                    response_timeout=RESPONSE_TIMEOUT,
                    cm_retries=CM_RETRIES,
                )
                return [MakeQueuePair(way.id), *(self._ack_room(way, slot) for slot in range(WINDOW + 1)), connect]
            case RdmaKind.ESTABLISHED:
                welcome = _marked(WELCOME, event.private)
                if welcome is not None:
                    return self._flowing(now, way, *welcome)
                way.refusal = "it speaks another protocol"
                return self._broken(now, way)
            case RdmaKind.REJECTED:
                way.refusal = _why(event)
                return self._broken(now, way)
            case _:
                way.refusal = ""
                return self._broken(now, way)

    def _broken(self, now: int, way: _Way) -> list[RdmaRequest]:
        """Drop the connection, or the attempt at one; a connection that flowed is tried again at once."""
        gone: list[RdmaRequest] = [Disconnect(way.id), Destroy(way.id)]
        way.probe_at = None
        if way.ready:
            way.ready, way.broken_at = False, now
            return gone + self._resolve(way)
        way.id, way.again_at = -1, now + AGAIN_AFTER
        return gone

    def _flowing(self, now: int, way: _Way, wanted: int, peer: int) -> list[RdmaRequest]:
        """The receiver wants this number next: what is older has arrived, the rest goes again."""
        restarted = way.peer not in (None, peer) or not way.first <= wanted <= way.first + len(way.in_flight)
        if restarted:
            self.began_anew.append(Restarted(now, way.destination, len(way.in_flight)))
            way.first = wanted
        self._forget(way, wanted)
        way.ready, way.peer, way.refusal = True, peer, ""
        if way.broken_at is not None:
            self.reconnects.append((way.broken_at, now))
            way.broken_at = None
        self.replayed += len(way.in_flight)
        again = [self._post(way, way.first + at, payload) for at, payload in enumerate(way.in_flight)]
        self._await(now, way)
        return [*again, *self._pump(now, way)]

    def _pump(self, now: int, way: _Way) -> list[RdmaRequest]:
        requests: list[RdmaRequest] = []
        while way.ready and way.waiting and len(way.in_flight) < WINDOW:
            if not way.in_flight:
                way.probe_at = now + PROBE_AFTER
            way.in_flight.append(way.waiting.popleft())
            requests.append(self._post(way, way.first + len(way.in_flight) - 1, way.in_flight[-1]))
        return requests

    def _await(self, now: int, way: _Way) -> None:
        """The next probe is sent after a silence, if anything is expected."""
        way.probe_at = now + PROBE_AFTER if way.in_flight else None

    def _post(self, way: _Way, number: int, payload: bytes) -> RdmaRequest:
        raw = NUMBER.pack(number) + payload
        at = OUT + (way.place * WINDOW + number % WINDOW) * SLOT
        self.memory[at : at + len(raw)] = raw
        return PostWork(way.id, Work(number, Operation.SEND, self.key, at, len(raw)))

    def _ack_room(self, way: _Way, slot: int) -> RdmaRequest:
        return PostWork(way.id, Receive(slot, self.key, self._ack_at(way, slot), NUMBER.size))

    def _ack_at(self, way: _Way, slot: int) -> int:
        return ACKS + (way.place * (WINDOW + 1) + slot) * NUMBER.size

    def _acknowledged(self, now: int, way: _Way, slot: int) -> list[RdmaRequest]:
        self._forget(way, NUMBER.unpack_from(self.memory, self._ack_at(way, slot))[0])
        self._await(now, way)
        return [self._ack_room(way, slot), *self._pump(now, way)]

    def _forget(self, way: _Way, wanted: int) -> None:
        while way.in_flight and way.first < wanted:
            way.in_flight.popleft()
            way.first += 1
            self.acknowledged += 1

    # --- receiving

    def _requested(self, now: int, event: RdmaCmEvent) -> list[RdmaRequest]:
        """A sender connects, perhaps again: then its older connection has ended and is disregarded."""
        hello = _marked(HELLO, event.private)
        if hello is None:
            return [Reject(event.id), Destroy(event.id)]
        (name,) = hello
        source = self._sources.get(name)
        if source is None:
            place = self._free_place()
            if place is None:
                return [Reject(event.id, REFUSAL.pack(FULL, PEERS)), Destroy(event.id)]
            source = self._sources[name] = _Source(place)
        gone: list[RdmaRequest] = [] if source.id < 0 else [Disconnect(source.id), Destroy(source.id)]
        source.id, source.address = event.id, event.detail
        room = (self._room(source, slot) for slot in range(WINDOW + 1))
        welcome = WELCOME.pack(MARK, source.expected, self.name)
        return [*gone, MakeQueuePair(event.id), *room, Accept(event.id, welcome)]

    def _free_place(self) -> int | None:
        """For one sender more: a new one, or that of the sender who has been away for longest; None without any."""
        if len(self._sources) < PEERS:
            return len(self._sources)
        away = {name: source.left_at for name, source in self._sources.items() if source.id < 0}
        return self._sources.pop(min(away, key=away.__getitem__)).place if away else None

    def _of_source(self, now: int, source: _Source, event: RdmaCmEvent | WorkCompleted) -> list[RdmaRequest]:
        if isinstance(event, RdmaCmEvent):
            return [] if event.kind is RdmaKind.ESTABLISHED else self._leave(now, source)
        done = event.completion
        if done.status is not Status.SUCCESS:
            return self._leave(now, source)
        return self._took(now, source, done.number, done.length) if done.operation is Operation.RECEIVE else []

    def _leave(self, now: int, source: _Source) -> list[RdmaRequest]:
        """The sender will come back; what it wants to know then is `expected`."""
        over, source.id, source.left_at = source.id, -1, now
        return [Disconnect(over), Destroy(over)]

    def _took(self, now: int, source: _Source, slot: int, length: int) -> list[RdmaRequest]:
        at = self._room_at(source, slot)
        if length == len(PROBE):
            return [self._room(source, slot)]
        if length < NUMBER.size:
            return self._leave(now, source)
        (number,) = NUMBER.unpack_from(self.memory, at)
        if number > source.expected:
            return self._leave(now, source)  # a gap: never acknowledge what did not come
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


def _marked(layout: struct.Struct, private: bytes) -> tuple[int, ...] | None:
    """What follows the mark; None in private data that are not ours."""
    if len(private) < layout.size:
        return None
    mark, *numbers = layout.unpack_from(private)
    return tuple(numbers) if mark == MARK else None


def _why(event: RdmaCmEvent) -> str:
    """In words, why a connection was rejected."""
    if event.status == RejectReason.CONSUMER and len(event.private) >= REFUSAL.size:
        kind, senders = REFUSAL.unpack_from(event.private)
        if kind == FULL:
            return f"it already has {senders} senders and accepts no more"
    if event.status == RejectReason.INVALID_SERVICE_ID:
        return "no program accepts datagrams there"
    return f"the connection was rejected, reason {event.status}"
