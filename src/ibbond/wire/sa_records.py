"""The records of subnet administration and the bits of their component masks.

Read first: InfiniBand Architecture volume 1, section 15.2.5. A record is the content of `SaMad.data`; `parse` takes at
least the record's bytes and ignores what follows (padding), `pack` gives exactly the record's bytes. A component mask
says which fields of a request are meant.
"""

import enum
import struct
from dataclasses import dataclass
from typing import ClassVar, Self

from ibbond.errors import Malformed
from ibbond.wire.port_info import PortInfo
from ibbond.wire.smp import NodeDescription, NodeInfo


class JoinState(enum.IntFlag):
    FULL = 1
    NON_MEMBER = 2
    SEND_ONLY_NON_MEMBER = 4
    SEND_ONLY_FULL = 8


class Selector(enum.IntEnum):
    """How an asked MTU, rate or lifetime is meant."""

    GREATER = 0
    LESS = 1
    EXACTLY = 2
    MAX_BYTES = 3


class McMemberMask(enum.IntEnum):
    MGID = 1 << 0
    PORT_GID = 1 << 1
    QKEY = 1 << 2
    MLID = 1 << 3
    MTU_SELECTOR = 1 << 4
    MTU = 1 << 5
    TRAFFIC_CLASS = 1 << 6
    PKEY = 1 << 7
    RATE_SELECTOR = 1 << 8
    RATE = 1 << 9
    LIFETIME_SELECTOR = 1 << 10
    LIFETIME = 1 << 11
    SL = 1 << 12
    FLOW_LABEL = 1 << 13
    HOP_LIMIT = 1 << 14
    SCOPE = 1 << 15
    JOIN_STATE = 1 << 16
    PROXY_JOIN = 1 << 17


@dataclass(frozen=True, slots=True)
class McMemberRecord:
    """A member of a multicast group, or (with a zero port GID) the group itself (15.2.5.17).

    `mtu` and `rate` are the standard's codes (MTU 4 = 2048 bytes, rate 3 = 10 Gb/s).
    """

    LAYOUT: ClassVar = struct.Struct("!16s16sIHBBHBBIBB2x")
    mgid: bytes = bytes(16)
    port_gid: bytes = bytes(16)
    qkey: int = 0
    mlid: int = 0
    mtu_selector: int = 0
    mtu: int = 0
    traffic_class: int = 0
    pkey: int = 0
    rate_selector: int = 0
    rate: int = 0
    lifetime_selector: int = 0
    lifetime: int = 0
    sl: int = 0
    flow_label: int = 0
    hop_limit: int = 0
    scope: int = 0
    join_state: int = 0
    proxy_join: bool = False

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        if len(raw) < cls.LAYOUT.size:
            raise Malformed(f"MCMemberRecord needs {cls.LAYOUT.size} bytes, got {len(raw)}")
        mgid, gid, qkey, mlid, mtu, tclass, pkey, rate, life, word, state, proxy = cls.LAYOUT.unpack_from(raw)
        return cls(
            mgid=mgid,
            port_gid=gid,
            qkey=qkey,
            mlid=mlid,
            mtu_selector=mtu >> 6,
            mtu=mtu & 63,
            traffic_class=tclass,
            pkey=pkey,
            rate_selector=rate >> 6,
            rate=rate & 63,
            lifetime_selector=life >> 6,
            lifetime=life & 63,
            sl=word >> 28,
            flow_label=word >> 8 & 0xFFFFF,
            hop_limit=word & 0xFF,
            scope=state >> 4,
            join_state=state & 15,
            proxy_join=bool(proxy >> 7),
        )

    def pack(self) -> bytes:
        return self.LAYOUT.pack(
            self.mgid,
            self.port_gid,
            self.qkey,
            self.mlid,
            self.mtu_selector << 6 | self.mtu,
            self.traffic_class,
            self.pkey,
            self.rate_selector << 6 | self.rate,
            self.lifetime_selector << 6 | self.lifetime,
            self.sl << 28 | self.flow_label << 8 | self.hop_limit,
            self.scope << 4 | self.join_state,
            self.proxy_join << 7,
        )


class PathMask(enum.IntEnum):
    SERVICE_ID_HIGH = 1 << 0
    SERVICE_ID_LOW = 1 << 1
    DGID = 1 << 2
    SGID = 1 << 3
    DLID = 1 << 4
    SLID = 1 << 5
    RAW_TRAFFIC = 1 << 6
    FLOW_LABEL = 1 << 8
    HOP_LIMIT = 1 << 9
    TRAFFIC_CLASS = 1 << 10
    REVERSIBLE = 1 << 11
    NUMB_PATH = 1 << 12
    PKEY = 1 << 13
    QOS_CLASS = 1 << 14
    SL = 1 << 15
    MTU_SELECTOR = 1 << 16
    MTU = 1 << 17
    RATE_SELECTOR = 1 << 18
    RATE = 1 << 19
    LIFETIME_SELECTOR = 1 << 20
    LIFETIME = 1 << 21


