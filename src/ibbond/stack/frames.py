"""Frames on their way through one host: packets of the IP stack down to a port, datagrams of a port up to it.

Read first: docs/architecture.md, walk 1. Down: the IP side finds the neighbor, the bond its member, the interface the
path. Up: the interface takes the header off, the bond says whether this member's frames count, ARP and neighbor
discovery stay here, the rest goes to the host. `way_out` and `way_in` answer the same questions for flows without
sending anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from typing import TYPE_CHECKING

from ibbond.bonding.bond import Bond
from ibbond.bonding.events import ArpSeen, FrameSeen, NeighborDiscoverySeen
from ibbond.errors import Malformed
from ibbond.ipoib.events import Frame
from ibbond.ipoib.transmit import Path
from ibbond.netdev.device import Device
from ibbond.stack.ethernet import swallow
from ibbond.stack.events import Deliver
from ibbond.stack.group_copies import GroupCopies
from ibbond.stack.ip_layer import IpLayer, destination_of
from ibbond.stack.local_addresses import Conflict
from ibbond.stack.outgoing import Announced, Doubtful, IpEffect, Outgoing, ToHost
from ibbond.verbs.verbs import Datagram
from ibbond.wire import nd
from ibbond.wire.arp import Arp
from ibbond.wire.hwaddr import address_text
from ibbond.wire.icmp import too_big
from ibbond.wire.ipoib import ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6

if TYPE_CHECKING:
    from ibbond.stack.host_stack import HostStack

# A group's thousand members read the same bytes: what they say is worked out once.
_arp = lru_cache(maxsize=64)(Arp.parse)
_discovery = lru_cache(maxsize=64)(nd.parse)


@dataclass(frozen=True, slots=True)
class WayOut:
    """How packets of one device to one destination leave now; `touch` keeps the path from being forgotten."""

    port: str
    device: Device  # the interface
    path: Path
    pkey: int
    mtu: int  # the largest packet for that path, GSO packets aside
    touch: Callable[[], None]


class Frames:
    """The data path of one host."""

    def __init__(self, host: HostStack) -> None:
        self._host = host
        self._links = host.links
        self._copies: dict[str, GroupCopies] = {}  # by bond

    def transmit(self, now: int, name: str, packet: bytes, offload: bytes) -> None:
        """A packet of the host's IP stack leaves through this device."""
        device = self._host.device(name)
        layer = self._host.ip[name]
        if not device.up:
            device.statistics.tx_dropped += 1
            return
        self.send_all(now, layer, layer.send(now, packet, offload))

    def send_all(self, now: int, layer: IpLayer, effects: Iterable[IpEffect]) -> None:
        """Carry out what the IP side of a device asks for."""
        self._host.touched(layer)
        for effect in effects:
            match effect:
                case Outgoing():
                    self.send(now, layer.device, effect)
                case ToHost(packet):
                    self._host.outbox.send(Deliver(self._host.name, layer.device.name, packet))
                case Announced(addresses):
                    self.announced(layer, addresses)
                case Conflict():
                    self._host.happened("duplicate", layer.device.name, _conflict_text(effect))
                case Doubtful(hardware):
                    self._doubt(now, layer.device, hardware)

    def announced(self, layer: IpLayer, addresses: Iterable[bytes]) -> None:
        """For the time line."""
        bond = self._host.registry.bonds.get(layer.device.name)
        text = f"{', '.join(str(ip_address(ip)) for ip in addresses)} at {address_text(layer.device.address)}"
        self._host.happened("announce", layer.device.name, text if bond is None else f"{text} through {bond.active}")

    def send(self, now: int, device: Device, frame: Outgoing, *, member: str | None = None) -> None:
        """Through the device itself, or a bond's active member (or the one named)."""
        bond = self._host.registry.bonds.get(device.name)
        lower = device.name if bond is None else member or bond.route()
        if lower is None:
            device.statistics.tx_dropped += 1
        elif self._links.get(lower) is not None:
            self._links.send(now, lower, frame)
        else:
            below = self._host.namespace.get(lower)
            if below is not None and below.up:
                swallow(below, frame)

    def receive(self, now: int, port: str, qpn: int, datagram: Datagram) -> None:
        """A datagram came in at a queue pair: up to the bond or the device, and to the host."""
        taken = self._links.receive(port, qpn, datagram)
        if taken is not None:
            self._arrived(now, *taken)

    def receive_message(self, now: int, port: str, qpn: int, payload: bytes, offload: bytes) -> None:
        """A message came in by a connection."""
        taken = self._links.receive_message(now, port, qpn, payload, offload)
        if taken is not None:
            self._arrived(now, *taken)

    def _arrived(self, now: int, device: Device, frame: Frame) -> None:
        bond = self._host.bond_above(device)
        arp, discovery = self._read(device, frame)
        if bond is None:
            upper, member = device, ""
        else:
            upper, member = bond.device, device.name
            unicast = frame.kind == "host"
            monitored, accepted = bool(bond.values.arp_interval), bond.accepts(member, now, unicast)
            hands_over = not unicast and bond.hands_over(now)
            own = not unicast and (monitored or accepted or hands_over) and self._is_our_own(bond, frame)
            if monitored:
                self._host.notify_bond(bond, _seen(member, frame, arp, discovery, own=own))
                accepted = bond.accepts(member, now, unicast)
            if own:
                return
            if hands_over:  # a group frame is taken from either member
                accepted = bond.accepts(member, now)
            if not accepted or (not unicast and self._is_copy(now, bond, member, frame, hands_over=hands_over)):
                return
        if not upper.up:
            return
        layer = self._host.ip[upper.name]
        if arp is not None:
            self.send_all(now, layer, layer.receive_arp(now, arp, unicast=frame.kind == "host"))
        elif discovery is not None:
            self.send_all(now, layer, layer.receive_discovery(now, discovery))
        payload = _for_the_kernel(layer, frame, discovery)
        if payload:
            self._host.outbox.send(Deliver(self._host.name, upper.name, payload, frame.offload, member))

    def _is_copy(self, now: int, bond: Bond, member: str, frame: Frame, *, hands_over: bool) -> bool:
        """Whether a group frame has been taken from another member; remembered always, decided in handovers alone."""
        if not bond.values.handover_ms or len(bond.members) < 2:
            return False
        copies = self._copies.get(bond.name)
        if copies is None:
            copies = self._copies[bond.name] = GroupCopies()
        return not copies.take(now, member, frame) and hands_over

    def too_long(self, device: Device, packet: bytes, mtu: int) -> None:
        """A packet did not fit the link's MTU: its sender gets the ICMP error that a router would send.

        `ipoib_cm_skb_reap`: not about IPv4 groups and broadcasts, as ICMP never is.
        """
        upper = device.master or device
        layer = self._host.ip[upper.name]
        destination = destination_of(packet)
        if destination is None or (len(destination) == 4 and layer.group_destination(destination) is not None):
            return
        source = layer.source_for(packet[12:16] if packet[0] >> 4 == 4 else packet[8:24])
        if any(source):
            self._host.outbox.send(Deliver(self._host.name, upper.name, too_big(packet, mtu, source)))

    def way_out(self, name: str, packet: bytes) -> WayOut | None:
        """The decisions of sending this unicast packet, if all are final."""
        device = self._host.namespace.get(name)
        destination = destination_of(packet)
        if device is None or destination is None or not device.up:
            return None
        layer = self._host.ip[name]
        if layer.group_destination(destination) is not None:
            return None
        hop = layer.next_hop(destination)
        hardware = layer.neighbors.usable(hop)
        bond = self._host.registry.bonds.get(name)
        lower = name if bond is None else bond.route()
        interface = self._links.get(lower) if lower is not None else None
        path = interface.path_to(hardware, hop) if interface is not None and hardware is not None else None
        if interface is None or path is None or hardware is None:
            return None
        touch = self._toucher(interface.touch, hardware)
        largest = interface.carries(path)
        return WayOut(interface.port.name, interface.device, path, interface.table_key, largest, touch)

    def way_in(self, port: str, path: Path, pkey: int) -> tuple[Device, Device] | None:
        """The devices (upper, lower) at which packets of this path come out, while their filter stays open."""
        interface = self._links.at(port, path.qpn)
        if interface is None or not interface.running:
            return None
        device = interface.device
        bond = self._host.bond_above(device)
        if bond is None:
            return device, device
        if not bond.device.up:
            return None
        if bond.values.arp_interval or bond.active != device.name or not bond.accepts(device.name, self._host.now):
            return None  # the ARP monitor counts frames, and a handover ends by itself
        return bond.device, device

    def receive_toucher(self, port: str, qpn: int) -> Callable[[], None]:
        """For flows by a connection: keeps its receiving end from being closed as idle."""
        interface = self._links.at(port, qpn)
        return lambda: interface.touch_receiver(self._host.now, qpn) if interface is not None else None

    def _toucher(self, touch: Callable[[int, bytes], None], hardware: bytes) -> Callable[[], None]:
        return lambda: touch(self._host.now, hardware)

    def _doubt(self, now: int, device: Device, hardware: bytes) -> None:
        """Ask the administrator again for the path to this address, at backups too."""
        bond = self._host.registry.bonds.get(device.name)
        for name in bond.members if bond is not None else (device.name,):
            if self._links.get(name) is not None:
                self._links.doubt(now, name, hardware)

    def _read(self, device: Device, frame: Frame) -> tuple[Arp | None, nd.Message | None]:
        """A frame as ARP or neighbor discovery, when it is one of these and can be read."""
        try:
            if frame.ethertype == ETHERTYPE_ARP:
                return _arp(frame.payload), None
            if frame.ethertype == ETHERTYPE_IPV6 and nd.is_message(frame.payload):
                return None, _discovery(frame.payload)
        except Malformed:
            device.statistics.rx_errors += 1
            self._host.ip[device.name].counts.malformed += 1
        return None, None

    def _is_our_own(self, bond: Bond, frame: Frame) -> bool:
        """A group frame that this bond itself has sent, received by another of its members."""
        for member in bond.members:
            interface = self._links.get(member)
            if interface is not None and (interface.port.gid, interface.qpn) == (frame.source_gid, frame.source_qpn):
                return True
        return False


