"""InfiniBand packets of reliable connections byte by byte, as captures show them.

Read first: InfiniBand Architecture volume 1, 9.2 to 9.3 (BTH opcodes, RETH, AETH) and `wire.ib`, the same for
datagrams. The subnet carries `verbs.reliable_verbs`, these bytes exist for captures. Left out: atomics and immediate
data; reading global routes.
"""

import enum
import struct
from dataclasses import dataclass
from typing import Self

from ibbond.errors import Malformed
from ibbond.wire.ib import LNH_LOCAL, BaseTransportHeader, LocalRouteHeader, with_crcs


class RcOpcode(enum.IntEnum):
    SEND_FIRST = 0x00
    SEND_MIDDLE = 0x01
    SEND_LAST = 0x02
    SEND_LAST_IMMEDIATE = 0x03
    SEND_ONLY = 0x04
    SEND_ONLY_IMMEDIATE = 0x05
    WRITE_FIRST = 0x06
    WRITE_MIDDLE = 0x07
    WRITE_LAST = 0x08
    WRITE_LAST_IMMEDIATE = 0x09
    WRITE_ONLY = 0x0A
    WRITE_ONLY_IMMEDIATE = 0x0B
    READ_REQUEST = 0x0C
    READ_RESPONSE_FIRST = 0x0D
    READ_RESPONSE_MIDDLE = 0x0E
    READ_RESPONSE_LAST = 0x0F
    READ_RESPONSE_ONLY = 0x10
    ACKNOWLEDGE = 0x11
    ATOMIC_ACKNOWLEDGE = 0x12
    COMPARE_SWAP = 0x13
    FETCH_ADD = 0x14


# (first, middle, last, only) of what may need several packets
SENDS = (RcOpcode.SEND_FIRST, RcOpcode.SEND_MIDDLE, RcOpcode.SEND_LAST, RcOpcode.SEND_ONLY)
WRITES = (RcOpcode.WRITE_FIRST, RcOpcode.WRITE_MIDDLE, RcOpcode.WRITE_LAST, RcOpcode.WRITE_ONLY)
RESPONSES = (
    RcOpcode.READ_RESPONSE_FIRST,
    RcOpcode.READ_RESPONSE_MIDDLE,
    RcOpcode.READ_RESPONSE_LAST,
    RcOpcode.READ_RESPONSE_ONLY,
)
ICRC_BYTES, VCRC_BYTES = 4, 2
RETH = struct.Struct("!QII")  # address, key, length
AETH = struct.Struct("!I")  # syndrome:8 msn:24
ATOMIC_ETH = struct.Struct("!QIQQ")  # address, key, what is swapped in or added, what is compared
ATOMIC_ACK_ETH = struct.Struct("!Q")  # what was there
IMMEDIATE = struct.Struct("4s")
RDMA_HEADED = {RcOpcode.WRITE_FIRST, RcOpcode.WRITE_ONLY, RcOpcode.WRITE_ONLY_IMMEDIATE, RcOpcode.READ_REQUEST}
ATOMIC_HEADED = {RcOpcode.COMPARE_SWAP, RcOpcode.FETCH_ADD}
ACK_HEADED = {*RESPONSES, RcOpcode.ACKNOWLEDGE, RcOpcode.ATOMIC_ACKNOWLEDGE} - {RcOpcode.READ_RESPONSE_MIDDLE}
WITH_IMMEDIATE = {
    RcOpcode.SEND_LAST: RcOpcode.SEND_LAST_IMMEDIATE,
    RcOpcode.SEND_ONLY: RcOpcode.SEND_ONLY_IMMEDIATE,
    RcOpcode.WRITE_LAST: RcOpcode.WRITE_LAST_IMMEDIATE,
    RcOpcode.WRITE_ONLY: RcOpcode.WRITE_ONLY_IMMEDIATE,
}
IMMEDIATE_HEADED = set(WITH_IMMEDIATE.values())


