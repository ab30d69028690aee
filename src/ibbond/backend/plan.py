"""The way from one state of a host's bonds to another: steps in the order that the bonding driver wants.

Options come before members, members are set down before they join, the primary comes after them, then the bond goes up
and gets its addresses, routes last. The same rules make the plan of a request and the plan that puts back what was
there. A step says whether it interrupts traffic and what its file must read afterwards. Pure; apply.py executes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from ibbond.backend.contract import option_without_file
from ibbond.backend.state import BondState, Child, DeviceState, HostState, Settings
from ibbond.bonding.option import Kind
from ibbond.bonding.options import OPTIONS
from ibbond.host.ip_settings import IpAddress, IpNeighbor, IpNexthop, IpRoute, IpRule, IpSetting

MASTERS = "bonding_masters"
NOT_OPTIONS = ("slaves", "active_slave", "num_unsol_na")  # members and the active one have places of their own
RESETS = {  # writing the first changes how the others read
    "miimon": [option.name for option in OPTIONS.values() if option.counted_in_runs],
    "mode": ["arp_validate"],
}
OFF = ("", "0", "none")


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

    @property
    def option(self) -> str:
        """The option of a bond that it sets; empty for members, MTU and bonds themselves."""
        name = self.path.partition("/bonding/")[2]
        return "" if name == "slaves" else name

    def __str__(self) -> str:
        value = self.text.rstrip()
        if found := option_without_file(self.path):
            return f"set {found[1].name} of {found[0]} to {value or '(nothing)'}"
        return f"write {value or '(an empty line)'} to /sys/class/net/{self.path}"


@dataclass(frozen=True, slots=True)
class SetAdmin:
    """`ip link set DEVICE up|down`."""

    device: str
    up: bool
    interrupts: str = ""

    def __str__(self) -> str:
        return f"set {self.device} {'up' if self.up else 'down'}"


@dataclass(frozen=True, slots=True)
class AddIp:
    """`ip address add`, `ip route add` and the like."""

    setting: IpSetting
    interrupts: str = ""

    def __str__(self) -> str:
        return f"add {self.setting}"


@dataclass(frozen=True, slots=True)
class DeleteIp:
    setting: IpSetting
    interrupts: str = ""

    def __str__(self) -> str:
        return f"delete {self.setting}"


@dataclass(frozen=True, slots=True)
class MakeChild:
    """A P_Key child is made, by its parent's file create_child."""

    child: Child
    interrupts: str = ""

    def __str__(self) -> str:
        return f"make {self.child.name} (P_Key {self.child.pkey:#06x} of {self.child.parent})"


@dataclass(frozen=True, slots=True)
class DropChild:
    child: Child
    interrupts: str = ""

    def __str__(self) -> str:
        return f"delete {self.child.name} (P_Key {self.child.pkey:#06x} of {self.child.parent})"


@dataclass(frozen=True, slots=True)
class LoadDriver:
    """`modprobe bonding max_bonds=0`."""

    interrupts: str = ""

    def __str__(self) -> str:
        return "load the bonding driver (modprobe bonding max_bonds=0)"


