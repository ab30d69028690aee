"""The 128-bit identifier of an InfiniBand port: subnet prefix and GUID; and how GIDs are written.

Read first: InfiniBand Architecture volume 1, section 4.1.1. Group identifiers (MGIDs) and their fields are in
`group_address`; elsewhere in the code a GID is its 16 bytes.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from typing import ClassVar, Self

from ibbond.errors import Malformed

GID_BYTES = 16
DEFAULT_GID_PREFIX = 0xFE80_0000_0000_0000


@dataclass(frozen=True, slots=True)
class Gid:
    """The GID of a port: the prefix that the subnet manager gives, the GUID that the maker gave."""

    LAYOUT: ClassVar = struct.Struct("!QQ")
    prefix: int
    guid: int

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        if len(raw) != GID_BYTES:
            raise Malformed(f"a GID has {GID_BYTES} bytes, got {len(raw)}")
        return cls(*cls.LAYOUT.unpack(raw))

    def pack(self) -> bytes:
        return self.LAYOUT.pack(self.prefix, self.guid)

    @classmethod
    def parse_text(cls, text: str) -> Self:
        """From the text of an IPv6 address, as InfiniBand tools write GIDs."""
        return cls.parse(parse_gid_text(text))

    def __str__(self) -> str:
        return gid_text(self.pack())


def is_multicast(gid: bytes) -> bool:
    return gid[0] == 0xFF


def gid_text(gid: bytes) -> str:
    """`fe80::2:c903:10:1`; also for MGIDs."""
    if len(gid) != GID_BYTES:
        raise Malformed(f"a GID has {GID_BYTES} bytes, got {len(gid)}")
    return str(ipaddress.IPv6Address(gid))


def parse_gid_text(text: str) -> bytes:
    try:
        return ipaddress.IPv6Address(text).packed
    except ipaddress.AddressValueError as bad:
        raise Malformed(f"not a GID: {text!r} ({bad})") from None


def guid_text(guid: int) -> str:
    """`0002:c903:0010:0001`, as ibstat and sysfs write GUIDs."""
    text = f"{guid:016x}"
    return ":".join(text[at : at + 4] for at in range(0, 16, 4))
