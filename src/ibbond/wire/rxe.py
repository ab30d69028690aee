"""Queues of librxe as bytes: rings of work requests and completions that a program shares with its adapter.

Read first: rdma/rdma_user_rxe.h of Linux. A queue is a power of two of slots behind two indices; it is empty where
they are equal, full where the producer is one behind the consumer. The program writes the producer index of send and
receive queues and the consumer index of completion queues, and may write anything anywhere: what is read here is
masked, bounded, or `Malformed`. A slot is written before its index. Left out: memory windows, the address vector of
RoCE.
"""

from __future__ import annotations

import enum
import struct
from typing import NamedTuple

from ibbond.errors import Malformed

SLOTS = 384  # where the slots begin
PRODUCER, CONSUMER = 128 // 4, 256 // 4  # words
PAGE = 4096
SEND_HEADER_BYTES = 208
RECEIVE_HEADER_BYTES = 40
SGE = struct.Struct("=QII")
COMPLETION_BYTES = 48


class SendFlags(enum.IntFlag):
    """`enum ib_send_flags`."""

    FENCE = 1
    SIGNALED = 2
    SOLICITED = 4
    INLINE = 8


class SendOpcode(enum.IntEnum):
    """`enum ib_wr_opcode`."""

    WRITE = 0
    WRITE_IMM = 1
    SEND = 2
    SEND_IMM = 3
    READ = 4
    COMPARE_SWAP = 5
    FETCH_ADD = 6
    LOCAL_INV = 7
    BIND_MW = 8
    SEND_INV = 9


class CompletionOpcode(enum.IntEnum):
    """`enum ib_wc_opcode`."""

    SEND = 0
    WRITE = 1
    READ = 2
    COMPARE_SWAP = 3
    FETCH_ADD = 4
    RECV = 128
    RECV_WRITE_IMM = 129


class CompletionFlags(enum.IntFlag):
    """`enum ib_wc_flags`."""

    GRH = 1
    IMM = 2
    INVALIDATE = 8


class CompletionStatus(enum.IntEnum):
    """`enum ib_wc_status`."""

    SUCCESS = 0
    LOC_LEN_ERR = 1
    LOC_QP_OP_ERR = 2
    LOC_PROT_ERR = 4
    WR_FLUSH_ERR = 5
    REM_INV_REQ_ERR = 9
    REM_ACCESS_ERR = 10
    REM_OP_ERR = 11
    RETRY_EXC_ERR = 12
    RNR_RETRY_EXC_ERR = 13


class Sge(NamedTuple):
    """A piece of memory by its key; `address` is in the key's own numbers, lengths are bytes."""

    address: int
    length: int
    key: int


class SendRequest(NamedTuple):
    """A work request of a send queue; `inline` is its data where the flags say so, else `pieces` are."""

    number: int
    opcode: int
    flags: int
    immediate: bytes
    length: int
    pieces: tuple[Sge, ...]
    inline: bytes
    remote_address: int  # of RDMA and atomics
    remote_key: int
    compare_add: int
    swap: int
    remote_qpn: int  # of datagrams
    remote_qkey: int
    address_handle: int


class ReceiveRequest(NamedTuple):
    number: int
    pieces: tuple[Sge, ...]


class WorkCompletion(NamedTuple):
    """`ib_uverbs_wc`."""

    number: int
    status: int
    opcode: int
    vendor_error: int
    length: int
    immediate: bytes
    qpn: int
    source_qpn: int
    flags: int
    pkey_index: int
    source_lid: int
    service_level: int
    path_bits: int
    port: int

    @classmethod
    def parse(cls, raw: bytes | memoryview, at: int = 0) -> WorkCompletion:
        if len(raw) < at + COMPLETION.size:
            raise Malformed(f"a work completion has {COMPLETION.size} bytes, got {len(raw) - at}")
        return cls(*COMPLETION.unpack_from(raw, at))

    def pack(self) -> bytes:
        return COMPLETION.pack(*self)


COMPLETION = struct.Struct("=QIIII4sIIIHHBBBx")
_INLINE = SendFlags.INLINE.value  # an operation on a member of an IntFlag takes a microsecond
_sge = Sge._make
_SEND = struct.Struct("=Q4xII4s")  # number, opcode, flags, immediate
_RDMA = struct.Struct("=QI")
_ATOMIC = struct.Struct("=QQQI")
_DATAGRAM = struct.Struct("=II4xI")
_LENGTH_COUNT = struct.Struct("=I8xI")  # at 184 of a send request
_RECEIVE = struct.Struct("=Q20xI")
_ATOMICS = (SendOpcode.COMPARE_SWAP, SendOpcode.FETCH_ADD)


