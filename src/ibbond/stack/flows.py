"""What the fast path remembers: where packets of one device to one destination come out, and whom to count.

A flow is made only of final decisions (neighbor and path known, receive filter open, a way without loss or
delay, and without a capture but where the user of flows shows it what passes) and holds as long as the world's
generation counter stands still; whatever changes a decision bumps the counter. Counts are kept in the flow and handed
to devices and ports by `flush_counters`. Read first: `verbs/generation`, host/pump. Left out: groups and broadcasts,
which every receiver must see for itself; packets that the stack itself reads (group reports, neighbor discovery), which
have no flow. Messages of connected mode are remembered while nothing waits at their queue pair; neither numbered nor
acknowledged then, they are counted as if: a message longer than the InfiniBand MTU as packets of that size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ibbond.fabric.packet import ACK_HEADER_BYTES, RELIABLE_OVERHEAD
from ibbond.fabric.subnet import Subnet
from ibbond.fabric.transit import PathTrace
from ibbond.netdev.device import Device
from ibbond.stack.frames import WayOut
from ibbond.stack.host_stack import HostStack
from ibbond.stack.ip_layer import destination_of
from ibbond.verbs.verbs import Datagram
from ibbond.wire.group_reports import is_report
from ibbond.wire.ip import HOP_BY_HOP
from ibbond.wire.ipoib import ENCAPSULATION_BYTES
from ibbond.wire.nd import is_message


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """What a flow by a reliable connection counts otherwise: its packets' size, and the way of acknowledgments."""

    mtu_bytes: int
    back: PathTrace
    touch_receiver: Callable[[], None]  # the receiving end is not idle


@dataclass(frozen=True, slots=True)
class CapturePoint:
    """Captures on a flow's way: the ports (and whether packets leave there), and its packets but for their payload."""

    ports: tuple[tuple[str, bool], ...]
    datagram: Datagram