@dataclass(frozen=True, slots=True)
class PathRecord:
    """A path from one port to another (15.2.5.16); 64 bytes."""

    LAYOUT: ClassVar = struct.Struct("!Q16s16sHHIBBHHBBBB6x")
    dgid: bytes = bytes(16)
    sgid: bytes = bytes(16)
    dlid: int = 0
    slid: int = 0
    service_id: int = 0
    raw_traffic: bool = False
    flow_label: int = 0
    hop_limit: int = 0
    traffic_class: int = 0
    reversible: bool = False
    numb_path: int = 0
    pkey: int = 0
    qos_class: int = 0
    sl: int = 0
    mtu_selector: int = 0
    mtu: int = 0
    rate_selector: int = 0
    rate: int = 0
    lifetime_selector: int = 0
    lifetime: int = 0
    preference: int = 0

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        if len(raw) < cls.LAYOUT.size:
            raise Malformed(f"PathRecord needs {cls.LAYOUT.size} bytes, got {len(raw)}")
        service, dgid, sgid, dlid, slid, word, tclass, numb, pkey, qos, mtu, rate, life, preference = (
            cls.LAYOUT.unpack_from(raw)
        )
        return cls(
            dgid=dgid,
            sgid=sgid,
            dlid=dlid,
            slid=slid,
            service_id=service,
            raw_traffic=bool(word >> 31),
            flow_label=word >> 8 & 0xFFFFF,
            hop_limit=word & 0xFF,
            traffic_class=tclass,
            reversible=bool(numb >> 7),
            numb_path=numb & 127,
            pkey=pkey,
            qos_class=qos >> 4,
            sl=qos & 15,
            mtu_selector=mtu >> 6,
            mtu=mtu & 63,
            rate_selector=rate >> 6,
            rate=rate & 63,
            lifetime_selector=life >> 6,
            lifetime=life & 63,
            preference=preference,
        )

    def pack(self) -> bytes:
        return self.LAYOUT.pack(
            self.service_id,
            self.dgid,
            self.sgid,
            self.dlid,
            self.slid,
            self.raw_traffic << 31 | self.flow_label << 8 | self.hop_limit,
            self.traffic_class,
            self.reversible << 7 | self.numb_path,
            self.pkey,
            self.qos_class << 4 | self.sl,
            self.mtu_selector << 6 | self.mtu,
            self.rate_selector << 6 | self.rate,
            self.lifetime_selector << 6 | self.lifetime,
            self.preference,
        )


class ServiceMask(enum.IntEnum):
    SERVICE_ID = 1 << 0
    GID = 1 << 1
    PKEY = 1 << 2
    LEASE = 1 << 4
    KEY = 1 << 5
    NAME = 1 << 6


@dataclass(frozen=True, slots=True)
class ServiceRecord:
    """A service that a port offers, for `lease` seconds (0xffffffff forever) (15.2.5.14); 176 bytes."""

    LAYOUT: ClassVar = struct.Struct("!Q16sHHI16s64s64s")
    service_id: int = 0
    gid: bytes = bytes(16)
    pkey: int = 0
    lease: int = 0
    key: bytes = bytes(16)
    name: bytes = b""  # at most 64 bytes, trailing zeros are not part of it
    data: bytes = bytes(64)  # 16 x 8 bits, 8 x 16, 4 x 32, 2 x 64

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        if len(raw) < cls.LAYOUT.size:
            raise Malformed(f"ServiceRecord needs {cls.LAYOUT.size} bytes, got {len(raw)}")
        service, gid, pkey, _, lease, key, name, data = cls.LAYOUT.unpack_from(raw)
        return cls(service, gid, pkey, lease, key, name.rstrip(b"\0"), data)

    def pack(self) -> bytes:
        return self.LAYOUT.pack(self.service_id, self.gid, self.pkey, 0, self.lease, self.key, self.name, self.data)


