"""`ibbond bond ...`: bonds by their names, the same words for a lab host's and for this host's own.

Everything goes through `backend.contract`: the texts of the bonding driver's sysfs files, so that a refusal here is the
refusal that a shell script gets. What the texts mean is in the table of options (`bonding.options`).
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ibbond.cli import completers
from ibbond.cli.addr import DeviceName, backend_of, bonds_of, inside_host, parse_device, parse_host
from ibbond.cli.bond_text import describe, facts_of, members_of, options_of, state_of, text_of
from ibbond.cli.output import done, json_option, name_option, print_json, table
from ibbond.cli.usage import Group
from ibbond.errors import Refused
from ibbond.netdev.device import Flags
from ibbond.wire.hardware_type import INFINIBAND

if TYPE_CHECKING:
    from ibbond.backend.contract import Backend
    from ibbond.backend.kernel.bonds import KernelBackend
    from ibbond.bonding.snapshot import BondSnapshot

BOND = click.argument("bond", metavar="BOND", shell_complete=completers.bonds)
OF_MEMBERS = ("queue_id", "prio", "active_slave")  # what needs members is set when they are there

ROOT = click.option(
    "--root",
    type=click.Path(path_type=Path),
    help="A saved copy: a directory, an archive, or a text of /proc/net/bonding.",
)
DRY_RUN = click.option("--dry-run", is_flag=True, help="Only print the plan (this host's own bonds).")
INTERRUPT = click.option(
    "--interrupt",
    is_flag=True,
    help="Allow what takes the bond down or its members out for a moment (this host's own).",
)


@click.group(cls=Group)
def bond() -> None:
    """Bonds of a lab host (h1/bond0), of the lab host we are in, or of this host (bond0)."""


@bond.command("list")
@name_option
@click.argument("host", required=False, default="", shell_complete=completers.hosts)
@ROOT
@json_option
def list_(lab_name: str, host: str, root: Path | None, as_json: bool) -> None:
    """The bonds of a lab HOST; of all hosts with --name or IBBOND_LAB; else of this host."""
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
        (facts["name"], state_of(facts), facts["mode"], facts["active"] or "-", members_of(facts)) for facts in bonds
    ]
    click.echo(table(rows, ("BOND", "STATE", "MODE", "ACTIVE", "MEMBERS")) if rows else "no bonds")


@bond.command()
@name_option
@BOND
@ROOT
@json_option
def show(lab_name: str, bond: str, root: Path | None, as_json: bool) -> None:
    """Everything about one bond: members, links, addresses, options."""
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
@click.option("--set", "settings", multiple=True, metavar="OPTION=VALUE", help="An option to set first; repeatable.")
@click.option("--address", "addresses", multiple=True, metavar="IP/LENGTH", help="An IP address for it; repeatable.")
@click.option("--mtu", type=int, help="Its MTU (default for InfiniBand: the members' smallest).")
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
    """Create a bond, set its options, add MEMBERS, set it up: bond create h1/bond1 ib2 ib3 --set miimon=50

    Without --set it is an active-backup bond with miimon 100 and num_grat_arp 3.
    """
    if (ours := own_host(bond, lab_name)) is not None:
        from ibbond.cli import kernel_bond

        how = kernel_bond.How(dry_run, interrupt, as_json)
        kernel_bond.create(ours, bond, members, dict(parse_settings(settings)), addresses, mtu, how)
        return
    no_dry_run(bond, dry_run)
    name, backend = find(bond, lab_name, must_exist=False)
    if name.device in backend.read("bonding_masters").split():
        raise Refused(f"cannot create {name}", why="it exists", fix="Choose another name, or delete it first")
    check_name(name)
    options = parse_settings(settings)
    for member in members:
        check_device(backend, name, own(name, member))
    backend.write("bonding_masters", f"+{name.device}\n")
    try:
        for option, text in options:
            if option not in OF_MEMBERS:
                backend.write(f"{name.device}/bonding/{option}", f"{text}\n")
        wanted = mtu or mtu_of(backend, [own(name, member) for member in members])
        join(backend, name, members)
        if wanted:
            backend.write(f"{name.device}/mtu", f"{wanted}\n")
        backend.set_admin(name.device, True)
        for option, text in options:
            if option in OF_MEMBERS:
                backend.write(f"{name.device}/bonding/{option}", f"{text}\n")
        for address in addresses:
            backend.add_address(name.device, address)
    except Refused:
        backend.write("bonding_masters", f"-{name.device}\n")  # nothing has changed, as a refusal promises
        raise
    snapshot, facts = backend.snapshot(name.device), facts_of(backend, name.device)
    rounded = {option: why for option, text in options if (why := rounding(snapshot, option, text))}
    lines = [f"created {name}", *(f"{option} is {snapshot.options[option]}: {why}" for option, why in rounded.items())]
    done(as_json, "\n".join(lines), {**facts, "rounded": rounded})


def check_name(name: DeviceName) -> None:
    """Refuse what can be no device's name; the driver would cut a long one off, and call others no command."""
    from ibbond.bonding.option import NAME_CHARACTERS, is_device_name

    if not is_device_name(name.device):
        why = f"{name.device!r} can be no device's name: that is 1 to {NAME_CHARACTERS} characters, no blank, : or /"
        raise Refused(f"cannot create {name}", why=why, fix="Choose another name", code=errno.EINVAL)


