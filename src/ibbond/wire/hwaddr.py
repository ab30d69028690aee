"""The 20-byte link-layer address of an IPoIB interface, and what can be derived from it.

Read first: RFC 4391 sections 8 and 9.1 (address, interface identifier), RFC 4755 section 3.1 (connected-mode flags),
RFC 4390 (DHCP), and of Linux `addrconf_ifid_infiniband`. Group addresses are made in `group_address`.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from typing import ClassVar, Self

from ibbond.errors import Malformed
from ibbond.wire.gid import gid_text, guid_text
from ibbond.wire.hardware_type import INFINIBAND

ADDRESS_BYTES = 20  # INFINIBAND_ALEN
LINK_LOCAL_PREFIX = bytes.fromhex("fe80 0000 0000 0000")  # of IPv6
RC_SUPPORTED = 0x80
UC_SUPPORTED = 0x40


@dataclass(frozen=True, slots=True)
class HardwareAddress:
    """IPoIB link-layer address: one octet of flags, the UD queue pair's number, the port's GID (16 bytes)."""

    LAYOUT: ClassVar = struct.Struct("!I16s")  # flags:8 qpn:24 | gid
    qpn: int
    gid: bytes
    flags: int = 0  # RFC 4755 puts the connected-mode bits here

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        if len(raw) != ADDRESS_BYTES:
            raise Malformed(f"IPoIB address needs {ADDRESS_BYTES} bytes, got {len(raw)}")
        word, gid = cls.LAYOUT.unpack(raw)
        return cls(qpn=word & 0xFFFFFF, gid=gid, flags=word >> 24)

    def pack(self) -> bytes:
        return self.LAYOUT.pack(self.flags << 24 | self.qpn, self.gid)

    @classmethod
    def parse_text(cls, text: str) -> Self:
        """From 20 hexadecimal bytes with colons, as `ip link` shows them."""
        return cls.parse(parse_address_text(text))

    def __str__(self) -> str:
        return address_text(self.pack())

    @property
    def guid(self) -> int:
        return int.from_bytes(self.gid[8:])

    @property
    def is_group(self) -> bool:
        return self.gid[0] == 0xFF

    @property
    def connected_mode(self) -> bool:
        """The sender takes reliable connections (RFC 4755)."""
        return bool(self.flags & RC_SUPPORTED)

    def same_peer(self, other: HardwareAddress) -> bool:
        """The flags do not distinguish peers (RFC 4755 section 3.5)."""
        return self.qpn == other.qpn and self.gid == other.gid

    @property
    def link_local(self) -> bytes:
        """The IPv6 link-local address that Linux forms (16 bytes)."""
        return LINK_LOCAL_PREFIX + interface_identifier(self.guid)

    def explain(self) -> tuple[tuple[str, str], ...]:
        """What the bytes say, as (name, text) rows for people."""
        if self.is_group:
            return (("kind", "multicast"), ("mgid", gid_text(self.gid)))
        return (
            ("kind", "unicast"),
            ("flags", f"0x{self.flags:02x}" + (" (connected mode)" if self.connected_mode else "")),
            ("qpn", f"0x{self.qpn:06x}"),
            ("gid", gid_text(self.gid)),
            *explain_guid(self.guid),
        )


def explain_guid(guid: int) -> tuple[tuple[str, str], ...]:
    """What follows from the GUID of a port."""
    return (
        ("guid", guid_text(guid)),
        ("link-local", gid_text(LINK_LOCAL_PREFIX + interface_identifier(guid))),
        ("dhcp client-id", client_identifier(guid).hex(":")),
        ("dhcp client-id (older clients)", old_client_identifier(guid).hex(":")),
        ("dhcp client-id (dhclient, udhcpc)", bytes((INFINIBAND, *guid.to_bytes(8))).hex(":")),
    )


CUT = "Kernels before 4.12, ifconfig and biosdevname cut it"
UNKNOWN = ("unknown", "flags and queue pair number: see ip link")


def explain_text(text: str) -> tuple[tuple[str, str], ...]:
    """The parts of an address in any form that tools print: 20 bytes, a GUID, a GID. Malformed for others."""
    text = text.strip()
    digits = text.lower().removeprefix("0x").replace(":", "").replace("-", "")
    if not text or set(digits) - set("0123456789abcdef") or "." in text:
        raise Malformed("it is not a link-layer address, GUID or GID")
    pairs = len(text) == 3 * (len(digits) // 2) - 1 and len(digits) % 2 == 0
    if pairs and len(digits) == 2 * ADDRESS_BYTES:
        return HardwareAddress.parse(bytes.fromhex(digits)).explain()
    if len(digits) == 16 and not text.startswith("::") and "::" not in text:
        return (("kind", "GUID of a port"), *explain_guid(int(digits, 16)), UNKNOWN)
    if not pairs and ":" in text:
        try:
            gid = ipaddress.IPv6Address(text).packed
        except ValueError:
            raise Malformed("it is not a link-layer address, GUID or GID") from None
        if gid[0] == 0xFF:
            return (("kind", "multicast"), ("mgid", gid_text(gid)))
        return (("kind", "GID of a port"), ("gid", gid_text(gid)), *explain_guid(int.from_bytes(gid[8:])), UNKNOWN)
    if pairs and len(digits) // 2 in (6, 16):
        raise Malformed(f"{len(digits) // 2} of its {ADDRESS_BYTES} bytes are present. {CUT}")
    raise Malformed(f"a link-layer address has {ADDRESS_BYTES} bytes, a GUID 8 and a GID 16, not {len(digits) / 2:g}")


def address_text(address: bytes) -> str:
    """Any link-layer address as colon-separated bytes."""
    return address.hex(":")


def parse_address_text(text: str) -> bytes:
    """Colon-separated bytes of any link-layer address; every byte is two digits."""
    parts = text.strip().split(":")
    if not all(len(part) == 2 for part in parts):
        raise Malformed(f"not a link-layer address: {text!r}")
    try:
        return bytes(int(part, 16) for part in parts)
    except ValueError:
        raise Malformed(f"not a link-layer address: {text!r}") from None


def interface_identifier(guid: int) -> bytes:
    """The last 8 bytes of an IPv6 address. Linux sets the universal bit where the standard toggles it."""
    return (guid | 0x02 << 56).to_bytes(8)


def client_identifier(guid: int, iaid: int = 1) -> bytes:
    """The DHCP client identifier of RFC 4390/4361: 0xff, IAID, DUID-LL of the GUID."""
    return struct.pack("!BIHHQ", 0xFF, iaid, 3, INFINIBAND, guid)


def old_client_identifier(guid: int) -> bytes:
    """The identifier of older InfiniBand DHCP clients: 0xff, no IAID, DUID-EN with Mellanox's number 0x2c9."""
    return struct.pack("!BIHIBQ", 0xFF, 0, 2, 0x2C9, 0, guid)
