"""InfiniBand UD packets byte by byte: LRH, GRH, BTH, DETH and both CRCs, as captures show them.

Read first: InfiniBand Architecture volume 1, chapters 6 (LRH), 8 (GRH), 9.2 and 9.3 (BTH, DETH), 7.8 (ICRC, VCRC).
The subnet itself carries `verbs.verbs` values; these bytes exist for captures, so CRCs cost nothing on the fast path.
Left out: every opcode but UD SEND ONLY (reliable connections have their own messages).
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import ClassVar, Self

from ibbond.errors import Malformed

UD_SEND_ONLY = 0x64
NEXT_HEADER_IBA = 0x1B
LNH_LOCAL, LNH_GLOBAL = 2, 3
CRC_BYTES = 4 + 2  # ICRC, VCRC


@dataclass(frozen=True, slots=True)
class LocalRouteHeader:
    """LRH; `words` counts four-byte words from the LRH through the ICRC."""

    LAYOUT: ClassVar = struct.Struct("!BBHHH")
    destination_lid: int
    source_lid: int
    words: int
    next_header: int = LNH_LOCAL
    service_level: int = 0
    virtual_lane: int = 0

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        _need(cls.LAYOUT, raw, "LRH")
        lane, level, destination, words, source = cls.LAYOUT.unpack_from(raw)
        if lane & 0xF:
            raise Malformed(f"LRH of link version {lane & 0xF}")
        return cls(destination, source, words & 0x7FF, level & 3, level >> 4, lane >> 4)

    def pack(self) -> bytes:
        level = self.service_level << 4 | self.next_header
        return self.LAYOUT.pack(self.virtual_lane << 4, level, self.destination_lid, self.words, self.source_lid)


@dataclass(frozen=True, slots=True)
class GlobalRouteHeader:
    """GRH; `payload_bytes` counts what follows it through the ICRC."""

    LAYOUT: ClassVar = struct.Struct("!IHBB16s16s")
    source_gid: bytes
    destination_gid: bytes
    payload_bytes: int
    hop_limit: int = 0
    traffic_class: int = 0
    flow_label: int = 0
    next_header: int = NEXT_HEADER_IBA

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        _need(cls.LAYOUT, raw, "GRH")
        word, length, next_header, hop_limit, source, destination = cls.LAYOUT.unpack_from(raw)
        if word >> 28 != 6:
            raise Malformed(f"GRH of IP version {word >> 28}")
        return cls(source, destination, length, hop_limit, word >> 20 & 0xFF, word & 0xFFFFF, next_header)

    def pack(self) -> bytes:
        word = 6 << 28 | self.traffic_class << 20 | self.flow_label
        return self.LAYOUT.pack(
            word, self.payload_bytes, self.next_header, self.hop_limit, self.source_gid, self.destination_gid
        )


@dataclass(frozen=True, slots=True)
class BaseTransportHeader:
    LAYOUT: ClassVar = struct.Struct("!BBHII")
    pkey: int
    destination_qpn: int
    psn: int
    opcode: int = UD_SEND_ONLY
    pad: int = 0
    solicited: bool = False
    migrated: bool = False
    acknowledge: bool = False

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        _need(cls.LAYOUT, raw, "BTH")
        opcode, bits, pkey, destination, psn = cls.LAYOUT.unpack_from(raw)
        return cls(
            pkey,
            destination & 0xFFFFFF,
            psn & 0xFFFFFF,
            opcode=opcode,
            pad=bits >> 4 & 3,
            solicited=bool(bits & 0x80),
            migrated=bool(bits & 0x40),
            acknowledge=bool(psn >> 31),
        )

    def pack(self) -> bytes:
        bits = self.solicited << 7 | self.migrated << 6 | self.pad << 4
        return self.LAYOUT.pack(self.opcode, bits, self.pkey, self.destination_qpn, self.acknowledge << 31 | self.psn)


@dataclass(frozen=True, slots=True)
class DatagramHeader:
    """DETH."""

    LAYOUT: ClassVar = struct.Struct("!II")
    qkey: int
    source_qpn: int

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        _need(cls.LAYOUT, raw, "DETH")
        qkey, source = cls.LAYOUT.unpack_from(raw)
        return cls(qkey, source & 0xFFFFFF)

    def pack(self) -> bytes:
        return self.LAYOUT.pack(self.qkey, self.source_qpn)


@dataclass(frozen=True, slots=True)
class UdPacket:
    """A whole UD packet; the GRH is there exactly when both GIDs are. Lengths, padding and CRCs are derived."""

    source_lid: int
    destination_lid: int
    source_qpn: int
    destination_qpn: int
    qkey: int
    pkey: int
    payload: bytes
    source_gid: bytes = b""
    destination_gid: bytes = b""
    psn: int = 0
    service_level: int = 0
    virtual_lane: int = 0
    traffic_class: int = 0
    flow_label: int = 0
    hop_limit: int = 0

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        lrh = LocalRouteHeader.parse(raw)
        if len(raw) != lrh.words * 4 + 2:
            raise Malformed(f"LRH says {lrh.words} words, the packet has {len(raw)} bytes")
        at = LocalRouteHeader.LAYOUT.size
        grh = None
        if lrh.next_header == LNH_GLOBAL:
            grh = GlobalRouteHeader.parse(raw[at:])
            at += GlobalRouteHeader.LAYOUT.size
            if grh.next_header != NEXT_HEADER_IBA or grh.payload_bytes != len(raw) - at - 2:
                raise Malformed("GRH does not fit its packet")
        elif lrh.next_header != LNH_LOCAL:
            raise Malformed(f"raw packet, LNH {lrh.next_header}")
        bth = BaseTransportHeader.parse(raw[at:])
        if bth.opcode != UD_SEND_ONLY:
            raise Malformed(f"opcode 0x{bth.opcode:02x} is not UD SEND ONLY")
        at += BaseTransportHeader.LAYOUT.size
        deth = DatagramHeader.parse(raw[at:])
        at += DatagramHeader.LAYOUT.size
        end = len(raw) - CRC_BYTES - bth.pad
        if end < at:
            raise Malformed("UD packet is cut short")
        body = raw[:-CRC_BYTES]
        if raw[-CRC_BYTES:] != with_crcs(body, has_grh=grh is not None)[-CRC_BYTES:]:
            raise Malformed("ICRC or VCRC is wrong")
        return cls(
            lrh.source_lid,
            lrh.destination_lid,
            deth.source_qpn,
            bth.destination_qpn,
            deth.qkey,
            bth.pkey,
            payload=raw[at:end],
            source_gid=grh.source_gid if grh else b"",
            destination_gid=grh.destination_gid if grh else b"",
            psn=bth.psn,
            service_level=lrh.service_level,
            virtual_lane=lrh.virtual_lane,
            traffic_class=grh.traffic_class if grh else 0,
            flow_label=grh.flow_label if grh else 0,
            hop_limit=grh.hop_limit if grh else 0,
        )

    def pack(self) -> bytes:
        assert bool(self.source_gid) == bool(self.destination_gid), "a GRH has both GIDs"
        pad = -len(self.payload) % 4
        transport = (
            BaseTransportHeader(self.pkey, self.destination_qpn, self.psn, pad=pad).pack()
            + DatagramHeader(self.qkey, self.source_qpn).pack()
            + self.payload
            + bytes(pad)
        )
        grh = b""
        if self.destination_gid:
            grh = GlobalRouteHeader(
                self.source_gid,
                self.destination_gid,
                payload_bytes=len(transport) + 4,
                hop_limit=self.hop_limit,
                traffic_class=self.traffic_class,
                flow_label=self.flow_label,
            ).pack()
        lrh = LocalRouteHeader(
            self.destination_lid,
            self.source_lid,
            words=(LocalRouteHeader.LAYOUT.size + len(grh) + len(transport) + 4) // 4,
            next_header=LNH_GLOBAL if grh else LNH_LOCAL,
            service_level=self.service_level,
            virtual_lane=self.virtual_lane,
        ).pack()
        return with_crcs(lrh + grh + transport, has_grh=bool(grh))


def icrc(packet: bytes, *, has_grh: bool) -> bytes:
    """The invariant CRC of a packet without its CRCs: CRC-32 with ones where switches and routers may write."""
    masked = bytearray(packet)
    masked[0] |= 0xF0  # VL
    bth = LocalRouteHeader.LAYOUT.size
    if has_grh:
        masked[:8] = b"\xff" * 8  # a router makes a new LRH
        masked[8] |= 0x0F  # traffic class and flow label
        masked[9:12] = b"\xff" * 3
        masked[15] = 0xFF  # hop limit
        bth += GlobalRouteHeader.LAYOUT.size
    masked[bth + 4] = 0xFF
    return zlib.crc32(masked).to_bytes(4, "little")


def vcrc(packet: bytes) -> bytes:
    """The variant CRC over everything before it: CRC-16 of polynomial 0x100b, reflected.

    Not held against any published vector, as none was found; analyzers do not check it.
    """
    message = int.from_bytes(packet.translate(_REVERSED)) << 16 ^ 0xFFFF << len(packet) * 8
    bits = message.bit_length()
    while bits > _SMALL:
        # What lies above bit k is worth as much times the remainder of x^k, and is added to what lies below.
        place, mask, shifts = _FOLDS[(bits - 1).bit_length() - 1]
        high, message = message >> place, message & mask
        for shift in shifts:
            message ^= high << shift
        bits = message.bit_length()
    rest = 0
    for octet in message.to_bytes(_SMALL // 8):
        rest = (rest << 8 & 0xFFFF | octet) ^ _VCRC_TABLE[rest >> 8]
    return (rest ^ 0xFFFF).to_bytes(2).translate(_REVERSED)


def with_crcs(packet: bytes, *, has_grh: bool) -> bytes:
    invariant = packet + icrc(packet, has_grh=has_grh)
    return invariant + vcrc(invariant)


def _remainder(message: int) -> int:
    """Of a polynomial (bit n is x^n) divided by the VCRC's."""
    for bit in range(message.bit_length() - 1, 15, -1):
        if message >> bit & 1:
            message ^= _VCRC_POLYNOMIAL << bit - 16
    return message


def _folds() -> tuple[tuple[int, int, tuple[int, ...]], ...]:
    """For messages of n bits, by the length of n - 1: k = about half of them, a mask of k bits, the shifts of x^k's
    remainder. A long number is halved by a few shifts of all its bits at once; a loop over bytes takes far longer.
    """
    folds = []
    remainder = _remainder(1 << 16)  # of x^16, then of its square ...
    for place in range(4, 21):
        shifts = tuple(shift for shift in range(16) if remainder >> shift & 1)
        folds.append((1 << place, (1 << (1 << place)) - 1, shifts))
        remainder = _remainder(sum(1 << 2 * shift for shift in shifts))
    return (*folds[:1] * 4, *folds)


_VCRC_POLYNOMIAL = 0x1100B
_VCRC_TABLE = tuple(_remainder(octet << 16) for octet in range(256))
_REVERSED = bytes(int(f"{octet:08b}"[::-1], 2) for octet in range(256))
_SMALL = 128  # bits that are divided byte by byte
_FOLDS = _folds()


def _need(layout: struct.Struct, raw: bytes, name: str) -> None:
    if len(raw) < layout.size:
        raise Malformed(f"{name} needs {layout.size} bytes, got {len(raw)}")
