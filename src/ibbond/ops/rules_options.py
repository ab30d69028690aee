"""Rules about options: values that leave failures unseen, peers untold, or that do nothing in the bond's mode.

Read first: ops/rule.py, bonding/options.py. The numbers about announcements were measured on the real driver
(Linux 6.1.192 and 7.3.4, miimon 100). Left out: members (ops/rules_members.py), addresses and routes
(ops/rules_network.py), other defects (ops/rules_kernel.py).
"""

from __future__ import annotations

from collections.abc import Iterator

from ibbond.bonding.option import Kind, Mode, Option, Version
from ibbond.bonding.options import OPTIONS
from ibbond.ops.facts import BondFacts, HostFacts
from ibbond.ops.rule import Found, Rule, Severity, set_command

ENOUGH_ANNOUNCEMENTS = 3
SLOW_MS = 1000
LONG_UPDELAY_MS = 60_000
ALL_SENT_SINCE = (7, 0)  # announcements are counted when they are sent


def announcements_sent(count: int, version: Version) -> tuple[int, int]:
    """How many announcements peers get of `count`: after one failover, and after a total outage (MII monitor)."""
    after_outage = max(0, count - 1)
    if version >= ALL_SENT_SINCE:
        return count, after_outage
    return (count if count <= 1 else count - 1), after_outage


