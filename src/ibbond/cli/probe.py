"""`ibbond lab probe`: how long was I down? The demo's meter for two hosts of any lab."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING

import click

from ibbond.cli import completers
from ibbond.cli.numbers import Number
from ibbond.cli.output import json_option, name_option, print_json, table
from ibbond.cli.signals import signals_end_it
from ibbond.errors import Refused

if TYPE_CHECKING:
    from ibbond.demo.probe import Measurement

SHOWN = ("cut", "mend", "kill", "revive", "lossy", "died", "failover", "duplicate")  # of the lab's events
DAY = 86_400  # seconds


@click.command(context_settings={"allow_interspersed_args": False})
@name_option
@click.option(
    "--seconds",
    type=Number(0, DAY, min_open=True),
    help="How long to measure; with COMMAND: how long after it has ended.",
)
@json_option
@click.argument("one", metavar="HOST", shell_complete=completers.hosts)
@click.argument("two", metavar="HOST", shell_complete=completers.hosts)
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def probe(lab_name: str, seconds: float | None, as_json: bool, one: str, two: str, command: tuple[str, ...]) -> int:
    """Measure what UDP, multicast, ICMP and TCP lose between two hosts: ibbond lab probe h1 h2 -- ibbond lab cut h1/ib0

    Runs COMMAND on this machine and measures until a second after it has ended; without COMMAND, for --seconds or until
    Ctrl-C. A probe is sent every millisecond (ICMP: every ten) in both directions. Exit status: 0 if every protocol
    works at the end and COMMAND succeeded, else 1.
    """
    from ibbond.backend.control_socket import Control
    from ibbond.demo.live_view import Lines, Silent, view
    from ibbond.demo.probe import measure

    words = runnable(command)
    with signals_end_it("the measuring programs are stopped"), Control.of(lab_name) as control:
        if words:
            found = measure(control, (one, two), Silent() if as_json else Lines(), command=words, seconds=seconds)
        else:
            with view(as_json) as seen:
                found = measure(control, (one, two), seen, seconds=seconds)
    if as_json:
        print_json(found.as_json())
    else:
        click.echo(describe(found))
    sys.stdout.flush()
    return 0 if found.works and not found.exit_code else 1


def runnable(command: tuple[str, ...]) -> tuple[str, ...]:
    """The words after `--`; refused, before any traffic, where they cannot be run."""
    words = command[1:] if command[:1] == ("--",) else command
    if command and not words:
        raise Refused("no command to run", why="nothing was given after --", fix="Omit --, or give a program after it")
    if words and shutil.which(words[0]) is None and words[0] != "ibbond":
        fix = "It runs on this machine, not in a host: ibbond lab probe h1 h2 -- ibbond lab cut h1/ib0"
        if words[0].startswith("-"):
            fix = f"Options go before the hosts: ibbond lab probe {words[0]} ..."
        raise Refused(f"cannot run {words[0]}", why="no such program", fix=fix)
    return words


def describe(found: Measurement) -> str:
    """The measurement for people."""
    lines = [f"{found.hosts[0]} and {found.hosts[1]}, {found.seconds:.1f} s"]
    events = [
        (f"{event['t_ms']:>10} ms", event["what"], event["where"], event["detail"])
        for event in found.events
        if event["what"] in SHOWN
    ]
    lines += ["", table(events)] if events else []
    rows = [
        (
            row.protocol,
            *(
                (f"{row.sent / 1e6:.1f} MB", f"{row.received / 1e6:.1f} MB", "-")
                if row.protocol == "tcp"
                else (f"{row.sent:,}", f"{row.received:,}", str(row.lost))
            ),
            f"{row.outage_ms:.1f} ms",
            "" if row.outage_at_ms is None else f"at {row.outage_at_ms:.0f} ms",
            "" if row.works else "does not work at the end",
        )
        for row in found.protocols
    ]
    lines += ["", table(rows, ("PROTOCOL", "SENT", "RECEIVED", "LOST", "LONGEST OUTAGE", "", ""))]
    worst = max(found.protocols, key=lambda row: row.outage_ms)
    lost = sum(row.lost for row in found.protocols)
    silence = f"the longest outage was {worst.outage_ms:.1f} ms ({worst.protocol})"
    lines += ["", f"{'nothing was lost' if not lost else f'{lost} probes were lost'}; {silence}"]
    lines += found.notes
    if found.exit_code:
        lines.append(f"the command ended with {found.exit_code}")
    return "\n".join(lines)
