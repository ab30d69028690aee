"""`ibbond fabric whatif`: every single failure of a fabric in virtual time, and what it does to hosts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ibbond.cli.files import BUNDLES, imported, try_to_write
from ibbond.cli.output import json_option, print_json, table
from ibbond.cli.sim import progress_bar
from ibbond.errors import Refused
from ibbond.host.input_file import read_input_text

if TYPE_CHECKING:
    from ibbond.sim.whatif import Consequence, Findings
    from ibbond.topology.model import Topology

SHOWN_HOSTS = 6
GOOD = "no failure of a cable or switch cuts off a host or splits the fabric"


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--workers", type=click.IntRange(1, 1024), help="Number of processes (default: one per core).")
@click.option("--page", type=click.Path(dir_okay=False, path_type=Path), help="Write an HTML page to FILE.")
@BUNDLES
@json_option
def whatif(file: Path, workers: int | None, page: Path | None, bundles: tuple[Path, ...], as_json: bool) -> int:
    """Find the hosts that each single failure cuts off, interrupts, or leaves without redundancy.

    FILE is the output of ibnetdiscover, OpenSM's opensm-subnet.lst, or a topology file. Every cable, switch and adapter
    and the subnet manager fail once, each in its own copy of the simulated fabric. Exit status: 1 if the failure of a
    cable or switch cuts off a host that has several ports, or splits the fabric while the links of hosts stay up.
    """
    from ibbond.sim.whatif import failures, what_if

    topology = read_fabric(file, bundles)
    if page is not None:
        try_to_write(page)
    with progress_bar(file.name, len(failures(topology))) as step:
        found = what_if(topology, step, workers or 0)
    if page is not None:
        from ibbond.cli.whatif_page import render
        from ibbond.host.output_file import write_output

        write_output(page, render(found, topology, file.name, as_object(found)).encode())
    if as_json:
        print_json(as_object(found))
    else:
        click.echo(describe(found))
    return 0 if found.survives else 1


def read_fabric(file: Path, bundles: tuple[Path, ...] = ()) -> Topology:
    """A topology file, or a fabric in a format that can be imported."""
    from ibbond.topology.imported import FORMATS
    from ibbond.topology.load import parse

    text = read_input_text(file, "Name a topology file, or one that ibnetdiscover or OpenSM wrote")
    if any(looks_like(text) for looks_like, _ in FORMATS.values()):
        text, _ = imported(text, file, bundles)
    elif bundles:
        why = "bundles name the hosts of a fabric that ibnetdiscover or OpenSM wrote; a topology file has its own"
        raise Refused(f"cannot use --bundle with {file}", why=why, fix="Omit it")
    topology = parse(text, name=str(file), others=("story",))
    if len(topology.hosts) < 2:
        raise Refused(f"{file} has one host", why="a connection needs two hosts", fix="Add hosts")
    return topology


def as_object(found: Findings) -> dict[str, object]:
    return {
        "hosts": found.hosts,
        "switches": found.switches,
        "cables": found.cables,
        "survives": found.survives,
        "one_port": list(found.one_port),
        "one_switch": list(found.one_switch),
        "failures": [
            {
                "kind": each.kind,
                "name": each.name,
                "cut_off": list(each.cut_off),
                "interrupted_ms": each.interrupted_ms,
                "redundancy_lost": list(each.redundancy_lost),
                "split": list(each.split),
            }
            for each in found.consequences
        ],
    }


def describe(found: Findings) -> str:
    """The findings for people: what cuts off hosts, then by kind of failure."""
    size = f"{found.hosts} hosts, {found.switches} switches, {found.cables} cables"
    lines = [f"{size}; {len(found.consequences)} failures"]
    if found.one_switch:
        lines += ["", f"all ports at one switch: {names(found.one_switch)}"]
    if found.one_port:
        lines += ["", f"only one port: {names(found.one_port)}"]
    if found.cutting:
        rows = [(f"{each.kind} {each.name}", names(each.cut_off)) for each in found.cutting]
        lines += ["", table(rows, ("FAILURE", "CUTS OFF"))]
    if found.splitting:
        rows = [(f"{each.kind} {each.name}", names(each.split)) for each in found.splitting]
        lines += ["", table(rows, ("FAILURE", "SPLITS THE FABRIC, LINKS STAY UP AT"))]
    rows_by_kind = [row(kind, found) for kind in dict.fromkeys(each.kind for each in found.consequences)]
    heads = ("FAILURE OF ONE", "TRIED", "CUT OFF HOSTS", "INTERRUPTED HOSTS", "LONGEST", "LESS REDUNDANCY")
    lines += ["", table(rows_by_kind, heads)]
    verdict = GOOD if found.survives else "hosts can be cut off: see above"
    return "\n".join([*lines, "", verdict])


def row(kind: str, found: Findings) -> tuple[object, ...]:
    these: list[Consequence] = [each for each in found.consequences if each.kind == kind]
    worst = max(each.worst_ms for each in these)
    return (
        kind,
        len(these),
        sum(bool(each.cut_off) for each in these),
        sum(bool(each.interrupted_ms) for each in these),
        f"{worst} ms" if worst else "-",
        sum(bool(each.redundancy_lost) for each in these),
    )


def names(hosts: tuple[str, ...]) -> str:
    more = f" and {len(hosts) - SHOWN_HOSTS} more" if len(hosts) > SHOWN_HOSTS else ""
    return ", ".join(hosts[:SHOWN_HOSTS]) + more
