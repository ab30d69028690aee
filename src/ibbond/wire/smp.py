"""Subnet management packets: what a subnet manager and the agent of a node say to each other.

Read first: InfiniBand Architecture volume 1, chapter 14 (14.2.1 formats, 14.2.2 directed routes, 14.2.5 attributes).
A `Smp` carries 64 bytes of attribute data; the attributes here and in `port_info` read and write those 64 bytes. Left
out: RandomForwardingTable, VendorDiag, LedInfo.
"""

import enum
import struct
from dataclasses import dataclass
from typing import ClassVar, Self

from ibbond.errors import Malformed
from ibbond.wire.mad import BASE_VERSION, MAD_BYTES, ManagementClass, Method

PERMISSIVE_LID = 0xFFFF
NO_PORT = 0xFF  # an entry of the linear forwarding table that drops
MAX_HOPS = 63
MULTICAST_CAP = 1024  # MLIDs of a switch
MLIDS_PER_BLOCK = 32
PORTS_PER_POSITION = 16
DATA_BYTES = 64


class SmpAttribute(enum.IntEnum):
    NOTICE = 0x02
    NODE_DESCRIPTION = 0x10
    NODE_INFO = 0x11
    SWITCH_INFO = 0x12
    GUID_INFO = 0x14
    PORT_INFO = 0x15
    PKEY_TABLE = 0x16
    SL_TO_VL = 0x17
    VL_ARBITRATION = 0x18
    LINEAR_FORWARDING_TABLE = 0x19
    MULTICAST_FORWARDING_TABLE = 0x1B
    SM_INFO = 0x20


@dataclass(frozen=True, slots=True)
class Smp:
    """A subnet management packet, LID routed (class 0x01) or by directed route (class 0x81).

    Only a directed one has hops: `initial_path[1..hop_count]` are the ports to leave by, `return_path[1..hop_count]`
    the ports it came in by; `returning` is the D bit. Both paths have 64 bytes. DrSLID and DrDLID other than
    0xffff say that a part at that end is LID routed.
    """

    LAYOUT: ClassVar = struct.Struct("!BBBBHBBQHHIQHH28s64s64s64s")  # the header, M_Key, DrSLID, DrDLID, data, paths
    method: int
    attribute: int
    modifier: int = 0
    data: bytes = bytes(DATA_BYTES)
    transaction_id: int = 0
    status: int = 0
    m_key: int = 0
    directed: bool = False
    returning: bool = False
    hop_pointer: int = 0
    hop_count: int = 0
    dr_slid: int = PERMISSIVE_LID
    dr_dlid: int = PERMISSIVE_LID
    initial_path: bytes = bytes(64)
    return_path: bytes = bytes(64)

    @classmethod
    def parse(cls, mad: bytes) -> Self:
        """Read a whole MAD; `Malformed` when it is not an SMP or its hop count does not fit the path."""
        if len(mad) != MAD_BYTES:
            raise Malformed(f"a MAD has {MAD_BYTES} bytes, got {len(mad)}")
        (base, kind, _, method, status, pointer, count, transaction, attribute, _, modifier, m_key, slid, dlid, _) = (
            cls.LAYOUT.unpack_from(mad)[:15]
        )
        if base != BASE_VERSION:
            raise Malformed(f"MAD base version {base}, only {BASE_VERSION} is known")
        data, initial, back = mad[64:128], mad[128:192], mad[192:]
        if kind == ManagementClass.SUBNET_LID_ROUTED:
            return cls(method, attribute, modifier, data, transaction, status, m_key)
        if kind != ManagementClass.SUBNET_DIRECTED_ROUTE:
            raise Malformed(f"class {kind:#04x} is not subnet management")
        if count > MAX_HOPS or pointer > count + 1:
            raise Malformed(f"a directed route has at most {MAX_HOPS} hops: pointer {pointer}, count {count}")
        return cls(
            method,
            attribute,
            modifier,
            data,
            transaction,
            status & 0x7FFF,
            m_key,
            True,
            bool(status & 0x8000),
            pointer,
            count,
            slid,
            dlid,
            initial,
            back,
        )

    def pack(self) -> bytes:
        if self.directed:
            kind, status = ManagementClass.SUBNET_DIRECTED_ROUTE, self.status | self.returning << 15
            route = (self.dr_slid, self.dr_dlid, bytes(28), self.data, self.initial_path, self.return_path)
        else:
            kind, status = ManagementClass.SUBNET_LID_ROUTED, self.status
            route = (0, 0, bytes(28), self.data, bytes(64), bytes(64))
        return self.LAYOUT.pack(
            BASE_VERSION,
            kind,
            1,
            self.method,
            status,
            self.hop_pointer,
            self.hop_count,
            self.transaction_id,
            self.attribute,
            0,
            self.modifier,
            self.m_key,
            *route,
        )

    def answer(self, data: bytes, status: int) -> "Smp":
        """The GetResp to this request."""
        return Smp(
            Method.GET_RESP,
            self.attribute,
            self.modifier,
            data,
            self.transaction_id,
            status,
            self.m_key,
            self.directed,
            self.directed,
            self.hop_pointer,
            self.hop_count,
            self.dr_slid,
            self.dr_dlid,
            self.initial_path,
            self.return_path,
        )


