"""Every wire value comes back from its own bytes, and no parser lets anything out but `Malformed`."""

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ibbond.errors import Malformed
from ibbond.wire import group_reports, nd, offload, pcap
from ibbond.wire.arp import Arp
from ibbond.wire.checksum import internet_checksum
from ibbond.wire.gid import Gid, gid_text, guid_text, parse_gid_text
from ibbond.wire.group_address import MulticastGid, group_address
from ibbond.wire.group_reports import OldReport, Record, RecordKind, Report
from ibbond.wire.hwaddr import HardwareAddress, parse_address_text
from ibbond.wire.ib import UdPacket
from ibbond.wire.icmp import Echo, host_unreachable, too_big
from ibbond.wire.ip import Ipv4, Ipv6, parse_packet
from ibbond.wire.ipoib import ConnectedModeData, Encapsulated
from ibbond.wire.udp import UdpDatagram

u2, u3, u4, u8, u16, u20, u24, u32, u64 = (st.integers(0, 2**bits - 1) for bits in (2, 3, 4, 8, 16, 20, 24, 32, 64))
data = st.binary(max_size=200)
ip4, ip6, hw20 = (st.binary(min_size=size, max_size=size) for size in (4, 16, 20))
unicast6 = ip6.filter(lambda address: address[0] != 0xFF)
group4 = st.binary(min_size=3, max_size=3).map(lambda low: b"\xe9" + low)
group6 = st.binary(min_size=15, max_size=15).map(lambda low: b"\xff" + low)
link = st.one_of(st.just(b""), hw20, st.binary(min_size=6, max_size=6))
options = st.lists(st.builds(nd.Option, st.integers(3, 255), st.sampled_from([6, 14, 30]).map(bytes)), max_size=2).map(
    tuple
)


def arps() -> st.SearchStrategy[Arp]:
    def of(lengths: tuple[int, int]) -> st.SearchStrategy[Arp]:
        hw, ip = (st.binary(min_size=size, max_size=size) for size in lengths)
        return st.builds(Arp, u16, hw, ip, hw, ip, hardware_type=u16, protocol=u16)

    return st.tuples(st.integers(0, 255), st.integers(0, 255)).flatmap(of)


def reports(width: st.SearchStrategy[bytes], group: st.SearchStrategy[bytes]) -> st.SearchStrategy[Report]:
    record = st.builds(Record, st.sampled_from(RecordKind), group, st.lists(width, max_size=2).map(tuple))
    return st.builds(Report, width, st.lists(record, max_size=3).map(tuple))


