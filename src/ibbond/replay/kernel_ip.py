"""The IP side of a recorded host: addresses, groups, and what an IP stack says when a bond fails over.

Read first: `igmp.c`, `devinet.c`, `mcast.c`, `ndisc.c` and `addrconf.c` of Linux, and of this project
tests/golden/kernel-6.1/README.md. This is the kernel's own bookkeeping, stale entries included, because recordings
show it: a group counts as loaded or not, and what is removed is what the device's type maps it to *now*. Our own hosts
do better (`stack.host_groups`). Left out: packets of programs, routers, MLD reports (no recording shows them).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from ibbond.machine import MS
from ibbond.netdev.device import Device, Flags, NetdevEvent
from ibbond.netdev.namespace import Namespace
from ibbond.replay.clock import VirtualClock
from ibbond.replay.segment import Frame
from ibbond.stack.host_groups import ALL_HOSTS
from ibbond.wire import arp, nd
from ibbond.wire.group_address import ethernet_group_address, group_address
from ibbond.wire.group_reports import ALL_REPORTS_V4, Record, RecordKind, Report
from ibbond.wire.hardware_type import ETHERNET, INFINIBAND
from ibbond.wire.hwaddr import LINK_LOCAL_PREFIX, interface_identifier
from ibbond.wire.ipoib import ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6

DAD_PROBE = 500 * MS  # the kernel draws 0 to 1 s before it probes, then waits one second
DAD_DONE = 1500 * MS
IPV6_MIN_MTU = 1280

Transmit = Callable[[Device, Frame], None]


@dataclass(slots=True)
class Address:
    """An address of a device; a `tentative` one must not be used yet."""

    ip: bytes
    prefix: int
    tentative: bool = False

    def covers(self, other: bytes) -> bool:
        if len(other) != len(self.ip):
            return False
        shift = 8 * len(self.ip) - self.prefix
        return int.from_bytes(self.ip) >> shift == int.from_bytes(other) >> shift


@dataclass(slots=True)
class Group:
    """A group joined on a device; `loaded` while its link-layer address should be in the device's list."""

    users: int = 1
    loaded: bool = False


@dataclass(slots=True)
class Interface:
    """What the IP stack keeps of one device."""

    groups: dict[bytes, Group] = field(default_factory=dict)
    addresses: list[Address] = field(default_factory=list)
    ready: bool = False  # IPv6 has seen the device up and with carrier (IF_READY)


