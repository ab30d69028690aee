"""Our captures as tshark reads them: the word of a third-party program."""

import shutil
import subprocess
from pathlib import Path

import pytest

from ibbond.wire import arp, group_reports, nd, pcap
from ibbond.wire.group_address import broadcast_address, group_address
from ibbond.wire.hwaddr import HardwareAddress
from ibbond.wire.ib import UdPacket
from ibbond.wire.icmp import Echo
from ibbond.wire.ipoib import ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Encapsulated
from ibbond.wire.mad import Method
from ibbond.wire.sa import SaAttribute, SaMad
from ibbond.wire.sa_records import JoinState, McMemberMask, McMemberRecord, PathMask, PathRecord

TSHARK = shutil.which("tshark")
pytestmark = pytest.mark.skipif(TSHARK is None, reason="tshark is not installed")

NOW = 1_700_000_000_123_456_789
GID = bytes.fromhex("fe800000000000000002c90300100001")
IB0 = HardwareAddress(0x48, GID).pack()
A4, B4 = b"\x0a\0\0\1", b"\x0a\0\0\2"
LOCAL = HardwareAddress(0x48, GID).link_local
BROADCAST = broadcast_address(0xFFFF)
REQUEST = Encapsulated(ETHERTYPE_ARP, arp.request(IB0, A4, B4).pack()).pack()
PING = Encapsulated(ETHERTYPE_IPV4, Echo(A4, B4, 7, 1, b"data").pack()).pack()
ADVERTISEMENT = Encapsulated(
    ETHERTYPE_IPV6, nd.NeighborAdvertisement(LOCAL, nd.ALL_NODES, LOCAL, IB0, override=True).pack()
).pack()
REPORT = Encapsulated(ETHERTYPE_IPV4, group_reports.membership(A4, (b"\xef\1\2\3",)).pack()).pack()
LISTENER = Encapsulated(ETHERTYPE_IPV6, group_reports.membership(LOCAL, (nd.ALL_NODES,)).pack()).pack()


def decode(path: Path, *fields: str) -> list[list[str]]:
    assert TSHARK is not None
    arguments = [part for field in fields for part in ("-e", field)]
    command = [TSHARK, "-n", "-r", str(path), "-T", "fields", "-E", "separator=|", *arguments]
    run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return [line.split("|") for line in run.stdout.splitlines()]


def packet(payload: bytes, destination: bytes | None) -> bytes:
    """A UD packet: multicast to a group address, or (None) unicast without a GRH."""
    if destination is None:
        return UdPacket(5, 6, 0x48, 0x49, 0x0B1B, 0xFFFF, payload, psn=3).pack()
    return UdPacket(5, 0xC001, 0x48, 0xFFFFFF, 0x0B1B, 0xFFFF, payload, GID, destination[4:], psn=2).pack()


def test_frames_of_cables(tmp_path: Path) -> None:
    frames = [
        packet(REQUEST, BROADCAST),
        packet(PING, None),
        packet(ADVERTISEMENT, group_address(nd.ALL_NODES, BROADCAST)),
        packet(REPORT, group_address(group_reports.ALL_REPORTS_V4, BROADCAST)),
        packet(LISTENER, group_address(group_reports.ALL_REPORTS_V6, BROADCAST)),
    ]
    path = tmp_path / "cable.pcap"
    records = b"".join(pcap.erf_record(NOW, frame) for frame in frames)
    path.write_bytes(pcap.FileHeader(pcap.LINKTYPE_ERF).pack() + records)
    rows = decode(
        path,
        "_ws.col.Protocol",
        "infiniband.lrh.dlid",
        "infiniband.grh.dgid",
        "infiniband.bth.destqp",
        "infiniband.deth.srcqp",
        "infiniband.deth.q_key",
        "arp.hw.type",
        "arp.hw.size",
        "arp.src.hw",
        "icmp.type",
        "icmpv6.type",
        "_ws.malformed",
        "_ws.expert.group",
    )
    request, ping, advertisement, report, listener = rows
    assert request[0] == "ARP"
    assert request[1:3] == ["49153", "ff12:401b:ffff::ffff:ffff"]
    assert [int(request[at], 0) for at in (3, 4, 5)] == [0xFFFFFF, 0x48, 0x0B1B]
    assert request[6:8] == ["32", "20"]
    assert request[8].replace(":", "") == IB0.hex()
    assert (ping[0], ping[2], ping[9]) == ("ICMP", "", "8")
    assert (advertisement[0], advertisement[10]) == ("ICMPv6", "136")
    assert report[0] == "IGMPv3"
    assert listener[10] == "143"
    assert not any(row[11] for row in rows), "malformed"
    assert decode(path, "frame.time_epoch")[0][0].startswith("1700000000.123456")


