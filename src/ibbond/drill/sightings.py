"""What event logs and captures show of a failover, as sightings of phases. Pure.

Read first: `drill.phases`; `stack.events.TraceEvent` for the words of an event log, `abi.kernel_log` for the driver's
lines. A lab's journal, the simulator's time line and this host's netlink messages come here as `Event`s, captured
frames of all three as `Frame`s. Only what is at or after the event's cause is looked at.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from typing import NamedTuple

from ibbond.abi import kernel_log
from ibbond.drill.phases import Phase, Sighting, Source
from ibbond.errors import Malformed
from ibbond.wire import nd
from ibbond.wire.arp import Arp
from ibbond.wire.ib import UdPacket
from ibbond.wire.ipoib import ENCAPSULATION_BYTES, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6
from ibbond.wire.pcap import LINKTYPE_ERF, ErfFrame, FileHeader, FileRecord
from ibbond.wire.udp import UdpDatagram

MAX_RECORD_BYTES = 16_384  # of a port's capture: a packet of InfiniBand has 4096 bytes of payload at most
PORT_EVENTS = frozenset({"port_err", "port_active", "device_fatal", "pkey_change"})


class Event(NamedTuple):
    """A line of an event log: `what` as in `stack.events.TraceEvent`, `where` a device or port as people write it."""

    at: int
    what: str
    where: str
    detail: str = ""


class Frame(NamedTuple):
    """A captured IPoIB frame: the datagram with its encapsulation header, and the member's link-layer address.

    That is the source of what the member sent, else the destination; the other end may be empty.
    """

    at: int
    source: bytes
    destination: bytes
    datagram: bytes


@dataclass(frozen=True, slots=True)
class Scene:
    """Whose failover it is: the bond and its member that fails or comes back, and what probes look like.

    `new_address` is the link-layer address of the member by which traffic goes afterwards; `own_ips` are the bond's
    addresses, `peer_ip` is where the probes come from, to UDP port `probe_port`.
    """

    host: str
    bond: str
    member: str
    at: int
    until: int
    is_reversion: bool
    new_address: bytes
    own_ips: tuple[bytes, ...]
    peer: str
    peer_ip: bytes
    probe_port: int

    def path(self, device: str) -> str:
        return f"{self.host}/{device}" if self.host else device

    def covers(self, at: int) -> bool:
        return self.at <= at < self.until


def from_events(events: Iterable[Event], scene: Scene, source: Source = Source.EVENTS) -> Iterator[Sighting]:
    """Ports, carriers, active members and addresses; of each the first one."""
    member, bond = scene.path(scene.member), scene.path(scene.bond)
    carrier = "on" if scene.is_reversion else "off"
    for event in events:
        if not scene.covers(event.at):
            continue
        phase = None
        match event:
            case Event(_, "port", where, detail) if where == member and detail in PORT_EVENTS:
                phase = Phase.PORT
            case Event(_, "carrier", where, detail) if where == member and detail == carrier:
                phase = Phase.CARRIER
            case Event(_, "failover", where, _) if where == bond:
                phase = Phase.ACTIVE
            case Event(_, "address", where, _) if where == bond:
                phase = Phase.ADDRESS
            case Event(_, "neighbor", where, detail) if is_own(where, detail, scene):
                yield Sighting(Phase.NEIGHBOR, Source.PEER, event.at)
        if phase is not None:
            yield Sighting(phase, source, event.at)


def is_own(where: str, detail: str, scene: Scene) -> bool:
    """Whether an event `neighbor` (`10.0.0.1 is at ...`) is about the bond's IPv4 address, at the peer."""
    own = {str(ip_address(each)) for each in scene.own_ips if len(each) == len(scene.peer_ip)}
    return where.partition("/")[0] == scene.peer and detail.partition(" ")[0] in own


