"""From an IP group to the link-layer address that receives it: MGIDs, 20-byte group addresses, Ethernet's own.

Read first: RFC 4391 sections 4 and 5, RFC 1112 and RFC 2464 for Ethernet, and of Linux `ip_ib_mc_map`,
`ipv6_ib_mc_map`. As in Linux, scope and P_Key of a mapped group come from the device's broadcast address: a device
with another broadcast address maps the same IP group elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from ibbond.errors import Malformed
from ibbond.wire.gid import GID_BYTES
from ibbond.wire.hardware_type import ETHERNET, INFINIBAND
from ibbond.wire.hwaddr import ADDRESS_BYTES
from ibbond.wire.pkey import FULL_MEMBER

IPV4_SIGNATURE = 0x401B
IPV6_SIGNATURE = 0x601B
GROUP_PREFIX = b"\x00\xff\xff\xff"  # reserved octet and the multicast QPN
LINK_LOCAL_SCOPE = 2
ETHERNET_BROADCAST = b"\xff" * 6


@dataclass(frozen=True, slots=True)
class MulticastGid:
    """An IPoIB MGID: `ff` flags scope, signature (401b IPv4, 601b IPv6), P_Key, 80 bits of the group."""

    scope: int
    signature: int
    pkey: int
    group: int
    flags: int = 1  # transient

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        if len(raw) != GID_BYTES:
            raise Malformed(f"an MGID has {GID_BYTES} bytes, got {len(raw)}")
        if raw[0] != 0xFF:
            raise Malformed(f"an MGID starts with ff, this one with {raw[0]:02x}")
        return cls(
            scope=raw[1] & 0xF,
            signature=int.from_bytes(raw[2:4]),
            pkey=int.from_bytes(raw[4:6]),
            group=int.from_bytes(raw[6:]),
            flags=raw[1] >> 4,
        )

    def pack(self) -> bytes:
        head = (0xFF, self.flags << 4 | self.scope)
        return bytes(head) + self.signature.to_bytes(2) + self.pkey.to_bytes(2) + self.group.to_bytes(10)


def broadcast_mgid(pkey: int, scope: int = LINK_LOCAL_SCOPE) -> bytes:
    """The broadcast GID of a partition; the P_Key is always written in its full-member form (RFC 4391, 4.1)."""
    return MulticastGid(scope, IPV4_SIGNATURE, pkey | FULL_MEMBER, 0xFFFFFFFF).pack()


def broadcast_address(pkey: int, scope: int = LINK_LOCAL_SCOPE) -> bytes:
    """The 20-byte broadcast address of an IPoIB interface."""
    return GROUP_PREFIX + broadcast_mgid(pkey, scope)


def group_address(group: bytes, broadcast: bytes) -> bytes:
    """The 20-byte address of an IPv4 (4 bytes) or IPv6 (16 bytes) group on a device with this broadcast address."""
    if len(broadcast) != ADDRESS_BYTES:
        raise Malformed(f"IPoIB broadcast address needs {ADDRESS_BYTES} bytes, got {len(broadcast)}")
    flags_scope, pkey = 0x10 | broadcast[5] & 0xF, broadcast[8:10]
    match len(group):
        case 4:
            low = bytes(6) + bytes((group[0] & 0x0F,)) + group[1:]
            signature = IPV4_SIGNATURE
        case 16:
            low = group[6:]
            signature = IPV6_SIGNATURE
        case length:
            raise Malformed(f"an IP group has 4 or 16 bytes, got {length}")
    return GROUP_PREFIX + bytes((0xFF, flags_scope)) + signature.to_bytes(2) + pkey + low


def ethernet_group_address(group: bytes) -> bytes:
    """The 6-byte Ethernet address of an IP group: right on Ethernet, and the defect of 2007 on an IPoIB bond."""
    match len(group):
        case 4:
            return b"\x01\x00\x5e" + bytes((group[1] & 0x7F,)) + group[2:]
        case 16:
            return b"\x33\x33" + group[12:]
        case length:
            raise Malformed(f"an IP group has 4 or 16 bytes, got {length}")


def map_group(group: bytes, device_type: int, broadcast: bytes) -> bytes:
    """The link-layer address of an IP group as a device of this ARPHRD type maps it; other types use broadcast."""
    if device_type == INFINIBAND:
        return group_address(group, broadcast)
    if device_type == ETHERNET:
        return ethernet_group_address(group)
    return broadcast


def joinable(group: bytes, broadcast: bytes) -> bool:
    """Whether IPoIB joins this entry of a device's multicast list (`ipoib_mcast_addr_is_valid`).

    Octets 0-5 (flags, QPN, ff, scope) must equal the broadcast address's, so must octets 7-9 (low octet of the
    signature and P_Key); a 6-byte address never fits.
    """
    return len(group) == len(broadcast) and group[:6] == broadcast[:6] and group[7:10] == broadcast[7:10]
