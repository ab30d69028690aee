"""The IP addresses that RDMA CM puts in front of a REQ's private data.

Read first: annex A11 of the InfiniBand Architecture (RDMA IP CM service), and of Linux `struct cma_hdr`.
"""

import struct
from dataclasses import dataclass
from typing import ClassVar, Self

from ibbond.errors import Malformed

VERSION = 0
ROOM = 92 - 36  # what a REQ has left for the program


@dataclass(frozen=True, slots=True)
class RdmaIpHeader:
    """36 bytes. Addresses are 4 or 16 bytes, both of one kind; `port` is the asking program's."""

    LAYOUT: ClassVar = struct.Struct("!BBH16s16s")  # version | ip version:4 0:4 | port | source | destination
    source: bytes
    destination: bytes
    port: int = 0

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        if len(raw) < cls.LAYOUT.size:
            raise Malformed(f"RDMA IP header needs {cls.LAYOUT.size} bytes, got {len(raw)}")
        version, ip_version, port, source, destination = cls.LAYOUT.unpack_from(raw)
        if version != VERSION or ip_version >> 4 not in (4, 6):
            raise Malformed(f"RDMA IP header of version {version}, IP version {ip_version >> 4}")
        used = slice(12, 16) if ip_version >> 4 == 4 else slice(0, 16)
        return cls(source[used], destination[used], port)

    def pack(self) -> bytes:
        assert len(self.source) == len(self.destination), "both addresses are of one family"
        kind = 4 if len(self.source) == 4 else 6
        return self.LAYOUT.pack(
            VERSION, kind << 4, self.port, self.source.rjust(16, b"\0"), self.destination.rjust(16, b"\0")
        )
