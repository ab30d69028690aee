"""InfiniBand packets of reliable connections byte by byte, as captures show them.

Read first: InfiniBand Architecture volume 1, 9.2 to 9.3 (BTH opcodes, RETH, AETH) and `wire.ib`, the like of
datagrams. The subnet carries `verbs.reliable_verbs`, these bytes exist for taps. Left out: atomics and immediate data;
reading global routes.
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
    SEND_ONLY = 0x04
    WRITE_FIRST = 0x06
    WRITE_MIDDLE = 0x07
    WRITE_LAST = 0x08
    WRITE_ONLY = 0x0A
    READ_REQUEST = 0x0C
    READ_RESPONSE_FIRST = 0x0D
    READ_RESPONSE_MIDDLE = 0x0E
    READ_RESPONSE_LAST = 0x0F
    READ_RESPONSE_ONLY = 0x10
    ACKNOWLEDGE = 0x11


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
RDMA_HEADED = {RcOpcode.WRITE_FIRST, RcOpcode.WRITE_ONLY, RcOpcode.READ_REQUEST}
ACK_HEADED = {*RESPONSES, RcOpcode.ACKNOWLEDGE} - {RcOpcode.READ_RESPONSE_MIDDLE}


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
        address = key = length = syndrome = sequence = 0
        end = len(raw) - ICRC_BYTES - VCRC_BYTES - bth.pad
        extended = RETH.size if opcode in RDMA_HEADED else AETH.size if opcode in ACK_HEADED else 0
        if end < at + extended:
            raise Malformed("RC packet is cut short")
        if opcode in RDMA_HEADED:
            address, key, length = RETH.unpack_from(raw, at)
        elif opcode in ACK_HEADED:
            (word,) = AETH.unpack_from(raw, at)
            syndrome, sequence = word >> 24, word & 0xFFFFFF
        return cls(
            lrh.source_lid,
            lrh.destination_lid,
            bth.pkey,
            bth.destination_qpn,
            bth.psn,
            opcode,
            raw[at + extended : end],
            service_level=lrh.service_level,
            remote_address=address,
            remote_key=key,
            length=length,
            syndrome=syndrome,
            sequence=sequence,
        )

    def pack(self) -> bytes:
        pad = -len(self.payload) % 4
        asks = self.opcode not in ACK_HEADED and self.opcode != RcOpcode.READ_RESPONSE_MIDDLE
        bth = BaseTransportHeader(
            self.pkey, self.destination_qpn, self.psn, opcode=self.opcode, pad=pad, acknowledge=asks
        )
        extended = b""
        if self.opcode in RDMA_HEADED:
            extended = RETH.pack(self.remote_address, self.remote_key, self.length)
        elif self.opcode in ACK_HEADED:
            extended = AETH.pack(self.syndrome << 24 | self.sequence & 0xFFFFFF)
        transport = bth.pack() + extended + self.payload + bytes(pad)
        words = (LocalRouteHeader.LAYOUT.size + len(transport) + 4) // 4
        lrh = LocalRouteHeader(self.destination_lid, self.source_lid, words, service_level=self.service_level)
        return with_crcs(lrh.pack() + transport, has_grh=False)


class SentMessages:
    """Puts the messages of SENDs together from their packets, as a capture sees them."""

    def __init__(self) -> None:
        self._parts: dict[tuple[int, int], tuple[int, bytes]] = {}  # LID, QPN: the next PSN, what there is

    def take(self, packet: RcPacket) -> bytes | None:
        """The message that this packet ends; None while it does not, and for what is no SEND or has lost its start."""
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
