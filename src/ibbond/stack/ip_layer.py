"""The IP side of one device: what a bond or an unbonded `ib0` does with packets, ARP and neighbor discovery.

Read first: RFC 826, RFC 4861 section 7.2, RFC 4391 section 9, and of Linux `arp_process` and `ndisc.c`. The kernel
behind the TUN device does no ARP and no neighbor discovery (it has no link-layer addresses), so all of it happens here:
questions, answers, announcements, learning. As with `arp_ignore=1`, only addresses of the device itself are answered
for. What programs send themselves (AF_PACKET, raw ICMPv6 sockets) and the kernel's duplicate address detection leave
with the device's link-layer address, which they cannot know. Left out: proxies, router discovery (its messages pass to
the kernel).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ibbond.errors import Malformed
from ibbond.machine import earliest
from ibbond.netdev.device import Device
from ibbond.stack.announcements import gratuitous_arps, reports, unsolicited_advertisements
from ibbond.stack.host_groups import GroupLimit, HostGroups
from ibbond.stack.local_addresses import LocalAddresses
from ibbond.stack.neighbors import NeighborEffect, Neighbors, Resolved, Silent, Solicit, Unreachable
from ibbond.stack.next_hop import IPV6_LINK_LOCAL, NextHops
from ibbond.stack.outgoing import Announced, Doubtful, IpEffect, Outgoing, ToHost
from ibbond.verbs.generation import Generation
from ibbond.wire import arp, nd
from ibbond.wire.arp import Arp
from ibbond.wire.group_address import map_group
from ibbond.wire.group_reports import is_report, overheard
from ibbond.wire.icmp import host_unreachable
from ibbond.wire.ip import ICMP, ICMPV6
from ibbond.wire.ipoib import ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6

ANY_V4 = bytes(4)
ICMP_ERRORS = frozenset({3, 4, 5, 11, 12})
ETHERTYPES = {4: ETHERTYPE_IPV4, 6: ETHERTYPE_IPV6}


@dataclass(slots=True)
class ErrorCounters:
    """What came in or went out and could not be used."""

    malformed: int = 0
    ignored: int = 0  # well formed, not ours to answer or to believe


class IpLayer:
    """Addresses, neighbors and groups of one device, and the ARP and ND that it speaks."""

    def __init__(
        self, device: Device, next_hops: NextHops, generation: Generation, limit: GroupLimit | None = None
    ) -> None:
        self.device = device
        self.own = LocalAddresses(device)
        self.neighbors = Neighbors(generation)
        self.groups = HostGroups(device, limit)
        self.forwarding = False  # the router flag of our advertisements
        self.counts = ErrorCounters()
        self._next_hops = next_hops

    @property
    def addresses(self) -> tuple[tuple[bytes, int], ...]:
        return self.own.pairs

    def set_addresses(self, now: int, addresses: tuple[tuple[bytes, int], ...]) -> None:
        self.own.set(now, addresses)
        self._next_hops.set_addresses(self.device.name, addresses)
        self.groups.set_addresses(address for address, _ in addresses)

    def owns(self, address: bytes) -> bool:
        return address in self.own.all

    def send(self, now: int, packet: bytes, offload: bytes = b"") -> list[IpEffect]:
        """A packet of the host's IP stack or programs: to a neighbor, a group or the broadcast address.

        Group reports are overheard.
        """
        if packet.startswith(arp.HEADER):
            return self._send_arp(packet)
        version = packet[0] >> 4 if packet else 0
        destination = destination_of(packet)
        if destination is None:
            self.counts.malformed += 1
            return []
        if version == 6 and nd.is_message(packet):
            try:
                packet, offload = self._with_link_address(nd.parse(packet)), b""
            except Malformed:
                self.counts.malformed += 1
                return []
        if is_report(packet):
            self._overhear(packet)
        link = self.group_destination(destination)
        if link is not None:
            return [Outgoing(link, ETHERTYPES[version], packet, offload)]
        return self._execute(self.neighbors.send(now, self.next_hop(destination), packet, offload))

    def _send_arp(self, packet: bytes) -> list[IpEffect]:
        """An ARP packet of a program. The link-layer destination is lost on its way through a TUN device."""
        try:
            message = Arp.parse(packet)
        except Malformed:
            self.counts.malformed += 1
            return []
        if len(message.sender_hardware) != self.device.addr_len or len(message.sender_ip) != 4:
            self.counts.ignored += 1
            return []
        if not _is_unicast_link(message.sender_hardware):
            message = replace(message, sender_hardware=self.device.address)
        to = message.target_hardware
        direct = message.operation == arp.REPLY and _is_unicast_link(to) and message.sender_ip != message.target_ip
        return [Outgoing(to if direct else self.device.broadcast, ETHERTYPE_ARP, message.pack())]

    def _with_link_address(self, message: nd.Message) -> bytes:
        """A neighbor discovery message of the host, with the device's own link-layer address where one belongs."""
        match message:
            case nd.NeighborSolicitation(source, _, target):
                detection = source == nd.UNSPECIFIED
                self.own.asked(target, detection=detection)
                if detection:
                    self.groups.join(nd.solicited_node(target))  # another host may want it at the same time
                    return message.pack()
            case nd.RouterSolicitation() | nd.RouterAdvertisement() if not message.link_address:
                return message.pack()
            case nd.Redirect():
                return message.pack()  # about the address of another host
        return replace(message, link_address=self.device.address).pack()

    def group_destination(self, destination: bytes) -> bytes | None:
        """The link-layer address of a group or broadcast destination; None for unicast."""
        if len(destination) == 4:
            if destination[0] >> 4 == 0xE:
                return map_group(destination, self.device.type, self.device.broadcast)
            if self._next_hops.is_broadcast(self.device.name, destination):
                return self.device.broadcast
        elif destination[0] == 0xFF:
            return map_group(destination, self.device.type, self.device.broadcast)
        return None

    def next_hop(self, destination: bytes) -> bytes:
        """The IP address of the neighbor that takes packets to this unicast destination."""
        return self._next_hops.gateway_for(self.device.name, destination)

    def receive_arp(self, now: int, message: Arp, *, unicast: bool) -> list[IpEffect]:
        """Learn from an ARP packet, and answer when it asks for one of our addresses."""
        device = self.device
        believable = (
            message.hardware_type == device.type
            and len(message.sender_hardware) == device.addr_len
            and message.protocol == ETHERTYPE_IPV4
            and len(message.sender_ip) == 4
            and _is_unicast_link(message.sender_hardware)
        )
        if not believable or message.sender_ip in self.own.all:
            self.counts.ignored += 1
            return [*self.own.claimed(message.sender_ip, message.sender_hardware)] if believable else []
        for_us = message.target_ip in self.own.all
        asks_us = message.operation == arp.REQUEST and for_us
        effects: list[IpEffect] = []
        if message.sender_ip != ANY_V4:
            confirmed = message.operation == arp.REPLY and unicast and for_us
            learnt = self.neighbors.learn(
                now, message.sender_ip, message.sender_hardware, confirmed=confirmed, create=asks_us
            )
            effects += self._execute(learnt)
        if asks_us:
            answer = arp.reply(message, device.address).pack()
            effects.insert(0, Outgoing(message.sender_hardware, ETHERTYPE_ARP, answer))
        return effects

    def receive_discovery(self, now: int, message: nd.Message) -> list[IpEffect]:
        """Learn from a neighbor discovery message, and answer a solicitation of one of our addresses."""
        source_address = message.link_address
        if source_address and (len(source_address) != self.device.addr_len or not _is_unicast_link(source_address)):
            self.counts.ignored += 1
            return []
        match message:
            case nd.NeighborSolicitation():
                return self._solicited(now, message)
            case nd.NeighborAdvertisement():
                return self._advertised(now, message)
            case nd.RouterSolicitation() | nd.RouterAdvertisement():
                router = isinstance(message, nd.RouterAdvertisement)
                if not source_address or message.source in (nd.UNSPECIFIED, *self.own.all):
                    return []
                return self._execute(self.neighbors.learn(now, message.source, source_address, create=router))
            case nd.Redirect():
                return []  # the kernel follows it by its own routes

    def wanted_by_kernel(self, message: nd.Message) -> nd.Message | None:
        """What the kernel is to see of a discovery message: answers to what the host asked, and router discovery.

        For duplicate address detection it takes advertisements without a link-layer address only, as the device has
        none (`ndisc_recv_na`). Solicitations that it must see are the detections of other hosts.
        """
        match message:
            case nd.NeighborSolicitation(source, _, target):
                return message if source == nd.UNSPECIFIED and self.own.wants_answer(target) else None
            case nd.NeighborAdvertisement(_, destination, target):
                if not self.own.wants_answer(target):
                    return None
                return replace(message, link_address=b"") if destination[0] == 0xFF else message
        return message

    def announce(self, addresses: Iterable[bytes] | None = None) -> list[Outgoing]:
        """NETDEV_NOTIFY_PEERS: one gratuitous ARP or unsolicited advertisement for every address, or for these."""
        own = [address for address, _ in self.addresses] if addresses is None else list(addresses)
        return [
            *gratuitous_arps(self.device, own),
            *unsolicited_advertisements(self.device, own, router=self.forwarding),
        ]

    def report(self) -> list[Outgoing]:
        """NETDEV_RESEND_IGMP: the groups of the device, reported again by IGMP and MLD."""
        joined = self.groups.joined
        return reports(self.device, joined, self.source_for(ANY_V4), self._link_local() or nd.UNSPECIFIED)

    def probe(self, target: bytes, hardware: bytes) -> Outgoing:
        """The ARP monitor's question for an IPv4 or IPv6 target, sent by the member whose address is `hardware`."""
        source = self.source_for(target)
        return self._question(target, source, hardware)

    def resolve(self, now: int, neighbor: bytes) -> list[IpEffect]:
        """Ask for the hardware address of a neighbor, if it is not known for sure."""
        return self._execute(self.neighbors.resolve(now, neighbor))

    def readdressed(self, now: int) -> list[IpEffect]:
        """The device's hardware address has changed."""
        return self._execute(self.neighbors.readdressed(now))

    def tick(self, now: int) -> list[IpEffect]:
        return [*self._announce_new(now), *self._execute(self.neighbors.tick(now))]

    def deadline(self) -> int | None:
        return earliest(self.neighbors.deadline(), self.own.deadline())

    def _announce_new(self, now: int) -> list[IpEffect]:
        due = self.own.take_due(now)
        return [Announced(tuple(due)), *self.announce(due)] if due else []

    def source_for(self, target: bytes, preferred: bytes = b"") -> bytes:
        """The source address for resolving `target`.

        The preferred one if it is the host's, one on its prefix, any, or unspecified.
        """
        if preferred in self.own.all and len(preferred) == len(target):
            return preferred
        family = [(address, prefix) for address, prefix in self.addresses if len(address) == len(target)]
        width, value = 8 * len(target), int.from_bytes(target)
        for address, prefix in family:
            if int.from_bytes(address) >> (width - prefix) == value >> (width - prefix):
                return address
        return family[0][0] if family else bytes(len(target))

    def _link_local(self) -> bytes:
        links = (address for address in self._sixes() if int.from_bytes(address) >> 118 == IPV6_LINK_LOCAL)
        return next(links, b"")

    def _sixes(self) -> Iterable[bytes]:
        return (address for address, _ in self.addresses if len(address) == 16)

    def _solicited(self, now: int, message: nd.NeighborSolicitation) -> list[IpEffect]:
        detection = message.source == nd.UNSPECIFIED
        if message.target not in self.own.all or message.source in self.own.all:
            self.counts.ignored += 1
            return [*self.own.claimed(message.target, b"")] if detection else []
        answer = nd.NeighborAdvertisement(
            message.target,
            nd.ALL_NODES if detection else message.source,
            message.target,
            self.device.address,
            router=self.forwarding,
            solicited=not detection,
            override=True,
        )
        if detection:
            return [Outgoing(self._group(nd.ALL_NODES), ETHERTYPE_IPV6, answer.pack())]
        if not message.link_address:
            return self._execute(self.neighbors.send(now, message.source, answer.pack()))
        learnt = self.neighbors.learn(now, message.source, message.link_address, create=True)
        return [Outgoing(message.link_address, ETHERTYPE_IPV6, answer.pack()), *self._execute(learnt)]

    def _advertised(self, now: int, message: nd.NeighborAdvertisement) -> list[IpEffect]:
        conflicts = self.own.claimed(message.target, message.link_address)
        known = self.neighbors.get(message.target)
        if known is None or message.target in self.own.all:
            return [*conflicts]
        hardware = message.link_address or known.hardware
        if not hardware:
            return []
        learnt = self.neighbors.learn(
            now, message.target, hardware, confirmed=message.solicited, override=message.override
        )
        return [*conflicts, *self._execute(learnt)]

    def _overhear(self, packet: bytes) -> None:
        try:
            self.groups.change(overheard(packet))
        except Malformed:
            self.counts.malformed += 1

    def _execute(self, effects: Iterable[NeighborEffect]) -> list[IpEffect]:
        done: list[IpEffect] = []
        for effect in effects:
            match effect:
                case Resolved(ip, hardware, packet, offload):
                    done.append(Outgoing(hardware, ETHERTYPES[packet[0] >> 4], packet, offload, ip))
                case Solicit(ip, hardware, packet):
                    source = self.source_for(ip, source_of(packet) or b"")
                    done.append(self._question(ip, source, self.device.address, hardware))
                case Silent(hardware):
                    done.append(Doubtful(hardware))
                case Unreachable(_, packets):
                    done += [ToHost(error) for packet in packets if (error := self._error_about(packet))]
        return done

    def _question(self, target: bytes, source: bytes, hardware: bytes, to: bytes = b"") -> Outgoing:
        """Who has `target`? Broadcast, or sent to the neighbor at `to`."""
        if len(target) == 4:
            question = arp.request(hardware, source, target, hardware_type=self.device.type)
            return Outgoing(to or self.device.broadcast, ETHERTYPE_ARP, question.pack())
        group = nd.solicited_node(target)
        reported = b"" if source == nd.UNSPECIFIED else hardware
        solicitation = nd.NeighborSolicitation(source, target if to else group, target, reported)
        return Outgoing(to or self._group(group), ETHERTYPE_IPV6, solicitation.pack())

    def _group(self, group: bytes) -> bytes:
        return map_group(group, self.device.type, self.device.broadcast)

    def _error_about(self, packet: bytes) -> bytes:
        """The ICMP error for the packet's sender; none if the packet itself is an ICMP error."""
        source = source_of(packet)
        if source is None or not any(source) or _is_icmp_error(packet):
            return b""
        own = self.source_for(source, source)
        return host_unreachable(packet, own) if any(own) else b""


def destination_of(packet: bytes) -> bytes | None:
    """The destination address of an IP packet of either version; None when there is no whole header."""
    version = packet[0] >> 4 if packet else 0
    if version == 4 and len(packet) >= 20:
        return packet[16:20]
    if version == 6 and len(packet) >= 40:
        return packet[24:40]
    return None


def source_of(packet: bytes) -> bytes | None:
    """The source address, as `destination_of`."""
    version = packet[0] >> 4 if packet else 0
    if version == 4 and len(packet) >= 20:
        return packet[12:16]
    if version == 6 and len(packet) >= 40:
        return packet[8:24]
    return None


def _is_unicast_link(address: bytes) -> bool:
    """No neighbor has no address, and none is at a group's."""
    if len(address) == 20:
        return any(address[1:]) and address[4] != 0xFF
    return any(address) and not address[0] & 1


def _is_icmp_error(packet: bytes) -> bool:
    if packet[0] >> 4 == 4:
        at = (packet[0] & 0xF) * 4
        return packet[9] == ICMP and len(packet) > at and packet[at] in ICMP_ERRORS
    return packet[6] == ICMPV6 and len(packet) > 40 and packet[40] < 128
