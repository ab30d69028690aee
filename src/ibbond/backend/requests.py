"""What people ask of a host's bonds, made into plans: create, delete, add, remove, set, switch.

Read first: plan.py. A request that cannot be honored is Refused here, before anything is changed; one that asks for
what is there already gives a plan without steps. The same for ibbond's bonds in a lab and for the kernel's. A plan is
good only while nothing else changes, so it is made under `Backend.alone` (apply.py). Left out: carrying it out; what
texts of options mean (option_texts.py).
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from ibbond.backend.contract import Backend, number
from ibbond.backend.option_texts import desired_texts
from ibbond.backend.plan import LoadDriver, Plan, needs_interruption, reconcile, surviving
from ibbond.backend.state import BondState, DeviceState, HostState, Settings, capture
from ibbond.bonding.option import NAME_CHARACTERS, Mode, is_device_name
from ibbond.errors import Refused
from ibbond.host.ip_settings import IpAddress
from ibbond.topology.model import listed
from ibbond.wire.hardware_type import INFINIBAND

Options = Mapping[str, str]
Request = Callable[[Backend], Plan]


def create(
    host: Backend,
    name: str,
    members: Iterable[str] = (),
    options: Options | None = None,
    *,
    addresses: Iterable[str] = (),
    mtu: int | None = None,
    up: bool = True,
    interrupt: bool = False,
) -> Plan:
    """A bond with these members (joined in this order), options (words or numbers) and addresses (`10.0.0.1/24`).

    What is there already stays: only what differs is done. What members have of IP settings moves to the bond. Without
    `mtu` a bond of InfiniBand devices gets their smallest. Refused when a bond of that name has other members.
    """
    title = f"create {full_name(host, name)}"
    names = list(dict.fromkeys(members))
    before = free_name(host, title, name, names)
    present = before.bonds.get(name)
    if present is not None and (extra := [each for each in present.members if each not in names]) and names:
        raise Refused(
            f"cannot {title}",
            why=f"it already exists with other members: {', '.join(extra)}",
            fix=f"Remove them (ibbond bond remove {full_name(host, name)} {' '.join(extra)}), or name them too",
            code=errno.EEXIST,
        )
    wanted = desired_texts(host, name, options or {}, present, names)
    wanted |= check_members(host, title, name, names, before, wanted)
    active = wanted.pop("active_slave", None) or None
    device = present.device if present else DeviceState(up=False, mtu=1500)
    old = present.members if present else ()
    state = BondState(
        device=DeviceState(up or device.up, mtu or members_mtu(host, names) or device.mtu),
        options={**(present.options if present else {}), **wanted},
        members=(*old, *(each for each in names if each not in old)),
        active=active,
    )
    plan = _plan(host, title, before, name, state, parse_addresses(title, name, addresses), interrupt=interrupt)
    return plan if host.loaded else replace(plan, steps=(LoadDriver(), *plan.steps))


def delete(host: Backend, name: str) -> Plan:
    """No bond of that name. Its members are left down, as the driver leaves them."""
    title = f"delete {full_name(host, name)}"
    before = capture(host, [name], [])
    if name not in before.bonds and name in host.entries(""):
        raise Refused(f"cannot {title}", why="it is not a bond", fix="See ibbond bond list", code=errno.EPERM)
    members = before.bonds[name].members if name in before.bonds else ()
    after = HostState(ip=surviving(before.ip, members, [name]))
    return Plan(title, tuple(reconcile(before, after)), before, after, lost_settings(before.ip, after.ip))


def add(host: Backend, name: str, members: Iterable[str]) -> Plan:
    """These devices as members, after those that are there; what they have of IP settings moves to the bond."""
    names = list(dict.fromkeys(members))
    title = f"add {', '.join(names)} to {full_name(host, name)}"
    before, present = _present(host, title, name, names)
    options = {**present.options, **check_members(host, title, name, names, before, {})}
    joined = (*present.members, *(member for member in names if member not in present.members))
    return _plan(host, title, before, name, replace(present, options=options, members=joined, active=None))


def remove(host: Backend, name: str, members: Iterable[str]) -> Plan:
    """These devices no longer as members; removing one that is not a member is not an error."""
    names = list(dict.fromkeys(members))
    title = f"remove {', '.join(names)} from {full_name(host, name)}"
    before, present = _present(host, title, name, names)
    for member in names:
        if member not in present.members and member not in before.devices:
            raise _no_device(host, title, member)
    left = tuple(member for member in present.members if member not in names)
    options = dict(present.options)
    for option in ("queue_id", "prio"):
        options.pop(option, None)
    notes: tuple[str, ...] = ()
    if (primary := options.get("primary")) in names:
        del options["primary"]
        notes = (f"the driver keeps {primary} as the primary: when it joins again, traffic moves to it",)
    state = replace(present, options=options, members=left, active=None)
    return replace(_plan(host, title, before, name, state), notes=notes)


def set_options(host: Backend, name: str, options: Options, *, interrupt: bool = False) -> Plan:
    """These options. `interrupt` allows what must take the bond down or its members out for a moment."""
    title = f"set {', '.join(options)} of {full_name(host, name)}"
    before, present = _present(host, title, name, [])
    wanted = desired_texts(host, name, options, present, present.members)
    check_members(host, title, name, (), before, wanted)
    active = wanted.pop("active_slave", None) or None
    if active is not None:
        _check_active(title, present, active)
    state = replace(present, options={**present.options, **wanted}, active=active)
    return _plan(host, title, before, name, state, interrupt=interrupt)


def switch(host: Backend, name: str, member: str = "") -> Plan:
    """This member as the active one; without a name the next one that is up."""
    title = f"switch {full_name(host, name)}{f' to {member}' if member else ''}"
    before, present = _present(host, title, name, [])
    if not member:
        member = _next_member(title, name, present)
        title += f" to {member}"
    _check_active(title, present, member)
    return _plan(host, title, before, name, replace(present, active=member))


def _plan(
    host: Backend,
    title: str,
    before: HostState,
    name: str,
    state: BondState,
    addresses: Iterable[IpAddress] = (),
    *,
    interrupt: bool = True,
) -> Plan:
    present = before.bonds.get(name)
    if present is not None and not interrupt and (why := needs_interruption(present, state)):
        raise Refused(
            f"cannot {title}",
            why=why,
            fix="Allow it with --interrupt; add --dry-run to see what that would do",
            code=errno.ENOTEMPTY if "members" in why else errno.EBUSY,
        )
    if present is not None and state.active is None and needs_interruption(present, state):
        state = replace(state, active=present.active)
    joining = {member: name for member in state.members if present is None or member not in present.members}
    leaving = [member for member in (present.members if present else ()) if member not in state.members]
    kept = surviving(before.ip, leaving)
    moved = with_addresses(addresses, tuple(dict.fromkeys(each.on(joining) for each in kept)))
    ip = moved if state.device.up else surviving(moved, [name])
    after = HostState(bonds={name: state}, ip=ip)
    lost = lost_settings(tuple(each.on(joining) for each in before.ip), ip)
    return Plan(title, tuple(reconcile(before, after)), before, after, lost)


def with_addresses(addresses: Iterable[IpAddress], settings: Settings) -> Settings:
    """Addresses that were asked for, in place of the same ones with another prefix length."""
    asked = [
        each
        for each in addresses
        if not any(
            isinstance(old, IpAddress) and old.text == each.text and old.device == each.device for old in settings
        )
    ]
    local = {each.local for each in asked}
    kept = tuple(each for each in settings if not (isinstance(each, IpAddress) and each.local in local))
    return (*kept, *asked)


def lost_settings(before: Settings, after: Settings) -> tuple[str, ...]:
    return tuple(dict.fromkeys(str(each) for each in before if each not in after))


def full_name(host: Backend, name: str) -> str:
    return f"{host.where}/{name}" if host.where else name


def _present(host: Backend, title: str, name: str, devices: list[str]) -> tuple[HostState, BondState]:
    before = capture(host, [name], devices)
    if name not in before.bonds:
        there = f"; the bonds of {host.where or 'this host'} are: {listed(host.bonds())}" if host.bonds() else ""
        raise Refused(
            f"cannot {title}",
            why=f"there is no bond {name}{there}" if host.loaded else "the bonding driver is not loaded",
            fix=f"Create it: ibbond bond create {full_name(host, name)}",
            code=errno.ENODEV,
        )
    return before, before.bonds[name]


def free_name(host: Backend, title: str, name: str, devices: list[str]) -> HostState:
    """What is there before a bond is created, where its name is a bond's or can be."""
    if not is_device_name(name):
        raise Refused(
            f"cannot {title}",
            why=f"{name!r} cannot be a device's name: that is 1 to {NAME_CHARACTERS} characters, no blank, : or /",
            fix="Choose another name",
        )
    before = capture(host, [name], devices)
    if name not in before.bonds and name in host.entries(""):
        raise Refused(
            f"cannot {title}", why="a device of that name is not a bond", fix="Choose another name", code=errno.EEXIST
        )
    return before


