"""ICMP and ICMPv6: echo, and the two errors that say a packet was too big or had nowhere to go.

Read first: RFC 792, RFC 1191 section 4 (next-hop MTU), RFC 4443. Neighbor discovery is in `nd`, group membership in
`group_reports`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar, Self

from ibbond.errors import Malformed
from ibbond.wire.checksum import internet_checksum, upper_checksum
from ibbond.wire.ip import ICMP, ICMPV6, Ipv4, Ipv6, parse_packet, upper_layer

ECHO_TYPES = {4: (8, 0), 16: (128, 129)}  # by address length: request, reply
UNREACHABLE, FRAGMENTATION_NEEDED, HOST_UNREACHABLE = 3, 4, 1
UNREACHABLE_V6, TOO_BIG_V6, ADDRESS_UNREACHABLE = 1, 2, 3
QUOTED_BYTES_V4 = 576 - 28  # an error stays within 576 bytes (RFC 1812)
QUOTED_BYTES_V6 = 1280 - 48  # or within the minimum IPv6 MTU


@dataclass(frozen=True, slots=True)
class Echo:
    """A ping or its answer, as a whole IP packet."""

    LAYOUT: ClassVar = struct.Struct("!HH")
    source: bytes
    destination: bytes
    identifier: int
    sequence: int
    data: bytes = b""
    reply: bool = False

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        packet = parse_packet(raw)
        kind, _, body = _parse_message(packet)
        types = ECHO_TYPES[len(packet.source)]
        if kind not in types:
            raise Malformed(f"not an echo: ICMP type {kind}")
        if len(body) < cls.LAYOUT.size:
            raise Malformed("echo without identifier and sequence")
        identifier, sequence = cls.LAYOUT.unpack_from(body)
        return cls(packet.source, packet.destination, identifier, sequence, body[4:], reply=kind == types[1])

    def pack(self) -> bytes:
        kind = ECHO_TYPES[len(self.source)][self.reply]
        body = self.LAYOUT.pack(self.identifier, self.sequence) + self.data
        return _pack_message(self.source, self.destination, kind, 0, body)

    def answer(self) -> Self:
        """The reply that the destination sends."""
        return type(self)(self.destination, self.source, self.identifier, self.sequence, self.data, reply=True)


def too_big(packet: bytes, mtu: int, source: bytes) -> bytes:
    """The ICMP packet that `source` sends to the sender of a packet that does not fit `mtu`.

    The field has 16 bits (RFC 1191) or 32 (RFC 4443); a larger MTU is given as the largest that it can say.
    """
    if len(source) == 4:
        return _error(packet, source, UNREACHABLE, FRAGMENTATION_NEEDED, min(mtu, 0xFFFF))
    return _error(packet, source, TOO_BIG_V6, 0, min(mtu, 0xFFFF_FFFF))


def host_unreachable(packet: bytes, source: bytes) -> bytes:
    """The ICMP error for a packet whose next hop answers neither ARP nor neighbor solicitations."""
    if len(source) == 4:
        return _error(packet, source, UNREACHABLE, HOST_UNREACHABLE, 0)
    return _error(packet, source, UNREACHABLE_V6, ADDRESS_UNREACHABLE, 0)


def _error(packet: bytes, source: bytes, kind: int, code: int, word: int) -> bytes:
    sender = packet[12:16] if len(source) == 4 else packet[8:24]
    quoted = packet[: QUOTED_BYTES_V4 if len(source) == 4 else QUOTED_BYTES_V6]
    return _pack_message(source, sender, kind, code, word.to_bytes(4) + quoted)


def _parse_message(packet: Ipv4 | Ipv6) -> tuple[int, int, bytes]:
    """Type, code and the bytes behind the checksum."""
    protocol, message = upper_layer(packet)
    if isinstance(packet, Ipv4):
        if protocol != ICMP or packet.is_fragment:
            raise Malformed(f"not an ICMP packet: protocol {protocol}")
        wrong = internet_checksum(message)
    else:
        if protocol != ICMPV6:
            raise Malformed(f"not an ICMPv6 packet: protocol {protocol}")
        wrong = upper_checksum(packet.source, packet.destination, ICMPV6, message)
    if len(message) < 4:
        raise Malformed("ICMP message is cut short")
    if wrong:
        raise Malformed("ICMP checksum is wrong")
    return message[0], message[1], message[4:]


def _pack_message(source: bytes, destination: bytes, kind: int, code: int, body: bytes) -> bytes:
    bare = bytes((kind, code, 0, 0)) + body
    if len(source) == 4:
        message = bare[:2] + internet_checksum(bare).to_bytes(2) + body
        return Ipv4(source, destination, ICMP, message, flags=0).pack()
    checksum = upper_checksum(source, destination, ICMPV6, bare)
    return Ipv6(source, destination, ICMPV6, bare[:2] + checksum.to_bytes(2) + body).pack()
