"""`ibbond drill`: a failover certificate. Words and files only; `drill.runner` does it, `drill.report` draws it.

Read first: docs/drill.md. Exit 0: pass, 1: fail or unclear, 2: refused, and nothing was changed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ibbond.cli import completers
from ibbond.cli.output import as_dict, json_option, name_option, print_json, table
from ibbond.cli.signals import signals_end_it
from ibbond.errors import Refused
from ibbond.machine import MS, SECOND, US

if TYPE_CHECKING:
    from ibbond.backend.control_socket import Control
    from ibbond.cli.addr import DeviceName
    from ibbond.drill.runner import World
    from ibbond.drill.verdict import Certificate

UNITS = {"us": US, "ms": MS, "s": SECOND, "": SECOND}
LONGEST = 3600 * SECOND


class Duration(click.ParamType[int]):
    """`1s`, `250ms`, `1.5`: a time in nanoseconds; without a unit it is seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d+(?:\.\d+)?)(us|ms|s|)", str(value))
        ns = round(float(match[1]) * UNITS[match[2]]) if match else 0
        if not 0 < ns <= LONGEST:
            self.fail(f"{value!r} is not a duration. Write for example 1s, 250ms or 1.5.", param, ctx)
        return ns


@click.command()
@name_option
@click.argument("bond", required=False, default="", shell_complete=completers.bonds)
@click.option(
    "--peer",
    "peers",
    multiple=True,
    metavar="HOST",
    help="The host to probe from (default in a lab: the first other host).",
)
@click.option(
    "--class",
    "classes",
    multiple=True,
    metavar="CLASS",
    help="What to do to the bond; repeatable (default: all safe classes).",
)
@click.option(
    "--rounds", type=click.IntRange(1, 1000), default=3, show_default=True, help="How many times to repeat each class."
)
@click.option(
    "--budget", type=Duration(), default="1s", show_default=True, help="The longest outage that still passes."
)
@click.option("--spacing", type=Duration(), default="1ms", show_default=True, help="Time between two probes of a flow.")
@click.option(
    "--report",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write an HTML page, JSON, JUnit XML and metrics to this directory.",
)
@click.option(
    "--token", type=click.Path(path_type=Path, dir_okay=False), help="File with the secret that both hosts share."
)
@click.option("--junit", type=click.Path(path_type=Path, dir_okay=False), help="Write JUnit XML to this file.")
@click.option(
    "--sim",
    "story",
    type=click.Path(path_type=Path),
    metavar="STORY",
    help="Run in the simulator, on the hosts of this story.",
)
@click.option("--dry-run", is_flag=True, help="Print every command without running it.")
@click.option(
    "--i-have-a-console", "has_console", is_flag=True, help="Proceed although this session runs over the bond."
)
@click.option("--serve", is_flag=True, help="Answer the probes of a drill on another host.")
@click.option("--list-classes", is_flag=True, help="List the classes, and what each one tests.")
@json_option
def drill(
    lab_name: str,
    bond: str,
    peers: tuple[str, ...],
    classes: tuple[str, ...],
    rounds: int,
    budget: int,
    spacing: int,
    report: Path | None,
    junit: Path | None,
    story: Path | None,
    token: Path | None,
    dry_run: bool,
    has_console: bool,
    serve: bool,
    list_classes: bool,
    as_json: bool,
) -> int:
    """Make BOND fail on purpose, measure what a peer loses, undo the fault, and report pass or fail.

    BOND is in a lab (h1/bond0), in a story (--sim), or on this host (bond0). On this host it needs --peer and --token,
    and the peer must be running: ibbond drill --serve --token FILE. Exit status: 0 for pass, 1 for fail or unclear,
    2 if refused, with nothing changed.
    """
    if list_classes:
        return print_classes(as_json)
    if serve:
        from ibbond.drill import peer

        peer.serve(peer.read_token(token), lambda text: click.echo(text, err=as_json))
    if not bond:
        raise Refused("no bond was given", why="a drill tests one bond", fix="Write for example: ibbond drill h1/bond0")
    check_places(report, junit)
    with world_of(lab_name, bond, peers, story, spacing, token) as world:
        if dry_run:
            return print_plans(world, classes, as_json, has_console=has_console)
        say: Callable[[str], None] = lambda text: click.echo(text, err=as_json)  # noqa: E731
        from ibbond.drill.runner import drill as perform

        with signals_end_it("the fault is undone"):
            found = perform(world, classes, rounds, budget, say, has_console=has_console, spacing_ns=spacing)
    place = write_files(found, report, junit, world.drilled)
    print_json(found.as_json()) if as_json else click.echo(describe(found) + (f"\nreport: {place}" if place else ""))
    sys.stdout.flush()
    from ibbond.drill.verdict import Verdict

    return 0 if found.verdict is Verdict.PASS else 1