assert Smp.LAYOUT.size == MAD_BYTES


def directed_path(hops: tuple[int, ...]) -> bytes:
    """The initial path of a directed route that leaves by these ports in turn; entry 0 is not used."""
    if len(hops) > MAX_HOPS:
        raise Malformed(f"a directed route has at most {MAX_HOPS} hops, got {len(hops)}")
    return bytes((0, *hops)).ljust(64, b"\0")


def _sized(data: bytes, what: str) -> bytes:
    if len(data) != DATA_BYTES:
        raise Malformed(f"{what} needs {DATA_BYTES} bytes, got {len(data)}")
    return data


@dataclass(frozen=True, slots=True)
class NodeDescription:
    """The name of a node, at most 64 bytes of UTF-8 (14.2.5.2)."""

    text: str

    @classmethod
    def parse(cls, data: bytes) -> Self:
        try:
            return cls(_sized(data, "NodeDescription").rstrip(b"\0").decode())
        except UnicodeDecodeError as error:
            raise Malformed(f"NodeDescription is not UTF-8: {error.reason}") from None

    def pack(self) -> bytes:
        return self.text.encode()[:DATA_BYTES].ljust(DATA_BYTES, b"\0")


class NodeType(enum.IntEnum):
    CHANNEL_ADAPTER = 1
    SWITCH = 2
    ROUTER = 3


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """What a node is, seen through the port that was asked (14.2.5.3)."""

    LAYOUT: ClassVar = struct.Struct("!BBBBQQQHHII24x")  # ... | port:8 vendor:24
    node_type: int
    port_count: int
    system_guid: int
    node_guid: int
    port_guid: int
    local_port: int
    partition_cap: int
    device_id: int = 0
    revision: int = 0
    vendor_id: int = 0
    base_version: int = 1
    class_version: int = 1

    @classmethod
    def parse(cls, data: bytes) -> Self:
        base, version, kind, ports, system, node, port, cap, device, revision, tail = cls.LAYOUT.unpack(
            _sized(data, "NodeInfo")
        )
        if kind not in (NodeType.CHANNEL_ADAPTER, NodeType.SWITCH, NodeType.ROUTER):
            raise Malformed(f"no node type {kind}")
        return cls(kind, ports, system, node, port, tail >> 24, cap, device, revision, tail & 0xFFFFFF, base, version)

    def pack(self) -> bytes:
        return self.LAYOUT.pack(
            self.base_version,
            self.class_version,
            self.node_type,
            self.port_count,
            self.system_guid,
            self.node_guid,
            self.port_guid,
            self.partition_cap,
            self.device_id,
            self.revision,
            self.local_port << 24 | self.vendor_id,
        )


@dataclass(frozen=True, slots=True)
class SwitchInfo:
    """What a switch can and what it is set to (14.2.5.4). Writing `port_state_change` as 1 clears it."""

    LAYOUT: ClassVar = struct.Struct("!HHHHBBBBHHBBH44x")  # byte 11: lifetime:5 change:1 optimized:2
    linear_cap: int
    multicast_cap: int
    linear_top: int = 0
    multicast_top: int = 0
    lifetime: int = 0
    port_state_change: bool = False
    optimized_sl_to_vl: int = 0
    random_cap: int = 0
    default_port: int = NO_PORT
    default_multicast_primary: int = NO_PORT
    default_multicast_not_primary: int = NO_PORT
    lids_per_port: int = 0
    partition_enforcement_cap: int = 0
    enforcement: int = 0  # the eight flag bits: 0x80 inbound, 0x40 outbound, 0x08 enhanced port 0

    @classmethod
    def parse(cls, data: bytes) -> Self:
        (linear, rand, multicast, top, default, primary, not_primary, word, lids, cap, flags, _, multicast_top) = (
            cls.LAYOUT.unpack(_sized(data, "SwitchInfo"))
        )
        return cls(
            linear_cap=linear,
            multicast_cap=multicast,
            linear_top=top,
            multicast_top=multicast_top,
            lifetime=word >> 3,
            port_state_change=bool(word & 4),
            optimized_sl_to_vl=word & 3,
            random_cap=rand,
            default_port=default,
            default_multicast_primary=primary,
            default_multicast_not_primary=not_primary,
            lids_per_port=lids,
            partition_enforcement_cap=cap,
            enforcement=flags,
        )

    def pack(self) -> bytes:
        return self.LAYOUT.pack(
            self.linear_cap,
            self.random_cap,
            self.multicast_cap,
            self.linear_top,
            self.default_port,
            self.default_multicast_primary,
            self.default_multicast_not_primary,
            self.lifetime << 3 | self.port_state_change << 2 | self.optimized_sl_to_vl,
            self.lids_per_port,
            self.partition_enforcement_cap,
            self.enforcement,
            0,
            self.multicast_top,
        )


