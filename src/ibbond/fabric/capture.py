"""What a capture point at a port sees: the bytes of a packet from LRH to VCRC.

Read first: `wire.ib`. GSO packets are split, so that a capture shows what a wire would carry. Left out: link packets.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ibbond.fabric.packet import Packet, gso_segments, segments
from ibbond.verbs.reliable_verbs import Kind, ReliableMessage
from ibbond.verbs.verbs import GSI_QKEY, Datagram
from ibbond.wire.ib import UdPacket
from ibbond.wire.pkey import DEFAULT_PKEY
from ibbond.wire.rc import RESPONSES, SENDS, WITH_IMMEDIATE, WRITES, RcOpcode, RcPacket

VL15 = 15
RUNS = {Kind.SEND: SENDS, Kind.WRITE: WRITES, Kind.RESPONSE: RESPONSES}
SINGLE = {
    Kind.READ: RcOpcode.READ_REQUEST,
    Kind.COMPARE_SWAP: RcOpcode.COMPARE_SWAP,
    Kind.FETCH_ADD: RcOpcode.FETCH_ADD,
    Kind.ATOMIC_RESPONSE: RcOpcode.ATOMIC_ACKNOWLEDGE,
    Kind.ACK: RcOpcode.ACKNOWLEDGE,
    Kind.NAK: RcOpcode.ACKNOWLEDGE,
}


def frames_of(packet: Packet) -> list[bytes]:
    """The raw frames of a packet; a GSO packet gives one for each of its segments."""
    if packet.directed is not None:  # every hop writes into it
        return [_frame(packet)]
    if packet.frames is None and isinstance(packet.content, ReliableMessage):
        packet.frames = _reliable_frames(packet.content)
    if packet.frames is None:
        packet.frames = [_frame(single) for single in segments(packet)]
    return packet.frames


def _reliable_frames(message: ReliableMessage) -> list[bytes]:
    """A message, or a run of its packets, as the packets that a wire would carry."""
    frames: list[bytes] = []
    size = message.mtu_bytes
    for payload in gso_segments(message.payload, message.offload):
        pieces = [payload[at : at + size] for at in range(0, len(payload), size)] or [b""]
        frames += _message_frames(message, pieces, len(frames))
    return frames


def _message_frames(message: ReliableMessage, pieces: Sequence[bytes], before: int) -> list[bytes]:
    compare = message.kind is Kind.COMPARE_SWAP
    frames = []
    for number, piece in enumerate(pieces):
        opcode = _opcode(message, first=number == 0, last=number == len(pieces) - 1)
        answer = opcode is RcOpcode.ATOMIC_ACKNOWLEDGE
        frames.append(
            RcPacket(
                message.source_lid,
                message.destination_lid,
                message.pkey,
                message.destination_qpn,
                message.psn + before + number & 0xFFFFFF,
                opcode,
                b"" if answer else piece,
                service_level=message.service_level,
                remote_address=message.remote_address,
                remote_key=message.remote_key,
                length=message.length,
                syndrome=message.syndrome,
                sequence=message.sequence,
                immediate=message.immediate,
                swap_add=message.swap if compare else message.compare_add,
                compare=message.compare_add if compare else 0,
                original=int.from_bytes(piece, sys.byteorder) if answer else 0,
            ).pack()
        )
    return frames


def _opcode(message: ReliableMessage, *, first: bool, last: bool) -> RcOpcode:
    """Of one packet, from its place in the run and the run's place in the message."""
    single = SINGLE.get(message.kind)
    if single is not None:
        return single
    first, last = first and message.first, last and message.last
    beginning, middle, ending, only = RUNS[message.kind]
    opcode = (only if last else beginning) if first else (ending if last else middle)
    return WITH_IMMEDIATE[opcode] if message.immediate and last else opcode


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