Step = Write | SetAdmin | AddIp | DeleteIp | LoadDriver | MakeChild | DropChild
RANK: dict[type[IpSetting], int] = {IpAddress: 0, IpNeighbor: 1, IpRoute: 2, IpNexthop: 3, IpRule: 6}


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do for one request. `before` is what was there when it was made, `after` the desired state.

    `lost` are IP settings that are gone afterwards, `notes` what else is worth knowing before.
    """

    title: str
    steps: tuple[Step, ...]
    before: HostState
    after: HostState
    lost: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """One line a step, with the reason where it interrupts traffic; then what is lost, and notes."""
        steps = [f"{step}{f'  [interrupts: {step.interrupts}]' if step.interrupts else ''}" for step in self.steps]
        return steps + self.remarks()

    def remarks(self) -> list[str]:
        return [*(f"lost: {each}" for each in self.lost), *(f"note: {each}" for each in self.notes)]


def reconcile(current: HostState, wanted: HostState) -> list[Step]:
    """The steps from one state to the other; none when they are the same."""
    steps: list[Step] = []
    for name, bond in current.bonds.items():
        if name not in wanted.bonds:
            steps.append(Write(MASTERS, f"-{name}", lacks=name, interrupts=_carries(name, bond, current.ip)))
    for name, bond in wanted.bonds.items():  # first, so that a member can go from one bond to another
        if name in current.bonds:
            steps.extend(_releases(name, current.bonds[name], _leaving(current.bonds[name], bond)))
    for name in wanted.bonds:
        steps.extend(
            step for step in _bond(name, current, wanted) if not (isinstance(step, DeleteIp) and step in steps)
        )
    steps[:0] = _devices_first(current, wanted)
    members = {member for bond in wanted.bonds.values() for member in bond.members}
    for name, device in wanted.devices.items():
        if name not in members and name in current.devices:
            steps.extend(_device(name, current.devices[name], device, name in _set_down(current, steps)))
    steps += [DropChild(child) for child in current.children if child not in wanted.children]
    return [*steps, *_ip_steps(current, wanted, steps)]


def _devices_first(current: HostState, wanted: HostState) -> Iterator[Step]:
    """What must be before a device joins a bond: it is made, and it has its transport mode."""
    yield from (MakeChild(child) for child in wanted.children if child not in current.children)
    for name, device in wanted.devices.items():
        there = current.devices.get(name)
        if device.transport and (there is None or there.transport != device.transport):
            interrupts = f"{name} finds its peers again" if there is not None and there.up else ""
            yield Write(f"{name}/mode", device.transport, equals=device.transport, interrupts=interrupts)


def needs_interruption(current: BondState, wanted: BondState) -> str:
    """Why options cannot be changed without taking the bond apart for a moment; empty when they can."""
    changed = _changed(current, wanted)
    if _apart(current, changed):
        return "the bond has members, which must be released and added again"
    if _down(current, changed):
        return "the bond is up and must go down for it"
    return ""


def surviving(settings: Settings, down: Collection[str], deleted: Collection[str] = ()) -> Settings:
    """What is left when devices have been down (sysctl keep_addr_on_down 0) or were deleted."""

    def stays(each: IpSetting) -> bool:
        if isinstance(each, IpRule):
            return True
        if any(device in deleted for device in each.devices):
            return False
        if isinstance(each, IpAddress) and len(each.local) == 4:
            return True
        return not any(device in down for device in each.devices)

    return tuple(each for each in settings if stays(each))


def _bond(name: str, host: HostState, after: HostState) -> Iterator[Step]:
    wanted = after.bonds[name]
    present = host.bonds.get(name)
    current = present or BondState(DeviceState(up=False, mtu=1500), {}, ())
    if present is None:
        yield Write(MASTERS, f"+{name}", has=name)
    changed = _changed(current, wanted)
    apart, down = _apart(current, changed), _down(current, changed)
    leaving = _leaving(current, wanted)
    if down:
        yield SetAdmin(name, False, interrupts=f"{name} is down until it is set up again")
    yield from _option_writes(name, current, changed)
    staying = [member for member in current.members if member not in leaving]
    for member in wanted.members:
        if member not in staying:
            if member not in leaving and member in host.devices:
                yield from _vacate(member, name, host, after)
            yield Write(f"{name}/bonding/slaves", f"+{member}", has=member, interrupts=_joins(current, staying))
    if wanted.device.mtu != current.device.mtu:
        yield Write(f"{name}/mtu", str(wanted.device.mtu), equals=str(wanted.device.mtu))
    for option in OPTIONS.values():
        value = wanted.options.get(option.name)
        if option.after_members and value is not None and (option.name in changed or (apart and value)):
            yield from _after_members(name, option.name, value, current, apart)
    up = current.device.up and not down
    if wanted.device.up != up:
        yield SetAdmin(name, wanted.device.up, interrupts="" if wanted.device.up else _carries(name, current, host.ip))
    if wanted.active is not None and (wanted.active != current.active or apart):
        moves = current.active and wanted.active != current.active
        interrupts = f"traffic moves from {current.active} to {wanted.active}" if moves else ""
        yield Write(f"{name}/bonding/active_slave", wanted.active, equals=wanted.active, interrupts=interrupts)


def _vacate(member: str, bond: str, host: HostState, after: HostState) -> Iterator[Step]:
    """A device gives up its IP settings and goes down, as the driver wants it; its routes go with that."""
    own = {each.local for each in host.ip if isinstance(each, IpAddress) and each.device == member}
    for setting in reversed(host.ip):
        gone = member in setting.devices and setting not in after.ip
        if isinstance(setting, IpAddress) and gone:
            there = {each.local for each in after.ip if isinstance(each, IpAddress)}
            rest = f", which {bond} gets" if setting.local in there else ""
            interrupts = f"{member} carries traffic of {setting.text}{rest}" if host.devices[member].up else ""
            yield DeleteIp(setting, interrupts)
        elif isinstance(setting, IpRoute) and set(setting.devices) != {member} and (gone or setting.source in own):
            yield DeleteIp(setting)  # over other devices too, or with its address as source: it would stay, maimed
    if host.devices[member].up:
        yield SetAdmin(member, False)


def _ip_steps(current: HostState, wanted: HostState, steps: Iterable[Step]) -> Iterator[Step]:
    """What is too much goes, then what is missing comes: what the steps before took away among it."""
    deleted = [step.text[1:] for step in steps if isinstance(step, Write) and step.path == MASTERS]
    gone = [step.setting for step in steps if isinstance(step, DeleteIp)]
    left = [each for each in surviving(current.ip, _set_down(current, steps), deleted) if each not in gone]
    for setting in reversed(left):
        if setting not in wanted.ip:
            yield DeleteIp(setting, f"{setting.text} goes" if isinstance(setting, IpAddress) else "")
    for setting in sorted((each for each in wanted.ip if each not in left), key=_rank):
        yield AddIp(setting)


def _set_down(current: HostState, steps: Iterable[Step]) -> set[str]:
    """The devices that go down on the way; the driver leaves members down that it releases."""
    down: set[str] = set()
    for step in steps:
        match step:
            case SetAdmin(device, False):
                down.add(device)
            case Write(path, text) if text.startswith("-") and path == MASTERS:
                down.update(current.bonds[text[1:]].members)
            case Write(path, text) if text.startswith("-") and path.endswith("/slaves"):
                down.add(text[1:])
    return down


def _rank(setting: IpSetting) -> int:
    """Addresses first; gateways when the networks that they are in are there, groups when their objects are."""
    if isinstance(setting, IpRoute):
        return RANK[IpRoute] + 3 * setting.has_gateway
    return RANK[type(setting)] + (isinstance(setting, IpNexthop) and not setting.device)


def _apart(current: BondState, changed: dict[str, str]) -> bool:
    """Whether all members must leave for a moment."""
    return bool(current.members) and any(OPTIONS[option].no_members for option in changed if option in OPTIONS)


def _down(current: BondState, changed: dict[str, str]) -> bool:
    return current.device.up and any(OPTIONS[option].bond_down for option in changed if option in OPTIONS)


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
    changed = {
        option: wanted.options[option]
        for option in (*known, *unknown)
        if option not in NOT_OPTIONS and current.options.get(option) != wanted.options[option]
    }
    again = [each for option, others in RESETS.items() if option in changed for each in others]
    return {
        option: wanted.options[option]
        for option in (*known, *unknown)
        if option in changed or (option in again and wanted.options[option] not in OFF)
    }


def _option_writes(name: str, current: BondState, changed: dict[str, str]) -> Iterator[Step]:
    for option, value in changed.items():
        row = OPTIONS.get(option)
        if row is not None and (row.after_members or row.read_only):
            continue
        path = f"{name}/bonding/{option}"
        if row is not None and row.kind is Kind.TARGETS:
            old, new = current.options.get(option, "").split(), value.split()
            for target in old:
                if target not in new:
                    yield Write(path, f"-{target}", lacks=target)
            for target in new:
                if target not in old:
                    yield Write(path, f"+{target}", has=target)
        else:
            yield Write(path, value or "\n", equals=value, interrupts=_moves(option, value, current))


def _after_members(name: str, option: str, value: str, current: BondState, apart: bool) -> Iterator[Step]:
    path = f"{name}/bonding/{option}"
    if option in ("queue_id", "prio"):  # a member that joins has 0
        old = [] if apart else current.options.get(option, "").split()
        for pair in value.split():
            if pair not in old and not (apart and pair.endswith(":0")):
                yield Write(path, pair, has=pair)
        return
    yield Write(path, value or "\n", equals=value, interrupts=_moves(option, value, current))


def _device(name: str, current: DeviceState, wanted: DeviceState, was_set_down: bool) -> Iterator[Step]:
    if wanted.mtu and wanted.mtu != current.mtu:
        yield Write(f"{name}/mtu", str(wanted.mtu), equals=str(wanted.mtu))
    if wanted.up != (current.up and not was_set_down):
        yield SetAdmin(name, wanted.up)


def _carries(name: str, bond: BondState, settings: Settings) -> str:
    if not bond.device.up or bond.active is None:
        return ""
    addresses = ", ".join(each.text for each in settings if isinstance(each, IpAddress) and each.device == name)
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
    return f"traffic moves back from {bond.active} to {first}"


def _moves(option: str, value: str, bond: BondState) -> str:
    """What writing `primary` or `primary_reselect` does to the traffic."""
    if bond.active is None or not bond.device.up:
        return ""
    preferred = value if option == "primary" else bond.options.get("primary", "")
    always = option == "primary" or (option == "primary_reselect" and value == "always")
    if always and preferred and preferred != bond.active and bond.links.get(preferred) == "up":
        return f"traffic moves from {bond.active} to {preferred}"
    return ""
