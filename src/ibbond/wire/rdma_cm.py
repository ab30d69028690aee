"""Commands of /dev/infiniband/rdma_cm as bytes: what librdmacm writes, and what it is answered.

Read first: rdma/rdma_user_cm.h of Linux (ABI 4). Requests are named tuples; answers and events are packed by functions.
librdmacm has two sets of commands for addresses, an older one for IP alone and one for any family; both are read into
the same requests. Left out: multicast, which `parse` returns as `Unknown`.
"""

from __future__ import annotations

import enum
import socket
import struct
from typing import Any, NamedTuple

from ibbond.errors import Malformed
from ibbond.wire.sa_records import PathRecord
from ibbond.wire.uverbs import Path, QpMask, QpState, pack_ah_path

HEADER = struct.Struct("=IHH")  # command, bytes of the request, bytes of the answer
MAX_COMMAND_BYTES = 1024
AF_IB = 27
EVENT_BYTES = 336
MIN_EVENT_BYTES = 324  # of the first programs that spoke this ABI
MAX_PRIVATE_BYTES = 256
GET_EVENT = 12


class PortSpace(enum.IntEnum):
    """`enum rdma_ucm_port_space`."""

    IPOIB = 2
    TCP = 0x106
    UDP = 0x111
    IB = 0x13F


class EventType(enum.IntEnum):
    """`enum rdma_cm_event_type`."""

    ADDR_RESOLVED = 0
    ADDR_ERROR = 1
    ROUTE_RESOLVED = 2
    ROUTE_ERROR = 3
    CONNECT_REQUEST = 4
    CONNECT_RESPONSE = 5
    CONNECT_ERROR = 6
    UNREACHABLE = 7
    REJECTED = 8
    ESTABLISHED = 9
    DISCONNECTED = 10
    DEVICE_REMOVAL = 11
    MULTICAST_JOIN = 12
    MULTICAST_ERROR = 13
    ADDR_CHANGE = 14
    TIMEWAIT_EXIT = 15


class QueryOption(enum.IntEnum):
    """What QUERY asks for; ROUTE is the command QUERY_ROUTE of its own."""

    ADDR = 0
    PATH = 1
    GID = 2
    ROUTE = 3


class SocketAddress(NamedTuple):
    """A sockaddr: `address` has 4 or 16 bytes; of AF_IB it is the GID, and `port` the low half of the service id."""

    family: int
    address: bytes
    port: int

    @property
    def is_any(self) -> bool:
        return not any(self.address)

    @property
    def is_loopback(self) -> bool:
        """127.0.0.0/8 or ::1, which RDMA CM takes for any address of the host (`cma_any_addr`)."""
        return self.address[0] == 127 if len(self.address) == 4 else self.address == bytes(15) + b"\1"


class ConnectionParameters(NamedTuple):
    """`struct rdma_ucm_conn_param`: of a request, or as the peer's words in an event."""

    qpn: int = 0
    private: bytes = b""
    srq: int = 0
    responder_resources: int = 0
    initiator_depth: int = 0
    flow_control: int = 0
    retry_count: int = 0
    rnr_retry_count: int = 0
    valid: int = 0


class CreateId(NamedTuple):
    """`uid` is the program's own number, which its events carry."""

    uid: int
    port_space: int
    qp_type: int


class DestroyId(NamedTuple):
    id: int


class Bind(NamedTuple):
    id: int
    where: SocketAddress | None


class ResolveAddr(NamedTuple):
    """`source` is None where the program leaves it open."""

    id: int
    timeout_ms: int
    source: SocketAddress | None
    destination: SocketAddress | None


class ResolveRoute(NamedTuple):
    id: int
    timeout_ms: int


class Query(NamedTuple):
    id: int
    option: int


class Connect(NamedTuple):
    parameters: ConnectionParameters
    id: int


class Listen(NamedTuple):
    id: int
    backlog: int


