"""A late lab is never reported as a lost packet, and a lost packet never as a late lab."""

from ibbond.demo.measure import ByteStream, DemoEvent, ProbeStream, Recording, outside, summarize
from ibbond.machine import MS

LENGTH = 1000  # probes, one each millisecond


def recording(lost: range, *late: tuple[int, int]) -> Recording:
    sent = [n * MS for n in range(LENGTH)]
    arrived = [0 if n in lost else at + 1 for n, at in enumerate(sent)]
    streams = tuple(
        ProbeStream(protocol, direction, MS, sent, arrived)
        for protocol in ("icmp", "udp", "multicast")
        for direction in ("a > b", "b > a")
    )
    happenings = (DemoEvent(100 * MS, "failover", "h1/bond0"), DemoEvent(500 * MS, "failback", "h1/bond0"))
    spans = tuple((since * MS, until * MS) for since, until in late)
    return Recording("live", 1, 0, LENGTH * MS, happenings, streams, late=spans)


def lost(found: Recording) -> tuple[int, int]:
    row = next(row for row in summarize(found).protocols if row.protocol == "udp")
    return max(row.failover.lost), max(row.failback.lost)


def test_what_was_lost_while_the_lab_was_late_is_not_counted() -> None:
    found = recording(range(120, 180), (110, 200))
    assert lost(found) == (0, 0)
    (note,) = summarize(found).recording.notes
    assert note.startswith("360 probes were lost while the lab was late")


def test_what_was_lost_at_another_time_is_counted() -> None:
    assert lost(recording(range(120, 180))) == (60, 0)
    assert lost(recording(range(120, 180), (600, 700))) == (60, 0)
    assert lost(recording(range(120, 180), (150, 700))) == (30, 0)
    assert summarize(recording(range(120, 180), (600, 700))).recording.notes == ()


def test_a_protocol_that_was_late_at_the_end_of_a_move_has_survived_it() -> None:
    def survived(found: Recording) -> bool:
        return next(row for row in summarize(found).protocols if row.protocol == "udp").survived

    silent = range(140, 460)  # all of the last moments before the next move
    assert not survived(recording(silent))
    assert survived(recording(silent, (150, 470)))
    assert not survived(recording(range(100, 460), (600, 700)))


def tcp(silences: list[tuple[int, int]], *late: tuple[int, int]) -> Recording:
    found = recording(range(0), *late)
    quiet = [(since * MS, until * MS) for since, until in silences]
    stream = ByteStream("a > b", 1000, 1000, True, quiet, LENGTH * MS)
    return Recording(**{**{name: getattr(found, name) for name in found.__slots__}, "streams": (stream,)})


def tcp_outage(found: Recording) -> float:
    row = next(row for row in summarize(found).protocols if row.protocol == "tcp")
    return max(row.failover.outage_ms)


def test_a_silence_of_tcp_while_the_lab_was_late_is_not_an_outage() -> None:
    assert tcp_outage(tcp([(120, 320)])) == 200
    assert tcp_outage(tcp([(120, 320)], (600, 700))) == 200
    assert tcp_outage(tcp([(120, 320)], (110, 330))) == 0
    assert tcp_outage(tcp([(120, 320)], (110, 290))) == 30, "what it lasted longer than the lab was late counts"
    (note,) = summarize(tcp([(120, 320)], (110, 290))).recording.notes
    assert "TCP was silent for 170 ms while the lab was late" in note


def test_a_time_without_others() -> None:
    assert outside((10, 20), []) == [(10, 20)]
    assert outside((10, 20), [(12, 13), (15, 16)]) == [(10, 12), (13, 15), (16, 20)]
    assert outside((10, 20), [(0, 12), (18, 30)]) == [(12, 18)]
    assert outside((10, 20), [(0, 30)]) == []
    assert outside((10, 20), [(0, 10), (20, 30)]) == [(10, 20)]
