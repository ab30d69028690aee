"""The way from one state of a host's bonds to another: steps in the order that the kernel's driver wants.

Options come before members, members are set down before they join, the primary comes after them, then the bond goes up
and gets its addresses. The same rules make the plan of a request and the plan that puts back what was there. A step
says whether it interrupts traffic and what its file must read afterwards. Pure: no I/O; apply.py executes.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass, replace

from ibbond.backend.kernel.state import BondState, DeviceState, HostState, RouteState
from ibbond.bonding.option import Kind
from ibbond.bonding.options import OPTIONS

MASTERS = "bonding_masters"
AFTER_MEMBERS = ("primary", "queue_id", "prio")
NOT_SET_HERE = ("slaves", "active_slave", "num_unsol_na")


@dataclass(frozen=True, slots=True)
class Write:
    """One write(2) of `text` to a file below /sys/class/net, and what the file must read then.

    `equals` is the whole value (a word without its number), `has` and `lacks` a word in a list.
    """

    path: str
    text: str
    equals: str | None = None
    has: str = ""
    lacks: str = ""
    interrupts: str = ""

    def __str__(self) -> str:
        return f"write {self.text.rstrip() or '(an empty line)'} to /sys/class/net/{self.path}"


@dataclass(frozen=True, slots=True)
class SetAdmin:
    """`ip link set DEVICE up|down`."""

    device: str
    up: bool
    interrupts: str = ""

    def __str__(self) -> str:
        return f"set {self.device} {'up' if self.up else 'down'}"


@dataclass(frozen=True, slots=True)
class SetAddress:
    """`ip addr add|del ADDRESS dev DEVICE`."""

    device: str
    address: str
    add: bool
    interrupts: str = ""

    def __str__(self) -> str:
        return f"{'add' if self.add else 'delete'} address {self.address} {'to' if self.add else 'from'} {self.device}"


@dataclass(frozen=True, slots=True)
class AddRoute:
    """`ip route replace`: a route that went when its device was set down."""

    device: str
    route: RouteState
    interrupts: str = ""

    def __str__(self) -> str:
        via = f" via {self.route.gateway}" if self.route.gateway else ""
        return f"add route {self.route.destination}{via} dev {self.device}"


@dataclass(frozen=True, slots=True)
class SetAttribute:
    """An option that has no file, by rtnetlink; the value as its text, `MEMBER:NUMBER` for one of a member."""

    bond: str
    option: str
    value: str
    interrupts: str = ""

    def __str__(self) -> str:
        return f"set {self.option} of {self.bond} to {self.value or '(none)'} by rtnetlink"


@dataclass(frozen=True, slots=True)
class LoadDriver:
    """`modprobe bonding max_bonds=0`."""

    interrupts: str = ""

    def __str__(self) -> str:
        return "load the bonding driver (modprobe bonding max_bonds=0)"


Step = Write | SetAdmin | SetAddress | AddRoute | SetAttribute | LoadDriver


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do for one request. `before` is what was there when it was made, `after` what is wanted."""

    title: str
    steps: tuple[Step, ...]
    before: HostState
    after: HostState

    def lines(self) -> list[str]:
        """One line a step, with the reason where it interrupts traffic."""
        return [f"{step}{f'  [interrupts: {step.interrupts}]' if step.interrupts else ''}" for step in self.steps]


def reconcile(current: HostState, wanted: HostState) -> list[Step]:
    """The steps from one state to the other; none when they are the same."""
    steps: list[Step] = []
    for name, bond in current.bonds.items():
        if name not in wanted.bonds:
            steps.append(Write(MASTERS, f"-{name}", lacks=name, interrupts=_carries(name, bond)))
    for name, bond in wanted.bonds.items():  # first, so that a member can go from one bond to another
        if name in current.bonds:
            steps.extend(_releases(name, current.bonds[name], _leaving(current.bonds[name], bond)))
    for name, bond in wanted.bonds.items():
        steps.extend(_bond(name, current.bonds.get(name), bond, current.devices))
    members = {member for bond in wanted.bonds.values() for member in bond.members}
    for name, device in wanted.devices.items():
        if name not in members and name in current.devices:
            steps.extend(_device(name, current.devices[name], device))
    return steps


