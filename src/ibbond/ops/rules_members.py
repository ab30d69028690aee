"""Rules about members: are there two, are they alike, do they fail apart from each other?

Read first: ops/rule.py; `bond_setup_by_slave` in drivers/net/bonding for what a bond copies from its first member; RFC
4391 for P_Keys and subnets. Left out: options (ops/rules_options.py), ports and cables (ops/rules_ports.py), addresses
and routes (ops/rules_network.py).
"""

from __future__ import annotations

from collections.abc import Iterator

from ibbond.bonding.option import Mode
from ibbond.ops.facts import BondFacts, DeviceFacts, Expected, HostFacts, MemberFacts
from ibbond.ops.rule import Found, Rule, Severity, bond_command, set_command, system_command, write_command
from ibbond.ops.rules_kernel import create_command
from ibbond.topology.model import DATAGRAM_MTU
from ibbond.wire.hardware_type import INFINIBAND
from ibbond.wire.ipoib import CONNECTED_MTU
from ibbond.wire.pkey import FULL_MEMBER

SUBNET_PREFIX, GID = slice(4, 12), slice(4, 20)  # of the 20-byte address
ETHERNET_MTU = 1500
ONE_SUBNET = "Cable them to one subnet; two subnets that are separate on purpose need a bond each"
FROM_MODE = "balance-rr is what a bond starts with, and it does not accept InfiniBand members"


