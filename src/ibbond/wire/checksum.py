"""The Internet checksum, alone and over the pseudo headers of IPv4 and IPv6.

Read first: RFC 1071, RFC 768 (IPv4 pseudo header), RFC 8200 section 8.1 (IPv6 pseudo header). Left out: the CRCs of
InfiniBand packets, which are in `ib`.
"""

import struct


def ones_sum(data: bytes, start: int = 0) -> int:
    """The 16-bit one's complement sum of `data` (padded with a zero byte), folded, not inverted."""
    if len(data) % 2:
        data += b"\0"
    total: int = start + sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def internet_checksum(data: bytes) -> int:
    """What belongs into the checksum field when that field is zero in `data`; 0 when `data` holds a right one."""
    return ~ones_sum(data) & 0xFFFF


def pseudo_sum(source: bytes, destination: bytes, protocol: int, length: int) -> int:
    """The sum of the pseudo header, not inverted; addresses of 4 or 16 bytes, `length` of the upper-layer bytes.

    Also what a checksum-offloading sender leaves in the checksum field (CHECKSUM_PARTIAL). The same formula serves
    both families, because the zero words that differ add nothing.
    """
    return ones_sum(source + destination + struct.pack("!IHH", length, 0, protocol))


def upper_checksum(source: bytes, destination: bytes, protocol: int, data: bytes) -> int:
    """The checksum of a UDP, TCP or ICMPv6 message; 0 when `data` holds a right one."""
    return ~ones_sum(data, pseudo_sum(source, destination, protocol, len(data))) & 0xFFFF
