"""What a bond handles: requests of operators (may raise `Refused`) and facts about members and frames.

A carrier or admin change of a member is a fact that the bond reads from the member's `Device`; `MemberChanged` says
that there is something new to read.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AddMember:
    """`+NAME` written to bonding/slaves; the device is looked up in the bond's namespace."""

    name: str


@dataclass(frozen=True, slots=True)
class RemoveMember:
    """`-NAME` written to bonding/slaves."""

    name: str


@dataclass(frozen=True, slots=True)
class SetOption:
    """Text written to bonding/OPTION, byte for byte; or one of ibbond's settings (`link_events`, `handover_ms`)."""

    option: str
    text: str


@dataclass(frozen=True, slots=True)
class Open:
    """Administratively up."""


@dataclass(frozen=True, slots=True)
class Close:
    """Administratively down."""


@dataclass(frozen=True, slots=True)
class SetMtu:
    """Set the MTU (bytes) of the bond and of its members (`bond_change_mtu`)."""

    mtu: int


@dataclass(frozen=True, slots=True)
class SetAddress:
    """The bond's hardware address is set by hand."""

    address: bytes


@dataclass(frozen=True, slots=True)
class SetPriority:
    """A member's `prio` (netlink only in the kernel)."""

    name: str
    priority: int


@dataclass(frozen=True, slots=True)
class MemberChanged:
    """The member's carrier or admin state changed; see `Device`."""

    name: str


@dataclass(frozen=True, slots=True)
class MemberUnregistered:
    """The member's device is being unregistered (hot-unplug)."""

    name: str


@dataclass(frozen=True, slots=True)
class MemberRenamed:
    """The member's device has a new name (NETDEV_CHANGENAME)."""

    old: str
    name: str


@dataclass(frozen=True, slots=True)
class Ready:
    """The member asked by `Prepare` has joined its groups and knows its paths (make before break)."""

    name: str


@dataclass(frozen=True, slots=True)
class ArpSeen:
    """An ARP packet came in at a member (`bond_arp_rcv`); addresses are 4 bytes, lengths and type from the packet.

    `own`: another member of the bond has sent it.
    """

    name: str
    hardware_type: int
    hardware_length: int
    operation: int
    sender_ip: bytes
    target_ip: bytes
    own: bool = False


@dataclass(frozen=True, slots=True)
class NeighborDiscoverySeen:
    """An NS or NA came in at a member (`bond_na_rcv`); addresses are 16 bytes."""

    name: str
    icmp_type: int
    source: bytes
    destination: bytes
    target: bytes
    own: bool = False


@dataclass(frozen=True, slots=True)
class FrameSeen:
    """Any other frame came in at a member while the ARP monitor runs; `ipv6` says whether it is IPv6."""

    name: str
    ipv6: bool = False
    own: bool = False


@dataclass(frozen=True, slots=True)
class AddressesChanged:
    """The IP addresses on the bond or on devices above it (4 or 16 bytes each), for ARP validation."""

    addresses: tuple[bytes, ...]


BondEvent = (
    AddMember
    | RemoveMember
    | SetOption
    | Open
    | Close
    | SetMtu
    | SetAddress
    | SetPriority
    | MemberChanged
    | MemberUnregistered
    | MemberRenamed
    | Ready
    | ArpSeen
    | NeighborDiscoverySeen
    | FrameSeen
    | AddressesChanged
)
