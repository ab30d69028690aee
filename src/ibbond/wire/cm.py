"""Messages of the communication manager: how two queue pairs become a connection, and how they part.

Read first: InfiniBand Architecture volume 1, 12.6 (formats), 12.7 (fields), 12.9 (states). A message is what follows
the 24-byte MAD header (class 0x07, version 2, method Send): 232 bytes. Left out: LAP and APR (path migration).
"""

import enum
import struct
from dataclasses import dataclass
from typing import ClassVar, Self

from ibbond.errors import Malformed
from ibbond.wire.mad import CLASS_VERSION, MAD_BYTES, MadHeader, ManagementClass, Method

MESSAGE_BYTES = 232


class CmAttribute(enum.IntEnum):
    REQ = 0x10
    MRA = 0x11
    REJ = 0x12
    REP = 0x13
    RTU = 0x14
    DREQ = 0x15
    DREP = 0x16
    SIDR_REQ = 0x17
    SIDR_REP = 0x18


class RejectReason(enum.IntEnum):
    """Why a REJ was sent (12.6.7.2)."""

    NO_QP = 1
    NO_EEC = 2
    NO_RESOURCES = 3
    TIMEOUT = 4
    UNSUPPORTED_REQUEST = 5
    INVALID_COMMUNICATION_ID = 6
    INVALID_COMMUNICATION_INSTANCE = 7
    INVALID_SERVICE_ID = 8
    INVALID_TRANSPORT_TYPE = 9
    STALE_CONNECTION = 10
    PRIMARY_GID = 12
    PRIMARY_LID = 13
    PRIMARY_SL = 14
    PATH_MTU = 26
    CONSUMER = 28
    DUPLICATE_LOCAL_ID = 30


class Transport(enum.IntEnum):
    RC = 0
    UC = 1
    RD = 2


class Rejected(enum.IntEnum):
    """Which message a REJ or MRA is about."""

    REQ = 0
    REP = 1
    OTHER = 2


def _whole(raw: bytes, name: str) -> bytes:
    if len(raw) != MESSAGE_BYTES:
        raise Malformed(f"{name} needs {MESSAGE_BYTES} bytes, got {len(raw)}")
    return raw


@dataclass(frozen=True, slots=True)
class CmPath:
    """One path of a REQ, 44 bytes; the alternate path of a REQ without one is all zero."""

    LAYOUT: ClassVar = struct.Struct(
        "!HH16s16sIBBBB"
    )  # flow:20 reserved:6 rate:6 | class | hops | sl:4 local:1 | ack:5
    local_lid: int = 0
    remote_lid: int = 0
    local_gid: bytes = bytes(16)
    remote_gid: bytes = bytes(16)
    flow_label: int = 0
    rate: int = 0
    traffic_class: int = 0
    hop_limit: int = 0
    sl: int = 0
    subnet_local: bool = False
    ack_timeout: int = 0

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        if len(raw) != cls.LAYOUT.size:
            raise Malformed(f"a path needs {cls.LAYOUT.size} bytes, got {len(raw)}")
        local_lid, remote_lid, local_gid, remote_gid, flow, tclass, hops, sl, ack = cls.LAYOUT.unpack(raw)
        return cls(
            local_lid=local_lid,
            remote_lid=remote_lid,
            local_gid=local_gid,
            remote_gid=remote_gid,
            flow_label=flow >> 12,
            rate=flow & 63,
            traffic_class=tclass,
            hop_limit=hops,
            sl=sl >> 4,
            subnet_local=bool(sl & 8),
            ack_timeout=ack >> 3,
        )

    def pack(self) -> bytes:
        return self.LAYOUT.pack(
            self.local_lid,
            self.remote_lid,
            self.local_gid,
            self.remote_gid,
            self.flow_label << 12 | self.rate,
            self.traffic_class,
            self.hop_limit,
            self.sl << 4 | self.subnet_local << 3,
            self.ack_timeout << 3,
        )


NO_PATH = CmPath()