def mtu_of(backend: Backend, members: list[str]) -> int | None:
    """The smallest MTU of InfiniBand members, which would take the bond's 1500 when they join; None for others."""
    if not members or any(backend.read(f"{member}/type").strip() != str(INFINIBAND) for member in members):
        return None
    return min(int(backend.read(f"{member}/mtu")) for member in members)


def parse_settings(settings: tuple[str, ...]) -> list[tuple[str, str]]:
    """`miimon=50` and the like, after the three that make a bond useful."""
    from ibbond.topology.model import LAB_BOND_OPTIONS

    options = dict(LAB_BOND_OPTIONS)
    more = []
    for setting in settings:
        option, equals, text = setting.partition("=")
        if not equals:
            raise Refused(f"--set {setting}", why="it has no value", fix=f"Write --set {option}=VALUE")
        check_option(option)
        if option in options:
            options[option] = text
        else:
            more.append((option, text))
    return [*options.items(), *more]


@bond.command()
@name_option
@BOND
@DRY_RUN
@json_option
def delete(lab_name: str, bond: str, dry_run: bool, as_json: bool) -> None:
    """Delete a bond; its members are released first."""
    if (ours := own_host(bond, lab_name)) is not None:
        from ibbond.cli import kernel_bond

        kernel_bond.delete(ours, bond, kernel_bond.How(dry_run, True, as_json))
        return
    no_dry_run(bond, dry_run)
    name, backend = find(bond, lab_name)
    backend.write("bonding_masters", f"-{name.device}\n")
    done(as_json, f"deleted {name}", {"deleted": str(name)})


