"""One case replayed from its first step to its last, in one of three ways, and every way in which it disagrees.

Read first: `conform`, which says when which of them counts. As asked for: time passes in waits only, and every run of
the monitor is on time. With runs between cables: the monitor runs once after some of several cables in a row. At the
recorded times: see `recorded_times`. Left out: which of the three is right for a case.
"""

from __future__ import annotations

import math
from collections.abc import Collection

from ibbond.abi.recording import Recording, Step
from ibbond.machine import MS
from ibbond.replay import compare_events, compare_steps
from ibbond.replay.compare_events import UNCHANGING
from ibbond.replay.compare_steps import Difference
from ibbond.replay.ip_command import Unknown
from ibbond.replay.recorded_times import EARLY_MS, RecordedTimes
from ibbond.replay.steps import Steps
from ibbond.replay.world import RecordedWorld


class Run:
    """One case from its first step to its last; with `times` at the recorded times, else at those that were asked for.

    After the steps in `runs_after` the monitor runs once, as it did when they were recorded.
    """

    def __init__(
        self, case: Recording, profile: str, times: RecordedTimes | None = None, runs_after: Collection[int] = ()
    ) -> None:
        self._case = case
        self._times = times
        self._runs_after = runs_after
        self._world = RecordedWorld(case, profile, times)
        self._steps = Steps(self._world)
        self._intervals: list[int] = []
        self._found: list[Difference] = []

    def differences(self) -> list[Difference]:
        """Run, once, and say every way in which we disagree with the recording; the steps' first."""
        found = self._found
        starts: list[float] = []
        for number, step in enumerate(self._case.steps):
            starts.append(self._begin(number))
            try:
                found += self._perform(number, step)
            except Unknown as error:
                found.append(Difference(number, str(step), "a command that the replay knows", str(error)))
                return found
            except Exception as error:  # a broken promise of ibbond fails this case, the others are still replayed
                found.append(Difference(number, str(step), "an answer", f"{type(error).__name__}: {error}"))
                return found
            self._intervals.append(self._world.monitor_interval_ms())
        if self._times is not None:
            self._run_until(self._times.end(len(self._case.steps) - 1))
        until = math.inf if self._times is None else self._times.frames_until
        found += compare_events.differences(self._case, self._world.trace, starts, self._intervals, until)
        return found

    @property
    def agrees_until_ms(self) -> float:
        """When the run at recorded times first disagreed: with an answer, or in the order of verdicts."""
        assert self._times is not None
        first = [self._times.start(found.step) for found in self._found if isinstance(found.step, int)]
        ours = [(seen.t_ms, seen.verdict) for seen in self._world.trace.verdicts]
        for (at, theirs), (our_at, verdict) in zip(self._times.verdicts, ours, strict=False):
            link = verdict.kind in ("up", "down")  # of others the steps' own times are not known
            if theirs != verdict or (link and abs(at - our_at) > 0.7 * self.interval_ms):
                first.append(min(at, our_at))
                break
        return min(first, default=math.inf)

    @property
    def interval_ms(self) -> int:
        """The shortest interval that the bond's monitor had."""
        return min((value for value in self._intervals if value), default=0)

    def _begin(self, number: int) -> float:
        """Let time pass until a step begins and, where it is one that changes something, until it took effect."""
        if self._times is None:
            self._world.step = number
            return self._world.now_ms
        start = self._times.start(number)
        self._run_until(start - (EARLY_MS if self._case.steps[number].op in UNCHANGING else 0))
        self._world.step = number
        self._run_until(self._times.effect(number))
        return start

    def _perform(self, number: int, step: Step) -> list[Difference]:
        """A step and what disagrees in its answer, which may have been read before or after a run."""
        found = list(compare_steps.differences(number, step, self._steps.perform(step)))
        if number in self._runs_after:
            self._run_until(self._world.now_ms + self._world.monitor_interval_ms())
        if found and self._times is not None and step.op in UNCHANGING:
            self._run_until(self._times.end(number))
            found = list(compare_steps.differences(number, step, self._steps.perform(step)))
        return found

    def _run_until(self, at_ms: float) -> None:
        self._world.clock.run(max(0, round(at_ms * MS) - self._world.clock.now))
