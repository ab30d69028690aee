"""The 4-byte encapsulation header in front of every IPoIB payload, and what connected mode adds to connections.

Read first: RFC 4391 section 6, RFC 4755 section 3. The pseudo header with which Linux hands destination addresses
inside the kernel is not on any wire and not here.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar, Self

from ibbond.errors import Malformed

ENCAPSULATION_BYTES = 4
CONNECTED_MTU = 65520  # of Linux: 65536 less headroom for headers; what connected mode carries on any subnet
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


@dataclass(frozen=True, slots=True)
class ConnectedModeData:
    """The private data of connected mode's REQ and REP: the sender's UD queue pair, and what it takes at most.

    Linux announces 65524 bytes, its maximum MTU of 65520 plus the encapsulation header.
    """

    LAYOUT: ClassVar = struct.Struct("!II")  # reserved:8 qpn:24 | receive MTU
    qpn: int
    receive_bytes: int = 65524

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """The field of the message is longer; bytes after the first eight are ignored."""
        if len(raw) < cls.LAYOUT.size:
            raise Malformed(f"connected mode's private data needs {cls.LAYOUT.size} bytes, got {len(raw)}")
        word, receive_bytes = cls.LAYOUT.unpack_from(raw)
        return cls(word & 0xFFFFFF, receive_bytes)

    def pack(self) -> bytes:
        return self.LAYOUT.pack(self.qpn, self.receive_bytes)
