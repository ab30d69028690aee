"""When things happened on the recording machine: the monitor's runs, what members received, when cables were pulled.

Read first: tests/golden/kernel-6.1/README.md, sections Events and Times. The recording machine was slow: a wait of n
intervals held fewer runs of the monitor than n, a step that takes no time on our clock held one or two, and frames came
late. A case whose answers depend on that is replayed at the recorded times instead: every step when it was recorded, no
run of the monitor before the recorded one, and members receive what was recorded. What is allowed for is read
from what the runs left behind with the kernel's own time stamp, probes and log lines. Where a run came late the machine
had stood still and its kernel counted the time (a `Stall`) before the run, after it, or never; each is tried. Left out:
what must agree (`replay/compare_events`), and when this is asked for (`replay/conform`).
"""

from __future__ import annotations

import enum
import ipaddress
import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median

from ibbond.abi import kernel_log
from ibbond.abi.recording import Observed, Recording
from ibbond.bonding.events import ArpSeen, BondEvent, FrameSeen, NeighborDiscoverySeen
from ibbond.replay.frames import is_probe
from ibbond.wire import arp
from ibbond.wire.nd import NeighborAdvertisement, NeighborSolicitation

RUN_LINES = re.compile(r"(backup )?(link status|interface is now) ")
ENSLAVED = re.compile(r"Enslaving as ")
SAME_MII_RUN = 0.85  # of an interval: what is stamped closer together was left behind by one run
SAME_RUN = 1.25  # the same with the ARP monitor, whose runs end with a probe
EARLY_MS = 8  # a stamp may be so much too early
LATE = 1.05  # intervals between two runs: the second was late
REGULAR = 1.5  # the median distance of two recorded runs in a row, in intervals, at most
MAX_LATE_STAMP = 2  # intervals: what would have been stamped later than that is a probe too many, not a run
MAX_LATE = 4  # intervals: where nothing was left behind for longer, there were runs that left nothing


class Counted(enum.Enum):
    """When the recording machine's kernel counted a time during which the machine stood still."""

    BEFORE = "before the run, and no run left nothing behind meanwhile"
    BETWEEN = "between the run and its frames"
    AFTER = "after the run"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Stall:
    """A run that came late: when it is stamped, and by how much."""

    at_ms: float
    surplus_ms: float