class Accept(NamedTuple):
    uid: int
    parameters: ConnectionParameters
    id: int


class Reject(NamedTuple):
    id: int
    private: bytes


class Disconnect(NamedTuple):
    id: int


class InitQpAttr(NamedTuple):
    id: int
    state: int


class GetEvent(NamedTuple):
    pass


class SetOption(NamedTuple):
    """`length` bytes of value are at an address of the program."""

    value_at: int
    id: int
    level: int
    name: int
    length: int


class Notify(NamedTuple):
    id: int
    event: int


class MigrateId(NamedTuple):
    """`channel` is the descriptor of the channel that the id is on."""

    id: int
    channel: int


class Unknown(NamedTuple):
    number: int


Request = (
    CreateId
    | DestroyId
    | Bind
    | ResolveAddr
    | ResolveRoute
    | Query
    | Connect
    | Listen
    | Accept
    | Reject
    | Disconnect
    | InitQpAttr
    | GetEvent
    | SetOption
    | Notify
    | MigrateId
    | Unknown
)

_CONNECTION = struct.Struct("=II256s8B")
_IN6 = 28  # struct sockaddr_in6
_STORAGE = 128  # struct sockaddr_storage
_ROWS: dict[int, tuple[type[Any], struct.Struct]] = {  # what needs nothing but unpacking
    0: (CreateId, struct.Struct("=Q8xHB5x")),
    1: (DestroyId, struct.Struct("=8xI")),
    4: (ResolveRoute, struct.Struct("=II")),
    7: (Listen, struct.Struct("=Ii")),
    10: (Disconnect, struct.Struct("=I")),
    11: (InitQpAttr, struct.Struct("=8xII")),
    12: (GetEvent, struct.Struct("=8x")),
    14: (SetOption, struct.Struct("=QIIII")),
    15: (Notify, struct.Struct("=II")),
    18: (MigrateId, struct.Struct("=8xII")),
    19: (Query, struct.Struct("=8xII")),
}
ANSWER_AT = {0: 16, 1: 8, 5: 8, 11: 8, 12: 8, 18: 8, 19: 8}
"""Where the address of the answer is in a command, for those that have an answer."""


class Envelope(NamedTuple):
    """Where the answer goes and how much of it the program has room for; address 0 if there is none."""

    command: int
    address: int
    room: int


def parse(raw: bytes) -> tuple[Envelope, Request]:
    """Read a command; `Malformed` where it is shorter than it must be."""
    if len(raw) < HEADER.size:
        raise Malformed(f"an rdma_cm command needs {HEADER.size} bytes, got {len(raw)}")
    command, _, room = HEADER.unpack_from(raw)
    at = ANSWER_AT.get(command)
    (address,) = _unpack(_ADDRESS, raw, at) if at is not None else (0,)
    return Envelope(command, address, room), _request(command, raw)


def _request(command: int, raw: bytes) -> Request:
    row = _ROWS.get(command)
    if row is not None:
        kind, layout = row
        request: Request = kind(*_unpack(layout, raw, HEADER.size))
        return request
    match command:
        case 2:
            (number,) = _unpack(_WORD, raw, 44)
            return Bind(number, _socket_address(raw, 16, _IN6))
        case 20:
            number, size = _unpack(_ID_SIZE, raw, 8)
            return Bind(number, _socket_address(raw, 16, size))
        case 3:
            number, timeout_ms = _unpack(_WORDS, raw, 64)
            return ResolveAddr(number, timeout_ms, _socket_address(raw, 8, _IN6), _socket_address(raw, 36, _IN6))
        case 21:
            number, timeout_ms, source, destination = _unpack(_RESOLVE, raw, 8)
            return ResolveAddr(
                number,
                timeout_ms,
                _socket_address(raw, 24, source),
                _socket_address(raw, 24 + _STORAGE, destination),
            )
        case 5:
            (number,) = _unpack(_WORD, raw, 16)
            return Query(number, QueryOption.ROUTE)
        case 6:
            (number,) = _unpack(_WORD, raw, 8 + _CONNECTION.size)
            return Connect(_connection(raw, 8), number)
        case 8:
            (uid,), (number,) = _unpack(_ADDRESS, raw, 8), _unpack(_WORD, raw, 16 + _CONNECTION.size)
            return Accept(uid, _connection(raw, 16), number)
        case 9:
            number, length, _ = _unpack(_REJECT, raw, 8)
            return Reject(number, bytes(raw[16 : 16 + length]))
    return Unknown(command)


