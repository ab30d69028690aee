"""Requests of programs to RDMA CM and the events they get: the vocabulary of librdmacm as values.

Read first: rdma_cm(7), and spec of the RDMA IP CM service (annex A11 of the InfiniBand Architecture). A program numbers
its own ids from 0 up; ids that a connection request makes are numbered by us from `ARRIVED_IDS` up. IP addresses are
4 or 16 bytes. Left out: datagram services, multicast join, several port spaces.
"""

import enum
from dataclasses import dataclass

from ibbond.verbs.reliable_verbs import Completion, Receive, Work

ARRIVED_IDS = 1 << 24


@dataclass(frozen=True, slots=True)
class Bind:
    """Give the id a service port (0: a free one) and an address of the host; zeros are any address of that length.

    With an address the id is on the device that has it. `only` leaves peers of the other IP version out; `reuse` shares
    the port with other ids that say so, until one listens.
    """

    id: int
    port: int
    address: bytes = b""
    only: bool = False
    reuse: bool = False


@dataclass(frozen=True, slots=True)
class Listen:
    """Take connections to this service port: to any address of the host (empty, or all zeros), or to one of them.

    With one the id is on the device that has the address: it gets ADDR_CHANGE and DEVICE_REMOVAL as others do. An id
    that is bound keeps what it is bound to, and port and address are not looked at.
    """

    id: int
    port: int = 0
    address: bytes = b""


@dataclass(frozen=True, slots=True)
class ResolveAddress:
    """Find the device, its address of now, and the hardware address of the next hop: ADDR_RESOLVED or ADDR_ERROR.

    An id that has resolved an address cannot do so again: after a failover a program takes a new one. One that is bound
    to an address goes out by the device that has it.
    """

    id: int
    destination: bytes
    port: int
    timeout_ms: int = 2000


@dataclass(frozen=True, slots=True)
class ResolveRoute:
    """Ask the subnet administrator for the path: ROUTE_RESOLVED or ROUTE_ERROR."""

    id: int
    timeout_ms: int = 2000


@dataclass(frozen=True, slots=True)
class MakeQueuePair:
    """A reliable queue pair on the id's port, as `rdma_create_qp`."""

    id: int


@dataclass(frozen=True, slots=True)
class Connect:
    """Ask the peer: ESTABLISHED, REJECTED or UNREACHABLE.

    `ack_timeout` is a code (4.096 us x 2^code); None takes the path's lifetime + 1, as the kernel does.
    `response_timeout` is the same for the peer's answer (the kernel's is 20: 4.3 s), `cm_retries` how often it is
    asked again. Retry counts above 7 are taken as 7.
    """

    id: int
    private: bytes = b""  # at most 56 bytes
    retry_count: int = 7
    rnr_retry_count: int = 7
    ack_timeout: int | None = None
    response_timeout: int = 20
    cm_retries: int = 15
    qpn: int | None = None  # of a queue pair that the program makes and moves itself; else the id's own is used
    responder_resources: int = 16
    initiator_depth: int = 16
    flow_control: bool = False
    srq: bool = False


@dataclass(frozen=True, slots=True)
class Accept:
    """Say yes to a CONNECT_REQUEST; the id needs a queue pair, or the program has one (`qpn`).

    After a CONNECT_RESPONSE it says that the program's queue pair is in RTS: the RTU goes to the peer.
    """

    id: int
    private: bytes = b""  # at most 196 bytes
    qpn: int | None = None
    responder_resources: int | None = None  # None: as the peer asks
    initiator_depth: int | None = None
    rnr_retry_count: int | None = None
    flow_control: bool = False
    srq: bool = False


@dataclass(frozen=True, slots=True)
class Reject:
    """Request: refuse a connection that was asked for (`rdma_reject`); the peer gets REJECTED with the private data."""

    id: int
    private: bytes = b""  # at most 148 bytes


@dataclass(frozen=True, slots=True)
class DataArrived:
    """A program that moves its queue pair itself has had a message there: as good as an RTU (`rdma_notify`)."""

    id: int


@dataclass(frozen=True, slots=True)
class Disconnect:
    """The queue pair goes to error, everything posted is flushed, the peer is notified."""

    id: int


@dataclass(frozen=True, slots=True)
class Destroy:
    """The id and its queue pair are no more; no further event of it comes."""

    id: int


@dataclass(frozen=True, slots=True)
class PostWork:
    """Request: post work to the queue pair of an id (`ibv_post_send`, `ibv_post_recv`)."""

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
    """`rdma_cm_event_type`."""

    ADDR_RESOLVED = "addr_resolved"
    ADDR_ERROR = "addr_error"
    ROUTE_RESOLVED = "route_resolved"
    ROUTE_ERROR = "route_error"
    CONNECT_REQUEST = "connect_request"
    CONNECT_RESPONSE = "connect_response"  # instead of ESTABLISHED, to a program that moves its queue pair itself
    ESTABLISHED = "established"
    REJECTED = "rejected"
    UNREACHABLE = "unreachable"
    DISCONNECTED = "disconnected"
    TIMEWAIT_EXIT = "timewait_exit"  # to the same programs: the queue pair may have another connection
    ADDR_CHANGE = "addr_change"
    DEVICE_REMOVAL = "device_removal"


@dataclass(frozen=True, slots=True)
class RdmaCmEvent:
    """An event of an id for its program. `status` is an errno or, when REJECTED, the reason of the REJ.

    For a CONNECT_REQUEST `id` is new and `listener` is the id that listens; `private` are the peer's bytes and `detail`
    is its IP address.
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
    """Event for a host: a program (`user`, a number) of it asks for something."""

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
