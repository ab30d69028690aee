"""The short way between two connected queue pairs: a message is moved, acknowledged and completed in one step.

Read first: `verbs.generation`; `fabric.reliable` for the long way. A flow remembers that the two are each other's peer,
that a way without loss, delay or capture leads there and back, and that their partitions fit; it holds while the
generation counter stands still. It decides nothing: keys, ranges, rights, room and memory are looked at for every
message, and what would not end well goes the long way, which finds out why. Counters of ports are brought up to date
by `flush_counters`.
"""

from __future__ import annotations

from ibbond.fabric.packet import (
    ACK_HEADER_BYTES,
    ATOMIC_HEADER_BYTES,
    RDMA_HEADER_BYTES,
    RELIABLE_OVERHEAD,
    padded,
)
from ibbond.fabric.reliable_pair import PSN_MASK, RUN_PACKETS, PairState, ReliablePair, atomic_result, gather, scatter
from ibbond.fabric.transit import PathTrace
from ibbond.verbs.memory import Access, Memory
from ibbond.verbs.reliable_verbs import (
    ATOMIC_BYTES,
    ATOMICS,
    Arrival,
    Kind,
    Operation,
    Peer,
    ReceiveRequest,
    SendRequest,
    Status,
)

# Numbers, for an operation on a member of an IntFlag takes a microsecond.
LOCAL_WRITE, REMOTE_WRITE, REMOTE_READ, REMOTE_ATOMIC = (right.value for right in Access)


