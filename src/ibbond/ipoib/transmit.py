"""Where an interface's packets leave: the queue pair with its keys, and the counters of what went and what did not.

Read first: `ipoib_send` in Linux's `ipoib_ib.c`. A `Path` is an address handle plus the queue pair behind it; it stays
usable until the interface says `PathsChanged`.
"""

from __future__ import annotations

from dataclasses import dataclass

from ibbond.ipoib.events import Dropped, EmitDatagram, InterfaceEffect, PortFacts, TooLong
from ibbond.ipoib.partition import Partition
from ibbond.netdev.device import Device
from ibbond.verbs.verbs import Datagram
from ibbond.wire.ipoib import ENCAPSULATION_BYTES, ETHERTYPE_ARP, ETHERTYPE_IPV6, ETHERTYPE_RARP
from ibbond.wire.offload import largest_segment, segment_count

SUPERSEDED = "another member has taken over; it names this one's address"
_NEXT_HEADER = ENCAPSULATION_BYTES + 6
_ICMP_TYPE = ENCAPSULATION_BYTES + 40
_DISCOVERY = tuple(
    bytes([kind]) for kind in range(133, 138)
)  # router and neighbor solicitation and advertisement; redirect


@dataclass(frozen=True, slots=True)
class Path:
    """How to reach a queue pair or a group; with a `gid`, packets carry a GRH to it.

    A reliable connection has `own_qpn`, the queue pair that sends, and `max_bytes`, the largest IP packet that the peer
    takes (else the broadcast group's MTU counts).
    """

    dlid: int
    qpn: int
    qkey: int
    sl: int = 0
    gid: bytes = b""
    traffic_class: int = 0
    flow_label: int = 0
    hop_limit: int = 0
    own_qpn: int = 0
    max_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Packet:
    """What waits to be sent: the IPoIB header and what it carries; a virtio-net header or empty."""

    encapsulated: bytes
    offload: bytes = b""

    @property
    def names_sender(self) -> bool:
        """Whether its readers learn from it which link-layer address we have: ARP, or neighbor discovery."""
        data = self.encapsulated
        ethertype = int.from_bytes(data[:2])
        if ethertype == ETHERTYPE_IPV6:
            return data[_NEXT_HEADER : _NEXT_HEADER + 1] == b"\x3a" and data[_ICMP_TYPE : _ICMP_TYPE + 1] in _DISCOVERY
        return ethertype in (ETHERTYPE_ARP, ETHERTYPE_RARP)


class TransmitSide:
    """The sending side of one interface; `qkey` and `mtu` are the broadcast group's."""

    def __init__(self, device: Device, port: PortFacts, qpn: int, partition: Partition) -> None:
        self.device = device
        self.port = port
        self.qpn = qpn
        self.partition = partition
        self.qkey = 0
        self.mtu = port.mtu_bytes - ENCAPSULATION_BYTES

    def send(self, path: Path, packet: Packet) -> list[InterfaceEffect]:
        """Through this path, unless the packet is too long for the link."""
        payload, offload = packet.encapsulated, packet.offload
        statistics = self.device.statistics
        if len(payload) > self.mtu + ENCAPSULATION_BYTES and (
            largest_segment(offload, payload, ENCAPSULATION_BYTES) > self.mtu
        ):
            statistics.tx_dropped += 1
            statistics.tx_errors += 1
            return [TooLong(payload[ENCAPSULATION_BYTES:], self.mtu), Dropped("packet longer than the link's MTU")]
        statistics.tx_packets += segment_count(offload, payload, ENCAPSULATION_BYTES) if offload else 1
        statistics.tx_bytes += len(payload)
        return [EmitDatagram(self.datagram(path, payload, offload))]

    def datagram(self, path: Path, payload: bytes, offload: bytes = b"") -> Datagram:
        return Datagram(
            source_lid=self.port.lid,
            destination_lid=path.dlid,
            pkey=self.partition.table_key,
            source_qpn=self.qpn,
            destination_qpn=path.qpn,
            qkey=path.qkey,
            payload=payload,
            service_level=path.sl,
            source_gid=self.port.gid if path.gid else None,
            destination_gid=path.gid or None,
            traffic_class=path.traffic_class,
            flow_label=path.flow_label,
            hop_limit=path.hop_limit,
            offload=offload,
        )

    def drop(self, reason: str, packets: int = 1) -> list[InterfaceEffect]:
        if not packets:
            return []
        self.device.statistics.tx_dropped += packets
        return [Dropped(reason, packets)]
