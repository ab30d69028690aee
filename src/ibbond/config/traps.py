"""Traps that configuration files show by themselves: what their tool or the driver drops, refuses or takes otherwise.

Read first: desired.py; docs/checks.md, which has a section for each id. Traps that one line of a file shows are found
by the parser of its format; here are those that need the whole state. Left out: the live host (ops/rules_files.py).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator

from ibbond.bonding.options import OPTIONS
from ibbond.config import bonds_toml, cloud_init, ifcfg, ifupdown, netplan, networkd, networkmanager, nmstate
from ibbond.config.desired import Desired, DesiredBond, DesiredMember, Problem, Source
from ibbond.config.fields import identity, label
from ibbond.wire.ipoib import CONNECTED_MTU

DEFAULTS_TO_NOTHING = (  # tools that set no monitor where none is asked for; the others' default is miimon 100
    *(networkd.TOOL, netplan.TOOL, ifupdown.TOOL, nmstate.TOOL, cloud_init.TOOL, bonds_toml.TOOL),
)
MAX_DATAGRAM_MTU = 4092
LIMITED = (0x0000, 0x8000)  # no partition has these keys

Trap = Callable[[Desired, DesiredBond], Iterator[Problem]]


def traps(desired: Desired) -> list[Problem]:
    """All of them, those of the parsers first."""
    found = list(desired.problems)
    for bond in desired.bonds:
        for trap in TRAPS:
            found += trap(desired, bond)
    for child in desired.children:
        found += of_device(child, "")
    return list(dict.fromkeys(found))


def is_infiniband(device: DesiredMember) -> bool:
    """Whether a file shows it: by a setting that others cannot have, or a name that only IPoIB gives."""
    if device.ethernet:
        return False
    return bool(
        device.pkey is not None
        or device.transport
        or len(device.match.address) in (8, 20)
        or device.match.name.startswith("ib")
    )


def has_infiniband(bond: DesiredBond) -> bool:
    return any(is_infiniband(member) for member in bond.members)


def value(bond: DesiredBond, option: str) -> str:
    return bond.options[option].text if option in bond.options else ""


def number(text: str) -> int:
    return int(text) if text.isdecimal() else 0


def monitors(desired: Desired, bond: DesiredBond) -> Iterator[Problem]:
    miimon, interval = number(value(bond, "miimon")), number(value(bond, "arp_interval"))
    if miimon and interval:
        source = bond.options["arp_interval"].source
        what = f"{bond.name} has both monitors, miimon {miimon} and arp_interval {interval}: {BOTH[bond.tool]}"
        yield Problem("both-monitors", source, what, "Keep one of them", bond.name)
    elif not miimon and not interval and bond.is_defined and bond.tool in DEFAULTS_TO_NOTHING:
        what = f"{bond.name} has no link monitor, and {bond.tool} sets none by itself"
        yield Problem("no-link-monitor", bond.source, what, "Set miimon to 100", bond.name)
    if interval and not value(bond, "arp_ip_target") and not value(bond, "ns_ip6_target"):
        what = f"{bond.name} has an ARP monitor without targets"
        yield Problem("no-arp-targets", bond.options["arp_interval"].source, what, "Add arp_ip_target", bond.name)


class _Both(dict[str, str]):
    def __missing__(self, tool: str) -> str:
        return "the driver keeps the one that is written last"


BOTH = _Both(
    {
        networkmanager.TOOL: "NetworkManager drops arp_interval and arp_ip_target without a word",
        ifcfg.SUSE: "wicked refuses the bond",
        bonds_toml.TOOL: "a bond has one of them",
    }
)


def modes(desired: Desired, bond: DesiredBond) -> Iterator[Problem]:
    mode = value(bond, "mode")
    if bond.is_defined and has_infiniband(bond) and mode != "active-backup" and bond.tool != "openibd":
        asked = f"mode {mode}" if mode else "no mode, which is balance-rr"
        what = f"{bond.name} has {asked}: InfiniBand devices can be members in active-backup only"
        source = bond.options["mode"].source if mode else bond.source
        yield Problem("mode-refused", source, what, "Set mode to active-backup", bond.name)
    policy = value(bond, "fail_over_mac")
    if policy and policy != "active" and has_infiniband(bond):
        what = f"fail_over_mac {policy} cannot hold: InfiniBand members force active"
        source = bond.options["fail_over_mac"].source
        yield Problem("fail-over-mac", source, what, "Set it to active, or leave it out", bond.name)
    if bond.hardware_address and has_infiniband(bond):
        what = f"{bond.name} is to get the address {bond.hardware_address.text}: InfiniBand devices take none"
        yield Problem("address-set", bond.hardware_address.source, what, "Leave it out", bond.name)


def delays(desired: Desired, bond: DesiredBond) -> Iterator[Problem]:
    miimon = number(value(bond, "miimon"))
    for name, setting in bond.options.items():
        delay = number(setting.text)
        if OPTIONS[name].counted_in_runs and miimon and delay % miimon:
            lower = delay // miimon * miimon
            what = f"{name} {delay} is not a multiple of miimon {miimon}: the driver makes it {lower}"
            yield Problem("delay-rounded", setting.source, what, f"Set it to {lower + miimon}", bond.name)


def members(desired: Desired, bond: DesiredBond) -> Iterator[Problem]:
    kinds = {is_infiniband(member) for member in bond.members if member.ethernet or is_infiniband(member)}
    if len(kinds) > 1:
        what = f"{bond.name} has InfiniBand and Ethernet members: the driver takes one type"
        yield Problem("mixed-members", bond.source, what, "Use two bonds", bond.name)
    for member in bond.members:
        others = [
            other.name
            for other in desired.bonds
            if other is not bond and other.tool == bond.tool and other.name != bond.name
            for each in other.members
            if identity(each) == identity(member)
        ]
        if others:
            what = f"{label(member)} is a member of {bond.name} and of {', '.join(others)}"
            yield Problem("member-of-two-bonds", member.source, what, "Keep it in one of them", bond.name)
        yield from of_device(member, bond.name)
    primary = value(bond, "primary").split()
    names = {name for member in bond.members for name in (*member.match.names, label(member))}
    if primary and names and all(member.match.name for member in bond.members) and not names & set(primary):
        what = f"the primary {' '.join(primary)} is not a member of {bond.name}"
        yield Problem("primary-not-member", bond.options["primary"].source, what, "Name a member", bond.name)


def of_device(device: DesiredMember, bond: str) -> Iterator[Problem]:
    """Traps of one device, in a bond or in none."""
    if device.invented_guid:
        what = f"networkd invents a port GUID for {label(device)}, which no port of the subnet has"
        yield Problem("pkey-guid-invented", device.source, what, "Write MACAddress=none below [NetDev]", bond)
    if device.pkey is not None and (device.pkey in LIMITED or device.pkey > 0xFFFF):
        what = f"P_Key {device.pkey:#06x} of {label(device)} does not belong to any partition"
        yield Problem("pkey-impossible", device.source, what, "Write the key of a partition, 0x8001 to 0xffff", bond)
    if device.transport_ignored and device.transport:
        what = f"the transport mode {device.transport.text} of {label(device)} is not set: {device.transport_ignored}"
        path = f"/sys/class/net/{label(device)}/mode"
        fix = f"Set it by a service before the bond is made: echo {device.transport.text} > {path}"
        yield Problem("transport-ignored", device.transport.source, what, fix, bond)


def mtus(desired: Desired, bond: DesiredBond) -> Iterator[Problem]:
    for setting, devices in [(bond.mtu, bond.members), *((member.mtu, [member]) for member in bond.members)]:
        mtu = number(setting.text) if setting else 0
        in_datagram = devices and all(each.transport and each.transport.text == "datagram" for each in devices)
        limit = MAX_DATAGRAM_MTU if in_datagram else CONNECTED_MTU
        if setting and mtu > limit and has_infiniband(bond):
            mode = " in datagram mode" if in_datagram else ""
            what = f"MTU {mtu} is more than the {limit} of IPoIB{mode}"
            yield Problem("mtu-impossible", setting.source, what, f"Set it to {limit} or less", bond.name)


def gateways(desired: Desired, bond: DesiredBond) -> Iterator[Problem]:
    networks = []
    for setting in bond.addresses:
        try:
            networks.append(ipaddress.ip_interface(setting.text).network)
        except ValueError:
            yield _not_an_address(setting.text, setting.source, bond.name)
    for route in bond.routes:
        try:
            via = ipaddress.ip_address(route.via)
            if route.to != "default":
                ipaddress.ip_network(route.to)
        except ValueError:
            yield _not_an_address(f"{route.to} via {route.via}", route.source, bond.name)
            continue
        same = [network for network in networks if network.version == via.version]
        if same and not via.is_link_local and not any(via in network for network in same) and not bond.dhcp:
            what = f"the gateway {via} is in none of the networks of {bond.name}"
            fix = "Correct it, or add an address of its network"
            yield Problem("gateway-off-link", route.source, what, fix, bond.name)


def _not_an_address(text: str, source: Source, bond: str) -> Problem:
    return Problem("address-malformed", source, f"{text!r} is not an address", "Write for example 10.0.0.1/24", bond)


TRAPS: tuple[Trap, ...] = (monitors, modes, delays, members, mtus, gateways)
