"""What a drill makes of probes: the three outages of RFC 6412, duplicates, reordering, holes."""

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from ibbond.drill.flows import Flow, cost, longest_gap, loss_periods
from ibbond.machine import MS, SECOND

DELAY = 200_000


def flow(lost: Iterable[int], *, count: int = 3000, spacing: int = MS, extra: Iterable[tuple[int, int]] = ()) -> Flow:
    """A probe every ms from 0 on; the lost ones never arrive, `extra` arrivals are added."""
    gone = set(lost)
    sent = [number * spacing for number in range(count)]
    arrivals = [(number, at + DELAY) for number, at in enumerate(sent) if number not in gone]
    arrivals = sorted([*arrivals, *extra], key=lambda arrival: arrival[1])
    return Flow("udp", "h2", "h1", spacing, sent, arrivals)


def test_one_hole() -> None:
    found = cost(flow(range(1000, 1025)), 1 * SECOND, 2 * SECOND)
    assert (found.lost, found.loss_derived_ns, found.gap.ns, found.disruptions) == (25, 25 * MS, 25 * MS, 1)
    assert (found.gap.start, found.gap.end) == (999 * MS + DELAY, 1025 * MS + DELAY)
    assert 25 * MS <= found.rate_derived_ns <= 60 * MS
    assert (found.duplicates, found.reordered, found.delay_ns) == (0, 0, DELAY)


def test_two_holes_are_not_one() -> None:
    found = cost(flow([*range(1000, 1010), *range(1100, 1130)]), 1 * SECOND, 2 * SECOND)
    assert (found.lost, found.loss_derived_ns, found.gap.ns, found.disruptions) == (40, 40 * MS, 30 * MS, 2)
    assert found.rate_derived_ns >= 130 * MS, "from the first low sample to the last"


def test_a_delay_is_a_gap_and_no_loss() -> None:
    late = Flow("udp", "a", "b", MS, [n * MS for n in range(100)], [(n, max(n * MS, 70 * MS)) for n in range(20, 100)])
    early = [(n, n * MS) for n in range(20)]
    found = cost(Flow("udp", "a", "b", MS, late.sent, early + list(late.arrivals)), 20 * MS, 100 * MS, in_flight_ns=0)
    assert (found.lost, found.gap.ns) == (0, 50 * MS)


def test_duplicates_and_reordering() -> None:
    probes = flow([1500, 1501], extra=[(1200, 1201 * MS), (1500, 1503 * MS + 1), (1501, 1503 * MS)])
    found = cost(probes, 1 * SECOND, 2 * SECOND)
    assert (found.lost, found.duplicates, found.reordered) == (0, 1, 2)


def test_a_gap_belongs_to_the_event_that_began_it() -> None:
    silent = flow(range(1000, 2000))  # a fault at 1 s that nothing notices, undone at 2 s
    assert longest_gap(silent, 1 * SECOND, 2 * SECOND).ns == 1000 * MS
    assert longest_gap(silent, 2 * SECOND, 3 * SECOND).ns <= MS, "the undo did not cause it"
    assert longest_gap(silent, 0, 1 * SECOND).ns <= MS, "what was before did not cause it either"


def test_traffic_that_does_not_come_back_has_an_open_gap() -> None:
    found = longest_gap(flow(range(1000, 3000)), 1 * SECOND, 2 * SECOND)
    assert found.is_open
    assert longest_gap(flow(range(3000)), 1 * SECOND, 2 * SECOND).is_open


def test_a_sender_that_overslept_says_so() -> None:
    sent = [*(n * MS for n in range(100)), *(n * MS for n in range(130, 300))]
    probes = Flow("udp", "a", "b", MS, sent, [(number, at) for number, at in enumerate(sent)])
    assert cost(probes, 50 * MS, 250 * MS).resolution_ns == 31 * MS


def test_nothing_happened() -> None:
    found = cost(flow(()), 1 * SECOND, 2 * SECOND)
    assert (found.lost, found.gap.ns, found.rate_derived_ns, found.disruptions) == (0, 0, 0, 0)


@given(st.sets(st.integers(1000, 1999), max_size=200))
def test_the_three_outages_agree_about_one_event(lost: set[int]) -> None:
    found = cost(flow(lost), 1 * SECOND, 2 * SECOND)
    assert found.lost == len(lost)
    assert found.gap.ns <= found.loss_derived_ns, "the longest hole is one of the holes"
    assert found.disruptions <= len(lost)
    assert (found.lost == 0) == (found.disruptions == 0)


@given(st.lists(st.integers(0, 500), unique=True, min_size=1).map(sorted))
def test_holes_are_apart(lost: list[int]) -> None:
    assert 1 <= loss_periods(lost) <= len(lost)
    assert loss_periods(list(range(lost[0], lost[0] + 50))) == 1


@given(st.sets(st.integers(900, 2100), max_size=300), st.integers(1000, 1999))
def test_the_part_around_an_event_costs_the_same_as_the_whole(lost: set[int], until_ms: int) -> None:
    whole = flow(lost)
    part = whole.around(1 * SECOND, until_ms * MS)
    assert len(part.sent) < len(whole.sent)
    assert cost(part, 1 * SECOND, until_ms * MS) == cost(whole, 1 * SECOND, until_ms * MS)
