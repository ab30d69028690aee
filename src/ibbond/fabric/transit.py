"""How packets cross the subnet: from port to port over cables, through switches by their tables, hop by hop.

Read first: InfiniBand Architecture volume 1, 18.2.4 (switch relaying), 14.2.2 (directed routes), 16.1.3.5 (counters).
Left out: flow control and virtual lanes (a port is never congested), partition enforcement in switches, directed
routes whose last part is LID routed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ibbond.fabric.hca import Hca
from ibbond.fabric.packet import MAX_COPIES, MAX_HOPS, Packet, segment_bytes, segments
from ibbond.fabric.port import Port
from ibbond.fabric.switch import Switch
from ibbond.machine import EventQueue
from ibbond.verbs.verbs import Datagram, PortState
from ibbond.wire.smp import PERMISSIVE_LID

HOP_POINTER, HOP_COUNT, RETURNING = 6, 7, 4  # where a directed route keeps them in the MAD
INITIAL_PATH, RETURN_PATH = 128, 192
DR_SLID, DR_DLID = 32, 34
MAX_DIRECTED_HOPS = 63


Arrival = tuple[Port, Packet, int]  # a packet on the cable to this port, of this epoch of the cable
Hops = Sequence[tuple[Port, Port]]  # where a packet leaves and where it arrives, cable by cable


@dataclass(frozen=True, slots=True)
class PathTrace:
    """A way through the subnet that a flow remembers until the generation changes: where it ends, whom to count."""

    destination: str
    links: tuple[tuple[Port, Port], ...]
    capture_points: tuple[tuple[str, bool], ...] = ()  # captured ports on the path, and whether packets leave there

    def count(self, packets: int, octets: int, overhead: int = 32) -> None:
        """Count what went this way unseen; `octets` are UD payload, `overhead` the headers of each packet."""
        count(self.links, packets, octets, overhead)


class Transit:
    """The wires and crossbars. `deliver(port, packet)` is called for what has reached an end port."""

    def __init__(
        self,
        schedule: EventQueue,
        draw: random.Random,
        hop_ns: int,
        deliver: Callable[[Port, Packet], None],
        capture: Callable[[Port, Packet, bool], None],
    ) -> None:
        self._schedule = schedule
        self._random = draw
        self._hop_ns = hop_ns
        self._deliver = deliver
        self._capture = capture

    def send(self, port: Port, packet: Packet) -> None:
        """A packet leaves the software at an end port: an adapter's port, or port 0 of a switch."""
        if packet.directed is not None:
            self._send_directed(port, packet)
        elif packet.destination_lid == port.lid and port.lid:
            self._schedule.call_after(0, self._deliver, port, packet)  # never leaves the node
        elif isinstance(port.node, Switch):
            self._relay(port.node, port, packet)
        else:
            if packet.multicast:
                packet.copies = [1]
                self._schedule.call_after(0, self._deliver, port, packet.copy())  # other queue pairs of the port
            self._transmit(port, packet)

    def trace_path(self, port: Port, lid: int, *, mirrored: bool = False) -> PathTrace | None:
        """The path of a unicast packet now; None if there is none, or if packets must not bypass it.

        If `mirrored`, capture points on the path do not disqualify it; the caller mirrors packets to them.
        """
        if self._hop_ns or port.state != PortState.ACTIVE:
            return None
        if lid == port.lid:
            return None if port.mirrored else PathTrace(port.name, ())
        links: list[tuple[Port, Port]] = []
        capture_points: list[tuple[str, bool]] = []
        here: Port | None = port
        while here is not None and here.number and here.state == PortState.ACTIVE and len(links) < MAX_HOPS:
            there = here.peer
            cable = here.cable
            if there is None or cable is None or there.state != PortState.ACTIVE:
                return None
            if cable.loss or ((here.mirrored or there.mirrored) and not mirrored):
                return None
            links.append((here, there))
            capture_points += [(end.name, end is here) for end in (here, there) if end.mirrored]
            if not isinstance(there.node, Switch):
                return PathTrace(there.name, tuple(links), tuple(capture_points)) if there.lid == lid else None
            here = there.node.egress(lid)
        return None

    def route_directed(self, port: Port, lid: int, mad: bytearray) -> tuple[Port, Hops] | None:
        """Route a directed MAD along its whole path at once, if no hop takes time and no port is captured.

        A sweep is thousands of these; who sends it counts the walk. None where it must go hop by hop by `send`, which
        also says why it does not arrive; `mad` may have been modified anyway.
        """
        count, back = mad[HOP_COUNT], mad[RETURNING] & 0x80
        last = DR_SLID if back else DR_DLID
        if self._hop_ns or count > MAX_DIRECTED_HOPS or mad[last] & mad[last + 1] != 0xFF:
            return None
        if not back and lid not in (PERMISSIVE_LID, port.lid):
            return None
        links: list[tuple[Port, Port]] = []
        here = port
        for hop in range(count, 0, -1) if back else range(1, count + 1):
            node = here.node
            egress = node.ports.get(mad[(RETURN_PATH if back else INITIAL_PATH) + hop])
            if egress is None or not egress.number or not (isinstance(node, Switch) or (egress is here and not links)):
                return None
            there, cable = egress.peer, egress.cable
            if there is None or cable is None or cable.loss or egress.mirrored or there.mirrored:
                return None
            links.append((egress, there))
            if not back:
                mad[RETURN_PATH + hop] = there.number
            here = there
        mad[HOP_POINTER] = count + 1 if count and not back else 0
        end = here.node.ports.get(0, here) if back else here
        return end, links

    def _transmit(self, port: Port, packet: Packet) -> None:
        """Put a packet onto the cable at `port`, or count why not."""
        for each in self._put(port, packet):
            self._schedule.call_after(self._hop_ns, self._arrive, *each)

    def _put(self, port: Port, packet: Packet) -> tuple[Arrival, ...]:
        """What is on the cable now and will arrive at its other end."""
        peer, cable = port.peer, port.cable
        counters = port.counters
        packet.hops += 1
        if peer is None or cable is None or packet.hops > MAX_HOPS or not _open(port, peer, packet):
            counters.transmit_discards += packet.count
            return ()
        if isinstance(packet.content, Datagram) and segment_bytes(packet.content) > port.mtu_bytes:
            counters.transmit_discards += packet.count
            return ()
        counters.transmit_packets += packet.count
        counters.transmit_words += packet.words
        if packet.multicast:
            counters.transmit_multicast += packet.count
        if port.mirrored:
            self._capture(port, packet, True)
        if not cable.loss:
            return ((peer, packet, cable.epoch),)
        arriving = []
        for single in segments(packet):
            if self._random.random() < _lost(cable.loss, single.count):
                peer.counters.symbol_errors += 1
                peer.counters.receive_errors += 1
            else:
                arriving.append((peer, single, cable.epoch))
        return tuple(arriving)

    def _arrive_all(self, arriving: list[Arrival]) -> None:
        """The copies of a multicast, which are on their cables since one moment, in their order."""
        for port, packet, epoch in arriving:
            self._arrive(port, packet, epoch)

    def _arrive(self, port: Port, packet: Packet, epoch: int) -> None:
        cable = port.cable
        if cable is None or cable.epoch != epoch or port.peer is None:
            return  # it was on the cable when the cable was cut
        port.counters.receive_packets += packet.count
        port.counters.receive_words += packet.words
        if packet.multicast:
            port.counters.receive_multicast += packet.count
        if port.mirrored:
            self._capture(port, packet, False)
        if packet.directed is not None:
            self._directed(port, packet)
        elif isinstance(port.node, Switch):
            self._relay(port.node, port, packet)
        elif packet.multicast or packet.destination_lid in (port.lid, PERMISSIVE_LID):
            self._deliver(port, packet)

    def _relay(self, switch: Switch, ingress: Port, packet: Packet) -> None:
        if packet.multicast:
            self._replicate(switch, ingress, packet)
            return
        own = ingress if packet.management else switch.management_port  # the SMI answers for the port of entry
        if packet.destination_lid == switch.management_port.lid:
            self._deliver(own, packet)
            return
        if packet.destination_lid == PERMISSIVE_LID and packet.management:
            self._deliver(own, packet)
            return
        egress = switch.egress(packet.destination_lid)
        if egress is None:
            ingress.counters.receive_switch_relay_errors += packet.count
        elif egress.number == 0:
            self._deliver(own, packet)
        else:
            self._transmit(egress, packet)

    def _replicate(self, switch: Switch, ingress: Port, packet: Packet) -> None:
        mask = switch.masks.get(packet.destination_lid, 0) & ~(1 << ingress.number)
        copies = packet.copies = packet.copies or [1]
        if mask & 1:
            self._deliver(switch.management_port, packet.copy())
            mask &= ~1
        leaving: list[Arrival] = []
        while mask and copies[0] < MAX_COPIES:
            number = (mask & -mask).bit_length() - 1
            mask &= mask - 1
            egress = switch.ports.get(number)
            if egress is not None:
                copies[0] += 1
                leaving += self._put(egress, packet.copy())
        if leaving:
            self._schedule.call_after(self._hop_ns, self._arrive_all, leaving)

    def _send_directed(self, port: Port, packet: Packet) -> None:
        """14.2.2: the sender of a request or of an answer puts the hop pointer where its way begins."""
        mad = packet.directed
        assert mad is not None
        if mad[HOP_COUNT] > MAX_DIRECTED_HOPS:
            return
        if mad[RETURNING] & 0x80:
            mad[HOP_POINTER] = mad[HOP_COUNT] + 1
            packet.destination_lid = PERMISSIVE_LID
            self._directed_back(port, packet, mad)
            return
        mad[HOP_POINTER] = 0
        lid = packet.destination_lid
        if lid not in (PERMISSIVE_LID, port.lid):  # the first part is LID routed
            packet.directed = None
            packet.management = True
            self.send(port, packet)
        else:
            self.start_directed(port, packet, mad)

    def start_directed(self, port: Port, packet: Packet, mad: bytearray) -> None:
        """The directed part of a request begins at the node of `port`."""
        packet.directed = mad
        packet.destination_lid = PERMISSIVE_LID
        if mad[HOP_COUNT] == 0:
            self._schedule.call_after(0, self._deliver, port, packet)
            return
        mad[HOP_POINTER] = 1
        self._leave(port, packet, mad[INITIAL_PATH + 1])

    def _directed(self, ingress: Port, packet: Packet) -> None:
        mad = packet.directed
        assert mad is not None
        if mad[RETURNING] & 0x80:
            self._directed_back(ingress, packet, mad)
            return
        pointer, count = mad[HOP_POINTER], mad[HOP_COUNT]
        if not 0 < pointer <= count:
            return
        mad[RETURN_PATH + pointer] = ingress.number
        mad[HOP_POINTER] = pointer + 1
        if pointer < count:
            if isinstance(ingress.node, Switch):
                self._leave(ingress, packet, mad[INITIAL_PATH + pointer + 1])
            return
        if int.from_bytes(mad[DR_DLID : DR_DLID + 2], "big") == PERMISSIVE_LID:
            self._deliver(ingress, packet)

    def _directed_back(self, port: Port, packet: Packet, mad: bytearray) -> None:
        pointer, count = mad[HOP_POINTER], mad[HOP_COUNT]
        if pointer > count + 1:
            return
        if pointer > 1:
            mad[HOP_POINTER] = pointer - 1
            self._leave(port, packet, mad[RETURN_PATH + pointer - 1])
            return
        mad[HOP_POINTER] = 0
        lid = int.from_bytes(mad[DR_SLID : DR_SLID + 2], "big")
        if lid in (PERMISSIVE_LID, port.lid):
            self._deliver(port.node.ports.get(0, port), packet)
        else:
            packet.directed, packet.management, packet.destination_lid = None, True, lid
            self.send(port.node.ports.get(0, port), packet)

    def _leave(self, port: Port, packet: Packet, number: int) -> None:
        """A directed route leaves the node of `port` by the port of this number."""
        egress = port.node.ports.get(number)
        if egress is not None and egress.number and (egress is port or not isinstance(port.node, Hca)):
            self._transmit(egress, packet)


def count(links: Hops, packets: int, octets: int, overhead: int = 32) -> None:
    """Count at every port of a way what went it in one go."""
    words = (octets + packets * overhead + 3) // 4
    for sender, receiver in links:
        sent, received = sender.counters, receiver.counters
        sent.transmit_packets += packets
        sent.transmit_words += words
        received.receive_packets += packets
        received.receive_words += words


def _lost(loss: float, packets: int) -> float:
    """How likely a message of so many packets does not arrive whole."""
    return loss if packets == 1 else 1 - (1 - loss) ** packets


def _open(port: Port, peer: Port, packet: Packet) -> bool:
    """Data need both ends Active, subnet management any link that is up."""
    if packet.management or packet.directed is not None:
        return True
    return port.state == PortState.ACTIVE and peer.state == PortState.ACTIVE