class ReliableFlow:
    """From one queue pair to its peer, as of one generation."""

    __slots__ = (
        "_back_bytes", "_back_packets", "_bytes", "_mine", "_other", "_packets", "_there", "_to", "_walks", "generation"
    )  # fmt: skip

    def __init__(
        self, generation: int, mine: ReliablePair, other: ReliablePair, walk: PathTrace, back: PathTrace
    ) -> None:
        assert mine.peer is not None
        assert other.peer is not None
        self.generation = generation
        self._mine = mine
        self._other = other
        self._to: Peer = mine.peer
        self._there: Peer = other.peer
        self._walks = walk, back
        self._packets = self._bytes = self._back_packets = self._back_bytes = 0

    @property
    def stale(self) -> bool:
        """Whether an end is connected otherwise than it was."""
        mine, other = self._mine, self._other
        return mine.peer is not self._to or other.peer is not self._there or other.state is PairState.ERROR

    @property
    def open(self) -> bool:
        """Whether a message would be the next one at both ends."""
        mine, other = self._mine, self._other
        return (
            mine.state is PairState.READY
            and other.state is PairState.READY
            and mine.send_psn == other.receive_psn
            and other.receiving is None
        )

    def carry(self, request: SendRequest) -> bool:
        """Move a message and complete it at both ends; False where it must go the long way: nothing has happened."""
        if request.fault is not None:
            return False
        operation, mine, other = request.operation, self._mine, self._other
        arrival, room = None, None
        if operation is Operation.SEND:
            room = self._room()
            if room is None or not self._send(request, room):
                return False
            arrival = Arrival(request.length, request.immediate, request.solicited)
        elif operation is Operation.WRITE:
            if request.immediate:
                room = self._room()
                if room is None:
                    return False
                arrival = Arrival(request.length, request.immediate, request.solicited, written=True)
            if request.length and not self._write(request):
                return False
        elif operation in ATOMICS:
            if not self._atomic(request):
                return False
        elif request.length and not self._read(request):
            return False
        self._count(request, operation)
        if room is not None and arrival is not None:
            other.room = None
            other.queues.received(room, Status.SUCCESS, arrival)
        mine.queues.sent(request, Status.SUCCESS)
        return True

    def flush_counters(self) -> None:
        """Add what was carried since the last time to the counters of all ports on the way."""
        walk, back = self._walks
        if self._packets:
            walk.count(self._packets, self._bytes, RELIABLE_OVERHEAD)
        if self._back_packets:
            back.count(self._back_packets, self._back_bytes, RELIABLE_OVERHEAD)
        self._packets = self._bytes = self._back_packets = self._back_bytes = 0

    def _room(self) -> ReceiveRequest | None:
        """What the peer has posted; it stays the next one until a message has come to it."""
        other = self._other
        if other.room is None:
            other.room = other.queues.next_receive()
        return other.room

    def _send(self, request: SendRequest, room: ReceiveRequest) -> bool:
        length = request.length
        if room.fault is not None:
            return False
        if not length:
            return True
        if len(room.pieces) == 1 and len(request.pieces) == 1:
            address, size, key = room.pieces[0]
            domain = self._other.domain
            if size < length or domain is None:
                return False
            return self._move(request, domain.find(key, address, length, LOCAL_WRITE))
        if sum(piece.length for piece in room.pieces) < length:
            return False
        data = gather(self._mine.domain, request, 0, length)
        return data is not None and scatter(self._other.domain, room.pieces, 0, data)

    def _write(self, request: SendRequest) -> bool:
        return self._move(request, self._reach(request, REMOTE_WRITE, request.length))

    def _read(self, request: SendRequest) -> bool:
        place = self._reach(request, REMOTE_READ, request.length)
        domain = self._mine.domain
        if place is None or domain is None:
            return False
        memory, at = place
        for address, size, key in request.pieces:
            if size:
                target = domain.find(key, address, size, LOCAL_WRITE)
                if target is None or not memory.copy(at, target[0], target[1], size):
                    return False
                at += size
        return True

    def _atomic(self, request: SendRequest) -> bool:
        place = self._reach(request, REMOTE_ATOMIC, ATOMIC_BYTES)
        if place is None or request.remote_address % ATOMIC_BYTES:
            return False
        memory, at = place
        old = memory.read(at, ATOMIC_BYTES)
        if old is None or not scatter(self._mine.domain, request.pieces, 0, old):
            return False
        kind = Kind.FETCH_ADD if request.operation is Operation.FETCH_ADD else Kind.COMPARE_SWAP
        return memory.write(at, atomic_result(kind, old, request.compare_add, request.swap))

    def _reach(self, request: SendRequest, need: int, length: int) -> tuple[Memory, int] | None:
        domain = self._other.domain
        if domain is None or need & ~self._there.access:
            return None
        return domain.find(request.remote_key, request.remote_address, length, need)

    def _move(self, request: SendRequest, place: tuple[Memory, int] | None) -> bool:
        """The request's data to one place of the peer's memory."""
        if place is None:
            return False
        target, at = place
        if request.inline is not None:
            return target.write(at, request.inline)
        domain = self._mine.domain
        for address, size, key in request.pieces:
            if size:
                source = domain.find(key, address, size, 0) if domain is not None else None
                if source is None or not source[0].copy(source[1], target, at, size):
                    return False
                at += size
        return True

    def _count(self, request: SendRequest, operation: Operation) -> None:
        """Numbers and packets as if it was gone the long way."""
        mine, other = self._mine, self._other
        length = request.length
        packets = -(-length // self._to.mtu_bytes) or 1
        if operation is Operation.SEND or operation is Operation.WRITE:
            self._packets += packets
            self._bytes += padded(length) + len(request.immediate)
            self._bytes += RDMA_HEADER_BYTES if operation is Operation.WRITE else 0
            acknowledged = -(-packets // RUN_PACKETS)
            self._back_packets += acknowledged
            self._back_bytes += ACK_HEADER_BYTES * acknowledged
        elif operation is Operation.READ:
            self._packets += 1
            self._bytes += RDMA_HEADER_BYTES
            self._back_packets += packets
            self._back_bytes += padded(length) + ACK_HEADER_BYTES * min(packets, 2)
        else:
            packets = 1
            self._packets += 1
            self._bytes += ATOMIC_HEADER_BYTES
            self._back_packets += 1
            self._back_bytes += ATOMIC_BYTES + ACK_HEADER_BYTES
        mine.send_psn = other.receive_psn = (mine.send_psn + packets) & PSN_MASK
        other.sequence = (other.sequence + 1) & PSN_MASK