@dataclass(frozen=True, slots=True)
class Req:
    """Request for communication (12.6.5). Timeouts are codes: 4.096 us x 2^code; `path_mtu` 4 is 2048 bytes."""

    ATTRIBUTE: ClassVar = CmAttribute.REQ
    PRIVATE_BYTES: ClassVar = 92
    LAYOUT: ClassVar = struct.Struct("!I4xQQ4xIIIIIHBB44s44s92s")
    local_id: int
    service_id: int
    ca_guid: int
    qpn: int
    psn: int
    primary: CmPath
    qkey: int = 0
    eecn: int = 0
    remote_eecn: int = 0
    responder_resources: int = 0
    initiator_depth: int = 0
    remote_timeout: int = 20
    local_timeout: int = 20
    transport: int = Transport.RC
    flow_control: bool = False
    retry_count: int = 0
    pkey: int = 0xFFFF
    path_mtu: int = 4
    rdc_exists: bool = False
    rnr_retry_count: int = 0
    max_cm_retries: int = 15
    srq: bool = False
    alternate: CmPath = NO_PATH
    private: bytes = bytes(92)

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        fields = cls.LAYOUT.unpack(_whole(raw, "REQ"))
        local, service, guid, qkey, qpn, eecn, remote, psn, pkey, mtu, retries, primary, alternate, private = fields
        return cls(
            local_id=local,
            service_id=service,
            ca_guid=guid,
            qkey=qkey,
            qpn=qpn >> 8,
            responder_resources=qpn & 255,
            eecn=eecn >> 8,
            initiator_depth=eecn & 255,
            remote_eecn=remote >> 8,
            remote_timeout=remote >> 3 & 31,
            transport=remote >> 1 & 3,
            flow_control=bool(remote & 1),
            psn=psn >> 8,
            local_timeout=psn >> 3 & 31,
            retry_count=psn & 7,
            pkey=pkey,
            path_mtu=mtu >> 4,
            rdc_exists=bool(mtu & 8),
            rnr_retry_count=mtu & 7,
            max_cm_retries=retries >> 4,
            srq=bool(retries & 8),
            primary=CmPath.parse(primary),
            alternate=CmPath.parse(alternate),
            private=private,
        )

    def pack(self) -> bytes:
        return self.LAYOUT.pack(
            self.local_id,
            self.service_id,
            self.ca_guid,
            self.qkey,
            self.qpn << 8 | self.responder_resources,
            self.eecn << 8 | self.initiator_depth,
            self.remote_eecn << 8 | self.remote_timeout << 3 | self.transport << 1 | self.flow_control,
            self.psn << 8 | self.local_timeout << 3 | self.retry_count,
            self.pkey,
            self.path_mtu << 4 | self.rdc_exists << 3 | self.rnr_retry_count,
            self.max_cm_retries << 4 | self.srq << 3,
            self.primary.pack(),
            self.alternate.pack(),
            self.private,
        )


@dataclass(frozen=True, slots=True)
class Mra:
    """Message receipt acknowledgment (12.6.6): the answer will take up to `service_timeout`."""

    ATTRIBUTE: ClassVar = CmAttribute.MRA
    PRIVATE_BYTES: ClassVar = 222
    LAYOUT: ClassVar = struct.Struct("!IIBB222s")
    local_id: int
    remote_id: int
    message: int
    service_timeout: int
    private: bytes = bytes(222)

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        local, remote, message, timeout, private = cls.LAYOUT.unpack(_whole(raw, "MRA"))
        return cls(local, remote, message >> 6, timeout >> 3, private)

    def pack(self) -> bytes:
        return self.LAYOUT.pack(
            self.local_id, self.remote_id, self.message << 6, self.service_timeout << 3, self.private
        )