_ADDRESS = struct.Struct("=Q")
_WORD = struct.Struct("=I")
_WORDS = struct.Struct("=II")
_ID_SIZE = struct.Struct("=IH")
_RESOLVE = struct.Struct("=IIHH")
_REJECT = struct.Struct("=IBB2x256x")


def _unpack(layout: struct.Struct, raw: bytes, at: int) -> tuple[Any, ...]:
    if len(raw) < at + layout.size:
        raise Malformed(f"an rdma_cm command of {len(raw)} bytes is cut short")
    return layout.unpack_from(raw, at)


def _connection(raw: bytes, at: int) -> ConnectionParameters:
    qpn, _, private, length, *rest = _unpack(_CONNECTION, raw, at)
    return ConnectionParameters(qpn, private[:length], *rest)


_IN4_LAYOUT = struct.Struct("!H4s")
_IN6_LAYOUT = struct.Struct("!HI16sI")
_IB_LAYOUT = struct.Struct("!HI16sQQQ")  # behind the family: pkey, flow, gid, service id, its mask, scope


def _socket_address(raw: bytes, at: int, size: int) -> SocketAddress | None:
    """None where no address is given."""
    one = raw[at : at + min(size, _STORAGE)]
    if len(one) < 2 + _IN4_LAYOUT.size:
        return None
    family = int.from_bytes(one[:2], "little")
    if family == socket.AF_INET:
        port, address = _IN4_LAYOUT.unpack_from(one, 2)
    elif family == socket.AF_INET6:
        port, _, address, _ = _unpack(_IN6_LAYOUT, one.ljust(_IN6, b"\0"), 2)
    elif family == AF_IB:
        _, _, address, service, _, _ = _unpack(_IB_LAYOUT, one, 2)
        port = service & 0xFFFF
    elif family == 0:
        return None
    else:
        raise Malformed(f"socket address of family {family}")
    return SocketAddress(family, address, port)


def address_of_ip(address: bytes, port: int) -> SocketAddress:
    return SocketAddress(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address, port)


# ---- answers


def pack_socket_address(one: SocketAddress | None, port_space: int = PortSpace.TCP, pkey: int = 0xFFFF) -> bytes:
    """Nothing for None."""
    if one is None:
        return b""
    family = struct.pack("=H", one.family)
    if one.family == socket.AF_INET:
        return family + _IN4_LAYOUT.pack(one.port, one.address) + bytes(8)
    if one.family == socket.AF_INET6:
        return family + _IN6_LAYOUT.pack(one.port, 0, one.address, 0)
    return family + _IB_LAYOUT.pack(pkey, 0, one.address, port_space << 16 | one.port, (1 << 64) - 1, 0)


class Place(NamedTuple):
    """The adapter and port that an id is on; zeros while it is on none."""

    node_guid: int = 0
    port: int = 0
    pkey: int = 0xFFFF


ANY_INDEX = 0xFFFF_FFFF  # the program finds the device by its node GUID
_QUERY_HEAD = struct.Struct("=8sBx2sHH")
_USER_PATH = struct.Struct("=16s16s2s2sI4sII2s10B")


