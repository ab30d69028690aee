"""`ibbond conform`: recordings of the kernel's bonding driver, replayed against ours.

Read first: tests/golden/kernel-6.1/README.md, which defines the format and what counts as passed. Left out: the replay
itself (`sim.conform`).
"""

from __future__ import annotations

import errno
import lzma
from collections import Counter
from pathlib import Path

import click

from ibbond.abi.recording import Recording, parse_recording
from ibbond.bonding.quirks import PROFILES
from ibbond.cli.output import json_option, print_json
from ibbond.errors import Malformed, Refused
from ibbond.host.input_file import read_input
from ibbond.replay.conform import KERNEL_PROFILE, Result, Verdict, replay

SUFFIXES = (".json", ".jsonl", ".json.xz", ".jsonl.xz")
STEPS_SHOWN = 8  # before the first difference


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option(
    "--profile",
    default=KERNEL_PROFILE,
    show_default=True,
    type=click.Choice(sorted(PROFILES)),
    help="The driver behavior to emulate.",
)
@click.option("--only", default="", metavar="TEXT", help="Replay only cases whose name contains TEXT.")
@click.option("--verbose", "-v", is_flag=True, help="Print every case, and every difference of the failed ones.")
@json_option
def conform(paths: tuple[str, ...], profile: str, only: str, verbose: bool, as_json: bool) -> int:
    """Replay recordings of the kernel's bonding driver and compare ibbond's driver with them.

    PATH is a recording (JSON lines, also compressed with xz) or a directory of them. Exit status: 0 only if no case
    failed.
    """
    recordings = {path: load(path) for name in paths for path in find(name)}
    if not any(only in case.name for cases in recordings.values() for case in cases):
        names = [case.name for cases in recordings.values() for case in cases]
        raise Refused(
            f"cannot replay cases with {only!r} in their name",
            why=f"none of the {len(names)} names contains it; the first is {names[0]}"
            if names
            else "there are no cases",
            fix="Use a part of a case's name, or omit --only",
            code=errno.ENOENT,
        )
    results: dict[str, list[Result]] = {}
    for path, cases in recordings.items():
        results[str(path)] = [replay(case, profile) for case in cases if only in case.name]
        if not as_json:
            show(str(path), results[str(path)], verbose=verbose)
    if as_json:
        print_json(as_facts(results))
    elif len(results) > 1:
        click.echo(f"all: {counts([result for file in results.values() for result in file])}")
    return int(any(result.verdict is Verdict.FAILED for file in results.values() for result in file))


def find(name: str) -> list[Path]:
    """The recordings that a path names. Refused (ENOENT) where there are none."""
    path = Path(name)
    if not path.exists():
        raise Refused(
            f"cannot replay {name}", why="there is no such file", fix="Give the path of a recording", code=errno.ENOENT
        )
    if not path.is_dir():
        return [path]
    found = sorted(entry for entry in path.rglob("*") if entry.is_file() and entry.name.endswith(SUFFIXES))
    if not found:
        raise Refused(
            f"cannot replay {name}",
            why=f"no file in it ends in {' '.join(SUFFIXES)}",
            fix="Give the path of a recording or a directory of recordings",
            code=errno.ENOENT,
        )
    return found


def load(path: Path) -> list[Recording]:
    """The cases of one file. Refused where it cannot be read or is no recording."""
    try:
        raw = read_input(path, "Give the path of a recording")
        return parse_recording(lzma.decompress(raw) if path.name.endswith(".xz") else raw)
    except (Malformed, lzma.LZMAError) as error:
        raise Refused(
            f"cannot replay {path}", why=str(error), fix="Record it again; the format is in docs/conformance.md"
        ) from None


def counts(results: list[Result]) -> str:
    number = Counter(result.verdict for result in results)
    return ", ".join(f"{number[verdict]} {verdict.value}" for verdict in Verdict)


def show(name: str, results: list[Result], *, verbose: bool) -> None:
    """One file: its counts, why cases were skipped, and where each failed case first disagreed."""
    click.echo(f"{name}: {counts(results)}")
    for result in results:
        match result.verdict:
            case Verdict.PASSED if verbose:
                click.echo(f"  passed  {result.case.name}")
            case Verdict.SKIPPED:
                click.echo(f"  skipped {result.case.name}: {result.reason}")
            case Verdict.FAILED:
                click.echo(f"  failed  {result.case.name}")
                show_failure(result, verbose=verbose)
            case _:
                pass


def show_failure(result: Result, *, verbose: bool) -> None:
    """The steps that led to the first difference, then the difference; with `verbose` all of both."""
    first = result.differences[0]
    last = first.step if isinstance(first.step, int) else len(result.case.steps) - 1
    begin = 0 if verbose else max(0, last - STEPS_SHOWN)
    if begin:
        click.echo(f"      ({begin} steps before)")
    for number, step in enumerate(result.case.steps[begin : last + 1], start=begin):
        click.echo(f"      step {number}: {step}{f' -> {step.errno}' if step.errno else ''}")
    for difference in result.differences if verbose else [first]:
        click.echo(f"    ! {difference}")


def as_facts(results: dict[str, list[Result]]) -> dict[str, object]:
    """The answer as JSON: counts per file, and the first difference of each failed case."""
    files = {
        name: {verdict.value: sum(result.verdict is verdict for result in file) for verdict in Verdict}
        for name, file in results.items()
    }
    failed = [result for file in results.values() for result in file if result.verdict is Verdict.FAILED]
    skipped = [result for file in results.values() for result in file if result.verdict is Verdict.SKIPPED]
    return {
        "files": files,
        "failed_cases": [
            {
                "name": result.case.name,
                "step": result.differences[0].step,
                "what": result.differences[0].what,
                "expected": result.differences[0].expected,
                "got": result.differences[0].got,
            }
            for result in failed
        ],
        "skipped_cases": [{"name": result.case.name, "reason": result.reason} for result in skipped],
    }
