"""Whether what happened between the steps of a case is what the kernel's driver did, in four projections.

Read first: tests/golden/kernel-6.1/README.md, "What counts as passed", sections Events and Times. The recording
machine was slow and its observer late, so verdicts, frames and notices are compared by order and number, times by
windows, polled values as subsequences. Left out: answers to the steps (`replay/compare_steps`), the frames
of the ARP monitor (`replay/compare_probes`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ibbond.abi import kernel_log
from ibbond.abi.recording import Observed, Recording
from ibbond.replay import compare_probes
from ibbond.replay.compare_steps import Difference
from ibbond.replay.frames import comparable, is_announcement, recorded_frames
from ibbond.replay.trace import Facts, Trace

UNCHANGING = frozenset({"wait_ms", "read", "ls", "masters_read", "link", "maddr", "proc"})
NOTICES = ("BONDING_FAILOVER", "NOTIFY_PEERS", "IGMP_RESEND")
SHORT_INTERVAL_MS = 50  # below, the recording machine was too slow for its own monitor
FLAPPING = 8  # so many verdicts are a bond that flaps: how often depends on phases
SLACK_MS = 60
DELAY_SLACK_MS = 12  # stamps of two lines, each rounded to the machine's tick


@dataclass(frozen=True, slots=True)
class Timed:
    """One event of either side: what it is in comparable form, when, and by which clock of the driver."""

    t_ms: float
    what: object
    step: int = 0
    clock: str = "monitor"


def differences(
    case: Recording,
    trace: Trace,
    starts_ms: Sequence[float],
    intervals_ms: Sequence[int],
    frames_until_ms: float = math.inf,
) -> Iterator[Difference]:
    """Every way in which the events of our run disagree with the recorded ones.

    `starts_ms` is when each step began on our clock, `intervals_ms` the bond's monitor interval during it (0: none);
    after `frames_until_ms` the recording has no frames.
    """
    if not case.monitor or _stalled(case):
        return
    events = case.events
    interval = min((value for value in intervals_ms if value), default=0)
    theirs = _verdicts(events)
    prefix = interval < SHORT_INTERVAL_MS or len(theirs) > FLAPPING
    ours = [Timed(seen.t_ms, _verdict_text(seen.verdict), seen.step) for seen in trace.verdicts]
    window = _Window(case, starts_ms, intervals_ms)
    yield from _sequence("verdicts", theirs, ours, prefix, window if interval >= SHORT_INTERVAL_MS else None)
    notices = [Timed(seen.t_ms, seen.event, seen.step, _clock(seen.event)) for seen in trace.notices]
    yield from _sequence("rtnetlink", _notices(case, events), notices, prefix, None, interval)
    yield from _states(case, events, trace)
    yield from _announcements(case, events, trace, prefix, window if interval >= SHORT_INTERVAL_MS else None, interval)
    yield from _delays(case, events, trace)
    yield from compare_probes.differences(case, events, trace, intervals_ms, frames_until_ms)


# -- verdicts and notices ---------------------------------------------------------------------------------------------


def _stalled(case: Recording) -> bool:
    """A fuzzy failure count: the recording machine stalled and its bond flapped by itself."""
    return any(step.fuzzy and step.path.endswith("link_failure_count") for step in case.steps)


def _verdict_text(verdict: kernel_log.Verdict) -> str:
    return str(verdict)


def _verdicts(events: list[Observed]) -> list[Timed]:
    found = ((event.t_ms, kernel_log.verdict(event.text("text"))) for event in events if event.what == "log")
    return [Timed(at, _verdict_text(verdict)) for at, verdict in found if verdict is not None]


def _notices(case: Recording, events: list[Observed]) -> list[Timed]:
    return [
        Timed(event.t_ms, event.text("event"), clock=_clock(event.text("event")))
        for event in events
        if event.what == "rtnetlink" and event.text("dev") == case.bond and event.text("event") in NOTICES
    ]


def _clock(event: str) -> str:
    """Group reports are sent by a timer of their own, everything else by the monitor or by a request."""
    return "reports" if event == "IGMP_RESEND" else "monitor"


class _Window:
    """When one of ibbond's events may have been recorded: two bounds after the last step that changed anything."""

    def __init__(self, case: Recording, starts_ms: Sequence[float], intervals_ms: Sequence[int]) -> None:
        self._steps = case.steps
        self._recorded = case.observations.step_t_ms
        self._starts = starts_ms
        self._intervals = intervals_ms
        self._early = _early_ms(case)

    def miss(self, ours: Timed, recorded_ms: float) -> str | None:
        """What the recorded time should have been, when it is not within the window of our event.

        Several cables pulled in a row are one change on our clock, but not on the recording machine's: the event may
        have come after any of them.
        """
        last = next((step for step in range(ours.step, -1, -1) if self._steps[step].op not in UNCHANGING), 0)
        first = last
        while first and self._steps[first - 1].op == self._steps[last].op == "carrier":
            first -= 1
        over = last
        while over + 1 < len(self._steps) and self._steps[over + 1].op == self._steps[last].op == "carrier":
            over += 1
        end = self._recorded[over + 1] if over + 1 < len(self._recorded) else self._recorded[over]
        since = ours.t_ms - self._starts[last]
        interval = self._intervals[ours.step]
        low = since - interval - SLACK_MS - self._early
        for anchor in range(last, first - 1, -1):
            high = 3 * since + end - self._recorded[anchor] + interval + SLACK_MS
            if low <= recorded_ms - self._recorded[anchor] <= high:
                return None
        high = 3 * since + end - self._recorded[last] + interval + SLACK_MS
        return f"{since:.0f} ms after step {last}, where {low:.0f} to {high:.0f} ms agree with the recording"