@bond.command()
@name_option
@BOND
@click.argument("members", nargs=-1, required=True, shell_complete=completers.members)
@DRY_RUN
@json_option
def add(lab_name: str, bond: str, members: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Add MEMBERS to a bond: bond add h1/bond0 ib1"""
    if (ours := own_host(bond, lab_name)) is not None:
        from ibbond.cli import kernel_bond

        kernel_bond.add(ours, bond, members, kernel_bond.How(dry_run, True, as_json))
        return
    no_dry_run(bond, dry_run)
    name, backend = find(bond, lab_name)
    join(backend, name, members)
    done(as_json, f"added {', '.join(members)} to {name}", facts_of(backend, name.device))


@bond.command()
@name_option
@BOND
@click.argument("members", nargs=-1, required=True, shell_complete=completers.members)
@DRY_RUN
@json_option
def remove(lab_name: str, bond: str, members: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Release MEMBERS from a bond: bond remove h1/bond0 ib1"""
    if (ours := own_host(bond, lab_name)) is not None:
        from ibbond.cli import kernel_bond

        kernel_bond.remove(ours, bond, members, kernel_bond.How(dry_run, True, as_json))
        return
    no_dry_run(bond, dry_run)
    name, backend = find(bond, lab_name)
    for member in members:
        backend.write(f"{name.device}/bonding/slaves", f"-{own(name, member)}\n")
    done(as_json, f"removed {', '.join(members)} from {name}", facts_of(backend, name.device))


@bond.command("set", context_settings={"ignore_unknown_options": True})  # a value may be -10.0.0.1
@name_option
@BOND
@click.argument("option", shell_complete=completers.options)
@click.argument("value", required=False, shell_complete=completers.values)
@DRY_RUN
@INTERRUPT
@json_option
def set_(
    lab_name: str, bond: str, option: str, value: str | None, dry_run: bool, interrupt: bool, as_json: bool
) -> None:
    """Set an OPTION of a bond: bond set h1/bond0 primary ib0 (or primary=ib0)"""
    option, value = option_and_value(bond, option, value)
    if (ours := own_host(bond, lab_name)) is not None:
        from ibbond.cli import kernel_bond

        kernel_bond.set_(ours, bond, {option: value}, kernel_bond.How(dry_run, interrupt, as_json))
        return
    no_dry_run(bond, dry_run)
    name, backend = find(bond, lab_name)
    check_option(option)
    backend.write(f"{name.device}/bonding/{option}", f"{value}\n")
    snapshot, facts = backend.snapshot(name.device), facts_of(backend, name.device)
    rounded = rounding(snapshot, option, value)
    text = f"set {option} of {name} to {in_force(snapshot, option, value) or '(nothing)'}"
    text += f" ({rounded})" if rounded else ""
    done(as_json, text, {**facts, "rounded": {option: rounded} if rounded else {}})


def in_force(snapshot: BondSnapshot, option: str, asked: str) -> str:
    """What an option is now. A name that was asked for stands: a primary may come later, a switch takes its time."""
    from ibbond.bonding.option import Kind
    from ibbond.bonding.options import OPTIONS

    if OPTIONS[option].kind in (Kind.NAME, Kind.MEMBERS):
        return asked
    text = text_of(options_of(snapshot)[option])
    return "" if text == "-" else text


def rounding(snapshot: BondSnapshot, option: str, asked: str) -> str:
    """Why a delay that was asked for is not the one in force: the driver counts it in runs of its monitor."""
    from ibbond.bonding.values import TICKS

    miimon, in_force = snapshot.options["miimon"], snapshot.options.get(option)
    if option not in TICKS or not asked.strip().isdecimal() or int(asked) == in_force:
        return ""
    return f"{asked.strip()} was rounded: it is no multiple of miimon, {miimon}"


def option_and_value(bond: str, option: str, value: str | None) -> tuple[str, str]:
    """`OPTION VALUE` or `OPTION=VALUE`, where VALUE may be empty."""
    if value is None:
        option, equals, value = option.partition("=")
        if not equals:
            raise Refused(
                f"no value for {option}",
                why="an option is set to a value",
                fix=f"Say ibbond bond set {bond} {option} VALUE; ibbond options {option} tells which there are",
            )
    return option, value


def check_option(option: str) -> None:
    """Refuse names that no driver knows, with the nearest one."""
    from ibbond.bonding.options import OPTIONS
    from ibbond.topology.reader import unknown

    if not option:
        fix = "Write OPTION=VALUE, for example miimon=50; ibbond options lists them"
        raise Refused("no option is named", why="nothing stands before the =", fix=fix)
    if option not in OPTIONS:
        raise unknown(f"no option {option}", option, OPTIONS)


@bond.command()
@name_option
@BOND
@click.argument("member", required=False, default="", shell_complete=completers.members)
@DRY_RUN
@json_option
def switch(lab_name: str, bond: str, member: str, dry_run: bool, as_json: bool) -> None:
    """Move the traffic to MEMBER now; without MEMBER to the next one that is up. Nothing is lost."""
    if parse_device(bond, lab_name).host:
        no_dry_run(bond, dry_run)
    name, backend = find(bond, lab_name)
    before = backend.snapshot(name.device)
    wanted = own(name, member) if member else next_member(name, before)
    if (ours := own_host(bond, lab_name)) is not None:
        from ibbond.cli import kernel_bond

        kernel_bond.switch(ours, name.device, wanted, kernel_bond.How(dry_run, True, as_json))
        return
    backend.write(f"{name.device}/bonding/active_slave", f"{wanted}\n")
    done(as_json, f"{name}: {before.active} -> {wanted}", {"bond": str(name), "from": before.active, "to": wanted})


def next_member(name: DeviceName, snapshot: BondSnapshot) -> str:
    """The next member after the active one whose link is up."""
    names = [member.name for member in snapshot.members]
    start = names.index(snapshot.active) + 1 if snapshot.active in names else 0
    for member in [*snapshot.members[start:], *snapshot.members[:start]]:
        if member.link == "up" and member.name != snapshot.active:
            return member.name
    raise Refused(
        f"cannot switch {name}",
        why="no other member is up",
        fix=f"See which are with: ibbond bond show {name}",
    )


@bond.command()
@name_option
@BOND
@ROOT
@json_option
def proc(lab_name: str, bond: str, root: Path | None, as_json: bool) -> None:
    """The text of /proc/net/bonding/BOND."""
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
                f"no bond {bond}", why=f"the bonds of {root} are: {listed(saved.bonds())}", fix="Name one of these"
            )
        yield DeviceName("", bond), saved


