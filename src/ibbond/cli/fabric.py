"""`ibbond fabric show|routes|groups|counters`: the complete tables of a lab's subnet."""

from __future__ import annotations

import click

from ibbond.cli.output import json_option, name_option, print_json, state, table
from ibbond.cli.usage import Group
from ibbond.cli.whatif import whatif

HEADS = {
    "show": ("port", "lid", "state", "peer", "guid", "sm_lid", "mtu", "pkeys"),
    "routes": ("switch", "lid", "to", "out"),
    "groups": ("mlid", "mgids", "members", "tree"),
    "counters": (
        "port",
        "transmit_packets",
        "receive_packets",
        "transmit_words",
        "receive_words",
        "transmit_discards",
        "symbol_errors",
        "receive_errors",
        "link_downed",
    ),
}


@click.group(cls=Group)
def fabric() -> None:
    """The subnet of a running lab: ports, routes, multicast groups and counters; and what failures would do to one."""


fabric.add_command(whatif)


@fabric.command()
@name_option
@json_option
def show(lab_name: str, as_json: bool) -> None:
    """List the ports: LID, state, peer, P_Keys."""
    print_table("show", lab_name, as_json)


@fabric.command()
@name_option
@json_option
def routes(lab_name: str, as_json: bool) -> None:
    """Print the linear forwarding table of every switch."""
    print_table("routes", lab_name, as_json)


@fabric.command()
@name_option
@json_option
def groups(lab_name: str, as_json: bool) -> None:
    """List the multicast groups: their members, and the tree by which switches forward their packets."""
    print_table("groups", lab_name, as_json)


@fabric.command()
@name_option
@json_option
def counters(lab_name: str, as_json: bool) -> None:
    """Print PortCounters of every cabled port (all of them with --json)."""
    print_table("counters", lab_name, as_json)


def print_table(which: str, lab_name: str, as_json: bool) -> None:
    from ibbond.backend.control_socket import Control

    with Control.of(lab_name) as control:
        rows = control.ask("subnet", table=which)
    assert isinstance(rows, list)
    if as_json:
        print_json({which: rows})
        return
    heads = HEADS[which]
    cells = [[state(shown(row[head])) if head == "state" else shown(row[head]) for head in heads] for row in rows]
    click.echo(table(cells, [head.upper() for head in heads]))


def shown(value: object) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return "" if value is None else str(value)