def _early_ms(case: Recording) -> float:
    """How early the log's stamps are: no member joins before the step that adds it, or is down before its cable is."""
    early = [0.0]
    steps = list(zip(case.observations.step_t_ms, case.steps, strict=True))
    for member in case.devices:
        for words, causes in (
            ("Enslaving as", [at for at, step in steps if step.op == "enslave" and step.slave == member]),
            (
                "link status definitely down",
                [at for at, step in steps if step.op == "carrier" and step.dev == member and not step.on],
            ),
        ):
            lines = [
                event.t_ms
                for event in case.events
                if event.what == "log" and f"(slave {member}): {words}" in event.text("text")
            ]
            if len(lines) == len(causes):  # else a line may have had another cause
                early += [cause - line for cause, line in zip(causes, lines, strict=True)]
    return max(early)


def _sequence(
    name: str,
    theirs: list[Timed],
    ours: list[Timed],
    prefix: bool,
    window: _Window | None,
    slack_ms: float | None = None,
) -> Iterator[Difference]:
    """Equal sequences, or one a prefix of the other; then the times of those that agree.

    With `slack_ms` two events of different clocks that are not further apart on our clock have no order: a monitor
    and a timer that were started at different times.
    """
    left = list(ours)
    for number, seen in enumerate(theirs[: len(ours)]):
        match = _match(seen, left, slack_ms)
        if match is None:
            yield Difference(name, f"number {number}", seen.what, left[0].what)
            return
        left.remove(match)
        if window is not None and (miss := window.miss(match, seen.t_ms)) is not None:
            yield Difference(name, f"time of number {number}, {seen.what}", f"at {seen.t_ms:.0f} ms", miss)
            return
    if len(theirs) != len(ours) and not prefix:
        rest = theirs[len(ours) :] or left
        yield Difference(name, f"how many (first odd one: {rest[0].what})", len(theirs), len(ours))


