"""Rules about what is below the members: adapters, ports, cables, switches; what fails as one, and what is slow.

Read first: ops/rule.py; Documentation/ABI/stable/sysfs-class-infiniband. A port of link layer Ethernet (RoCE) has no
subnet and no subnet manager. Left out: members as devices (ops/rules_members.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ibbond.ops.facts import BondFacts, HostFacts, MemberFacts
from ibbond.ops.rule import Found, Rule, Severity, set_command

GID = slice(4, 20)  # of a 20-byte address


def port_not_active(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    for member in bond.members:
        port = member.device.port
        if port and port.is_infiniband and port.state not in (None, "ACTIVE") and member.link == "up":
            yield Found(
                f"{member.name} counts as up, but its InfiniBand port is {port.state}",
                do="Check that a subnet manager is running: ibstat, sminfo",
                member=member.name,
            )


def same_port(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    """By the port GID, or by the socket below two functions (virtual ones too) of an adapter."""
    seen: dict[object, MemberFacts] = {}
    for member in bond.members:
        for identity in _identities(member):
            other = seen.setdefault(identity, member)
            if other is not member:
                yield Found(
                    f"{other.name} and {member.name} are interfaces of one port ({_place(member)})",
                    do="Use a port with its own cable as second member",
                    member=member.name,
                )
                break


def _identities(member: MemberFacts) -> list[object]:
    found: list[object] = [member.address[GID]] if len(member.address) == 20 else []
    port = member.device.port
    return [*found, port.socket] if port is not None and port.socket is not None else found


def _place(member: MemberFacts) -> str:
    port = member.device.port
    if port is not None and port.adapter is not None:
        return f"adapter {port.adapter}, port {port.number}"
    return f"GID {member.address[GID].hex(':', 2)}" if len(member.address) == 20 else "one socket"


def one_adapter(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    cards = [member.device.port.card if member.device.port else None for member in bond.members]
    if len(cards) > 1 and None not in cards and len(set(cards)) == 1 and not any(same_port(host, bond)):
        names = ", ".join(member.name for member in bond.members)
        yield Found(
            f"all members of {bond.name} ({names}) are on one adapter, {cards[0]}",
            do="Use a port of another adapter as second member, or accept that the adapter is not redundant",
        )


def one_switch(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    switches = [member.device.port.neighbor if member.device.port else None for member in bond.members]
    if len(switches) > 1 and None not in switches and len(set(switches)) == 1 and not any(same_port(host, bond)):
        yield Found(
            f"all members of {bond.name} are cabled to one switch, {switches[0]}",
            do="Move a cable to another switch of the subnet",
        )


def unequal_rates(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    rates = {member.name: rate for member in bond.members if (rate := _rate(member)) is not None}
    if len({gigabits for gigabits, _ in rates.values()}) < 2:
        return
    slowest, fastest = (choose(rates, key=lambda name: rates[name][0]) for choose in (min, max))
    is_active = bond.snapshot.active == slowest
    uses = f"; {slowest} is the active one" if is_active else ""
    meanwhile = f"; meanwhile: {set_command(host, bond, 'primary', fastest)}" if is_active else ""
    yield Found(
        f"{slowest} runs at {rates[slowest][1]}, {fastest} at {rates[fastest][1]}{uses}",
        do=f"Look at the cable of {slowest} and at the width and speed of both ends (iblinkinfo, ethtool){meanwhile}",
        member=slowest,
    )


def _rate(member: MemberFacts) -> tuple[float, str] | None:
    """Gbit/s and text of a link that is up: a port that is down reports its lowest rate."""
    port, speed = member.device.port, member.device.speed
    if member.link not in ("up", None) or (port is not None and port.state not in (None, "ACTIVE")):
        return None
    if port is not None and port.rate and (found := re.match(r"[\d.]+", port.rate)):
        return float(found[0]), port.rate
    return (speed / 1000, f"{speed / 1000:g} Gb/s") if speed else None


E, W = Severity.ERROR, Severity.WARNING

PORT_RULES = (
    Rule(
        "port-not-active",
        E,
        "A member's InfiniBand port is not Active",
        "Without a link monitor, or with a driver that does not report carrier loss, the bond sends into a "
        "port that is dead",
        port_not_active,
        needs=("member.port", "member.link"),
        infiniband=True,
    ),
    Rule(
        "same-port",
        E,
        "Two members on one port",
        "They share one cable: when it fails, no member can take over",
        same_port,
        needs=("member.address",),
    ),
    Rule(
        "one-adapter",
        W,
        "All members on one adapter",
        "An adapter, its slot and its driver fail together, and the bond with them",
        one_adapter,
        needs=("member.card",),
    ),
    Rule(
        "one-switch",
        W,
        "All members are cabled to one switch",
        "If the switch fails, the bond fails",
        one_switch,
        needs=("member.switch",),
        infiniband=True,
    ),
    Rule(
        "unequal-rates",
        W,
        "Members of unequal speed",
        "A failover changes the speed of the host; a port that trains below what it can do has a bad cable",
        unequal_rates,
        needs=("member.rate",),
    ),
)