def no_monitor(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    if bond.number("miimon") == 0 and bond.number("arp_interval") == 0 and not bond.number("link_events"):
        yield Found(
            f"{bond.name} has no link monitor (miimon 0, arp_interval 0)", (set_command(host, bond, "miimon", 100),)
        )


def no_targets(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    if not bond.number("arp_interval") or bond.targets("arp_ip_target") or bond.targets("ns_ip6_target"):
        return
    if "ns_ip6_target" in bond.snapshot.options:
        yield Found(f"{bond.name} has an ARP monitor without targets", mii_commands(host, bond))


def few_announcements(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    count = bond.number("num_grat_arp")
    if bond.mode != Mode.ACTIVE_BACKUP or count >= ENOUGH_ANNOUNCEMENTS or host.is_ours:
        return
    if host.version is None:
        (before, outage), (later, _) = (announcements_sent(count, version) for version in ((6, 1), ALL_SENT_SINCE))
        why = (
            f"Of {count}, peers get {before} after a failover on Linux before 7.0, {later} on later ones, and {outage}"
            " after a total outage (measured with miimon 100; the kernel of this host is unknown)"
        )
    else:
        failover, outage = announcements_sent(count, host.version)
        measured = "7.3.4" if host.version >= ALL_SENT_SINCE else "6.1.192"
        why = (
            f"Kernel {host.release}: of {count}, peers get {failover} after a failover and {outage} after a total"
            f" outage (measured on {measured} with miimon 100)"
        )
    run = (set_command(host, bond, "num_grat_arp", ENOUGH_ANNOUNCEMENTS),)
    yield Found(f"num_grat_arp of {bond.name} is {count}", run, why=why)


NO_VALIDATION = ("arp_validate", "none")
VALIDATION_EFFECTS = {
    "all": "no member stays active",
    "active": "the active member flaps",
    "filter_active": "the active member flaps",
    "backup": "backups are shown as down permanently",
    "filter_backup": "backups are shown as down permanently",
}


def arp_validate(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    word = OPTIONS["arp_validate"].word_of(bond.number("arp_validate"))
    if not host.is_ours and word in VALIDATION_EFFECTS:
        yield Found(
            f"arp_validate of {bond.name} is {word}, on InfiniBand members",
            mii_commands(host, bond) if bond.number("arp_interval") else (set_command(host, bond, *NO_VALIDATION),),
            why=f"Measured: {VALIDATION_EFFECTS[word]}",
        )


def arp_monitor(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    """The kernel's driver cannot validate on InfiniBand, ibbond's can, and should."""
    word = OPTIONS["arp_validate"].word_of(bond.number("arp_validate"))
    if not bond.number("arp_interval") or word in VALIDATION_EFFECTS:
        return
    if host.is_ours:
        yield Found(
            f"{bond.name} uses the ARP monitor without arp_validate",
            (set_command(host, bond, "arp_validate", "all"),),
            why="Any ARP packet that a member receives counts as a sign of life, whatever its sender",
        )
    else:
        yield Found(f"{bond.name} uses the ARP monitor on InfiniBand members", mii_commands(host, bond))


def fail_over_mac(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    value = bond.number("fail_over_mac")
    if value != 1:
        yield Found(
            f"fail_over_mac of {bond.name} is {OPTIONS['fail_over_mac'].word_of(value)}, on InfiniBand members",
            (set_command(host, bond, "fail_over_mac", "active", "--interrupt"),),
        )


def no_updelay(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    always = bond.number("primary_reselect") == 0
    if bond.snapshot.primary and always and bond.number("miimon") and bond.number("updelay") == 0:
        yield Found(
            f"{bond.name} goes back to {bond.snapshot.primary} the moment its carrier returns (updelay 0,"
            " primary_reselect always)",
            (set_command(host, bond, "updelay", 1000),),
            f"or: {set_command(host, bond, 'primary_reselect', 'failure')}",
            bond.snapshot.primary,
        )


def long_updelay(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    updelay = bond.number("updelay")
    if bond.number("miimon") and updelay >= LONG_UPDELAY_MS:
        yield Found(
            f"{bond.name} uses a member only {updelay // 1000} s after its carrier has returned (updelay {updelay})",
            (set_command(host, bond, "updelay", 1000),),
        )


def slow(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    miimon, downdelay = bond.number("miimon"), bond.number("downdelay")
    if miimon and miimon + downdelay >= SLOW_MS:
        run: tuple[str, ...] = (set_command(host, bond, "downdelay", 0),) if downdelay else ()
        run += (set_command(host, bond, "miimon", 100),) if miimon > 100 else ()
        yield Found(
            f"{bond.name} notices a dead link after up to {miimon + downdelay} ms"
            f" (miimon {miimon}, downdelay {downdelay})",
            run,
        )


def downdelay_carrier(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    if bond.number("downdelay") and bond.mode == Mode.ACTIVE_BACKUP and not host.is_ours:
        yield Found(
            f"downdelay of {bond.name} is {bond.number('downdelay')} ms", (set_command(host, bond, "downdelay", 0),)
        )


def no_reports(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    if bond.mode == Mode.ACTIVE_BACKUP and bond.number("resend_igmp") == 0:
        yield Found(f"resend_igmp of {bond.name} is 0", (set_command(host, bond, "resend_igmp", 1),))


def duplicates(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    if bond.mode == Mode.ACTIVE_BACKUP and bond.number("all_slaves_active"):
        yield Found(f"all_slaves_active of {bond.name} is on", (set_command(host, bond, "all_slaves_active", 0),))


def without_effect(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    """Only what can be set back in this mode: the driver refuses the others, and what it refuses does no harm."""
    mode = bond.mode
    assert mode is not None, "a need of this rule"
    for option in OPTIONS.values():
        if option.ours or option.of_member or option.read_only or option.name in ("num_unsol_na", "tlb_dynamic_lb"):
            continue
        value = bond.snapshot.options.get(option.name, option.default)
        changeable = option.kind in (Kind.VALUE, Kind.TARGETS, Kind.TARGETS6) and mode in option.modes
        if not changeable or value in (option.default, ()):
            continue
        reason = ""
        if mode not in option.in_effect:
            reason = f"it does nothing in mode {mode.word}"
        elif option.needs and bond.number(option.needs) == 0:
            reason = f"it does nothing without {option.needs}"
        if reason and not (option.name == "fail_over_mac" and mode == Mode.ACTIVE_BACKUP):
            yield Found(
                f"{option.name} of {bond.name} is {_shown(option, value)}, but {reason}", (_reset(host, bond, option),)
            )


def mii_commands(host: HostFacts, bond: BondFacts) -> tuple[str, ...]:
    """The MII monitor in place of the ARP monitor, of which nothing is left over."""
    values = bond.snapshot.options
    left = [each for each in OPTIONS.values() if each.needs == "arp_interval"]
    changed = [each for each in left if values.get(each.name, each.default) not in (each.default, ())]
    return (set_command(host, bond, "miimon", 100), *(_reset(host, bond, option) for option in changed))


def _reset(host: HostFacts, bond: BondFacts, option: Option) -> str:
    """The command that gives an option its default."""
    if option.kind in (Kind.TARGETS, Kind.TARGETS6):
        return set_command(host, bond, option.name, "")
    value = option.word_of(option.default) if option.shows_word else str(option.default)
    return set_command(
        host, bond, option.name, value, *(("--interrupt",) if option.no_members or option.bond_down else ())
    )


def _shown(option: Option, value: object) -> str:
    if isinstance(value, tuple):
        return f"{len(value)} address{'' if len(value) == 1 else 'es'}"
    return option.word_of(value) if isinstance(value, int) and option.shows_word else str(value)


E, W = Severity.ERROR, Severity.WARNING
MONITORS = ("miimon", "arp_interval")

OPTION_RULES = (
    Rule(
        "no-link-monitor",
        E,
        "No link monitor",
        "A dead link is never detected, so the bond never fails over",
        no_monitor,
        needs=MONITORS,
    ),
    Rule(
        "no-arp-targets",
        E,
        "ARP monitor without targets",
        "Nothing is probed, so no failure is detected",
        no_targets,
        needs=("arp_interval", "arp_ip_target"),
    ),
    Rule(
        "few-announcements",
        W,
        "Fewer than three announcements",
        "Peers that miss the announcement send to the dead port until their neighbor entry times out",
        few_announcements,
        "announcements_lost_in_outage",
        needs=("mode", "num_grat_arp"),
    ),
    Rule(
        "arp-validate-on-infiniband",
        E,
        "arp_validate with InfiniBand members",
        "The kernel's validation accepts ARP of Ethernet only (hardware type 1), so on IPoIB it never succeeds",
        arp_validate,
        "arp_of_ethernet_only",
        needs=("arp_validate",),
        infiniband=True,
    ),
    Rule(
        "arp-monitor-on-infiniband",
        W,
        "ARP monitor without validation, with InfiniBand members",
        "Unvalidated, a backup mistakes the active member's own broadcasts for replies: with a dead target "
        "the bond flips"
        " between its members (measured on the kernel's driver: every 0.6 s)",
        arp_monitor,
        "own_probes_count",
        needs=("arp_interval",),
        infiniband=True,
    ),
    Rule(
        "fail-over-mac",
        E,
        "fail_over_mac is not active",
        "An IPoIB address is a queue pair and a port: it cannot be moved to another port, so the bond must use each"
        " member's own",
        fail_over_mac,
        needs=("fail_over_mac",),
        infiniband=True,
    ),
    Rule(
        "no-updelay",
        W,
        "Immediate fail-back",
        "A flapping primary moves the traffic at every flap, before its port is configured and its groups are joined",
        no_updelay,
        needs=("primary", "primary_reselect", "miimon", "updelay"),
    ),
    Rule(
        "long-updelay",
        W,
        "A returning member waits a minute or more",
        "Until then it cannot take over, although its link is fine",
        long_updelay,
        needs=("miimon", "updelay"),
    ),
    Rule(
        "slow-detection",
        W,
        "A dead link is detected late",
        "Until then traffic is sent into it",
        slow,
        needs=("miimon", "downdelay"),
    ),
    Rule(
        "downdelay-drops-carrier",
        W,
        "downdelay does not bridge a short loss",
        "When no other member is up, the bond's own carrier goes off immediately, before the delay ends: routes and"
        " programs see a dead link",
        downdelay_carrier,
        "carrier_lost_in_downdelay",
        needs=("mode", "downdelay"),
    ),
    Rule(
        "no-group-reports",
        W,
        "No group reports after a failover",
        "Routers and switches that snoop learn the new port only at their next query, up to minutes later",
        no_reports,
        needs=("mode", "resend_igmp"),
    ),
    Rule(
        "duplicates-delivered",
        W,
        "Backups deliver packets too",
        "Every broadcast and multicast arrives once per member",
        duplicates,
        needs=("mode", "all_slaves_active"),
    ),
    Rule(
        "no-effect",
        W,
        "An option without effect",
        "What it was set for does not happen",
        without_effect,
        needs=("mode", *MONITORS),
    ),
)
