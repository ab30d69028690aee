"""The course of a drill, the same in every world: guards, undo armed, fault, traffic watched, undo, verdict.

Read first: `drill.classes`, `drill.guards`, `drill.verdict`. A `World` is a lab, the simulator or this host; it knows
how to do and undo a fault, what it sees of it, and how its time passes. Whatever ends a round early undoes the fault.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from ibbond.drill.classes import DrillClass, Traffic
from ibbond.drill.flows import Flow
from ibbond.drill.guards import BondFacts, chosen, is_noticed, moves, refuse_unsafe, why_not
from ibbond.drill.phases import Phase, Sighting, Source
from ibbond.drill.traffic import Stream
from ibbond.drill.undo import Command
from ibbond.drill.verdict import Certificate, NotTested, Observation, Run, expected_of, judge
from ibbond.errors import Refused
from ibbond.machine import SECOND

MOVE_SECONDS = 5.0  # within which a bond must have moved its traffic
HOLD_SECONDS = 0.6  # that a fault stays after the move
SILENT_SECONDS = 1.5  # that a fault stays which nothing moves: longer than the usual budget
RETURN_SECONDS = 15.0  # within which both members must be up again
SETTLE_SECONDS = 0.6  # of traffic after that
UNDO_WITHIN_SECONDS = 60.0  # after which the armed undo acts by itself


@dataclass(frozen=True, slots=True)
class Plan:
    """One class on a bond as it is now: the commands of the fault and of its undo, as people would type them."""

    row: DrillClass
    facts: BondFacts
    victim: str
    spare: str
    do: tuple[Command, ...]
    undo: tuple[Command, ...]

    @property
    def moves(self) -> bool:
        return moves(self.row, self.facts)

    @property
    def returns(self) -> bool:
        """Whether the undo moves traffic back."""
        return self.row.traffic is Traffic.MOVES or (self.moves and self.facts.returns_to(self.victim))


@dataclass(frozen=True, slots=True)
class Moments:
    """When a round did what; `ended_at` is when the next may begin."""

    caused_at: int
    undone_at: int
    ended_at: int


class World(Protocol):
    """Where the drill runs. Times are monotonic nanoseconds of its own clock."""

    title: str
    drilled: str  # the name of the bond's host in flows
    possible: Sequence[str]  # classes that it can do
    sources: Mapping[Phase, Sequence[Source]]  # which must see which phase
    makes_before_break: bool  # a planned move interrupts nothing

    def facts(self, row: DrillClass | None = None) -> BondFacts:
        """The bond as it is now; with a class, also what only that class's guard must know."""
        ...

    def plan(self, row: DrillClass, facts: BondFacts) -> Plan: ...

    def describe(self) -> Mapping[str, str]:
        """Lines for the head of the report: kernel, driver, options, firmware."""
        ...

    def begin(self) -> None:
        """Start the traffic, and wait until it flows; `Refused` where it does not."""
        ...

    def finish(self) -> tuple[list[Flow], list[Stream]]:
        """End the traffic; what was sent and seen."""
        ...

    def abandon(self) -> None:
        """End the traffic at once and do not care for it."""
        ...

    def arm(self, plan: Plan) -> None:
        """Have the undo happen even if this process is killed; the world keeps what it prepares for a plan."""
        ...

    def disarm(self) -> None: ...

    def watch(self, plan: Plan) -> None:
        """Begin to watch what happens to the bond."""
        ...

    def sightings(self, plan: Plan, moments: Moments) -> tuple[list[Sighting], list[Sighting]]:
        """End the watch; what was seen of the fault, and what of its undo."""
        ...

    def apply(self, plan: Plan, *, undo: bool) -> int:
        """Do or undo the fault; when it took effect. `Refused` where that failed."""
        ...

    def active(self) -> str | None: ...

    def is_redundant(self, plan: Plan) -> bool:
        """Whether the members are as good as before the fault."""
        ...

    def now(self) -> int: ...

    def sleep(self, seconds: float) -> None: ...

    def notes(self) -> list[str]:
        """What disturbed the measurement: a busy machine, a clock that is not exact."""
        ...


Say = Callable[[str], None]


def dry_run(world: World, names: Sequence[str], *, has_console: bool) -> Iterator[tuple[DrillClass, Plan | str]]:
    """The plan of each class, or why it is left out; nothing is changed. Refuses as `drill` does."""
    facts = world.facts()
    refuse_unsafe(facts, has_console=has_console)
    for row in chosen(names, world.possible, world.title)[0]:
        reason = why_not(row, world.facts(row))
        yield row, reason if reason is not None else world.plan(row, facts)


