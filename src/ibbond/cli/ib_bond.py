"""`ibbond ib-bond`: the tool of the 2007 package (OFED's ib-bond), with its options and defaults, on today's driver.

Read first: OFED's ib-bonding.txt for the options. One call does the whole job: driver, bond, members, monitor, MTU,
address. On this host's kernel a failure puts back what was there. Left out: what `ibbond bond` does better (options,
plans); the old tool's boot configuration.
"""

from __future__ import annotations

import ipaddress

import click

from ibbond.cli.addr import backend_of, inside_host, parse_device
from ibbond.cli.bond import join, own_host
from ibbond.cli.bond_text import describe, facts_of
from ibbond.cli.output import done, json_option, print_json
from ibbond.errors import Refused

PREFIX_BITS = 24


@click.command("ib-bond")
@click.option(
    "--bond-name", default="bond0", show_default=True, metavar="NAME", help="The bond to create, stop or show."
)
@click.option("--bond-ip", default="", metavar="IP[/BITS]", help=f"The address to set; /{PREFIX_BITS} without BITS.")
@click.option("--slaves", default="ib0,ib1", show_default=True, metavar="A,B,...", help="The members.")
@click.option("--miimon", default=100, show_default=True, metavar="MS", help="How often links are checked.")
@click.option("--stop", is_flag=True, help="Release the members and delete the bond.")
@click.option("--stop-all", is_flag=True, help="The same for every bond.")
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
    """Set up an IPoIB bond in one line, as the tool of 2007 did: ib-bond --bond-ip 10.0.0.1 --slaves ib0,ib1"""
    asked = [
        name
        for name, given in zip(
            ("--stop", "--stop-all", "--status", "--status-all"), (stop, stop_all, status, status_all), strict=True
        )
        if given
    ]
    if len(asked) > 1:
        raise Refused("ib-bond", why=f"{' and '.join(asked)} do not go together", fix="Ask for one of them")
    if stop or stop_all:
        stop_bonds([bond_name] if stop else all_bonds(bond_name), as_json)
    elif status or status_all:
        show_bonds([bond_name] if status else all_bonds(bond_name), as_json)
    else:
        start(bond_name, address(bond_ip), [name for name in slaves.split(",") if name], miimon, as_json)


def start(bond: str, address: str, members: list[str], miimon: int, as_json: bool) -> None:
    """Create the bond, or make one that exists what was asked."""
    if len(members) < 1:
        raise Refused("ib-bond", why="--slaves names no device", fix="Name them: --slaves ib0,ib1")
    options = {"mode": "active-backup", "miimon": str(miimon), "num_grat_arp": "3"}
    kernel = own_host(bond)
    if kernel is not None:
        from ibbond.backend.kernel import requests as ask

        mtu = ask.members_mtu(kernel, members)
        plan = ask.create(kernel, bond, members, options, addresses=[address] if address else [], mtu=mtu)
        changed = bool(plan.steps) and bool(kernel.apply(plan).steps)
        done(as_json, f"{bond} {'is set up' if changed else 'was so already'}", facts_of(kernel, bond))
        return
    name = parse_device(bond)
    backend = backend_of(name.host)
    if name.device not in backend.read("bonding_masters").split():
        backend.write("bonding_masters", f"+{name.device}\n")
        for option, value in options.items():
            backend.write(f"{name.device}/bonding/{option}", f"{value}\n")
    present = backend.read(f"{name.device}/bonding/slaves").split()
    mtus = [int(backend.read(f"{member}/mtu")) for member in members]
    join(backend, name, tuple(member for member in members if member not in present))
    backend.write(f"{name.device}/mtu", f"{min(mtus)}\n")
    backend.set_admin(name.device, True)
    if address and address not in backend.addresses(name.device):
        backend.add_address(name.device, address)
    done(as_json, f"{name} is set up", facts_of(backend, name.device))


def stop_bonds(bonds: list[str], as_json: bool) -> None:
    for bond in bonds:
        kernel = own_host(bond)
        if kernel is not None:
            from ibbond.backend.kernel import requests as ask

            if bond not in kernel.bonds():
                raise no_bond(bond, kernel.bonds())
            kernel.apply(ask.delete(kernel, bond))
        else:
            name = parse_device(bond)
            backend = backend_of(name.host)
            if name.device not in (there := backend.read("bonding_masters").split()):
                raise no_bond(bond, there)
            backend.write("bonding_masters", f"-{name.device}\n")
    done(as_json, f"stopped {', '.join(bonds) or 'nothing: there are no bonds'}", {"stopped": bonds})


def show_bonds(bonds: list[str], as_json: bool) -> None:
    facts = []
    for bond in bonds:
        name = parse_device(bond)
        backend = backend_of(name.host)
        if name.device not in (there := backend.read("bonding_masters").split()):
            raise no_bond(bond, there)
        facts.append(facts_of(backend, name.device))
    if as_json:
        print_json({"bonds": facts})
    else:
        click.echo("\n\n".join(describe(each) for each in facts) or "no bonds")


def all_bonds(bond: str) -> list[str]:
    """Every bond of the host that `--bond-name` is on."""
    host = parse_device(bond).host
    names = backend_of(host).read("bonding_masters").split()
    return [f"{host}/{name}" if host and host != inside_host() else name for name in names]


def address(text: str) -> str:
    """`10.0.0.1` becomes `10.0.0.1/24`."""
    if not text:
        return ""
    try:
        interface = ipaddress.ip_interface(text if "/" in text else f"{text}/{PREFIX_BITS}")
    except ValueError:
        raise Refused(f"--bond-ip {text}", why="it is no IP address", fix="Write for example 10.0.0.1/24") from None
    return f"{interface.ip}/{interface.network.prefixlen}"


def no_bond(bond: str, there: list[str]) -> Refused:
    return Refused(f"no bond {bond}", why=f"there are {', '.join(there) or 'none'}", fix="See ib-bond --status-all")
