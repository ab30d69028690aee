"""The header that every management datagram starts with, and the words of its fields.

Read first: InfiniBand Architecture volume 1, sections 13.4.3 (header), 13.4.5 (methods), 13.4.7 (status). What follows
the header depends on the class: `smp` (0x01, 0x81), `sa` (0x03), `perf` (0x04), `cm` (0x07). Left out: vendor classes.
"""

import enum
import struct
from dataclasses import dataclass
from typing import ClassVar, Self

from ibbond.errors import Malformed

MAD_BYTES = 256
BASE_VERSION = 1


class ManagementClass(enum.IntEnum):
    """Which agent a MAD is for."""

    SUBNET_LID_ROUTED = 0x01
    SUBNET_ADMINISTRATION = 0x03
    PERFORMANCE = 0x04
    BASEBOARD = 0x05
    DEVICE = 0x06
    COMMUNICATION = 0x07
    SUBNET_DIRECTED_ROUTE = 0x81


CLASS_VERSION: dict[int, int] = {  # of every other class: 1
    ManagementClass.SUBNET_ADMINISTRATION: 2,
    ManagementClass.COMMUNICATION: 2,
}


class Method(enum.IntEnum):
    """What is asked, or what this answers: an answer has bit 7 set (`RESPONSE`), but for TrapRepress."""

    GET = 0x01
    SET = 0x02
    SEND = 0x03
    TRAP = 0x05
    REPORT = 0x06
    TRAP_REPRESS = 0x07
    GET_TABLE = 0x12
    GET_TRACE_TABLE = 0x13
    GET_MULTI = 0x14
    DELETE = 0x15
    GET_RESP = 0x81
    REPORT_RESP = 0x86
    GET_TABLE_RESP = 0x92
    DELETE_RESP = 0x95


RESPONSE = 0x80


class Status(enum.IntEnum):
    """The low byte: what every class may answer. Classes put their own codes into the high byte."""

    OK = 0
    BUSY = 0x01
    BAD_VERSION = 0x04
    BAD_METHOD = 0x08
    BAD_ATTRIBUTE = 0x0C
    BAD_VALUE = 0x1C


class Attribute(enum.IntEnum):
    """Attributes that more than one class knows."""

    CLASS_PORT_INFO = 0x01
    NOTICE = 0x02
    INFORM_INFO = 0x03


@dataclass(frozen=True, slots=True)
class MadHeader:
    """The first 24 of the 256 bytes of a MAD.

    `class_specific` is the hop pointer and hop count of a directed-route SMP, and zero elsewhere. Methods and classes
    are plain ints here: a MAD of an unknown one is well formed, its receiver answers that it does not know it.
    """

    LAYOUT: ClassVar = struct.Struct("!BBBBHHQHHI")
    management_class: int
    method: int
    transaction_id: int
    attribute: int
    modifier: int = 0
    status: int = 0
    class_specific: int = 0
    class_version: int = 1
    base_version: int = BASE_VERSION

    @classmethod
    def parse(cls, mad: bytes) -> Self:
        """Read the header of a whole MAD; `Malformed` unless it has 256 bytes and base version 1."""
        if len(mad) != MAD_BYTES:
            raise Malformed(f"a MAD has {MAD_BYTES} bytes, got {len(mad)}")
        base, kind, version, method, status, specific, tid, attribute, _, modifier = cls.LAYOUT.unpack_from(mad)
        if base != BASE_VERSION:
            raise Malformed(f"MAD base version {base}, only {BASE_VERSION} is known")
        return cls(kind, method, tid, attribute, modifier, status, specific, version, base)

    def pack(self) -> bytes:
        return self.LAYOUT.pack(
            self.base_version,
            self.management_class,
            self.class_version,
            self.method,
            self.status,
            self.class_specific,
            self.transaction_id,
            self.attribute,
            0,
            self.modifier,
        )


def is_answer(mad: bytes) -> bool:
    """By its bytes alone: the method of an answer, or a directed route that is on its way back."""
    returning = mad[1] == ManagementClass.SUBNET_DIRECTED_ROUTE and mad[4] & 0x80
    return bool(mad[3] & RESPONSE or returning) or mad[3] == Method.TRAP_REPRESS


def version_refused(mad: bytes) -> bytes:
    """The answer to a request whose base or class version is not known (13.4.7): its bytes, our version, the status."""
    kind = mad[1]
    status = Status.BAD_VERSION | (0x8000 if kind == ManagementClass.SUBNET_DIRECTED_ROUTE else 0)
    head = (BASE_VERSION, kind, CLASS_VERSION.get(kind, 1), mad[3] | RESPONSE)
    return bytes(head) + status.to_bytes(2) + mad[6:]


@dataclass(frozen=True, slots=True)
class Notice:
    """What a trap or a Report says (13.4.8.2): 64 bytes in a trap, 80 with the issuer's GID in a Report.

    `details` are the 54 bytes that depend on the trap number: traps 64-67 have a GID at 6 (byte 16 of the notice),
    128 the switch's LID at 0, 144 a LID at 2 and the new CapabilityMask at 8.
    """

    LAYOUT: ClassVar = struct.Struct("!IHHH54s16s")  # generic:1 type:7 producer:24 | trap | issuer | toggle:1 count:15
    BYTES: ClassVar = 80
    TRAP_BYTES: ClassVar = 64
    trap: int
    issuer_lid: int
    details: bytes
    producer: int = 4  # 1 channel adapter, 2 switch, 4 class manager
    kind: int = 1  # 0 fatal, 1 urgent, 2 security, 3 subnet management, 4 informational
    generic: bool = True
    toggle: bool = False
    count: int = 0
    issuer_gid: bytes = bytes(16)

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        if len(raw) not in (cls.TRAP_BYTES, cls.BYTES):
            raise Malformed(f"a notice has {cls.TRAP_BYTES} or {cls.BYTES} bytes, got {len(raw)}")
        word, trap, issuer, count, details, gid = cls.LAYOUT.unpack(raw.ljust(cls.BYTES, b"\0"))
        return cls(
            trap=trap,
            issuer_lid=issuer,
            details=details,
            producer=word & 0xFFFFFF,
            kind=word >> 24 & 0x7F,
            generic=bool(word >> 31),
            toggle=bool(count >> 15),
            count=count & 0x7FFF,
            issuer_gid=gid,
        )

    def pack(self) -> bytes:
        word = self.generic << 31 | self.kind << 24 | self.producer
        count = self.toggle << 15 | self.count
        return self.LAYOUT.pack(word, self.trap, self.issuer_lid, count, self.details, self.issuer_gid)

    @property
    def gid(self) -> bytes:
        """The GID that traps 64-67 are about."""
        return self.details[6:22]


def gid_details(gid: bytes) -> bytes:
    """The details of traps 64-67."""
    return bytes(6) + gid + bytes(32)


def link_state_details(lid: int) -> bytes:
    """The details of trap 128, a link of switch `lid` changed."""
    return lid.to_bytes(2, "big") + bytes(52)


def capability_details(lid: int, capability_mask: int) -> bytes:
    """The details of trap 144, the CapabilityMask of port `lid` changed."""
    return bytes(2) + lid.to_bytes(2, "big") + bytes(4) + capability_mask.to_bytes(4, "big") + bytes(42)
