"""One end of a reliable connection: what its two halves, which send and which answer, know together.

Read first: InfiniBand Architecture volume 1, 10.3.1 (states of a queue pair), 9.7.5.2.8 (times of a receiver that is
not ready). What is done with it is in `reliable` (requests), `responder` (answers) and `reliable_flow` (both in one
step).
"""

from __future__ import annotations

import enum
import sys
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from ibbond.fabric.port import Port
from ibbond.verbs.memory import Access, ProtectionDomain
from ibbond.verbs.reliable_verbs import (
    ATOMIC_BYTES,
    Kind,
    Peer,
    Queues,
    ReceiveRequest,
    SendRequest,
    Status,
    cut,
)
from ibbond.wire.rxe import Sge

PSN_MASK = 0xFFFFFF
PSN_HALF = 0x800000
RUN_PACKETS = 16  # that a long message goes in at once
RNR_DELAYS_10US = (
    65536, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096,
    6144, 8192, 12288, 16384, 24576, 32768, 49152,
)  # fmt: skip
"""How long a sender waits, by RNR timer code (9.7.5.2.8, table 45)."""


class PairState(enum.Enum):
    """RESET and INIT are one here."""

    INIT = enum.auto()
    RECEIVING = enum.auto()  # RTR
    READY = enum.auto()  # RTS
    ERROR = enum.auto()


@dataclass(eq=False, slots=True)
class Sent:
    """A request that is begun; `psn` is its first number, of `packets`, of which `done` are acknowledged or answered.

    One whose own memory cannot be read stays at home (`fault`), and all behind it; it fails when its turn comes.
    """

    request: SendRequest
    psn: int
    packets: int
    emitted: int = 0
    done: int = 0
    fault: Status | None = None


@dataclass(eq=False, slots=True)
class Receiving:
    """A message of which the first packets have come."""

    request: ReceiveRequest
    length: int = 0


@dataclass(eq=False, slots=True)
class ReliablePair:
    qpn: int
    port: Port
    domain: ProtectionDomain | None
    queues: Queues
    kernel_consumer: bool = False  # a driver's: it always has room, and takes messages whole
    state: PairState = PairState.INIT
    peer: Peer | None = None
    send_psn: int = 0
    receive_psn: int = 0
    in_flight: deque[Sent] = field(default_factory=deque)
    held: SendRequest | None = None  # the next one, which has to wait for others
    receiving: Receiving | None = None
    sequence: int = 0  # messages of the peer that are complete
    atomics: dict[int, bytes] = field(default_factory=dict)  # answers by PSN, for duplicates
    retries_left: int = 0
    rnr_left: int = 0
    expires_at: int | None = None
    timer_set: bool = False
    paused: bool = False  # the receiver was not ready: nothing goes, and one `_resume` is in the schedule
    nak_sent: bool = False  # a NAK said which message must come next, and it has not come
    burst_at: int = -1
    burst: int = 0  # requests begun at that moment
    room: ReceiveRequest | None = None  # taken out of the queue for a message that has to come in packets
    asked_again: bool = False  # a run of a response was missing, and what is missing goes again

    @property
    def speaks(self) -> bool:
        """Whether messages of its peer are taken."""
        return self.peer is not None and self.state in (PairState.READY, PairState.RECEIVING)


def connected(mine: ReliablePair, other: ReliablePair) -> bool:
    """Whether two queue pairs are each other's peer, and what one sends passes the checks of the other."""
    to, back = mine.peer, other.peer
    if to is None or back is None or mine.state is not PairState.READY or not other.speaks:
        return False
    addressed = (to.lid, to.qpn, back.lid, back.qpn) == (other.port.lid, other.qpn, mine.port.lid, mine.qpn)
    return addressed and other.port.admits(to.pkey) and mine.port.admits(back.pkey)


def atomic_result(kind: Kind, old: bytes, compare_add: int, swap: int) -> bytes:
    """What memory holds after an atomic operation on these 8 bytes, in the host's order as programs see them."""
    value = int.from_bytes(old, sys.byteorder)
    if kind is Kind.FETCH_ADD:
        value = (value + compare_add) & (1 << 64) - 1
    elif value == compare_add:
        value = swap
    return value.to_bytes(ATOMIC_BYTES, sys.byteorder)


def scatter(domain: ProtectionDomain | None, pieces: Iterable[Sge], offset: int, data: bytes) -> bool:
    """Put bytes into local memory, at `offset` of a scatter list; whether keys, rights and memory were there."""
    at = 0
    for address, size, key in cut(pieces, offset, len(data)):
        place = domain.find(key, address, size, Access.LOCAL_WRITE.value) if domain is not None else None
        if place is None or not place[0].write(place[1], data[at : at + size]):
            return False
        at += size
    return at == len(data)


def gather(domain: ProtectionDomain | None, request: SendRequest, offset: int, length: int) -> bytes | None:
    """These bytes of a request's local data; None where a key, a range or the memory is wrong."""
    if request.inline is not None:
        return request.inline[offset : offset + length] if offset or length < request.length else request.inline
    found = []
    for address, size, key in cut(request.pieces, offset, length):
        place = domain.find(key, address, size, 0) if domain is not None else None
        data = place[0].read(place[1], size) if place is not None else None
        if data is None:
            return None
        found.append(data)
    return found[0] if len(found) == 1 else b"".join(found)
