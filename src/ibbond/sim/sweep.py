"""How the outage of a story depends on settings: many seeds for each combination of bond options.

Read first: `sim.explore`, whose workers these are. Outage of a run: over all UDP streams of the story, the most
consecutive probes lost times their spacing, faults that cut every path included. The bonds have the kernel's behavior
unless another profile is named, because that is what an operator chooses settings for.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, as_completed
from dataclasses import dataclass
from itertools import product

from ibbond.errors import Refused
from ibbond.sim.explore import read_story
from ibbond.sim.world import World

DEFAULT_STEPS = 8  # values of a range A..B that are tried


@dataclass(frozen=True, slots=True)
class Axis:
    """One option and the values that are tried."""

    option: str
    values: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> "Axis":
        """`miimon=1..200` (eight values, evenly by ratio), `miimon=1..200/5` (five), or `updelay=0,200`."""
        option, equals, values = text.partition("=")
        if not (option and equals and values):
            raise Refused(f"--over {text}", why="it is not OPTION=VALUES", fix="Write --over miimon=1..200")
        if ".." not in values:
            return cls(option, tuple(value.strip() for value in values.split(",")))
        span, _, count = values.partition("/")
        first, _, last = span.partition("..")
        if not (first.isdecimal() and last.isdecimal() and int(first) < int(last) and (count or "8").isdecimal()):
            raise Refused(
                f"--over {text}", why="a range is A..B of numbers with A below B", fix="Write --over miimon=1..200/8"
            )
        return cls(option, spread(int(first), int(last), int(count or DEFAULT_STEPS)))


def spread(first: int, last: int, count: int) -> tuple[str, ...]:
    """Values from first to last, evenly by ratio (by difference when the first is 0), rounded, without repetitions."""
    count = max(count, 2)
    if first == 0:
        points = [round(last * i / (count - 1)) for i in range(count)]
    else:
        points = [round(first * (last / first) ** (i / (count - 1))) for i in range(count)]
    return tuple(str(point) for point in dict.fromkeys(points))


@dataclass(frozen=True, slots=True)
class Cell:
    """One combination of settings and what its seeds cost, in ms, in ascending order."""

    settings: tuple[tuple[str, str], ...]
    outages_ms: tuple[int, ...]

    def quantile(self, share: float) -> int:
        """The nearest-rank quantile; 0 where no seed ran."""
        return (
            self.outages_ms[min(int(share * len(self.outages_ms)), len(self.outages_ms) - 1)] if self.outages_ms else 0
        )


def combinations(axes: Sequence[Axis]) -> list[tuple[tuple[str, str], ...]]:
    return [
        tuple(zip((axis.option for axis in axes), values, strict=True))
        for values in product(*(axis.values for axis in axes))
    ]


def outages(text: str, name: str, settings: tuple[tuple[str, str], ...], seeds: list[int], profile: str) -> list[int]:
    """The outage of each seed under these settings, in ms: what one worker does."""
    story = read_story(text, name)
    found = []
    for seed in seeds:
        world = World(story, seed, profile, overrides=dict(settings), checked=False)
        world.run()
        found.append(longest_outage_ms(world))
    return found


def longest_outage_ms(world: World) -> int:
    """Consecutive lost UDP probes of one stream times their spacing, the worst stream."""
    runs: dict[tuple[str, str], int] = {}
    worst = 0
    last = world.now - 100_000_000  # what was sent later may still be on its way
    for probe in world.probes:
        if probe.kind != "udp" or probe.sent_at > last:
            continue
        key = (probe.source, probe.target)
        runs[key] = 0 if probe.target in probe.copies else runs.get(key, 0) + 1
        worst = max(worst, runs[key])
    return worst * world.story.probe_ms


def sweep(
    pool: Executor, text: str, name: str, axes: Sequence[Axis], seeds: int, *, profile: str, chunk: int = 5
) -> Iterator[Cell]:
    """Cells as they are complete, in no order; the same cells for the same seeds, with any workers."""
    jobs = {}
    waiting: dict[tuple[tuple[str, str], ...], int] = {}
    found: dict[tuple[tuple[str, str], ...], list[int]] = {}
    for settings in combinations(axes):
        for first in range(0, seeds, chunk):
            numbers = list(range(first, min(first + chunk, seeds)))
            jobs[pool.submit(outages, text, name, settings, numbers, profile)] = settings
            waiting[settings] = waiting.get(settings, 0) + 1
    for job in as_completed(jobs):
        settings = jobs[job]
        found.setdefault(settings, []).extend(job.result())
        waiting[settings] -= 1
        if not waiting[settings]:
            yield Cell(settings, tuple(sorted(found[settings])))
