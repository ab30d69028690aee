"""The phases of a failover, each seen by sources of its own, and whether they add up to the gap that probes measured.

Read first: RFC 6412 section 4 on the events of a convergence. A `Sighting` says who saw what when. The gap comes from
the probes alone and no phase is a remainder of others, so that a source whose clock is wrong, or that missed an event,
shows: a phase is missing, two sources differ, phases are out of order, or their sum is not the gap.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ibbond.drill.flows import Gap, milliseconds
from ibbond.machine import MS


class Phase(enum.Enum):
    """What happens in a failover or its reversion, in this order; the values are the names in reports."""

    CAUSE = "cause"
    PORT = "port event"
    CARRIER = "carrier"
    VERDICT = "monitor's verdict"
    ACTIVE = "active member"
    ADDRESS = "address"
    ANNOUNCEMENT = "first announcement"
    NEIGHBOR = "peer's neighbor entry"
    FIRST_PACKET = "first packet by the new path"
    REDUNDANCY = "redundancy restored"


class Source(enum.Enum):
    """Who saw it. Each has a clock or a scheduling delay of its own."""

    DRILL = "drill"
    EVENTS = "event log"
    NETLINK = "netlink"
    KERNEL_LOG = "kernel log"
    CAPTURE = "capture"
    PEER = "peer"


class Sighting(NamedTuple):
    """A source saw a phase at a monotonic nanosecond."""

    phase: Phase
    source: Source
    at: int


ORDER = list(Phase)
SIMULTANEOUS = (Phase.ACTIVE, Phase.ADDRESS)  # set in one step; which of the two is reported first means nothing


class Expected(NamedTuple):
    """A phase that a class must show, and the source that must see it."""

    phase: Phase
    source: Source


@dataclass(frozen=True, slots=True)
class Sum:
    """The phases in order, and the sentences that say why they do not add up; none when they do."""

    phases: tuple[tuple[Phase, int], ...]
    disagreements: tuple[str, ...]

    @property
    def agrees(self) -> bool:
        return not self.disagreements


def add_up(
    sightings: Sequence[Sighting],
    expected: Collection[Expected],
    gap: Gap,
    tolerance_ns: int,
    *,
    stops_at: Phase | None,
    resumes_at: Phase = Phase.FIRST_PACKET,
) -> Sum:
    """Compare what the sources saw with each other and with the gap.

    Phases that are not expected are left out of everything. `stops_at` is the phase at which traffic stops, None where
    the event moves no traffic and the gap must be nothing. `tolerance_ns` is the spacing of the probes, or the longest
    distance of two that were sent around the gap, and the time that one is in flight.
    """
    first: dict[Expected, int] = {}
    for phase, source, time in sightings:
        key = Expected(phase, source)
        first[key] = min(time, first.get(key, time))
    wrong = [
        f"the {source.value} did not show: {phase.value}" for phase, source in expected if (phase, source) not in first
    ]
    at: dict[Phase, int] = {}
    wanted = {phase for phase, _ in expected}
    for phase in ORDER:
        if phase not in wanted:
            continue
        seen = {source: time for (which, source), time in first.items() if which is phase}
        if not seen:
            continue
        at[phase] = min(seen.values())
        if max(seen.values()) - at[phase] > tolerance_ns:
            words = ", ".join(f"{source.value} {milliseconds(time - at[phase])} ms" for source, time in seen.items())
            wrong.append(f"{phase.value}: the sources differ by more than {milliseconds(tolerance_ns)} ms ({words})")
    wrong += _out_of_order(at, tolerance_ns)
    wrong += _compare(at, gap, tolerance_ns, stops_at, resumes_at)
    return Sum(tuple(at.items()), tuple(wrong))


def _out_of_order(at: dict[Phase, int], tolerance_ns: int) -> list[str]:
    """Phases that were seen before one that must come first; when redundancy is back has nothing to do with traffic."""
    wrong = []
    latest: Phase | None = None
    for phase, time in at.items():
        if phase is Phase.REDUNDANCY:
            continue
        if latest is not None and time < at[latest] - tolerance_ns and {phase, latest} != set(SIMULTANEOUS):
            early = milliseconds(at[latest] - time)
            wrong.append(f"{phase.value} was seen {early} ms before {latest.value}")
        if latest is None or time > at[latest]:
            latest = phase
    return wrong


def _compare(at: dict[Phase, int], gap: Gap, tolerance_ns: int, stops_at: Phase | None, resumes_at: Phase) -> list[str]:
    if gap.is_open:
        return ["traffic did not come back while it was observed"]
    if stops_at is None:
        if gap.ns <= tolerance_ns:
            return []
        return [f"nothing was to interrupt traffic, and the gap is {gap.ns / MS:.1f} ms"]
    if stops_at not in at or resumes_at not in at:
        return []  # which is named already where it was expected
    total = at[resumes_at] - at[stops_at]
    if abs(total - gap.ns) <= tolerance_ns:
        return []
    return [
        f"{stops_at.value} to {resumes_at.value} took {total / MS:.1f} ms, and the gap is {gap.ns / MS:.1f} ms: "
        f"more than {tolerance_ns / MS:.1f} ms apart"
    ]
