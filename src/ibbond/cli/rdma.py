"""`ibbond lab rdma-session`: a block session over RDMA CM through failovers. `demo.rdma_session` does the work."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ibbond.cli.files import read_topology
from ibbond.cli.output import json_option, name_option, print_json, table
from ibbond.cli.signals import signals_end_it
from ibbond.errors import Refused

if TYPE_CHECKING:
    from ibbond.backend.control_socket import Control

COLUMNS = ("failover", "error_seen", "addr_change", "resolved", "reconnected", "first_io")
PLUGGED = "every cable that was unplugged is plugged in again"


@click.command("rdma-session")
@name_option
@click.argument("source")
@click.argument("target")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option(
    "--failovers", default=2, show_default=True, type=click.IntRange(0, 1000), help="How many failovers to cause."
)
@click.option("--simulated", is_flag=True, help="Run under a virtual clock.")
@click.option("--seed", default=0, show_default=True, help="Seed of the simulation.")
@click.option("--ignore-addr-change", is_flag=True, help="Wait for the transport's own error instead of ADDR_CHANGE.")
@json_option
def rdma_session(
    lab_name: str,
    source: str,
    target: str,
    file: Path | None,
    failovers: int,
    simulated: bool,
    seed: int,
    ignore_addr_change: bool,
    as_json: bool,
) -> None:
    """Write numbered blocks from SOURCE to TARGET by RDMA while cables are pulled; count what was lost or doubled.

    Uses the running lab (--name); without one, starts a temporary lab from the topology FILE (docs/topology.md) or the
    default topology. docs/rdma.md explains the figures.
    """
    from ibbond.demo.rdma_report import came_back

    if simulated:
        from ibbond.demo.rdma_session import simulate

        text, _ = read_topology(file)
        report = simulate(
            text, source, target, failovers=failovers, seed=seed, heed_address_change=not ignore_addr_change
        )
    elif seed:
        raise Refused("cannot run this live", why="a live session has no seed", fix="Add --simulated")
    else:
        from ibbond.demo.rdma_live import run_session

        with signals_end_it(PLUGGED), some_lab(lab_name, file) as control:
            report = run_session(
                control, source, target, failovers=failovers, heed_address_change=not ignore_addr_change
            )
    if as_json:
        print_json(report)
    else:
        click.echo(describe(report))
    if not came_back(report):
        sys.exit(1)


@contextlib.contextmanager
def some_lab(lab_name: str, file: Path | None) -> Iterator[Control]:
    """The lab that runs; where none does of that name, one of our own for as long as this block lasts."""
    from ibbond.backend.control_socket import CONTROL, DEFAULT_LAB, Control
    from ibbond.lab.launch import running_lab
    from ibbond.lab.state import NOT_OURS, Files, LabConfig
    from ibbond.topology.load import parse

    inside = not lab_name and CONTROL in os.environ
    if file is None and (inside or Files(lab_name or DEFAULT_LAB).held):
        with Control.of(lab_name) as control:
            yield control
        return
    text, where = read_topology(file)
    parse(text, name=where, others=NOT_OURS)
    with running_lab(LabConfig(lab_name or f"rdma{os.getpid()}", text, where, leased=True)) as (_, control):
        yield control


def describe(report: dict[str, object]) -> str:
    """The report for people: each time after its failover, in milliseconds."""
    from ibbond.demo.rdma_report import outcome

    failovers, settings = report["failovers"], report["settings"]
    assert isinstance(failovers, list)
    assert isinstance(settings, dict)
    rows = [(each["host"], each["sign"] or "none", *(_after(each, name) for name in COLUMNS)) for each in failovers]
    return "\n".join(
        [
            table(rows, ("HOST", "FIRST SIGN", "FAILOVER ms", *(f"+{name}" for name in COLUMNS[1:]))),
            "",
            outcome(report),
            f"ACK timeout {settings['ack_timeout_ms']} ms, {settings['retry_count']} retries",
        ]
    )


def _after(failover: dict[str, float | None], name: str) -> str:
    """Milliseconds since the failover; the failover itself since the session began."""
    at, began = failover[f"{name}_ms"], failover["failover_ms"]
    if at is None or began is None:
        return "-"
    return f"{at:.1f}" if name == "failover" else f"{at - began:.3f}"
