"""Commands of /dev/infiniband/uverbsN as bytes: what a program writes.

Read first: rdma/ib_user_verbs.h of Linux (ABI 6) and rdma/rdma_user_rxe.h for the part behind the core structures.
Requests are named tuples; `parse` reads the header and the core structure of both forms, plain and extended. Left out:
answers (`uverbs_answers`), and commands that libibverbs never writes for librxe (polling, posting by system call, flow
steering, XRC), which `parse` returns as `Unknown`.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

from ibbond.errors import Malformed

ABI_VERSION = 6
PROVIDER_ABI_VERSION = 2  # of librxe
EXTENDED = 0x8000_0000
HEADER = struct.Struct("=IHH")  # command, words of the request, words of the answer
EXTENDED_HEADER = struct.Struct("=QHHI")  # response address, provider's words in and out, reserved
MAX_COMMAND_BYTES = 4096
POST_SEND_BYTES = 32


class QpType(enum.IntEnum):
    """`enum ib_uverbs_qp_type`."""

    RC = 2
    UC = 3
    UD = 4


class QpState(enum.IntEnum):
    """`enum ib_qp_state`."""

    RESET = 0
    INIT = 1
    RTR = 2
    RTS = 3
    SQD = 4
    SQE = 5
    ERR = 6


class QpMask(enum.IntFlag):
    """Which attributes a MODIFY_QP sets (`enum ib_qp_attr_mask`)."""

    STATE = 1 << 0
    CURRENT_STATE = 1 << 1
    EN_SQD_ASYNC_NOTIFY = 1 << 2
    ACCESS_FLAGS = 1 << 3
    PKEY_INDEX = 1 << 4
    PORT = 1 << 5
    QKEY = 1 << 6
    AV = 1 << 7
    PATH_MTU = 1 << 8
    TIMEOUT = 1 << 9
    RETRY_COUNT = 1 << 10
    RNR_RETRY = 1 << 11
    RQ_PSN = 1 << 12
    MAX_QP_RD_ATOMIC = 1 << 13
    ALT_PATH = 1 << 14
    MIN_RNR_TIMER = 1 << 15
    SQ_PSN = 1 << 16
    MAX_DEST_RD_ATOMIC = 1 << 17
    PATH_MIG_STATE = 1 << 18
    CAP = 1 << 19
    DEST_QPN = 1 << 20


class AccessFlags(enum.IntFlag):
    """What a memory region or a queue pair allows (`enum ib_access_flags`)."""

    LOCAL_WRITE = 1
    REMOTE_WRITE = 2
    REMOTE_READ = 4
    REMOTE_ATOMIC = 8


class AsyncEvent(enum.IntEnum):
    """`enum ib_event_type`."""

    CQ_ERR = 0
    QP_FATAL = 1
    QP_REQUEST_ERR = 2
    QP_ACCESS_ERR = 3
    COMM_EST = 4
    SQ_DRAINED = 5
    DEVICE_FATAL = 8
    PORT_ACTIVE = 9
    PORT_ERR = 10
    LID_CHANGE = 11
    PKEY_CHANGE = 12
    SM_CHANGE = 13
    SRQ_ERR = 14
    SRQ_LIMIT_REACHED = 15
    LAST_WQE_REACHED = 16
    CLIENT_REREGISTER = 17
    GID_CHANGE = 18


class Path(NamedTuple):
    """The way to a peer: `ib_uverbs_qp_dest` and, in another order, `ib_uverbs_ah_attr`."""

    gid: bytes = bytes(16)
    flow_label: int = 0
    lid: int = 0
    sgid_index: int = 0
    hop_limit: int = 0
    traffic_class: int = 0
    service_level: int = 0
    source_path_bits: int = 0
    static_rate: int = 0
    is_global: int = 0
    port: int = 0


class GetContext(NamedTuple):
    pass


class QueryDevice(NamedTuple):
    pass


class QueryPort(NamedTuple):
    port: int


class AllocPd(NamedTuple):
    pass


class DeallocPd(NamedTuple):
    handle: int


class CreateAh(NamedTuple):
    user: int
    pd: int
    path: Path


class DestroyAh(NamedTuple):
    handle: int


class RegMr(NamedTuple):
    """`start` is an address of the program, `va` what keys' addresses count from; lengths are bytes."""

    start: int
    length: int
    va: int
    pd: int
    access: int


class DeregMr(NamedTuple):
    handle: int


class CreateCompChannel(NamedTuple):
    pass


class CreateCq(NamedTuple):
    user: int
    entries: int
    vector: int
    channel: int  # a descriptor of the program, or -1
    flags: int = 0