def pack_addresses(place: Place, source: bytes, destination: bytes) -> bytes:
    """`rdma_ucm_query_addr_resp`, of packed socket addresses."""
    pkey = (place.pkey if place.node_guid else 0).to_bytes(2)
    head = _QUERY_HEAD.pack(place.node_guid.to_bytes(8), place.port, pkey, len(source), len(destination))
    addresses = source.ljust(_STORAGE, b"\0") + destination.ljust(_STORAGE, b"\0")
    return head + addresses + _WORDS.pack(ANY_INDEX, 0)


def pack_path(record: PathRecord | None) -> bytes:
    """`rdma_ucm_query_path_resp`: flags say primary, in both directions, also for management."""
    if record is None:
        return _WORDS.pack(0, 0)
    return _WORDS.pack(1, 0) + _WORDS.pack(0x13, 0) + record.pack()


def pack_route(place: Place, source: bytes, destination: bytes, record: PathRecord | None) -> bytes:
    """`rdma_ucm_query_route_resp`."""
    path = b""
    if (r := record) is not None:
        path = _USER_PATH.pack(
            r.dgid, r.sgid, r.dlid.to_bytes(2), r.slid.to_bytes(2), r.raw_traffic, r.flow_label.to_bytes(4),
            r.reversible, r.mtu, r.pkey.to_bytes(2), r.hop_limit, r.traffic_class, r.numb_path, r.sl,
            r.mtu_selector, r.rate_selector, r.rate, r.lifetime_selector, r.lifetime, r.preference,
        )  # fmt: skip
    head = place.node_guid.to_bytes(8) + path.ljust(2 * _USER_PATH.size, b"\0")
    addresses = source[:_IN6].ljust(_IN6, b"\0") + destination[:_IN6].ljust(_IN6, b"\0")
    return head + addresses + struct.pack("=IB3xII", 1 if path else 0, place.port, ANY_INDEX, 0)


class QueuePairAttributes(NamedTuple):
    """What INIT_QP_ATTR tells a program to modify its queue pair by; `mask` names what counts."""

    mask: QpMask
    state: QpState
    port: int
    pkey_index: int = 0
    path_mtu: int = 0
    rq_psn: int = 0
    sq_psn: int = 0
    dest_qpn: int = 0
    access: int = 0
    path: Path = Path()
    max_rd_atomic: int = 0
    max_dest_rd_atomic: int = 0
    timeout: int = 0
    retry_count: int = 0
    rnr_retry: int = 0


_QP_ATTR_HEAD = struct.Struct("=10I")
_QP_ATTR_TAIL = struct.Struct("=5I2H11B5x")


def pack_attributes(a: QueuePairAttributes) -> bytes:
    """`struct ib_uverbs_qp_attr`: 144 bytes."""
    head = _QP_ATTR_HEAD.pack(
        a.mask, a.state, 0, a.path_mtu, 0, 0, a.rq_psn, a.sq_psn, a.dest_qpn, a.access
    )  # fmt: skip
    tail = _QP_ATTR_TAIL.pack(
        0, 0, 0, 0, 0, a.pkey_index, 0, 0, 0, a.max_rd_atomic, a.max_dest_rd_atomic, 0, a.port, a.timeout,
        a.retry_count, a.rnr_retry, 0, 0,
    )  # fmt: skip
    return head + pack_ah_path(a.path) + bytes(_ALTERNATE) + tail


_ALTERNATE = 32


def pack_connection(parameters: ConnectionParameters) -> bytes:
    qpn, private, *rest = parameters
    return _CONNECTION.pack(qpn, 0, private, min(len(private), 255), *rest)


def pack_event(uid: int, number: int, kind: EventType, status: int, parameters: ConnectionParameters) -> bytes:
    """`struct rdma_ucm_event_resp`; `status` is a negative errno, or the reason of a REJ."""
    head = struct.pack("=QIIi", uid, number, kind, status)
    return (head + pack_connection(parameters)).ljust(EVENT_BYTES, b"\0")
