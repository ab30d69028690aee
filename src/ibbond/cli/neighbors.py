"""`ibbond lab neighbors`: what the kernel of a lab's host cannot show, because ARP is not its business there."""

from __future__ import annotations

import click

from ibbond.cli import completers
from ibbond.cli.addr import inside_host
from ibbond.cli.output import addresses, as_dict, device, json_option, name_option, print_json, state, table


@click.command()
@name_option
@click.argument("host", required=False, default="", shell_complete=completers.hosts)
@json_option
def neighbors(lab_name: str, host: str, as_json: bool) -> None:
    """Print the ARP and neighbor discovery tables: the 20-byte address, state and age of each neighbor.

    For HOST, for the current host inside `lab exec`, or for all hosts. `ip neigh` shows nothing in a host of a lab,
    whose kernel does no ARP.
    """
    from ibbond.backend.control_socket import Control

    with Control.of(lab_name) as control:
        rows = control.ask("neighbors", host=host or ("" if lab_name else inside_host()))
    assert isinstance(rows, list)
    if as_json:
        print_json({"neighbors": rows})
        return
    heads = ("DEVICE", "NEIGHBOR", "HARDWARE ADDRESS", "PORT", "STATE", "AGE")
    click.echo(table(map(describe_neighbor, rows), heads) if rows else "no neighbors")


def describe_neighbor(row: object) -> tuple[str, ...]:
    facts = as_dict(row)
    age = facts["age_ms"]
    assert isinstance(age, float | int)
    return (
        device(f"{facts['host']}/{facts['device']}"),
        addresses([facts["address"]]),
        str(facts["hardware_address"]) or "-",
        str(facts["port"]) or "-",
        state(str(facts["state"])),
        f"{age / 1000:.1f} s",
    )
