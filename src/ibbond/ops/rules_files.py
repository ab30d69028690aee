"""Rules about what a host's files ask for and what its kernel holds: bonds, options, words that no tool understands.

Read first: ops/rule.py, config/desired.py. Where several tools have the same bond, a setting arrived if one of them
asks for what is there. Left out: members (missing-member), addresses, which others may add and remove.
"""

from __future__ import annotations

from collections.abc import Iterator

from ibbond.bonding.option import Kind, Mode
from ibbond.bonding.options import OPTIONS
from ibbond.config import bonds_toml, ifcfg, ifupdown, netplan, networkd, networkmanager, ofed
from ibbond.config.desired import DesiredBond, Problem, Setting
from ibbond.ops.facts import BondFacts, HostFacts
from ibbond.ops.rule import Found, Rule, Severity, bond_command, set_command, system_command

BRINGS_UP = {
    bonds_toml.TOOL: "ibbond apply",
    networkd.TOOL: "networkctl reload",
    netplan.TOOL: "netplan apply",
    networkmanager.TOOL: "nmcli connection up {bond}",
    ifupdown.TOOL: "ifup {bond}",
    ifcfg.RHEL: "ifup {bond}",
    ifcfg.SUSE: "wicked ifup {bond}",
    ofed.TOOL: "/etc/init.d/openibd restart",
}
NOT_COMPARED = ("slaves", "active_slave", "num_unsol_na", "queue_id")


def missing_bonds(host: HostFacts) -> Iterator[tuple[str, Found]]:
    """Bonds that the files make at boot and that the host does not have: the name, and what is found."""
    seen: set[str] = set()
    for wanted in host.desired.bonds:
        if not wanted.is_defined or not wanted.starts or wanted.name in host.bond_names or wanted.name in seen:
            continue
        seen.add(wanted.name)
        names = [name for member in wanted.members if (name := member.match.name)]
        present = [name for name in names if name in host.devices]
        gone = [name for name in names if name not in host.devices]
        by_tool = BRINGS_UP[wanted.tool].format(bond=wanted.name)
        if names and not present:
            run: tuple[str, ...] = ()
            do = f"None of its members ({', '.join(names)}) is a device of this host: load their driver, then {by_tool}"
        else:
            run, do = (_create(host, wanted, present),), f"or let {wanted.tool} do it: {by_tool}"
        yield (
            wanted.name,
            Found(
                f"there is no bond {wanted.name}, although {wanted.source} asks for it"
                + (f" (members {', '.join(names)})" if names else ""),
                run,
                do + (f"; {', '.join(gone)} must be added once they exist" if run and gone else ""),
                why="A restart of the InfiniBand driver destroys a bond with its last member (see"
                " quirk-last-member-takes-bond), or the bond was not created at boot",
            ),
        )


def _create(host: HostFacts, wanted: DesiredBond, members: list[str]) -> str:
    """The bond as the files have it, as far as `bond create` can make it."""
    words = list(members)
    for name, setting in wanted.options.items():
        if name not in NOT_COMPARED and (name != "primary" or setting.text in members):
            words += ["--set", f"{name}={setting.text}"]
    for address in wanted.addresses:
        words += ["--address", address.text] if "/" in address.text else []
    if wanted.mtu and wanted.mtu.text.isdigit():
        words += ["--mtu", wanted.mtu.text]
    return bond_command(host, "create", wanted.name, *words)