def needs_interruption(current: BondState, wanted: BondState) -> str:
    """Why options cannot be changed without taking the bond apart for a moment; empty when they can."""
    changed = _changed(current, wanted)
    if _apart(current, changed):
        return "the bond has members, which must leave and join again"
    if current.device.up and any(OPTIONS[option].bond_down for option in changed if option in OPTIONS):
        return "the bond is up and must go down for it"
    return ""


def _bond(name: str, present: BondState | None, wanted: BondState, devices: dict[str, DeviceState]) -> Iterator[Step]:
    current = present or BondState(DeviceState(up=False, mtu=1500), {}, ())
    if present is None:
        yield Write(MASTERS, f"+{name}", has=name)
    changed = _changed(current, wanted)
    apart = _apart(current, changed)
    down = current.device.up and any(OPTIONS[option].bond_down for option in changed if option in OPTIONS)
    slaves = f"{name}/bonding/slaves"
    leaving = _leaving(current, wanted)
    if down:
        yield SetAdmin(name, False, interrupts=f"{name} is down until it is set up again")
    yield from _option_writes(name, current, changed)
    staying = [member for member in current.members if member not in leaving]
    joining = [member for member in wanted.members if member not in staying]
    for member in joining:
        known = devices.get(member)
        if known is not None and known.up and member not in leaving:
            addresses = ", ".join(known.addresses)
            yield SetAdmin(member, False, interrupts=f"{member} has {addresses}" if addresses else "")
        yield Write(slaves, f"+{member}", has=member, interrupts=_joins(current, staying))
    if wanted.device.mtu != current.device.mtu:
        yield Write(f"{name}/mtu", str(wanted.device.mtu), equals=str(wanted.device.mtu))
    for option in AFTER_MEMBERS:
        if option in changed or (option in wanted.options and apart and wanted.options[option]):
            yield from _after_members(name, option, current, wanted.options[option])
    up = current.device.up and not down
    if wanted.device.up != up:
        yield SetAdmin(name, wanted.device.up, interrupts="" if wanted.device.up else _carries(name, current))
    if wanted.active is not None and (wanted.active != current.active or apart):
        moves = f"traffic moves from {current.active} to {wanted.active}" if current.active else ""
        yield Write(f"{name}/bonding/active_slave", wanted.active, equals=wanted.active, interrupts=moves)
    yield from _addresses(name, _after_down(current.device) if down else current.device, wanted.device)


def _apart(current: BondState, changed: dict[str, str]) -> bool:
    """Whether all members must leave for a moment."""
    return bool(current.members) and any(OPTIONS[option].no_members for option in changed if option in OPTIONS)


def _leaving(current: BondState, wanted: BondState) -> list[str]:
    """The members that leave, the active one last: traffic moves at most once."""
    apart = _apart(current, _changed(current, wanted))
    leaving = [member for member in current.members if apart or member not in wanted.members]
    return sorted(leaving, key=lambda member: member == current.active)


def _releases(name: str, current: BondState, leaving: list[str]) -> Iterator[Step]:
    for member in leaving:
        interrupts = _leaves(name, current, member, leaving)
        yield Write(f"{name}/bonding/slaves", f"-{member}", lacks=member, interrupts=interrupts)


def _changed(current: BondState, wanted: BondState) -> dict[str, str]:
    """The wanted options that differ, in the table's order, which has mode first and miimon before its delays."""
    known = [option for option in OPTIONS if option in wanted.options]
    unknown = [option for option in wanted.options if option not in OPTIONS]
    return {
        option: wanted.options[option]
        for option in (*known, *unknown)
        if option not in NOT_SET_HERE and current.options.get(option) != wanted.options[option]
    }


