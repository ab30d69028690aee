"""What a bond wants done, in the order in which it must be done.

What concerns the model (addresses, lists, carrier, MTU of the bond's and the members' `Device`) the bond does itself,
and the namespace notifies its listeners; effects are what leaves the model: frames, kernel-like events, texts.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FailedOver:
    """NETDEV_BONDING_FAILOVER: `new` is the active member now (never sent when there is none)."""

    old: str | None
    new: str


@dataclass(frozen=True, slots=True)
class NotifyPeers:
    """NETDEV_NOTIFY_PEERS: one gratuitous ARP per IPv4 and one unsolicited NA per IPv6 address of the bond, now."""


@dataclass(frozen=True, slots=True)
class ResendReports:
    """NETDEV_RESEND_IGMP: IGMP and MLD reports for every group joined on the bond, now."""


@dataclass(frozen=True, slots=True)
class Prepare:
    """Join the bond's groups on this member and learn its paths; answer `Ready(member)` (make before break)."""

    name: str


@dataclass(frozen=True, slots=True)
class ProbeArp:
    """Send an ARP request for an IPv4 target (4 bytes) through this member (`bond_arp_send_all`)."""

    name: str
    target: bytes


@dataclass(frozen=True, slots=True)
class ProbeNeighbor:
    """Send a neighbor solicitation for an IPv6 target (16 bytes) through this member (`bond_ns_send_all`)."""

    name: str
    target: bytes


@dataclass(frozen=True, slots=True)
class Log:
    """A line for the kernel log, without the bond's name in front; wording follows the kernel's."""

    text: str
    member: str | None = None
    level: str = "info"


@dataclass(frozen=True, slots=True)
class Changed:
    """An attribute has a new value (wakes poll() on its file): `active_slave`, `mii_status`, `slaves`, ..."""

    attribute: str
    member: str | None = None


BondEffect = FailedOver | NotifyPeers | ResendReports | Prepare | ProbeArp | ProbeNeighbor | Log | Changed
