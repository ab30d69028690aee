"""GSO packets segmented: every packet is right by itself, and together they say what the GSO packet said."""

import struct

import pytest

from ibbond.errors import Malformed
from ibbond.wire.checksum import pseudo_sum, upper_checksum
from ibbond.wire.ip import TCP, UDP, Ipv4, Ipv6, parse_packet, upper_layer
from ibbond.wire.offload import (
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_UDP_L4,
    NEEDS_CHECKSUM,
    OffloadHeader,
    largest_segment,
    segment_count,
    split,
)
from ibbond.wire.udp import UdpDatagram

A4, B4 = b"\x0a\0\0\1", b"\x0a\0\0\2"
A6, B6 = b"\xfe\x80" + bytes(13) + b"\1", b"\xfe\x80" + bytes(13) + b"\2"
DATA = bytes(number % 251 for number in range(5000))


def tcp_train(source: bytes, destination: bytes) -> tuple[bytes, bytes]:
    """PSH|ACK|CWR, sequence near the wrap, 12 bytes of options; the checksum field as the kernel leaves it."""
    size = 32 + len(DATA)
    partial = pseudo_sum(source, destination, TCP, size)
    header = struct.pack("!HHIIBBHHH", 5000, 80, 0xFFFFFF00, 1, 0x80, 0x98, 500, partial, 0) + bytes(12)
    wide = len(source) == 16
    packet = (Ipv6 if wide else Ipv4)(source, destination, TCP, header + DATA).pack()
    upper = 40 if wide else 20
    kind = GSO_TCPV6 if wide else GSO_TCPV4
    return OffloadHeader(NEEDS_CHECKSUM, kind, upper + 32, 1000, upper, 16).pack(), packet


@pytest.mark.parametrize(("source", "destination"), [(A4, B4), (A6, B6)])
def test_a_tcp_gso_packet(source: bytes, destination: bytes) -> None:
    offload, packet = tcp_train(source, destination)
    pieces = split(offload, packet)
    assert len(pieces) == 5 == segment_count(offload, packet)
    assert max(map(len, pieces)) == largest_segment(offload, packet) == largest_segment(offload, b"1234" + packet, 4)
    together = b""
    for number, piece in enumerate(pieces):
        parsed = parse_packet(piece)
        protocol, segment = upper_layer(parsed)
        assert upper_checksum(source, destination, protocol, segment) == 0
        assert int.from_bytes(segment[4:8]) == (0xFFFFFF00 + number * 1000) & 0xFFFFFFFF
        assert bool(segment[13] & 0x08) == (number == 4), "PSH on the last"
        assert bool(segment[13] & 0x80) == (number == 0), "CWR on the first"
        together += segment[32:]
        if isinstance(parsed, Ipv4):
            assert parsed.identification == number
    assert together == DATA


@pytest.mark.parametrize(("source", "destination"), [(A4, B4), (A6, B6)])
def test_a_udp_gso_packet(source: bytes, destination: bytes) -> None:
    packet = UdpDatagram(source, destination, 7, 9, DATA).pack()
    upper = 40 if len(source) == 16 else 20
    offload = OffloadHeader(NEEDS_CHECKSUM, GSO_UDP_L4, upper + 8, 1200, upper, 6).pack()
    pieces = split(offload, packet)
    assert len(pieces) == 5 == segment_count(offload, packet)
    assert max(map(len, pieces)) == largest_segment(offload, packet) == largest_segment(offload, b"1234" + packet, 4)
    assert b"".join(UdpDatagram.parse(piece).data for piece in pieces) == DATA


def test_a_lone_packet_gets_its_checksum() -> None:
    right = UdpDatagram(A4, B4, 7, 9, b"data").pack()
    left = right[:26] + pseudo_sum(A4, B4, 17, 12).to_bytes(2) + right[28:]
    assert split(OffloadHeader(NEEDS_CHECKSUM, 0, 0, 0, 20, 6).pack(), left) == (right,)
    assert split(OffloadHeader().pack(), right) == (right,)
    assert split(b"", right) == (right,)
    assert segment_count(b"", right) == 1


def test_the_length_hint_of_the_header_is_not_trusted() -> None:
    offload, packet = tcp_train(A4, B4)
    lying = offload[:2] + (3000).to_bytes(2, "little") + offload[4:]
    assert segment_count(lying, packet) == 5
    assert split(lying, packet) == split(offload, packet)
    assert segment_count(lying, bytes(4) + packet, ip_at=4) == 5


def test_header_and_packet_that_disagree() -> None:
    offload, packet = tcp_train(A4, B4)
    with pytest.raises(Malformed):
        split(offload, packet[:30])
    with pytest.raises(Malformed):
        split(OffloadHeader(NEEDS_CHECKSUM, GSO_TCPV4, 0, 1000, 24, 16).pack(), packet)


@pytest.mark.parametrize(("protocol", "offset", "written"), [(TCP, 16, 0), (UDP, 6, 0xFFFF)])
@pytest.mark.parametrize("alone", [True, False])
def test_a_checksum_of_zero_is_written_as_such_but_for_udp(
    protocol: int, offset: int, written: int, alone: bool
) -> None:
    """Zero in UDP means that the sender made no checksum (RFC 768); in TCP it is a checksum like others."""
    size = 20 if protocol == TCP else 8
    for number in range(1 << 16):
        head = bytearray(size)
        if protocol == TCP:
            head[12], head[14:16] = size // 4 << 4, number.to_bytes(2)
        else:
            head[:2], head[4:6] = number.to_bytes(2), (size + 2).to_bytes(2)
        if upper_checksum(A4, B4, protocol, bytes(head) + b"ab") == 0:
            break
    head[offset : offset + 2] = pseudo_sum(A4, B4, protocol, size + 2).to_bytes(2)
    packet = Ipv4(A4, B4, protocol, bytes(head) + b"ab").pack()
    kind = 0 if alone else GSO_TCPV4 if protocol == TCP else GSO_UDP_L4
    (out,) = split(OffloadHeader(NEEDS_CHECKSUM, kind, 20 + size, 0 if alone else 1000, 20, offset).pack(), packet)
    assert int.from_bytes(out[20 + offset : 22 + offset]) == written