class RingShape(NamedTuple):
    """How large a queue is: slots (a power of two, one of which stays free), bytes of a slot, bytes of all in pages."""

    slots: int
    slot_bytes: int
    total: int

    @classmethod
    def of(cls, entries: int, element_bytes: int) -> RingShape:
        """For at least so many entries of at least so many bytes."""
        slots, slot = power_of_two(entries + 1), power_of_two(element_bytes)
        return cls(slots, slot, -(-(SLOTS + slots * slot) // PAGE) * PAGE)

    @property
    def entries(self) -> int:
        return self.slots - 1


def send_shape(entries: int, pieces: int, inline_bytes: int) -> RingShape:
    return RingShape.of(max(1, entries), SEND_HEADER_BYTES + max(SGE.size * pieces, inline_bytes))


def receive_shape(entries: int, pieces: int) -> RingShape:
    return RingShape.of(max(1, entries), RECEIVE_HEADER_BYTES + SGE.size * pieces)


def completion_shape(entries: int) -> RingShape:
    return RingShape.of(max(1, entries), COMPLETION_BYTES)


def power_of_two(number: int) -> int:
    """The smallest power of two that is not below `number`."""
    return 1 << (number - 1).bit_length()


class Ring:
    """One queue in memory that a program can write to; `words` and `data` are the same memory."""

    __slots__ = ("data", "log2", "mask", "words")

    def __init__(self, memory: memoryview, shape: RingShape) -> None:
        """`memory` has exactly `shape.total` bytes; indices begin at zero."""
        self.data = memory
        self.words = memory.cast("I")
        self.mask = shape.slots - 1
        self.log2 = shape.slot_bytes.bit_length() - 1
        self.words[0], self.words[1] = self.log2, self.mask
        self.reset()

    def reset(self) -> None:
        self.words[PRODUCER] = self.words[CONSUMER] = 0

    def release(self) -> None:
        """Let go of the memory; the ring must not be used after."""
        self.words.release()
        self.data.release()

    @property
    def producer(self) -> int:
        return self.words[PRODUCER] & self.mask

    @property
    def consumer(self) -> int:
        return self.words[CONSUMER] & self.mask

    def at(self, index: int) -> int:
        """Where the slot of this index begins."""
        return SLOTS + ((index & self.mask) << self.log2)

    def advance_consumer(self) -> None:
        self.words[CONSUMER] = (self.words[CONSUMER] + 1) & self.mask

    def waiting(self) -> int:
        """Elements that are written and not yet consumed."""
        return (self.producer - self.consumer) & self.mask

    def copy_waiting(self, other: Ring) -> bool:
        """Begin with what waits in `other`, whose slots have the same size; False, unchanged, if there is no room."""
        first = other.consumer
        count = (other.producer - first) & other.mask
        if count > self.mask:
            return False
        before_wrap = min(count, other.mask + 1 - first)
        size, rest = before_wrap << self.log2, (count - before_wrap) << self.log2
        at = other.at(first)
        self.data[SLOTS : SLOTS + size] = other.data[at : at + size]
        self.data[SLOTS + size : SLOTS + size + rest] = other.data[SLOTS : SLOTS + rest]
        self.words[CONSUMER], self.words[PRODUCER] = 0, count
        return True

    def produce(self, element: bytes) -> bool:
        """Write an element behind the last; whether there was room."""
        index = self.words[PRODUCER] & self.mask
        following = (index + 1) & self.mask
        if following == self.words[CONSUMER] & self.mask:
            return False
        at = SLOTS + (index << self.log2)
        self.data[at : at + len(element)] = element
        self.words[PRODUCER] = following
        return True


def parse_send(memory: memoryview, at: int, *, max_pieces: int, max_inline: int) -> SendRequest:
    """Read a slot of a send queue; `Malformed` for more pieces or inline bytes than the queue pair has room for."""
    number, opcode, flags, immediate = _SEND.unpack_from(memory, at)
    length, count = _LENGTH_COUNT.unpack_from(memory, at + 184)
    pieces: tuple[Sge, ...] = ()
    inline = b""
    if flags & _INLINE:
        if length > max_inline:
            raise Malformed(f"{length} inline bytes, there is room for {max_inline}")
        inline = bytes(memory[at + SEND_HEADER_BYTES : at + SEND_HEADER_BYTES + length])
    else:
        pieces = _pieces(memory, at + SEND_HEADER_BYTES, count, max_pieces)
        length = pieces[0].length if count == 1 else sum(piece.length for piece in pieces)
    address = key = compare = swap = qpn = qkey = handle = 0
    if opcode in _ATOMICS:
        address, compare, swap, key = _ATOMIC.unpack_from(memory, at + 24)
    else:
        address, key = _RDMA.unpack_from(memory, at + 24)
        qpn, qkey, handle = _DATAGRAM.unpack_from(memory, at + 24)
    return SendRequest(
        number, opcode, flags, immediate, length, pieces, inline, address, key, compare, swap, qpn, qkey, handle
    )


def parse_receive(memory: memoryview, at: int, *, max_pieces: int) -> ReceiveRequest:
    """Read a slot of a receive queue; `Malformed` for more pieces than it has room for."""
    number, count = _RECEIVE.unpack_from(memory, at)
    return ReceiveRequest(number, _pieces(memory, at + RECEIVE_HEADER_BYTES, count, max_pieces))


def _pieces(memory: memoryview, at: int, count: int, most: int) -> tuple[Sge, ...]:
    if count > most:
        raise Malformed(f"{count} pieces of memory, there is room for {most}")
    if count == 1:
        return (_sge(SGE.unpack_from(memory, at)),)
    return tuple(_sge(SGE.unpack_from(memory, at + SGE.size * number)) for number in range(count))


def pack_send(request: SendRequest) -> bytes:
    """As a program writes it (librxe's `post_one_send`)."""
    out = bytearray(SEND_HEADER_BYTES)
    _SEND.pack_into(out, 0, request.number, request.opcode, request.flags, request.immediate)
    if request.opcode in _ATOMICS:
        _ATOMIC.pack_into(out, 24, request.remote_address, request.compare_add, request.swap, request.remote_key)
    elif request.remote_qpn:
        _DATAGRAM.pack_into(out, 24, request.remote_qpn, request.remote_qkey, request.address_handle)
    else:
        _RDMA.pack_into(out, 24, request.remote_address, request.remote_key)
    _LENGTH_COUNT.pack_into(out, 184, request.length, len(request.pieces))
    return bytes(out) + (request.inline or b"".join(SGE.pack(*piece) for piece in request.pieces))


def pack_receive(request: ReceiveRequest) -> bytes:
    head = _RECEIVE.pack(request.number, len(request.pieces)).ljust(RECEIVE_HEADER_BYTES, b"\0")
    return head + b"".join(SGE.pack(*piece) for piece in request.pieces)
