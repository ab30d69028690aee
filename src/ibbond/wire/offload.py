"""The virtio-net header with which a TUN device hands over GSO packets, and how to segment them.

Read first: `include/uapi/linux/virtio_net.h` and section 5.1.6 of the virtio specification. A GSO packet (TSO, USO)
travels whole through the subnet; it counts as its packets, and captures and lossy cables split it. Left out: ECN
rewriting beyond TCP's CWR bit, UDP tunnels.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar, Self

from ibbond.errors import Malformed
from ibbond.wire.checksum import ones_sum, pseudo_sum
from ibbond.wire.ip import TCP, UDP

NEEDS_CHECKSUM = 1
DATA_VALID = 2
GSO_NONE, GSO_TCPV4, GSO_UDP, GSO_TCPV6, GSO_UDP_L4 = 0, 1, 3, 4, 5
GSO_ECN = 0x80
_HEADER_BYTES = 10
UDP_CHECKSUM_AT = 6
NEGATIVE_ZERO = 0xFFFF  # of UDP, where zero means that there is no checksum (RFC 768)
_GSO_SIZE = struct.Struct("<HH")  # with the checksum start behind it
TCP_FIN, TCP_PSH, TCP_CWR = 0x01, 0x08, 0x80


@dataclass(frozen=True, slots=True)
class OffloadHeader:
    """`struct virtio_net_hdr`, 10 bytes in the machine's order as TUN gives them (little-endian here)."""

    LAYOUT: ClassVar = struct.Struct("<BBHHHH")
    flags: int = 0
    gso_type: int = GSO_NONE
    header_bytes: int = 0
    gso_size: int = 0
    checksum_start: int = 0
    checksum_offset: int = 0

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        if len(raw) != cls.LAYOUT.size:
            raise Malformed(f"virtio-net header needs {cls.LAYOUT.size} bytes, got {len(raw)}")
        return cls(*cls.LAYOUT.unpack(raw))

    def pack(self) -> bytes:
        return self.LAYOUT.pack(
            self.flags, self.gso_type, self.header_bytes, self.gso_size, self.checksum_start, self.checksum_offset
        )


def largest_segment(offload: bytes | bytearray, packet: bytes | memoryview, ip_at: int = 0) -> int:
    """Bytes of the largest segment of a GSO packet: what must fit the MTU. Never raises."""
    whole = len(packet) - ip_at
    if len(offload) != _HEADER_BYTES or not offload[1]:
        return whole
    gso_size: int
    checksum_start: int
    gso_size, checksum_start = _GSO_SIZE.unpack_from(offload, 4)
    upper = ip_at + checksum_start
    if not gso_size or len(packet) < upper + 20:
        return whole
    upper_bytes = 8 if offload[1] & ~GSO_ECN == GSO_UDP_L4 else (packet[upper + 12] >> 4) * 4
    return min(whole, checksum_start + upper_bytes + gso_size)


