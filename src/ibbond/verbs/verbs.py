"""What a port offers to the software above it: values that cross between a host and the subnet.

Read first: InfiniBand Architecture volume 1, chapters 9-11 (packets, queue pairs, verbs). Names are the standard's.
Addresses are bytes (GID 16), identifiers are ints (LID 16 bits, QPN 24, Q_Key 32, P_Key 16).
"""

import enum
from dataclasses import dataclass

MULTICAST_QPN = 0xFFFFFF
FIRST_MLID = 0xC000
SMI_QPN = 0  # QP0, where subnet management is reached
GSI_QPN = 1  # QP1, where subnet administration and the connection manager are reached
GSI_QKEY = 0x80010000


class PortState(enum.IntEnum):
    """PortInfo.PortState."""

    DOWN = 1
    INIT = 2
    ARMED = 3
    ACTIVE = 4


class PortEventKind(enum.Enum):
    """Asynchronous events of a port (`ib_event_type`)."""

    PORT_ACTIVE = enum.auto()
    PORT_ERR = enum.auto()
    LID_CHANGE = enum.auto()
    PKEY_CHANGE = enum.auto()
    SM_CHANGE = enum.auto()
    CLIENT_REREGISTER = enum.auto()
    GID_CHANGE = enum.auto()
    DEVICE_FATAL = enum.auto()  # of the whole adapter, raised at each of its ports


@dataclass(frozen=True, slots=True)
class Datagram:
    """One UD message between two queue pairs, as the completion shows it.

    `destination_gid` is set when there is a GRH (always for multicast); `offload` is the virtio-net
    header of a GSO packet (empty without one), see docs/architecture.md.
    """

    source_lid: int
    destination_lid: int
    pkey: int
    source_qpn: int
    destination_qpn: int
    qkey: int
    payload: bytes
    service_level: int = 0
    source_gid: bytes | None = None
    destination_gid: bytes | None = None
    traffic_class: int = 0
    flow_label: int = 0
    hop_limit: int = 0
    offload: bytes = b""


@dataclass(frozen=True, slots=True)
class ManagementDatagram:
    """A MAD on its way: 256 bytes and where it comes from and goes to. LIDs of 0xffff mean directed route."""

    source_lid: int
    destination_lid: int
    source_qpn: int
    destination_qpn: int
    mad: bytes


@dataclass(frozen=True, slots=True)
class SubnetLog:
    """Effect: something a person watching the subnet wants to read (`link down`, `sweep done in 0.7 ms`)."""

    what: str
    where: str
