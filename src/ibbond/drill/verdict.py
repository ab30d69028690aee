"""From what was observed to a verdict: runs, their phases and flows, and pass, fail or unclear against a budget.

Pure. `Observation` is what a world hands over for each event (a failure or its reversion); `judge` makes a `Run` of it.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ibbond.drill.classes import DrillClass, Traffic, reversion_name
from ibbond.drill.flows import IN_FLIGHT_NS, Flow, FlowCost, Gap, cost, milliseconds
from ibbond.drill.phases import Expected, Phase, Sighting, Source, Sum, add_up
from ibbond.machine import MS

PEERS_PROBES = "udp"  # their flow from the peer to the bond is compared with the phases


class Verdict(enum.Enum):
    PASS = "pass"
    FAIL = "fail"
    UNCLEAR = "unclear"


@dataclass(frozen=True, slots=True)
class Silence:
    """The longest time without new bytes of a TCP stream, or without an answered write of an RDMA session."""

    protocol: str
    direction: str
    ns: int

    def as_json(self) -> dict[str, object]:
        return {"protocol": self.protocol, "direction": self.direction, "gap_ms": milliseconds(self.ns)}


@dataclass(frozen=True, slots=True)
class Observation:
    """One event of one round: what was done when, what was seen of it, and until when."""

    row: DrillClass
    round: int
    is_reversion: bool
    victim: str
    at: int
    until: int
    sightings: tuple[Sighting, ...]
    expected: tuple[Expected, ...]
    stops_at: Phase | None
    silences: tuple[Silence, ...] = ()
    notes: tuple[str, ...] = ()  # why the measurement is not to be trusted
    failures: tuple[str, ...] = ()  # an undo that failed, a bond that did not move


@dataclass(frozen=True, slots=True)
class Run:
    """One judged event. `gap` is the worst of its probe flows, `sum` compares phases with the peer's own probes."""

    observation: Observation
    flows: tuple[FlowCost, ...]
    gap: Gap
    sum: Sum

    @property
    def name(self) -> str:
        seen = self.observation
        return reversion_name(seen.row.name) if seen.is_reversion else seen.row.name

    @property
    def title(self) -> str:
        return f"{self.name}, round {self.observation.round}"

    @property
    def lost(self) -> int:
        """Probes of all flows."""
        return sum(flow.lost for flow in self.flows)

    @property
    def worst(self) -> Mapping[str, int]:
        """The longest outage of each protocol, nanoseconds."""
        found: dict[str, int] = {}
        for flow in self.flows:
            found[flow.protocol] = max(found.get(flow.protocol, 0), flow.gap.ns)
        for silence in self.observation.silences:
            found[silence.protocol] = max(found.get(silence.protocol, 0), silence.ns)
        return found

    def as_json(self) -> dict[str, object]:
        start = self.observation.at
        return {
            "class": self.name,
            "round": self.observation.round,
            "gap_ms": milliseconds(self.gap.ns),
            "lost": self.lost,
            "phases": [{"name": phase.value, "t_ms": milliseconds(at - start)} for phase, at in self.sum.phases],
            "sum_agrees": self.sum.agrees,
        }

    def details(self) -> dict[str, object]:
        """What the report keeps beyond the printed object."""
        seen = self.observation
        return {
            **self.as_json(),
            "member": seen.victim,
            "at_ns": seen.at,  # of the monotonic clock
            "until_ns": seen.until,
            "flows": [flow.as_json() for flow in self.flows] + [each.as_json() for each in seen.silences],
            "disagreements": list(self.sum.disagreements),
            "sightings": [
                {"phase": phase.value, "source": source.value, "t_ms": milliseconds(at - seen.at)}
                for phase, source, at in seen.sightings
            ],
            "notes": list(seen.notes),
            "failures": list(seen.failures),
        }


