"""Many seeds of one story, on all cores: which of them breaks a promise, and the line that replays it.

The story travels to the workers as its file's text, so that a worker (or another machine) needs nothing else.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, as_completed
from dataclasses import dataclass

from ibbond.sim.story import Story, parse
from ibbond.sim.swarm import document
from ibbond.sim.workers import workers
from ibbond.sim.world import Outcome, World
from ibbond.topology.reader import read_document

CHUNK = 32  # seeds of one job, at most


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the parent needs to know of one seed."""

    seed: int
    broken: str | None
    at_ms: float
    trace: str
    steps: int


def run_one(text: str, name: str, seed: int, profile: str = "default") -> Outcome:
    """One seed of a story given as the text of its file."""
    return World(read_story(text, name), seed, profile).run()


def run_chunk(text: str, name: str, seeds: list[int], profile: str) -> list[Verdict]:
    """Several seeds in one worker; the story is read once."""
    story = read_story(text, name)
    verdicts = []
    for seed in seeds:
        outcome = World(story, seed, profile).run()
        verdicts.append(Verdict(seed, outcome.broken, outcome.at_ms, outcome.trace, outcome.steps))
    return verdicts


def run_swarm(seeds: list[int], profile: str) -> list[Verdict]:
    """Each seed draws its own story (`sim.swarm`) and what happens in it."""
    verdicts = []
    for seed in seeds:
        outcome = World(parse(document(seed), name=f"swarm-{seed}"), seed, profile).run()
        verdicts.append(Verdict(seed, outcome.broken, outcome.at_ms, outcome.trace, outcome.steps))
    return verdicts


def explore_swarm(
    seeds: range, *, profile: str = "default", count: int | None = None, on: str | None = None
) -> Iterator[Verdict]:
    """As `explore`, with a story for each seed."""
    if on is None and (count == 0 or len(seeds) == 1):
        for seed in seeds:
            yield from run_swarm([seed], profile)
        return
    with workers(count, on) as pool:
        yield from _collect(seeds, lambda chunk: pool.submit(run_swarm, chunk, profile), most=1)


def explore(
    text: str,
    name: str,
    seeds: range,
    *,
    profile: str = "default",
    count: int | None = None,
    on: str | None = None,
) -> Iterator[Verdict]:
    """Verdicts as they come, in no order. `count` processes (all cores when None, none at all when 0), or a cluster.

    A world begins once before any worker starts, so that what its bonds refuse is refused here.
    """
    World(read_story(text, name), seeds.start, profile).begin()
    if on is None and (count == 0 or len(seeds) == 1):
        for seed in seeds:
            yield from run_chunk(text, name, [seed], profile)
        return
    with workers(count, on) as pool:
        yield from _collect(seeds, lambda chunk: pool.submit(run_chunk, text, name, chunk, profile))


def _collect(
    seeds: range, submit: Callable[[list[int]], Future[list[Verdict]]], most: int = CHUNK
) -> Iterator[Verdict]:
    """`most` seeds in one job: an interrupt waits for the jobs that run."""
    size = max(1, min(most, len(seeds) // 16))
    jobs = [submit(list(seeds[i : i + size])) for i in range(0, len(seeds), size)]
    try:
        for job in as_completed(jobs):
            yield from job.result()
    finally:
        for job in jobs:
            job.cancel()


def read_story(text: str, name: str) -> Story:
    """The story of a file's text; `Refused` says what is wrong with it."""
    return parse(read_document(text, name), name=name)
