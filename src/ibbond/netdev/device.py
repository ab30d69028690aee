"""One network device, as the kernel's drivers and its users see it.

Read first: `struct net_device` and `net/core/dev.c` of Linux. A `Device` holds facts and notifies its `Namespace` when
they change; what opens, sends or refuses is its `Driver`. Left out: queues, features beyond those bonding needs.
"""

from __future__ import annotations

import enum
import errno
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from ibbond.errors import Refused
from ibbond.netdev.groups import AddressList

if TYPE_CHECKING:
    from ibbond.netdev.namespace import Namespace


class Flags(enum.IntFlag):
    """`IFF_*` of linux/if.h. RUNNING and LOWER_UP are derived from the carrier, never stored."""

    UP = 0x1
    BROADCAST = 0x2
    LOOPBACK = 0x8
    POINTOPOINT = 0x10
    RUNNING = 0x40
    NOARP = 0x80
    PROMISC = 0x100
    ALLMULTI = 0x200
    MASTER = 0x400
    SLAVE = 0x800
    MULTICAST = 0x1000
    LOWER_UP = 0x10000


_UP = int(Flags.UP)


class AddressOrigin(enum.IntEnum):
    """`addr_assign_type`: where the hardware address came from."""

    PERMANENT = 0
    RANDOM = 1
    STOLEN = 2
    SET = 3


class NetdevEvent(enum.Enum):
    """What a namespace notifies its listeners of (netdevice notifiers).

    Those marked may be vetoed by raising `Refused`.
    """

    REGISTER = enum.auto()
    UNREGISTER = enum.auto()
    UP = enum.auto()
    DOWN = enum.auto()
    CHANGE = enum.auto()  # flags or carrier
    CHANGEMTU = enum.auto()
    CHANGEADDR = enum.auto()
    PRE_CHANGEADDR = enum.auto()  # may be vetoed
    CHANGENAME = enum.auto()
    PRE_TYPE_CHANGE = enum.auto()  # may be vetoed
    POST_TYPE_CHANGE = enum.auto()
    JOIN = enum.auto()  # may be vetoed
    RELEASE = enum.auto()
    CHANGEUPPER = enum.auto()
    BONDING_FAILOVER = enum.auto()
    NOTIFY_PEERS = enum.auto()
    RESEND_IGMP = enum.auto()
    CHANGEINFODATA = enum.auto()
    RX_MODE = enum.auto()  # the unicast or multicast list of a device that is up changed (ndo_set_rx_mode)
    RX_FLAGS = enum.auto()  # PROMISC or ALLMULTI changed (ndo_change_rx_flags)


class Driver(Protocol):
    """What differs between kinds of devices. Each method may raise `Refused`; the device is then unchanged."""

    @property
    def kind(self) -> str:
        """`ipoib`, `ethernet`, `bond`, `tun`, `vlan`, ..."""
        ...

    @property
    def can_set_address(self) -> bool:
        """`ndo_set_mac_address` exists."""
        ...

    @property
    def vlan_challenged(self) -> bool:
        """VLANs cannot sit on it."""
        ...

    def open(self, device: Device) -> None:
        """Called when the device is set up (`ndo_open`); `Refused` keeps it down."""
        ...

    def close(self, device: Device) -> None:
        """Called when the device is set down (`ndo_stop`)."""
        ...

    def check_mtu(self, device: Device, mtu: int) -> None:
        """`Refused` if the driver cannot carry this MTU in bytes (`ndo_change_mtu`)."""
        ...

    def check_address(self, device: Device, address: bytes) -> None:
        """`Refused` if the driver cannot take this hardware address (`ndo_set_mac_address`)."""
        ...

    def speed(self, device: Device) -> int | None:
        """Mbit/s, or None when unknown."""
        ...

    def duplex(self, device: Device) -> str | None:
        """`full`, `half`, or None when unknown."""
        ...


@dataclass(slots=True)
class Statistics:
    """The counters of /sys/class/net/DEV/statistics that are kept."""

    rx_packets: int = 0
    rx_bytes: int = 0
    rx_dropped: int = 0
    rx_errors: int = 0
    tx_packets: int = 0
    tx_bytes: int = 0
    tx_dropped: int = 0
    tx_errors: int = 0
    multicast: int = 0