def drill(
    world: World,
    names: Sequence[str],
    rounds: int,
    budget_ns: int,
    say: Say,
    *,
    has_console: bool = False,
    spacing_ns: int,
) -> Certificate:
    """All rounds of the chosen classes. `Refused` before anything is changed where a guard says no."""
    facts = world.facts()
    refuse_unsafe(facts, has_console=has_console)
    rows, left_out = chosen(names, world.possible, world.title)
    not_tested = [NotTested(name, why) for name, why in left_out]
    observed: list[Observation] = []
    failures: list[str] = []
    head = world.describe()
    world.begin()
    try:
        for row in rows:
            not_tested += _rounds_of(world, row, rounds, say, observed, failures)
            if failures:
                break
        flows, streams = world.finish()
    except BaseException:
        world.abandon()
        raise
    runs = tuple(_with_streams(seen, flows, streams, world.drilled) for seen in observed)
    return Certificate(
        facts.name,
        world.title,
        budget_ns,
        runs,
        tuple(not_tested),
        head,
        tuple(world.notes()),
        tuple(failures),
        spacing_ns,
    )


def _rounds_of(
    world: World, row: DrillClass, rounds: int, say: Say, observed: list[Observation], failures: list[str]
) -> list[NotTested]:
    """All rounds of one class; where it is not safe on the bond as it is now, what is left out and why."""
    for number in range(1, rounds + 1):
        facts = world.facts(row)
        if facts.spare is None or facts.active is None:
            failures.append(f"{facts.name} no longer has a second member before round {number} of {row.name}")
            return []
        reason = why_not(row, facts)
        if reason is not None:
            return [NotTested(row.name, reason if number == 1 else f"since round {number}: {reason}")]
        plan = world.plan(row, facts)
        say(f"{row.name}, round {number} of {rounds}: {row.title} ({plan.victim})")
        pair = perform(world, plan, number, failures)
        observed += pair
        if failures:
            return []
    return []


def perform(world: World, plan: Plan, number: int, failures: list[str]) -> tuple[Observation, Observation]:
    """One round: the fault and its undo, at once when it is interrupted. A failed undo is a failure."""
    wrong: list[str] = []
    wrong_after: list[str] = []
    world.watch(plan)
    world.arm(plan)
    try:
        caused_at = world.apply(plan, undo=False)
        if plan.moves:
            if not _until(world, lambda: world.active() not in (None, plan.victim), MOVE_SECONDS):
                wrong.append(f"the bond did not move its traffic within {MOVE_SECONDS:.0f} s")
            world.sleep(HOLD_SECONDS)
        else:
            world.sleep(SILENT_SECONDS)
    except BaseException:
        _undo(world, plan, failures)
        raise
    undone_at = _undo(world, plan, failures)
    redundant_at = 0
    if not failures:
        if _until(world, lambda: world.is_redundant(plan), RETURN_SECONDS):
            redundant_at = world.now()
        else:
            wrong_after.append(f"{plan.victim} was not up again within {RETURN_SECONDS:.0f} s of the undo")
    world.sleep(SETTLE_SECONDS)
    ended_at = world.now()
    before, after = world.sightings(plan, Moments(caused_at, undone_at, ended_at))
    before.append(Sighting(Phase.CAUSE, Source.DRILL, caused_at))
    after.append(Sighting(Phase.CAUSE, Source.DRILL, undone_at))
    if redundant_at:
        after.append(Sighting(Phase.REDUNDANCY, Source.DRILL, redundant_at))
    noticed = is_noticed(plan.row, plan.facts)
    failure = Observation(
        plan.row,
        number,
        False,
        plan.victim,
        caused_at,
        undone_at,
        tuple(before),
        expected_of(plan.row.failure_phases(is_noticed=noticed), world.sources),
        _stops_at(plan, world, is_reversion=False),
        failures=tuple(wrong),
    )
    reversion = Observation(
        plan.row,
        number,
        True,
        plan.victim,
        undone_at,
        ended_at,
        tuple(after),
        expected_of(plan.row.reversion_phases(returns=plan.returns, is_noticed=noticed), world.sources),
        _stops_at(plan, world, is_reversion=True),
        failures=tuple(wrong_after),
    )
    return failure, reversion


def _undo(world: World, plan: Plan, failures: list[str]) -> int:
    """Undo, and only then let go of the armed undo; a failed one is left armed, so that it is tried again outside."""
    try:
        at = world.apply(plan, undo=True)
    except Refused as refusal:
        by_hand = "; ".join(" ".join(command) for command in plan.undo)
        failures.append(f"THE UNDO OF {plan.row.name.upper()} FAILED: {refusal} Undo it by hand: {by_hand}")
        return world.now()
    world.disarm()
    return at


def _stops_at(plan: Plan, world: World, *, is_reversion: bool) -> Phase | None:
    """The phase at which traffic stops; None if it does not."""
    moved = Phase.ACTIVE if not world.makes_before_break else None
    if plan.row.traffic is Traffic.MOVES:
        return moved
    if is_reversion:
        return moved if plan.returns else None
    return Phase.CAUSE if plan.row.traffic is Traffic.STOPS else None


def _until(world: World, condition: Callable[[], bool], seconds: float) -> bool:
    until = world.now() + int(seconds * SECOND)
    while not condition():
        if world.now() > until:
            return False
        world.sleep(0.005)
    return True


def _with_streams(seen: Observation, flows: Sequence[Flow], streams: Sequence[Stream], drilled: str) -> Run:
    silences = tuple(stream.longest(seen.at, seen.until) for stream in streams)
    return judge(replace(seen, silences=silences), flows, drilled)
