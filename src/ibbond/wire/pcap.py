"""Capture files that tshark and tcpdump read.

ERF frames for captures on cables, IPoIB frames for captures on interfaces.

Read first: the pcap file format (pcap-savefile(5)), LINKTYPE_ERF (197, record type 21 is InfiniBand), LINKTYPE_IPOIB
(242). Bytes only: who opens files is the host. LINKTYPE_INFINIBAND (247) is refused by tshark, hence ERF.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar, Self

from ibbond.errors import Malformed
from ibbond.machine import SECOND
from ibbond.wire.gid import GID_BYTES
from ibbond.wire.hwaddr import ADDRESS_BYTES

LINKTYPE_ERF = 197
LINKTYPE_IPOIB = 242
ERF_INFINIBAND = 21
ERF_VARYING_LENGTH = 0x04
SNAP_BYTES = 262_144


@dataclass(frozen=True, slots=True)
class FileHeader:
    """The head of a pcap file whose records have nanosecond time stamps."""

    LAYOUT: ClassVar = struct.Struct("<IHHiIII")
    MAGIC: ClassVar = 0xA1B23C4D
    linktype: int

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        if len(raw) < cls.LAYOUT.size:
            raise Malformed(f"pcap header needs {cls.LAYOUT.size} bytes, got {len(raw)}")
        magic, major, _, _, _, _, linktype = cls.LAYOUT.unpack_from(raw)
        if magic != cls.MAGIC or major != 2:
            raise Malformed(f"not a pcap file of ibbond: magic {magic:08x}, version {major}")
        return cls(linktype)

    def pack(self) -> bytes:
        return self.LAYOUT.pack(self.MAGIC, 2, 4, 0, 0, SNAP_BYTES, self.linktype)


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One frame; `at` in nanoseconds since 1970."""

    LAYOUT: ClassVar = struct.Struct("<IIII")
    at: int
    frame: bytes

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        if len(raw) < cls.LAYOUT.size:
            raise Malformed(f"pcap record needs {cls.LAYOUT.size} bytes, got {len(raw)}")
        seconds, nanoseconds, captured, _ = cls.LAYOUT.unpack_from(raw)
        frame = raw[cls.LAYOUT.size : cls.LAYOUT.size + captured]
        if len(frame) != captured or nanoseconds >= SECOND:
            raise Malformed("pcap record is cut short or has no time")
        return cls(seconds * SECOND + nanoseconds, frame)

    def pack(self) -> bytes:
        size = len(self.frame)
        return self.LAYOUT.pack(self.at // SECOND, self.at % SECOND, size, size) + self.frame

    @property
    def size(self) -> int:
        """Bytes of the whole record in the file."""
        return self.LAYOUT.size + len(self.frame)


@dataclass(frozen=True, slots=True)
class ErfFrame:
    """An InfiniBand packet in an Extensible Record; the frame of `LINKTYPE_ERF`."""

    LAYOUT: ClassVar = struct.Struct("!BBHHH")  # type, flags, record length, lost, wire length; after a time stamp
    HEAD: ClassVar = 16
    at: int
    packet: bytes

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        if len(raw) < cls.HEAD:
            raise Malformed(f"ERF header needs {cls.HEAD} bytes, got {len(raw)}")
        stamp = int.from_bytes(raw[:8], "little")
        kind, _, length, _, wire_bytes = cls.LAYOUT.unpack_from(raw, 8)
        if kind != ERF_INFINIBAND or length > len(raw) or cls.HEAD + wire_bytes > length:
            raise Malformed(f"not an ERF record of an InfiniBand packet: type {kind}, {length} bytes")
        # The fraction is rounded up in pack, so that rounding down here gives the same nanosecond.
        return cls((stamp * SECOND) >> 32, raw[cls.HEAD : cls.HEAD + wire_bytes])

    def pack(self) -> bytes:
        pad = -len(self.packet) % 8
        stamp = -(-(self.at << 32) // SECOND)
        length = self.HEAD + len(self.packet) + pad
        head = self.LAYOUT.pack(ERF_INFINIBAND, ERF_VARYING_LENGTH, length, 0, len(self.packet))
        return stamp.to_bytes(8, "little") + head + self.packet + bytes(pad)


@dataclass(frozen=True, slots=True)
class IpoibFrame:
    """What a capture on an IPoIB interface sees; the frame of `LINKTYPE_IPOIB`.

    Forty bytes, the place of a GRH, stand before the IPoIB header: here the sender's 20-byte address (as far as the
    completion tells it: zeros without a GRH) and the destination's.
    """

    source: bytes
    destination: bytes
    datagram: bytes  # encapsulation header and payload

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        if len(raw) < 2 * ADDRESS_BYTES:
            raise Malformed(f"IPoIB capture needs {2 * ADDRESS_BYTES} bytes, got {len(raw)}")
        return cls(raw[:ADDRESS_BYTES], raw[ADDRESS_BYTES : 2 * ADDRESS_BYTES], raw[2 * ADDRESS_BYTES :])

    def pack(self) -> bytes:
        assert len(self.source) == len(self.destination) == ADDRESS_BYTES
        return self.source + self.destination + self.datagram


def erf_record(at: int, packet: bytes) -> bytes:
    """A whole file record of `LINKTYPE_ERF`."""
    return FileRecord(at, ErfFrame(at, packet).pack()).pack()


def ipoib_record(at: int, destination: bytes, datagram: bytes, source: bytes = bytes(ADDRESS_BYTES)) -> bytes:
    """A whole file record of `LINKTYPE_IPOIB`."""
    return FileRecord(at, IpoibFrame(source, destination, datagram).pack()).pack()


def group_destination(mgid: bytes) -> bytes:
    """The destination address of a frame that was received by its MGID."""
    assert len(mgid) == GID_BYTES
    return b"\x00\xff\xff\xff" + mgid


def parse_file(raw: bytes) -> tuple[FileHeader, tuple[FileRecord, ...]]:
    """A whole capture file of ibbond."""
    header = FileHeader.parse(raw)
    records = []
    at = FileHeader.LAYOUT.size
    while at < len(raw):
        record = FileRecord.parse(raw[at:])
        records.append(record)
        at += record.size
    return header, tuple(records)
