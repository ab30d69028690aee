"""Replay a recording against our driver and say whether it passed, and where it first disagreed.

Read first: tests/golden/kernel-6.1/README.md, "What counts as passed". The world is `replay/world`, the comparison
is `replay/compare_steps` and `replay/compare_events`; here one case is run from its first step to its last. Left out:
files, output.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from ibbond.abi.recording import Recording
from ibbond.replay import compare_events, compare_steps
from ibbond.replay.compare_steps import Difference
from ibbond.replay.ip_command import Unknown
from ibbond.replay.skips import SKIPS
from ibbond.replay.steps import Steps
from ibbond.replay.world import RecordedWorld

KERNEL_PROFILE = "kernel-6.1"


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
    if case.name in SKIPS:
        return Result(case, Verdict.SKIPPED, reason=SKIPS[case.name])
    world = RecordedWorld(case, profile)
    steps = Steps(world)
    found: list[Difference] = []
    starts: list[float] = []
    intervals: list[int] = []
    for number, step in enumerate(case.steps):
        starts.append(world.now_ms)
        try:
            answer = steps.perform(step)
        except Unknown as error:
            found.append(Difference(number, str(step), "a command that the replay knows", str(error)))
            return Result(case, Verdict.FAILED, found)
        except Exception as error:  # a failed assertion fails this case; the others are still replayed
            found.append(Difference(number, str(step), "an answer", f"{type(error).__name__}: {error}"))
            return Result(case, Verdict.FAILED, found)
        intervals.append(world.monitor_interval_ms())
        found += compare_steps.differences(number, step, answer)
    found += compare_events.differences(case, world.trace, starts, intervals)
    return Result(case, Verdict.FAILED if found else Verdict.PASSED, found)
