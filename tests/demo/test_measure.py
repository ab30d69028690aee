"""The arithmetic of outages, on recordings made by hand."""

import json
from pathlib import Path

import pytest

from ibbond.demo.measure import (
    ByteStream,
    DemoEvent,
    ProbeStream,
    Recording,
    Stream,
    recording_from,
    summarize,
)
from ibbond.demo.report import make_directory, write_report
from ibbond.demo.timeline import active_spans
from ibbond.errors import Refused
from ibbond.machine import MS, SECOND

MOVES = (
    DemoEvent(1 * SECOND, "cut", "h1/ib0"),
    DemoEvent(1 * SECOND, "failover", "h1/bond0", "ib0 -> ib1"),
    DemoEvent(2 * SECOND, "mend", "h1/ib0"),
    DemoEvent(2 * SECOND, "failback", "h1/bond0", "ib1 -> ib0"),
)


def probes(protocol: str, lost_at_ms: set[int], spacing_ms: int = 1, direction: str = "h1 -> h2") -> ProbeStream:
    sent = [at * MS for at in range(0, 3000, spacing_ms)]
    return ProbeStream(
        protocol, direction, spacing_ms * MS, sent, [0 if at // MS in lost_at_ms else at + 30_000 for at in sent]
    )


def tcp(*silences: tuple[int, int], intact: bool = True, last_at_ms: int = 3000) -> ByteStream:
    return ByteStream(
        "h1 -> h2", 1000, 1000, intact, [(a * MS, b * MS) for a, b in silences], last_at_ms * MS, protocol="tcp"
    )


def run(*streams: Stream) -> Recording:
    return Recording("live", 1, 0, 3 * SECOND, MOVES, streams)


GOOD = (probes("icmp", set(), 10), probes("udp", set()), tcp((1000, 1003)), probes("multicast", set()))


def test_nothing_lost() -> None:
    summary = summarize(run(*GOOD))
    assert summary.survived
    udp = summary.as_json(None)["protocols"]["udp"]  # type: ignore[index]
    assert udp == {
        "sent": 3000,
        "received": 3000,
        "failover": {"lost_max": 0, "outage_ms_median": 0, "outage_ms_max": 0},
        "failback": {"lost_max": 0, "outage_ms_median": 0, "outage_ms_max": 0},
    }


def test_outage_is_lost_probes_times_spacing_and_the_worse_direction_counts() -> None:
    summary = summarize(
        run(
            GOOD[0],
            probes("udp", {1000, 1001}),
            probes("udp", {999, 1000, 1001}, direction="h2 -> h1"),
            GOOD[2],
            probes("multicast", {2004}),
        )
    )
    rows = {row.protocol: row for row in summary.protocols}
    assert rows["udp"].failover.lost == (3,)
    assert rows["udp"].failover.outage_ms == (3.0,)
    assert rows["udp"].failback.lost == (0,)
    assert rows["multicast"].failover.lost == (0,)
    assert rows["multicast"].failback.lost == (1,)
    assert rows["udp"].sent == 6000
    assert rows["udp"].received == 5995
    assert rows["udp"].elsewhere == 0


def test_a_lost_ping_is_ten_milliseconds() -> None:
    row = summarize(run(probes("icmp", {1000}, 10), *GOOD[1:])).protocols[0]
    assert row.failover.outage_ms == (10.0,)


def test_losses_far_from_any_event_are_counted_apart() -> None:
    row = summarize(run(GOOD[0], probes("udp", {500, 1000}), *GOOD[2:])).protocols[1]
    assert row.failover.lost == (1,)
    assert row.elsewhere == 1


def test_tcp_has_the_longest_silence() -> None:
    row = summarize(run(*GOOD[:2], tcp((1000, 1003), (1010, 1210), (2000, 2002)), GOOD[3])).protocols[2]
    assert row.failover.outage_ms == (200.0,)
    assert row.failback.outage_ms == (2.0,)
    assert row.survived


@pytest.mark.parametrize(
    "stream",
    [
        probes("udp", set(range(1000, 2000))),
        probes("udp", set(range(2100, 3000))),
        tcp(last_at_ms=1001),
        tcp((1000, 1999)),
        tcp(intact=False),
        probes("icmp", set(range(3000)), 10),
    ],
    ids=["dead after the cut", "dead at the end", "tcp ended", "tcp silent until the mend", "other bytes", "never"],
)
def test_what_does_not_survive(stream: Stream) -> None:
    others = [good for good in GOOD if good.protocol != stream.protocol]
    summary = summarize(run(stream, *others))
    assert not summary.survived
    assert [row.protocol for row in summary.protocols if not row.survived] == [stream.protocol]


def test_a_missing_protocol_or_a_run_without_moves_is_no_survival() -> None:
    assert not summarize(run(*GOOD[:3])).survived
    assert not summarize(Recording("live", 1, 0, 3 * SECOND, (), GOOD)).survived


def test_a_simulated_recording_comes_as_plain_values() -> None:
    raw = {
        "mode": "simulated",
        "rounds": 1,
        "started_at": 0,
        "ended_at": 3 * SECOND,
        "happenings": [list(happening) for happening in MOVES],
        "probes": [
            {
                "protocol": s.protocol,
                "direction": s.direction,
                "spacing_ns": s.spacing_ns,
                "sent": list(s.sent),
                "arrived": list(s.arrived),
            }
            for s in GOOD
            if isinstance(s, ProbeStream)
        ],
        "bytes": [
            {
                "direction": "h1 -> h2",
                "sent_bytes": 1000,
                "received_bytes": 1000,
                "intact": True,
                "silences": [[1000 * MS, 1003 * MS]],
                "last_at": 3 * SECOND,
            }
        ],
    }
    assert summarize(recording_from(json.loads(json.dumps(raw)))).survived


def test_active_members_over_time() -> None:
    assert list(active_spans(run(*GOOD), "h1/bond0")) == [
        (0, 1 * SECOND, "ib0"),
        (1 * SECOND, 2 * SECOND, "ib1"),
        (2 * SECOND, 3 * SECOND, "ib0"),
    ]


def test_the_report_stands_alone_and_carries_the_numbers(tmp_path: Path) -> None:
    summary = summarize(run(*GOOD[:1], probes("udp", {1000, 1001}), *GOOD[2:]))
    path = write_report(summary, tmp_path / "new" / "directory")
    text = path.read_text()
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    assert text.count("<svg") == 3
    assert (path.parent / "timeline.svg").read_text().startswith("<svg")
    numbers = text.split('id="numbers">')[1].split("</script>")[0]
    assert json.loads(numbers) == summary.as_json(str(path))


def test_a_place_that_cannot_hold_a_report_is_refused_before_the_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Refused, match="cannot write a report"):
        make_directory(tmp_path / "file" / "report")


def test_names_in_a_report_are_text_and_never_markup(tmp_path: Path) -> None:
    evil = DemoEvent(1 * SECOND, "failover", "<script>alert(1)</script>", "a -> <b>")
    path = write_report(summarize(Recording("live", 1, 0, 3 * SECOND, (evil,), GOOD)), tmp_path)
    assert "<script>alert" not in path.read_text()