def _option_writes(name: str, current: BondState, changed: dict[str, str]) -> Iterator[Step]:
    for option, value in changed.items():
        if option in AFTER_MEMBERS or (option in OPTIONS and OPTIONS[option].read_only):
            continue
        path = f"{name}/bonding/{option}"
        if option in OPTIONS and OPTIONS[option].kind is Kind.TARGETS:
            old, new = current.options.get(option, "").split(), value.split()
            for target in old:
                if target not in new:
                    yield Write(path, f"-{target}", lacks=target)
            for target in new:
                if target not in old:
                    yield Write(path, f"+{target}", has=target)
        elif option in OPTIONS and OPTIONS[option].netlink_only:
            yield SetAttribute(name, option, value)
        else:
            moves = _moves(option, value, current)
            yield Write(path, value, equals=value, interrupts=moves)


def _after_members(name: str, option: str, current: BondState, value: str) -> Iterator[Step]:
    path = f"{name}/bonding/{option}"
    if option in ("queue_id", "prio"):
        old = current.options.get(option, "").split()
        for pair in value.split():
            if pair not in old:
                yield Write(path, pair, has=pair) if option == "queue_id" else SetAttribute(name, option, pair)
        return
    yield Write(path, value or "\n", equals=value, interrupts=_moves(option, value, current))


def _addresses(name: str, current: DeviceState, wanted: DeviceState) -> Iterator[Step]:
    for address in current.addresses:
        if address not in wanted.addresses:
            yield SetAddress(name, address, add=False, interrupts=f"{address} goes")
    for address in wanted.addresses:
        if address not in current.addresses:
            yield SetAddress(name, address, add=True)
    own = {str(ipaddress.ip_interface(address).network) for address in wanted.addresses}
    for route in wanted.routes:
        if route not in current.routes and (route.gateway or route.destination not in own):
            yield AddRoute(name, route)


def _after_down(device: DeviceState) -> DeviceState:
    """What is left of a device's addresses and routes once it has been down (sysctl keep_addr_on_down 0)."""
    return replace(device, addresses=tuple(each for each in device.addresses if ":" not in each), routes=())


def _device(name: str, current: DeviceState, wanted: DeviceState) -> Iterator[Step]:
    if wanted.mtu and wanted.mtu != current.mtu:
        yield Write(f"{name}/mtu", str(wanted.mtu), equals=str(wanted.mtu))
    if wanted.up != current.up:
        yield SetAdmin(name, wanted.up)
    yield from _addresses(name, current, wanted)


def _carries(name: str, bond: BondState) -> str:
    if not bond.device.up or bond.active is None:
        return ""
    addresses = ", ".join(bond.device.addresses)
    return f"{name} carries traffic of {addresses}" if addresses else f"{name} is up and has an active member"


def _leaves(name: str, bond: BondState, member: str, leaving: list[str]) -> str:
    if member != bond.active or not bond.device.up:
        return ""
    staying = [other for other in bond.members if other not in leaving]
    return f"traffic leaves {member}" if staying else f"{name} has no member then"


def _joins(bond: BondState, staying: list[str]) -> str:
    """Without a primary every newcomer makes the driver choose again, and it takes the first that is up."""
    first = next((member for member in staying if bond.links.get(member) == "up"), None)
    if not bond.device.up or bond.options.get("primary") or bond.options.get("primary_reselect") != "always":
        return ""
    if first is None or bond.active in (None, first):
        return ""
    return f"traffic goes back from {bond.active} to {first}"


def _moves(option: str, value: str, bond: BondState) -> str:
    """What writing `primary` or `primary_reselect` does to the traffic."""
    if bond.active is None or not bond.device.up:
        return ""
    preferred = value if option == "primary" else bond.options.get("primary", "")
    always = option == "primary" or (option == "primary_reselect" and value == "always")
    if always and preferred and preferred != bond.active and bond.links.get(preferred) == "up":
        return f"traffic moves from {bond.active} to {preferred}"
    return ""
