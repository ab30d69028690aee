"""Reliable connections: queue pairs that number, acknowledge and repeat messages, and RDMA into registered memory.

Read first: InfiniBand Architecture volume 1, 9.7 (PSNs, ACK, NAK, timeouts, duplicates) and 10.3.1 (states of a queue
pair). A message crosses the same cables and switches as every other packet, a long one in runs of packets; what is lost
is repeated by the sender from the first packet that is missing until (retry count + 1) x timeout have passed without
progress, then the queue pair is in error and everything posted is flushed. Where nothing hinders it, a message goes in
one step (`reliable_flow`). Left out: credits, the timer's spread of up to four times the timeout that the standard lets
hardware have.
"""

from __future__ import annotations

from collections.abc import Callable

from ibbond.fabric.packet import message_packet, packets_of
from ibbond.fabric.port import Port
from ibbond.fabric.posted_queues import PostedQueues
from ibbond.fabric.reliable_flow import ReliableFlow
from ibbond.fabric.reliable_pair import (
    PSN_HALF,
    PSN_MASK,
    RNR_DELAYS_10US,
    RUN_PACKETS,
    PairState,
    ReliablePair,
    Sent,
    connected,
    gather,
    scatter,
)
from ibbond.fabric.responder import Responder
from ibbond.fabric.transit import Transit
from ibbond.machine import EventQueue
from ibbond.verbs.generation import Generation
from ibbond.verbs.memory import ProtectionDomain
from ibbond.verbs.reliable_verbs import (
    ATOMIC_BYTES,
    ATOMICS,
    FETCHES,
    REQUESTS,
    Arrival,
    Completion,
    Kind,
    Nak,
    Operation,
    Peer,
    Queues,
    Receive,
    ReliableMessage,
    Status,
    Work,
)

WINDOW = 16  # requests on their way at once
WINDOW_PACKETS = 128  # of programs' queue pairs; a driver's messages go whole
BURST = 64  # requests begun at one moment; others have their turn before the rest
QUEUE = 128  # messages that a driver may have posted and not seen through (Linux's IPoIB: ipoib_sendq_size)
MAX_FLUSHED = 1 << 15  # more than any queue has
RNR_RETRY_INFINITE = 7
DENIALS: dict[int, Status] = {
    Nak.INVALID_REQUEST: Status.REMOTE_INVALID_REQUEST,
    Nak.REMOTE_ACCESS: Status.REMOTE_ACCESS,
    Nak.REMOTE_OPERATION: Status.REMOTE_OPERATION,
}
KINDS = {
    Operation.SEND: Kind.SEND,
    Operation.WRITE: Kind.WRITE,
    Operation.READ: Kind.READ,
    Operation.COMPARE_SWAP: Kind.COMPARE_SWAP,
    Operation.FETCH_ADD: Kind.FETCH_ADD,
}