@dataclass(frozen=True, slots=True)
class InformInfo:
    """A subscription to traps, asked for or given up (13.4.8.3); 36 bytes.

    A trap number or type of 0xffff means all, as does `lid_begin` 0xffff.
    """

    LAYOUT: ClassVar = struct.Struct("!16sHHHBBHHII")
    trap: int
    subscribe: bool = True
    gid: bytes = bytes(16)
    lid_begin: int = 0xFFFF
    lid_end: int = 0
    generic: bool = True
    kind: int = 0xFFFF
    qpn: int = 1
    response_time: int = 0
    producer: int = 4

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        if len(raw) < cls.LAYOUT.size:
            raise Malformed(f"InformInfo needs {cls.LAYOUT.size} bytes, got {len(raw)}")
        gid, begin, end, _, generic, subscribe, kind, trap, qpn, producer = cls.LAYOUT.unpack_from(raw)
        return cls(
            trap=trap,
            subscribe=bool(subscribe),
            gid=gid,
            lid_begin=begin,
            lid_end=end,
            generic=bool(generic),
            kind=kind,
            qpn=qpn >> 8,
            response_time=qpn & 31,
            producer=producer & 0xFFFFFF,
        )

    def pack(self) -> bytes:
        return self.LAYOUT.pack(
            self.gid,
            self.lid_begin,
            self.lid_end,
            0,
            self.generic,
            self.subscribe,
            self.kind,
            self.trap,
            self.qpn << 8 | self.response_time,
            self.producer,
        )


class NodeRecordMask(enum.IntEnum):
    LID = 1 << 0
    NODE_TYPE = 1 << 4
    NUM_PORTS = 1 << 5
    SYSTEM_GUID = 1 << 6
    NODE_GUID = 1 << 7
    PORT_GUID = 1 << 8
    DESCRIPTION = 1 << 14


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """NodeInfo and NodeDescription of an end port (15.2.5.2); 108 bytes."""

    LAYOUT: ClassVar = struct.Struct("!HH40s64s")
    lid: int
    info: NodeInfo
    description: NodeDescription

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        if len(raw) < cls.LAYOUT.size:
            raise Malformed(f"NodeRecord needs {cls.LAYOUT.size} bytes, got {len(raw)}")
        lid, _, info, description = cls.LAYOUT.unpack_from(raw)
        return cls(lid, NodeInfo.parse(info.ljust(64, b"\0")), NodeDescription.parse(description))

    def pack(self) -> bytes:
        return self.LAYOUT.pack(self.lid, 0, self.info.pack(), self.description.pack())


class PortInfoRecordMask(enum.IntEnum):
    LID = 1 << 0
    PORT = 1 << 1
    CAPABILITY_MASK = 1 << 7


@dataclass(frozen=True, slots=True)
class PortInfoRecord:
    """PortInfo of one port of the node at `lid` (15.2.5.3); 68 bytes."""

    LAYOUT: ClassVar = struct.Struct("!HBB64s")
    lid: int
    port: int
    info: PortInfo

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        if len(raw) < cls.LAYOUT.size:
            raise Malformed(f"PortInfoRecord needs {cls.LAYOUT.size} bytes, got {len(raw)}")
        lid, port, _, info = cls.LAYOUT.unpack_from(raw)
        return cls(lid, port, PortInfo.parse(info))

    def pack(self) -> bytes:
        return self.LAYOUT.pack(self.lid, self.port, 0, self.info.pack())


class LinkRecordMask(enum.IntEnum):
    FROM_LID = 1 << 0
    FROM_PORT = 1 << 1
    TO_PORT = 1 << 2
    TO_LID = 1 << 3


@dataclass(frozen=True, slots=True)
class LinkRecord:
    """One direction of a link (15.2.5.13); 6 bytes."""

    LAYOUT: ClassVar = struct.Struct("!HBBH")
    from_lid: int
    from_port: int
    to_port: int
    to_lid: int

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        if len(raw) < cls.LAYOUT.size:
            raise Malformed(f"LinkRecord needs {cls.LAYOUT.size} bytes, got {len(raw)}")
        return cls(*cls.LAYOUT.unpack_from(raw))

    def pack(self) -> bytes:
        return self.LAYOUT.pack(self.from_lid, self.from_port, self.to_port, self.to_lid)


@dataclass(frozen=True, slots=True)
class ClassPortInfo:
    """What an agent supports and where it is reached (13.4.8.1); 72 bytes, redirection fields are zero."""

    LAYOUT: ClassVar = struct.Struct("!BBHI64x")
    capability_mask: int
    response_time: int = 0x10
    base_version: int = 1
    class_version: int = 1
    capability_mask2: int = 0

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        if len(raw) < cls.LAYOUT.size:
            raise Malformed(f"ClassPortInfo needs {cls.LAYOUT.size} bytes, got {len(raw)}")
        base, version, mask, word = cls.LAYOUT.unpack_from(raw)
        return cls(mask, word & 31, base, version, word >> 5)

    def pack(self) -> bytes:
        word = self.capability_mask2 << 5 | self.response_time
        return self.LAYOUT.pack(self.base_version, self.class_version, self.capability_mask, word)