VALUES: dict[str, tuple[st.SearchStrategy[Any], Callable[[bytes], object]]] = {
    "gid": (st.builds(Gid, u64, u64), Gid.parse),
    "mgid": (st.builds(MulticastGid, u4, u16, u16, st.integers(0, 2**80 - 1), u4), MulticastGid.parse),
    "hardware address": (st.builds(HardwareAddress, u24, ip6, u8), HardwareAddress.parse),
    "ipoib": (st.builds(Encapsulated, u16, data), Encapsulated.parse),
    "connected mode": (st.builds(ConnectedModeData, u24, u32), ConnectedModeData.parse),
    "arp": (arps(), Arp.parse),
    "ipv4": (
        st.builds(
            Ipv4, ip4, ip4, u8, data, u8, u8, u16, u3, st.integers(0, 0x1FFF), st.sampled_from([b"", b"\x94\4\0\0"])
        ),
        Ipv4.parse,
    ),
    "ipv6": (st.builds(Ipv6, ip6, ip6, u8, data, u8, u8, u20), Ipv6.parse),
    "udp over ipv4": (st.builds(UdpDatagram, ip4, ip4, u16, u16, data, u8), UdpDatagram.parse),
    "udp over ipv6": (st.builds(UdpDatagram, ip6, ip6, u16, u16, data, u8), UdpDatagram.parse),
    "echo over ipv4": (st.builds(Echo, ip4, ip4, u16, u16, data, st.booleans()), Echo.parse),
    "echo over ipv6": (st.builds(Echo, ip6, ip6, u16, u16, data, st.booleans()), Echo.parse),
    "solicitation": (st.builds(nd.NeighborSolicitation, ip6, ip6, unicast6, link, options), nd.parse),
    "advertisement": (
        st.builds(
            nd.NeighborAdvertisement,
            ip6,
            ip6,
            unicast6,
            link,
            st.booleans(),
            st.booleans(),
            st.booleans(),
            options,
        ),
        nd.parse,
    ),
    "router solicitation": (st.builds(nd.RouterSolicitation, ip6, ip6, link, options), nd.parse),
    "router advertisement": (
        st.builds(nd.RouterAdvertisement, ip6, ip6, u8, u8, u16, u32, u32, link, options),
        nd.parse,
    ),
    "redirect": (st.builds(nd.Redirect, ip6, ip6, unicast6, ip6, link, options), nd.parse),
    "igmpv3": (reports(ip4, group4), Report.parse),
    "mldv2": (reports(ip6, group6), Report.parse),
    "igmpv2": (st.builds(OldReport, ip4, group4, st.booleans()), OldReport.parse),
    "mldv1": (st.builds(OldReport, ip6, group6, st.booleans()), OldReport.parse),
    "ud packet, local": (
        st.builds(UdPacket, u16, u16, u24, u24, u32, u16, data, psn=u24, service_level=u4, virtual_lane=u4),
        UdPacket.parse,
    ),
    "ud packet, global": (
        st.builds(UdPacket, u16, u16, u24, u24, u32, u16, data, ip6, ip6, u24, u4, u4, u8, u20, u8),
        UdPacket.parse,
    ),
    "pcap header": (st.builds(pcap.FileHeader, u32), pcap.FileHeader.parse),
    "pcap record": (st.builds(pcap.FileRecord, st.integers(0, 2**32 * 10**9 - 1), data), pcap.FileRecord.parse),
    "erf": (st.builds(pcap.ErfFrame, st.integers(0, 2**32 * 10**9 - 1), data), pcap.ErfFrame.parse),
    "ipoib capture": (st.builds(pcap.IpoibFrame, hw20, hw20, data), pcap.IpoibFrame.parse),
    "offload": (st.builds(offload.OffloadHeader, u8, u8, u16, u16, u16, u16), offload.OffloadHeader.parse),
}

PARSERS: dict[str, Callable[[bytes], object]] = {
    **{name: parse for name, (_, parse) in VALUES.items()},
    "any packet": parse_packet,
    "upper layer": lambda raw: Ipv6.parse(raw).upper_layer(),
    "nd options": nd.parse_options,
    "overheard": group_reports.overheard,
    "is report": group_reports.is_report,
    "is nd": nd.is_message,
    "pcap file": pcap.parse_file,
    "split": lambda raw: offload.split(raw[:10], raw[10:]),
    "segments": lambda raw: offload.segment_count(raw[:10], raw[10:]),
    "gid text": lambda raw: parse_gid_text(raw.decode("latin1")),
    "address text": lambda raw: parse_address_text(raw.decode("latin1")),
}


@pytest.mark.parametrize("name", VALUES)
@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_value_comes_back_from_its_bytes(name: str, draw: st.DataObject) -> None:
    values, parse = VALUES[name]
    value = draw.draw(values)
    assert parse(value.pack()) == value


@pytest.mark.parametrize("name", PARSERS)
@given(st.data())
@settings(max_examples=150, deadline=None)
def test_foreign_bytes_are_malformed_or_a_value(name: str, draw: st.DataObject) -> None:
    """Random bytes, and right bytes that were cut short, grown or bent in one place."""
    raw = draw.draw(st.binary(max_size=120))
    if name in VALUES and draw.draw(st.booleans()):
        raw = draw.draw(VALUES[name][0]).pack()
        raw = raw[: draw.draw(st.integers(0, len(raw)))] + draw.draw(st.binary(max_size=3))
        if raw:
            at = draw.draw(st.integers(0, len(raw) - 1))
            raw = raw[:at] + bytes((draw.draw(u8),)) + raw[at + 1 :]
    with contextlib.suppress(Malformed):
        PARSERS[name](raw)


@given(ip6, ip6)
def test_a_bent_bit_is_seen(one: bytes, other: bytes) -> None:
    packet = bytearray(UdpDatagram(one, other, 1, 2, b"payload").pack())
    packet[-1] ^= 1
    with pytest.raises(Malformed, match="checksum"):
        UdpDatagram.parse(bytes(packet))