def judge(seen: Observation, flows: Sequence[Flow], drilled: str) -> Run:
    """The costs of one event, and whether the phases add up to the gap of the peer's probes towards `drilled`."""
    in_flight = 0 if seen.is_reversion else IN_FLIGHT_NS  # what was lost before the undo is the fault's
    flows = [flow.around(seen.at, seen.until) for flow in flows]
    costs = tuple(cost(flow, seen.at, seen.until, in_flight_ns=in_flight) for flow in flows)
    gap = max((each.gap for each in costs), key=lambda gap: (gap.is_open, gap.ns))
    peers = next(
        (
            each
            for flow, each in zip(flows, costs, strict=True)
            if (flow.protocol, flow.target) == (PEERS_PROBES, drilled)
        ),
        None,
    )
    if peers is None:
        return Run(seen, costs, gap, Sum((), ("no probes of the peer were measured",)))
    judged = peers.gap
    if seen.stops_at is None and not judged.is_open:  # a delay without a loss is the machine's
        judged = Gap(min(judged.ns, peers.loss_derived_ns), judged.start, judged.end)
    if seen.row.traffic is Traffic.SUFFERS:  # its gaps are single probes here and there, and no phase explains them
        judged = Gap(0, seen.at, seen.at, is_open=judged.is_open)
    tolerance = peers.resolution_ns + peers.delay_ns
    return Run(seen, costs, gap, add_up(seen.sightings, seen.expected, judged, tolerance, stops_at=seen.stops_at))


@dataclass(frozen=True, slots=True)
class NotTested:
    """A class that was left out, and why."""

    name: str
    why: str

    def as_json(self) -> dict[str, object]:
        return {"class": self.name, "why": self.why}


@dataclass(frozen=True, slots=True)
class Certificate:
    """A whole drill. `facts` are the lines of the report's head: kernel, firmware, options, date, and so on."""

    bond: str
    world: str
    budget_ns: int
    runs: tuple[Run, ...]
    not_tested: tuple[NotTested, ...]
    facts: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()  # undo that failed: the loudest lines
    spacing_ns: int = MS

    @property
    def verdict(self) -> Verdict:
        """Fail before unclear before pass: a gap beyond the budget was measured, whatever the phases say of it."""
        if self.failures or any(self.failures_of(run) for run in self.runs):
            return Verdict.FAIL
        if not self.runs or any(not run.sum.agrees or run.observation.notes for run in self.runs):
            return Verdict.UNCLEAR
        return Verdict.PASS

    def exceeds(self, run: Run) -> bool:
        return run.gap.is_open or run.gap.ns > self.budget_ns

    def failures_of(self, run: Run) -> list[str]:
        """Why this run fails; empty where it does not."""
        found = list(run.observation.failures)
        if self.exceeds(run):
            gap = "traffic did not come back" if run.gap.is_open else f"{run.gap.ns / MS:.1f} ms without traffic"
            found.append(f"{gap}, the budget is {self.budget_ns / MS:g} ms")
        return found

    def reasons(self) -> list[str]:
        """Why the verdict is not `pass`, worst first."""
        found = [*self.failures]
        found += [f"{run.title}: {failure}" for run in self.runs for failure in self.failures_of(run)]
        for run in self.runs:
            found += [f"{run.title}: {sentence}" for sentence in (*run.sum.disagreements, *run.observation.notes)]
        if not self.runs:
            found.append("nothing was tested")
        return found

    @property
    def worst(self) -> Run | None:
        return max(self.runs, key=lambda run: (run.gap.is_open, run.gap.ns), default=None)

    def as_json(self) -> dict[str, object]:
        """What `ibbond drill --json` prints."""
        return {
            "verdict": self.verdict.value,
            "budget_ms": milliseconds(self.budget_ns),
            "runs": [run.as_json() for run in self.runs],
            "not_tested": [each.as_json() for each in self.not_tested],
        }

    def details(self) -> dict[str, object]:
        """What the report directory's `drill.json` holds: the printed object and what each run saw."""
        return {
            **self.as_json(),
            "bond": self.bond,
            "world": self.world,
            "spacing_ms": milliseconds(self.spacing_ns),
            "facts": dict(self.facts),
            "notes": list(self.notes),
            "reasons": self.reasons(),
            "runs": [run.details() for run in self.runs],
        }


def expected_of(phases: Sequence[Phase], sources: Mapping[Phase, Sequence[Source]]) -> tuple[Expected, ...]:
    """Each phase with every source of the world that must see it."""
    return tuple(Expected(phase, source) for phase in phases for source in sources.get(phase, ()))
