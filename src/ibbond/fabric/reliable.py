"""Reliable connections: queue pairs that number, acknowledge and repeat messages, and RDMA into registered memory.

Read first: InfiniBand Architecture volume 1, 9.7 (PSNs, ACK, NAK, timeouts, duplicates) and 10.3.1 (states of a queue
pair). A message crosses the same cables and switches as every other packet; what is lost is repeated by the sender
until (retry count + 1) x timeout have passed, then the queue pair is in error and everything posted is flushed. Left
out: credits, a message split over several paths, PSNs of single packets (a message is acknowledged as a whole), the
timer's spread of up to four times the timeout that the standard lets hardware have.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from ibbond.fabric.packet import Packet, message_packet, packets_of
from ibbond.fabric.port import Port
from ibbond.machine import MS, EventQueue
from ibbond.verbs.reliable_verbs import (
    Completion,
    Kind,
    Nak,
    Operation,
    Peer,
    Receive,
    ReliableMessage,
    Status,
    Work,
)

PSN_MASK = 0xFFFFFF
HALF = 0x800000
WINDOW = 16  # messages on their way at once
QUEUE = 128  # messages that a driver may have posted and not seen through (Linux' IPoIB: ipoib_sendq_size)
RNR_DELAY = 1 * MS
FOR_EVER = 7
DENIALS: dict[int, Status] = {
    Nak.INVALID_REQUEST: Status.REMOTE_INVALID_REQUEST,
    Nak.REMOTE_ACCESS: Status.REMOTE_ACCESS,
    Nak.REMOTE_OPERATION: Status.REMOTE_OPERATION,
}

Buffer = memoryview


class PairState(enum.Enum):
    INIT = enum.auto()
    READY = enum.auto()  # RTR and RTS are one: the peer's numbers are known
    ERROR = enum.auto()


class ProtectionDomain:
    """The memory that the queue pairs of one program may touch: regions by key."""

    def __init__(self) -> None:
        self._regions: dict[int, tuple[Buffer, bool]] = {}
        self._next = 0x1200

    def register(self, memory: Buffer, *, remote: bool) -> int:
        """The key of a region that our own work requests may use, and peers too where `remote`."""
        self._next += 0x100
        self._regions[self._next] = (memory, remote)
        return self._next

    def deregister(self, key: int) -> None:
        self._regions.pop(key, None)

    def find(self, key: int, offset: int, length: int, *, remote: bool) -> Buffer | None:
        """Exactly these bytes; None where the key, the range or the right is wrong. No bytes need no key (9.7.4.1)."""
        if length == 0:
            return Buffer(bytearray())
        memory, shared = self._regions.get(key, (None, False))
        if memory is None or (remote and not shared) or offset < 0 or length < 0 or offset + length > len(memory):
            return None
        return memory[offset : offset + length]


@dataclass(eq=False, slots=True)
class _Sent:
    """A work request that is not over; `psn` is its first number, `packets` how many it uses.

    One whose own memory cannot be read stays at home (`barred`), and all behind it; it fails when its turn comes.
    """

    work: Work
    psn: int
    packets: int
    length: int
    barred: bool = False


@dataclass(eq=False, slots=True)
class ReliablePair:
    qpn: int
    port: Port
    domain: ProtectionDomain
    hands_up: bool = False  # a driver's: it always has room, and takes messages whole
    state: PairState = PairState.INIT
    peer: Peer | None = None
    send_psn: int = 0
    receive_psn: int = 0
    under_way: deque[_Sent] = field(default_factory=deque)
    waiting: deque[Work] = field(default_factory=deque)
    receives: deque[Receive] = field(default_factory=deque)
    retries_left: int = 0
    rnr_left: int = 0
    expires_at: int | None = None
    timer_set: bool = False
    paused: bool = False  # the receiver was not ready: nothing goes, and one `_resume` is in the schedule
    complained: bool = False  # the sender was told which message must come next, and it has not come


class Reliable:
    """The reliable queue pairs of all adapters of a subnet. `completed(port, qpn, completion)` hears what is over,
    `handed_up(port, qpn, payload, offload)` the messages to queue pairs of drivers.
    """

    def __init__(
        self,
        schedule: EventQueue,
        send: Callable[[Port, Packet], None],
        completed: Callable[[Port, int, Completion], None],
        handed_up: Callable[[Port, int, bytes, bytes], None],
    ) -> None:
        self._schedule = schedule
        self._send_packet = send
        self._completed = completed
        self._handed_up = handed_up
        self._pairs: dict[tuple[str, int], ReliablePair] = {}

    # ---- verbs

    def add(self, port: Port, qpn: int, domain: ProtectionDomain | None) -> None:
        """Without a domain it is a driver's: messages are handed up, and nothing of its memory can be touched."""
        self._pairs[port.node.name, qpn] = ReliablePair(qpn, port, domain or ProtectionDomain(), domain is None)

    def get(self, port: Port, qpn: int) -> ReliablePair | None:
        return self._pairs.get((port.node.name, qpn))

    def remove(self, port: Port, qpn: int) -> None:
        """The queue pair is destroyed: what was posted is not heard of again."""
        pair = self._pairs.pop((port.node.name, qpn), None)
        if pair is not None:
            pair.state, pair.expires_at = PairState.ERROR, None
            pair.under_way.clear()
            pair.waiting.clear()

    def connect(self, port: Port, qpn: int, peer: Peer) -> None:
        """INIT to RTS; of another state, or gone, it stays as it is."""
        pair = self.get(port, qpn)
        if pair is not None and pair.state is PairState.INIT:
            pair.state, pair.peer = PairState.READY, peer
            pair.send_psn, pair.receive_psn = peer.send_psn, peer.receive_psn
            pair.retries_left, pair.rnr_left = peer.retry_count, peer.rnr_retry_count
            self._pump(pair)

    def fail(self, port: Port, qpn: int) -> None:
        """To the error state, as a disconnect does: everything posted is flushed."""
        pair = self.get(port, qpn)
        if pair is not None:
            self._error(pair, Status.FLUSHED)

    def post(self, port: Port, qpn: int, request: Work | Receive) -> None:
        """Queue a request. To a queue pair in error it is flushed at once, to one that is gone it is lost."""
        pair = self.get(port, qpn)
        if pair is None:
            return
        if pair.state is PairState.ERROR:
            self._done(pair, request, Status.FLUSHED)
        elif isinstance(request, Receive):
            pair.receives.append(request)
        else:
            pair.waiting.append(request)
            self._pump(pair)

    def has_room(self, port: Port, qpn: int) -> bool:
        """Whether a driver may post one message more."""
        pair = self.get(port, qpn)
        return pair is not None and len(pair.under_way) + len(pair.waiting) < QUEUE

    def carries(self, port: Port, qpn: int, there: Port, peer_qpn: int) -> bool:
        """For flows: a message would go at once from this queue pair to that one, which is a driver's and takes it."""
        mine, other = self.get(port, qpn), self.get(there, peer_qpn)
        if mine is None or other is None or mine.under_way or mine.waiting or not other.hands_up:
            return False
        if mine.state is not PairState.READY or other.state is not PairState.READY:
            return False
        to, back = mine.peer, other.peer
        if to is None or back is None or mine.port is not port or other.port is not there:
            return False
        return (to.lid, to.qpn, back.lid, back.qpn) == (there.lid, peer_qpn, port.lid, qpn) and there.admits(to.pkey)

    # ---- sending

    def _pump(self, pair: ReliablePair) -> None:
        """Put waiting work onto the wire while the window is open."""
        peer = pair.peer
        while pair.waiting and peer is not None and pair.state is PairState.READY and not pair.paused:
            if len(pair.under_way) >= WINDOW or (pair.under_way and pair.under_way[-1].barred):
                return
            work = pair.waiting.popleft()
            length = len(work.inline) if work.inline else work.length
            packets = packets_of(work.inline, length, work.offload, peer.mtu_bytes)
            sent = _Sent(work, pair.send_psn, packets, length)
            pair.send_psn = (pair.send_psn + packets) & PSN_MASK
            pair.under_way.append(sent)
            self._transmit(pair, sent)
            if len(pair.under_way) == 1 and not self._barred(pair):
                self._arm(pair, peer)

    def _barred(self, pair: ReliablePair) -> bool:
        """Whether it is the turn of a request that cannot go; then the queue pair is in error."""
        if pair.under_way and pair.under_way[0].barred:
            self._error(pair, Status.LOCAL_PROTECTION, pair.under_way[0])
            return True
        return False

    def _transmit(self, pair: ReliablePair, sent: _Sent) -> None:
        work, payload = sent.work, b""
        if work.operation is not Operation.READ:
            memory = work.inline or pair.domain.find(work.key, work.offset, work.length, remote=False)
            if memory is None:
                sent.barred = True
                return
            payload = bytes(memory)
        kind = {Operation.SEND: Kind.SEND, Operation.WRITE: Kind.WRITE}.get(work.operation, Kind.READ)
        packets = 1 if kind is Kind.READ else sent.packets
        self._emit(
            pair,
            kind,
            sent.psn,
            packets=packets,
            payload=payload,
            remote_key=work.remote_key,
            remote_offset=work.remote_offset,
            length=sent.length,
            offload=work.offload,
        )

    def _emit(
        self,
        pair: ReliablePair,
        kind: Kind,
        psn: int,
        *,
        packets: int = 1,
        payload: bytes = b"",
        remote_key: int = 0,
        remote_offset: int = 0,
        length: int = 0,
        syndrome: int = 0,
        offload: bytes = b"",
    ) -> None:
        peer = pair.peer
        assert peer is not None, "only connected queue pairs speak"
        message = ReliableMessage(
            pair.port.lid,
            peer.lid,
            peer.pkey,
            peer.qpn,
            kind,
            psn,
            packets,
            peer.mtu_bytes,
            payload,
            remote_key,
            remote_offset,
            length,
            syndrome,
            peer.service_level,
            offload,
        )
        self._send_packet(pair.port, message_packet(message))

    def _arm(self, pair: ReliablePair, peer: Peer) -> None:
        """The time until an acknowledgment is missed begins now. One entry in the schedule per queue pair."""
        pair.expires_at = self._schedule.now + (4096 << peer.timeout)
        if not pair.timer_set:
            pair.timer_set = True
            self._schedule.call_after(4096 << peer.timeout, self._rang, pair)

    def _rang(self, pair: ReliablePair) -> None:
        pair.timer_set = False
        peer, at = pair.peer, pair.expires_at
        if at is None or peer is None or pair.state is not PairState.READY:
            return
        if at > self._schedule.now:
            pair.timer_set = True
            self._schedule.call_after(at - self._schedule.now, self._rang, pair)
            return
        if pair.retries_left == 0:
            self._error(pair, Status.RETRY_EXCEEDED, pair.under_way[0])
            return
        pair.retries_left -= 1
        self._repeat(pair)

    def _repeat(self, pair: ReliablePair) -> None:
        """Everything that is under way goes again, from the oldest on."""
        peer = pair.peer
        if peer is None or pair.state is not PairState.READY or not pair.under_way:
            return
        for sent in pair.under_way:
            self._transmit(pair, sent)
            if sent.barred:
                break
        if not self._barred(pair):
            self._arm(pair, peer)

    def _resume(self, pair: ReliablePair) -> None:
        """The pause that the receiver asked for is over."""
        pair.paused = False
        self._repeat(pair)
        self._pump(pair)

    # ---- receiving

    def arrived(self, port: Port, message: ReliableMessage) -> None:
        """A message has reached the port; one for nobody is dropped, as hardware does."""
        pair = self.get(port, message.destination_qpn)
        if pair is None or pair.peer is None or pair.port is not port or pair.state is not PairState.READY:
            return
        if message.source_lid != pair.peer.lid or not port.admits(message.pkey):
            return
        match message.kind:
            case Kind.ACK:
                self._acknowledged(pair, message.psn)
            case Kind.RESPONSE:
                self._responded(pair, message)
            case Kind.NAK:
                self._refused(pair, message)
            case Kind.SEND | Kind.WRITE | Kind.READ:
                self._requested(pair, message)

    def _requested(self, pair: ReliablePair, message: ReliableMessage) -> None:
        """A request of the peer: in order it is done, a duplicate is answered again, after a gap the sender is told."""
        ahead = (message.psn - pair.receive_psn) & PSN_MASK
        if ahead >= HALF:
            if message.kind is Kind.READ:
                self._answer_read(pair, message)
            else:
                self._emit(pair, Kind.ACK, (pair.receive_psn - 1) & PSN_MASK)
            return
        if ahead:
            if not pair.complained:
                pair.complained = True
                self._emit(pair, Kind.NAK, pair.receive_psn, syndrome=Nak.SEQUENCE)
            return
        pair.complained = False
        if message.kind is Kind.READ:
            pair.receive_psn = (pair.receive_psn + self._answer_read(pair, message)) & PSN_MASK
        elif self._take(pair, message):
            pair.receive_psn = (pair.receive_psn + message.packets) & PSN_MASK
            self._emit(pair, Kind.ACK, (pair.receive_psn - 1) & PSN_MASK)

    def _take(self, pair: ReliablePair, message: ReliableMessage) -> bool:
        """Put the bytes where they belong; whether that was possible."""
        if message.kind is Kind.WRITE:
            memory = pair.domain.find(message.remote_key, message.remote_offset, len(message.payload), remote=True)
            if memory is None:
                self._deny(pair, message, Nak.REMOTE_ACCESS)
                return False
            memory[:] = message.payload
            return True
        if pair.hands_up:
            self._handed_up(pair.port, pair.qpn, message.payload, message.offload)
            return True
        if not pair.receives:
            pair.complained = True  # what follows is dropped in silence until this one comes again (9.7.5.2.8)
            self._emit(pair, Kind.NAK, message.psn, syndrome=Nak.RECEIVER_NOT_READY)
            return False
        room = pair.receives.popleft()
        memory = pair.domain.find(room.key, room.offset, min(room.length, len(message.payload)), remote=False)
        if memory is None or len(message.payload) > room.length:
            too_long = len(message.payload) > room.length
            self._done(pair, room, Status.LOCAL_LENGTH if too_long else Status.LOCAL_PROTECTION)
            self._deny(pair, message, Nak.INVALID_REQUEST if too_long else Nak.REMOTE_OPERATION)
            return False
        memory[:] = message.payload
        self._completed(
            pair.port, pair.qpn, Completion(room.number, Operation.RECEIVE, Status.SUCCESS, len(message.payload))
        )
        return True

    def _answer_read(self, pair: ReliablePair, message: ReliableMessage) -> int:
        """Of how many packets the response is; none where it is denied."""
        memory = pair.domain.find(message.remote_key, message.remote_offset, message.length, remote=True)
        if memory is None:
            self._deny(pair, message, Nak.REMOTE_ACCESS)
            return 0
        packets = max(1, -(-message.length // message.mtu_bytes))
        self._emit(pair, Kind.RESPONSE, message.psn, packets=packets, payload=bytes(memory))
        return packets

    def _deny(self, pair: ReliablePair, message: ReliableMessage, why: Nak) -> None:
        """A request that must not be: both ends of the connection fail."""
        self._emit(pair, Kind.NAK, message.psn, syndrome=why)
        self._error(pair, Status.FLUSHED)

    def _acknowledged(self, pair: ReliablePair, psn: int) -> None:
        """All up to this number has arrived; what was read ends by its response alone."""
        progress = False
        while pair.under_way:
            sent = pair.under_way[0]
            last = sent.psn + sent.packets - 1
            if ((psn - last) & PSN_MASK) >= HALF or sent.work.operation is Operation.READ or sent.barred:
                break
            pair.under_way.popleft()
            if sent.work.signaled:
                self._done(pair, sent.work, Status.SUCCESS, sent.length)
            progress = True
        if progress:
            self._progress(pair)

    def _progress(self, pair: ReliablePair) -> None:
        peer = pair.peer
        if peer is None or pair.state is not PairState.READY or self._barred(pair):
            return
        pair.retries_left, pair.rnr_left = peer.retry_count, peer.rnr_retry_count
        pair.expires_at = None
        if pair.under_way and not pair.paused:
            self._arm(pair, peer)
        self._pump(pair)

    def _responded(self, pair: ReliablePair, message: ReliableMessage) -> None:
        self._acknowledged(pair, (message.psn - 1) & PSN_MASK)
        if not pair.under_way or pair.under_way[0].psn != message.psn:
            return
        sent = pair.under_way[0]
        work = sent.work
        if work.operation is not Operation.READ or len(message.payload) != work.length:
            return
        memory = pair.domain.find(work.key, work.offset, work.length, remote=False)
        if memory is None:
            self._error(pair, Status.LOCAL_PROTECTION, sent)
            return
        memory[:] = message.payload
        pair.under_way.popleft()
        self._done(pair, work, Status.SUCCESS, work.length)
        self._progress(pair)

    def _refused(self, pair: ReliablePair, message: ReliableMessage) -> None:
        self._acknowledged(pair, (message.psn - 1) & PSN_MASK)
        if not pair.under_way:
            return
        about = pair.under_way[0]
        if pair.paused and message.syndrome in (Nak.SEQUENCE, Nak.RECEIVER_NOT_READY):
            return  # all of it goes again after the pause anyway
        if message.syndrome == Nak.SEQUENCE:
            self._repeat(pair)
        elif message.syndrome == Nak.RECEIVER_NOT_READY:
            if pair.rnr_left == 0:
                self._error(pair, Status.RNR_RETRY_EXCEEDED, about)
                return
            if pair.rnr_left != FOR_EVER:
                pair.rnr_left -= 1
            pair.paused, pair.expires_at = True, None
            self._schedule.call_after(RNR_DELAY, self._resume, pair)
        elif about.psn == message.psn:
            self._error(pair, DENIALS.get(message.syndrome, Status.REMOTE_INVALID_REQUEST), about)

    # ---- the end

    def _error(self, pair: ReliablePair, status: Status, culprit: _Sent | None = None) -> None:
        """To the error state: the culprit completes with its status, everything else is flushed."""
        if pair.state is PairState.ERROR:
            return
        pair.state, pair.expires_at = PairState.ERROR, None
        under_way, waiting, receives = tuple(pair.under_way), tuple(pair.waiting), tuple(pair.receives)
        pair.under_way.clear()
        pair.waiting.clear()
        pair.receives.clear()
        for sent in under_way:
            self._done(pair, sent.work, status if sent is culprit else Status.FLUSHED)
        rest: list[Work | Receive] = [*waiting, *receives]
        for request in rest:
            self._done(pair, request, Status.FLUSHED)

    def _done(self, pair: ReliablePair, request: Work | Receive, status: Status, length: int = 0) -> None:
        operation = Operation.RECEIVE if isinstance(request, Receive) else request.operation
        self._completed(pair.port, pair.qpn, Completion(request.number, operation, status, length))