@dataclass(eq=False, slots=True)
class Device:
    """A network device; `address` and `broadcast` have the same length, 20 bytes on IPoIB and 6 on Ethernet."""

    name: str
    driver: Driver
    type: int
    address: bytes
    broadcast: bytes
    mtu: int = 1500
    min_mtu: int = 68
    max_mtu: int = 65535
    flags: Flags = Flags.BROADCAST | Flags.MULTICAST
    carrier: bool = False
    had_carrier: bool = False  # at any time
    link_watch_pending: bool = False  # the stack has yet to learn of the carrier; the owner clears it
    address_origin: AddressOrigin = AddressOrigin.PERMANENT
    permanent_address: bytes = b""
    hard_header_len: int = 14
    tx_queue_len: int = 1000
    ifindex: int = 0
    master: Device | None = None
    lowers: list[Device] = field(default_factory=list)
    multicast: AddressList = field(default_factory=AddressList)
    unicast: AddressList = field(default_factory=AddressList)
    promiscuity: int = 0
    allmulti: int = 0
    asked: Flags = field(default=Flags(0))  # PROMISC and ALLMULTI as user space set them on this very device
    statistics: Statistics = field(default_factory=Statistics)
    namespace: Namespace | None = None

    @property
    def up(self) -> bool:
        """Administratively up (IFF_UP)."""
        return int.__and__(self.flags, _UP) != 0  # asked for every packet: without the detour of IntFlag

    @property
    def addr_len(self) -> int:
        """The length of the hardware address: 20 on IPoIB, 6 on Ethernet."""
        return len(self.address)

    @property
    def usable(self) -> bool:
        """Running with carrier: what bonding's monitor asks of a member."""
        return self.up and self.carrier

    def notify(self, notice: NetdevEvent) -> None:
        """Notify the namespace's listeners of a change; a listener may veto the events that say so."""
        if self.namespace is not None:
            self.namespace.notify(notice, self)

    def open(self) -> None:
        """Set the device administratively up (`dev_open`); nothing to do when it is. The driver may refuse."""
        if self.up:
            return
        self.driver.open(self)
        self.flags |= Flags.UP
        self.notify(NetdevEvent.RX_MODE)
        self.notify(NetdevEvent.UP)

    def close(self) -> None:
        """Set the device administratively down (`dev_close`)."""
        if not self.up:
            return
        self.driver.close(self)
        self.flags &= ~Flags.UP
        self.notify(NetdevEvent.DOWN)

    def set_carrier(self, carrier: bool) -> None:
        """`netif_carrier_on` and `netif_carrier_off`; notifies NETDEV_CHANGE if it changes."""
        if self.carrier != carrier:
            self.carrier = carrier
            self.had_carrier = self.had_carrier or carrier
            self.notify(NetdevEvent.CHANGE)

    def set_mtu(self, mtu: int) -> None:
        """Change the MTU (`dev_set_mtu`); the device's limits (EINVAL) or its driver may refuse."""
        if mtu == self.mtu:
            return
        if not self.min_mtu <= mtu <= self.max_mtu:
            raise Refused(
                f"cannot set the MTU of {self.name} to {mtu}",
                why=f"its limits are {self.min_mtu} to {self.max_mtu}",
                fix="Choose an MTU within these limits",
            )
        self.driver.check_mtu(self, mtu)
        self.mtu = mtu
        self.notify(NetdevEvent.CHANGEMTU)

    def set_address(self, address: bytes, origin: AddressOrigin) -> None:
        """Change the hardware address (`dev_set_mac_address`); the driver or a listener may refuse.

        EOPNOTSUPP where the driver has no such operation.
        """
        if not self.driver.can_set_address:
            raise Refused(
                f"cannot set the hardware address of {self.name}",
                why=f"its driver ({self.driver.kind}) does not support it",
                fix="Use fail_over_mac active, which leaves the members' addresses alone",
                code=errno.EOPNOTSUPP,
            )
        self.notify(NetdevEvent.PRE_CHANGEADDR)
        self.driver.check_address(self, address)
        self.address = address
        self.address_origin = origin
        self.notify(NetdevEvent.CHANGEADDR)

    def add_multicast(self, address: bytes) -> None:
        """One user more of a link-layer multicast address (`dev_mc_add`)."""
        self.multicast.add(address)
        self.rx_mode_changed()

    def remove_multicast(self, address: bytes) -> None:
        """`dev_mc_del`: one user less of this group; the driver is updated after the last."""
        self.multicast.remove(address)
        self.rx_mode_changed()

    def rx_mode_changed(self) -> None:
        """`__dev_set_rx_mode`: a device that is down is updated when it is opened."""
        if self.up:
            self.notify(NetdevEvent.RX_MODE)

    def count_promiscuous(self, users: int) -> None:
        """So many users more (or less) want every frame (`dev_set_promiscuity`)."""
        self.promiscuity += users
        self._derive(Flags.PROMISC, self.promiscuity)

    def count_allmulti(self, users: int) -> None:
        """So many users more (or less) want every multicast (`dev_set_allmulti`)."""
        self.allmulti += users
        self._derive(Flags.ALLMULTI, self.allmulti)

    def ask(self, flag: Flags, on: bool) -> None:
        """User space itself sets or clears PROMISC or ALLMULTI (`gflags`): it counts as one user."""
        assert flag in (Flags.PROMISC, Flags.ALLMULTI)
        if bool(self.asked & flag) != on:
            self.asked ^= flag
            count = self.count_promiscuous if flag is Flags.PROMISC else self.count_allmulti
            count(1 if on else -1)

    def _derive(self, flag: Flags, users: int) -> None:
        assert users >= 0, f"{self.name}: more users of {flag.name} went than came"
        if bool(self.flags & flag) != (users > 0):
            self.flags ^= flag
            self.notify(NetdevEvent.RX_FLAGS)