@dataclass(frozen=True, slots=True)
class Rej:
    """Reject (12.6.7); `info` is at most 72 bytes that belong to the reason."""

    ATTRIBUTE: ClassVar = CmAttribute.REJ
    PRIVATE_BYTES: ClassVar = 148
    INFO_BYTES: ClassVar = 72
    LAYOUT: ClassVar = struct.Struct("!IIBBH72s148s")
    local_id: int
    remote_id: int
    message: int
    reason: int
    info: bytes = b""
    private: bytes = bytes(148)

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        local, remote, message, length, reason, info, private = cls.LAYOUT.unpack(_whole(raw, "REJ"))
        if length >> 1 > cls.INFO_BYTES:
            raise Malformed(f"REJ says {length >> 1} bytes of information, it has room for {cls.INFO_BYTES}")
        return cls(local, remote, message >> 6, reason, info[: length >> 1], private)

    def pack(self) -> bytes:
        assert len(self.info) <= self.INFO_BYTES, "a REJ has room for 72 bytes of information"
        return self.LAYOUT.pack(
            self.local_id,
            self.remote_id,
            self.message << 6,
            len(self.info) << 1,
            self.reason,
            self.info,
            self.private,
        )


@dataclass(frozen=True, slots=True)
class Rep:
    """Reply to a request (12.6.8)."""

    ATTRIBUTE: ClassVar = CmAttribute.REP
    PRIVATE_BYTES: ClassVar = 196
    LAYOUT: ClassVar = struct.Struct("!IIIIIIBBBBQ196s")
    local_id: int
    remote_id: int
    qpn: int
    psn: int
    ca_guid: int
    qkey: int = 0
    eecn: int = 0
    responder_resources: int = 0
    initiator_depth: int = 0
    target_ack_delay: int = 0
    failover_accepted: int = 0
    flow_control: bool = False
    rnr_retry_count: int = 0
    srq: bool = False
    private: bytes = bytes(196)

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        fields = cls.LAYOUT.unpack(_whole(raw, "REP"))
        local, remote, qkey, qpn, eecn, psn, resources, depth, delay, rnr, guid, private = fields
        return cls(
            local_id=local,
            remote_id=remote,
            qpn=qpn >> 8,
            psn=psn >> 8,
            ca_guid=guid,
            qkey=qkey,
            eecn=eecn >> 8,
            responder_resources=resources,
            initiator_depth=depth,
            target_ack_delay=delay >> 3,
            failover_accepted=delay >> 1 & 3,
            flow_control=bool(delay & 1),
            rnr_retry_count=rnr >> 5,
            srq=bool(rnr & 16),
            private=private,
        )

    def pack(self) -> bytes:
        return self.LAYOUT.pack(
            self.local_id,
            self.remote_id,
            self.qkey,
            self.qpn << 8,
            self.eecn << 8,
            self.psn << 8,
            self.responder_resources,
            self.initiator_depth,
            self.target_ack_delay << 3 | self.failover_accepted << 1 | self.flow_control,
            self.rnr_retry_count << 5 | self.srq << 4,
            self.ca_guid,
            self.private,
        )


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two communication ids and private data: what RTU and DREP are."""

    LAYOUT: ClassVar = struct.Struct("!II224s")
    PRIVATE_BYTES: ClassVar = 224
    local_id: int
    remote_id: int
    private: bytes = bytes(224)

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        return cls(*cls.LAYOUT.unpack(_whole(raw, cls.__name__.upper())))

    def pack(self) -> bytes:
        return self.LAYOUT.pack(self.local_id, self.remote_id, self.private)


@dataclass(frozen=True, slots=True)
class Rtu(_Pair):
    """Ready to use (12.6.9)."""

    ATTRIBUTE: ClassVar = CmAttribute.RTU


@dataclass(frozen=True, slots=True)
class Dreq:
    """Request for communication release (12.6.10); `remote_qpn` is the receiver's."""

    ATTRIBUTE: ClassVar = CmAttribute.DREQ
    PRIVATE_BYTES: ClassVar = 220
    LAYOUT: ClassVar = struct.Struct("!III220s")
    local_id: int
    remote_id: int
    remote_qpn: int
    private: bytes = bytes(220)

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        local, remote, qpn, private = cls.LAYOUT.unpack(_whole(raw, "DREQ"))
        return cls(local, remote, qpn >> 8, private)

    def pack(self) -> bytes:
        return self.LAYOUT.pack(self.local_id, self.remote_id, self.remote_qpn << 8, self.private)