def _match(seen: Timed, ours: list[Timed], slack_ms: float | None) -> Timed | None:
    """The first of ibbond's events that matches the recorded one, if nothing stands before it that must come first."""
    for event in ours:
        if event.what == seen.what:
            return event if event is ours[0] or event.t_ms - ours[0].t_ms <= (slack_ms or -1) else None
        if slack_ms is None or event.clock == seen.clock:
            return None
    return None


# -- delays ------------------------------------------------------------------------------------------------------------


def _delays(case: Recording, events: list[Observed], trace: Trace) -> Iterator[Difference]:
    """Of each member: no delay lasts longer than the recorded one, for the machine was only ever slower."""
    lines = [(event.t_ms, event.text("text")) for event in events if event.what == "log"]
    for member in case.devices:
        theirs, ours = _durations(lines, member), _durations(trace.lines, member)
        if len(theirs) != len(ours):
            continue  # the verdicts say it
        for recorded, lasted in zip(theirs, ours, strict=True):
            if lasted > recorded + DELAY_SLACK_MS:
                yield Difference("delays", f"how long that of {member} lasts", f"{recorded:.0f} ms", f"{lasted:.0f} ms")


def _durations(lines: Sequence[tuple[float, str]], member: str) -> list[float]:
    """From the line that a delay begins to the verdict; none at all where some were cut short."""
    found, since, begun = [], None, 0
    for at, line in lines:
        if f"(slave {member}): link status " in line and " again after " in line:
            return []
        if kernel_log.delay(line) == member:
            since, begun = at, begun + 1
        elif (verdict := kernel_log.verdict(line)) is not None and verdict.member == member and since is not None:
            found += [at - since] if verdict.kind in ("up", "down") else []
            since = None
    return found if len(found) == begun else []


# -- polled values ----------------------------------------------------------------------------------------------------


def _states(case: Recording, events: list[Observed], trace: Trace) -> Iterator[Difference]:
    """Per key: the recorded values, from the first `up` of the bond on, are a subsequence of ibbond's.

    Where a bond flaps for as long as a step takes, the slow machine saw more rounds of it than virtual time has: of
    such a key every round counts once.
    """
    up = next((number for number, step in enumerate(case.steps) if step.op == "up" and step.dev == case.bond), None)
    if up is None:
        return
    recorded: dict[str, list[str]] = {}
    for event in events:
        if event.what == "state" and event.t_ms >= case.observations.step_t_ms[up]:
            values = recorded.setdefault(event.text("key"), [])
            if not values or values[-1] != event.text("value"):
                values.append(event.text("value"))
    for key, values in recorded.items():
        ours = trace.states.get(key, [])
        if not _is_subsequence(values if len(values) <= FLAPPING else _rounds_once(values), ours):
            yield Difference("state", key, values, ours)


def _is_subsequence(values: list[str], of: list[str]) -> bool:
    rest = iter(of)
    return all(value in rest for value in values)


def _rounds_once(values: list[str]) -> list[str]:
    """The values without the repetitions of rounds of two or three: a b a b c is a b c."""
    kept: list[str] = []
    for value in values:
        kept.append(value)
        for size in (2, 3):
            if len(kept) >= 2 * size and kept[-size:] == kept[-2 * size : -size]:
                del kept[-size:]
    return kept


# -- frames -----------------------------------------------------------------------------------------------------------


def _announcements(
    case: Recording, events: list[Observed], trace: Trace, prefix: bool, window: _Window | None, interval: int
) -> Iterator[Difference]:
    for device in case.devices:
        theirs = [
            Timed(at, comparable(facts), clock=_frame_clock(facts))
            for at, facts in recorded_frames(events, device, is_announcement)
        ]
        ours = [
            Timed(seen.t_ms, comparable(seen.facts), seen.step, _frame_clock(seen.facts))
            for seen in trace.frames
            if seen.device == device and is_announcement(seen.facts)
        ]
        yield from _sequence(f"announcements on {device}", theirs, ours, prefix, window, interval)


def _frame_clock(facts: Facts) -> str:
    return "reports" if "igmp" in facts else "monitor"