def _for_the_kernel(layer: IpLayer, frame: Frame, discovery: nd.Message | None) -> bytes:
    """IP goes up. Of neighbor discovery, which happens here, the kernel gets what it asked for; unreadable: nothing."""
    if frame.ethertype == ETHERTYPE_IPV4:
        return frame.payload
    if frame.ethertype != ETHERTYPE_IPV6:
        return b""
    if discovery is None:
        return b"" if nd.is_message(frame.payload) else frame.payload
    wanted = layer.wanted_by_kernel(discovery)
    return frame.payload if wanted is discovery else wanted.pack() if wanted is not None else b""


def _conflict_text(conflict: Conflict) -> str:
    address = ip_address(conflict.ip)
    if not conflict.hardware:
        return f"{address} is requested by another host too, and neither gets it"
    where = address_text(conflict.hardware)
    if conflict.detected:
        return f"{address} is in use at {where}: it stays on the device as dadfailed and is not used"
    return f"{address} is also in use at {where}: remove it from one of the two hosts"


def _seen(
    member: str, frame: Frame, arp: Arp | None, discovery: nd.Message | None, *, own: bool
) -> ArpSeen | NeighborDiscoverySeen | FrameSeen:
    """What the ARP monitor needs of a frame."""
    if arp is not None:
        length = len(arp.sender_hardware)
        return ArpSeen(member, arp.hardware_type, length, arp.operation, arp.sender_ip, arp.target_ip, own)
    if isinstance(discovery, nd.NeighborSolicitation | nd.NeighborAdvertisement):
        addresses = (discovery.source, discovery.destination, discovery.target)
        return NeighborDiscoverySeen(member, discovery.KIND, *addresses, own)
    return FrameSeen(member, ipv6=frame.ethertype == ETHERTYPE_IPV6, own=own)
