"""`ibbond lab top`: samples of a running lab, drawn again and again. The arithmetic is in `ops.top`."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import click

from ibbond.cli import completers
from ibbond.cli.numbers import Number
from ibbond.cli.output import json_option, name_option, print_json, table

if TYPE_CHECKING:
    from ibbond.ops.top import Picture, Sample


@click.command()
@name_option
@click.argument("hosts", nargs=-1, metavar="[HOST]...", shell_complete=completers.hosts)
@click.option("--every", type=Number(0.1, 3600), default=1.0, show_default=True, help="Seconds between updates.")
@click.option("--times", type=click.IntRange(1), help="Number of updates to print (default: until Ctrl-C).")
@json_option
def top(lab_name: str, hosts: tuple[str, ...], every: float, times: int | None, as_json: bool) -> None:
    """Show the active member of each bond, packets per second of members and cables, and the last failover.

    Shows all hosts, or only the given HOSTs. Updates in place on a terminal; otherwise prints a block for each update,
    with --json an object.
    """
    from ibbond.backend.control_socket import Control
    from ibbond.ops.lab_sample import lab_sample

    with Control.of(lab_name) as control, show(as_json) as shown, contextlib.suppress(KeyboardInterrupt):
        for host in hosts:
            control.ask("host", host=host)  # refused where there is no such host
        for seen in pictures(lambda: lab_sample(control, hosts), every, times):
            shown(seen)


def pictures(sample: Callable[[], Sample], every: float, times: int | None) -> Iterator[Picture]:
    """What is seen between one look and the next, so many times."""
    from ibbond.ops.top import picture

    before = sample()
    while times is None or times > 0:
        time.sleep(every)
        after = sample()
        yield picture(before, after)
        before = after
        times = times - 1 if times is not None else None


@contextlib.contextmanager
def show(as_json: bool) -> Iterator[Callable[[Picture], None]]:
    """How a picture is shown where output goes."""
    if as_json:
        yield lambda seen: print_line(facts_of(seen))
    elif not sys.stdout.isatty():
        yield lambda seen: click.echo(text_of(seen) + "\n")
    else:
        from rich.live import Live
        from rich.text import Text

        with Live(screen=True, auto_refresh=False) as live:

            def draw(seen: Picture) -> None:
                text = Text(text_of(seen))
                text.highlight_regex(r"\* \S+", "bold green")
                text.highlight_regex(r"\b(cut|no carrier|down)\b", "red")
                live.update(text, refresh=True)

            yield draw


def print_line(facts: Mapping[str, object]) -> None:
    print_json(facts)
    sys.stdout.flush()


def facts_of(seen: Picture) -> dict[str, object]:
    from dataclasses import asdict

    return asdict(seen)


def text_of(seen: Picture) -> str:
    """A picture for people."""
    rows = []
    for bond in seen.bonds:
        last = "" if bond.failover_age_ms is None else f"{bond.failover}, {ago(bond.failover_age_ms)}"
        for number, member in enumerate(bond.members):
            rows.append(
                (
                    bond.name if not number else "",
                    f"{'*' if member.active else ' '} {member.name}",
                    member.state,
                    f"{member.rx_packets:,.0f}",
                    f"{member.tx_packets:,.0f}",
                    f"{member.rx_bytes * 8 / 1e6:,.1f}",
                    f"{member.tx_bytes * 8 / 1e6:,.1f}",
                    last if not number else "",
                )
            )
    heads = ("BOND", "  MEMBER", "STATE", "RX/s", "TX/s", "RX Mbit/s", "TX Mbit/s", "LAST FAILOVER")
    lines = [table(rows, heads)]
    if seen.cables:
        cables = [(*cable.ends, cable.state, f"{cable.packets:,.0f}") for cable in seen.cables]
        lines += ["", table(cables, ("CABLE", "", "STATE", "PACKETS/s"))]
    if seen.late_ms:
        lines += ["", f"the lab ran up to {seen.late_ms:.1f} ms late"]
    return "\n".join(lines)


def ago(ms: float) -> str:
    """`12 s ago`, `3 min ago`, `2 h ago`."""
    seconds = ms / 1000
    for limit, unit, size in ((120, "s", 1), (7200, "min", 60)):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds / 3600:.0f} h ago"
