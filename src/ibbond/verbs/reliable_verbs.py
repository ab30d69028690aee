"""What a reliable connection offers to software, and the messages that it puts on the wire.

Read first: InfiniBand Architecture volume 1, 9.7 (reliable service), 10.8 (work requests), 11.6.2 (completion codes).
Drivers and programs of the Python API post `Work` and `Receive`; the transport itself takes `SendRequest` and
`ReceiveRequest` from the `Queues` of a queue pair, wherever these are. Left out: memory windows.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from ibbond.machine import Symbol
from ibbond.wire.rxe import Sge

IMMEDIATE_BYTES = 4
ATOMIC_BYTES = 8


class Operation(Symbol):
    SEND = "send"
    WRITE = "write"
    READ = "read"
    COMPARE_SWAP = "compare and swap"
    FETCH_ADD = "fetch and add"
    RECEIVE = "receive"


ATOMICS = (Operation.COMPARE_SWAP, Operation.FETCH_ADD)
FETCHES = (Operation.READ, *ATOMICS)
"""What brings bytes back: its memory is written, and its response ends it."""


class Status(Symbol):
    """How a work request ended (`ibv_wc_status`)."""

    SUCCESS = "success"
    LOCAL_LENGTH = "local length error"
    LOCAL_OPERATION = "local queue pair operation error"
    LOCAL_PROTECTION = "local protection error"
    FLUSHED = "work request flushed"
    REMOTE_INVALID_REQUEST = "remote invalid request"
    REMOTE_ACCESS = "remote access error"
    REMOTE_OPERATION = "remote operation error"
    RETRY_EXCEEDED = "transport retry counter exceeded"
    RNR_RETRY_EXCEEDED = "receiver not ready retry counter exceeded"


class PairEvent(enum.Enum):
    """Asynchronous events of a queue pair (`ib_event_type`)."""

    ESTABLISHED = enum.auto()  # a message came before the queue pair was in RTS
    REQUEST_ERROR = enum.auto()  # a peer's request was invalid
    ACCESS_ERROR = enum.auto()  # a peer's request touched what it must not
    DRAINED = enum.auto()


@dataclass(frozen=True, slots=True)
class Work:
    """Something to send, write or read. Local bytes are `length` at `offset` of region `key`, or `inline` itself.

    `number` comes back in the completion; without `signaled` only a failure has one. Offsets and lengths are bytes.
    `offload` is the virtio-net header of an inline IPoIB GSO packet, which travels whole: it stands for as many
    messages as it has segments.
    """

    number: int
    operation: Operation
    key: int = 0
    offset: int = 0
    length: int = 0
    remote_key: int = 0
    remote_offset: int = 0
    inline: bytes = b""
    offload: bytes = b""
    signaled: bool = True


@dataclass(frozen=True, slots=True)
class Receive:
    """Room for one message that a peer sends."""

    number: int
    key: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Completion:
    """The end of a work request: of `length` bytes when it went well."""

    number: int
    operation: Operation
    status: Status
    length: int = 0


@dataclass(eq=False, slots=True)
class SendRequest:
    """A work request as the transport sees it: `length` bytes of `pieces` or of `inline`.

    One with a `fault` cannot be carried out, and fails so when its turn comes. `immediate` has 4 bytes or none.
    """

    number: int
    operation: Operation
    pieces: tuple[Sge, ...] = ()
    length: int = 0
    inline: bytes | None = None
    remote_key: int = 0
    remote_address: int = 0
    signaled: bool = True
    solicited: bool = False
    fence: bool = False
    immediate: bytes = b""
    offload: bytes = b""
    compare_add: int = 0
    swap: int = 0
    fault: Status | None = None


class ReceiveRequest(NamedTuple):
    """Room for a message, or `fault` where it cannot be used."""

    number: int
    pieces: tuple[Sge, ...]
    fault: Status | None = None


class Arrival(NamedTuple):
    """What ended a receive: of `length` bytes. `written`: they went by RDMA, and the receive only reports it."""

    length: int = 0
    immediate: bytes = b""
    solicited: bool = False
    written: bool = False


class Queues(Protocol):
    """Where a queue pair finds its work, and says how that ended."""

    def next_send(self) -> SendRequest | None:
        """The next request that is not begun."""
        ...

    def next_receive(self) -> ReceiveRequest | None:
        """Take room for a message that has come."""
        ...

    def left_receives(self) -> Iterable[ReceiveRequest]:
        """Take all room that only this queue pair could use, to be flushed."""
        ...

    def sent(self, request: SendRequest, status: Status) -> None:
        """A request has completed, signaled or not; in the order of `next_send`."""
        ...

    def received(self, request: ReceiveRequest, status: Status, arrival: Arrival) -> None: ...

    def raised(self, event: PairEvent) -> None: ...


@dataclass(frozen=True, slots=True)
class Peer:
    """What a queue pair must know to be connected. `timeout` is a code: 4.096 us x 2^timeout until an ACK is missed.

    Code 0 waits forever. After `retry_count` repetitions without an answer the queue pair fails; `rnr_retry_count` 7
    is forever. `rnr_timer` is the code (table 45 of the standard) of the time that a peer waits where it finds no
    room; `max_reads` is how many requests may wait for bytes at once.
    """

    lid: int
    qpn: int
    send_psn: int
    receive_psn: int
    mtu_bytes: int = 2048
    timeout: int = 14
    retry_count: int = 7
    rnr_retry_count: int = 7
    pkey: int = 0xFFFF
    service_level: int = 0
    rnr_timer: int = 14
    max_reads: int = 16
    access: int = 0xF  # what peers may do by this queue pair (`memory.Access`)


class Kind(enum.Enum):
    """What a message on the wire is."""

    SEND = enum.auto()
    WRITE = enum.auto()
    READ = enum.auto()
    COMPARE_SWAP = enum.auto()
    FETCH_ADD = enum.auto()
    RESPONSE = enum.auto()  # to a READ
    ATOMIC_RESPONSE = enum.auto()
    ACK = enum.auto()
    NAK = enum.auto()


REQUESTS = (Kind.SEND, Kind.WRITE, Kind.READ, Kind.COMPARE_SWAP, Kind.FETCH_ADD)


class Nak(enum.IntEnum):
    """Syndromes of a negative acknowledgment, as the AETH has them (9.7.5.2.8)."""

    RECEIVER_NOT_READY = 0x20  # and the code of the time to wait
    SEQUENCE = 0x60
    INVALID_REQUEST = 0x61
    REMOTE_ACCESS = 0x62
    REMOTE_OPERATION = 0x63


@dataclass(frozen=True, slots=True)
class ReliableMessage:
    """A message between two connected queue pairs, or a run of its packets: one value here, `packets` on a wire.

    `psn` is the number of its first packet (for ACK and NAK the number that it is about). A long message goes in runs,
    of which one is `first` and one `last`; `remote_address` is then that of the run's own bytes. `source_qpn` is on no
    wire: with it, who guesses numbers cannot speak for another queue pair.
    """

    source_lid: int
    source_qpn: int
    destination_lid: int
    pkey: int
    destination_qpn: int
    kind: Kind
    psn: int
    packets: int = 1
    mtu_bytes: int = 2048
    payload: bytes = b""
    remote_key: int = 0
    remote_address: int = 0
    length: int = 0  # of what a READ asks for, of all that a WRITE writes
    syndrome: int = 0
    service_level: int = 0
    offload: bytes = b""
    first: bool = True
    last: bool = True
    immediate: bytes = b""
    solicited: bool = False
    compare_add: int = 0
    swap: int = 0
    sequence: int = 0  # messages that the responder has completed


def posted(work: Work) -> SendRequest:
    """A request of a driver or of the Python API as the transport takes it."""
    inline = work.inline or None
    pieces = (Sge(work.offset, work.length, work.key),) if inline is None else ()
    return SendRequest(
        work.number,
        work.operation,
        pieces,
        len(inline) if inline is not None else work.length,
        inline,
        work.remote_key,
        work.remote_offset,
        signaled=work.signaled,
        offload=work.offload,
    )


def cut(pieces: Iterable[Sge], offset: int, length: int) -> Iterator[Sge]:
    """The part of a scatter list that has these bytes of it."""
    for address, size, key in pieces:
        if offset >= size:
            offset -= size
            continue
        step = min(size - offset, length)
        if not step:
            return
        yield Sge(address + offset, step, key)
        offset, length = 0, length - step
