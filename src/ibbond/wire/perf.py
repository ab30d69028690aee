"""Performance management MADs: what ports have counted, as perfquery and ibqueryerrors read it.

Read first: InfiniBand Architecture volume 1, 16.1.3 and 16.1.4. Classic counters stick at their largest value, the
extended ones have 64 bits. Left out: samples, per-lane counters, congestion.
"""

import enum
import struct
from dataclasses import dataclass, fields
from typing import ClassVar, Self

from ibbond.errors import Malformed
from ibbond.wire.mad import MAD_BYTES, MadHeader, ManagementClass

PERF_DATA_BYTES = 192
ALL_PORTS = 0xFF


class PerfAttribute(enum.IntEnum):
    CLASS_PORT_INFO = 0x01
    PORT_COUNTERS = 0x12
    PORT_COUNTERS_EXTENDED = 0x1D


@dataclass(frozen=True, slots=True)
class PerfMad:
    """A MAD of class 0x04; `data` has 192 bytes, shorter values are padded with zeros."""

    LAYOUT: ClassVar = struct.Struct("!24s40x192s")
    method: int
    attribute: int
    data: bytes = bytes(PERF_DATA_BYTES)
    modifier: int = 0
    transaction_id: int = 0
    status: int = 0

    @classmethod
    def parse(cls, mad: bytes) -> Self:
        header = MadHeader.parse(mad)
        if header.management_class != ManagementClass.PERFORMANCE:
            raise Malformed(f"class {header.management_class:#04x} is not performance management")
        _, data = cls.LAYOUT.unpack(mad)
        return cls(header.method, header.attribute, data, header.modifier, header.transaction_id, header.status)

    def pack(self) -> bytes:
        kind = ManagementClass.PERFORMANCE
        header = MadHeader(kind, self.method, self.transaction_id, self.attribute, self.modifier, self.status)
        return self.LAYOUT.pack(header.pack(), self.data)


assert PerfMad.LAYOUT.size == MAD_BYTES


@dataclass(frozen=True, slots=True)
class PortCountersAttribute:
    """PortCounters (16.1.3.5), 44 bytes; values too large for their field are packed as its largest value.

    In a Set, bit n of `select` (and of `select2`) says that the n-th counter is written.
    """

    LAYOUT: ClassVar = struct.Struct("!xBHHBBHHHHBBBBHHIIIII")
    LIMITS: ClassVar = (
        *(0xFFFF, 0xFF, 0xFF, 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF, 0xFF, 0xFF, 0xF, 0xF, 0xFFFF, 0xFFFF),
        *(0xFFFFFFFF,) * 5,
    )
    port: int
    select: int = 0xFFFF
    select2: int = 0
    symbol_errors: int = 0
    link_error_recovery: int = 0
    link_downed: int = 0
    receive_errors: int = 0
    receive_remote_errors: int = 0
    receive_switch_relay_errors: int = 0
    transmit_discards: int = 0
    transmit_constraint_errors: int = 0
    receive_constraint_errors: int = 0
    local_link_integrity_errors: int = 0
    buffer_overruns: int = 0
    qp1_dropped: int = 0
    vl15_dropped: int = 0
    transmit_words: int = 0
    receive_words: int = 0
    transmit_packets: int = 0
    receive_packets: int = 0
    transmit_wait: int = 0

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        if len(raw) < cls.LAYOUT.size:
            raise Malformed(f"PortCounters needs {cls.LAYOUT.size} bytes, got {len(raw)}")
        (
            port,
            select,
            symbol,
            recovery,
            downed,
            received,
            remote,
            relay,
            discards,
            sent_bad,
            got_bad,
            select2,
            pair,
        ) = cls.LAYOUT.unpack_from(raw)[:13]
        rest = cls.LAYOUT.unpack_from(raw)[13:]
        return cls(
            port,
            select,
            select2,
            symbol,
            recovery,
            downed,
            received,
            remote,
            relay,
            discards,
            sent_bad,
            got_bad,
            pair >> 4,
            pair & 15,
            *rest,
        )

    def pack(self) -> bytes:
        values = [getattr(self, field.name) for field in fields(self)[3:]]
        held = [min(value, limit) for value, limit in zip(values, self.LIMITS, strict=True)]
        pair = held[9] << 4 | held[10]
        return self.LAYOUT.pack(self.port, self.select, *held[:9], self.select2, pair, *held[11:])


@dataclass(frozen=True, slots=True)
class PortCountersExtendedAttribute:
    """PortCountersExtended (16.1.4.11) without its optional error counters, 72 bytes."""

    LAYOUT: ClassVar = struct.Struct("!xBHI8Q")
    port: int
    select: int = 0xFFFF
    select2: int = 0
    transmit_words: int = 0
    receive_words: int = 0
    transmit_packets: int = 0
    receive_packets: int = 0
    transmit_unicast: int = 0
    receive_unicast: int = 0
    transmit_multicast: int = 0
    receive_multicast: int = 0

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        if len(raw) < cls.LAYOUT.size:
            raise Malformed(f"PortCountersExtended needs {cls.LAYOUT.size} bytes, got {len(raw)}")
        return cls(*cls.LAYOUT.unpack_from(raw))

    def pack(self) -> bytes:
        return self.LAYOUT.pack(*(getattr(self, field.name) for field in fields(self)))
