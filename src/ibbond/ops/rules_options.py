"""Rules about options: values that leave failures unseen, peers untold, or that do nothing in the bond's mode.

Read first: ops/rule.py, bonding/options.py. The numbers about announcements were measured on the real driver
(Linux 6.1.192 and 7.3.4, miimon 100). Left out: members (ops/rules_members.py), other defects (ops/rules_kernel.py).
"""

from __future__ import annotations

from collections.abc import Iterator

from ibbond.bonding.option import Kind, Mode, Version
from ibbond.bonding.options import OPTIONS
from ibbond.ops.facts import BondFacts, HostFacts
from ibbond.ops.rule import Found, Rule, Severity
from ibbond.wire.hwaddr import HardwareAddress
from ibbond.wire.ipoib import CONNECTED_MTU

ENOUGH_ANNOUNCEMENTS = 3
SLOW_MS = 1000
DATAGRAM_MTU = 2044
ETHERNET_MTU = 1500


def announcements_sent(count: int, version: Version) -> tuple[int, int]:
    """How many announcements peers get of `count`: after one failover, and after a total outage (MII monitor)."""
    after_outage = max(0, count - 1)
    if version >= (7, 0):
        return count, after_outage
    return (count if count <= 1 else count - 1), after_outage


def no_monitor(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    if bond.number("miimon") == 0 and bond.number("arp_interval") == 0 and not bond.number("link_events"):
        yield Found(f"{bond.name} has no link monitor (miimon 0, arp_interval 0)", _set(bond, "miimon", 100))


def no_targets(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    if bond.number("arp_interval") and not bond.targets("arp_ip_target") and not bond.targets("ns_ip6_target"):
        yield Found(
            f"{bond.name} has an ARP monitor without targets", _set(bond, "miimon", 100) + ", which replaces it"
        )


def few_announcements(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    count = bond.number("num_grat_arp")
    if bond.number("mode") != Mode.ACTIVE_BACKUP or count >= ENOUGH_ANNOUNCEMENTS or host.version is None:
        return
    failover, outage = announcements_sent(count, host.version)
    measured = "7.3.4" if host.version >= (7, 0) else "6.1.192"
    yield Found(
        f"num_grat_arp of {bond.name} is {count}",
        _set(bond, "num_grat_arp", ENOUGH_ANNOUNCEMENTS),
        why=f"Kernel {host.release}: of {count}, peers get {failover} after a failover and {outage} after a total"
        f" outage (measured on {measured} with miimon 100)",
    )


def arp_validate(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    value = bond.number("arp_validate")
    if bond.is_infiniband and value and host.version is not None:
        word = OPTIONS["arp_validate"].word_of(value)
        effects = {
            "all": "no member stays active",
            "active": "the active member flaps",
            "filter_active": "the active member flaps",
            "backup": "backups are shown down for good",
            "filter_backup": "backups are shown down for good",
        }
        if word in effects:
            yield Found(
                f"arp_validate of {bond.name} is {word}, on InfiniBand members",
                _set(bond, "arp_validate", "none") + ", or use miimon",
                why=f"Measured: {effects[word]}",
            )


def arp_monitor(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    if bond.is_infiniband and bond.number("arp_interval") and host.version is not None:
        yield Found(f"{bond.name} uses the ARP monitor on InfiniBand members", _set(bond, "miimon", 100))


def arp_unvalidated(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    if bond.is_infiniband and bond.number("arp_interval") and host.version is None and not bond.number("arp_validate"):
        yield Found(f"{bond.name} uses the ARP monitor without validation", _set(bond, "arp_validate", "all"))


def fail_over_mac(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    value = bond.number("fail_over_mac")
    if bond.is_infiniband and value != 1:
        yield Found(
            f"fail_over_mac of {bond.name} is {OPTIONS['fail_over_mac'].word_of(value)}, on InfiniBand members",
            _set(bond, "fail_over_mac", "active") + " --interrupt",
        )


def mtu_left(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    if not bond.is_infiniband or bond.device.mtu != ETHERNET_MTU:
        return
    modes = [member.device.transport for member in bond.members]
    connected = bool(modes) and all(mode == "connected" for mode in modes)
    best = CONNECTED_MTU if connected else DATAGRAM_MTU
    yield Found(
        f"the MTU of {bond.name} is {ETHERNET_MTU}, Ethernet's",
        f"ip link set {bond.name} mtu {best}",
        why=f"Its members carry {best} in {'connected' if connected else 'datagram'} mode",
    )


def no_updelay(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    always = bond.number("primary_reselect") == 0
    if bond.snapshot.primary and always and bond.number("miimon") and bond.number("updelay") == 0:
        yield Found(
            f"{bond.name} goes back to {bond.snapshot.primary} the moment its carrier returns (updelay 0,"
            " primary_reselect always)",
            _set(bond, "updelay", 1000) + ", or primary_reselect failure",
            bond.snapshot.primary,
        )


def slow(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    miimon, downdelay = bond.number("miimon"), bond.number("downdelay")
    if miimon and miimon + downdelay >= SLOW_MS:
        yield Found(
            f"{bond.name} notices a dead link after up to {miimon + downdelay} ms"
            f" (miimon {miimon}, downdelay {downdelay})",
            _set(bond, "miimon", 100) + (f" and {_set(bond, 'downdelay', 0)}" if downdelay else ""),
        )


def downdelay_carrier(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    if bond.number("downdelay") and bond.number("mode") == Mode.ACTIVE_BACKUP and host.version is not None:
        yield Found(
            f"downdelay of {bond.name} is {bond.number('downdelay')} ms",
            _set(bond, "downdelay", 0),
        )


def no_reports(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    if bond.number("mode") == Mode.ACTIVE_BACKUP and bond.number("resend_igmp") == 0:
        yield Found(f"resend_igmp of {bond.name} is 0", _set(bond, "resend_igmp", 1))


def duplicates(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    if bond.number("mode") == Mode.ACTIVE_BACKUP and bond.number("all_slaves_active"):
        yield Found(f"all_slaves_active of {bond.name} is on", _set(bond, "all_slaves_active", 0))


def without_effect(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    mode = Mode(bond.number("mode"))
    for option in OPTIONS.values():
        if option.ours or option.of_member or option.read_only or option.name == "num_unsol_na":
            continue
        value = bond.snapshot.options.get(option.name, option.default)
        if option.kind not in (Kind.VALUE, Kind.TARGETS, Kind.TARGETS6) or value in (option.default, ()):
            continue
        shown = option.word_of(value) if isinstance(value, int) and option.shows_word else value
        if isinstance(value, tuple):
            shown = f"{len(value)} addresses"
        reason = ""
        if mode not in option.modes & option.in_effect:
            reason = f"it does nothing in mode {mode.word}"
        elif option.needs and not _in_use(bond, option.needs):
            reason = f"it does nothing without {option.needs}"
        if reason and not (option.name == "tlb_dynamic_lb" or (option.name == "fail_over_mac" and mode == 1)):
            yield Found(
                f"{option.name} of {bond.name} is {shown}, but {reason}",
                "Set it back to its default, or set what it needs",
            )


def link_local(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    """An IPoIB bond makes its link-local address from the GUID of the member that was active when it came up."""
    if not bond.is_infiniband or not bond.generated_link_local:
        return
    for member in bond.members:
        own = [address for address in member.device.addresses if address.startswith("fe80:")]
        if own:
            yield Found(
                f"{member.name} has a link-local address of its own ({own[0]})",
                f"ip addr flush dev {member.name}",
                member.name,
            )
    found = [address.partition("/")[0] for address in bond.device.addresses if address.startswith("fe80:")]
    made = {name: text for name, text in _link_locals(bond).items() if text}
    if found and made and not set(found) & set(made.values()):
        yield Found(
            f"the link-local address of {bond.name} ({found[0]}) belongs to none of its members",
            f"Set {bond.name} down and up when its traffic allows it: the address is made anew",
            why="It was made from a member that has left since",
        )


def _link_locals(bond: BondFacts) -> dict[str, str]:
    import ipaddress

    found: dict[str, str] = {}
    for member in bond.members:
        address = member.bonding.permanent_address or member.device.hardware_address
        if len(address) == 20:
            found[member.name] = str(ipaddress.IPv6Address(HardwareAddress.parse(address).link_local))
    return found


def _in_use(bond: BondFacts, option: str) -> bool:
    return bond.number(option) != 0


def _set(bond: BondFacts, option: str, value: object) -> str:
    return f"ibbond bond set {bond.name} {option} {value}"


E, W = Severity.ERROR, Severity.WARNING

OPTION_RULES = (
    Rule(
        "no-link-monitor",
        E,
        "No link monitor",
        "A dead link is never noticed, so the bond never fails over",
        no_monitor,
    ),
    Rule("no-arp-targets", E, "ARP monitor without targets", "Nothing is probed, so nothing is noticed", no_targets),
    Rule(
        "few-announcements",
        W,
        "Fewer than three announcements",
        "Peers that miss the announcement send to the dead port until their neighbor entry times out",
        few_announcements,
        "announcements_lost_in_outage",
    ),
    Rule(
        "arp-validate-on-infiniband",
        E,
        "arp_validate with InfiniBand members",
        "The kernel's validation accepts ARP of Ethernet only (hardware type 1), so on IPoIB it never succeeds",
        arp_validate,
        "arp_of_ethernet_only",
    ),
    Rule(
        "arp-monitor-on-infiniband",
        W,
        "ARP monitor with InfiniBand members",
        "Unvalidated, a backup takes the active member's own broadcasts for answers: with a dead target the bond flips"
        " between its members (measured: every 0.6 s)",
        arp_monitor,
        "own_probes_count",
    ),
    Rule(
        "arp-unvalidated",
        Severity.NOTE,
        "ARP monitor without validation",
        "Any frame counts as a sign of life, so broadcasts of other hosts behind the same dead uplink keep a member up",
        arp_unvalidated,
    ),
    Rule(
        "fail-over-mac",
        E,
        "fail_over_mac is not active",
        "An IPoIB address is a queue pair and a port: it cannot be given to another port, the bond must take each"
        " member's own",
        fail_over_mac,
    ),
    Rule(
        "mtu-left-over",
        W,
        "MTU 1500 left over from Ethernet",
        "A bond starts with 1500 and gives it to its InfiniBand members; more packets than needed, and slow",
        mtu_left,
    ),
    Rule(
        "no-updelay",
        W,
        "Immediate fail-back",
        "A flapping primary takes the traffic along at every flap, before its port is programmed and its groups joined",
        no_updelay,
    ),
    Rule("slow-detection", W, "A dead link is noticed late", "All that time traffic is sent into it", slow),
    Rule(
        "downdelay-drops-carrier",
        W,
        "downdelay does not ride out a loss",
        "When no other member is up, the bond's own carrier goes off at once, before the delay is over: routes and"
        " programs see a dead link",
        downdelay_carrier,
        "carrier_lost_in_downdelay",
    ),
    Rule(
        "no-group-reports",
        W,
        "No group reports after a failover",
        "Routers and switches that snoop learn the new port only at their next query, up to minutes later",
        no_reports,
    ),
    Rule(
        "duplicates-delivered",
        W,
        "Backups deliver too",
        "Every broadcast and multicast arrives once per member",
        duplicates,
    ),
    Rule(
        "no-effect",
        W,
        "An option without effect",
        "Whoever set it expected something that does not happen",
        without_effect,
    ),
    Rule(
        "ipv6-link-local",
        W,
        "Inconsistent IPv6 link-local address",
        "A member that leaves takes its address along: two devices then claim it, and routing daemons and DHCPv6 get"
        " confused",
        link_local,
    ),
)
