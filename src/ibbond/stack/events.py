"""What goes into and comes out of a world of hosts (`stack.network.Network`) and one host of it.

Devices are named by (host, device). Packets are IP packets without any link-layer header, as a TUN device gives them;
`offload` is the 10-byte virtio-net header in front of them, empty without offload.
"""

from dataclasses import dataclass

from ibbond.bonding.events import BondEvent
from ibbond.fabric.events import MadArrived, SubnetEvent
from ibbond.rdma_cm.events import RdmaCall, RdmaEvent, RdmaUserClosed


@dataclass(frozen=True, slots=True)
class Transmit:
    """A program's packet left the host's IP stack through this device."""

    device: str
    packet: bytes
    offload: bytes = b""


@dataclass(frozen=True, slots=True)
class AddressesAre:
    """The IP addresses of a device, as (address bytes of 4 or 16, prefix length); replaces what was known."""

    device: str
    addresses: tuple[tuple[bytes, int], ...]


@dataclass(frozen=True, slots=True)
class RouteEntry:
    """A route of the host: packets to destination/prefix leave by `device`, to `gateway` or (empty) on link."""

    destination: bytes
    prefix: int
    device: str
    gateway: bytes = b""
    metric: int = 0


@dataclass(frozen=True, slots=True)
class RoutesAre:
    """The host's routing table (both families); replaces what was known."""

    routes: tuple[RouteEntry, ...]


@dataclass(frozen=True, slots=True)
class GroupsAre:
    """The IP multicast groups (4 or 16 bytes) joined on a device by the host or its programs; replaces."""

    device: str
    groups: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class GroupJoined:
    """One group more, seen at once (an IGMP or MLD report left through the device)."""

    device: str
    group: bytes


@dataclass(frozen=True, slots=True)
class GroupLeft:
    """A program has left this group (an IP address, 4 or 16 bytes)."""

    device: str
    group: bytes


@dataclass(frozen=True, slots=True)
class SetAdmin:
    """`ip link set DEVICE up|down`, by an operator (through sysfs, netlink on the TUN, or our CLI)."""

    device: str
    up: bool


@dataclass(frozen=True, slots=True)
class SetDeviceMtu:
    """Set a device's MTU (bytes); may be refused."""

    device: str
    mtu: int


@dataclass(frozen=True, slots=True)
class SetDeviceMode:
    """`connected` or `datagram` written to the `mode` file of an IPoIB device."""

    device: str
    connected: bool


@dataclass(frozen=True, slots=True)
class CreateBond:
    """`+NAME` written to bonding_masters."""

    name: str


@dataclass(frozen=True, slots=True)
class DeleteBond:
    """Delete a bond (`-NAME` in bonding_masters); its members are released first."""

    name: str


@dataclass(frozen=True, slots=True)
class ToBond:
    """A request to one bond of the host."""

    bond: str
    event: BondEvent


@dataclass(frozen=True, slots=True)
class CreateChild:
    """A partition child of an IPoIB device, as `create_child` makes it (`ib0.8001`)."""

    parent: str
    pkey: int


@dataclass(frozen=True, slots=True)
class DeleteChild:
    """Delete the partition child of an IPoIB device (`delete_child`)."""

    parent: str
    pkey: int


HostEvent = (
    Transmit
    | AddressesAre
    | RoutesAre
    | GroupsAre
    | GroupJoined
    | GroupLeft
    | SetAdmin
    | SetDeviceMtu
    | SetDeviceMode
    | CreateBond
    | DeleteBond
    | ToBond
    | CreateChild
    | DeleteChild
    | RdmaCall
    | RdmaUserClosed
)


@dataclass(frozen=True, slots=True)
class OnHost:
    """An event for one host of the network."""

    host: str
    event: HostEvent


@dataclass(frozen=True, slots=True)
class OnSubnet:
    """An event for the subnet."""

    event: SubnetEvent


NetworkEvent = OnHost | OnSubnet


@dataclass(frozen=True, slots=True)
class Deliver:
    """Effect: hand this IP packet to the host's IP stack through this device (write it to the TUN).

    `member` is the bond's member that it came in by; empty on a device without bond.
    """

    host: str
    device: str
    packet: bytes
    offload: bytes = b""
    member: str = ""


@dataclass(frozen=True, slots=True)
class DeviceAppeared:
    """Effect: a device exists now and wants a TUN (bonds made by sysfs, partition children)."""

    host: str
    device: str


@dataclass(frozen=True, slots=True)
class DeviceVanished:
    """A device of a host was unregistered: its TUN is closed."""

    host: str
    device: str


@dataclass(frozen=True, slots=True)
class DeviceChanged:
    """Effect: carrier, MTU or admin state of a device differ from what its TUN shows; read them from the model."""

    host: str
    device: str


@dataclass(frozen=True, slots=True)
class AttributeChanged:
    """Effect: a sysfs file has a new value; `path` is below /sys/class/net (`bond0/bonding/active_slave`)."""

    host: str
    path: str


@dataclass(frozen=True, slots=True)
class AddressChange:
    """Effect: a bond's hardware address is another member's now (RDMA CM's ADDR_CHANGE hangs here)."""

    host: str
    device: str
    old: bytes
    new: bytes


@dataclass(frozen=True, slots=True)
class TraceEvent:
    """Effect: a line of the world's time line (`failover`, `carrier`, `port`, `log`, ...), for people and reports."""

    what: str
    where: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class FrameCaptured:
    """Effect: raw InfiniBand bytes (LRH to VCRC) at a captured port, leaving it (`sent`) or arriving."""

    port: str
    frame: bytes
    sent: bool


NetworkEffect = (
    Deliver
    | DeviceAppeared
    | DeviceVanished
    | DeviceChanged
    | AttributeChanged
    | AddressChange
    | TraceEvent
    | FrameCaptured
    | RdmaEvent
    | MadArrived  # at a port where programs of others take MADs
)