class Reliable:
    """The reliable queue pairs of all adapters of a subnet. `completed(port, qpn, completion)` is called with what is
    over of that which was posted, `delivered(port, qpn, payload, offload)` with the messages to queue pairs of drivers.
    """

    def __init__(
        self,
        schedule: EventQueue,
        transit: Transit,
        generation: Generation,
        completed: Callable[[Port, int, Completion], None],
        delivered: Callable[[Port, int, bytes, bytes], None],
    ) -> None:
        self._schedule = schedule
        self._transit = transit
        self._generation = generation
        self._completed = completed
        self._responder = Responder(self._emit, lambda pair: self._error(pair, Status.FLUSHED), delivered)
        self._pairs: dict[tuple[str, int], ReliablePair] = {}
        self._flows: dict[ReliablePair, ReliableFlow] = {}

    # ---- verbs

    def add(self, port: Port, qpn: int, domain: ProtectionDomain | None, queues: Queues | None = None) -> None:
        """Without a domain it is a driver's: messages are handed up, and nothing of its memory can be touched."""
        if queues is None:
            queues = PostedQueues(lambda completion: self._completed(port, qpn, completion))
        self._pairs[port.node.name, qpn] = ReliablePair(qpn, port, domain, queues, domain is None)

    def get(self, port: Port, qpn: int) -> ReliablePair | None:
        return self._pairs.get((port.node.name, qpn))

    def remove(self, port: Port, qpn: int) -> None:
        """The queue pair is destroyed: its work requests complete no more."""
        pair = self._pairs.pop((port.node.name, qpn), None)
        if pair is not None:
            pair.state, pair.expires_at = PairState.ERROR, None
            pair.in_flight.clear()
            pair.held = pair.receiving = pair.room = None
            self._forget_flow(pair)

    def connect(self, port: Port, qpn: int, peer: Peer) -> None:
        """INIT to RTS; of another state, or gone, it stays as it is."""
        pair = self.get(port, qpn)
        if pair is not None and pair.state is PairState.INIT:
            self.listen(port, qpn, peer)
            self.speak(port, qpn, peer)

    def listen(self, port: Port, qpn: int, peer: Peer) -> None:
        """INIT to RTR: the peer's messages are taken, at this port."""
        pair = self.get(port, qpn)
        if pair is not None and pair.state is PairState.INIT:
            pair.state, pair.peer, pair.port = PairState.RECEIVING, peer, port
            pair.receive_psn = peer.receive_psn

    def speak(self, port: Port, qpn: int, peer: Peer) -> None:
        """RTR to RTS; in RTS the numbers stay, and what else is said of the peer counts from now on."""
        pair = self.get(port, qpn)
        if pair is None or not pair.speaks:
            return
        if pair.state is PairState.RECEIVING:
            pair.send_psn = peer.send_psn
        pair.state, pair.peer = PairState.READY, peer
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
        if pair is None or not isinstance(pair.queues, PostedQueues):
            return
        pair.queues.post(request)
        if pair.state is PairState.ERROR:
            self._flush(pair)
        else:
            self._pump(pair)

    def ring(self, port: Port, qpn: int) -> None:
        """The queue pair's queues have something new."""
        pair = self.get(port, qpn)
        if pair is None:
            return
        if pair.state is PairState.ERROR:
            self._flush(pair)
        else:
            self._pump(pair)

    def has_room(self, port: Port, qpn: int) -> bool:
        """Whether a driver may post one message more."""
        pair = self.get(port, qpn)
        return pair is not None and len(pair.in_flight) + _waiting(pair) < QUEUE

    def carries(self, port: Port, qpn: int, there: Port, peer_qpn: int) -> bool:
        """For flows: a message would go at once from this queue pair to that one, which is a driver's and takes it."""
        mine, other = self.get(port, qpn), self.get(there, peer_qpn)
        if mine is None or other is None or mine.in_flight or _waiting(mine) or not other.kernel_consumer:
            return False
        return mine.port is port and other.port is there and connected(mine, other)

    # ---- sending

    def _pump(self, pair: ReliablePair) -> None:
        """Begin requests and put their packets onto the wire while the window is open."""
        peer = pair.peer
        if peer is None or pair.state is not PairState.READY or pair.paused:
            return
        if not pair.in_flight and not pair.kernel_consumer and self._flow(pair, peer):
            return
        idle = not pair.in_flight
        while self._emit_begun(pair, peer) and len(pair.in_flight) < WINDOW:
            if not self._begin(pair, peer):
                break
        if idle and pair.in_flight and not self._faulty(pair):
            self._arm(pair, peer)

    def _flow(self, pair: ReliablePair, peer: Peer) -> bool:
        """Carry what is posted by the short way while there is one; whether nothing is left to go the long way now."""
        flow = self._flows.get(pair)
        if flow is None or flow.generation != self._generation.value or flow.stale:
            self._forget_flow(pair)
            flow = self._find_flow(pair, peer)
            if flow is None:
                return False
            self._flows[pair] = flow
        while flow.open:
            if not self._may_begin(pair):
                return True
            request = pair.held or pair.queues.next_send()
            pair.held = None
            if request is None:
                return True
            pair.burst += 1
            if not flow.carry(request):
                pair.held = request
                return False
        return False

    def _find_flow(self, pair: ReliablePair, peer: Peer) -> ReliableFlow | None:
        walk = self._transit.trace_path(pair.port, peer.lid)
        if walk is None:
            return None
        other = self._pairs.get((walk.destination.partition("/")[0], peer.qpn))
        if other is None or other.kernel_consumer or other.port.name != walk.destination or not connected(pair, other):
            return None
        back = self._transit.trace_path(other.port, pair.port.lid)
        return ReliableFlow(self._generation.value, pair, other, walk, back) if back is not None else None

    def _forget_flow(self, pair: ReliablePair) -> None:
        flow = self._flows.pop(pair, None)
        if flow is not None:
            flow.flush_counters()

    def flush_counters(self) -> None:
        """Bring counters of ports up to date with what went the short way."""
        for flow in self._flows.values():
            flow.flush_counters()

    def _may_begin(self, pair: ReliablePair) -> bool:
        """Whether it is not yet the turn of others; then the rest comes a moment later."""
        if pair.burst_at != self._schedule.now:
            pair.burst_at, pair.burst = self._schedule.now, 0
        if pair.burst < BURST or pair.kernel_consumer:
            return True
        if pair.burst == BURST:
            pair.burst += 1
            self._schedule.call_after(1, self._pump, pair)
        return False

    def _begin(self, pair: ReliablePair, peer: Peer) -> bool:
        """Take the next request into the window; whether there was one that may go now."""
        if not self._may_begin(pair):
            return False
        request = pair.held or pair.queues.next_send()
        pair.held = None
        if request is None:
            return False
        fetching = sum(sent.request.operation in FETCHES for sent in pair.in_flight)
        if fetching and (request.fence or (request.operation in FETCHES and fetching >= max(1, peer.max_reads))):
            pair.held = request
            return False
        packets = packets_of(request.inline or b"", request.length, request.offload, peer.mtu_bytes)
        if request.operation in ATOMICS:
            packets = 1
        sent = Sent(request, pair.send_psn, packets, fault=request.fault)
        pair.send_psn = (pair.send_psn + packets) & PSN_MASK
        pair.burst += 1
        pair.in_flight.append(sent)
        return True

    def _emit_begun(self, pair: ReliablePair, peer: Peer) -> bool:
        """Put what is begun onto the wire as far as the window goes; whether all of it is there."""
        flight = sum(sent.emitted - sent.done for sent in pair.in_flight)
        for sent in tuple(pair.in_flight):
            while sent.emitted < sent.packets:
                if sent.fault is not None or (flight >= WINDOW_PACKETS and not pair.kernel_consumer):
                    return False
                count = self._transmit(pair, peer, sent)
                if not count:
                    return False
                flight += count
        return True

    def _faulty(self, pair: ReliablePair) -> bool:
        """Whether it is the turn of a request that cannot go; then the queue pair is in error."""
        if pair.in_flight and pair.in_flight[0].fault is not None:
            self._error(pair, pair.in_flight[0].fault, pair.in_flight[0])
            return True
        return False

    def _transmit(self, pair: ReliablePair, peer: Peer, sent: Sent) -> int:
        """The next run of a request's packets; how many, none where its memory cannot be read."""
        request, done = sent.request, sent.emitted
        kind = KINDS[request.operation]
        offset = done * peer.mtu_bytes
        message_psn = (sent.psn + done) & PSN_MASK
        if request.operation in FETCHES:
            sent.emitted = sent.packets
            length = ATOMIC_BYTES if request.operation in ATOMICS else request.length - offset
            self._emit(
                pair, peer, kind, message_psn, remote_key=request.remote_key, length=length,
                remote_address=request.remote_address + offset, compare_add=request.compare_add, swap=request.swap,
            )  # fmt: skip
            return sent.packets - done
        packets = sent.packets if pair.kernel_consumer else min(RUN_PACKETS, sent.packets - done)
        last = done + packets == sent.packets
        length = request.length - offset if last else packets * peer.mtu_bytes
        payload = gather(pair.domain, request, offset, length)
        if payload is None:
            sent.fault = Status.LOCAL_PROTECTION
            return 0
        sent.emitted += packets
        self._emit(
            pair,
            peer,
            kind,
            message_psn,
            packets=packets,
            payload=payload,
            remote_key=request.remote_key,
            remote_address=request.remote_address + offset if kind is Kind.WRITE else 0,
            length=request.length,
            offload=request.offload,
            first=not done,
            last=last,
            immediate=request.immediate if last else b"",
            solicited=request.solicited and last,
        )
        return packets

    def _emit(
        self,
        pair: ReliablePair,
        peer: Peer,
        kind: Kind,
        psn: int,
        *,
        packets: int = 1,
        payload: bytes = b"",
        remote_key: int = 0,
        remote_address: int = 0,
        length: int = 0,
        syndrome: int = 0,
        offload: bytes = b"",
        first: bool = True,
        last: bool = True,
        immediate: bytes = b"",
        solicited: bool = False,
        compare_add: int = 0,
        swap: int = 0,
        mtu_bytes: int = 0,
    ) -> None:
        message = ReliableMessage(
            pair.port.lid,
            pair.qpn,
            peer.lid,
            peer.pkey,
            peer.qpn,
            kind,
            psn,
            packets,
            mtu_bytes or peer.mtu_bytes,
            payload,
            remote_key,
            remote_address,
            length,
            syndrome,
            peer.service_level,
            offload,
            first,
            last,
            immediate,
            solicited,
            compare_add,
            swap,
            pair.sequence,
        )
        self._transit.send(pair.port, message_packet(message))

    def _arm(self, pair: ReliablePair, peer: Peer) -> None:
        """The time until an acknowledgment is missed begins now. One entry in the schedule per queue pair."""
        if not peer.timeout:
            pair.expires_at = None
            return
        pair.expires_at = self._schedule.now + (4096 << peer.timeout)
        if not pair.timer_set:
            pair.timer_set = True
            self._schedule.call_after(4096 << peer.timeout, self._on_timer, pair)

    def _on_timer(self, pair: ReliablePair) -> None:
        pair.timer_set = False
        peer, at = pair.peer, pair.expires_at
        if at is None or peer is None or pair.state is not PairState.READY:
            return
        if at > self._schedule.now:
            pair.timer_set = True
            self._schedule.call_after(at - self._schedule.now, self._on_timer, pair)
            return
        if pair.retries_left == 0:
            self._error(pair, Status.RETRY_EXCEEDED, pair.in_flight[0])
            return
        pair.retries_left -= 1
        self._repeat(pair)

    def _repeat(self, pair: ReliablePair) -> None:
        """Resend everything in flight, from the first unacknowledged packet on."""
        peer = pair.peer
        if peer is None or pair.state is not PairState.READY or not pair.in_flight:
            return
        for sent in pair.in_flight:
            sent.emitted = sent.done
        self._emit_begun(pair, peer)
        if not self._faulty(pair):
            self._arm(pair, peer)

    def _resume(self, pair: ReliablePair) -> None:
        """The pause that the receiver asked for has ended."""
        pair.paused = False
        self._repeat(pair)
        self._pump(pair)

    # ---- receiving

    def arrived(self, port: Port, message: ReliableMessage) -> None:
        """A message has reached the port; a message without a receiver is dropped, as by hardware."""
        pair = self.get(port, message.destination_qpn)
        if pair is None or pair.peer is None or pair.port is not port or not pair.speaks:
            return
        if (message.source_lid, message.source_qpn) != (pair.peer.lid, pair.peer.qpn) or not port.admits(message.pkey):
            return
        if message.kind in REQUESTS:
            self._responder.requested(pair, pair.peer, message)
        elif pair.state is PairState.READY:
            match message.kind:
                case Kind.ACK:
                    self._acknowledged(pair, message.psn)
                case Kind.RESPONSE | Kind.ATOMIC_RESPONSE:
                    self._responded(pair, message)
                case Kind.NAK:
                    self._refused(pair, message)

    def _acknowledged(self, pair: ReliablePair, psn: int) -> None:
        """All up to this number has arrived; what was fetched ends by its response alone."""
        progress = False
        while pair.in_flight:
            sent = pair.in_flight[0]
            behind = (psn - sent.psn) & PSN_MASK
            if behind >= PSN_HALF or sent.request.operation in FETCHES or sent.fault is not None:
                break
            done = min(behind + 1, sent.packets)
            progress = progress or done > sent.done
            sent.done = max(sent.done, done)
            sent.emitted = max(sent.emitted, sent.done)
            if sent.done < sent.packets:
                break
            pair.in_flight.popleft()
            pair.queues.sent(sent.request, Status.SUCCESS)
            if pair.state is not PairState.READY:
                return
        if progress:
            self._progress(pair)

    def _progress(self, pair: ReliablePair) -> None:
        peer = pair.peer
        if peer is None or pair.state is not PairState.READY or self._faulty(pair):
            return
        pair.retries_left, pair.rnr_left = peer.retry_count, peer.rnr_retry_count
        pair.expires_at = None
        if pair.in_flight and not pair.paused:
            self._arm(pair, peer)
        self._pump(pair)

    def _responded(self, pair: ReliablePair, message: ReliableMessage) -> None:
        self._acknowledged(pair, (message.psn - 1) & PSN_MASK)
        sent = pair.in_flight[0] if pair.in_flight else None
        peer = pair.peer
        if sent is None or peer is None or sent.request.operation not in FETCHES or sent.fault is not None:
            return
        request, done = sent.request, (message.psn - sent.psn) & PSN_MASK
        if done != sent.done or done + message.packets > sent.packets:
            if sent.done < done < PSN_HALF and not pair.asked_again:  # a run before it was lost (9.7.5.1.2)
                pair.asked_again = True
                self._repeat(pair)
            return
        pair.asked_again = False
        if not scatter(pair.domain, request.pieces, done * peer.mtu_bytes, message.payload):
            self._error(pair, Status.LOCAL_PROTECTION, sent)
            return
        sent.done += message.packets
        if sent.done == sent.packets:
            pair.in_flight.popleft()
            pair.queues.sent(request, Status.SUCCESS)
        self._progress(pair)

    def _refused(self, pair: ReliablePair, message: ReliableMessage) -> None:
        self._acknowledged(pair, (message.psn - 1) & PSN_MASK)
        if not pair.in_flight or pair.state is not PairState.READY:
            return
        about = pair.in_flight[0]
        not_ready = Nak.RECEIVER_NOT_READY <= message.syndrome < Nak.RECEIVER_NOT_READY + 0x20
        if pair.paused and (not_ready or message.syndrome == Nak.SEQUENCE):
            return  # all of it goes again after the pause anyway
        if message.syndrome == Nak.SEQUENCE:
            self._repeat(pair)
        elif not_ready:
            if pair.rnr_left == 0:
                self._error(pair, Status.RNR_RETRY_EXCEEDED, about)
                return
            if pair.rnr_left != RNR_RETRY_INFINITE:
                pair.rnr_left -= 1
            pair.paused, pair.expires_at = True, None
            self._schedule.call_after(RNR_DELAYS_10US[message.syndrome & 0x1F] * 10_000, self._resume, pair)
        elif (message.psn - about.psn) & PSN_MASK < about.packets:
            self._error(pair, DENIALS.get(message.syndrome, Status.REMOTE_INVALID_REQUEST), about)

    # ---- the end

    def _error(self, pair: ReliablePair, status: Status, culprit: Sent | None = None) -> None:
        """To the error state: the culprit completes with its status, everything else is flushed."""
        if pair.state is PairState.ERROR:
            return
        pair.state, pair.expires_at = PairState.ERROR, None
        self._forget_flow(pair)
        in_flight, receiving = tuple(pair.in_flight), pair.receiving
        pair.in_flight.clear()
        pair.receiving = None
        for sent in in_flight:
            pair.queues.sent(sent.request, status if sent is culprit else Status.FLUSHED)
        held, pair.held = pair.held, None
        if held is not None:
            pair.queues.sent(held, Status.FLUSHED)
        if receiving is not None:
            pair.queues.received(receiving.request, Status.FLUSHED, Arrival())
        self._flush(pair)

    def _flush(self, pair: ReliablePair) -> None:
        """What waits in the queues, as much as there can be in them: programs may go on posting."""
        for _ in range(MAX_FLUSHED):
            request = pair.queues.next_send()
            if request is None:
                break
            pair.queues.sent(request, Status.FLUSHED)
        room, pair.room = pair.room, None
        if room is not None:
            pair.queues.received(room, Status.FLUSHED, Arrival())
        for room in pair.queues.left_receives():
            pair.queues.received(room, Status.FLUSHED, Arrival())


def _waiting(pair: ReliablePair) -> int:
    return len(pair.queues.waiting) if isinstance(pair.queues, PostedQueues) else 0