def options_differ(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    wanted: dict[str, list[Setting]] = {}
    for desired in host.desired.of(bond.name):
        for name, setting in (*desired.options.items(), *((("mtu", desired.mtu),) if desired.mtu else ())):
            wanted.setdefault(name, []).append(setting)
    misplaced = {problem.source for problem in host.desired.problems if problem.kind == "option-misplaced"}
    lost = {
        name: settings[0]
        for name, settings in wanted.items()
        if settings[0].source not in misplaced and not any(_holds(bond, name, each.text) for each in settings)
    }
    if not lost:
        return
    pairs = [f"{name} is {_live(bond, name) or 'not set'}, not {setting.text}" for name, setting in lost.items()]
    files = sorted({setting.source.file for setting in lost.values()})
    untouched = "mode" in lost and _is_untouched(bond)
    tool = host.desired.of(bond.name)[0].tool
    yield Found(
        f"{bond.name} differs from {' and '.join(files)}: {'; '.join(pairs)}",
        tuple(command for name, setting in lost.items() for command in _commands(host, bond, name, setting.text)),
        f"this will happen again at the next boot: let {tool} create it, delete it before"
        f" ({bond_command(host, 'delete', bond.name)}) and load the driver with max_bonds=0"
        if untouched
        else "",
        why="It has the driver's defaults: it was there before its manager was, as when the module was loaded, which"
        f" makes a bond0 of its own, and {tool} kept it"
        if untouched
        else "",
    )


def _holds(bond: BondFacts, name: str, text: str) -> bool:
    """The kernel has what is wanted, cannot have it, or does not say."""
    if name == "mtu":
        return bond.device.mtu is None or not text.isdigit() or bond.device.mtu == int(text)
    if name == "primary":
        return "primary" in bond.snapshot.unknown or not text or bond.snapshot.primary in text.split()
    option = OPTIONS[name]
    if name in NOT_COMPARED or name not in bond.snapshot.options or bond.mode not in (*option.modes, None):
        return True
    if name == "fail_over_mac" and bond.is_infiniband:
        return True  # the driver forces active
    live = _live(bond, name)
    if option.kind in (Kind.TARGETS, Kind.TARGETS6):
        return set(live.split()) == set(text.split())
    if option.counted_in_runs and text.isdigit() and live.isdigit() and (run := bond.number("miimon")):
        return int(live) == int(text) // run * run
    return live == text


def _live(bond: BondFacts, name: str) -> str:
    """What is in force, in the words in which the files' settings are kept."""
    import ipaddress

    if name == "mtu":
        return str(bond.device.mtu)
    if name == "primary":
        return bond.snapshot.primary or ""
    value = bond.snapshot.options.get(name)
    if isinstance(value, tuple):
        return " ".join(str(ipaddress.ip_address(each)) for each in value)
    if isinstance(value, bytes):
        return value.hex(":")
    option = OPTIONS[name]
    return option.word_of(value) if isinstance(value, int) and option.shows_word else str(value)


def _is_untouched(bond: BondFacts) -> bool:
    """The options are those of a bond that nothing was set of."""
    values = bond.snapshot.options
    return bond.mode == Mode.BALANCE_RR and all(
        values.get(option.name, option.default) in (option.default, ())
        for option in OPTIONS.values()
        if option.kind in (Kind.VALUE, Kind.TARGETS) and option.has_file and option.name != "fail_over_mac"
    )


def _commands(host: HostFacts, bond: BondFacts, name: str, text: str) -> Iterator[str]:
    if name == "mtu":
        yield system_command(host, "ip", "link", "set", bond.name, "mtu", text)
    elif name == "primary":
        yield from (set_command(host, bond, name, word) for word in text.split()[:1])
    else:
        option = OPTIONS[name]
        interrupts = ("--interrupt",) if option.no_members or option.bond_down else ()
        yield set_command(host, bond, name, text, *interrupts)


def _problems(kind: str, host: HostFacts, bond: BondFacts) -> Iterator[Problem]:
    return (problem for problem in host.desired.problems if problem.kind == kind and problem.bond == bond.name)


def unknown_options(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    for problem in _problems("option-unknown", host, bond):
        yield Found(f"{problem.source}: {problem.what}", do=problem.fix)


def misplaced_options(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    for problem in _problems("option-misplaced", host, bond):
        meant = {
            name: setting.text
            for desired in host.desired.of(bond.name)
            for name, setting in desired.options.items()
            if setting.source == problem.source and not _holds(bond, name, setting.text)
        }
        run = tuple(command for name, text in meant.items() for command in _commands(host, bond, name, text))
        without = "; ".join(f"{bond.name} has {_live(bond, name) or 'no'} {name}" for name in meant)
        yield Found(f"{problem.source}: {problem.what}" + (f"; {without}" if without else ""), run, problem.fix)


def nothing(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    """Of a bond that is there: missing-bond is about those that are not (`missing_bonds`)."""
    return iter(())


E, W = Severity.ERROR, Severity.WARNING


def _file_rule(kind: str, severity: Severity, title: str, why: str) -> Rule:
    """A rule about what a file shows by itself; config/traps.py and the parsers look."""

    def look(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
        for problem in _problems(kind, host, bond):
            if kind == "mode-refused" and bond.mode == Mode.ACTIVE_BACKUP:
                continue  # the driver was loaded with that mode
            if kind == "delay-rounded":
                continue  # what is in force is compared, rounded
            yield Found(f"{problem.source}: {problem.what}", do=problem.fix)

    return Rule(kind, severity, title, why, look)


FILE_RULES = (
    Rule(
        "missing-bond",
        E,
        "A configured bond does not exist",
        "Its addresses are gone, and nothing restores them",
        nothing,
        "last_member_takes_bond",
    ),
    Rule(
        "option-differs",
        W,
        "A configured option is not in force",
        "The bond lacks the intended protection, and the next boot may change it again",
        options_differ,
    ),
    Rule(
        "option-misplaced",
        W,
        "A configured option is in a place where it is not read",
        "The tool ignores it without an error",
        misplaced_options,
    ),
    Rule(
        "option-unknown",
        W,
        "An option that does not exist, or an invalid value",
        "The tool or the driver ignores it, or rejects the whole bond at the next boot",
        unknown_options,
    ),
    _file_rule(
        "config-unreadable",
        E,
        "A configuration file that cannot be read",
        "Its tool passes it over, or fails at the next boot with all that it has to set up",
    ),
    _file_rule(
        "transport-ignored",
        W,
        "A transport mode that is not set",
        "The port stays in the mode that its driver gives it, and an MTU above 4092 is refused",
    ),
    _file_rule(
        "pkey-guid-invented",
        E,
        "A P_Key child with an invented port GUID",
        "Its joins and path queries name a port that the subnet does not have, so that it never gets a carrier",
    ),
    _file_rule(
        "pkey-name",
        E,
        "The name of a P_Key child that its tool refuses",
        "The bond comes up without that member",
    ),
    _file_rule(
        "pkey-impossible",
        E,
        "A P_Key that no partition has",
        "The kernel refuses to make the device",
    ),
    _file_rule(
        "member-becomes-ethernet",
        E,
        "An InfiniBand member that is taken for an Ethernet device",
        "The profile never matches the device, and the bond comes up without it",
    ),
    _file_rule(
        "member-dropped",
        E,
        "A member that is dropped on the way",
        "The bond comes up without it, or not at all",
    ),
    _file_rule(
        "infiniband-incomplete",
        E,
        "An InfiniBand interface without mode or P_Key",
        "The tool refuses the whole document",
    ),
    _file_rule(
        "mixed-members",
        E,
        "Members of different types",
        "The driver refuses those that are not of the first one's type",
    ),
    _file_rule(
        "member-of-two-bonds",
        E,
        "One device in two bonds",
        "The second bond that asks for it comes up without it",
    ),
    _file_rule(
        "primary-not-member",
        W,
        "A primary that is not a member",
        "The driver remembers the name and prefers nothing",
    ),
    _file_rule(
        "mode-refused",
        E,
        "A mode that InfiniBand members cannot have",
        "The driver refuses every InfiniBand member, and the bond carries nothing",
    ),
    _file_rule(
        "both-monitors",
        E,
        "Both link monitors at once",
        "A bond has one; which one it gets depends on the tool",
    ),
    _file_rule(
        "bare-number-is-seconds",
        W,
        "A number without a unit that stands for seconds",
        "A link is polled that many seconds apart, and a dead one is noticed as late",
    ),
    _file_rule(
        "zero-not-written",
        W,
        "A zero that is never written",
        "The default of the tool below counts instead",
    ),
    _file_rule(
        "delay-rounded",
        W,
        "A delay that is not a multiple of miimon",
        "The driver counts it in runs of the MII monitor",
    ),
    _file_rule(
        "option-not-read",
        W,
        "An option that this tool has no keyword for",
        "It is passed over without a word",
    ),
    _file_rule(
        "active-slave-is-primary",
        W,
        "active_slave that is taken for primary",
        "After a failure traffic goes back to it by itself, which active_slave of the driver does not do",
    ),
    _file_rule(
        "address-set",
        W,
        "A hardware address for a bond of InfiniBand members",
        "Their addresses cannot be set: the tool fails, or takes the members down while it tries",
    ),
    _file_rule(
        "mtu-impossible",
        E,
        "An MTU that IPoIB does not have",
        "The kernel refuses it, or the tool clamps it without a word",
    ),
    _file_rule(
        "gateway-off-link",
        W,
        "A gateway outside all networks of the bond",
        "The route is refused; NetworkManager adds a route to the gateway itself and warns that it will stop doing so",
    ),
    _file_rule(
        "address-malformed",
        E,
        "An address that cannot be read",
        "The tool passes it over or refuses the whole file",
    ),
)
