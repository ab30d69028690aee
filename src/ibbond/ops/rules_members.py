"""Rules about members: are there two, are they alike, do they fail apart from each other?

Read first: ops/rule.py; `bond_setup_by_slave` in drivers/net/bonding for what a bond copies from its first member; RFC
4391 for P_Keys and subnets. Left out: options (ops/rules_options.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ibbond.ops.facts import BondFacts, HostFacts, MemberFacts
from ibbond.ops.rule import Found, Rule, Severity
from ibbond.wire.hardware_type import INFINIBAND
from ibbond.wire.pkey import FULL_MEMBER

SUBNET_PREFIX = slice(4, 12)  # of the 20-byte address
ONE_SUBNET = "Cable them to one subnet; two subnets that are separate on purpose need a bond each"


def one_member(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    count = len(bond.members)
    if count < 2:
        names = bond.members[0].name if count else "none"
        yield Found(f"{bond.name} has {count} member{'' if count == 1 else 's'} ({names})", f"Add one: {_add(bond)}")


def missing_member(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    present = {member.name for member in bond.members}
    for name in bond.expected or ():
        if name not in present:
            yield Found(
                f"{name} is not a member of {bond.name}",
                f"ibbond bond add {bond.name} {name}",
                name,
                f"{bond.expected_from} says that it should be",
            )


def bond_down(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    if not bond.snapshot.up and bond.members:
        yield Found(f"{bond.name} is set down", f"ip link set {bond.name} up")


def no_active(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    if bond.snapshot.up and bond.members and bond.snapshot.active is None and _has_active(bond):
        links = ", ".join(f"{member.name} {member.bonding.link}" for member in bond.members)
        yield Found(
            f"{bond.name} has no active member ({links})", "Bring a member's link up: cables, port states, switch"
        )


def member_down(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    for member in bond.members:
        device = member.device
        if not device.up:
            yield Found(f"{member.name} is set down", f"ip link set {member.name} up", member.name)
        elif device.carrier is False or member.bonding.link != "up":
            state = f"its port is {device.port.state}" if device.port and device.port.state else ""
            yield Found(
                f"the link of {member.name} is {member.bonding.link}"
                + ("" if device.carrier is not False else " and it has no carrier"),
                "Check cable, port state (ibstat) and subnet manager",
                member.name,
                state,
            )


def port_not_active(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    for member in bond.members:
        port = member.device.port
        if port and port.state not in (None, "ACTIVE") and member.bonding.link == "up":
            yield Found(
                f"{member.name} counts as up, but its InfiniBand port is {port.state}",
                "Is a subnet manager running? See ibstat and sminfo",
                member.name,
            )


def one_adapter(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    cards = [member.device.port.card if member.device.port else None for member in bond.members]
    if len(cards) > 1 and None not in cards and len(set(cards)) == 1:
        names = ", ".join(member.name for member in bond.members)
        yield Found(
            f"all members of {bond.name} ({names}) are on one adapter, {cards[0]}",
            "Use a port of another adapter as second member, or accept that the adapter is not doubled",
        )


def one_switch(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    switches = [member.device.port.neighbor if member.device.port else None for member in bond.members]
    if len(switches) > 1 and None not in switches and len(set(switches)) == 1:
        yield Found(
            f"all members of {bond.name} end at one switch, {switches[0]}",
            "Move a cable to another switch of the subnet",
        )


def flapping(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    for member in bond.members:
        failures = member.bonding.link_failure_count
        if failures > host.failures_allowed:
            changes = member.device.carrier_changes
            counted = f"its carrier has changed {changes} times" if changes else ""
            yield Found(
                f"the link of {member.name} has failed {failures} times",
                "Look at the cable and the port's error counters (perfquery), or raise updelay; the count starts anew"
                " when the member leaves and joins again",
                member.name,
                counted,
            )


def pkeys(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    keys = {member.name: member.device.pkey for member in bond.members if member.device.pkey is not None}
    if len({key | FULL_MEMBER for key in keys.values()}) > 1:
        text = ", ".join(f"{name} 0x{key:04x}" for name, key in keys.items())
        yield Found(
            f"the members of {bond.name} are in different partitions ({text})",
            "Use members of one P_Key: partition children (ib0.8001, ib1.8001) or the ports' own devices, not both",
        )
    elif len(set(keys.values())) > 1:
        text = ", ".join(f"{name} 0x{key:04x}" for name, key in keys.items())
        yield Found(
            f"the members of {bond.name} are full and limited members of their partition ({text})",
            "Make the ports alike in the subnet manager's partition configuration",
            why="Two limited members cannot talk to each other: who can be reached changes with a failover",
        )


def transports(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    modes = {member.name: member.device.transport for member in bond.members if member.device.transport}
    if len(set(modes.values())) > 1:
        text = ", ".join(f"{name} {mode}" for name, mode in modes.items())
        yield Found(
            f"the members of {bond.name} differ in transport mode ({text})",
            "Write the same word (datagram or connected) to /sys/class/net/MEMBER/mode of each",
        )


def member_mtus(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    for member in bond.members:
        if member.device.mtu != bond.device.mtu:
            yield Found(
                f"{member.name} has MTU {member.device.mtu}, {bond.name} has {bond.device.mtu}",
                f"ip link set {bond.name} mtu {min(member.device.mtu, bond.device.mtu)} (it sets the members' too)",
                member.name,
            )


def subnets(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    members = [member for member in bond.members if member.device.type == INFINIBAND and len(_own(member)) == 20]
    prefixes = {member.name: _own(member)[SUBNET_PREFIX] for member in members}
    if len(set(prefixes.values())) > 1:
        text = ", ".join(f"{name} {prefix.hex(':', 2)}" for name, prefix in prefixes.items())
        yield Found(f"the members of {bond.name} are in different InfiniBand subnets ({text})", ONE_SUBNET)
        return
    ports = {member.name: member.device.port for member in bond.members}
    managers = {name: port.sm_lid for name, port in ports.items() if port is not None and port.sm_lid}
    if len(set(managers.values())) > 1:
        text = ", ".join(f"{name} LID {lid}" for name, lid in managers.items())
        yield Found(f"the members of {bond.name} have different subnet managers ({text})", ONE_SUBNET)


def stale_broadcast(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    if not bond.is_infiniband or bond.snapshot.type != INFINIBAND:
        return
    for member in bond.members:
        if member.device.broadcast and member.device.broadcast != bond.snapshot.broadcast:
            yield Found(
                f"the broadcast address of {bond.name} is not that of {member.name}",
                f"Take all members out of {bond.name} and add them again",
                member.name,
                f"{bond.snapshot.broadcast.hex(':')} and {member.device.broadcast.hex(':')}",
            )


def stale_address(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    active = next((member for member in bond.members if member.name == bond.snapshot.active), None)
    if active is None or bond.number("fail_over_mac") != 1:
        return
    if active.device.hardware_address != bond.snapshot.address:
        yield Found(
            f"{bond.name} does not have the address of its active member {active.name}",
            f"Switch to another member and back: ibbond bond switch {bond.name}",
            active.name,
            f"{bond.snapshot.address.hex(':')} and {active.device.hardware_address.hex(':')}",
        )


def member_addresses(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    for member in bond.members:
        own = [address for address in member.device.addresses if not address.startswith("fe80:")]
        if own:
            yield Found(
                f"{member.name} has an IP address of its own ({', '.join(own)})",
                f"ip addr flush dev {member.name}",
                member.name,
            )


def same_addresses(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    seen: dict[bytes, str] = {}
    for member in bond.members:
        address = member.device.hardware_address
        if address in seen and bond.number("fail_over_mac") == 2:
            yield Found(
                f"{member.name} and {seen[address]} have the same hardware address",
                "Give one of them its own address, or use fail_over_mac active",
                member.name,
            )
        seen.setdefault(address, member.name)


def forgotten_identity(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    if bond.snapshot.type == INFINIBAND and not bond.members and any(bond.snapshot.address[6:]):
        yield Found(
            f"{bond.name} has no members but still the port GID of one ({bond.snapshot.address[4:].hex(':', 2)})",
            f"Add members, or delete it: ibbond bond delete {bond.name}",
        )


def _add(bond: BondFacts) -> str:
    return f"ibbond bond add {bond.name} MEMBER"


def _has_active(bond: BondFacts) -> bool:
    return bond.number("mode") in (1, 5, 6)


def _own(member: MemberFacts) -> bytes:
    return member.bonding.permanent_address or member.device.hardware_address


Look = Callable[[HostFacts, BondFacts], Iterator[Found]]
E, W = Severity.ERROR, Severity.WARNING

MEMBER_RULES = (
    Rule("one-member", E, "Fewer than two members", "With one member nothing can take over when it fails", one_member),
    Rule(
        "missing-member",
        E,
        "A configured member is missing",
        "The bond has less redundancy than was planned; devices that appear late at boot are a common cause",
        missing_member,
    ),
    Rule("bond-down", E, "The bond is set down", "A bond that is down carries nothing and watches no links", bond_down),
    Rule("no-active-member", E, "No active member", "Everything sent through the bond is dropped", no_active),
    Rule(
        "member-down",
        E,
        "A member is down",
        "It cannot take over: the next failure of the others is an outage",
        member_down,
    ),
    Rule(
        "port-not-active",
        E,
        "A member's InfiniBand port is not Active",
        "Without a link monitor, or with a driver that keeps its carrier, the bond sends into a port that is dead",
        port_not_active,
    ),
    Rule(
        "one-adapter",
        W,
        "All members on one adapter",
        "An adapter, its slot and its driver fail as one: the bond does not outlive them",
        one_adapter,
    ),
    Rule(
        "one-switch",
        W,
        "All members end at one switch",
        "The switch fails as one: the bond does not outlive it",
        one_switch,
    ),
    Rule(
        "member-flaps",
        W,
        "A member's link fails again and again",
        "Each failure of the active member costs traffic, and each return may move it back",
        flapping,
    ),
    Rule(
        "pkey-differs",
        E,
        "Members in different partitions",
        "The bond's broadcast address has the P_Key of its first member; after a failover to one of another partition"
        " neither groups nor peers can be reached",
        pkeys,
        "unlike_members_accepted",
    ),
    Rule(
        "transport-mode-differs",
        E,
        "Members in different transport modes",
        "A datagram member cannot carry the MTU of connected mode: large packets vanish after a failover",
        transports,
    ),
    Rule(
        "member-mtu-differs",
        E,
        "A member's MTU is not the bond's",
        "The driver does not follow a member's MTU: packets that fit one member are dropped by another",
        member_mtus,
    ),
    Rule(
        "subnet-differs",
        E,
        "Members in different subnets",
        "A failover moves the bond into another subnet, in which its peers are not",
        subnets,
    ),
    Rule(
        "broadcast-stale",
        E,
        "The bond's broadcast address is not its members'",
        "It was copied from the first member once and is never refreshed; all group addresses are made from it",
        stale_broadcast,
        "unlike_members_accepted",
    ),
    Rule(
        "address-stale",
        E,
        "The bond's hardware address is not its active member's",
        "Peers send to the old queue pair; the driver does not notice when a member changes its address",
        stale_address,
        "member_address_ignored",
    ),
    Rule(
        "member-has-address",
        W,
        "A member has an IP address of its own",
        "Its route competes with the bond's, and what goes that way does not fail over",
        member_addresses,
    ),
    Rule(
        "same-address",
        E,
        "Two members with the same hardware address",
        "Switches send the traffic of both to whichever spoke last",
        same_addresses,
        "follow_gives_duplicates",
    ),
    Rule(
        "identity-left-over",
        W,
        "A bond without members shows a port that it no longer has",
        "Its address names a port GID that may be in use elsewhere",
        forgotten_identity,
        "random_address_of_six",
    ),
)
