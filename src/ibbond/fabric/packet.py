"""A packet inside the subnet: a datagram or a MAD on its way, with what ports count of it.

Read first: InfiniBand Architecture volume 1, 5.2 (packet formats). A GSO packet (`Datagram.offload`) is one
packet here that counts as many. Left out: bytes; `capture` makes them when a port is captured.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ibbond.errors import Malformed
from ibbond.verbs.reliable_verbs import Kind, ReliableMessage
from ibbond.verbs.verbs import FIRST_MLID, Datagram, ManagementDatagram
from ibbond.wire.ipoib import ENCAPSULATION_BYTES
from ibbond.wire.offload import OffloadHeader, largest_segment, segment_count, split

LOCAL_OVERHEAD = 8 + 12 + 8 + 4  # LRH, BTH, DETH, ICRC: what PortXmitData counts beside the payload
GLOBAL_OVERHEAD = LOCAL_OVERHEAD + 40
RELIABLE_OVERHEAD = 8 + 12 + 4  # LRH, BTH, ICRC
RDMA_HEADER_BYTES = 16
ATOMIC_HEADER_BYTES = 28
ACK_HEADER_BYTES = 4
MAD_WORDS = (LOCAL_OVERHEAD + 256) // 4
MAX_HOPS = 64  # a packet that is gone round in circles for so long is dropped (a switch's lifetime limit)
MAX_COPIES = 4096


@dataclass(eq=False, slots=True)
class Packet:
    """One packet, or one GSO packet; copies of a multicast share `copies`, so that a loop cannot flood the subnet."""

    content: Datagram | ManagementDatagram | ReliableMessage
    destination_lid: int
    words: int
    count: int = 1
    management: bool = False  # sent on VL15, which needs no Active link
    directed: bytearray | None = None  # the MAD of a directed route while it is on that part of its way
    hops: int = 0
    copies: list[int] | None = None
    frames: list[bytes] | None = None  # its bytes, once a capture needed them: they are the same on every cable

    @property
    def multicast(self) -> bool:
        return FIRST_MLID <= self.destination_lid < 0xFFFF

    def copy(self) -> Packet:
        """One copy of a multicast; fields by place, since a group of a thousand takes a thousand."""
        return Packet(
            self.content,
            self.destination_lid,
            self.words,
            self.count,
            self.management,
            self.directed,
            self.hops,
            self.copies,
            self.frames,
        )


def datagram_packet(datagram: Datagram) -> Packet:
    """Wrap a datagram, counted as the packets that it would be on the wire."""
    payload, offload = datagram.payload, datagram.offload
    overhead = LOCAL_OVERHEAD if datagram.destination_gid is None else GLOBAL_OVERHEAD
    if not offload:
        return Packet(datagram, datagram.destination_lid, (len(payload) + overhead + 3) // 4)
    count = segment_count(offload, payload, ENCAPSULATION_BYTES)
    repeated = segment_bytes(datagram) - OffloadHeader.parse(offload).gso_size if count > 1 else 0
    octets = len(payload) + count * overhead + (count - 1) * repeated
    return Packet(datagram, datagram.destination_lid, (octets + 3) // 4, count)


def message_packet(message: ReliableMessage) -> Packet:
    """Wrap a message of a reliable connection, counted as the packets that it would be on the wire."""
    kind = message.kind
    octets = padded(len(message.payload)) + message.packets * RELIABLE_OVERHEAD + len(message.immediate)
    if kind is Kind.READ or (kind is Kind.WRITE and message.first):
        octets += RDMA_HEADER_BYTES
    elif kind in (Kind.COMPARE_SWAP, Kind.FETCH_ADD):
        octets += ATOMIC_HEADER_BYTES
    elif kind is Kind.RESPONSE:
        octets += ACK_HEADER_BYTES * (message.first + (message.last and not (message.first and message.packets == 1)))
    elif kind not in (Kind.SEND, Kind.WRITE):
        octets += ACK_HEADER_BYTES
    elif message.offload:
        count = segment_count(message.offload, message.payload, ENCAPSULATION_BYTES)
        if count > 1:
            gso_size = OffloadHeader.parse(message.offload).gso_size
            octets += (count - 1) * (_largest_payload(message.payload, message.offload) - gso_size)
    return Packet(message, message.destination_lid, (octets + 3) // 4, message.packets)


def padded(octets: int) -> int:
    """Payload as it is on the wire, in whole words."""
    return (octets + 3) & ~3


def packets_of(payload: bytes, length: int, offload: bytes, mtu_bytes: int) -> int:
    """How many packets a message of `length` bytes is; of a GSO packet, each segment is a message."""
    if not any(offload):
        return max(1, -(-length // mtu_bytes))
    count = segment_count(offload, payload, ENCAPSULATION_BYTES)
    return count * -(-_largest_payload(payload, offload) // mtu_bytes)


def mad_packet(mad: ManagementDatagram, *, management: bool) -> Packet:
    return Packet(mad, mad.destination_lid, MAD_WORDS, management=management)


def segments(packet: Packet) -> list[Packet]:
    """What a wire would carry: a GSO packet as its segments, with checksums that were left to the hardware.

    Anything else, and a GSO packet that cannot be parsed, unchanged.
    """
    datagram = packet.content
    if not isinstance(datagram, Datagram) or not any(datagram.offload):
        return [packet]
    try:
        pieces = _taken_apart(datagram.payload, datagram.offload)
    except Malformed:
        return [packet]
    singles = [datagram_packet(replace(datagram, payload=piece, offload=b"")) for piece in pieces]
    for single in singles:
        single.hops, single.copies = packet.hops, packet.copies
    return singles


def gso_segments(payload: bytes, offload: bytes) -> list[bytes]:
    """The IPoIB payloads of a GSO packet; anything else, or what cannot be parsed as one, stays whole."""
    if not any(offload):
        return [payload]
    try:
        return _taken_apart(payload, offload)
    except Malformed:
        return [payload]


def _taken_apart(payload: bytes, offload: bytes) -> list[bytes]:
    head, train = payload[:ENCAPSULATION_BYTES], payload[ENCAPSULATION_BYTES:]
    return [head + piece for piece in split(offload, train)]


def segment_bytes(datagram: Datagram) -> int:
    """The payload of the largest packet that this datagram becomes."""
    return _largest_payload(datagram.payload, datagram.offload)


def _largest_payload(payload: bytes, offload: bytes) -> int:
    return ENCAPSULATION_BYTES + largest_segment(offload, payload, ENCAPSULATION_BYTES)
