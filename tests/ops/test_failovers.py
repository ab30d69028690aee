"""Failovers read from changes, in the words of the kernel's watch and in those of a lab."""

from collections.abc import Mapping

import pytest

from ibbond.ops.failovers import CAME_UP, REQUESTED, Failover, History

KERNEL: Mapping[str, Mapping[str, object]] = {
    "lost": {"what": "carrier", "where": "ib0", "old": True, "new": False},
    "back": {"what": "carrier", "where": "ib0", "old": False, "new": True},
    "away": {"what": "active", "where": "bond0", "old": "ib0", "new": "ib1"},
}
LAB: Mapping[str, Mapping[str, object]] = {
    "lost": {"what": "carrier", "where": "h1/ib0", "detail": "off"},
    "back": {"what": "carrier", "where": "h1/ib0", "detail": "on"},
    "away": {"what": "failover", "where": "h1/bond0", "detail": "ib0 -> ib1"},
}


@pytest.mark.parametrize("words", [KERNEL, LAB], ids=["kernel", "lab"])
def test_the_member_that_was_left_says_why(words: Mapping[str, Mapping[str, object]]) -> None:
    record = History()
    for now, change in enumerate(("lost", "away", "back", "away")):
        record.add(float(now), words[change])
        if change == "away" and now == 1:
            assert record.bonds["bond0"].last == Failover(1.0, "ib0", "ib1", "carrier lost")
    assert record.bonds["bond0"].last == Failover(3.0, "ib0", "ib1", REQUESTED)
    assert record.bonds["bond0"].failovers == 2


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"what": "up", "where": "ib0", "old": True, "new": False}, "set down"),
        ({"what": "left", "where": "ib0", "bond": "bond0"}, "left the bond"),
        ({"what": "deleted", "where": "ib0"}, "device removed"),
        ({"what": "link", "where": "ib0", "old": "up", "new": "down"}, "link monitor"),
        ({"what": "link", "where": "ib0", "old": "up", "new": "going down"}, REQUESTED),
        ({"what": "carrier", "where": "ib1", "old": True, "new": False}, REQUESTED),
    ],
)
def test_reasons(change: Mapping[str, object], why: str) -> None:
    record = History()
    record.add(0.0, change)
    record.add(1.0, KERNEL["away"])
    last = record.bonds["bond0"].last
    assert last is not None
    assert last.why == why


def test_from_none_a_member_came_up() -> None:
    record = History()
    record.add(1.0, {"what": "failover", "where": "h1/bond0", "detail": "none -> ib1"})
    assert record.bonds["bond0"].last == Failover(1.0, None, "ib1", CAME_UP)


def test_announcements_are_counted() -> None:
    record = History()
    record.add(1.0, {"what": "announce", "where": "h1/bond0", "detail": "10.0.0.1 at ..."})
    assert record.bonds["bond0"].announcements == 1
    assert record.bonds["bond0"].failovers == 0
