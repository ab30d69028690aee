"""What people ask of this host's bonds, made into plans: create, delete, add, remove, set, switch.

Read first: plan.py. A request that cannot be honoured is Refused here, before anything is changed; one that asks
for what is there already gives a plan without steps. Left out: carrying plans out (`KernelBackend.apply`), the command
line.
"""

from __future__ import annotations

import errno
import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import replace

from ibbond.backend.kernel.bonds import KernelBackend
from ibbond.backend.kernel.files import CLASS_NET
from ibbond.backend.kernel.plan import LoadDriver, Plan, needs_interruption, reconcile
from ibbond.backend.kernel.state import BondState, DeviceState, HostState
from ibbond.bonding.option import (
    NAME_CHARACTERS,
    Kind,
    Mode,
    Option,
    Rejected,
    check_dependencies,
    describe,
    parse_value,
)
from ibbond.bonding.options import OPTIONS
from ibbond.errors import Refused

Options = Mapping[str, str]
INFINIBAND = 32


def create(
    host: KernelBackend,
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

    What is there already stays: only what differs is done. Refused when a bond of that name has other members.
    """
    title = f"create {name}"
    _check_name(title, name)
    names = list(dict.fromkeys(members))
    before = host.capture([name], names)
    present = before.bonds.get(name)
    if present is None and host.files.exists(f"{CLASS_NET}/{name}"):
        raise Refused(
            f"cannot {title}", why="a device of that name is no bond", fix="Choose another name", code=errno.EEXIST
        )
    if present is not None and (extra := [each for each in present.members if each not in names]) and names:
        raise Refused(
            f"cannot {title}",
            why=f"it is there and has other members: {', '.join(extra)}",
            fix=f"Remove them (ibbond bond remove {name} {' '.join(extra)}), or name them too",
            code=errno.EEXIST,
        )
    wanted = _canonical(host, name, options or {}, present)
    _check_members(host, title, name, names, before, wanted)
    texts = [_address(title, address) for address in addresses]
    device = present.device if present else DeviceState(up=False, mtu=1500)
    state = BondState(
        device=replace(
            device,
            up=up or device.up,
            mtu=mtu or device.mtu,
            addresses=(*device.addresses, *(text for text in texts if text not in device.addresses)),
        ),
        options={**(present.options if present else {}), **wanted},
        members=(*(present.members if present else ()), *(n for n in names if not present or n not in present.members)),
    )
    plan = _plan(title, before, name, state, interrupt)
    if not host.loaded:
        return replace(plan, steps=(LoadDriver(), *plan.steps))
    return plan


def members_mtu(host: KernelBackend, members: Iterable[str]) -> int | None:
    """The MTU that every one of these InfiniBand devices has now; None for others: a bond starts with Ethernet's 1500.

    The driver does not take it from the members, it gives its own 1500 to them.
    """
    names = list(members)
    types = {host.files.number(f"{CLASS_NET}/{member}/type") for member in names}
    found = [mtu for member in names if (mtu := host.files.number(f"{CLASS_NET}/{member}/mtu")) is not None]
    return min(found) if types == {INFINIBAND} and found else None


def delete(host: KernelBackend, name: str) -> Plan:
    """No bond of that name. Its members are left down, as the driver leaves them."""
    before = host.capture([name], [])
    if name not in before.bonds and host.files.exists(f"{CLASS_NET}/{name}"):
        raise Refused(f"cannot delete {name}", why="it is no bond", fix="See ibbond bond list", code=errno.EPERM)
    after = HostState(devices={})
    return Plan(f"delete {name}", tuple(reconcile(before, after)), before, after)


def add(host: KernelBackend, name: str, members: Iterable[str]) -> Plan:
    """These devices as members, after those that are there."""
    names = list(dict.fromkeys(members))
    title = f"add {', '.join(names)} to {name}"
    before, present = _present(host, title, name, names)
    _check_members(host, title, name, names, before, {})
    joined = (*present.members, *(member for member in names if member not in present.members))
    return _plan(title, before, name, replace(present, members=joined, active=None))


def remove(host: KernelBackend, name: str, members: Iterable[str]) -> Plan:
    """These devices no longer as members; one that is none already is no error."""
    names = list(dict.fromkeys(members))
    title = f"remove {', '.join(names)} from {name}"
    before, present = _present(host, title, name, names)
    for member in names:
        if member not in present.members and not host.files.exists(f"{CLASS_NET}/{member}"):
            raise Refused(
                f"cannot {title}",
                why=f"there is no device {member}",
                fix=f"See ibbond bond show {name}",
                code=errno.ENODEV,
            )
    left = tuple(member for member in present.members if member not in names)
    options = dict(present.options)
    options.pop("queue_id", None)
    if options.get("primary") in names:
        options.pop("primary")
    return _plan(title, before, name, BondState(present.device, options, left, None, present.links))


def set_options(host: KernelBackend, name: str, options: Options, *, interrupt: bool = False) -> Plan:
    """These options. `interrupt` allows what must take the bond down or its members out for a moment."""
    title = f"set {', '.join(options)} of {name}"
    before, present = _present(host, title, name, [])
    wanted = _canonical(host, name, options, present)
    _check_members(host, title, name, (), before, wanted)
    active = wanted.pop("active_slave", None)
    if active is not None:
        _check_active(title, present, active)
    state = replace(present, options={**present.options, **wanted}, active=active)
    return _plan(title, before, name, state, interrupt)


def switch(host: KernelBackend, name: str, member: str) -> Plan:
    """This member as the active one."""
    title = f"switch {name} to {member}"
    before, present = _present(host, title, name, [])
    _check_active(title, present, member)
    return _plan(title, before, name, replace(present, active=member))


def _plan(title: str, before: HostState, name: str, state: BondState, interrupt: bool = True) -> Plan:
    present = before.bonds.get(name)
    if present is not None and not interrupt and (why := needs_interruption(present, state)):
        raise Refused(
            f"cannot {title}",
            why=why,
            fix="Allow it with --interrupt; with --dry-run as well you see what that does",
            code=errno.ENOTEMPTY if "members" in why else errno.EBUSY,
        )
    if present is not None and state.active is None and needs_interruption(present, state):
        state = replace(state, active=present.active)
    after = HostState(bonds={name: state})
    return Plan(title, tuple(reconcile(before, after)), before, after)


def _present(host: KernelBackend, title: str, name: str, devices: list[str]) -> tuple[HostState, BondState]:
    before = host.capture([name], devices)
    if name not in before.bonds:
        loaded = host.loaded
        raise Refused(
            f"cannot {title}",
            why=f"there is no bond {name}" if loaded else "the bonding driver is not loaded",
            fix=f"Make it: ibbond bond create {name}",
            code=errno.ENODEV,
        )
    return before, before.bonds[name]


def _check_name(title: str, name: str) -> None:
    bad = not name or len(name) > NAME_CHARACTERS or name in (".", "..") or any(c in "/:" or c.isspace() for c in name)
    if bad:
        raise Refused(
            f"cannot {title}",
            why=f"a device's name has 1 to {NAME_CHARACTERS} characters, no blank, slash or colon",
            fix="Choose another name",
        )


def _check_members(
    host: KernelBackend, title: str, name: str, members: Iterable[str], before: HostState, wanted: Options
) -> None:
    """What can be known before the driver is asked."""
    present = before.bonds.get(name)
    types: dict[str, str] = {}
    for member in (*(present.members if present else ()), *members):
        base = f"{CLASS_NET}/{member}"
        if member == name or not host.files.exists(f"{base}/flags"):
            why = "a bond cannot be its own member" if member == name else f"there is no device {member}"
            raise Refused(f"cannot {title}", why=why, fix="See ip link for the devices", code=errno.ENODEV)
        above = host.files.where(f"{base}/master")
        if above is not None and above.rpartition("/")[2] != name:
            other = above.rpartition("/")[2]
            raise Refused(
                f"cannot {title}",
                why=f"{member} belongs to {other} already",
                fix=f"Remove it there first: ibbond bond remove {other} {member}",
                code=errno.EBUSY,
            )
        types.setdefault(host.files.text(f"{base}/type") or "", member)
    mode = wanted.get("mode") or (present.options.get("mode") if present else "balance-rr")
    if str(INFINIBAND) in types and mode != Mode.ACTIVE_BACKUP.word:
        raise Refused(
            f"cannot {title}",
            why=f"InfiniBand devices can be members in mode active-backup only, and {name} is to be in {mode}",
            fix="Use mode active-backup",
            code=errno.EOPNOTSUPP,
        )
    if len(types) > 1:
        (_, first), (_, other) = list(types.items())[:2]
        raise Refused(
            f"cannot {title}",
            why=f"{first} and {other} are devices of different types",
            fix="Use members of one type in a bond",
        )


def _check_active(title: str, bond: BondState, member: str) -> None:
    if member not in bond.members:
        raise Refused(
            f"cannot {title}",
            why=f"{member} is not a member",
            fix=f"Its members are {', '.join(bond.members) or 'none'}",
        )
    if bond.links.get(member) != "up":
        raise Refused(
            f"cannot {title}",
            why=f"the link of {member} is {bond.links.get(member) or 'unknown'}",
            fix="Switch to a member whose link is up",
        )


def _canonical(host: KernelBackend, name: str, options: Options, present: BondState | None) -> dict[str, str]:
    """The texts that the options' files will read, in place of numbers, old words and `+` and `-`. Refused."""
    mode_text = options.get("mode") or (present.options.get("mode") if present else None)
    found: dict[str, str] = {}
    modes = {word.text: word.number for word in OPTIONS["mode"].words}
    mode = Mode(modes[_one(host, name, OPTIONS["mode"], mode_text)]) if mode_text else Mode.BALANCE_RR
    for option_name, text in options.items():
        option = OPTIONS.get(option_name)
        if option is None or option.ours or option.read_only or option.kind is Kind.MEMBERS:
            raise _not_settable(name, option_name, option)
        has_it = option.has_file and host.files.exists(f"{CLASS_NET}/{name}/bonding/{option_name}")  # a backport
        if option.since > host.version > (0, 0) and not has_it:
            since = ".".join(map(str, option.since))
            raise Refused(
                f"cannot set {option_name} of {name}",
                why=f"kernel {host.release} does not have it",
                fix=f"It came with Linux {since}",
            )
        try:
            check_dependencies(option, mode, False, False)
        except Rejected as rejected:
            raise Refused(
                f"cannot set {option_name} of {name}", why=rejected.why, fix=rejected.fix, code=rejected.code
            ) from None
        before = present.options.get(option_name, "") if present else ""
        match option.kind:
            case Kind.VALUE if option.of_member:
                found[option_name] = _pairs(name, option_name, before, text)
            case Kind.VALUE:
                found[option_name] = _one(host, name, option, text)
            case Kind.TARGETS | Kind.TARGETS6:
                found[option_name] = _targets(name, option, before, text)
            case Kind.QUEUES:
                found[option_name] = _pairs(name, option_name, before, text)
            case _:
                found[option_name] = text.strip()
    if found.get("num_unsol_na") is not None:
        found.setdefault("num_grat_arp", found.pop("num_unsol_na"))
    both = [option for option in ("miimon", "arp_interval") if found.get(option, "0") != "0"]
    if len(both) == 2:
        raise Refused(
            f"cannot set miimon and arp_interval of {name}",
            why="a bond has one of the two monitors: setting one stops the other",
            fix="Set only one of them",
        )
    return found


def _one(host: KernelBackend, name: str, option: Option, text: str) -> str:
    try:
        value = parse_value(option, text, host.version)
    except Rejected as rejected:
        raise Refused(
            f"cannot set {option.name} of {name} to {text!r}",
            why=rejected.why,
            fix=f"It takes {describe(option, host.version)}",
            code=rejected.code,
        ) from None
    return option.word_of(value) if option.shows_word else str(value)


def _targets(name: str, option: Option, before: str, text: str) -> str:
    """`+A` and `-A` change the list, plain addresses are the whole of it."""
    words = text.replace(",", " ").split()
    signed = [word for word in words if word[0] in "+-"]
    result = before.split() if signed else []
    kind = ipaddress.IPv4Address if option.kind is Kind.TARGETS else ipaddress.IPv6Address
    for word in words:
        try:
            address = str(kind(word.lstrip("+-")))
        except ValueError:
            raise Refused(
                f"cannot set {option.name} of {name}",
                why=f"{word!r} is no IPv{4 if kind is ipaddress.IPv4Address else 6} address",
                fix="Write addresses, with + or - before each to change the list",
            ) from None
        if word.startswith("-"):
            result = [target for target in result if target != address]
        elif address not in result:
            result.append(address)
    return " ".join(result)


def _pairs(name: str, option: str, before: str, text: str) -> str:
    """`ib0:2` for one member; the others keep theirs."""
    result = dict(pair.rpartition(":")[::2] for pair in before.split())
    for word in text.replace(",", " ").split():
        member, colon, number = word.rpartition(":")
        if not colon or member not in result or not number.lstrip("-").isdigit():
            raise Refused(
                f"cannot set {option} of {name}",
                why=f"{word!r} is not MEMBER:NUMBER",
                fix=f"Its members are {', '.join(result) or 'none'}",
            )
        result[member] = str(int(number))
    return " ".join(f"{member}:{number}" for member, number in result.items())


def _not_settable(name: str, option_name: str, option: Option | None) -> Refused:
    what = f"cannot set {option_name} of {name}"
    if option is None:
        return Refused(what, why="there is no such option", fix="See ibbond options")
    if option.ours:
        return Refused(what, why="it is a setting of ibbond's own driver, in lab hosts", fix="See ibbond options")
    if option.kind is Kind.MEMBERS:
        return Refused(what, why="members join and leave", fix="Use ibbond bond add or remove")
    return Refused(what, why="it is a fact, not a setting", fix="See ibbond options")


def _address(title: str, text: str) -> str:
    try:
        interface = ipaddress.ip_interface(text)
    except ValueError:
        raise Refused(
            f"cannot {title}", why=f"{text!r} is no IP address", fix="Write for example 10.0.0.1/24"
        ) from None
    return f"{interface.ip}/{interface.network.prefixlen}"
