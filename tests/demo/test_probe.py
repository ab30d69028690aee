"""What a measurement between two hosts comes to; the traffic itself is in tests/live/test_look.py."""

import pytest

from ibbond.demo.measure import ByteStream, ProbeStream
from ibbond.demo.probe import common_addresses, summarize
from ibbond.machine import MS


def probes(*arrived: bool) -> ProbeStream:
    """One probe each millisecond from 1 ms on."""
    sent = [(number + 1) * MS for number in range(len(arrived))]
    came = [at + 1000 if there else 0 for at, there in zip(sent, arrived, strict=True)]
    return ProbeStream("udp", "h1 > h2", MS, sent, came)


def test_the_longest_run_of_lost_probes_is_the_outage() -> None:
    stream = probes(True, False, True, False, False, False, True)
    assert stream.longest_outage(0, 10 * MS) == (3 * MS, 4 * MS)
    assert stream.longest_outage(0, 4 * MS) == (MS, 2 * MS)
    assert probes(True, True).longest_outage(0, 10 * MS) == (0, 0)


def test_the_longest_silence_of_a_stream_is_its_outage() -> None:
    stream = ByteStream("h1 > h2", 10, 10, True, silences=[(2 * MS, 4 * MS), (10 * MS, 15 * MS)], last_at=20 * MS)
    assert stream.longest_outage(0, 20 * MS) == (5 * MS, 10 * MS)
    assert stream.longest_outage(0, 50 * MS) == (30 * MS, 20 * MS)


def test_the_worse_direction_counts() -> None:
    there, back = probes(*[True] * 500), probes(*[True] * 300, *[False] * 7, *[True] * 193)
    row = summarize("udp", [there, back], 0, 500 * MS)
    assert (row.sent, row.received, row.lost) == (999 + 1, 993, 7)
    assert (row.outage_ms, row.outage_at_ms, row.works) == (7.0, 301.0, True)


def test_a_protocol_that_is_silent_at_the_end_does_not_work() -> None:
    row = summarize("udp", [probes(*[True] * 100, *[False] * 400)], 0, 501 * MS)
    assert not row.works


@pytest.mark.parametrize(
    ("ones", "twos", "wanted"),
    [
        (["10.0.0.1/24"], ["10.0.0.2/24"], ("10.0.0.1", "10.0.0.2")),
        (["10.1.0.1/24", "10.0.0.1/24"], ["10.0.0.2/24"], ("10.0.0.1", "10.0.0.2")),
        (["10.1.0.1/24"], ["10.2.0.2/24"], ("10.1.0.1", "10.2.0.2")),
        ([], ["10.0.0.2/24"], None),
    ],
)
def test_hosts_meet_in_a_network_that_both_have(
    ones: list[str], twos: list[str], wanted: tuple[str, str] | None
) -> None:
    assert common_addresses(ones, twos) == wanted
