"""`ibbond sim run|explore`: stories under a virtual clock, one seed or many."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ibbond.errors import Refused

if TYPE_CHECKING:
    from ibbond.sim.explore import Verdict
    from ibbond.sim.world import Outcome

PROFILES = click.Choice(["default", "kernel-6.1", "linux-2.6.19"])
STORY = click.Path(exists=True, dir_okay=False, readable=True, path_type=Path)


@click.group()
def sim() -> None:
    """Stories in the virtual world: the same code, a virtual clock, one seed replays everything."""


@sim.command()
@click.argument("file", type=STORY)
@click.option("--seed", default=0, show_default=True, help="Which of the story's random courses to run.")
@click.option("--profile", type=PROFILES, default="default", show_default=True, help="Whose behaviour the bonds have.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def run(file: Path, seed: int, profile: str, as_json: bool) -> None:
    """Run one seed of the story in FILE and print its time line. Exit 1 when a promise breaks."""
    from ibbond.sim.explore import run_one

    outcome = run_one(read_text(file), file.stem, seed, profile)
    if as_json:
        click.echo(json.dumps(asdict(outcome)))
    else:
        print_outcome(outcome, file, profile)
    sys.exit(1 if outcome.broken else 0)


@sim.command()
@click.argument("file", type=STORY)
@click.option("--seeds", default="0..100", show_default=True, help="A..B: from A up to but not including B.")
@click.option("--profile", type=PROFILES, default="default", show_default=True, help="Whose behaviour the bonds have.")
@click.option("--workers", type=click.IntRange(0), help="Processes; all cores when not given.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def explore(file: Path, seeds: str, profile: str, workers: int | None, as_json: bool) -> None:
    """Run many seeds of the story in FILE. Exit 1 when one of them breaks a promise; prints the line to replay it."""
    from ibbond.sim.explore import explore as explore_seeds
    from ibbond.sim.explore import read_story

    wanted = read_range(seeds)
    text = read_text(file)
    read_story(text, file.stem)  # refuse a bad story before any worker starts
    broken: list[Verdict] = []
    done = 0
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(file.stem, total=len(wanted))
        for verdict in explore_seeds(text, file.stem, wanted, profile=profile, workers=workers):
            done += 1
            if verdict.broken is not None:
                broken.append(verdict)
            progress.update(task, advance=1, description=f"{file.stem}: {len(broken)} broken")
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


def print_outcome(outcome: Outcome, file: Path, profile: str) -> None:
    for moment in outcome.moments:
        click.echo(f"{moment.at_ms:12.3f} ms  {moment.what:10} {moment.where:14} {moment.detail}")
    click.echo(f"seed {outcome.seed}: {outcome.steps} steps, trace {outcome.trace[:16]}")
    if outcome.broken:
        click.echo(f"BROKEN at {outcome.at_ms:.3f} ms: {outcome.broken}")
        click.echo(f"replay: {replay_line(file, outcome.seed, profile)}")
    else:
        click.echo("every promise kept")


def replay_line(file: Path, seed: int, profile: str) -> str:
    return f"ibbond sim run {file} --seed {seed}" + ("" if profile == "default" else f" --profile {profile}")


def read_range(text: str) -> range:
    first, dots, last = text.partition("..")
    if not (dots and first.isdecimal() and last.isdecimal() and int(first) < int(last)):
        raise Refused(f"--seeds {text}", why="it is not a range A..B of numbers with A below B", fix="Write 0..100")
    return range(int(first), int(last))


def read_text(file: Path) -> str:
    import tomllib

    text = file.read_text()
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Refused(f"cannot read {file}", why=f"it is not TOML: {error}", fix="Correct that line") from None
    return text