def test_frames_of_interfaces(tmp_path: Path) -> None:
    path = tmp_path / "interface.pcap"
    path.write_bytes(
        pcap.FileHeader(pcap.LINKTYPE_IPOIB).pack()
        + pcap.ipoib_record(NOW, BROADCAST, REQUEST)
        + pcap.ipoib_record(NOW, IB0, PING)
        + pcap.ipoib_record(NOW, group_address(nd.ALL_NODES, BROADCAST), ADVERTISEMENT)
    )
    rows = decode(path, "_ws.col.Protocol", "arp.hw.type", "arp.src.hw", "icmp.seq", "icmpv6.type", "_ws.malformed")
    assert [row[0] for row in rows] == ["ARP", "ICMP", "ICMPv6"]
    assert rows[0][1] == "32"
    assert rows[0][2].replace(":", "") == IB0.hex()
    assert rows[1][3] == "1"
    assert rows[2][4] == "136"
    assert not any(row[5] for row in rows)


def test_checksums_that_tshark_verifies(tmp_path: Path) -> None:
    """IP, ICMP, ICMPv6 and IGMP checksums as tshark computes them (1 is good)."""
    path = tmp_path / "sums.pcap"
    frames = [PING, ADVERTISEMENT, REPORT, LISTENER]
    path.write_bytes(
        pcap.FileHeader(pcap.LINKTYPE_IPOIB).pack()
        + b"".join(pcap.ipoib_record(NOW, BROADCAST, frame) for frame in frames)
    )
    rows = decode(path, "icmp.checksum.status", "icmpv6.checksum.status", "igmp.checksum.status")
    assert [next(status for status in row if status) for row in rows] == ["1", "1", "1", "1"]


def test_joins_and_path_queries(tmp_path: Path) -> None:
    """SA MADs as IPoIB sends them, in a capture of a cable."""
    join = SaMad(
        Method.SET,
        SaAttribute.MC_MEMBER_RECORD,
        component_mask=McMemberMask.MGID | McMemberMask.PORT_GID | McMemberMask.JOIN_STATE,
        data=McMemberRecord(mgid=BROADCAST[4:], port_gid=GID, pkey=0xFFFF, join_state=JoinState.FULL).pack(),
        transaction_id=0x8000_0000_4800_0001,
    )
    path_query = SaMad(
        Method.GET,
        SaAttribute.PATH_RECORD,
        component_mask=PathMask.DGID | PathMask.SGID,
        data=PathRecord(dgid=GID[:-1] + b"\x11", sgid=GID, numb_path=1, pkey=0xFFFF).pack(),
    )
    frames = [UdPacket(5, 1, 1, 1, 0x80010000, 0xFFFF, mad.pack()).pack() for mad in (join, path_query)]
    path = tmp_path / "sa.pcap"
    path.write_bytes(
        pcap.FileHeader(pcap.LINKTYPE_ERF).pack() + b"".join(pcap.erf_record(NOW, frame) for frame in frames)
    )
    rows = decode(
        path,
        "infiniband.mad.mgmtclass",
        "infiniband.mad.method",
        "infiniband.mcmemberrecord.mgid",
        "infiniband.mcmemberrecord.portgid",
        "infiniband.mcmemberrecord.joinstate",
        "infiniband.pathrecord.dgid",
        "infiniband.pathrecord.sgid",
        "_ws.malformed",
    )
    assert [int(value, 0) for value in rows[0][:2]] == [3, 2]
    assert rows[0][2:4] == ["ff12:401b:ffff::ffff:ffff", "fe80::2:c903:10:1"]
    assert int(rows[0][4], 0) == 1
    assert rows[1][5:7] == ["fe80::2:c903:10:11", "fe80::2:c903:10:1"]
    assert not any(row[7] for row in rows)
