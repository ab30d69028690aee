"""`ibbond lab cut|mend|flap|capture|events`: what happens to the cables of a running lab, and watching them."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ibbond.cli import completers
from ibbond.cli.files import absolute
from ibbond.cli.numbers import Number
from ibbond.cli.output import as_dict, done, json_option, name_option, print_json
from ibbond.cli.signals import signals_end_it
from ibbond.errors import Refused

if TYPE_CHECKING:
    from ibbond.backend.control_socket import Control

CABLES = click.argument("cables", nargs=-1, required=True, metavar="CABLE...", shell_complete=completers.cables)
PAUSE_MS = click.IntRange(0, 3_600_000)
LONGEST = 10**9  # seconds


@click.command()
@name_option
@CABLES
@json_option
def cut(lab_name: str, cables: tuple[str, ...], as_json: bool) -> None:
    """Unplug cables, all at the same moment: ibbond lab cut h1/ib0"""
    change("cut", lab_name, cables, as_json)


@click.command()
@name_option
@CABLES
@json_option
def mend(lab_name: str, cables: tuple[str, ...], as_json: bool) -> None:
    """Plug cables in again: ibbond lab mend h1/ib0"""
    change("mend", lab_name, cables, as_json)


def change(do: str, lab_name: str, cables: tuple[str, ...], as_json: bool) -> None:
    from ibbond.backend.control_socket import Control

    with Control.of(lab_name) as control:
        facts = as_dict(control.ask(do, cables=list(cables)))
    done(as_json, f"{'mended' if do == 'mend' else do} {', '.join(cables)}", facts)


@click.command()
@name_option
@CABLES
@click.option("--times", type=click.IntRange(1), default=3, show_default=True, help="How many times.")
@click.option(
    "--down-ms", type=PAUSE_MS, default=100, show_default=True, help="How long the cable stays unplugged, in ms."
)
@click.option(
    "--up-ms", type=PAUSE_MS, default=400, show_default=True, help="How long it stays plugged between two cuts, in ms."
)
@json_option
def flap(lab_name: str, cables: tuple[str, ...], times: int, down_ms: int, up_ms: int, as_json: bool) -> None:
    """Unplug cables and plug them in again, several times; they end up plugged in, also after Ctrl-C."""
    from ibbond.backend.control_socket import Control

    names = list(cables)
    with signals_end_it("every cable that was unplugged is plugged in again"), Control.of(lab_name) as control:
        for turn in range(times):
            with pulled(control, names):
                time.sleep(down_ms / 1000)
            if turn + 1 < times:
                time.sleep(up_ms / 1000)
    done(as_json, f"flapped {', '.join(cables)} {times} times", {"flapped": names, "times": times})


@contextlib.contextmanager
def pulled(control: Control, names: list[str]) -> Iterator[None]:
    """Cables are out in this block, all from the same moment; a signal may come while the lab is asked for it."""
    with contextlib.ExitStack() as mending:
        mending.callback(mend_again, control, names)
        try:
            control.ask("cut", cables=names)
        except Refused:
            mending.pop_all()  # nothing was pulled
            raise
        yield


def mend_again(control: Control, names: list[str]) -> None:
    """Plug in what was unplugged, at the same moment, unless it has been plugged in meanwhile."""
    from ibbond.backend.control_socket import Control

    with Control(control.path) as asking:  # the other connection may still owe an answer
        try:
            asking.ask("mend", cables=names)
        except Refused:
            for name in names:
                with contextlib.suppress(Refused):
                    asking.ask("mend", cables=[name])


@click.command()
@name_option
@click.argument("device", metavar="HOST/DEV", shell_complete=completers.devices)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--seconds", type=Number(0, LONGEST, min_open=True), help="Stop after this many seconds (default: at Ctrl-C)."
)
@json_option
def capture(lab_name: str, device: str, file: Path, seconds: float | None, as_json: bool) -> None:
    """Capture the packets at HOST/DEV to FILE, for tshark or Wireshark.

    An IPoIB device (h1/ib0) or a switch port (s1/3) shows the InfiniBand packets of its port, management included; a
    bond (h1/bond0) shows its IPoIB frames.
    """
    from ibbond.lab.capturing import RunningCapture

    running = RunningCapture(lab_name, device, absolute(file))
    if not as_json:
        click.echo(f"capturing {device} to {file}" + ("" if seconds else "; Ctrl-C ends it"), err=True)
    with contextlib.suppress(KeyboardInterrupt):
        if running.wait(seconds):
            raise Refused(
                f"the capture of {device} stopped", why="the lab ended", fix=f"{file} has the packets up to that point"
            )
    found = running.end()
    missed = f", {found.missed} missed" if found.missed else ""
    done(
        as_json, f"{found.packets} packets in {file}{missed}", {"device": device, "file": str(file), **found._asdict()}
    )


@click.command()
@name_option
@click.option("--past/--no-past", default=True, help="Print past events first.")
@click.option("--follow/--no-follow", default=True, help="Keep printing new events until Ctrl-C.")
@json_option
def events(lab_name: str, past: bool, follow: bool, as_json: bool) -> None:
    """Print the events of a lab as they happen: ports, carriers, failovers. With --json, one object per line."""
    from ibbond.backend.control_socket import Control

    with Control.of(lab_name) as control:
        items = control.follow("events", past=past) if follow else control.ask("past_events")
        assert not isinstance(items, dict)
        for item in items:  # type: ignore[attr-defined]
            if as_json:
                print_json(item)
            else:
                facts = as_dict(item)
                click.echo(
                    f"{facts['t_ms']:>12} ms  {facts['what']:<12} {facts['where']:<14} {facts['detail']}".rstrip()
                )
            sys.stdout.flush()