@dataclass(frozen=True, slots=True)
class Drep(_Pair):
    """Reply to a request for communication release (12.6.11)."""

    ATTRIBUTE: ClassVar = CmAttribute.DREP


@dataclass(frozen=True, slots=True)
class SidrReq:
    """Service id resolution request (12.11.1): which datagram queue pair serves this service id."""

    ATTRIBUTE: ClassVar = CmAttribute.SIDR_REQ
    PRIVATE_BYTES: ClassVar = 216
    LAYOUT: ClassVar = struct.Struct("!IHxxQ216s")
    request_id: int
    service_id: int
    pkey: int = 0xFFFF
    private: bytes = bytes(216)

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        request, pkey, service, private = cls.LAYOUT.unpack(_whole(raw, "SIDR_REQ"))
        return cls(request, service, pkey, private)

    def pack(self) -> bytes:
        return self.LAYOUT.pack(self.request_id, self.pkey, self.service_id, self.private)


@dataclass(frozen=True, slots=True)
class SidrRep:
    """Service id resolution reply (12.11.2); `info` is at most 72 bytes that belong to the status."""

    ATTRIBUTE: ClassVar = CmAttribute.SIDR_REP
    PRIVATE_BYTES: ClassVar = 136
    INFO_BYTES: ClassVar = 72
    LAYOUT: ClassVar = struct.Struct("!IBBxxIQI72s136s")
    request_id: int
    status: int
    qpn: int
    service_id: int
    qkey: int
    info: bytes = b""
    private: bytes = bytes(136)

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        request, status, length, qpn, service, qkey, info, private = cls.LAYOUT.unpack(_whole(raw, "SIDR_REP"))
        if length > cls.INFO_BYTES:
            raise Malformed(f"SIDR_REP says {length} bytes of information, it has room for {cls.INFO_BYTES}")
        return cls(request, status, qpn >> 8, service, qkey, info[:length], private)

    def pack(self) -> bytes:
        assert len(self.info) <= self.INFO_BYTES, "a SIDR_REP has room for 72 bytes of information"
        return self.LAYOUT.pack(
            self.request_id,
            self.status,
            len(self.info),
            self.qpn << 8,
            self.service_id,
            self.qkey,
            self.info,
            self.private,
        )


Message = Req | Mra | Rej | Rep | Rtu | Dreq | Drep | SidrReq | SidrRep
MESSAGES: dict[int, type[Message]] = {
    kind.ATTRIBUTE: kind for kind in (Req, Mra, Rej, Rep, Rtu, Dreq, Drep, SidrReq, SidrRep)
}
HEADER_BYTES = MAD_BYTES - MESSAGE_BYTES


@dataclass(frozen=True, slots=True)
class CmMad:
    """A whole communication management MAD: the transaction and one message."""

    transaction_id: int
    message: Message

    @classmethod
    def parse(cls, mad: bytes) -> Self:
        header = MadHeader.parse(mad)
        if header.management_class != ManagementClass.COMMUNICATION or header.method != Method.SEND:
            raise Malformed(f"class {header.management_class:#04x}, method {header.method:#04x} is no CM message")
        if header.class_version != CLASS_VERSION[ManagementClass.COMMUNICATION]:
            raise Malformed(f"communication management of class version {header.class_version}")
        kind = MESSAGES.get(header.attribute)
        if kind is None:
            raise Malformed(f"no CM message {header.attribute:#06x}")
        return cls(header.transaction_id, kind.parse(mad[HEADER_BYTES:]))

    def pack(self) -> bytes:
        kind = ManagementClass.COMMUNICATION
        header = MadHeader(
            kind, Method.SEND, self.transaction_id, self.message.ATTRIBUTE, class_version=CLASS_VERSION[kind]
        )
        return header.pack() + self.message.pack()
