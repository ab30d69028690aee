"""`ibbond bond ...`: bonds by their names, the same words for a lab host's and for this host's own.

Read first: backend/requests.py for what is planned, backend/apply.py for how it is carried out. `--dry-run` prints the
plan, one line a step, which steps interrupt traffic, and what is lost. Left out: the words for a bond's facts
(bond_text.py).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ibbond.cli import completers
from ibbond.cli.addr import DeviceName, backend_of, bonds_of, inside_host, parse_device, parse_host
from ibbond.cli.bond_text import describe, facts_of, members_of, state_of
from ibbond.cli.output import device, json_option, name_option, print_json, state, table
from ibbond.cli.usage import Group
from ibbond.errors import Refused

if TYPE_CHECKING:
    from ibbond.backend.apply import Done
    from ibbond.backend.contract import Backend
    from ibbond.backend.kernel.bonds import KernelBackend
    from ibbond.backend.plan import Plan
    from ibbond.backend.requests import Request

BOND = click.argument("bond", metavar="BOND", shell_complete=completers.bonds)
ROOT = click.option(
    "--root",
    type=click.Path(path_type=Path),
    help="A saved copy: a directory, an archive, or a text of /proc/net/bonding.",
)
DRY_RUN = click.option(
    "--dry-run", is_flag=True, help="Print the plan only: its steps, what interrupts traffic, what is lost."
)
INTERRUPT = click.option(
    "--interrupt", is_flag=True, help="Allow steps that briefly interrupt traffic (kernel bonds only)."
)


@click.group(cls=Group)
def bond() -> None:
    """Bonds of a lab host (h1/bond0) or of the current host (bond0)."""


@bond.command("list")
@name_option
@click.argument("host", required=False, default="", shell_complete=completers.hosts)
@ROOT
@json_option
def list_(lab_name: str, host: str, root: Path | None, as_json: bool) -> None:
    """List the bonds of a lab HOST, of all hosts of a lab (--name, IBBOND_LAB), or of this host."""
    if root is not None:
        with saved_host(root) as saved:
            bonds = [facts_of(saved, name) for name in saved.bonds()]
    else:
        everywhere = lab_name and not host and not inside_host()
        backends = [
            backend_of(where, lab_name)
            for where in (bonds_of(lab_name) if everywhere else [parse_host(host, lab_name)])
        ]
        bonds = [facts_of(each, name) for each in backends for name in each.read("bonding_masters").split()]
    if as_json:
        print_json({"bonds": bonds})
        return
    rows = [
        (device(str(facts["name"])), state(state_of(facts)), facts["mode"], facts["active"] or "-", members_of(facts))
        for facts in bonds
    ]
    click.echo(table(rows, ("BOND", "STATE", "MODE", "ACTIVE", "MEMBERS")) if rows else "no bonds")


@bond.command()
@name_option
@BOND
@ROOT
@json_option
def show(lab_name: str, bond: str, root: Path | None, as_json: bool) -> None:
    """Show one bond: members, links, addresses, options."""
    with found(bond, lab_name, root) as (name, backend):
        facts = facts_of(backend, name.device)
    if as_json:
        print_json(facts)
    else:
        click.echo(describe(facts))


@bond.command()
@name_option
@BOND
@click.argument("members", nargs=-1, shell_complete=completers.members)
@click.option("--set", "settings", multiple=True, metavar="OPTION=VALUE", help="Set this option first; repeatable.")
@click.option(
    "--address", "addresses", multiple=True, metavar="IP/LENGTH", help="Give the bond this IP address; repeatable."
)
@click.option("--mtu", type=int, help="MTU of the bond (default for InfiniBand: the smallest of its members).")
@DRY_RUN
@INTERRUPT
@json_option
def create(
    lab_name: str,
    bond: str,
    members: tuple[str, ...],
    settings: tuple[str, ...],
    addresses: tuple[str, ...],
    mtu: int | None,
    dry_run: bool,
    interrupt: bool,
    as_json: bool,
) -> None:
    """Create a bond, set its options, add MEMBERS, bring it up: ibbond bond create h1/bond1 ib2 ib3 --set miimon=50

    Without --set it is an active-backup bond with miimon 100 and num_grat_arp 3. The addresses and routes of MEMBERS
    move to the bond. What already exists is kept.
    """
    from ibbond.backend import requests
    from ibbond.topology.model import LAB_BOND_OPTIONS

    name, backend = target(bond, lab_name)
    devices, options = owned(name, members), {**dict(LAB_BOND_OPTIONS), **parse_settings(settings)}
    request = partial(requests.create, name=name.device, members=devices, options=options)
    request = partial(request, addresses=addresses, mtu=mtu, interrupt=interrupt)
    carry_out(backend, request, name, dry_run, as_json)


@bond.command()
@name_option
@BOND
@DRY_RUN
@json_option
def delete(lab_name: str, bond: str, dry_run: bool, as_json: bool) -> None:
    """Delete a bond; its members are released first."""
    from ibbond.backend import requests

    name, backend = target(bond, lab_name)
    carry_out(backend, partial(requests.delete, name=name.device), name, dry_run, as_json)


@bond.command()
@name_option
@BOND
@click.argument("members", nargs=-1, required=True, shell_complete=completers.members)
@DRY_RUN
@json_option
def add(lab_name: str, bond: str, members: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Add MEMBERS to a bond; their addresses and routes move to it: ibbond bond add h1/bond0 ib1"""
    from ibbond.backend import requests

    name, backend = target(bond, lab_name)
    devices = owned(name, members)
    carry_out(backend, partial(requests.add, name=name.device, members=devices), name, dry_run, as_json)


