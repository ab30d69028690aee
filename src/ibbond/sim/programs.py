"""What runs on a simulated host: enough of a kernel's IP stack to answer and forward, and programs that probe.

Where the live lab has a real kernel and real programs, the simulator has this. Read first: demo/traffic.py, the real
programs of the same kinds. Left out: TCP itself; `sim.stream` keeps TCP's retransmission timer, which decides what a
stream feels of an outage.
"""

import struct
from dataclasses import dataclass, field

from ibbond.errors import Malformed
from ibbond.stack.events import AddressesAre, Deliver, GroupsAre, HostEvent, RouteEntry, RoutesAre, Transmit
from ibbond.topology.model import Host
from ibbond.wire.icmp import Echo
from ibbond.wire.ip import Ipv4, parse_packet
from ibbond.wire.udp import UdpDatagram

PROBE_PORT = 4791
PROBE = struct.Struct("!QQ")  # number, sent at (ns)


@dataclass(slots=True)
class Probe:
    """One packet that a program sent, and each time that a receiver got it."""

    number: int
    kind: str  # icmp, udp, multicast
    source: str
    target: str
    sent_at: int
    answered_at: int | None = None
    arrived_at: int = 0  # the first copy, anywhere
    copies: dict[str, int] = field(default_factory=dict)  # by receiving host


class SimulatedHost:
    """The kernel of one simulated host: knows its addresses and routes, answers pings, forwards when it may."""

    def __init__(self, host: Host, group: bytes) -> None:
        self.name = host.name
        self.forward = host.forward
        self.group = group
        self.addresses: dict[bytes, str] = {}
        self._prefixes: list[tuple[bytes, int, str]] = []
        by_device: dict[str, list[tuple[bytes, int]]] = {}
        for device, address in host.addresses():
            packed, prefix = address.ip.packed, address.network.prefixlen
            self.addresses[packed] = device
            self._prefixes.append((address.network.network_address.packed, prefix, device))
            by_device.setdefault(device, []).append((packed, prefix))
        gateways = [
            (r.destination.network_address.packed, r.destination.prefixlen, r.gateway.packed) for r in host.routes
        ]
        self._routes = [RouteEntry(network, prefix, device) for network, prefix, device in self._prefixes] + [
            RouteEntry(network, prefix, self.device_towards(gateway), gateway) for network, prefix, gateway in gateways
        ]
        self._by_device = by_device

    def configuration(self) -> list[HostEvent]:
        """What netlink reports to the live loop at start: addresses, routes and groups."""
        events: list[HostEvent] = [AddressesAre(device, tuple(pairs)) for device, pairs in self._by_device.items()]
        events.append(RoutesAre(tuple(self._routes)))
        events += [GroupsAre(device, (self.group,)) for device in self._by_device]
        return events

    def device_towards(self, address: bytes) -> str:
        """The device of the longest on-link prefix that holds an address; the first device when none does."""
        best = max(
            ((prefix, device) for network, prefix, device in self._prefixes if _inside(address, network, prefix)),
            default=None,
            key=lambda pair: pair[0],
        )
        return best[1] if best else next(iter(self.addresses.values()))

    def source_for(self, destination: bytes) -> bytes:
        """An address of this host on the device that leads to the destination, of the same IP version."""
        device = self._leaving_device(destination)
        own = [a for a, d in self.addresses.items() if len(a) == len(destination)]
        return next((a for a in own if self.addresses[a] == device), own[0])

    def send(self, packet: bytes) -> Transmit:
        """A packet of a program leaves by the device that the routes name."""
        destination = packet[16:20] if packet[0] >> 4 == 4 else packet[24:40]
        return Transmit(self._leaving_device(destination), packet)

    def send_to_group(self, packet: bytes) -> Transmit:
        return Transmit(next(iter(self._by_device)), packet)

    def receive(self, delivered: Deliver) -> tuple[list[Transmit], int | None]:
        """Take a packet from the wire: what leaves because of it, and the number of the probe that has arrived."""
        try:
            packet = parse_packet(delivered.packet)
        except Malformed:
            return [], None
        if packet.destination not in self.addresses and packet.destination != self.group:
            return self._forward(packet) if self.forward else ([], None)
        for read in (self._echo, self._datagram):
            try:
                return read(delivered.packet)
            except Malformed:
                continue
        return [], None

    def _echo(self, raw: bytes) -> tuple[list[Transmit], int | None]:
        echo = Echo.parse(raw)
        if not echo.reply:
            return [self.send(echo.answer().pack())], None
        return [], PROBE.unpack_from(echo.data)[0]

    def _datagram(self, raw: bytes) -> tuple[list[Transmit], int | None]:
        datagram = UdpDatagram.parse(raw)
        if datagram.destination_port != PROBE_PORT or len(datagram.data) < PROBE.size:
            return [], None
        return [], PROBE.unpack_from(datagram.data)[0]

    def _forward(self, packet: object) -> tuple[list[Transmit], int | None]:
        if not isinstance(packet, Ipv4) or packet.ttl <= 1 or packet.destination[0] >= 224:
            return [], None
        onward = Ipv4(
            packet.source,
            packet.destination,
            packet.protocol,
            packet.payload,
            ttl=packet.ttl - 1,
            tos=packet.tos,
            identification=packet.identification,
            flags=packet.flags,
            fragment_offset=packet.fragment_offset,
            options=packet.options,
        )
        return [self.send(onward.pack())], None

    def _leaving_device(self, destination: bytes) -> str:
        best = max(
            (r for r in self._routes if _inside(destination, r.destination, r.prefix)),
            default=None,
            key=lambda r: r.prefix,
        )
        return best.device if best else next(iter(self._by_device))


def make_probe(kind: str, number: int, now: int, source: bytes, destination: bytes) -> bytes:
    """The IP packet of one probe."""
    data = PROBE.pack(number, now)
    if kind == "icmp":
        return Echo(source, destination, identifier=number & 0xFFFF, sequence=number >> 16 & 0xFFFF, data=data).pack()
    return UdpDatagram(source, destination, PROBE_PORT, PROBE_PORT, data).pack()


def _inside(address: bytes, network: bytes, prefix: int) -> bool:
    if len(address) != len(network):
        return False
    shift = len(address) * 8 - prefix
    return int.from_bytes(address) >> shift == int.from_bytes(network) >> shift