def check_places(report: Path | None, junit: Path | None) -> None:
    """Refuse a report that could not be written, before anything is made to fail."""
    if report is not None:
        from ibbond.demo.report import make_directory

        make_directory(report)
    if junit is not None:
        from ibbond.cli.files import try_to_write

        try_to_write(junit)


@contextlib.contextmanager
def world_of(
    lab: str, bond: str, peers: tuple[str, ...], story: Path | None, spacing: int, token: Path | None
) -> Iterator[World]:
    """The world that the words name: a story, a lab, or this host."""
    if spacing % US or spacing < 100 * US:
        raise Refused(
            "invalid value for --spacing",
            why="it must be a whole number of microseconds, 100 or more",
            fix="For example: 1ms",
        )
    from ibbond.cli.addr import parse_device

    name = parse_device(bond, "" if story is not None else lab)
    if story is not None:
        yield simulated(story, name, peers, spacing)
        return
    if name.host:
        with lab_world(lab, name.host, name.device, peers, spacing) as world:
            yield world
        return
    with own_world(bond, peers, spacing, token) as world:
        yield world


def simulated(story: Path, name: DeviceName, peers: tuple[str, ...], spacing: int) -> World:
    from ibbond.cli.sim import read_text
    from ibbond.drill.sim_world import SimWorld, peer_of
    from ibbond.sim.explore import read_story

    if spacing % MS:
        raise Refused(
            "invalid value for --spacing", why="the simulator takes whole milliseconds only", fix="For example: 1ms"
        )
    if not name.host:
        raise Refused(f"no host of {story} is named", why="a bond in a story is HOST/BOND", fix="For example: h1/bond0")
    read = read_story(read_text(story), story.stem)
    peer = peer_of(read, name.host, peers[0] if peers else "")
    return SimWorld(read, 0, name.host, name.device, peer, spacing // MS)


@contextlib.contextmanager
def lab_world(lab: str, host: str, bond: str, peers: tuple[str, ...], spacing: int) -> Iterator[World]:
    from ibbond.backend.control_socket import Control
    from ibbond.drill.lab_world import LabWorld

    if len(peers) > 1:
        raise Refused("cannot use several peers", why="a drill in a lab is probed from one host", fix="Give one --peer")
    with Control.of(lab) as control:
        peer = peers[0] if peers else first_other(control, host)
        yield LabWorld(control, host, bond, peer, spacing // US, check_errors(lab, host, bond))


@contextlib.contextmanager
def own_world(bond: str, peers: tuple[str, ...], spacing: int, token: Path | None) -> Iterator[World]:
    """A bond of this host; its guards come before the peer is asked for anything."""
    from ibbond.drill.host_world import HostWorld
    from ibbond.drill.peer import Peer, read_token

    what = f"cannot drill {bond}"
    if len(peers) != 1:
        why = "several peers were given" if peers else "no peer was given to probe from"
        raise Refused(what, why=why, fix="Give one --peer HOST, which runs ibbond drill --serve")
    secret = read_token(token)
    if os.geteuid() != 0:
        raise Refused(what, why="only root can change a bond of this host", fix="Run it as root", code=errno.EPERM)
    with contextlib.closing(Peer(peers[0], secret)) as peer:
        yield HostWorld(bond, peer, spacing // US)


def first_other(control: Control, host: str) -> str:
    status = as_dict(control.ask("status"))
    others = [name for name in as_dict(status["hosts"]) if name != host]
    if not others:
        raise Refused(f"cannot drill a bond of {host}", why="the lab has no other host to probe from", fix="Add a host")
    return others[0]


def check_errors(lab: str, host: str, bond: str) -> list[str]:
    """What `ibbond check` finds wrong with the bond, its errors only."""
    from ibbond.cli.check import read
    from ibbond.ops.check import check
    from ibbond.ops.rule import Severity

    facts = read([f"{host}/{bond}" if host else bond], lab, None, [], 10**9)
    return [finding.found.what for finding in check(facts) if finding.severity is Severity.ERROR]


def print_classes(as_json: bool) -> int:
    from ibbond.drill.classes import CLASSES

    if as_json:
        rows = [
            {"class": r.name, "title": r.title, "tests": r.tests, "leaves_alone": r.spares} for r in CLASSES.values()
        ]
        print_json({"classes": rows})
        return 0
    for row in CLASSES.values():
        click.echo(f"{row.name}: {row.title}\n  tests: {row.tests}\n  does not test: {row.spares}")
    return 0


def print_plans(world: World, classes: tuple[str, ...], as_json: bool, *, has_console: bool) -> int:
    """Every command that a drill would run, per class; nothing is changed."""
    from ibbond.drill.runner import dry_run

    plans = list(dry_run(world, classes, has_console=has_console))
    if as_json:
        shown: list[dict[str, object]] = []
        for row, plan in plans:
            if isinstance(plan, str):
                shown.append({"class": row.name, "left_out": plan})
            else:
                shown.append(
                    {"class": row.name, "do": [list(c) for c in plan.do], "undo": [list(c) for c in plan.undo]}
                )
        print_json({"plans": shown})
        return 0
    for row, plan in plans:
        if isinstance(plan, str):
            click.echo(f"{row.name}: left out, {plan}")
            continue
        click.echo(f"{row.name}: {row.title}")
        click.echo("  armed outside before the fault, run if the drill is killed:")
        click.echo("".join(f"    {shlex.join(command)}\n" for command in plan.undo), nl=False)
        for word, commands in (("fault", plan.do), ("undo", plan.undo)):
            click.echo(f"  {word}:")
            click.echo("".join(f"    {shlex.join(command)}\n" for command in commands), nl=False)
    return 0


def write_files(found: Certificate, report: Path | None, junit: Path | None, drilled: str) -> Path | None:
    """The report directory's files and the JUnit file; the path of the page."""
    from ibbond.drill import formats

    place = None
    if report is not None:
        from ibbond.drill.report import write_report

        place = write_report(found, report, drilled)
    if junit is not None:
        from ibbond.host.output_file import write_output

        write_output(junit, formats.junit(found).encode())
    return place


def describe(found: Certificate) -> str:
    """The result for people: failures first, then a line for each run."""
    rows = [
        (
            run.name,
            run.observation.round,
            run.observation.victim,
            f"{run.gap.ns / MS:.1f} ms",
            run.lost,
            "yes" if run.sum.agrees else "NO",
        )
        for run in found.runs
    ]
    lines = [f"!!! {failure}" for failure in found.failures]
    lines += ["", table(rows, ("CLASS", "ROUND", "MEMBER", "GAP", "LOST", "SUM AGREES"))] if rows else []
    lines += ["", *(f"not tested: {each.name} ({each.why})" for each in found.not_tested)]
    lines += [f"  {reason}" for reason in found.reasons()]
    lines += list(found.notes)
    lines.append(f"verdict: {found.verdict.value} (budget {found.budget_ns / MS:g} ms)")
    return "\n".join(lines)
