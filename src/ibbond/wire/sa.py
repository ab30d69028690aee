"""Subnet administration MADs: the envelope of every query, join and report, with its RMPP header.

Read first: InfiniBand Architecture volume 1, 15.2.1 (format), 13.6 (RMPP) and 15.2.2 (status). The records inside are
in `sa_records`. Left out: nothing of the envelope; `attribute` says which attribute the data is of.
"""

import enum
import struct
from dataclasses import dataclass
from typing import ClassVar, Self

from ibbond.errors import Malformed
from ibbond.wire.mad import CLASS_VERSION, MAD_BYTES, MadHeader, ManagementClass

SA_DATA_BYTES = 200
RMPP_VERSION = 1
RMPP_OVERHEAD = 20  # SM_Key, attribute offset, component mask: the payload length of RMPP counts them


class SaAttribute(enum.IntEnum):
    CLASS_PORT_INFO = 0x01
    NOTICE = 0x02
    INFORM_INFO = 0x03
    NODE_RECORD = 0x11
    PORT_INFO_RECORD = 0x12
    LINK_RECORD = 0x20
    SERVICE_RECORD = 0x31
    PATH_RECORD = 0x35
    MC_MEMBER_RECORD = 0x38
    INFORM_INFO_RECORD = 0xF3


class SaStatus(enum.IntEnum):
    """What the administrator answers in the status field; the class codes are in the high byte."""

    OK = 0
    NO_RESOURCES = 0x0100
    INVALID = 0x0200
    NO_RECORDS = 0x0300
    TOO_MANY_RECORDS = 0x0400
    INVALID_GID = 0x0500
    INSUFFICIENT_COMPONENTS = 0x0600
    DENIED = 0x0700


class RmppType(enum.IntEnum):
    NONE = 0
    DATA = 1
    ACK = 2
    STOP = 3
    ABORT = 4


class RmppFlags(enum.IntFlag):
    NONE = 0
    ACTIVE = 1
    FIRST = 2
    LAST = 4


@dataclass(frozen=True, slots=True)
class Rmpp:
    """The header of the reliable multi-packet protocol; all zero in a single MAD.

    In DATA, `segment` counts from 1 and `payload_bytes` is the length of the whole in the first segment and of this
    segment in the last. In ACK they are the last segment received and the new window's last.
    """

    LAYOUT: ClassVar = struct.Struct("!BBBBII")
    type: int = RmppType.NONE
    flags: int = 0
    segment: int = 0
    payload_bytes: int = 0
    status: int = 0
    response_time: int = 0
    version: int = 0

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        if len(raw) != cls.LAYOUT.size:
            raise Malformed(f"an RMPP header has {cls.LAYOUT.size} bytes, got {len(raw)}")
        version, kind, flags, status, segment, payload = cls.LAYOUT.unpack(raw)
        if kind > RmppType.ABORT:
            raise Malformed(f"no RMPP type {kind}")
        return cls(kind, flags & 7, segment, payload, status, flags >> 3, version)

    def pack(self) -> bytes:
        flags = self.response_time << 3 | self.flags
        return self.LAYOUT.pack(self.version, self.type, flags, self.status, self.segment, self.payload_bytes)


SINGLE = Rmpp()


@dataclass(frozen=True, slots=True)
class SaMad:
    """One MAD of class 0x03: 200 bytes of `data`, shorter values are padded with zeros.

    `record_bytes` is the distance between records of a table (a multiple of 8, zero when there is none).
    """

    LAYOUT: ClassVar = struct.Struct("!24s12sQHHQ200s")
    method: int
    attribute: int
    component_mask: int = 0
    data: bytes = bytes(SA_DATA_BYTES)
    transaction_id: int = 0
    modifier: int = 0
    status: int = 0
    sm_key: int = 0
    record_bytes: int = 0
    rmpp: Rmpp = SINGLE

    @classmethod
    def parse(cls, mad: bytes) -> Self:
        header = MadHeader.parse(mad)
        if header.management_class != ManagementClass.SUBNET_ADMINISTRATION:
            raise Malformed(f"class {header.management_class:#04x} is not subnet administration")
        if header.class_version != CLASS_VERSION[ManagementClass.SUBNET_ADMINISTRATION]:
            raise Malformed(f"subnet administration of class version {header.class_version}")
        _, rmpp, sm_key, offset, _, mask, data = cls.LAYOUT.unpack(mad)
        return cls(
            header.method,
            header.attribute,
            mask,
            data,
            header.transaction_id,
            header.modifier,
            header.status,
            sm_key,
            offset * 8,
            Rmpp.parse(rmpp),
        )

    def pack(self) -> bytes:
        kind = ManagementClass.SUBNET_ADMINISTRATION
        header = MadHeader(
            kind,
            self.method,
            self.transaction_id,
            self.attribute,
            self.modifier,
            self.status,
            class_version=CLASS_VERSION[kind],
        )
        assert len(self.data) <= SA_DATA_BYTES, "one MAD carries 200 bytes of subnet administration data"
        offset = self.record_bytes // 8
        return self.LAYOUT.pack(header.pack(), self.rmpp.pack(), self.sm_key, offset, 0, self.component_mask, self.data)

    @property
    def data_bytes(self) -> int:
        """How many bytes of `data` are meant: fewer than 200 only in an RMPP segment that says so."""
        rmpp = self.rmpp
        if rmpp.type != RmppType.DATA or not rmpp.flags & (RmppFlags.LAST | RmppFlags.FIRST):
            return SA_DATA_BYTES
        if rmpp.flags & RmppFlags.LAST:
            return min(max(rmpp.payload_bytes - RMPP_OVERHEAD, 0), SA_DATA_BYTES)
        return SA_DATA_BYTES


assert SaMad.LAYOUT.size == MAD_BYTES


def is_rmpp_control(mad: bytes) -> bool:
    """A MAD that steers a transfer from its receiving side: it has the method of an answer, but goes to who answers."""
    subnet_administration = mad[1] == ManagementClass.SUBNET_ADMINISTRATION
    return subnet_administration and mad[25] in (RmppType.ACK, RmppType.STOP, RmppType.ABORT)


def records(data: bytes, record_bytes: int) -> list[bytes]:
    """The records of a reassembled table, each `record_bytes` long; a rest that is not a record is left."""
    if record_bytes <= 0:
        return []
    return [data[at : at + record_bytes] for at in range(0, len(data) - record_bytes + 1, record_bytes)]
