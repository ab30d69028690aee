"""How a reliable queue pair answers its peer: order, duplicates, rights, room for messages, responses.

Read first: InfiniBand Architecture volume 1, 9.7.4 (validating requests), 9.7.5 (responses), 9.9.3 (what each error
does to the responder). Left out: credits; acknowledgments that stand for several messages.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ibbond.fabric.port import Port
from ibbond.fabric.reliable_pair import (
    PSN_HALF,
    PSN_MASK,
    RUN_PACKETS,
    PairState,
    Receiving,
    ReliablePair,
    atomic_result,
    scatter,
)
from ibbond.verbs.memory import Access, Memory
from ibbond.verbs.reliable_verbs import (
    ATOMIC_BYTES,
    Arrival,
    Kind,
    Nak,
    PairEvent,
    Peer,
    ReceiveRequest,
    ReliableMessage,
    Status,
)

SAVED_ATOMICS = 16


class Emit(Protocol):
    def __call__(
        self,
        pair: ReliablePair,
        peer: Peer,
        kind: Kind,
        psn: int,
        *,
        packets: int = 1,
        payload: bytes = b"",
        syndrome: int = 0,
        first: bool = True,
        last: bool = True,
        mtu_bytes: int = 0,
    ) -> None: ...


class Responder:
    """Answers requests. `fail` brings a queue pair into the error state, `delivered` gets the messages of drivers."""

    def __init__(
        self,
        emit: Emit,
        fail: Callable[[ReliablePair], None],
        delivered: Callable[[Port, int, bytes, bytes], None],
    ) -> None:
        self._emit = emit
        self._fail = fail
        self._delivered = delivered

    def requested(self, pair: ReliablePair, peer: Peer, message: ReliableMessage) -> None:
        """A request of the peer: in order it is executed, a duplicate is answered again, a gap is answered by a NAK."""
        ahead = (message.psn - pair.receive_psn) & PSN_MASK
        if ahead >= PSN_HALF:
            self._repeat_answer(pair, peer, message)
            return
        if ahead:
            if not pair.nak_sent:
                pair.nak_sent = True
                self._emit(pair, peer, Kind.NAK, pair.receive_psn, syndrome=Nak.SEQUENCE)
            return
        pair.nak_sent = False
        if pair.state is PairState.RECEIVING:
            pair.queues.raised(PairEvent.ESTABLISHED)
        if message.kind is Kind.READ:
            packets = self._answer_read(pair, peer, message)
            pair.receive_psn = (pair.receive_psn + packets) & PSN_MASK
        elif message.kind in (Kind.COMPARE_SWAP, Kind.FETCH_ADD):
            self._answer_atomic(pair, peer, message)
        elif self._take(pair, peer, message):
            pair.receive_psn = (pair.receive_psn + message.packets) & PSN_MASK
            pair.sequence = (pair.sequence + message.last) & PSN_MASK
            self._emit(pair, peer, Kind.ACK, (pair.receive_psn - 1) & PSN_MASK)

    def _repeat_answer(self, pair: ReliablePair, peer: Peer, message: ReliableMessage) -> None:
        if message.kind is Kind.READ:
            self._answer_read(pair, peer, message)
        elif message.kind in (Kind.SEND, Kind.WRITE):
            self._emit(pair, peer, Kind.ACK, (pair.receive_psn - 1) & PSN_MASK)
        elif (known := pair.atomics.get(message.psn)) is not None:
            self._emit(pair, peer, Kind.ATOMIC_RESPONSE, message.psn, payload=known)

    def _take(self, pair: ReliablePair, peer: Peer, message: ReliableMessage) -> bool:
        """Put the bytes where they belong; whether that was possible."""
        if message.kind is Kind.WRITE:
            return self._take_written(pair, peer, message)
        if pair.kernel_consumer:
            self._delivered(pair.port, pair.qpn, message.payload, message.offload)
            return True
        if message.first:
            room = self._room(pair, peer, message)
            if room is None:
                return False
            pair.receiving = Receiving(room)
        receiving = pair.receiving
        if receiving is None:
            return self._deny(pair, peer, message, Nak.INVALID_REQUEST)
        offset, receiving.length = receiving.length, receiving.length + len(message.payload)
        request = receiving.request
        fault = request.fault
        if fault is None and sum(piece.length for piece in request.pieces) < receiving.length:
            fault = Status.LOCAL_LENGTH
        if fault is None and not scatter(pair.domain, request.pieces, offset, message.payload):
            fault = Status.LOCAL_PROTECTION
        if fault is not None:
            pair.receiving = None
            pair.queues.received(request, fault, Arrival())
            invalid = fault is Status.LOCAL_LENGTH
            return self._deny(pair, peer, message, Nak.INVALID_REQUEST if invalid else Nak.REMOTE_OPERATION)
        if message.last:
            pair.receiving = None
            arrival = Arrival(receiving.length, message.immediate, message.solicited)
            pair.queues.received(request, Status.SUCCESS, arrival)
        return True

    def _take_written(self, pair: ReliablePair, peer: Peer, message: ReliableMessage) -> bool:
        room = None
        if message.immediate:
            room = self._room(pair, peer, message)
            if room is None:
                return False
        if message.payload:
            place = self._reach(pair, peer, message, Access.REMOTE_WRITE, len(message.payload))
            if place is None:
                return self._deny(pair, peer, message, Nak.REMOTE_ACCESS, room)
            memory, at = place
            if not memory.write(at, message.payload):
                return self._deny(pair, peer, message, Nak.REMOTE_OPERATION, room)
        if room is not None:
            arrival = Arrival(message.length, message.immediate, message.solicited, written=True)
            pair.queues.received(room, Status.SUCCESS, arrival)
        return True

    def _room(self, pair: ReliablePair, peer: Peer, message: ReliableMessage) -> ReceiveRequest | None:
        """Room for a message; without room the sender is asked to wait (RNR NAK)."""
        room, pair.room = pair.room or pair.queues.next_receive(), None
        if room is None:
            pair.nak_sent = True  # what follows is dropped in silence until this one comes again (9.7.5.2.8)
            syndrome = Nak.RECEIVER_NOT_READY | peer.rnr_timer & 0x1F
            self._emit(pair, peer, Kind.NAK, message.psn, syndrome=syndrome)
        return room

    def _reach(
        self, pair: ReliablePair, peer: Peer, message: ReliableMessage, need: Access, length: int
    ) -> tuple[Memory, int] | None:
        """The memory that a peer means; None where the key, the range, or a right of region or queue pair is wrong."""
        if pair.domain is None or need & ~peer.access:
            return None
        return pair.domain.find(message.remote_key, message.remote_address, length, need)

    def _answer_read(self, pair: ReliablePair, peer: Peer, message: ReliableMessage) -> int:
        """Of how many packets the response is; none where it is denied."""
        packets = max(1, -(-message.length // message.mtu_bytes))
        runs = []
        if message.length:
            place = self._reach(pair, peer, message, Access.REMOTE_READ, message.length)
            if place is None:
                self._deny(pair, peer, message, Nak.REMOTE_ACCESS)
                return 0
            memory, at = place
            step = RUN_PACKETS * message.mtu_bytes
            runs = [
                memory.read(at + offset, min(step, message.length - offset))
                for offset in range(0, message.length, step)
            ]
        psn = message.psn
        for number, data in enumerate(runs or [b""]):
            if data is None:
                self._deny(pair, peer, message, Nak.REMOTE_OPERATION)
                return 0
            count = max(1, -(-len(data) // message.mtu_bytes))
            self._emit(
                pair, peer, Kind.RESPONSE, psn, packets=count, payload=data, first=not number,
                last=number + 1 >= len(runs), mtu_bytes=message.mtu_bytes,
            )  # fmt: skip
            psn = (psn + count) & PSN_MASK
        return packets

    def _answer_atomic(self, pair: ReliablePair, peer: Peer, message: ReliableMessage) -> None:
        place = self._reach(pair, peer, message, Access.REMOTE_ATOMIC, ATOMIC_BYTES)
        if place is None or message.remote_address % ATOMIC_BYTES:
            self._deny(pair, peer, message, Nak.INVALID_REQUEST if place is not None else Nak.REMOTE_ACCESS)
            return
        memory, at = place
        old = memory.read(at, ATOMIC_BYTES)
        if old is None or not memory.write(at, atomic_result(message.kind, old, message.compare_add, message.swap)):
            self._deny(pair, peer, message, Nak.REMOTE_OPERATION)
            return
        pair.receive_psn = (pair.receive_psn + 1) & PSN_MASK
        pair.sequence = (pair.sequence + 1) & PSN_MASK
        pair.atomics[message.psn] = old
        if len(pair.atomics) > SAVED_ATOMICS:
            del pair.atomics[next(iter(pair.atomics))]
        self._emit(pair, peer, Kind.ATOMIC_RESPONSE, message.psn, payload=old)

    def _deny(
        self, pair: ReliablePair, peer: Peer, message: ReliableMessage, why: Nak, room: ReceiveRequest | None = None
    ) -> bool:
        """A request that must not be: both ends of the connection fail."""
        self._emit(pair, peer, Kind.NAK, message.psn, syndrome=why)
        access = why is Nak.REMOTE_ACCESS
        pair.queues.raised(PairEvent.ACCESS_ERROR if access else PairEvent.REQUEST_ERROR)
        if room is not None:
            pair.queues.received(room, Status.FLUSHED, Arrival())
        self._fail(pair)
        return False
