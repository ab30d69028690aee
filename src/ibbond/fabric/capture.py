"""What a tap at a port sees: the bytes of a packet from LRH to VCRC.

Read first: `wire.ib`. Trains are taken apart, so that a capture shows what a wire would carry. Left out: link packets.
"""

from __future__ import annotations

from ibbond.fabric.packet import Packet, segments
from ibbond.fabric.port import DEFAULT_PKEY
from ibbond.fabric.verbs import GSI_QKEY, Datagram
from ibbond.wire.ib import UdPacket

VL15 = 15


def frames_of(packet: Packet) -> list[bytes]:
    """The raw frames of a packet; a train gives one for each of its segments."""
    if packet.directed is not None:  # every hop writes into it
        return [_frame(packet)]
    if packet.frames is None:
        packet.frames = [_frame(single) for single in segments(packet)]
    return packet.frames


def _frame(packet: Packet) -> bytes:
    content = packet.content
    if isinstance(content, Datagram):
        global_route = content.destination_gid is not None
        return UdPacket(
            content.source_lid,
            content.destination_lid,
            content.source_qpn,
            content.destination_qpn,
            content.qkey,
            content.pkey,
            content.payload,
            source_gid=(content.source_gid or bytes(16)) if global_route else b"",
            destination_gid=content.destination_gid or b"",
            service_level=content.service_level,
            traffic_class=content.traffic_class,
            flow_label=content.flow_label,
            hop_limit=content.hop_limit,
        ).pack()
    to_qp0 = packet.management or packet.directed is not None
    return UdPacket(
        content.source_lid,
        packet.destination_lid,
        content.source_qpn,
        content.destination_qpn,
        0 if to_qp0 else GSI_QKEY,
        DEFAULT_PKEY,
        bytes(packet.directed) if packet.directed is not None else content.mad,
        virtual_lane=VL15 if to_qp0 else 0,
    ).pack()