@dataclass(frozen=True, slots=True)
class RcPacket:
    """One packet; the extended headers are there as the opcode asks for them."""

    source_lid: int
    destination_lid: int
    pkey: int
    destination_qpn: int
    psn: int
    opcode: RcOpcode
    payload: bytes = b""
    service_level: int = 0
    remote_address: int = 0
    remote_key: int = 0
    length: int = 0
    syndrome: int = 0
    sequence: int = 0  # message sequence number of an AETH
    immediate: bytes = b""
    swap_add: int = 0
    compare: int = 0
    original: int = 0  # of an atomic acknowledgment

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """CRCs are not checked. Raises `Malformed` for packets of other services too."""
        lrh = LocalRouteHeader.parse(raw)
        at = LocalRouteHeader.LAYOUT.size
        if lrh.next_header != LNH_LOCAL or lrh.words * 4 + VCRC_BYTES != len(raw):
            raise Malformed("no local packet of the length that its LRH says")
        bth = BaseTransportHeader.parse(raw[at:])
        at += BaseTransportHeader.LAYOUT.size
        try:
            opcode = RcOpcode(bth.opcode)
        except ValueError:
            raise Malformed(f"opcode 0x{bth.opcode:02x} is none of reliable connections here") from None
        found: dict[str, int | bytes] = {}
        end = len(raw) - ICRC_BYTES - VCRC_BYTES - bth.pad
        for layout, names in _extended(opcode):
            if end < at + layout.size:
                raise Malformed("RC packet is cut short")
            found.update(zip(names, layout.unpack_from(raw, at), strict=True))
            at += layout.size
        if end < at:
            raise Malformed("RC packet is cut short")
        word = int(found.pop("word", 0))
        return cls(
            lrh.source_lid,
            lrh.destination_lid,
            bth.pkey,
            bth.destination_qpn,
            bth.psn,
            opcode,
            raw[at:end],
            service_level=lrh.service_level,
            syndrome=word >> 24,
            sequence=word & 0xFFFFFF,
            **found,  # type: ignore[arg-type]
        )

    def pack(self) -> bytes:
        pad = -len(self.payload) % 4
        asks = self.opcode not in ACK_HEADED and self.opcode != RcOpcode.READ_RESPONSE_MIDDLE
        bth = BaseTransportHeader(
            self.pkey, self.destination_qpn, self.psn, opcode=self.opcode, pad=pad, acknowledge=asks
        )
        values = {"word": self.syndrome << 24 | self.sequence & 0xFFFFFF}
        extended = b"".join(
            layout.pack(*(values.get(name, getattr(self, name, 0)) for name in names))
            for layout, names in _extended(self.opcode)
        )
        transport = bth.pack() + extended + self.payload + bytes(pad)
        words = (LocalRouteHeader.LAYOUT.size + len(transport) + 4) // 4
        lrh = LocalRouteHeader(self.destination_lid, self.source_lid, words, service_level=self.service_level)
        return with_crcs(lrh.pack() + transport, has_grh=False)


def _extended(opcode: RcOpcode) -> list[tuple[struct.Struct, tuple[str, ...]]]:
    """The extended headers of an opcode, in their order: layout, and the fields that it has."""
    headers: list[tuple[struct.Struct, tuple[str, ...]]] = []
    if opcode in RDMA_HEADED:
        headers.append((RETH, ("remote_address", "remote_key", "length")))
    if opcode in ATOMIC_HEADED:
        headers.append((ATOMIC_ETH, ("remote_address", "remote_key", "swap_add", "compare")))
    if opcode in ACK_HEADED:
        headers.append((AETH, ("word",)))
    if opcode is RcOpcode.ATOMIC_ACKNOWLEDGE:
        headers.append((ATOMIC_ACK_ETH, ("original",)))
    if opcode in IMMEDIATE_HEADED:
        headers.append((IMMEDIATE, ("immediate",)))
    return headers


class SentMessages:
    """Puts the messages of SENDs together from their packets, as a capture sees them."""

    def __init__(self) -> None:
        self._parts: dict[tuple[int, int], tuple[int, bytes]] = {}  # LID, QPN: the next PSN, what there is

    def take(self, packet: RcPacket) -> bytes | None:
        """The message that this packet completes; None if it completes none, is not a SEND, or lost its start."""
        key = packet.destination_lid, packet.destination_qpn
        if packet.opcode not in SENDS:
            return None
        first, _, last, only = SENDS
        before = b""
        if packet.opcode not in (first, only):
            expected, before = self._parts.pop(key, (-1, b""))
            if expected != packet.psn:
                return None
        if packet.opcode in (last, only):
            self._parts.pop(key, None)
            return before + packet.payload
        self._parts[key] = packet.psn + 1 & 0xFFFFFF, before + packet.payload
        return None