@dataclass(frozen=True, slots=True)
class GuidInfo:
    """Eight GUIDs of a port (14.2.5.5); block 0, entry 0 is the port GUID itself."""

    LAYOUT: ClassVar = struct.Struct("!8Q")
    guids: tuple[int, ...]

    @classmethod
    def parse(cls, data: bytes) -> Self:
        return cls(cls.LAYOUT.unpack(_sized(data, "GUIDInfo")))

    def pack(self) -> bytes:
        return self.LAYOUT.pack(*self.guids)


@dataclass(frozen=True, slots=True)
class Block16:
    """32 entries of 16 bits: a block of the P_Key table (14.2.5.7) or of the multicast table (14.2.5.12)."""

    LAYOUT: ClassVar = struct.Struct("!32H")
    entries: tuple[int, ...]

    @classmethod
    def parse(cls, data: bytes) -> Self:
        return cls(cls.LAYOUT.unpack(_sized(data, "a table block")))

    def pack(self) -> bytes:
        return self.LAYOUT.pack(*self.entries)


@dataclass(frozen=True, slots=True)
class SlToVl:
    """The virtual lane (4 bits) of each of the 16 service levels (14.2.5.8)."""

    lanes: tuple[int, ...]

    @classmethod
    def parse(cls, data: bytes) -> Self:
        return cls(tuple(lane for byte in _sized(data, "SLtoVL")[:8] for lane in (byte >> 4, byte & 15)))

    def pack(self) -> bytes:
        pairs = zip(self.lanes[::2], self.lanes[1::2], strict=True)
        return bytes(high << 4 | low for high, low in pairs).ljust(DATA_BYTES, b"\0")


@dataclass(frozen=True, slots=True)
class VlArbitration:
    """32 entries of (virtual lane 0-15, weight 0-255) of one arbitration table half (14.2.5.9)."""

    entries: tuple[tuple[int, int], ...]

    @classmethod
    def parse(cls, data: bytes) -> Self:
        raw = _sized(data, "VLArbitration")
        return cls(tuple((lane & 15, weight) for lane, weight in zip(raw[::2], raw[1::2], strict=True)))

    def pack(self) -> bytes:
        return bytes(byte for entry in self.entries for byte in entry)


class SmState(enum.IntEnum):
    """SMInfo.SMState."""

    NOT_ACTIVE = 0
    DISCOVERING = 1
    STANDBY = 2
    MASTER = 3


class SmControl(enum.IntEnum):
    """The modifier of a Set of SMInfo: what one manager asks of another (14.4.1)."""

    HANDOVER = 1
    ACKNOWLEDGE = 2
    DISABLE = 3
    STANDBY = 4
    DISCOVER = 5


@dataclass(frozen=True, slots=True)
class SmInfo:
    """What a subnet manager says of itself (14.2.5.13). A higher priority wins, then the lower GUID."""

    LAYOUT: ClassVar = struct.Struct("!QQIB43x")  # guid | key | activity | priority:4 state:4
    guid: int
    activity: int
    priority: int
    state: int
    sm_key: int = 0

    @classmethod
    def parse(cls, data: bytes) -> Self:
        guid, key, activity, word = cls.LAYOUT.unpack(_sized(data, "SMInfo"))
        return cls(guid, activity, word >> 4, word & 15, key)

    def pack(self) -> bytes:
        return self.LAYOUT.pack(self.guid, self.sm_key, self.activity, self.priority << 4 | self.state)
