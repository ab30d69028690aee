"""`ibbond demo`: the whole promise in one command. Only words and the final table: `demo.demo` and `sim.demo` do it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ibbond.cli.output import json_option, print_json

if TYPE_CHECKING:
    from ibbond.demo.measure import Outages, ProtocolSummary, Recording, Summary

PATCHES = ("dev_setup", "set_mac_address", "allow_not_up_enslave", "ipoib_neighbour")


@click.command()
@click.option(
    "--rounds", type=click.IntRange(1, 1000), default=3, show_default=True, help="How many times to pull each cable."
)
@click.option("--report", type=click.Path(path_type=Path, file_okay=False), help="Write an HTML report to DIRECTORY.")
@click.option("--simulated", is_flag=True, help="Run under a virtual clock; needs no namespaces or TUN devices.")
@click.option("--without", type=click.Choice(PATCHES), help="Leave out one of the patches of 2007 to see what breaks.")
@click.option("--rdma", is_flag=True, help="Also run a block session over RDMA CM.")
@json_option
def demo(rounds: int, report: Path | None, simulated: bool, without: str | None, rdma: bool, as_json: bool) -> None:
    """Pull cables under real traffic and measure what each protocol lost.

    Two hosts with a bonded IPoIB address each exchange TCP, UDP, IP multicast and ICMP while their cables are pulled
    and plugged again. Exit status: 0 only if every protocol survived every failover
    and every failback.
    """
    from ibbond.demo.measure import summarize

    if report is not None:
        from ibbond.demo.report import make_directory

        make_directory(report)
    recording = record(rounds, simulated, without, as_json, rdma=rdma)
    summary = summarize(recording)
    path = None
    if report is not None:
        from ibbond.demo.report import write_report

        path = str(write_report(summary, report))
    if as_json:
        print_json(summary.as_json(path))
    else:
        print_summary(summary, path, without)
    sys.stdout.flush()
    sys.exit(0 if summary.survived else 1)


def record(rounds: int, simulated: bool, without: str | None, as_json: bool, *, rdma: bool = False) -> Recording:
    """Run it live where that is possible, else simulated, and say so."""
    if not simulated:
        from ibbond.lab.prerequisites import why_not_live

        reason = why_not_live()
        if reason is None:
            from ibbond.demo.demo import run_demo
            from ibbond.demo.live_view import view

            with view(as_json) as seen:
                return run_demo(rounds, seen, without, rdma=rdma)
        click.echo(f"ibbond: no lab can run on this machine ({reason}): running the demo simulated instead", err=True)
    from ibbond.demo.measure import recording_from
    from ibbond.demo.rdma_session import Beside
    from ibbond.sim.demo import record as record_simulated

    return recording_from(record_simulated(rounds=rounds, seed=0, without=without, beside=Beside() if rdma else None))


def print_summary(summary: Summary, path: str | None, without: str | None) -> None:
    """The final table."""
    recording = summary.recording
    click.echo(f"\n{len(recording.moves)} moves of the traffic between two cables, {recording.mode}\n")
    click.echo(f"{'':<30}{'fail-over (cable cut)':>23}  {'fail-back (plugged)':>23}")
    heads = f"{'lost':>6}{'median':>9}{'max ms':>9}"
    click.echo(f"{'protocol':<10}{'sent':>9}{'received':>10} {heads} {heads}  survived")
    for row in summary.protocols:
        numbers = (
            f"{amount(row, row.sent):>9}{amount(row, row.received):>10} {cells(row.failover)} {cells(row.failback)}"
        )
        survived = click.style("yes", "green") if row.survived else click.style("no", "red")
        click.echo(f"{row.protocol:<10}{numbers}  {survived}")
    click.echo(
        "\nlost: the most that one move cost. ms: lost probes x spacing (udp, multicast 1 ms, icmp 10 ms; the worse\n"
        "direction); for tcp the longest time without new bytes, its retransmission timeout (about 200 ms) included."
    )
    if recording.session is not None:
        explain_session(recording.session)
    for note in recording.notes:
        click.echo(note)
    if without:
        explain(without, summary.survived)
    good = summary.survived
    verdict = click.style(
        "every protocol survived" if good else "not every protocol survived", "green" if good else "red"
    )
    click.echo(verdict + (f"; report: {path}" if path else "; for a report with pictures: ibbond demo --report DIR"))


def explain_session(session: Mapping[str, object]) -> None:
    """What the RDMA session says about itself."""
    from ibbond.demo.rdma_report import outcome

    settings = session["settings"]
    assert isinstance(settings, dict)
    click.echo(
        f"rdma: {outcome(session)}; ms: the longest time\n"
        f"without an answered write, its reconnecting included (ACK timeout {settings['ack_timeout_ms']} ms, "
        f"{settings['retry_count']} retries)."
    )


def explain(without: str, survived: bool) -> None:
    """What the patch that was left out is for."""
    from ibbond.bonding.quirks import QUIRKS

    quirk = QUIRKS[without]
    click.echo(f"\nwithout {without}: {quirk.kernel}.")
    click.echo(f"with it: {quirk.ours}.")
    click.echo(f"so: {quirk.why}." + (" This run did not show it." if survived else ""))


def amount(row: ProtocolSummary, count: int) -> str:
    return f"{count / 1e6:.1f} MB" if row.protocol == "tcp" else f"{count:,}"


def cells(outages: Outages) -> str:
    numbers = outages.as_json()
    return f"{numbers['lost_max']!s:>6}{shown(numbers['outage_ms_median']):>9}{shown(numbers['outage_ms_max']):>9}"


def shown(value: object) -> str:
    return f"{value:.1f}" if isinstance(value, int | float) else "-"