def parse_addresses(title: str, name: str, addresses: Iterable[str]) -> list[IpAddress]:
    found = []
    for address in addresses:
        try:
            found.append(IpAddress.of(name, address))
        except ValueError:
            raise Refused(
                f"cannot {title}", why=f"{address!r} is not an IP address", fix="Write for example 10.0.0.1/24"
            ) from None
    return found


def members_mtu(host: Backend, members: list[str]) -> int | None:
    """The smallest MTU of InfiniBand devices; None for others. The driver gives them its own, Ethernet's 1500."""
    if not members or {number(host, f"{member}/type") for member in members} != {INFINIBAND}:
        return None
    return min(mtu for member in members if (mtu := number(host, f"{member}/mtu")) is not None)


def check_members(
    host: Backend, title: str, name: str, members: Iterable[str], before: HostState, wanted: Options
) -> dict[str, str]:
    """Refuse members that the driver would refuse; the options that it forces on a bond of such members."""
    present = before.bonds.get(name)
    types: dict[int | None, str] = {}
    for member in (*(present.members if present else ()), *members):
        if member == name:
            raise Refused(f"cannot {title}", why="a bond cannot be its own member", fix="Give another device", code=1)
        if member not in before.devices and member not in before.bonds:
            raise _no_device(host, title, member)
        above = host.master(member)
        if above is not None and above != name:
            raise Refused(
                f"cannot {title}",
                why=f"{member} belongs to {above} already",
                fix=f"Remove it there first: ibbond bond remove {full_name(host, above)} {member}",
                code=errno.EBUSY,
            )
        types.setdefault(number(host, f"{member}/type"), member)
    mode = wanted.get("mode") or (present.options.get("mode") if present else Mode.BALANCE_RR.word)
    if INFINIBAND in types and mode != Mode.ACTIVE_BACKUP.word:
        raise Refused(
            f"cannot {title}",
            why=f"InfiniBand devices can be members in mode active-backup only, and {name} would be in {mode}",
            fix="Use mode active-backup",
            code=errno.EOPNOTSUPP,
        )
    if INFINIBAND in types and wanted.get("fail_over_mac", "active") != "active":
        raise Refused(
            f"cannot {title}",
            why=f"members of InfiniBand type force fail_over_mac active, {wanted['fail_over_mac']} is not possible",
            fix="Leave it at active",
            code=errno.EOPNOTSUPP,
        )
    if len(types) > 1:
        first, other = list(types.values())[:2]
        raise Refused(
            f"cannot {title}",
            why=f"{first} and {other} are devices of different types",
            fix="Use members of one type in a bond",
        )
    return {"fail_over_mac": "active"} if INFINIBAND in types else {}


def _check_active(title: str, bond: BondState, member: str) -> None:
    if member not in bond.members:
        members = ", ".join(bond.members) or "none"
        raise Refused(f"cannot {title}", why=f"{member} is not a member", fix=f"Its members are {members}")
    if bond.links.get(member) != "up":
        link = bond.links.get(member) or "unknown"
        raise Refused(f"cannot {title}", why=f"the link of {member} is {link}", fix="Switch to a member that is up")


def _next_member(title: str, name: str, bond: BondState) -> str:
    """The next member after the active one whose link is up."""
    start = bond.members.index(bond.active) + 1 if bond.active in bond.members else 0
    for member in (*bond.members[start:], *bond.members[:start]):
        if bond.links.get(member) == "up" and member != bond.active:
            return member
    raise Refused(f"cannot {title}", why="no other member is up", fix="See their state with: ibbond bond show")


def _no_device(host: Backend, title: str, member: str) -> Refused:
    known = [entry for entry in host.entries("") if entry not in ("bonding_masters", "lo")]
    return Refused(
        f"cannot {title}",
        why=f"there is no device {member} on {host.where or 'this host'}; it has {listed(known)}",
        fix="Choose one of these",
        code=errno.ENODEV,
    )
