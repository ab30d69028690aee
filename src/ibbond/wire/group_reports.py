"""IGMP and MLD reports: how hosts say which IP groups they want, built and overheard.

Read first: RFC 2236 (IGMPv2), RFC 3376 (IGMPv3), RFC 2710 (MLDv1), RFC 3810 (MLDv2). Left out: queries (routers ask,
and ibbond is none) and source filtering beyond telling "none" from "some".
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import ClassVar, Self

from ibbond.errors import Malformed
from ibbond.wire.checksum import internet_checksum, upper_checksum
from ibbond.wire.ip import HOP_BY_HOP, ICMPV6, IGMP, ROUTER_ALERT, ROUTER_ALERT_HEADER, Ipv4, Ipv6, parse_packet

ALL_REPORTS_V4 = bytes((224, 0, 0, 22))
ALL_ROUTERS_V4 = bytes((224, 0, 0, 2))
ALL_REPORTS_V6 = b"\xff\x02" + bytes(13) + b"\x16"
ALL_ROUTERS_V6 = b"\xff\x02" + bytes(13) + b"\x02"
INTERNETWORK_CONTROL = 0xC0  # type of service of IGMP reports
IGMP_V1_REPORT, IGMP_V2_REPORT, IGMP_LEAVE, IGMP_V3_REPORT = 0x12, 0x16, 0x17, 0x22
MLD_REPORT, MLD_DONE, MLD_V2_REPORT = 131, 132, 143
OLD_IGMP = frozenset((IGMP_V1_REPORT, IGMP_V2_REPORT, IGMP_LEAVE))
OLD_MLD = frozenset((MLD_REPORT, MLD_DONE))
MLD_REPORTS = OLD_MLD | {MLD_V2_REPORT}


class RecordKind(enum.IntEnum):
    """What a group record of IGMPv3 or MLDv2 says."""

    MODE_IS_INCLUDE = 1
    MODE_IS_EXCLUDE = 2
    CHANGE_TO_INCLUDE = 3
    CHANGE_TO_EXCLUDE = 4
    ALLOW_NEW_SOURCES = 5
    BLOCK_OLD_SOURCES = 6


@dataclass(frozen=True, slots=True)
class Record:
    """One group record; `sources` are addresses of the group's length."""

    kind: RecordKind
    group: bytes
    sources: tuple[bytes, ...] = ()

    @property
    def member(self) -> bool | None:
        """Whether the sender receives the group after this record; None when the record does not say."""
        match self.kind:
            case RecordKind.MODE_IS_EXCLUDE | RecordKind.CHANGE_TO_EXCLUDE:
                return True
            case RecordKind.MODE_IS_INCLUDE | RecordKind.CHANGE_TO_INCLUDE:
                return bool(self.sources)
            case RecordKind.ALLOW_NEW_SOURCES:
                return True
            case RecordKind.BLOCK_OLD_SOURCES:
                return None


@dataclass(frozen=True, slots=True)
class Report:
    """An IGMPv3 or MLDv2 report (by the length of `source`), as a whole IP packet."""

    HEAD: ClassVar = struct.Struct("!HH")  # reserved, number of records
    RECORD: ClassVar = struct.Struct("!BBH")  # kind, words of auxiliary data, number of sources
    source: bytes
    records: tuple[Record, ...]

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        source, kind, body = _parse_message(raw)
        if kind not in (IGMP_V3_REPORT, MLD_V2_REPORT) or (kind == IGMP_V3_REPORT) != (len(source) == 4):
            raise Malformed(f"not a version 3 (MLD 2) report: type {kind}")
        if len(body) < cls.HEAD.size:
            raise Malformed("group report is cut short")
        _, count = cls.HEAD.unpack_from(body)
        records = []
        rest = body[cls.HEAD.size :]
        for _ in range(count):
            record, rest = cls._parse_record(rest, len(source))
            records.append(record)
        return cls(source, tuple(records))

    @classmethod
    def _parse_record(cls, raw: bytes, width: int) -> tuple[Record, bytes]:
        if len(raw) < cls.RECORD.size + width:
            raise Malformed("group record is cut short")
        kind, auxiliary, count = cls.RECORD.unpack_from(raw)
        if not 1 <= kind <= len(RecordKind):
            raise Malformed(f"group record of kind {kind}")
        first = cls.RECORD.size + width
        after = first + count * width
        if len(raw) < after + 4 * auxiliary:
            raise Malformed("group record is cut short")
        sources = tuple(raw[at : at + width] for at in range(first, after, width))
        return Record(RecordKind(kind), _group(raw[cls.RECORD.size : first]), sources), raw[after + 4 * auxiliary :]

    def pack(self) -> bytes:
        body = self.HEAD.pack(0, len(self.records))
        for record in self.records:
            body += self.RECORD.pack(record.kind, 0, len(record.sources)) + record.group + b"".join(record.sources)
        if len(self.source) == 4:
            return _pack_igmp(self.source, ALL_REPORTS_V4, bytes((IGMP_V3_REPORT, 0, 0, 0)) + body)
        return _pack_mld(self.source, ALL_REPORTS_V6, bytes((MLD_V2_REPORT, 0, 0, 0)) + body)


