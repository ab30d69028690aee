"""What goes into and what comes out of one IPoIB interface, and what it looks at below.

Read first: RFC 4391 and `ib_event` handling in Linux's `ipoib_verbs.c`. Effects are in the order in which they must
happen; the owner of the interface (`stack`) carries them out on the subnet and on the device.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ibbond.cm.events import CmEvent
from ibbond.verbs.verbs import Datagram, ManagementDatagram, PortEventKind, PortState


class PortFacts(Protocol):
    """The port that carries the interface; live facts, `mtu_bytes` is the IB MTU (2048, 4096)."""

    @property
    def name(self) -> str:
        """NODE/NUMBER, for example h1/1."""
        ...

    @property
    def state(self) -> PortState:
        """The logical state of the port (IBTA 14.2.5.6)."""
        ...

    @property
    def lid(self) -> int:
        """Its own LID; 0 before a subnet manager has assigned one."""
        ...

    @property
    def sm_lid(self) -> int:
        """The LID of the subnet manager."""
        ...

    @property
    def gid(self) -> bytes:
        """GID 0: subnet prefix and port GUID, 16 bytes."""
        ...

    @property
    def pkeys(self) -> Sequence[int]:
        """The P_Key table, with empty entries as 0."""
        ...

    @property
    def mtu_bytes(self) -> int:
        """The InfiniBand MTU (bytes) that the port is configured for."""
        ...


@dataclass(frozen=True, slots=True)
class AdminUp:
    """The device was set up (`ipoib_open`)."""


@dataclass(frozen=True, slots=True)
class AdminDown:
    """The device was set down (`ipoib_stop`)."""


@dataclass(frozen=True, slots=True)
class PortRaised:
    """The port raised an asynchronous event; its facts have already changed."""

    kind: PortEventKind


@dataclass(frozen=True, slots=True)
class MadReceived:
    """A MAD for software at the port's QP1; answers to others are left alone."""

    mad: bytes


@dataclass(frozen=True, slots=True)
class GroupsChanged:
    """The device's multicast list has changed (`ndo_set_rx_mode`)."""


@dataclass(frozen=True, slots=True)
class MtuChanged:
    """The device's MTU was set; the interface says whether its link carries it."""


@dataclass(frozen=True, slots=True)
class SetMode:
    """Connected or datagram mode was asked for (`/sys/class/net/ibN/mode`); may be refused."""

    connected: bool


@dataclass(frozen=True, slots=True)
class SendFailed:
    """A reliable queue pair of the interface is in error: retries exceeded, or its peer is gone."""

    qpn: int


@dataclass(frozen=True, slots=True)
class ConnectionEvent:
    """The connection manager has something about a connection of the interface (connected mode)."""

    event: CmEvent


InterfaceEvent = (
    AdminUp | AdminDown | PortRaised | MadReceived | GroupsChanged | MtuChanged | SetMode | SendFailed | ConnectionEvent
)


@dataclass(frozen=True, slots=True)
class EmitDatagram:
    """Send this UD message through the interface's port."""

    datagram: Datagram


@dataclass(frozen=True, slots=True)
class EmitMad:
    """Send this MAD through the interface's port."""

    mad: ManagementDatagram


@dataclass(frozen=True, slots=True)
class Attach:
    """The queue pair receives this group from now on."""

    mgid: bytes
    mlid: int


@dataclass(frozen=True, slots=True)
class Detach:
    """The queue pair no longer receives this group."""

    mgid: bytes


@dataclass(frozen=True, slots=True)
class SetQkey:
    """The queue pair takes and sends this Q_Key from now on: the broadcast group's."""

    qkey: int


@dataclass(frozen=True, slots=True)
class CarrierIs:
    """The device's carrier (`netif_carrier_on`, `netif_carrier_off`)."""

    up: bool


@dataclass(frozen=True, slots=True)
class MtuIs:
    """The device's MTU is what its broadcast group allows."""

    mtu: int


@dataclass(frozen=True, slots=True)
class AddressIs:
    """The port has another GID, so the device has another hardware address."""

    address: bytes


@dataclass(frozen=True, slots=True)
class PathsChanged:
    """What `path_to` has answered may no longer hold: remembered flows ask again."""


@dataclass(frozen=True, slots=True)
class TooLong:
    """A packet larger than its link carries was dropped; `packet` begins with its IP header."""

    packet: bytes
    mtu: int


@dataclass(frozen=True, slots=True)
class Dropped:
    """Packets were not sent; they are counted in the device's statistics already."""

    reason: str
    packets: int = 1


@dataclass(frozen=True, slots=True)
class ConnectQueuePair:
    """Connect a reliable queue pair with the peer's (INIT-RTR-RTS).

    `mtu` is the standard's code, `ack_timeout` too: 4.096 us x 2^code until an acknowledgment is missed; `retries` such
    times without one are the end.
    """

    qpn: int
    peer_qpn: int
    dlid: int
    sl: int
    gid: bytes
    psn: int
    peer_psn: int
    mtu: int
    ack_timeout: int
    retries: int


@dataclass(frozen=True, slots=True)
class CloseQueuePair:
    """Destroy a reliable queue pair."""

    qpn: int


@dataclass(frozen=True, slots=True)
class EmitMessage:
    """Send this message through a connected queue pair."""

    qpn: int
    payload: bytes
    offload: bytes = b""


InterfaceEffect = (
    EmitDatagram
    | EmitMad
    | Attach
    | Detach
    | SetQkey
    | CarrierIs
    | MtuIs
    | AddressIs
    | PathsChanged
    | TooLong
    | Dropped
    | ConnectQueuePair
    | CloseQueuePair
    | EmitMessage
)


@dataclass(frozen=True, slots=True)
class Frame:
    """What arrived, without its IPoIB header. `kind` is `host`, `broadcast` or `multicast`.

    The source is that of the completion: no stack may take it for a link-layer address (it has no GID without a
    GRH); addresses are learnt from ARP and neighbor discovery.
    """

    ethertype: int
    payload: bytes
    kind: str
    offload: bytes
    source_lid: int
    source_qpn: int
    source_gid: bytes | None
