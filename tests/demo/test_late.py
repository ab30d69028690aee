"""A late lab is never reported as a lost packet, and a lost packet never as a late lab."""

from ibbond.demo.measure import DemoEvent, ProbeStream, Recording, summarize
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
