"""`ibbond sim run|explore`: stories under a virtual clock, one seed or many."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ibbond.cli import files
from ibbond.cli.usage import Group
from ibbond.errors import Refused
from ibbond.host.input_file import read_input_text

if TYPE_CHECKING:
    from ibbond.sim.explore import Verdict
    from ibbond.sim.world import Outcome

PROFILES = click.Choice(["default", "kernel-6.1", "kernel-6.12", "linux-2.6.19"])
STORY = files.ScenarioFile()
ON = click.option(
    "--on", metavar="tcp://HOST:PORT", help="Run on the Dask cluster whose scheduler listens at this address."
)


@click.group(cls=Group)
def sim() -> None:
    """Simulate stories: the same code under a virtual clock; one seed replays everything."""


@sim.command()
@click.argument("file", type=STORY)
@files.FROM
@files.BUNDLES
@click.option("--seed", default=0, show_default=True, help="Seed of the story's random choices.")
@click.option("--profile", type=PROFILES, default="default", show_default=True, help="The driver behavior to emulate.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def run(file: Path, fabric: Path | None, bundles: tuple[Path, ...], seed: int, profile: str, as_json: bool) -> None:
    """Run one seed of the story in FILE and print its timeline. Exit status: 1 if a promise breaks.

    With --from, the story happens in that fabric, and the topology in FILE is ignored.
    """
    from ibbond.sim.explore import run_one

    outcome = run_one(story_text(file, fabric, bundles), file.stem, seed, profile)
    if as_json:
        click.echo(json.dumps(asdict(outcome)))
    else:
        words = [
            word
            for option, path in (("--from", fabric), *(("--bundle", each) for each in bundles))
            if path
            for word in (option, str(path))
        ]
        print_outcome(outcome, " ".join([str(file), *words]), profile)
    sys.exit(1 if outcome.broken else 0)


@sim.command()
@click.argument("file", type=STORY)
@click.option("--seeds", default="0..100", show_default=True, help="Seeds A..B: A up to, but not including, B.")
@click.option("--profile", type=PROFILES, default="default", show_default=True, help="The driver behavior to emulate.")
@click.option("--workers", type=click.IntRange(0), help="Number of processes (default: one per core).")
@ON
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def explore(file: Path, seeds: str, profile: str, workers: int | None, on: str | None, as_json: bool) -> None:
    """Run many seeds of the story in FILE. Exit status: 1 if one breaks a promise; prints how to replay it."""
    from ibbond.sim.explore import explore as explore_seeds
    from ibbond.sim.explore import read_story

    wanted = read_range(seeds)
    text = read_text(file)
    read_story(text, file.stem)  # refuse a bad story before any worker starts
    broken: list[Verdict] = []
    done = 0
    with progress_bar(file.stem, len(wanted)) as step:
        for verdict in explore_seeds(text, file.stem, wanted, profile=profile, count=workers, on=on):
            done += 1
            if verdict.broken is not None:
                broken.append(verdict)
            step(f"{file.stem}: {len(broken)} broken")
    broken.sort(key=lambda verdict: verdict.seed)
    if as_json:
        failures = [{"seed": v.seed, "at_ms": v.at_ms, "broken": v.broken} for v in broken]
        click.echo(json.dumps({"story": str(file), "seeds": done, "broken": failures}))
    else:
        click.echo(f"{done} seeds of {file.stem}: {done - len(broken)} kept every promise, {len(broken)} broke one")
        for verdict in broken[:20]:
            click.echo(f"  seed {verdict.seed} at {verdict.at_ms:.3f} ms: {verdict.broken}")
            click.echo(f"    {replay_line(file, verdict.seed, profile)}")
    sys.exit(1 if broken else 0)


@sim.command()
@click.option("--seeds", default="0..100", show_default=True, help="Seeds A..B: A up to, but not including, B.")
@click.option("--profile", type=PROFILES, default="default", show_default=True, help="The driver behavior to emulate.")
@click.option("--workers", type=click.IntRange(0), help="Number of processes (default: one per core).")
@ON
@click.option(
    "--keep",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write the story of each failing seed, made as small as possible, to DIR.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def swarm(seeds: str, profile: str, workers: int | None, on: str | None, keep: Path | None, as_json: bool) -> None:
    """Run stories that are drawn whole from their seeds. Exit status: 1 if one breaks a promise.

    A seed draws the topology, the hosts, the options of their bonds and the kinds of fault that can happen.
    """
    from ibbond.host.output_file import write_output
    from ibbond.sim.explore import explore_swarm
    from ibbond.sim.shrink import shrink as shrink_story
    from ibbond.sim.swarm import document

    wanted = read_range(seeds)
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        files.try_to_write(keep / "swarm.toml")
    broken: list[Verdict] = []
    with progress_bar("swarm", len(wanted)) as step:
        for verdict in explore_swarm(wanted, profile=profile, count=workers, on=on):
            if verdict.broken is not None:
                broken.append(verdict)
            step(f"swarm: {len(broken)} broken")
    broken.sort(key=lambda verdict: verdict.seed)
    kept: dict[int, str] = {}
    for verdict in broken if keep is not None else ():
        name = f"swarm-{verdict.seed}"
        file = Path(keep or ".") / f"{name}.toml"
        write_output(
            file, shrink_story(document(verdict.seed), name, verdict.seed, profile=profile).text(profile).encode()
        )
        kept[verdict.seed] = str(file)
    if as_json:
        rows = [{"seed": v.seed, "at_ms": v.at_ms, "broken": v.broken, "story": kept.get(v.seed)} for v in broken]
        click.echo(json.dumps({"seeds": len(wanted), "profile": profile, "broken": rows}))
    else:
        whole = len(wanted) - len(broken)
        click.echo(f"{len(wanted)} stories drawn: {whole} kept every promise, {len(broken)} broke one")
        for verdict in broken:
            click.echo(f"  seed {verdict.seed} at {verdict.at_ms:.3f} ms: {verdict.broken}")
            if verdict.seed in kept:
                click.echo(f"    {kept[verdict.seed]}")
    sys.exit(1 if broken else 0)


@sim.command()
@click.argument("file", type=STORY)
@click.option("--seed", required=True, type=int, help="A seed that breaks a promise.")
@click.option("--profile", type=PROFILES, default="default", show_default=True, help="The driver behavior to emulate.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write the story to FILE.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def shrink(file: Path, seed: int, profile: str, output: Path | None, as_json: bool) -> None:
    """Find the smallest story that breaks the promise which --seed breaks in FILE, and print it."""
    from ibbond.host.output_file import write_output
    from ibbond.sim.shrink import MAX_RUNS
    from ibbond.sim.shrink import shrink as shrink_story
    from ibbond.topology.reader import read_document

    if output is not None:
        files.try_to_write(output)
    document = read_document(read_text(file), str(file))
    with progress_bar(file.stem, MAX_RUNS) as step:
        found = shrink_story(
            document, file.stem, seed, profile=profile, on_run=lambda _, faults: step(f"{file.stem}: {faults} faults")
        )
    text = found.text(profile)
    if output is not None:
        write_output(output, text.encode())
    if as_json:
        click.echo(json.dumps({"seed": found.seed, "broken": found.broken, "runs": found.runs, "story": text}))
    elif output is None:
        click.echo(text, nl=False)
    else:
        click.echo(f"{output}: breaks with --seed {found.seed} after {found.runs} runs: {found.broken}")


@sim.command()
@click.argument("file", type=STORY)
@click.option(
    "--over",
    "axes",
    multiple=True,
    required=True,
    metavar="OPTION=VALUES",
    help="Option and its values: miimon=1..200/8, or miimon=a,b,c.",
)
@click.option("--seeds", default=20, show_default=True, type=click.IntRange(1), help="Seeds for each combination.")
@click.option(
    "--profile", type=PROFILES, default="kernel-6.1", show_default=True, help="The driver behavior to emulate."
)
@click.option("--workers", type=click.IntRange(1), help="Number of processes (default: one per core).")
@ON
@click.option("--picture", type=click.Path(dir_okay=False, path_type=Path), help="Write an SVG picture to FILE.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def sweep(
    file: Path,
    axes: tuple[str, ...],
    seeds: int,
    profile: str,
    workers: int | None,
    on: str | None,
    picture: Path | None,
    as_json: bool,
) -> None:
    """Measure outages for combinations of bond options (--over): the story in FILE, many seeds for each."""
    from ibbond.sim.explore import read_story
    from ibbond.sim.sweep import Axis, Cell, combinations
    from ibbond.sim.sweep import sweep as run_sweep
    from ibbond.sim.workers import workers as open_workers
    from ibbond.sim.world import World

    wanted = [Axis.parse(axis) for axis in axes]
    text = read_text(file)
    story = read_story(text, file.stem)
    order = combinations(wanted)
    for settings in (order[0], order[-1]):  # refuse a bad option before any worker starts
        World(story, 0, profile, overrides=dict(settings)).begin()
    if picture is not None:
        files.try_to_write(picture)
    cells: list[Cell] = []
    with (
        open_workers(workers, on) as pool,
        progress_bar(file.stem, len(order)) as step,
    ):
        for cell in run_sweep(pool, text, file.stem, wanted, seeds, profile=profile):
            cells.append(cell)
            step(f"{file.stem}: {len(cells)} of {len(order)} settings")
    cells.sort(key=lambda cell: order.index(cell.settings))
    if picture is not None:
        from ibbond.host.output_file import write_output
        from ibbond.sim.sweep_picture import render

        write_output(picture, render(f"{story.title}: outage over {seeds} seeds ({profile})", wanted, cells).encode())
    if as_json:
        rows = [{**dict(c.settings), "outages_ms": list(c.outages_ms)} for c in cells]
        click.echo(json.dumps({"story": str(file), "profile": profile, "seeds": seeds, "cells": rows}))
        return
    heads = [axis.option for axis in wanted]
    click.echo("  ".join(f"{head:>12}" for head in [*heads, "median ms", "p90 ms", "max ms"]))
    for cell in cells:
        numbers = [cell.quantile(0.5), cell.quantile(0.9), cell.outages_ms[-1]]
        click.echo("  ".join(f"{value:>12}" for value in [*(value for _, value in cell.settings), *numbers]))


@contextmanager
def progress_bar(name: str, total: int) -> Iterator[Callable[[str], None]]:
    """A bar on stderr, or ten lines where that is not a terminal; what it yields advances it by one."""
    if not sys.stderr.isatty():
        done = itertools.count(1)
        yield lambda words: tenth(next(done), total, words)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(name, total=total)
        yield lambda words: progress.update(task, advance=1, description=words)


def tenth(done: int, total: int, words: str) -> None:
    if done * 10 // total > (done - 1) * 10 // total:
        click.echo(words, err=True)


def print_outcome(outcome: Outcome, file: str, profile: str) -> None:
    for moment in outcome.moments:
        click.echo(f"{moment.at_ms:12.3f} ms  {moment.what:10} {moment.where:14} {moment.detail}")
    click.echo(f"seed {outcome.seed}: {outcome.steps} steps, trace {outcome.trace[:16]}")
    if outcome.broken:
        click.echo(f"BROKEN at {outcome.at_ms:.3f} ms: {outcome.broken}")
        click.echo(f"replay: {replay_line(file, outcome.seed, profile)}")
    else:
        click.echo("every promise kept")


def replay_line(file: Path | str, seed: int, profile: str) -> str:
    return f"ibbond sim run {file} --seed {seed}" + ("" if profile == "default" else f" --profile {profile}")


def read_range(text: str) -> range:
    first, dots, last = text.partition("..")
    if not (dots and first.isdecimal() and last.isdecimal() and int(first) < int(last)):
        raise Refused(f"--seeds {text}", why="it is not a range A..B of numbers with A below B", fix="Write 0..100")
    return range(int(first), int(last))


def story_text(file: Path, fabric: Path | None, bundles: tuple[Path, ...]) -> str:
    """A scenario file, or its story in the fabric that --from names."""
    if fabric is None:
        if bundles:
            raise files.only_with_from()
        return read_text(file)
    import tomli_w

    from ibbond.topology.reader import read_document

    story = read_document(read_text(file), str(file)).get("story", {})
    topology, source = files.import_topology(fabric, bundles)
    return tomli_w.dumps(read_document(topology, source) | {"story": story})


def read_text(file: Path) -> str:
    from ibbond.topology.reader import read_document

    text = read_input_text(file, "Give the path of a story (docs/topology.md)")
    read_document(text, str(file))
    return text