class KernelIp:
    """Listens to a namespace as the kernel's IP stack does; `transmit` sends a frame through a device."""

    def __init__(self, namespace: Namespace, clock: VirtualClock, transmit: Transmit, *, ipv6: bool) -> None:
        self._namespace = namespace
        self._clock = clock
        self._transmit = transmit
        self._ipv6 = ipv6
        self._interfaces: dict[Device, Interface] = {}
        namespace.subscribe(self.on_netdev_event)

    def on_netdev_event(self, notice: NetdevEvent, device: Device) -> None:
        match notice:
            case NetdevEvent.REGISTER:
                self._interfaces[device] = Interface()
                if device.mtu >= IPV6_MIN_MTU:
                    self._join(device, nd.ALL_NODES)
            case NetdevEvent.UNREGISTER:
                self._interfaces.pop(device, None)
            case NetdevEvent.UP:
                for group in self._groups(device, 4):
                    self._load(device, group)
                self._join(device, ALL_HOSTS)
            case NetdevEvent.DOWN:
                self._down(device)
            case NetdevEvent.PRE_TYPE_CHANGE:
                for group in self._groups(device):
                    self._unload(device, group)
            case NetdevEvent.POST_TYPE_CHANGE:
                for group in self._groups(device):
                    self._load(device, group)
            case _:
                pass

    # -- addresses ---------------------------------------------------------------------------------------------------

    def addresses(self, device: Device) -> list[bytes]:
        """The addresses that the device may use now."""
        interface = self._interfaces.get(device)
        return [address.ip for address in interface.addresses if not address.tentative] if interface else []

    def holder(self, ip: bytes) -> Device | None:
        """The device with this address."""
        return next((device for device in self._interfaces if ip in self.addresses(device)), None)

    def add_address(self, device: Device, ip: bytes, prefix: int, *, check: bool = True) -> bool:
        """Give a device an address; False when it has it. `check`: look for duplicates first (IPv6)."""
        interface = self._interfaces[device]
        if any(address.ip == ip for address in interface.addresses):
            return False
        address = Address(ip, prefix)
        if len(ip) == 4:
            interface.addresses.append(address)
            return True
        interface.addresses.insert(0 if ip[0] != 0xFE else self._global_addresses(interface), address)
        self._join(device, nd.solicited_node(ip))
        if check:
            self._check_duplicates(device, address)
        return True

    def remove_address(self, device: Device, ip: bytes) -> bool:
        interface = self._interfaces[device]
        kept = [address for address in interface.addresses if address.ip != ip]
        if len(kept) == len(interface.addresses):
            return False
        interface.addresses = kept
        if len(ip) == 16:
            self._leave(device, nd.solicited_node(ip))
        return True

    def flush_addresses(self, device: Device, width: int | None = None) -> None:
        """All addresses go, or those of `width` bytes; tentative ones too."""
        for address in tuple(self._interfaces[device].addresses):
            if width in (None, len(address.ip)):
                self.remove_address(device, address.ip)

    def route(self, target: bytes) -> tuple[Device, bytes] | None:
        """The device on whose link a target is, and our address there; devices that are down route nothing."""
        for device, interface in self._interfaces.items():
            if not device.up:
                continue
            for address in interface.addresses:
                if address.covers(target) and not address.tentative:
                    return device, address.ip
        return None

    def link_ready(self, device: Device) -> None:
        """The device is up, has carrier and can send: IPv6 begins to use it, unless it is a member of a bond."""
        interface = self._interfaces[device]
        if not self._ipv6 or interface.ready or device.master is not None or device.flags & Flags.LOOPBACK:
            return
        interface.ready = True
        for group in self._groups(device, 16):
            self._load(device, group)
        identifier = _identifier(device)
        if identifier is not None:
            self.add_address(device, LINK_LOCAL_PREFIX + identifier, 64)

    # -- groups ------------------------------------------------------------------------------------------------------

    def join(self, device: Device, group: bytes) -> None:
        """A program joins a group: the list changes, and the world is notified."""
        self._join(device, group)
        if len(group) == 4:
            self._report(device, Record(RecordKind.CHANGE_TO_EXCLUDE, group))

    def _groups(self, device: Device, width: int | None = None) -> Iterator[bytes]:
        """The groups of a device, oldest first; `width` 4 or 16 chooses the family."""
        interface = self._interfaces.get(device, Interface())
        return iter([group for group in interface.groups if width is None or len(group) == width])

    def _join(self, device: Device, group: bytes) -> None:
        groups = self._interfaces[device].groups
        if group in groups:
            groups[group].users += 1
            return
        groups[group] = Group()
        self._load(device, group)

    def _leave(self, device: Device, group: bytes) -> None:
        groups = self._interfaces[device].groups
        if group not in groups:
            return
        groups[group].users -= 1
        if not groups[group].users:
            self._unload(device, group)
            del groups[group]

    def _load(self, device: Device, group: bytes) -> None:
        state = self._interfaces[device].groups[group]
        if state.loaded:
            return
        state.loaded = True
        address = mapped(group, device)
        if address is not None:
            device.add_multicast(address)

    def _unload(self, device: Device, group: bytes) -> None:
        state = self._interfaces[device].groups[group]
        if not state.loaded:
            return
        state.loaded = False
        address = mapped(group, device)
        if address is not None:
            device.remove_multicast(address)

    def _down(self, device: Device) -> None:
        interface = self._interfaces.get(device)
        if interface is None:
            return
        for group in self._groups(device, 4):
            if group != ALL_HOSTS:
                self._unload(device, group)
        self._leave(device, ALL_HOSTS)
        if self._ipv6:
            for address in [address.ip for address in interface.addresses if len(address.ip) == 16]:
                self.remove_address(device, address)
            if interface.ready:
                for group in self._groups(device, 16):
                    self._unload(device, group)
                interface.ready = False

    # -- what is said ------------------------------------------------------------------------------------------------

    def announce(self, device: Device) -> None:
        """NETDEV_NOTIFY_PEERS: one gratuitous ARP for each IPv4 address, one advertisement for each IPv6 address.

        No ARP where ARP is off (`arp_send_dst`).
        """
        if len(device.address) not in (6, 20):
            return
        addresses = self.addresses(device)
        for ip in [ip for ip in addresses if len(ip) == 4 and not device.flags & Flags.NOARP]:
            packet = arp.request(device.address, ip, ip, hardware_type=device.type).pack()
            self._transmit(device, Frame(ETHERTYPE_ARP, device.address, device.broadcast, packet))
        for ip in [ip for ip in addresses if len(ip) == 16]:
            advertisement = nd.NeighborAdvertisement(ip, nd.ALL_NODES, ip, device.address, override=True)
            self._to_group(device, nd.ALL_NODES, ETHERTYPE_IPV6, advertisement.pack())

    def report(self, device: Device) -> None:
        """NETDEV_RESEND_IGMP: each joined IPv4 group is reported again, the one joined last first."""
        for group in reversed([group for group in self._groups(device, 4) if group != ALL_HOSTS]):
            self._report(device, Record(RecordKind.MODE_IS_EXCLUDE, group))

    def _report(self, device: Device, record: Record) -> None:
        source = next((ip for ip in self.addresses(device) if len(ip) == 4), bytes(4))
        self._to_group(device, ALL_REPORTS_V4, ETHERTYPE_IPV4, Report(source, (record,)).pack())

    def _to_group(self, device: Device, group: bytes, ethertype: int, packet: bytes) -> None:
        address = mapped(group, device)
        if address is not None:
            self._transmit(device, Frame(ethertype, device.address, address, packet))

    def _check_duplicates(self, device: Device, address: Address) -> None:
        address.tentative = True

        def probe() -> None:
            group = nd.solicited_node(address.ip)
            question = nd.NeighborSolicitation(nd.UNSPECIFIED, group, address.ip)
            if self._has(device, address):
                self._to_group(device, group, ETHERTYPE_IPV6, question.pack())

        def done() -> None:
            address.tentative = False

        self._clock.later(DAD_PROBE, probe)
        self._clock.later(DAD_DONE, done)

    def _has(self, device: Device, address: Address) -> bool:
        interface = self._interfaces.get(device)
        return interface is not None and address in interface.addresses

    @staticmethod
    def _global_addresses(interface: Interface) -> int:
        """Where link-local addresses begin: the kernel keeps the list sorted by scope, the latest of each first."""
        return sum(1 for address in interface.addresses if len(address.ip) == 4 or address.ip[0] != 0xFE)


def mapped(group: bytes, device: Device) -> bytes | None:
    """The link-layer address of a group on a device as it is now; None where the kernel maps none.

    A device of type InfiniBand whose addresses have no bytes (a TUN) gets an address without bytes.
    """
    if device.type == ETHERNET:
        return ethernet_group_address(group)
    if device.type == INFINIBAND:
        return group_address(group, device.broadcast.ljust(20, b"\0"))[: len(device.broadcast)]
    return None


def _identifier(device: Device) -> bytes | None:
    """The interface identifier of a link-local address: from the GUID, or EUI-48 with the bit flipped."""
    if device.type == INFINIBAND and len(device.address) == 20:
        return interface_identifier(int.from_bytes(device.address[12:]))
    if len(device.address) == 6:
        head, tail = device.address[:3], device.address[3:]
        return bytes((head[0] ^ 2,)) + head[1:] + b"\xff\xfe" + tail
    return None