def test_discovery_from_beyond_a_router_is_refused() -> None:
    right = nd.NeighborSolicitation(bytes(16), nd.ALL_NODES, b"\xfe\x80" + bytes(14)).pack()
    with pytest.raises(Malformed, match="router"):
        nd.parse(right[:7] + b"\xfe" + right[8:])


@given(hw20, ip6)
def test_texts_come_back(address: bytes, gid: bytes) -> None:
    assert parse_address_text(address.hex(":")) == address
    assert parse_gid_text(gid_text(gid)) == gid
    assert HardwareAddress.parse_text(address.hex(":")).pack() == address


def test_an_address_explains_itself() -> None:
    rows = dict(HardwareAddress.parse_text("80:00:00:49:fe:80:00:00:00:00:00:00:00:02:c9:03:00:0a:00:01").explain())
    assert rows["qpn"] == "0x000049"
    assert rows["guid"] == guid_text(0x0002C903000A0001) == "0002:c903:000a:0001"
    assert rows["link-local"] == "fe80::202:c903:a:1"
    assert "connected mode" in rows["flags"]
    group = HardwareAddress.parse(group_address(b"\xe0\0\0\1", b"\0" + b"\xff" * 4 + b"\x12" + bytes(14)))
    assert dict(group.explain())["kind"] == "multicast"


def test_the_flags_octet_does_not_tell_peers_apart() -> None:
    one, other = HardwareAddress(1, bytes(16), 0x80), HardwareAddress(1, bytes(16), 0)
    assert one.same_peer(other)
    assert not one.same_peer(HardwareAddress(2, bytes(16)))


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        (OldReport(b"\x0a\0\0\1", b"\xe9\1\1\1"), ((b"\xe9\1\1\1", True),)),
        (OldReport(b"\x0a\0\0\1", b"\xe9\1\1\1", leave=True), ((b"\xe9\1\1\1", False),)),
        (group_reports.membership(bytes(16), (nd.ALL_NODES,)), ((nd.ALL_NODES, True),)),
        (
            Report(b"\x0a\0\0\1", (Record(RecordKind.CHANGE_TO_INCLUDE, b"\xe9\1\1\1"),)),
            ((b"\xe9\1\1\1", False),),
        ),
        (
            Report(b"\x0a\0\0\1", (Record(RecordKind.CHANGE_TO_INCLUDE, b"\xe9\1\1\1", (b"\x0a\0\0\2",)),)),
            ((b"\xe9\1\1\1", True),),
        ),
        (Report(b"\x0a\0\0\1", (Record(RecordKind.BLOCK_OLD_SOURCES, b"\xe9\1\1\1", (b"\x0a\0\0\2",)),)), ()),
    ],
)
def test_reports_are_overheard(report: Report | OldReport, expected: tuple[tuple[bytes, bool], ...]) -> None:
    packet = report.pack()
    assert group_reports.is_report(packet)
    assert group_reports.overheard(packet) == expected


@pytest.mark.parametrize("source", [b"\x0a\0\0\1", b"\xfe\x80" + bytes(13) + b"\1"])
def test_errors_quote_the_packet(source: bytes) -> None:
    packet = UdpDatagram(source, source[:-1] + b"\2", 7, 9, bytes(3000)).pack()
    reported = too_big(packet, 2044, source)
    outer = parse_packet(reported)
    assert outer.destination == source
    assert len(reported) <= (576 if len(source) == 4 else 1280)
    assert outer.payload[4:8] == (2044).to_bytes(4)
    assert packet.startswith(outer.payload[8:])
    assert parse_packet(host_unreachable(packet, source)).payload[:2] == (b"\3\1" if len(source) == 4 else b"\1\3")


def test_an_echo_is_answered() -> None:
    ping = Echo(b"\x0a\0\0\1", b"\x0a\0\0\2", 7, 1, b"data")
    assert ping.answer() == Echo(b"\x0a\0\0\2", b"\x0a\0\0\1", 7, 1, b"data", reply=True)
    assert Echo.parse(ping.answer().pack()).reply


def test_the_checksum_example_of_rfc_1071() -> None:
    assert internet_checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0x220D