@bond.command()
@name_option
@BOND
@click.argument("members", nargs=-1, required=True, shell_complete=completers.members)
@DRY_RUN
@json_option
def remove(lab_name: str, bond: str, members: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Release MEMBERS from a bond: ibbond bond remove h1/bond0 ib1"""
    from ibbond.backend import requests

    name, backend = target(bond, lab_name)
    devices = owned(name, members)
    carry_out(backend, partial(requests.remove, name=name.device, members=devices), name, dry_run, as_json)


@bond.command("set", context_settings={"ignore_unknown_options": True})  # a value may be -10.0.0.1
@name_option
@BOND
@click.argument("settings", nargs=-1, required=True, metavar="OPTION VALUE...", shell_complete=completers.settings)
@DRY_RUN
@INTERRUPT
@json_option
def set_(lab_name: str, bond: str, settings: tuple[str, ...], dry_run: bool, interrupt: bool, as_json: bool) -> None:
    """Set options of a bond: ibbond bond set h1/bond0 miimon=50 updelay=500

    One option can also be written as NAME VALUE: primary ib0. `none` or an empty value clears the primary and lists of
    addresses.
    """
    from ibbond.backend import requests

    name, backend = target(bond, lab_name)
    options = pairs(bond, settings)
    request = partial(requests.set_options, name=name.device, options=options, interrupt=interrupt)
    carry_out(backend, request, name, dry_run, as_json)


@bond.command()
@name_option
@BOND
@click.argument("member", required=False, default="", shell_complete=completers.members)
@DRY_RUN
@json_option
def switch(lab_name: str, bond: str, member: str, dry_run: bool, as_json: bool) -> None:
    """Move the traffic to MEMBER (default: the next member that is up) without loss."""
    from ibbond.backend import requests

    name, backend = target(bond, lab_name)
    device = owned(name, [member])[0] if member else ""
    carry_out(backend, partial(requests.switch, name=name.device, member=device), name, dry_run, as_json)


def carry_out(backend: Backend, request: Request, name: DeviceName, dry_run: bool, as_json: bool) -> None:
    """Print the plan, or do it and say what was done. Refused, with everything put back, when a step fails."""
    from ibbond.backend.apply import change

    def report(plan: Plan, done: Done) -> None:
        steps = [{"step": str(step), "interrupts": step.interrupts or None} for step in plan.steps]
        changed = bool(plan.steps if dry_run else done.steps)
        if as_json:
            facts = facts_of(backend, name.device) if name.device in backend.bonds() else {}
            result = {"plan": plan.title, "dry_run": dry_run, "changed": changed, "steps": steps, "lost": plan.lost}
            print_json({**facts, **result, "notes": [*plan.notes, *done.notes]})
        elif not changed:
            click.echo(f"{plan.title}: nothing to do, it is so already")
        elif dry_run:
            click.echo("\n".join(plan.lines()))
        else:
            count = len(done.steps)
            text = f"{plan.title}: done, {count} step{'' if count == 1 else 's'}, each read back"
            click.echo("\n".join([text, *plan.remarks(), *(f"note: {note}" for note in done.notes)]))

    change(backend, request, dry_run=dry_run, report=report)


def parse_settings(settings: Iterable[str]) -> dict[str, str]:
    """`miimon=50` and the like."""
    found = {}
    for setting in settings:
        option, equals, value = setting.partition("=")
        if not equals:
            raise Refused(f"--set {setting}", why="the value is missing", fix=f"Write --set {option}=VALUE")
        found[option] = value
    return found


def pairs(bond: str, words: Iterable[str]) -> dict[str, str]:
    """`OPTION VALUE` or `OPTION=VALUE`, any number of them; VALUE may be empty."""
    found: dict[str, str] = {}
    rest = iter(words)
    for word in rest:
        option, equals, value = word.partition("=")
        if not equals and (following := next(rest, None)) is None:
            raise Refused(
                f"no value for {option}",
                why="the value is missing",
                fix=f"Write ibbond bond set {bond} {option} VALUE; for the values: ibbond options {option}",
            )
        found[option] = value if equals else following or ""
    return found


@bond.command()
@name_option
@BOND
@ROOT
@json_option
def proc(lab_name: str, bond: str, root: Path | None, as_json: bool) -> None:
    """Print the text of /proc/net/bonding/BOND."""
    with found(bond, lab_name, root) as (name, backend):
        text = backend.proc(name.device)
    if as_json:
        print_json({"name": str(name), "proc": text})
    else:
        click.echo(text, nl=False)


@contextlib.contextmanager
def found(bond: str, lab_name: str, root: Path | None) -> Iterator[tuple[DeviceName, Backend]]:
    """The bond that a name means, of a lab, this host, or a saved copy, which stays unpacked meanwhile."""
    if root is None:
        yield find(bond, lab_name)
        return
    with saved_host(root) as saved:
        if bond not in saved.bonds():
            from ibbond.topology.model import listed

            raise Refused(
                f"no bond {bond}", why=f"the bonds of {root} are: {listed(saved.bonds())}", fix="Choose one of these"
            )
        yield DeviceName("", bond), saved


@contextlib.contextmanager
def saved_host(root: Path) -> Iterator[KernelBackend]:
    """The bonds of a saved copy, while it is unpacked."""
    from ibbond.backend.kernel.bonds import KernelBackend
    from ibbond.cli.signals import signals_end_it
    from ibbond.ops.saved import opened

    with signals_end_it("the unpacked files were removed"), opened(root) as copy:
        yield KernelBackend(copy)


def target(bond: str, lab_name: str) -> tuple[DeviceName, Backend]:
    """The bond that a name means, whether it exists or not, and what has it."""
    name = parse_device(bond, lab_name)
    return name, backend_of(name.host, lab_name)


def find(bond: str, lab_name: str) -> tuple[DeviceName, Backend]:
    """The same, `Refused` when there is none."""
    name, backend = target(bond, lab_name)
    if name.device not in (bonds := backend.read("bonding_masters").split()):
        from ibbond.topology.model import listed

        place = name.host or "this host"
        raise Refused(f"no bond {name}", why=f"the bonds of {place} are: {listed(bonds)}", fix="Choose one of these")
    return name, backend


def owned(name: DeviceName, members: Iterable[str]) -> list[str]:
    """Members as people write them, `ib1` or `h1/ib1`; they must be on the bond's host."""
    found = []
    for member in members:
        host, slash, device = member.rpartition("/")
        if slash and host != name.host:
            raise Refused(
                f"cannot use {member} in {name}",
                why=f"it is a device of {host}",
                fix=f"Name a device of {name.host or 'this host'}",
            )
        found.append(device)
    return found