class Flow:
    """One remembered decision. `packets` and `bytes` (of IP) are counted up by the fast path.

    `target` is the (host, device) at which packets come out, `mtu` the largest packet that is not a GSO packet.
    """

    __slots__ = (
        "_acknowledged",
        "_flushed_bytes",
        "_flushed_packets",
        "_receiver",
        "_sender",
        "_touch",
        "_trace",
        "bytes",
        "capture_point",
        "generation",
        "mtu",
        "packets",
        "target",
    )

    def __init__(
        self,
        generation: int,
        target: tuple[str, str],
        mtu: int,
        trace: PathTrace,
        sender: Device,
        receiver: Device,
        touch: Callable[[], None],
        acknowledged: Acknowledged | None = None,
        capture_point: CapturePoint | None = None,
    ) -> None:
        self.generation = generation
        self.target = target
        self.mtu = mtu
        self.capture_point = capture_point
        self.packets = 0
        self.bytes = 0
        self._trace = trace
        self._sender = sender
        self._receiver = receiver
        self._touch = touch
        self._acknowledged = acknowledged
        self._flushed_packets = 0
        self._flushed_bytes = 0

    def flush_counters(self) -> None:
        """Add what was counted since the last time to the counters of both interfaces and of the ports between."""
        packets, octets = self.packets - self._flushed_packets, self.bytes - self._flushed_bytes
        if not packets:
            return
        self._flushed_packets, self._flushed_bytes = self.packets, self.bytes
        wire = octets + packets * ENCAPSULATION_BYTES
        sent, received = self._sender.statistics, self._receiver.statistics
        sent.tx_packets += packets
        sent.tx_bytes += wire
        received.rx_packets += packets
        received.rx_bytes += octets
        connection = self._acknowledged
        if connection is None:
            self._trace.count(packets, wire)
        else:
            self._trace.count(max(packets, -(-wire // connection.mtu_bytes)), wire, RELIABLE_OVERHEAD)
            connection.back.count(packets, 0, RELIABLE_OVERHEAD + ACK_HEADER_BYTES)
            connection.touch_receiver()
        self._touch()


class Flows:
    """Finds flows through the machines, as a packet would go, and gathers their counts."""

    def __init__(self, subnet: Subnet, hosts: Mapping[str, HostStack], at_port: Mapping[str, HostStack]) -> None:
        self._subnet = subnet
        self._hosts = hosts
        self._at_port = at_port
        self._live: dict[tuple[str, str, bytes], Flow] = {}
        self._generation = -1
        self.recorded = (
            False  # the user of flows mirrors packets to capture points; otherwise captured paths have no flow
        )

    def find(self, now: int, host: str, device: str, packet: bytes, generation: int) -> Flow | None:
        """The flow of packets like this one; None when they must take the slow path."""
        if seen_by_stack(packet):
            return None
        out = self._hosts[host].way_out(device, packet)
        if out is None:
            return None
        trace = self._subnet.trace_path(out.port, out.path.dlid, mirrored=self.recorded)
        if trace is None or (trace.capture_points and out.path.own_qpn):
            return None
        receiver = self._at_port.get(trace.destination)
        taken = receiver.way_in(trace.destination, out.path, out.pkey) if receiver is not None else None
        if receiver is None or taken is None:
            return None
        upper, lower = taken
        acknowledged = None
        if out.path.own_qpn:
            acknowledged = self._connection(out, trace, receiver)
            if acknowledged is None:
                return None
        elif not self._subnet.accepts(trace.destination, out.pkey, out.path.qpn, out.path.qkey):
            return None
        upper, lower = taken
        target = receiver.name, upper.name
        flow = Flow(
            generation,
            target,
            out.mtu,
            trace,
            out.device,
            lower,
            out.touch,
            acknowledged,
            self._capture_point(out, trace),
        )
        self._keep((host, device, destination_of(packet) or b""), flow)
        return flow

    def _capture_point(self, out: WayOut, trace: PathTrace) -> CapturePoint | None:
        if not trace.capture_points:
            return None
        port, path = self._subnet.port(out.port), out.path
        datagram = Datagram(
            source_lid=port.lid,
            destination_lid=path.dlid,
            pkey=out.pkey,
            source_qpn=int.from_bytes(out.device.address[1:4]),
            destination_qpn=path.qpn,
            qkey=path.qkey,
            payload=b"",
            service_level=path.sl,
            source_gid=port.gid if path.gid else None,
            destination_gid=path.gid or None,
            traffic_class=path.traffic_class,
            flow_label=path.flow_label,
            hop_limit=path.hop_limit,
        )
        return CapturePoint(trace.capture_points, datagram)

    def _connection(self, out: WayOut, trace: PathTrace, receiver: HostStack) -> Acknowledged | None:
        """The connection by which packets go now; None when something waits there or acknowledgments have no way."""
        back = self._subnet.trace_path(trace.destination, self._subnet.port(out.port).lid)
        if back is None or not self._subnet.carries(out.port, out.path.own_qpn, trace.destination, out.path.qpn):
            return None
        mtu_bytes = self._subnet.message_mtu(out.port, out.path.own_qpn)
        return Acknowledged(mtu_bytes, back, receiver.receive_toucher(trace.destination, out.path.qpn))

    def flush_counters(self) -> None:
        for flow in self._live.values():
            flow.flush_counters()

    def _keep(self, key: tuple[str, str, bytes], flow: Flow) -> None:
        """Keep it for `flush_counters`; flows of an older generation are done with."""
        if flow.generation != self._generation:
            self.flush_counters()
            self._live.clear()
            self._generation = flow.generation
        older = self._live.get(key)
        if older is not None:
            older.flush_counters()
        self._live[key] = flow


def seen_by_stack(packet: bytes) -> bool:
    """Whether the stack itself reads such packets: group reports and neighbor discovery."""
    if not packet:
        return True
    if packet[0] >> 4 == 6:
        return len(packet) < 40 or packet[6] == HOP_BY_HOP or is_message(packet)
    return is_report(packet)