def segment_count(offload: bytes | bytearray, packet: bytes | memoryview, ip_at: int = 0) -> int:
    """How many packets a GSO packet stands for: 1 without an offload header or without segmentation.

    `ip_at` is where the IP header starts. `header_bytes` is only a hint (Linux writes the length of its linear
    buffer there), so the upper header is looked at. Never raises: it is for counters.
    """
    if len(offload) != _HEADER_BYTES or not offload[1]:
        return 1
    gso_size: int
    checksum_start: int
    gso_size, checksum_start = _GSO_SIZE.unpack_from(offload, 4)
    upper = ip_at + checksum_start
    if not gso_size or len(packet) < upper + 20:
        return 1
    upper_bytes = 8 if offload[1] & ~GSO_ECN == GSO_UDP_L4 else (packet[upper + 12] >> 4) * 4
    return max(1, -(-(len(packet) - upper - upper_bytes) // gso_size))


def split(offload: bytes, packet: bytes) -> tuple[bytes, ...]:
    """The segments of a GSO packet, with lengths, sequence numbers and checksums as a wire would see them.

    `offload` may be empty: then the packet is alone and finished. Raises `Malformed` when header and packet disagree.
    """
    if not offload:
        return (packet,)
    header = OffloadHeader.parse(offload)
    kind = header.gso_type & ~GSO_ECN
    if kind == GSO_NONE:
        return (_checksummed(header, packet),)
    if kind not in (GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4) or not header.gso_size:
        raise Malformed(f"segmentation of type {header.gso_type}, size {header.gso_size}")
    upper = header.checksum_start
    protocol = UDP if kind == GSO_UDP_L4 else TCP
    _check_layout(packet, upper, protocol)
    upper_bytes = 8 if protocol == UDP else (packet[upper + 12] >> 4) * 4
    if protocol == TCP and upper_bytes < 20:
        raise Malformed("TCP header is cut short")
    data_at = upper + upper_bytes
    if data_at > len(packet):
        raise Malformed("the headers of a GSO packet are longer than the packet")
    head, data = packet[:data_at], packet[data_at:]
    pieces = [data[at : at + header.gso_size] for at in range(0, len(data), header.gso_size)] or [b""]
    return tuple(
        _segment(head, piece, upper, protocol, number, last=number == len(pieces) - 1, size=header.gso_size)
        for number, piece in enumerate(pieces)
    )


def _check_layout(packet: bytes, upper: int, protocol: int) -> None:
    least = 8 if protocol == UDP else 20
    if len(packet) < 20 or len(packet) < upper + least:
        raise Malformed("a GSO packet is shorter than its headers")
    if packet[0] >> 4 == 4 and upper != (packet[0] & 0xF) * 4:
        raise Malformed("checksum start of a GSO packet is not behind its IPv4 header")
    if packet[0] >> 4 == 6 and upper < 40:
        raise Malformed("checksum start of a GSO packet is inside its IPv6 header")
    if packet[0] >> 4 not in (4, 6):
        raise Malformed(f"a GSO packet of IP version {packet[0] >> 4}")


def _checksummed(header: OffloadHeader, packet: bytes) -> bytes:
    """Finish the checksum that a sender left to the hardware: its field holds the sum of the pseudo header."""
    if not header.flags & NEEDS_CHECKSUM:
        return packet
    start, at = header.checksum_start, header.checksum_start + header.checksum_offset
    if at + 2 > len(packet):
        raise Malformed("the checksum of a packet lies behind its end")
    checksum = ~ones_sum(packet[start:]) & 0xFFFF
    if not checksum and header.checksum_offset == UDP_CHECKSUM_AT:
        checksum = NEGATIVE_ZERO
    return packet[:at] + checksum.to_bytes(2) + packet[at + 2 :]


def _segment(head: bytes, piece: bytes, upper: int, protocol: int, number: int, *, last: bool, size: int) -> bytes:
    out = bytearray(head + piece)
    if out[0] >> 4 == 4:
        out[2:4] = len(out).to_bytes(2)
        out[4:6] = (int.from_bytes(out[4:6]) + number & 0xFFFF).to_bytes(2)
        out[10:12] = bytes(2)
        out[10:12] = (~ones_sum(bytes(out[:upper])) & 0xFFFF).to_bytes(2)
        source, destination = bytes(out[12:16]), bytes(out[16:20])
    else:
        out[4:6] = (len(out) - 40).to_bytes(2)
        source, destination = bytes(out[8:24]), bytes(out[24:40])
    if protocol == TCP:
        sequence = int.from_bytes(out[upper + 4 : upper + 8]) + number * size
        out[upper + 4 : upper + 8] = (sequence & 0xFFFFFFFF).to_bytes(4)
        if not last:
            out[upper + 13] &= ~(TCP_FIN | TCP_PSH)
        if number:
            out[upper + 13] &= ~TCP_CWR
        at = upper + 16
    else:
        out[upper + 4 : upper + 6] = (len(out) - upper).to_bytes(2)
        at = upper + UDP_CHECKSUM_AT
    out[at : at + 2] = bytes(2)
    segment = bytes(out[upper:])
    checksum = ~ones_sum(segment, pseudo_sum(source, destination, protocol, len(segment))) & 0xFFFF
    if not checksum and protocol == UDP:
        checksum = NEGATIVE_ZERO
    out[at : at + 2] = checksum.to_bytes(2)
    return bytes(out)
