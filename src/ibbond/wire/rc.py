"""InfiniBand packets of reliable connections byte by byte, as captures show them.

Read first: InfiniBand Architecture volume 1, 9.2 to 9.3 (BTH opcodes, RETH, AETH) and `wire.ib`, the like of
datagrams. Left out: reading them (the subnet carries `fabric.reliable_verbs`, these bytes exist for taps),
atomics and immediate data.
"""

import enum
import struct
from dataclasses import dataclass

from ibbond.wire.ib import BaseTransportHeader, LocalRouteHeader, with_crcs


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