def one_member(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    count = len(bond.members)
    if count >= 2:
        return
    what = f"{bond.name} has {count} member{'' if count == 1 else 's'} ({bond.members[0].name if count else 'none'})"
    absent = absent_members(host, bond)
    if any(name in host.devices for name in absent):
        return  # missing-member says which one, and how
    free = free_devices(host, bond)[: 2 - count]
    if not free:
        others = f"; {', '.join(absent)} would be, but there is no such device" if absent else ""
        yield Found(what, do=f"Add a second device to this host{others}: {_add(host, bond, 'DEVICE')}")
        return
    run: tuple[str, ...] = (bond_command(host, "add", bond.name, *(device.name for device in free)),)
    wrong_mode = bond.mode not in (None, Mode.ACTIVE_BACKUP) and any(device.is_infiniband for device in free)
    if wrong_mode:
        run = (set_command(host, bond, "mode", "active-backup", "--interrupt"), *run)
    yield Found(what, run, why=FROM_MODE if wrong_mode and bond.mode == Mode.BALANCE_RR else "")


def free_devices(host: HostFacts, bond: BondFacts) -> list[DeviceFacts]:
    """InfiniBand devices that could join: unused, of the members' partition, each on a port of its own."""
    free = [
        device
        for device in host.devices.values()
        if device.is_infiniband
        and device.master is None
        and device.name not in host.bond_names
        and all(address.startswith("fe80:") for address in device.addresses or ())
    ]
    if any(member.device.type not in (INFINIBAND, None) for member in bond.members):
        return []
    keys = [member.device.pkey for member in bond.members] or [device.pkey for device in free]
    key = next((key | FULL_MEMBER for key in keys if key is not None), None)
    ports = {member.address[GID] for member in bond.members}
    chosen = []
    for device in free:
        if key in (None, (device.pkey or 0) | FULL_MEMBER) and device.hardware_address[GID] not in ports:
            ports.add(device.hardware_address[GID])
            chosen.append(device)
    return chosen


def absent_members(host: HostFacts, bond: BondFacts) -> dict[str, Expected]:
    """Members that the bond should have and has not, by name. A pattern that some member fits is content."""
    absent: dict[str, Expected] = {}
    for expected in bond.expected:
        match = expected.match
        if not match.is_known or any(match.fits(member.name, member.address) for member in bond.members):
            continue
        fitting = [name for name, device in host.devices.items() if match.fits(name, device.hardware_address)]
        for name in fitting[:1] or match.names[:1]:
            absent.setdefault(name, expected)
    return absent


def missing_member(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    for name, expected in absent_members(host, bond).items():
        device = host.devices.get(name)
        run: tuple[str, ...] = ()
        do = ""
        if host.devices and device is None:
            do = f"There is no device {name} on this host: load its driver, or correct {expected.source}"
        elif device is not None and device.master in host.bond_names:
            run = (bond_command(host, "remove", device.master or "", name), _add(host, bond, name))
        elif device is not None and device.master is not None:
            run = (system_command(host, "ip", "link", "set", name, "nomaster"), _add(host, bond, name))
        else:
            run = (_add(host, bond, name),)
        yield Found(
            f"{name} is not a member of {bond.name}", run, do, name, f"{expected.source} says that it should be"
        )


def bond_down(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    if not bond.snapshot.up and bond.members:
        yield Found(f"{bond.name} is set down", (system_command(host, "ip", "link", "set", bond.name, "up"),))


def no_active(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    uses_active = bond.mode is not None and bond.mode.uses_primary
    if bond.snapshot.up and bond.members and bond.snapshot.active is None and uses_active:
        links = ", ".join(f"{member.name} {member.link or 'unknown'}" for member in bond.members)
        yield Found(
            f"{bond.name} has no active member ({links})",
            do="Bring a member's link up: cables, port states, switch",
        )


PORT_ADVICE = {
    "INIT": "the cable is in; start a subnet manager (see sminfo)",
    "ARMED": "the subnet manager has not configured it yet; see its log",
    "DOWN": "check its cable, and that the port at the other end is on",
}


def member_down(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    for member in bond.members:
        device, port = member.device, member.device.port
        if device.up is False:
            run = (system_command(host, "ip", "link", "set", member.name, "up"),)
            yield Found(f"{member.name} is set down", run, member=member.name)
        elif device.carrier is False or member.link not in ("up", None):
            state = port.state if port and port.state else ""
            what = f"the link of {member.name} is {member.link or 'unknown'}"
            what += " and it has no carrier" if device.carrier is False else ""
            yield Found(what, do=_cure(bond, member, state), member=member.name, why=_port_state(member))


def _cure(bond: BondFacts, member: MemberFacts, state: str) -> str:
    """What a person does about a member that is down; no command plugs a cable in."""
    if member.link == "going back" and member.device.carrier is not False:
        return f"Wait: it is used once its carrier has been there for updelay, {bond.number('updelay')} ms"
    if member.device.carrier and bond.number("arp_interval"):
        return "Its carrier is there, but no ARP target answers through it: check the switch behind it and the targets"
    if state in PORT_ADVICE and member.device.carrier is False:
        return f"Its port is {state}: {PORT_ADVICE[state]}"
    return "Check cable, port state (ibstat) and subnet manager" if bond.is_infiniband else "Check cable and switch"


def _port_state(member: MemberFacts) -> str:
    port = member.device.port
    if port is None or port.state is None:
        return ""
    return f"Its port is {port.state}" + (f" ({port.phys_state})" if port.phys_state else "")


def flapping(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    for member in bond.members:
        failures = member.bonding.link_failure_count
        if failures > host.failures_allowed:
            changes = member.device.carrier_changes
            again = f"{bond_command(host, 'remove', bond.name, member.name)} && {_add(host, bond, member.name)}"
            yield Found(
                f"the link of {member.name} has failed {failures} times",
                do="Check the cable and the port's error counters (perfquery), or raise updelay; the count starts"
                f" again when the member has left and joined: {again}",
                member=member.name,
                why=f"Its carrier has changed {changes} times" if changes else "",
            )


def pkeys(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    keys = {member.name: member.device.pkey for member in bond.members if member.device.pkey is not None}
    if len({key | FULL_MEMBER for key in keys.values()}) > 1:
        text = ", ".join(f"{name} 0x{key:04x}" for name, key in keys.items())
        own = bond.snapshot.broadcast[8:10] or bond.members[0].device.broadcast[8:10]
        others = [name for name, key in keys.items() if own and key | FULL_MEMBER != int.from_bytes(own) | FULL_MEMBER]
        yield Found(
            f"the members of {bond.name} are in different partitions ({text})",
            (bond_command(host, "remove", bond.name, *others),) if 0 < len(others) < len(keys) else (),
            "use members of one P_Key: partition children (ib0.8001, ib1.8001) or the ports' own devices, not both",
        )
        return
    full = {member.name: _is_full(member) for member in bond.members}
    known = {name: value for name, value in full.items() if value is not None}
    if len(set(known.values())) > 1:
        text = ", ".join(f"{name} {'full' if value else 'limited'}" for name, value in known.items())
        yield Found(
            f"the members of {bond.name} are full and limited members of their partition ({text})",
            do="Make the ports alike in the subnet manager's partition configuration",
            why="Two limited members cannot communicate: which peers are reachable changes with a failover",
        )


def _is_full(member: MemberFacts) -> bool | None:
    """By the port's table: IPoIB shows the full-member bit in its own `pkey` whatever the port has."""
    key, port = member.device.pkey, member.device.port
    if key is None:
        return None
    if not key & FULL_MEMBER:
        return False
    if port is None or port.pkeys is None or key & ~FULL_MEMBER not in {entry & ~FULL_MEMBER for entry in port.pkeys}:
        return None
    return key in port.pkeys


def transports(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    modes = {member.name: member.device.transport for member in bond.members if member.device.transport}
    if len(set(modes.values())) > 1:
        wanted = modes.get(bond.snapshot.active or "") or next(iter(modes.values())) or ""
        text = ", ".join(f"{name} {mode}" for name, mode in modes.items())
        yield Found(
            f"the members of {bond.name} differ in transport mode ({text})",
            tuple(
                write_command(host, f"/sys/class/net/{name}/mode", wanted)
                for name, mode in modes.items()
                if mode != wanted
            ),
        )


def mtu_left(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    if bond.device.mtu != ETHERNET_MTU:
        return
    best = _carried(bond)
    modes = {member.device.transport for member in bond.members}
    yield Found(
        f"the MTU of {bond.name} is {ETHERNET_MTU}, Ethernet's",
        (system_command(host, "ip", "link", "set", bond.name, "mtu", str(best)),),
        why=f"Its members carry {best}" + (" in connected mode" if modes == {"connected"} else ""),
    )


def _carried(bond: BondFacts) -> int:
    """What every member of a bond at 1500 carries: their own MTUs, unless they are the bond's 1500 as well."""
    mtus = [member.device.mtu for member in bond.members if member.device.mtu is not None]
    if mtus and min(mtus) > ETHERNET_MTU:
        return min(mtus)
    connected = bool(bond.members) and all(member.device.transport == "connected" for member in bond.members)
    return CONNECTED_MTU if connected else DATAGRAM_MTU


def member_mtus(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    """The smaller number is right where the larger is not carried; a bond at Ethernet's 1500 is mtu-left-over."""
    own = bond.device.mtu
    mtus = {member.name: member.device.mtu for member in bond.members if member.device.mtu is not None}
    left_over = own == ETHERNET_MTU and bond.type in (INFINIBAND, None)
    if own is None or left_over or set(mtus.values()) <= {own}:
        return
    text = ", ".join(f"{name} {mtu}" for name, mtu in mtus.items())
    smallest = min(mtus.values())
    if smallest == own:  # setting the bond to what it has is not passed on to its members
        commands = tuple(
            system_command(host, "ip", "link", "set", name, "mtu", str(own)) for name, mtu in mtus.items() if mtu != own
        )
    else:
        commands = (system_command(host, "ip", "link", "set", bond.name, "mtu", str(smallest)),)
    yield Found(
        f"the MTU of {bond.name} is {own}, but its members differ ({text})",
        commands,
        "this also sets that of the members" if smallest != own else "",
    )


def subnets(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    members = [member for member in bond.members if len(member.address) == 20]
    prefixes = {member.name: member.address[SUBNET_PREFIX] for member in members}
    if len(set(prefixes.values())) > 1:
        text = ", ".join(f"{name} {prefix.hex(':', 2)}" for name, prefix in prefixes.items())
        yield Found(f"the members of {bond.name} are in different InfiniBand subnets ({text})", do=ONE_SUBNET)
        return
    ports = {member.name: member.device.port for member in bond.members}
    managers = {name: port.sm_lid for name, port in ports.items() if port and port.is_infiniband and port.sm_lid}
    if len(set(managers.values())) > 1:
        text = ", ".join(f"{name} LID {lid}" for name, lid in managers.items())
        yield Found(f"the members of {bond.name} have different subnet managers ({text})", do=ONE_SUBNET)


def stale_broadcast(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    """A member of another partition is pkey-differs; here the bond itself is behind."""
    keys = {member.device.pkey for member in bond.members if member.device.pkey is not None}
    if bond.snapshot.type != INFINIBAND or len({key | FULL_MEMBER for key in keys}) > 1:
        return
    stale = [m for m in bond.members if m.device.broadcast and m.device.broadcast != bond.snapshot.broadcast]
    if stale:  # a bond that stays InfiniBand keeps its broadcast address, whatever leaves and joins
        yield Found(
            f"the broadcast address of {bond.name} is not that of {', '.join(member.name for member in stale)}",
            (bond_command(host, "delete", bond.name), create_command(host, bond)),
            "this interrupts its traffic, and its routes go",
            stale[0].name,
            f"{bond.snapshot.broadcast.hex(':')} and {stale[0].device.broadcast.hex(':')}",
        )


def stale_address(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    active = bond.member(bond.snapshot.active)
    if active is None or bond.number("fail_over_mac") != 1:
        return
    if active.device.hardware_address and active.device.hardware_address != bond.snapshot.address:
        other = next((m.name for m in bond.members if m.link == "up" and m.name != active.name), None)
        yield Found(
            f"{bond.name} does not have the address of its active member {active.name}",
            (bond_command(host, "switch", bond.name, other), bond_command(host, "switch", bond.name, active.name))
            if other
            else (bond_command(host, "remove", bond.name, active.name), _add(host, bond, active.name)),
            "" if other else "this interrupts its traffic",
            active.name,
            f"{bond.snapshot.address.hex(':')} and {active.device.hardware_address.hex(':')}",
        )


def same_addresses(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    seen: dict[bytes, str] = {}
    for member in bond.members:
        address = member.device.hardware_address
        if address and address in seen and bond.number("fail_over_mac") == 2:
            yield Found(
                f"{member.name} and {seen[address]} have the same hardware address",
                (set_command(host, bond, "fail_over_mac", "active", "--interrupt"),),
                member=member.name,
            )
        seen.setdefault(address, member.name)


def forgotten_identity(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    if bond.snapshot.type == INFINIBAND and not bond.members and any(bond.snapshot.address[6:]):
        free = [device.name for device in free_devices(host, bond)][:2]
        yield Found(
            f"{bond.name} has no members but still the port GID of one ({bond.snapshot.address[4:].hex(':', 2)})",
            (bond_command(host, "add", bond.name, *free) if free else bond_command(host, "delete", bond.name),),
        )


def _add(host: HostFacts, bond: BondFacts, name: str) -> str:
    return bond_command(host, "add", bond.name, name)


E, W = Severity.ERROR, Severity.WARNING

MEMBER_RULES = (
    Rule(
        "one-member",
        E,
        "Fewer than two members",
        "With one member nothing can take over when it fails",
        one_member,
        needs=("members",),
    ),
    Rule(
        "missing-member",
        E,
        "A configured member is missing",
        "The bond has less redundancy than planned; devices that appear late at boot are a common cause",
        missing_member,
        needs=("members",),
    ),
    Rule(
        "bond-down",
        E,
        "The bond is down",
        "A bond that is down carries nothing and monitors no links",
        bond_down,
        needs=("up",),
    ),
    Rule(
        "no-active-member",
        E,
        "No active member",
        "Everything sent through the bond is dropped",
        no_active,
        needs=("mode", "active", "up", "members"),
    ),
    Rule(
        "member-down",
        E,
        "A member is down",
        "It cannot take over: the next failure of the others is an outage",
        member_down,
        needs=("member.link", "member.up"),
    ),
    Rule(
        "member-flaps",
        W,
        "A member's link fails again and again",
        "Each failure of the active member loses traffic, and each return may move the traffic back",
        flapping,
        needs=("member.failures",),
    ),
    Rule(
        "pkey-differs",
        E,
        "Members in different partitions",
        "The bond's broadcast address has the P_Key of its first member; after a failover to one of another partition"
        " neither groups nor peers can be reached",
        pkeys,
        "unlike_members_accepted",
        needs=("member.pkey", "member.pkeys"),
        infiniband=True,
    ),
    Rule(
        "transport-mode-differs",
        E,
        "Members in different transport modes",
        "A datagram member cannot carry the MTU of connected mode: large packets vanish after a failover",
        transports,
        needs=("member.transport",),
        infiniband=True,
    ),
    Rule(
        "mtu-left-over",
        W,
        "MTU 1500 left over from Ethernet",
        "A bond starts with 1500 and applies it to its InfiniBand members: more packets than necessary, and slow",
        mtu_left,
        needs=("mtu",),
        infiniband=True,
    ),
    Rule(
        "member-mtu-differs",
        E,
        "A member's MTU is not the bond's",
        "The driver does not follow a member's MTU: packets that fit one member are dropped by another",
        member_mtus,
        needs=("mtu", "member.mtu"),
    ),
    Rule(
        "subnet-differs",
        E,
        "Members in different subnets",
        "A failover moves the bond to a subnet where its peers are not",
        subnets,
        needs=("member.address",),
        infiniband=True,
    ),
    Rule(
        "broadcast-stale",
        E,
        "The bond's broadcast address is not its members'",
        "It was copied from the first member and is never updated; all group addresses are derived from it",
        stale_broadcast,
        "unlike_members_accepted",
        needs=("broadcast", "member.broadcast"),
        infiniband=True,
    ),
    Rule(
        "address-stale",
        E,
        "The bond's hardware address is not its active member's",
        "Peers send to the old queue pair; the driver does not notice when a member changes its address",
        stale_address,
        "member_address_ignored",
        needs=("address", "active", "fail_over_mac"),
    ),
    Rule(
        "same-address",
        E,
        "Two members with the same hardware address",
        "Switches send the traffic of both to the one that sent last",
        same_addresses,
        "follow_gives_duplicates",
        needs=("fail_over_mac",),
    ),
    Rule(
        "identity-left-over",
        W,
        "A bond without members shows a port that it no longer has",
        "Its address names a port GID that may be in use elsewhere",
        forgotten_identity,
        "random_address_of_six",
        needs=("type", "members", "address"),
    ),
)
