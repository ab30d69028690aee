"""IPv4 and IPv6 packets, as far as the stack, the simulator and the monitors read and write them.

Read first: RFC 791, RFC 8200; RFC 2113 and RFC 2711 for the router alert that group reports carry. Left out:
reassembly, routing headers (they are stepped over), jumbograms.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar, Self

from ibbond.errors import Malformed
from ibbond.wire.checksum import internet_checksum

ICMP = 1
IGMP = 2
TCP = 6
UDP = 17
HOP_BY_HOP = 0
ROUTING = 43
FRAGMENT = 44
ICMPV6 = 58
DESTINATION_OPTIONS = 60
ROUTER_ALERT = b"\x94\x04\x00\x00"  # IPv4 option
ROUTER_ALERT_HEADER = b"\x05\x02\x00\x00\x01\x00"  # body of the IPv6 hop-by-hop header of an MLD message
DONT_FRAGMENT = 2
MORE_FRAGMENTS = 1


@dataclass(frozen=True, slots=True)
class Ipv4:
    """An IPv4 packet; `fragment_offset` counts units of 8 bytes, `flags` are the three bits before it."""

    LAYOUT: ClassVar = struct.Struct("!BBHHHBBH4s4s")
    source: bytes
    destination: bytes
    protocol: int
    payload: bytes
    ttl: int = 64
    tos: int = 0
    identification: int = 0
    flags: int = DONT_FRAGMENT
    fragment_offset: int = 0
    options: bytes = b""

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Bytes after the total length are dropped: links pad short packets."""
        if len(raw) < cls.LAYOUT.size:
            raise Malformed(f"IPv4 header needs {cls.LAYOUT.size} bytes, got {len(raw)}")
        version, tos, length, identification, fragment, ttl, protocol, _, source, destination = cls.LAYOUT.unpack_from(
            raw
        )
        header_bytes = (version & 0xF) * 4
        if version >> 4 != 4 or header_bytes < cls.LAYOUT.size:
            raise Malformed(f"not an IPv4 header: first byte {version:02x}")
        if not header_bytes <= length <= len(raw):
            raise Malformed(f"IPv4 total length {length} does not fit {len(raw)} bytes")
        if internet_checksum(raw[:header_bytes]):
            raise Malformed("IPv4 header checksum is wrong")
        return cls(
            source,
            destination,
            protocol,
            payload=raw[header_bytes:length],
            ttl=ttl,
            tos=tos,
            identification=identification,
            flags=fragment >> 13,
            fragment_offset=fragment & 0x1FFF,
            options=raw[cls.LAYOUT.size : header_bytes],
        )

    def pack(self) -> bytes:
        header_bytes = self.LAYOUT.size + len(self.options)
        assert header_bytes % 4 == 0, "IPv4 options are padded to four bytes"
        head = self.LAYOUT.pack(
            0x40 | header_bytes // 4,
            self.tos,
            header_bytes + len(self.payload),
            self.identification,
            self.flags << 13 | self.fragment_offset,
            self.ttl,
            self.protocol,
            0,
            self.source,
            self.destination,
        )
        head += self.options
        return head[:10] + internet_checksum(head).to_bytes(2) + head[12:] + self.payload

    @property
    def is_fragment(self) -> bool:
        return self.fragment_offset > 0 or bool(self.flags & MORE_FRAGMENTS)


@dataclass(frozen=True, slots=True)
class Ipv6:
    """An IPv6 packet; extension headers are part of the payload."""

    LAYOUT: ClassVar = struct.Struct("!IHBB16s16s")
    source: bytes
    destination: bytes
    next_header: int
    payload: bytes
    hop_limit: int = 64
    traffic_class: int = 0
    flow_label: int = 0

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        if len(raw) < cls.LAYOUT.size:
            raise Malformed(f"IPv6 header needs {cls.LAYOUT.size} bytes, got {len(raw)}")
        word, length, next_header, hop_limit, source, destination = cls.LAYOUT.unpack_from(raw)
        if word >> 28 != 6:
            raise Malformed(f"not an IPv6 header: first byte {raw[0]:02x}")
        payload = raw[cls.LAYOUT.size : cls.LAYOUT.size + length]
        if len(payload) != length:
            raise Malformed(f"IPv6 payload length {length} does not fit {len(raw)} bytes")
        return cls(
            source,
            destination,
            next_header,
            payload,
            hop_limit=hop_limit,
            traffic_class=word >> 20 & 0xFF,
            flow_label=word & 0xFFFFF,
        )

    def pack(self) -> bytes:
        word = 6 << 28 | self.traffic_class << 20 | self.flow_label
        header = self.LAYOUT.pack(
            word, len(self.payload), self.next_header, self.hop_limit, self.source, self.destination
        )
        return header + self.payload

    def upper_layer(self) -> tuple[int, bytes]:
        """The protocol and bytes behind the extension headers; a later fragment gives (FRAGMENT, its bytes)."""
        protocol, rest = self.next_header, self.payload
        while protocol in (HOP_BY_HOP, ROUTING, DESTINATION_OPTIONS, FRAGMENT):
            if len(rest) < 8:
                raise Malformed("IPv6 extension header is cut short")
            if protocol == FRAGMENT:
                if int.from_bytes(rest[2:4]) >> 3:
                    return FRAGMENT, rest[8:]
                size = 8
            else:
                size = 8 + 8 * rest[1]
            if len(rest) < size:
                raise Malformed("IPv6 extension header is cut short")
            protocol, rest = rest[0], rest[size:]
        return protocol, rest


def parse_packet(raw: bytes) -> Ipv4 | Ipv6:
    """Whatever version the first four bits say."""
    if not raw:
        raise Malformed("an empty packet")
    match raw[0] >> 4:
        case 4:
            return Ipv4.parse(raw)
        case 6:
            return Ipv6.parse(raw)
        case version:
            raise Malformed(f"IP version {version}")


def upper_layer(packet: Ipv4 | Ipv6) -> tuple[int, bytes]:
    """The upper protocol of either version and its bytes."""
    return (packet.protocol, packet.payload) if isinstance(packet, Ipv4) else packet.upper_layer()