class ResizeCq(NamedTuple):
    handle: int
    entries: int


class DestroyCq(NamedTuple):
    handle: int


class ReqNotifyCq(NamedTuple):
    handle: int
    solicited_only: int


class CreateQp(NamedTuple):
    user: int
    pd: int
    send_cq: int
    recv_cq: int
    srq: int
    max_send_wr: int
    max_recv_wr: int
    max_send_sge: int
    max_recv_sge: int
    max_inline: int
    all_signaled: int
    kind: int
    is_srq: int
    comp_mask: int = 0
    create_flags: int = 0


class QueryQp(NamedTuple):
    handle: int
    mask: int


class ModifyQp(NamedTuple):
    """The attributes count where `mask` (QpMask) names them."""

    path: Path
    alternate: Path
    handle: int
    mask: int
    qkey: int
    rq_psn: int
    sq_psn: int
    dest_qpn: int
    access: int
    pkey_index: int
    alternate_pkey_index: int
    state: int
    current_state: int
    path_mtu: int
    path_mig_state: int
    sqd_async_notify: int
    max_rd_atomic: int
    max_dest_rd_atomic: int
    min_rnr_timer: int
    port: int
    timeout: int
    retry_count: int
    rnr_retry: int
    alternate_port: int
    alternate_timeout: int


class DestroyQp(NamedTuple):
    handle: int


class PostSend(NamedTuple):
    """The doorbell: the work requests themselves are in the ring."""

    handle: int


class AttachMulticast(NamedTuple):
    gid: bytes
    handle: int
    lid: int


class DetachMulticast(NamedTuple):
    gid: bytes
    handle: int
    lid: int


class CreateSrq(NamedTuple):
    user: int
    kind: int
    pd: int
    max_wr: int
    max_sge: int
    limit: int


class ModifySrq(NamedTuple):
    handle: int
    mask: int
    max_wr: int
    limit: int


class QuerySrq(NamedTuple):
    handle: int


class DestroySrq(NamedTuple):
    handle: int


class Unknown(NamedTuple):
    """A command that is not served here."""

    number: int
    extended: bool


Request = (
    GetContext
    | QueryDevice
    | QueryPort
    | AllocPd
    | DeallocPd
    | CreateAh
    | DestroyAh
    | RegMr
    | DeregMr
    | CreateCompChannel
    | CreateCq
    | ResizeCq
    | DestroyCq
    | ReqNotifyCq
    | CreateQp
    | QueryQp
    | ModifyQp
    | DestroyQp
    | PostSend
    | AttachMulticast
    | DetachMulticast
    | CreateSrq
    | ModifySrq
    | QuerySrq
    | DestroySrq
    | Unknown
)


class Envelope(NamedTuple):
    """Where the answer goes and how much of it the program has room for; address 0 if there is none."""

    address: int
    core_bytes: int
    provider_bytes: int
    extended: bool

    def fit(self, core: bytes, provider: bytes = b"") -> bytes:
        """The answer as it is written: the provider's part directly behind the room of the core's."""
        if not provider:
            return core[: self.core_bytes + self.provider_bytes]
        if not self.extended:
            return (core + provider)[: self.core_bytes]
        return core[: self.core_bytes].ljust(self.core_bytes, b"\0") + provider[: self.provider_bytes]


_DEST = struct.Struct("=16sIHxx8B")
_AH = struct.Struct("=16sIBBBxHBBBBBx")
_MODIFY_REST = struct.Struct("=7I2H14B2x")
MODIFY_BYTES = 2 * _DEST.size + _MODIFY_REST.size
_CREATE_QP = "Q9I3Bx"
_ROWS: dict[tuple[int, bool], tuple[type[Any], struct.Struct, bool]] = {  # request, layout, whether it is answered
    (0, False): (GetContext, struct.Struct("="), True),
    (1, False): (QueryDevice, struct.Struct("="), True),
    (1, True): (QueryDevice, struct.Struct("=8x"), True),
    (2, False): (QueryPort, struct.Struct("=B7x"), True),
    (3, False): (AllocPd, struct.Struct("="), True),
    (4, False): (DeallocPd, struct.Struct("=I"), False),
    (8, False): (DestroyAh, struct.Struct("=I"), False),
    (9, False): (RegMr, struct.Struct("=QQQII"), True),
    (13, False): (DeregMr, struct.Struct("=I"), False),
    (17, False): (CreateCompChannel, struct.Struct("="), True),
    (18, False): (CreateCq, struct.Struct("=QIIi4x"), True),
    (18, True): (CreateCq, struct.Struct("=QIIi4xI4x"), True),
    (19, False): (ResizeCq, struct.Struct("=II"), True),
    (20, False): (DestroyCq, struct.Struct("=I4x"), True),
    (23, False): (ReqNotifyCq, struct.Struct("=II"), False),
    (24, False): (CreateQp, struct.Struct(f"={_CREATE_QP}"), True),
    (24, True): (CreateQp, struct.Struct(f"={_CREATE_QP}II"), True),
    (25, False): (QueryQp, struct.Struct("=II"), True),
    (27, False): (DestroyQp, struct.Struct("=I4x"), True),
    (28, False): (PostSend, struct.Struct("=I"), True),
    (30, False): (AttachMulticast, struct.Struct("=16sIH2x"), False),
    (31, False): (DetachMulticast, struct.Struct("=16sIH2x"), False),
    (33, False): (ModifySrq, struct.Struct("=4I"), False),
    (34, False): (QuerySrq, struct.Struct("=I4x"), True),
    (35, False): (DestroySrq, struct.Struct("=I4x"), True),
}