class RecordedTimes:
    """The times of one case in milliseconds, on the clock of the recording machine's kernel."""

    def __init__(self, case: Recording, interval_ms: float, counted: Mapping[Stall, Counted] | None = None) -> None:
        self._case = case
        self._interval = interval_ms
        self._events = _on_one_clock(case.events)
        self._starts: Sequence[float] = case.observations.step_t_ms
        self._lines: list[tuple[float, str]] = []  # of the monitor, with the member that each is about
        self._runs: list[float] = []
        longest = (SAME_RUN if any(event.what == "frame" for event in self._events) else SAME_MII_RUN) * interval_ms
        probed: set[str] = set()  # what the run has left behind so far: lines first, then a probe for each target
        for event in self._events:
            about = _left_by_a_run(event)
            if about is None:
                continue
            self._lines.append((event.t_ms, about))
            next_one = event.text("tpa") in probed if event.what == "frame" else bool(probed)
            if next_one or not self._runs or event.t_ms - self._runs[-1] > longest:
                self._runs.append(event.t_ms)
                probed.clear()
            probed |= {event.text("tpa")} - {""}
        stamped = list(self._runs)
        for number in reversed(range(len(self._runs) - 1)):  # a run is an interval before the next, stamped or not
            if self._runs[number + 1] - self._runs[number] < interval_ms:
                self._runs[number] = self._runs[number + 1] - interval_ms
        self._latest_stamp = max((late - at for at, late in zip(self._runs, stamped, strict=True)), default=0.0)
        self.stalls = [
            Stall(after, after - before - interval_ms)
            for before, after in pairwise(self._runs)
            if LATE * interval_ms < after - before < MAX_LATE * interval_ms
        ]
        self._counted = counted or {}
        on_time = {stall.at_ms: stall.surplus_ms for stall, kind in self._counted.items() if kind is Counted.BETWEEN}
        self._runs = [self._clock(at) - on_time.get(at, 0.0) for at in self._runs]
        self._starts = [self._clock(at) for at in self._starts]
        self.frames_until = self._clock(max((e.t_ms for e in self._events if e.what == "frame"), default=0.0))
        self._recorded_until = self._clock(self._events[-1].t_ms) if self._events else 0.0
        found = ((event.t_ms, kernel_log.verdict(event.text("text"))) for event in self._events if event.what == "log")
        self.verdicts = [(self._clock(at), verdict) for at, verdict in found if verdict is not None]
        self.received = [
            (self._clock(event.t_ms), event.text("dev"), _frame_event(event))
            for event in self._events
            if event.what == "frame" and event.text("dir") == "in"
        ]

    def _clock(self, at_ms: float) -> float:
        """A stamp on the kernel's clock, which did not count some stalls, or late."""
        uncounted = 0.0
        for stall, counted in self._counted.items():
            over = counted is Counted.AFTER and at_ms > stall.at_ms + self._interval / 2
            if counted in (Counted.BEFORE, Counted.BETWEEN) or over or at_ms < stall.at_ms - stall.surplus_ms:
                continue
            uncounted += min(stall.surplus_ms, at_ms - (stall.at_ms - stall.surplus_ms))
        return at_ms - uncounted

    @property
    def is_regular(self) -> bool:
        """Whether the recorded runs follow each other as a monitor's do; else some are missing, or are not runs."""
        if self._latest_stamp > MAX_LATE_STAMP * self._interval:
            return False
        gaps = [after - before for before, after in pairwise(self._runs) if after - before < MAX_LATE * self._interval]
        return not gaps or median(gaps) <= REGULAR * self._interval

    @property
    def runs_between(self) -> set[int]:
        """The steps that pulled or plugged one of several cables in a row which a run found before the next one."""
        cables = [
            (number, self._first_line(number), following, self._first_line(following))
            for number, following in pairwise(n for n, step in enumerate(self._case.steps) if step.op == "carrier")
            if not any(step.op == "wait_ms" for step in self._case.steps[number:following])
        ]
        return {
            number
            for number, found, _, next_found in cables
            if found is not None and next_found is not None and next_found - found > SAME_MII_RUN * self._interval
        }

    def _first_line(self, number: int) -> float | None:
        """When the monitor first said something of the member whose cable this step moved."""
        name, since = self._case.steps[number].dev, self._starts[number] - EARLY_MS
        return next((at for at, about in self._lines if at >= since and about == name), None)

    def start(self, number: int) -> float:
        return self._starts[number]

    def end(self, number: int) -> float:
        """When the next step began; after the last one the recording went on for a moment."""
        if number + 1 < len(self._starts):
            return self._starts[number + 1]
        return max(self._recorded_until, self._starts[number] + (self._case.steps[number].ms or 0))

    def effect(self, number: int) -> float:
        """When a step took effect: a cable is pulled after the last frame received by it; else at the step's start."""
        step, start, end = self._case.steps[number], self.start(number), self.end(number)
        if step.op != "carrier" or step.on:
            return start
        return max((at + 1 for at, name, _ in self.received if name == step.dev and start <= at < end), default=start)

    def run(self, deadline_ms: float, *, seen: bool) -> float:
        """When the run that is due at this time took place. `seen`: it leaves something behind, whatever it finds."""
        place = bisect_left(self._runs, deadline_ms - self._interval / 4)
        if place == len(self._runs):
            return deadline_ms
        late = max(0.0, self._runs[place] - deadline_ms)
        seen = seen or any(
            stall.at_ms - stall.surplus_ms < deadline_ms + EARLY_MS and deadline_ms <= stall.at_ms
            for stall, counted in self._counted.items()
            if counted is Counted.BEFORE
        )
        return deadline_ms + late if late < self._interval * (MAX_LATE if seen else 0.9) else deadline_ms


def _on_one_clock(events: list[Observed]) -> list[Observed]:
    """Frames have the clock of the steps, log lines one that may be early: how much every probe is after its line."""
    lags, line = [], None
    for event in events:
        if event.what == "log" and _left_by_a_run(event) is not None:
            line = event.t_ms if line is None else line
        elif event.what == "frame" and _left_by_a_run(event) is not None:
            lags += [event.t_ms - line] if line is not None else []
            line = None
    early = min(lags, default=0.0)
    return [replace(event, t_ms=event.t_ms + early) if event.what == "log" else event for event in events]


def _left_by_a_run(event: Observed) -> str | None:
    """The member that something left behind by a run of the monitor is about; None for anything else."""
    if event.what == "frame":
        return event.text("dev") if event.text("dir") == "out" and is_probe(event.facts) else None
    parts = kernel_log.parse(event.text("text")) if event.what == "log" else None
    return parts[1] or "" if parts is not None and RUN_LINES.match(parts[2]) else None


def _frame_event(event: Observed) -> BondEvent:
    name, facts = event.text("dev"), event.facts
    if "arp" in facts:
        operation = arp.REQUEST if facts["arp"] == "request" else arp.REPLY
        sender, target = (ipaddress.ip_address(event.text(key)).packed for key in ("spa", "tpa"))
        return ArpSeen(name, int(event.text("hrd")), int(event.text("hln")), operation, sender, target)
    if "icmp6" in facts:
        kind = NeighborSolicitation.KIND if facts["icmp6"] == "NS" else NeighborAdvertisement.KIND
        source, destination, target = (ipaddress.ip_address(event.text(key)).packed for key in ("src", "dst", "target"))
        return NeighborDiscoverySeen(name, kind, source, destination, target)
    return FrameSeen(name)
