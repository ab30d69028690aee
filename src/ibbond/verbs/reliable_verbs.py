"""What a reliable connection offers to software, and the messages that it puts on the wire.

Read first: InfiniBand Architecture volume 1, 9.7 (reliable service), 10.2.6 and 10.6 (keys, memory regions), 11.6.2
(completion codes). Memory is addressed by key and byte offset, as with zero-based regions. Left out: atomics, immediate
data, memory windows, scatter lists of more than one entry.
"""

import enum
from dataclasses import dataclass


class Operation(enum.Enum):
    SEND = "send"
    WRITE = "write"
    READ = "read"
    RECEIVE = "receive"


class Status(enum.Enum):
    """How a work request ended (`ibv_wc_status`)."""

    SUCCESS = "success"
    LOCAL_LENGTH = "local length error"
    LOCAL_PROTECTION = "local protection error"
    FLUSHED = "work request flushed"
    REMOTE_INVALID_REQUEST = "remote invalid request"
    REMOTE_ACCESS = "remote access error"
    REMOTE_OPERATION = "remote operation error"
    RETRY_EXCEEDED = "transport retry counter exceeded"
    RNR_RETRY_EXCEEDED = "receiver not ready retry counter exceeded"


@dataclass(frozen=True, slots=True)
class Work:
    """Something to send, write or read. Local bytes are `length` at `offset` of region `key`, or `inline` itself.

    `number` comes back in the completion; without `signaled` only a failure has one. Offsets and lengths are bytes.
    `offload` is the virtio-net header of an inline IPoIB train of segments, which travels whole: it stands for as many
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


@dataclass(frozen=True, slots=True)
class Peer:
    """What a queue pair must know to be connected. `timeout` is a code: 4.096 us x 2^timeout until an ACK is missed.

    After `retry_count` repetitions without an answer the queue pair fails; `rnr_retry_count` 7 is for ever.
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


class Kind(enum.Enum):
    """What a message on the wire is."""

    SEND = enum.auto()
    WRITE = enum.auto()
    READ = enum.auto()
    RESPONSE = enum.auto()  # to a READ
    ACK = enum.auto()
    NAK = enum.auto()


class Nak(enum.IntEnum):
    """Syndromes of a negative acknowledgment, as the AETH has them (9.7.5.2.8)."""

    RECEIVER_NOT_READY = 0x2E  # timer code 14: 1 ms
    SEQUENCE = 0x60
    INVALID_REQUEST = 0x61
    REMOTE_ACCESS = 0x62
    REMOTE_OPERATION = 0x63


@dataclass(frozen=True, slots=True)
class ReliableMessage:
    """A message between two connected queue pairs: one value here, `packets` packets on a wire.

    `psn` is the number of its first packet (for ACK and NAK the number that it is about).
    """

    source_lid: int
    destination_lid: int
    pkey: int
    destination_qpn: int
    kind: Kind
    psn: int
    packets: int = 1
    mtu_bytes: int = 2048
    payload: bytes = b""
    remote_key: int = 0
    remote_offset: int = 0
    length: int = 0  # of what a READ asks for
    syndrome: int = 0
    service_level: int = 0
    offload: bytes = b""