def parse(raw: bytes) -> tuple[Envelope, Request]:
    """Read a command; `Malformed` where it is shorter than it must be."""
    if len(raw) < HEADER.size:
        raise Malformed(f"a uverbs command needs {HEADER.size} bytes, got {len(raw)}")
    command, _, words_out = HEADER.unpack_from(raw)
    number, extended = command & 0xFF, bool(command & EXTENDED)
    at = HEADER.size
    if not extended:
        row = _ROWS.get((number, False))
        answered = row[2] if row is not None else number in (5, 32, 39)
        address = 0
        if answered:
            (address,) = _unpack(_ADDRESS, raw, at)
            at += 8
        return Envelope(address, words_out * 4, 0, False), _request(number, False, row, raw, at)
    address, _, provider_out, _ = _unpack(EXTENDED_HEADER, raw, at)
    at += EXTENDED_HEADER.size
    envelope = Envelope(address, words_out * 8, provider_out * 8, True)
    return envelope, _request(number, True, _ROWS.get((number, True)), raw, at)


def _request(
    number: int, extended: bool, row: tuple[type[Any], struct.Struct, bool] | None, raw: bytes, at: int
) -> Request:
    if row is not None:
        kind, layout, _ = row
        request: Request = kind(*_unpack(layout, raw, at))
        return request
    match number, extended:
        case 5, False:
            user, pd = _unpack(_USER_PD, raw, at)
            return CreateAh(user, pd, _ah_path(raw, at + 16))
        case 26, _:
            return _modify(raw, at)
        case 32, False:
            user, pd, max_wr, max_sge, limit = _unpack(_SRQ, raw, at)
            return CreateSrq(user, 0, pd, max_wr, max_sge, limit)
        case 39, False:
            return CreateSrq(*_unpack(_XSRQ, raw, at))
    return Unknown(number, extended)


_ADDRESS = struct.Struct("=Q")
_USER_PD = struct.Struct("=QI4x")
_SRQ = struct.Struct("=QIIII")
_XSRQ = struct.Struct("=QIIIII")


def _unpack(layout: struct.Struct, raw: bytes, at: int) -> tuple[Any, ...]:
    if len(raw) < at + layout.size:
        raise Malformed(f"a uverbs command of {len(raw)} bytes is cut short")
    return layout.unpack_from(raw, at)


def _path(fields: Sequence[Any]) -> Path:
    gid, flow_label, lid, sgid_index, hop_limit, traffic_class, *rest = fields
    return Path(gid, flow_label, lid, sgid_index, hop_limit, traffic_class, *rest)


def _ah_path(raw: bytes, at: int) -> Path:
    gid, flow, index, hops, traffic_class, lid, *rest = _unpack(_AH, raw, at)
    return Path(gid, flow, lid, index, hops, traffic_class, *rest)


def _modify(raw: bytes, at: int) -> ModifyQp:
    path, alternate = _unpack(_DEST, raw, at), _unpack(_DEST, raw, at + _DEST.size)
    return ModifyQp(_path(path), _path(alternate), *_unpack(_MODIFY_REST, raw, at + 2 * _DEST.size))


def pack_path(path: Path) -> bytes:
    """As `ib_uverbs_qp_dest`."""
    return _DEST.pack(*path)


def pack_ah_path(path: Path) -> bytes:
    """As `ib_uverbs_ah_attr`."""
    gid, flow, lid, index, hops, traffic_class, *rest = path
    return _AH.pack(gid, flow, index, hops, traffic_class, lid, *rest)