def from_log(lines: Iterable[tuple[int, str]], scene: Scene, source: Source) -> Iterator[Sighting]:
    """The monitor's verdict on the member and the new active one, out of the driver's log lines with their times."""
    wanted = "up" if scene.is_reversion else "down"
    for at, line in lines:
        if not scene.covers(at):
            continue
        found = kernel_log.verdict(line.rpartition("/")[2] if scene.host else line)
        if found is None or found.bond != scene.bond:
            continue
        if found.kind == wanted and found.member == scene.member:
            yield Sighting(Phase.VERDICT, source, at)
        elif found.kind == "active" and source is Source.KERNEL_LOG:
            yield Sighting(Phase.ACTIVE, source, at)


def from_capture(frames: Iterable[Frame], scene: Scene, *, any_path: bool = False) -> Iterator[Sighting]:
    """The first announcement that leaves by the new member, and the first probe of the peer that comes in by it.

    With `any_path` the first probe that comes in by whatever member: where traffic was not moved, it resumes so.
    """
    announced = arrived = False
    for frame in frames:
        if not scene.covers(frame.at):
            continue
        if not announced and announces(frame, scene):
            announced = True
            yield Sighting(Phase.ANNOUNCEMENT, Source.CAPTURE, frame.at)
        if not arrived and is_probe(frame, scene) and (any_path or frame.destination[4:] == scene.new_address[4:]):
            arrived = True
            yield Sighting(Phase.FIRST_PACKET, Source.CAPTURE, frame.at)


def announces(frame: Frame, scene: Scene) -> bool:
    """An ARP packet or an advertisement that tells one of the bond's addresses to be at the new member's.

    Gratuitous or not: a question to a neighbor tells it the new address as well.
    """
    ethertype = int.from_bytes(frame.datagram[:2])
    payload = frame.datagram[ENCAPSULATION_BYTES:]
    try:
        if ethertype == ETHERTYPE_ARP:
            arp = Arp.parse(payload)
            return arp.sender_ip in scene.own_ips and arp.sender_hardware[4:] == scene.new_address[4:]
        if ethertype == ETHERTYPE_IPV6 and payload[6:7] == b"\x3a":
            message = nd.parse(payload)
            return (
                isinstance(message, nd.NeighborAdvertisement)
                and message.target in scene.own_ips
                and frame.source[4:] == scene.new_address[4:]
            )
    except Malformed:
        pass
    return False


def is_probe(frame: Frame, scene: Scene) -> bool:
    """A UDP probe of the peer to the bond."""
    if int.from_bytes(frame.datagram[:2]) != ETHERTYPE_IPV4:
        return False
    try:
        datagram = UdpDatagram.parse(frame.datagram[ENCAPSULATION_BYTES:])
    except Malformed:
        return False
    return (
        datagram.destination_port == scene.probe_port
        and datagram.source == scene.peer_ip
        and datagram.destination in scene.own_ips
    )


def read_port_capture(raw: bytes, epoch: int, own: bytes, own_lid: int) -> Iterator[Frame]:
    """The IPoIB frames of a port's capture file; `epoch` (ns) is its clock less the monotonic one.

    `own` is the link-layer address of the port's member: the destination of all that its LID did not send.
    """
    if len(raw) < FileHeader.LAYOUT.size:
        return
    if FileHeader.parse(raw).linktype != LINKTYPE_ERF:
        raise Malformed("not a capture of a port")
    at = FileHeader.LAYOUT.size
    while at + FileRecord.LAYOUT.size <= len(raw):
        try:
            record = FileRecord.parse(raw[at : at + MAX_RECORD_BYTES])
        except Malformed:
            return  # the last record is cut short
        at += record.size
        with contextlib.suppress(Malformed):  # management, connections
            packet = UdPacket.parse(ErfFrame.parse(record.frame).packet)
            yield frame_at_port(record.at - epoch, packet, own, sent=packet.source_lid == own_lid)


def frame_at_port(at: int, packet: UdPacket, own: bytes, *, sent: bool) -> Frame:
    """A datagram that passed the port of a member with this link-layer address."""
    return Frame(at, own, b"", packet.payload) if sent else Frame(at, b"", own, packet.payload)
