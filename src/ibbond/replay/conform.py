"""Replay a recording against our driver and say whether it passed, and where it first disagreed.

Read first: tests/golden/kernel-6.1/README.md, "What counts as passed". The world is `replay/world`, the comparison
is `replay/compare_steps` and `replay/compare_events`; here one case is run from its first step to its last. Left out:
files, output.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field

from ibbond.abi.recording import Recording
from ibbond.replay.compare_steps import Difference
from ibbond.replay.recorded_times import Counted, RecordedTimes, Stall
from ibbond.replay.run import Run
from ibbond.replay.skips import SKIPS

KERNEL_PROFILE = "kernel-6.1"
MAX_STALLS = 3  # whose time the recording machine's kernel may have counted otherwise than stamped
NEAR = 5  # the last stalls before the first disagreement
BEAM = 2  # how many ways are pursued

Counting = dict[Stall, Counted]


class Verdict(enum.Enum):
    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one case; `differences` in the order in which they were found, the steps' first."""

    case: Recording
    verdict: Verdict
    differences: list[Difference] = field(default_factory=list)
    reason: str = ""


def replay(case: Recording, profile: str = KERNEL_PROFILE) -> Result:
    """Run one case and compare everything that counts."""
    plain = Run(case, profile)
    found = plain.differences()
    if not found:
        return Result(case, Verdict.PASSED)
    if case.monitor and plain.interval_ms and (how := _recorded_way(case, profile, plain.interval_ms)):
        return Result(case, Verdict.PASSED, reason=how)
    if case.name in SKIPS:
        return Result(case, Verdict.SKIPPED, found, SKIPS[case.name])
    return Result(case, Verdict.FAILED, found)


def _recorded_way(case: Recording, profile: str, interval_ms: int) -> str:
    """The way in which a case that fails as it is agrees with what the recording itself says of its machine; or ""."""
    times = RecordedTimes(case, interval_ms)
    if times.runs_between and not Run(case, profile, runs_after=times.runs_between).differences():
        return "with a run of the monitor between its cables, as recorded"
    if not times.is_regular:
        return ""
    tried: list[Counting] = [{}]
    best = -1.0
    for stalls in range(MAX_STALLS + 1):
        reached: list[tuple[float, int, Counting]] = []
        for number, counting in enumerate(tried):
            run = Run(case, profile, RecordedTimes(case, interval_ms, counting))
            if not run.differences():
                return f"at the recorded times, {stalls} of {len(times.stalls)} stalls counted otherwise"
            if best <= run.agrees_until_ms < math.inf:  # infinite: what disagrees is not a question of time
                reached.append((run.agrees_until_ms, -number, counting))
        reached = sorted(reached, key=lambda row: row[:2], reverse=True)[:BEAM]
        best = reached[0][0] if reached else best
        tried = [
            {**counting, stall: counted}
            for until, _, counting in reached
            for stall in [s for s in times.stalls if s.at_ms <= until + 2.5 * interval_ms and s not in counting][-NEAR:]
            for counted in Counted
        ]
    return ""
