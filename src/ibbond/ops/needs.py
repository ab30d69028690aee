"""Which facts a rule needs, in words, and whether they are known of a host: unknown facts make the rule silent.

Read first: ops/facts.py, ops/rule.py. A name without a row here is a fact of the bond's snapshot: an option, `active`,
`up`. Facts of members (`member.link`) do not silence the rule for the other members. Left out: judging.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ibbond.bonding.options import OPTIONS
from ibbond.ops.facts import BondFacts, HostFacts, MemberFacts
from ibbond.ops.rule import Rule

HOST: dict[str, tuple[str, Callable[[HostFacts, BondFacts], bool]]] = {
    "release": ("the kernel's release", lambda host, bond: host.is_ours or host.version is not None),
    "routes": ("the routes", lambda host, bond: host.routes is not None),
    "addresses": ("the IP addresses", lambda host, bond: bond.device.addresses is not None),
    "mtu": ("its MTU", lambda host, bond: bond.device.mtu is not None),
    "flags": ("its flags", lambda host, bond: bond.device.flags is not None),
    "arp_ignore": ("the ARP sysctls", lambda host, bond: host.conf("ipv4", bond.name, "arp_ignore") is not None),
    "disable_ipv6": ("the IPv6 sysctls", lambda host, bond: host.conf("ipv6", bond.name, "disable_ipv6") is not None),
}
SNAPSHOT = {
    "up": "whether it is up",
    "type": "its type",
    "members": "its members",
    "active": "its active member",
    "address": "its hardware address",
    "broadcast": "its broadcast address",
}
MEMBER: dict[str, tuple[str, Callable[[MemberFacts], bool]]] = {
    "member.link": ("the link", lambda m: m.link is not None),
    "member.failures": ("the failure count", lambda m: "link_failure_count" not in m.bonding.unknown),
    "member.up": ("the state", lambda m: m.device.up is not None),
    "member.address": ("the hardware address", lambda m: len(m.address) in (6, 20)),
    "member.addresses": ("the IP addresses", lambda m: m.device.addresses is not None),
    "member.broadcast": ("the broadcast address", lambda m: bool(m.device.broadcast)),
    "member.mtu": ("the MTU", lambda m: m.device.mtu is not None),
    "member.transport": ("the transport mode", lambda m: m.device.transport is not None),
    "member.pkey": ("the P_Key", lambda m: m.device.pkey is not None),
    "member.pkeys": ("the P_Key table", lambda m: m.device.port is not None and m.device.port.pkeys is not None),
    "member.port": ("the port state", lambda m: m.device.port is not None and m.device.port.state is not None),
    "member.card": ("the adapter", lambda m: m.device.port is not None and m.device.port.card is not None),
    "member.switch": ("the switch", lambda m: m.device.port is not None and m.device.port.neighbor is not None),
    "member.rate": ("the rate", lambda m: m.device.speed is not None or bool(m.device.port and m.device.port.rate)),
}


@dataclass(frozen=True, slots=True)
class Unknown:
    """What is unknown about one bond: facts in words, and the ids of the rules that are silent for it."""

    facts: tuple[str, ...]
    rules: tuple[str, ...]


def is_silent(host: HostFacts, bond: BondFacts, rule: Rule) -> bool:
    """The rule cannot be asked: a fact of the bond or the host is not known."""
    return any(_lacks(host, bond, need) for need in rule.needs if need not in MEMBER) or (
        rule.infiniband and not bond.is_infiniband
    )


def unknown(host: HostFacts, bond: BondFacts, rules: Iterable[Rule]) -> Unknown:
    """What these rules lack. A lab knows everything; rules about InfiniBand lack nothing on an Ethernet bond."""
    facts: list[str] = []
    silent: list[str] = []
    if host.is_ours:
        return Unknown((), ())
    gone = [member.name for member in bond.members if member.is_missing]
    facts += [f"everything about {name} (the copy has no /sys/class/net/{name})" for name in gone]
    for rule in rules:
        lacking = list(_lacking(host, bond, rule, gone))
        facts += [fact for fact in lacking if fact not in facts]
        silent += [rule.id] if lacking else []
    return Unknown(_joined(facts), tuple(silent))


def _lacking(host: HostFacts, bond: BondFacts, rule: Rule, gone: list[str]) -> Iterable[str]:
    if rule.infiniband and not bond.is_infiniband:
        if "type" in bond.snapshot.unknown and not bond.members:
            yield "its type"
        return
    for need in rule.needs:
        if need in MEMBER:
            phrase, known = MEMBER[need]
            for member in bond.members:
                if member.name not in gone and not known(member):
                    yield f"{phrase} of {member.name}"
        elif _lacks(host, bond, need):
            yield HOST[need][0] if need in HOST else SNAPSHOT.get(need, need)


def _lacks(host: HostFacts, bond: BondFacts, need: str) -> bool:
    if need in HOST:
        return not HOST[need][1](host, bond)
    if need in OPTIONS and need not in ("primary", "active"):
        return need not in bond.snapshot.options
    return need in bond.snapshot.unknown


def _joined(facts: list[str]) -> tuple[str, ...]:
    """`the link of ib0`, `the link of ib1`, `the MTU of ib0`, ... become `the link and the MTU of ib0 and ib1`."""
    names: dict[str, list[str]] = {}
    for fact in facts:
        phrase, _, name = fact.rpartition(" of ")
        names.setdefault(phrase or fact, []).extend([name] if phrase else [])
    phrases: dict[str, list[str]] = {}
    for phrase, members in names.items():
        phrases.setdefault(" and ".join(members), []).append(phrase)
    alone = phrases.pop("", [])
    return (*alone, *(f"{_listed(each)} of {members}" for members, each in phrases.items()))


def _listed(phrases: list[str]) -> str:
    """`the link`, `the MTU`: the link and MTU."""
    first, *others = phrases
    words = [first, *(phrase.removeprefix("the ") for phrase in others)]
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))
