"""Group reports are recognized among other packets, whatever stands before them."""

import pytest

from ibbond.wire.group_reports import MLD_DONE, MLD_REPORT, MLD_V2_REPORT, is_report
from ibbond.wire.ip import HOP_BY_HOP, ICMPV6, ROUTER_ALERT_HEADER, Ipv6

SOURCE = b"\xfe\x80" + bytes(13) + b"\1"
PADDING = b"\x01\x06" + bytes(6)  # PadN


def test_reports_are_recognised() -> None:
    igmp = bytes.fromhex("46c00028000040000102") + bytes(30)
    mld = bytes.fromhex("6000000000240001") + bytes(32) + bytes.fromhex("3a000502000001008f00") + bytes(20)
    assert is_report(igmp)
    assert is_report(mld)


def test_other_packets_are_no_reports() -> None:
    udp = bytes.fromhex("4500001c000040004011") + bytes(18)
    echo = bytes.fromhex("6000000000083a40") + bytes(32) + bytes.fromhex("8000000000000000")
    hop_by_hop_udp = bytes.fromhex("6000000000100001") + bytes(32) + bytes.fromhex("1100050200000100") + bytes(8)
    for packet in (udp, echo, hop_by_hop_udp, echo[:44], udp[:9], b""):
        assert not is_report(packet)


@pytest.mark.parametrize("kind", [MLD_REPORT, MLD_DONE, MLD_V2_REPORT])
@pytest.mark.parametrize("words", [0, 1, 5])
def test_a_hop_by_hop_header_of_any_length_may_stand_before_mld(kind: int, words: int) -> None:
    options = bytes((ICMPV6, words)) + ROUTER_ALERT_HEADER + PADDING * words
    packet = Ipv6(SOURCE, SOURCE, HOP_BY_HOP, options + bytes((kind, 0, 0, 0)) + bytes(20)).pack()
    assert is_report(packet)
    assert is_report(memoryview(packet))
    assert not is_report(packet[: 48 + 8 * words])


def test_what_looks_like_a_report_inside_the_options_is_not_one() -> None:
    """The type is read behind the header: option 143 at the place where an 8-byte header would end."""
    options = bytes((ICMPV6, 1)) + ROUTER_ALERT_HEADER + bytes((MLD_V2_REPORT, 6)) + bytes(6)
    packet = Ipv6(SOURCE, SOURCE, HOP_BY_HOP, options + bytes((128, 0, 0, 0)) + bytes(20)).pack()
    assert not is_report(packet)
