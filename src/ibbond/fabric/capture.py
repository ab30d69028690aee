"""What a tap at a port sees: the bytes of a packet from LRH to VCRC.

Read first: `wire.ib`. Trains are taken apart, so that a capture shows what a wire would carry. Left out: link packets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ibbond.fabric.packet import Packet, segments, train_pieces
from ibbond.verbs.reliable_verbs import Kind, ReliableMessage
from ibbond.verbs.verbs import GSI_QKEY, Datagram
from ibbond.wire.ib import UdPacket
from ibbond.wire.pkey import DEFAULT_PKEY
from ibbond.wire.rc import RESPONSES, SENDS, WRITES, RcOpcode, RcPacket

VL15 = 15


def frames_of(packet: Packet) -> list[bytes]:
    """The raw frames of a packet; a train gives one for each of its segments."""
    if packet.directed is not None:  # every hop writes into it
        return [_frame(packet)]
    if packet.frames is None and isinstance(packet.content, ReliableMessage):
        packet.frames = _reliable_frames(packet.content)
    if packet.frames is None:
        packet.frames = [_frame(single) for single in segments(packet)]
    return packet.frames


def _reliable_frames(message: ReliableMessage) -> list[bytes]:
    """A message as the packets that a wire would carry."""
    kinds = {Kind.SEND: SENDS, Kind.WRITE: WRITES, Kind.RESPONSE: RESPONSES}
    frames: list[bytes] = []
    size = message.mtu_bytes
    for payload in train_pieces(message.payload, message.offload):
        pieces = [payload[at : at + size] for at in range(0, len(payload), size)] or [b""]
        frames += _message_frames(message, kinds, pieces, len(frames))
    return frames


def _message_frames(
    message: ReliableMessage, kinds: Mapping[Kind, tuple[RcOpcode, ...]], pieces: Sequence[bytes], before: int
) -> list[bytes]:
    frames = []
    for number, piece in enumerate(pieces):
        if message.kind in kinds:
            first, middle, last, only = kinds[message.kind]
            opcode = middle if 0 < number < len(pieces) - 1 else last if number else first if pieces[1:] else only
        else:
            opcode = RcOpcode.READ_REQUEST if message.kind is Kind.READ else RcOpcode.ACKNOWLEDGE
        frames.append(
            RcPacket(
                message.source_lid,
                message.destination_lid,
                message.pkey,
                message.destination_qpn,
                message.psn + before + number & 0xFFFFFF,
                opcode,
                piece,
                service_level=message.service_level,
                remote_address=message.remote_offset,
                remote_key=message.remote_key,
                length=message.length,
                syndrome=message.syndrome,
            ).pack()
        )
    return frames


def _frame(packet: Packet) -> bytes:
    content = packet.content
    assert not isinstance(content, ReliableMessage), "these have several frames"
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
