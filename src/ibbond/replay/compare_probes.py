"""Whether the ARP monitor probed as the kernel's driver did: what the probes say, and how many there are.

Read first: tests/golden/kernel-6.1/README.md, "What counts as passed": fields exact but for the source of the first
one after `up`, number between steps within 1 + 15 %. Three facts of the recording machine, each to be read from the
recording itself, are all that is allowed for beyond that:

* it spends time in steps that have none on our clock, and its monitor continues meanwhile: only what is recorded during
  a `wait_ms` has a number of ibbond's to compare with;
* a failover may be late there (section Times), and with it the change of the member that is probed: in a wait with a
  verdict the number is that of all members together, and of each one only whether it is probed at all;
* where a wait lasted longer than it asked for by more than the monitor's interval, the machine stalled, and the rounds
  that are missing between two recorded ones were left out.

Left out: NS, which no recording has as a probe of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ibbond.abi import kernel_log
from ibbond.abi.recording import Observed, Recording
from ibbond.replay.compare_steps import Difference
from ibbond.replay.frames import comparable, is_probe, recorded_frames
from ibbond.replay.trace import Facts, Trace

Kind = tuple[tuple[str, object], ...]


@dataclass(frozen=True, slots=True)
class Probe:
    """One probe of either side; `t_ms` on that side's own clock."""

    t_ms: float
    step: int
    device: str
    facts: Facts


def differences(
    case: Recording, events: list[Observed], trace: Trace, intervals_ms: Sequence[int], until_ms: float
) -> Iterator[Difference]:
    """Every way in which our probes up to this time disagree with the recorded ones."""
    starts = case.observations.step_t_ms
    theirs = sorted(
        (
            Probe(at, _step_at(at, starts), device, facts)
            for device in case.devices
            for at, facts in recorded_frames(events, device, is_probe)
        ),
        key=lambda probe: probe.t_ms,
    )
    ours = [Probe(seen.t_ms, seen.step, seen.device, seen.facts) for seen in trace.frames if is_probe(seen.facts)]
    ours = [probe for probe in ours if probe.t_ms <= until_ms]
    verdicts = {
        _step_at(event.t_ms, starts)
        for event in events
        if event.what == "log" and kernel_log.verdict(event.text("text")) is not None
    } | {seen.step for seen in trace.verdicts}
    yield from _numbers(case, theirs, ours, verdicts, intervals_ms)
    yield from _fields(case, theirs, ours)


# -- how many ---------------------------------------------------------------------------------------------------------


def _numbers(
    case: Recording, theirs: list[Probe], ours: list[Probe], verdicts: set[int], intervals_ms: Sequence[int]
) -> Iterator[Difference]:
    begin = 0
    for number, step in enumerate(case.steps):
        waits = step.op == "wait_ms"
        if waits:
            late = _left_out(case, number, theirs, intervals_ms[number])
            for device in case.devices:
                there, here = _count(theirs, number, number, device), _count(ours, number, number, device)
                either = bool(there and here) or there + here <= 1
                if not (either if number in verdicts else _agree(there, here, late)):
                    yield Difference("probes", f"how many on {device} during step {number} ({step})", there, here)
            there, here = _count(theirs, number, number), _count(ours, number, number)
            if not _agree(there, here, late):
                yield Difference("probes", f"how many during step {number} ({step})", there, here)
        if waits or number == len(case.steps) - 1:  # none too many in the steps before it, which take us no time
            there, here = _count(theirs, begin, number), _count(ours, begin, number)
            if here > there and not _agree(there, here, late if waits else 0):
                yield Difference("probes", f"how many during steps {begin} to {number}", there, here)
            begin = number + 1


def _agree(there: float, here: float, late: float = 0) -> bool:
    """Within 1 + 15 % of the larger number; so many as were `late` may be missing there."""
    missing = min(late, max(0, here - there))
    return abs(here - there - missing) <= 1 + 0.15 * max(here, there)


def _count(probes: list[Probe], first: int, last: int, device: str | None = None) -> int:
    return sum(first <= probe.step <= last and device in (None, probe.device) for probe in probes)


def _left_out(case: Recording, number: int, theirs: list[Probe], interval: int) -> float:
    """How many probes a machine that stalled left out during a wait; none where the wait lasted as long as it asked.

    A gap of three intervals between two rounds is two rounds left out, each of as many probes as the one before had.
    """
    starts, asked = case.observations.step_t_ms, case.steps[number].ms or 0
    if not interval or number + 1 == len(starts) or starts[number + 1] - starts[number] - asked <= interval:
        return 0
    rounds: list[list[Probe]] = []
    for probe in theirs:
        if rounds and probe.t_ms - rounds[-1][0].t_ms < interval / 2:
            rounds[-1].append(probe)
        else:
            rounds.append([probe])
    return sum(
        len(before) * max(0.0, (after[0].t_ms - before[0].t_ms) / interval - 1)
        for before, after in pairwise(rounds)
        if after[0].step == number
    )


def _step_at(at: float, starts: Sequence[float]) -> int:
    return max((number for number, start in enumerate(starts) if start <= at), default=0)


# -- what they say ----------------------------------------------------------------------------------------------------


def _fields(case: Recording, theirs: list[Probe], ours: list[Probe]) -> Iterator[Difference]:
    """On each member the same kinds of probes on both sides."""
    ups = [number for number, step in enumerate(case.steps) if step.op == "up" and step.dev == case.bond]
    there, here = _kinds(theirs, ups), _kinds(ours, ups)
    for device, kind in sorted(there - here, key=repr):
        yield Difference(f"probes on {device}", "fields", dict(kind), "no such probe")
    for device, kind in sorted(here - there, key=repr):
        yield Difference(f"probes on {device}", "fields", "no such probe", dict(kind))


def _kinds(probes: list[Probe], ups: list[int]) -> set[tuple[str, Kind]]:
    """The fields of all probes; without `spa` those of the first one for each target after each `up`.

    Their source depends on when the route appears. Where nothing but they has other fields than the rest, they are
    no kind of their own: whether there is one more of them depends on the machine's phase.
    """
    first = set()
    for up in ups:
        seen: set[object] = set()
        for number, probe in enumerate(probes):
            if probe.step >= up and probe.facts["tpa"] not in seen:
                seen.add(probe.facts["tpa"])
                first.add(number)
    exact = {(probe.device, comparable(probe.facts)) for number, probe in enumerate(probes) if number not in first}
    loose = {(device, _without_source(kind)) for device, kind in exact}
    new = {(probes[number].device, _without_source(comparable(probes[number].facts))) for number in first} - loose
    return exact | new


def _without_source(kind: Kind) -> Kind:
    return tuple((key, value) for key, value in kind if key != "spa")
