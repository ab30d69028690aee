"""The 4-byte encapsulation header in front of every IPoIB payload.

Read first: RFC 4391 section 6. The pseudo header with which Linux hands destination addresses inside the kernel is
not on any wire and not here.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar, Self

from ibbond.errors import Malformed

ENCAPSULATION_BYTES = 4
ETHERTYPE_IPV4 = 0x0800
ETHERTYPE_ARP = 0x0806
ETHERTYPE_RARP = 0x8035
ETHERTYPE_IPV6 = 0x86DD
ETHERTYPE_TIPC = 0x88CA


@dataclass(frozen=True, slots=True)
class Encapsulated:
    """A datagram under its ethertype; the reserved half of the header is zero when sent, ignored when received."""

    LAYOUT: ClassVar = struct.Struct("!HH")
    ethertype: int
    payload: bytes

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        if len(raw) < ENCAPSULATION_BYTES:
            raise Malformed(f"IPoIB header needs {ENCAPSULATION_BYTES} bytes, got {len(raw)}")
        ethertype, _ = cls.LAYOUT.unpack_from(raw)
        return cls(ethertype, raw[ENCAPSULATION_BYTES:])

    def pack(self) -> bytes:
        return self.LAYOUT.pack(self.ethertype, 0) + self.payload
