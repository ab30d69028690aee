"""What the fast path remembers: where packets of one device to one destination come out, and whom to count.

A flow is made only of decisions that are settled (neighbor and path known, receive filter open, a way without loss,
delay or capture) and holds as long as the world's generation counter stands still; whatever changes a decision bumps
the counter. Counts are kept in the flow and handed to devices and ports by `settle`. Read first: `fabric/generation`,
host/pump. Left out: groups and broadcasts, which every receiver must see for itself; packets that the stack itself
reads (group reports, neighbor discovery), which have no flow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ibbond.fabric.subnet import Subnet
from ibbond.fabric.transit import Walk
from ibbond.netdev.device import Device
from ibbond.stack.host_stack import HostStack
from ibbond.stack.ip_layer import destination_of
from ibbond.wire.group_reports import is_report
from ibbond.wire.ip import HOP_BY_HOP
from ibbond.wire.ipoib import ENCAPSULATION_BYTES
from ibbond.wire.nd import is_message


class Flow:
    """One remembered decision. `packets` and `bytes` (of IP) are counted up by the fast path.

    `target` is the (host, device) at which packets come out, `mtu` the largest that goes without being a train.
    """

    __slots__ = (
        "_receiver",
        "_sender",
        "_settled_bytes",
        "_settled_packets",
        "_touch",
        "_walk",
        "bytes",
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
        walk: Walk,
        sender: Device,
        receiver: Device,
        touch: Callable[[], None],
    ) -> None:
        self.generation = generation
        self.target = target
        self.mtu = mtu
        self.packets = 0
        self.bytes = 0
        self._walk = walk
        self._sender = sender
        self._receiver = receiver
        self._touch = touch
        self._settled_packets = 0
        self._settled_bytes = 0

    def settle(self) -> None:
        """Add what was counted since the last time to the counters of both interfaces and of the ports between."""
        packets, octets = self.packets - self._settled_packets, self.bytes - self._settled_bytes
        if not packets:
            return
        self._settled_packets, self._settled_bytes = self.packets, self.bytes
        wire = octets + packets * ENCAPSULATION_BYTES
        sent, received = self._sender.statistics, self._receiver.statistics
        sent.tx_packets += packets
        sent.tx_bytes += wire
        received.rx_packets += packets
        received.rx_bytes += octets
        self._walk.count(packets, wire)
        self._touch()


class Flows:
    """Finds flows through the machines, as a packet would go, and gathers their counts."""

    def __init__(self, subnet: Subnet, hosts: Mapping[str, HostStack], at_port: Mapping[str, HostStack]) -> None:
        self._subnet = subnet
        self._hosts = hosts
        self._at_port = at_port
        self._live: dict[tuple[str, str, bytes], Flow] = {}
        self._generation = -1

    def find(self, now: int, host: str, device: str, packet: bytes, generation: int) -> Flow | None:
        """The flow of packets like this one; None when they must take the slow path."""
        if seen_by_stack(packet):
            return None
        out = self._hosts[host].way_out(device, packet)
        if out is None:
            return None
        walk = self._subnet.walk(out.port, out.path.dlid)
        if walk is None:
            return None
        receiver = self._at_port.get(walk.destination)
        taken = receiver.way_in(walk.destination, out.path, out.pkey) if receiver is not None else None
        if receiver is None or taken is None:
            return None
        upper, lower = taken
        if not self._subnet.accepts(walk.destination, out.pkey, out.path.qpn, out.path.qkey):
            return None
        upper, lower = taken
        flow = Flow(generation, (receiver.name, upper.name), out.mtu, walk, out.device, lower, out.touch)
        self._remember((host, device, destination_of(packet) or b""), flow)
        return flow

    def settle(self) -> None:
        for flow in self._live.values():
            flow.settle()

    def _remember(self, key: tuple[str, str, bytes], flow: Flow) -> None:
        """Keep it for `settle`; flows of an older generation are done with."""
        if flow.generation != self._generation:
            self.settle()
            self._live.clear()
            self._generation = flow.generation
        older = self._live.get(key)
        if older is not None:
            older.settle()
        self._live[key] = flow


def seen_by_stack(packet: bytes) -> bool:
    """Whether the stack itself reads such packets: group reports and neighbor discovery."""
    if not packet:
        return True
    if packet[0] >> 4 == 6:
        return len(packet) < 40 or packet[6] == HOP_BY_HOP or is_message(packet)
    return is_report(packet)
