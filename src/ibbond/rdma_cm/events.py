"""Requests of programs to RDMA CM and the events that they receive: the calls and events of librdmacm as values.

Read first: rdma_cm(7), and annex A11 of the InfiniBand Architecture (RDMA IP CM service). A program numbers its own ids
from 0; ids created by an incoming connection request are numbered from `ARRIVED_IDS`. IP addresses are 4 or 16 bytes.
Left out: datagram services, multicast join, several port spaces.
"""

import enum
from dataclasses import dataclass

from ibbond.verbs.reliable_verbs import Completion, Receive, Work

ARRIVED_IDS = 1 << 24


@dataclass(frozen=True, slots=True)
class Bind:
    """Bind the id to a service port (0: any free port) and an address of the host (`rdma_bind_addr`).

    An all-zero address means any address of its length. Any other one binds the id to the device that has the address.
    `only` excludes peers of the other IP version (RDMA_OPTION_ID_AFONLY); ids with `reuse` may bind the same port until
    one of them listens (RDMA_OPTION_ID_REUSEADDR).
    """

    id: int
    port: int
    address: bytes = b""
    only: bool = False
    reuse: bool = False


@dataclass(frozen=True, slots=True)
class Listen:
    """Accept connections to a service port (`rdma_listen`), at any address of the host (empty or zeros) or at one.

    With one address the id belongs to the device that has it, and receives ADDR_CHANGE and DEVICE_REMOVAL like others
    of that device. If the id is already bound, `port` and `address` are ignored.
    """

    id: int
    port: int = 0
    address: bytes = b""


@dataclass(frozen=True, slots=True)
class ResolveAddress:
    """Find the device, its present hardware address, and that of the next hop (`rdma_resolve_addr`).

    The result is ADDR_RESOLVED or ADDR_ERROR. An id can resolve only one address: after a failover, create a new id. If
    the id is bound to an address, the device with that address is used.
    """

    id: int
    destination: bytes
    port: int
    timeout_ms: int = 2000


@dataclass(frozen=True, slots=True)
class ResolveRoute:
    """Query the subnet administrator for the path (`rdma_resolve_route`): ROUTE_RESOLVED or ROUTE_ERROR."""

    id: int
    timeout_ms: int = 2000


@dataclass(frozen=True, slots=True)
class MakeQueuePair:
    """Create a reliable queue pair on the id's port (`rdma_create_qp`)."""

    id: int


@dataclass(frozen=True, slots=True)
class Connect:
    """Request a connection (`rdma_connect`): ESTABLISHED, REJECTED or UNREACHABLE.

    `ack_timeout` is an exponent (4.096 us x 2^ack_timeout); None means the path's lifetime + 1, as in the kernel.
    `response_timeout` is the exponent for the answer to the REQ (the kernel's is 20: 4.3 s), `cm_retries` the number of
    times that the REQ is repeated. Retry counts above 7 count as 7.
    """

    id: int
    private: bytes = b""  # at most 56 bytes
    retry_count: int = 7
    rnr_retry_count: int = 7
    ack_timeout: int | None = None
    response_timeout: int = 20
    cm_retries: int = 15
    qpn: int | None = None  # of a queue pair that the program creates and modifies itself; else the id's own is used
    responder_resources: int = 16
    initiator_depth: int = 16
    flow_control: bool = False
    srq: bool = False


@dataclass(frozen=True, slots=True)
class Accept:
    """Accept a CONNECT_REQUEST (`rdma_accept`); the id needs a queue pair unless the program names its own (`qpn`).

    After a CONNECT_RESPONSE it confirms that the program's queue pair is in state RTS, and the RTU is sent to the peer.
    """

    id: int
    private: bytes = b""  # at most 196 bytes
    qpn: int | None = None
    responder_resources: int | None = None  # None: as requested by the peer
    initiator_depth: int | None = None
    rnr_retry_count: int | None = None
    flow_control: bool = False
    srq: bool = False


@dataclass(frozen=True, slots=True)
class Reject:
    """Reject a CONNECT_REQUEST (`rdma_reject`); the peer receives REJECTED with the private data."""

    id: int
    private: bytes = b""  # at most 148 bytes


@dataclass(frozen=True, slots=True)
class DataArrived:
    """A message arrived on a queue pair that the program manages itself, which counts as an RTU (`rdma_notify`)."""

    id: int


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Close the connection (`rdma_disconnect`): posted work is flushed, and the peer is notified."""

    id: int


@dataclass(frozen=True, slots=True)
class Destroy:
    """Destroy the id and its queue pair (`rdma_destroy_id`); no further events of the id follow."""

    id: int


@dataclass(frozen=True, slots=True)
class PostWork:
    """Post a work request to the queue pair of an id (`ibv_post_send`, `ibv_post_recv`)."""

    id: int
    request: Work | Receive


RdmaRequest = (
    Bind
    | Listen
    | ResolveAddress
    | ResolveRoute
    | MakeQueuePair
    | Connect
    | Accept
    | Reject
    | DataArrived
    | Disconnect
    | Destroy
    | PostWork
)


class RdmaKind(enum.Enum):
    """Types of events (`rdma_cm_event_type` of librdmacm)."""

    ADDR_RESOLVED = "addr_resolved"
    ADDR_ERROR = "addr_error"
    ROUTE_RESOLVED = "route_resolved"
    ROUTE_ERROR = "route_error"
    CONNECT_REQUEST = "connect_request"
    CONNECT_RESPONSE = "connect_response"  # instead of ESTABLISHED, for queue pairs that the program manages itself
    ESTABLISHED = "established"
    REJECTED = "rejected"
    UNREACHABLE = "unreachable"
    DISCONNECTED = "disconnected"
    TIMEWAIT_EXIT = "timewait_exit"  # for these, too: the queue pair may be connected again
    ADDR_CHANGE = "addr_change"
    DEVICE_REMOVAL = "device_removal"


@dataclass(frozen=True, slots=True)
class RdmaCmEvent:
    """An event of an id. `status` is an errno, or the reason of the REJ message for REJECTED.

    For a CONNECT_REQUEST, `id` is the new id and `listener` the listening one; `private` is the peer's private data,
    and `detail` its IP address.
    """

    id: int
    kind: RdmaKind
    status: int = 0
    private: bytes = b""
    listener: int = -1
    detail: str = ""


@dataclass(frozen=True, slots=True)
class WorkCompleted:
    """A work request of the id's queue pair has completed."""

    id: int
    completion: Completion


@dataclass(frozen=True, slots=True)
class RdmaCall:
    """Event for a host: a request of one of its programs (`user`, a number)."""

    user: int
    request: RdmaRequest


@dataclass(frozen=True, slots=True)
class RdmaUserClosed:
    """Event for a host: a program has ended; its connections end with it."""

    user: int


@dataclass(frozen=True, slots=True)
class RdmaEvent:
    """Effect: an event for a program on the host."""

    host: str
    user: int
    event: RdmaCmEvent | WorkCompleted
