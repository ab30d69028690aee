"""Phases add up to the gap, or the sum says why not: every source shifted, every event withheld."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibbond.drill.classes import CLASSES
from ibbond.drill.flows import Gap
from ibbond.drill.phases import Expected, Phase, Sighting, Source, Sum, add_up
from ibbond.drill.verdict import expected_of
from ibbond.machine import MS

START = 5_000 * MS
SOURCES = {
    Phase.CAUSE: (Source.DRILL,),
    Phase.PORT: (Source.EVENTS,),
    Phase.CARRIER: (Source.NETLINK,),
    Phase.VERDICT: (Source.KERNEL_LOG,),
    Phase.ACTIVE: (Source.KERNEL_LOG, Source.NETLINK),
    Phase.ADDRESS: (Source.NETLINK,),
    Phase.ANNOUNCEMENT: (Source.CAPTURE,),
    Phase.NEIGHBOR: (Source.PEER,),
    Phase.FIRST_PACKET: (Source.CAPTURE,),
}
PHASES = CLASSES["cut"].failure_phases()
EXPECTED = expected_of(PHASES, SOURCES)


def sightings(polled_ms: int = 0) -> list[Sighting]:
    """A failover as every source sees it, an event each 0.2 ms; the monitor polls `polled_ms` after the carrier."""
    found, at = [], START
    for phase in PHASES:
        if phase is Phase.VERDICT:
            at += polled_ms * MS
        found += [Sighting(phase, source, at) for source in SOURCES[phase]]
        at += MS // 5
    return found


def gap(polled_ms: int = 0) -> Gap:
    """What probes each ms show of it: the last arrival is up to one spacing before the cause."""
    length = max(s.at for s in sightings(polled_ms)) - START
    return Gap(length, START - MS // 2, START + length)


def total(seen: list[Sighting], measured: Gap) -> Sum:
    return add_up(seen, EXPECTED, measured, MS, stops_at=Phase.CAUSE)


@pytest.mark.parametrize("polled_ms", [0, 1, 40, 100])
def test_they_add_up(polled_ms: int) -> None:
    found = total(sightings(polled_ms), gap(polled_ms))
    assert found.agrees, found.disagreements
    assert [phase for phase, _ in found.phases] == list(PHASES)


@pytest.mark.parametrize("polled_ms", [0, 40, 100])
@pytest.mark.parametrize("shift_ms", [20, -20])
@pytest.mark.parametrize("source", [Source.DRILL, Source.NETLINK, Source.KERNEL_LOG, Source.CAPTURE, Source.PEER])
def test_one_source_with_a_wrong_clock_shows(source: Source, shift_ms: int, polled_ms: int) -> None:
    seen = [s._replace(at=s.at + shift_ms * MS) if s.source is source else s for s in sightings(polled_ms)]
    assert not total(seen, gap(polled_ms)).agrees


@pytest.mark.parametrize("shift_ms", [20, -20])
@pytest.mark.parametrize("polled_ms", [0, 100])
def test_probes_that_measured_another_gap_show(polled_ms: int, shift_ms: int) -> None:
    right = gap(polled_ms)
    assert not total(sightings(polled_ms), Gap(max(0, right.ns + shift_ms * MS), right.start, right.end)).agrees or (
        right.ns < MS
    )


@pytest.mark.parametrize("withheld", EXPECTED, ids=lambda each: f"{each.phase.value}-{each.source.value}")
def test_each_event_that_is_withheld_shows(withheld: Expected) -> None:
    seen = [s for s in sightings(40) if (s.phase, s.source) != withheld]
    found = total(seen, gap(40))
    assert not found.agrees
    assert any(withheld.phase.value in sentence for sentence in found.disagreements)


def test_an_event_without_traffic_moved_must_cost_nothing() -> None:
    only = expected_of((Phase.CAUSE,), SOURCES)
    seen = [Sighting(Phase.CAUSE, Source.DRILL, START)]
    assert add_up(seen, only, Gap(0, START, START), MS, stops_at=None).agrees
    assert not add_up(seen, only, Gap(30 * MS, START, START), MS, stops_at=None).agrees


def test_phases_that_were_not_expected_are_left_out() -> None:
    only = expected_of((Phase.CAUSE,), SOURCES)
    found = add_up(sightings(), only, Gap(0, START, START), MS, stops_at=None)
    assert found.phases == ((Phase.CAUSE, START),)


def test_traffic_that_stays_away_never_adds_up() -> None:
    assert not total(sightings(), Gap(9, START, START + 9, is_open=True)).agrees


@given(st.permutations(list(range(len(EXPECTED)))), st.integers(0, 200))
def test_the_order_in_which_sources_report_does_not_matter(order: list[int], polled_ms: int) -> None:
    seen = sightings(polled_ms)
    assert total([seen[i] for i in order], gap(polled_ms)) == total(seen, gap(polled_ms))


@given(
    st.sampled_from([s for s in Source if s is not Source.EVENTS]),
    st.integers(-300, 300).filter(lambda ms: abs(ms) >= 4),
    st.integers(0, 100),
)
def test_no_shift_beyond_the_spacing_passes(source: Source, shift_ms: int, polled_ms: int) -> None:
    seen = [s._replace(at=s.at + shift_ms * MS) if s.source is source else s for s in sightings(polled_ms)]
    assert not total(seen, gap(polled_ms)).agrees
