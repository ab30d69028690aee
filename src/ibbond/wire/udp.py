"""UDP in either IP version, as whole packets.

Read first: RFC 768, RFC 8200 section 8.1. Left out: UDP over fragments.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar, Self

from ibbond.errors import Malformed
from ibbond.wire.checksum import upper_checksum
from ibbond.wire.ip import UDP, Ipv4, Ipv6, parse_packet, upper_layer


@dataclass(frozen=True, slots=True)
class UdpDatagram:
    """A UDP datagram with the addresses of its IP packet (both of 4 or of 16 bytes)."""

    LAYOUT: ClassVar = struct.Struct("!HHHH")
    source: bytes
    destination: bytes
    source_port: int
    destination_port: int
    data: bytes
    ttl: int = 64

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """From a whole IP packet. An IPv4 sender may leave the checksum out (zero)."""
        packet = parse_packet(raw)
        protocol, segment = upper_layer(packet)
        if protocol != UDP or (isinstance(packet, Ipv4) and packet.is_fragment):
            raise Malformed(f"not a UDP packet: protocol {protocol}")
        if len(segment) < cls.LAYOUT.size:
            raise Malformed(f"UDP header needs {cls.LAYOUT.size} bytes, got {len(segment)}")
        source_port, destination_port, length, checksum = cls.LAYOUT.unpack_from(segment)
        if not cls.LAYOUT.size <= length <= len(segment):
            raise Malformed(f"UDP length {length} does not fit {len(segment)} bytes")
        segment = segment[:length]
        wrong = upper_checksum(packet.source, packet.destination, UDP, segment)
        if wrong and (checksum or isinstance(packet, Ipv6)):
            raise Malformed("UDP checksum is wrong")
        ttl = packet.ttl if isinstance(packet, Ipv4) else packet.hop_limit
        data = segment[cls.LAYOUT.size :]
        return cls(packet.source, packet.destination, source_port, destination_port, data, ttl=ttl)

    def pack(self) -> bytes:
        """The whole IP packet."""
        length = self.LAYOUT.size + len(self.data)
        bare = self.LAYOUT.pack(self.source_port, self.destination_port, length, 0) + self.data
        checksum = upper_checksum(self.source, self.destination, UDP, bare) or 0xFFFF
        segment = bare[:6] + checksum.to_bytes(2) + self.data
        if len(self.source) == 4:
            return Ipv4(self.source, self.destination, UDP, segment, ttl=self.ttl).pack()
        return Ipv6(self.source, self.destination, UDP, segment, hop_limit=self.ttl).pack()