@dataclass(frozen=True, slots=True)
class OldReport:
    """An IGMPv2 or MLDv1 report of one group, or its leave (done) message."""

    source: bytes
    group: bytes
    leave: bool = False

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        source, kind, body = _parse_message(raw)
        if len(source) == 4:
            known, leave, group = OLD_IGMP, IGMP_LEAVE, body[:4]
        else:
            known, leave, group = OLD_MLD, MLD_DONE, body[4:20]
        if kind not in known:
            raise Malformed(f"not a version 2 (MLD 1) report: type {kind}")
        if len(group) != len(source):
            raise Malformed("group report is cut short")
        return cls(source, _group(group), leave=kind == leave)

    def pack(self) -> bytes:
        if len(self.source) == 4:
            kind, to = (IGMP_LEAVE, ALL_ROUTERS_V4) if self.leave else (IGMP_V2_REPORT, self.group)
            return _pack_igmp(self.source, to, bytes((kind, 0, 0, 0)) + self.group)
        kind, to = (MLD_DONE, ALL_ROUTERS_V6) if self.leave else (MLD_REPORT, self.group)
        return _pack_mld(self.source, to, bytes((kind, 0, 0, 0)) + bytes(4) + self.group)


def membership(source: bytes, groups: tuple[bytes, ...]) -> Report:
    """The report with which a host repeats that it is in these groups (after a failover, `resend_igmp`)."""
    return Report(source, tuple(Record(RecordKind.CHANGE_TO_EXCLUDE, group) for group in groups))


def is_report(packet: bytes | bytearray | memoryview) -> bool:
    """Whether an IP packet may be a group report: a sign that a host's groups have changed. Cheap.

    True of malformed ones too. MLD has a hop-by-hop header of any length before it (RFC 3810 section 5).
    """
    if len(packet) >= 20 and packet[0] >> 4 == 4:
        return packet[9] == IGMP
    if len(packet) < 49 or packet[0] >> 4 != 6 or packet[6] != HOP_BY_HOP or packet[40] != ICMPV6:
        return False
    at = 48 + 8 * packet[41]
    return len(packet) > at and packet[at] in MLD_REPORTS


def overheard(packet: bytes) -> tuple[tuple[bytes, bool], ...]:
    """What a report says about its sender: (group, member from now on?) in the order of the records.

    Queries and other messages say nothing; raises `Malformed` on bytes that are no whole message.
    """
    source, kind, _ = _parse_message(packet)
    if kind == (IGMP_V3_REPORT if len(source) == 4 else MLD_V2_REPORT):
        report = Report.parse(packet)
        return tuple((record.group, record.member) for record in report.records if record.member is not None)
    if kind in (OLD_IGMP if len(source) == 4 else OLD_MLD):
        old = OldReport.parse(packet)
        return ((old.group, not old.leave),)
    return ()


def _group(group: bytes) -> bytes:
    if group[0] >> 4 != 0xE if len(group) == 4 else group[0] != 0xFF:
        raise Malformed("group report about an address that is not a group")
    return group


def _parse_message(raw: bytes) -> tuple[bytes, int, bytes]:
    """Source address, message type, bytes behind the checksum."""
    packet = parse_packet(raw)
    if isinstance(packet, Ipv4):
        if packet.protocol != IGMP or packet.is_fragment or len(packet.payload) < 8:
            raise Malformed(f"not an IGMP message: protocol {packet.protocol}")
        message, wrong = packet.payload, internet_checksum(packet.payload)
    else:
        protocol, message = packet.upper_layer()
        if protocol != ICMPV6 or len(message) < 8:
            raise Malformed(f"not an MLD message: protocol {protocol}")
        wrong = upper_checksum(packet.source, packet.destination, ICMPV6, message)
    if wrong:
        raise Malformed("checksum of a group report is wrong")
    return packet.source, message[0], message[4:]


def _pack_igmp(source: bytes, destination: bytes, bare: bytes) -> bytes:
    message = bare[:2] + internet_checksum(bare).to_bytes(2) + bare[4:]
    return Ipv4(source, destination, IGMP, message, ttl=1, tos=INTERNETWORK_CONTROL, options=ROUTER_ALERT).pack()


def _pack_mld(source: bytes, destination: bytes, bare: bytes) -> bytes:
    message = bare[:2] + upper_checksum(source, destination, ICMPV6, bare).to_bytes(2) + bare[4:]
    hop_by_hop = bytes((ICMPV6, 0)) + ROUTER_ALERT_HEADER
    return Ipv6(source, destination, HOP_BY_HOP, hop_by_hop + message, hop_limit=1).pack()