@contextlib.contextmanager
def saved_host(root: Path) -> Iterator[KernelBackend]:
    """The bonds of a saved copy, while it is unpacked."""
    from ibbond.backend.kernel.bonds import KernelBackend
    from ibbond.ops.saved import opened

    with opened(root) as copy:
        yield KernelBackend(copy)


def find(bond: str, lab_name: str, must_exist: bool = True) -> tuple[DeviceName, Backend]:
    """The bond that a name means, and who has it; `Refused` when there is none."""
    name = parse_device(bond, lab_name)
    backend = backend_of(name.host, lab_name)
    if must_exist:
        bonds = backend.read("bonding_masters").split()
        if name.device not in bonds:
            from ibbond.topology.model import listed

            place = name.host or "this host"
            raise Refused(f"no bond {name}", why=f"the bonds of {place} are: {listed(bonds)}", fix="Name one of these")
    return name, backend


def own_host(bond: str, lab_name: str = "") -> KernelBackend | None:
    """This host's kernel, when the name is a plain one of its own; its changes are planned, read back and undone."""
    if parse_device(bond, lab_name).host:
        return None
    from ibbond.backend.kernel.bonds import KernelBackend

    return KernelBackend()


def no_dry_run(bond: str, dry_run: bool) -> None:
    """Refuse `--dry-run` for a lab's bond, whose driver is asked directly: there is no plan to print."""
    if dry_run:
        raise Refused(
            f"cannot plan changes of {bond}",
            why="--dry-run is for this host's own bonds, and this one is a lab's, which is there to try things in",
            fix="Leave --dry-run out to do it",
        )


def join(backend: Backend, name: DeviceName, members: tuple[str, ...]) -> None:
    """Members join down, as the kernel's driver wants it; all of them, or none when one is refused.

    What can be seen beforehand is refused beforehand: to set a device down and up again takes its IPv6 addresses.
    """
    for member in members:
        check_candidate(backend, name, own(name, member))
    joined: list[tuple[str, bool]] = []
    for member in members:
        device = own(name, member)
        was_up = bool(int(backend.read(f"{device}/flags"), 16) & Flags.UP)
        backend.set_admin(device, False)
        try:
            backend.write(f"{name.device}/bonding/slaves", f"+{device}\n")
        except Refused:
            backend.set_admin(device, was_up)
            for other, other_was_up in joined:
                backend.write(f"{name.device}/bonding/slaves", f"-{other}\n")
                backend.set_admin(other, other_was_up)
            raise
        joined.append((device, was_up))


def check_candidate(backend: Backend, name: DeviceName, device: str) -> None:
    """Refuse a device that cannot join, before anything has changed."""
    check_device(backend, name, device)
    what = f"cannot add {device} to {name}"
    bonds = backend.read("bonding_masters").split()
    if device == name.device:
        raise Refused(what, why="a bond cannot be a member of itself", fix="Name another device", code=errno.EPERM)
    slaves = backend.read(f"{name.device}/bonding/slaves").split()
    if device in slaves:
        raise Refused(what, why="it is a member already", fix="Leave it out", code=errno.EBUSY)
    for bond in bonds:
        if device in backend.read(f"{bond}/bonding/slaves").split():
            why = f"it is a member of {bond}"
            raise Refused(
                what, why=why, fix=f"Take it out there first: ibbond bond remove {name._replace(device=bond)} {device}"
            )
    if slaves and backend.read(f"{device}/type") != backend.read(f"{name.device}/type"):
        why = "its members are of another type, and the types exclude each other"
        raise Refused(what, why=why, fix="Use another bond", code=errno.EINVAL)


def check_device(backend: Backend, name: DeviceName, device: str) -> None:
    """Refuse a device that does not exist."""
    devices = [entry for entry in backend.entries("") if entry != "bonding_masters"]
    if device not in devices:
        from ibbond.topology.model import listed

        why = f"there is no such device: known are {listed(devices)}"
        raise Refused(f"cannot add {device} to {name}", why=why, fix="Name one of these", code=errno.ENODEV)


def own(name: DeviceName, member: str) -> str:
    """A member as people write it, `ib1` or `h1/ib1`; it must be on the bond's host."""
    host, slash, device = member.rpartition("/")
    if slash and host != name.host:
        raise Refused(
            f"cannot use {member} in {name}",
            why=f"it is a device of {host}",
            fix=f"Name a device of {name.host or 'this host'}",
        )
    return device
