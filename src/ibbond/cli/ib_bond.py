"""`ibbond ib-bond`: the tool of the 2007 package (OFED's ib-bond), with its options and defaults, on today's driver.

Read first: OFED's ib-bonding.txt for the options. One call does the whole job: driver, bond, members, monitor, MTU,
address. A failure puts back what was there. Left out: what `ibbond bond` does better (options,
plans); the old tool's boot configuration.
"""

from __future__ import annotations

import ipaddress
from functools import partial

import click

from ibbond.cli.addr import backend_of, inside_host, parse_device
from ibbond.cli.bond import target
from ibbond.cli.bond_text import describe, facts_of
from ibbond.cli.output import done, json_option, print_json
from ibbond.errors import Refused

PREFIX_BITS = 24


@click.command("ib-bond")
@click.option(
    "--bond-name", default="bond0", show_default=True, metavar="NAME", help="The bond to create, stop or show."
)
@click.option(
    "--bond-ip", default="", metavar="IP[/BITS]", help=f"The address to set (default prefix length: {PREFIX_BITS})."
)
@click.option("--slaves", default="ib0,ib1", show_default=True, metavar="A,B,...", help="The members.")
@click.option("--miimon", default=100, show_default=True, metavar="MS", help="Link check interval.")
@click.option("--stop", is_flag=True, help="Release the members and delete the bond.")
@click.option("--stop-all", is_flag=True, help="Do the same for every bond.")
@click.option("--status", is_flag=True, help="Show the bond.")
@click.option("--status-all", is_flag=True, help="Show every bond.")
@json_option
def ib_bond(
    bond_name: str,
    bond_ip: str,
    slaves: str,
    miimon: int,
    stop: bool,
    stop_all: bool,
    status: bool,
    status_all: bool,
    as_json: bool,
) -> None:
    """Set up an IPoIB bond with one command, like the tool of 2007: ib-bond --bond-ip 10.0.0.1 --slaves ib0,ib1"""
    asked = [
        name
        for name, given in zip(
            ("--stop", "--stop-all", "--status", "--status-all"), (stop, stop_all, status, status_all), strict=True
        )
        if given
    ]
    if len(asked) > 1:
        raise Refused("ib-bond", why=f"{' and '.join(asked)} cannot be combined", fix="Use only one of them")
    if stop or stop_all:
        stop_bonds([bond_name] if stop else all_bonds(bond_name), as_json)
    elif status or status_all:
        show_bonds([bond_name] if status else all_bonds(bond_name), as_json)
    else:
        start(bond_name, address(bond_ip), [name for name in slaves.split(",") if name], miimon, as_json)


def start(bond: str, address: str, members: list[str], miimon: int, as_json: bool) -> None:
    """Create the bond, or make one that exists what was asked."""
    if len(members) < 1:
        raise Refused("ib-bond", why="--slaves is empty", fix="For example: --slaves ib0,ib1")
    options = {"mode": "active-backup", "miimon": str(miimon), "num_grat_arp": "3"}
    from ibbond.backend import requests
    from ibbond.backend.apply import change

    name, backend = target(bond, "")
    addresses = [address] if address else []
    request = partial(requests.create, name=name.device, members=members, options=options, addresses=addresses)
    _, outcome = change(backend, request)
    done(as_json, f"{name} {'is set up' if outcome.steps else 'was so already'}", facts_of(backend, name.device))


def stop_bonds(bonds: list[str], as_json: bool) -> None:
    from ibbond.backend import requests
    from ibbond.backend.apply import change

    for bond in bonds:
        name, backend = target(bond, "")
        if name.device not in (there := backend.bonds()):
            raise no_bond(bond, there)
        change(backend, partial(requests.delete, name=name.device))
    done(as_json, f"stopped {', '.join(bonds) or 'nothing: there are no bonds'}", {"stopped": bonds})


def show_bonds(bonds: list[str], as_json: bool) -> None:
    facts = []
    for bond in bonds:
        name, backend = target(bond, "")
        if name.device not in (there := backend.bonds()):
            raise no_bond(bond, there)
        facts.append(facts_of(backend, name.device))
    if as_json:
        print_json({"bonds": facts})
    else:
        click.echo("\n\n".join(describe(each) for each in facts) or "no bonds")


def all_bonds(bond: str) -> list[str]:
    """Every bond of the host that `--bond-name` is on."""
    host = parse_device(bond).host
    names = backend_of(host).bonds()
    return [f"{host}/{name}" if host and host != inside_host() else name for name in names]


def address(text: str) -> str:
    """`10.0.0.1` becomes `10.0.0.1/24`."""
    if not text:
        return ""
    try:
        interface = ipaddress.ip_interface(text if "/" in text else f"{text}/{PREFIX_BITS}")
    except ValueError:
        raise Refused(f"--bond-ip {text}", why="it is not an IP address", fix="For example: 10.0.0.1/24") from None
    return f"{interface.ip}/{interface.network.prefixlen}"


def no_bond(bond: str, there: list[str]) -> Refused:
    return Refused(f"no bond {bond}", why=f"there are {', '.join(there) or 'none'}", fix="See ib-bond --status-all")
