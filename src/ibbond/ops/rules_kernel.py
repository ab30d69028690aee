"""Rules about the kernel: each row of `bonding.quirks` that this host's version has, where it can hit this bond.

Read first: bonding/quirks.py, where each defect is described. Most rows are behind a rule about members or options
(`Rule.quirk`); here are the others: those with a condition of their own, and those that are so whatever one does.
Left out, named in UNSEEN: defects that show only in the moment of a change.
"""

from __future__ import annotations

from collections.abc import Iterator

from ibbond.bonding.option import Kind, Mode
from ibbond.bonding.options import OPTIONS
from ibbond.bonding.quirks import PATCHES, QUIRKS
from ibbond.host.ip_settings import USER_HZ
from ibbond.ops.facts import BondFacts, HostFacts
from ibbond.ops.kernel_defects import DEFECTS, LOCKTIME_IGNORED_SINCE
from ibbond.ops.rule import Found, Rule, Severity, bond_command, set_command, system_command

UNSEEN = {
    "refusal_undresses_bond": "it shows when a first member is refused; ibbond's own requests put the bond back",
    "cleared_active_drops": "it shows when active_slave is cleared, which ibbond's own requests do not do",
    "promiscuity_forgotten": "it shows when a capture is running while the last member leaves",
    "late_answers": "it shows when a switch is made while the subnet administrator does not answer",
    "first_run_locked_out": "it lasts four milliseconds",
    "ages_in_jiffies": "an age is up to 6 ms shorter",
    "pending_run_kept": "it shows once, when the interval is shortened",
}
ALWAYS = (
    "polled_links",
    "announcements_burnt",
    "neighbors_flushed",
    "cold_standby",
    "break_before_make",
    "no_handover",
    "last_member_takes_bond",
)
FIRST_RIGHT = (2, 6, 24)


def too_old(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    if host.version is not None and host.version < FIRST_RIGHT:
        yield Found(
            f"the bonding driver of Linux {host.release} has none of the four patches of 2007",
            do="Use Linux 2.6.24 or newer, or the ib-bonding package of OFED",
            why="; ".join(QUIRKS[patch].kernel for patch in sorted(PATCHES)),
        )


def moves_back(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    """So it is after every ordinary failover and return, until the traffic is switched back or moves by itself."""
    if not has_quirk(host, "equal_priority_moves") or bond.mode != Mode.ACTIVE_BACKUP:
        return
    if bond.snapshot.primary or bond.number("primary_reselect") != 0:
        return
    first = next((member.name for member in bond.members if member.link == "up"), None)
    active = bond.snapshot.active
    if first is not None and active not in (None, first):
        yield Found(
            f"{bond.name} will leave {active} for {first} when a member is added, or when primary, primary_reselect or"
            " a member's prio is written",
            (bond_command(host, "switch", bond.name, first),),
            f"at a time of your choice; or keep {active} until it fails:"
            f" {set_command(host, bond, 'primary_reselect', 'failure')}",
            active or "",
        )


def mtu_limit(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    limit = bond.device.max_mtu
    if has_quirk(host, "mtu_limit_lost") and limit == 1500 and (bond.is_infiniband or bond.members):
        yield Found(
            f"{bond.name} takes no MTU above {limit}",
            (bond_command(host, "delete", bond.name), create_command(host, bond)),
            "this interrupts its traffic and removes its routes",
            why="It once became an Ethernet device again, when a member left or was refused",
        )


def known_defect(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    if host.version is None or host.is_ours:
        return
    for defect in DEFECTS:
        if defect.in_kernel(host.version):
            yield Found(
                f"Linux {host.release} has {defect.name}: {defect.what}",
                do=defect.do,
                why=f"{defect.why}; fixed by '{defect.source}'",
            )


def locktime(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    value = host.sysctls.get(f"ipv4/neigh/{bond.name}/locktime", 0)
    if host.is_ours or host.version is None or host.version >= LOCKTIME_IGNORED_SINCE:
        return
    if value and not host.conf("ipv4", bond.name, "arp_accept"):
        separator = "/" if "." in bond.name else "."
        key = separator.join(("net", "ipv4", "neigh", bond.name, "locktime"))
        yield Found(
            f"{bond.name} ignores an announcement less than {value / USER_HZ:g} s after another of the same neighbor",
            (system_command(host, "sysctl", "-w", f"{key}=0"),),
            "and in /etc/sysctl.d, on every peer of IPoIB bonds",
        )


def create_command(host: HostFacts, bond: BondFacts) -> str:
    """Make the bond again as it is: members, options that differ from what `create` sets, addresses."""
    words = [member.name for member in bond.members]
    for option in OPTIONS.values():
        value = bond.snapshot.options.get(option.name)
        settable = option.kind is Kind.VALUE and not (option.ours or option.of_member or option.read_only)
        if settable and isinstance(value, int) and bond.mode in option.modes and option.name != "num_unsol_na":
            text = option.word_of(value) if option.shows_word else str(value)
            if value != option.default or option.name in ("mode", "miimon", "num_grat_arp"):
                words += ["--set", f"{option.name}={text}"]
    if bond.snapshot.primary:
        words += ["--set", f"primary={bond.snapshot.primary}"]
    for address in bond.device.addresses or ():
        words += [] if address.startswith("fe80:") else ["--address", address]
    return bond_command(host, "create", bond.name, *words)


def has_quirk(host: HostFacts, quirk: str) -> bool:
    """The kernel of this host has that defect."""
    return host.version is not None and QUIRKS[quirk].in_kernel(host.version)


def _always(quirk: str) -> Rule:
    """A defect that a bond of InfiniBand members has on every kernel of that version."""

    def look(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
        if has_quirk(host, quirk) and bond.mode == Mode.ACTIVE_BACKUP:
            yield Found(f"Linux {host.release}: {row.kernel}", do=advice[quirk])

    row = QUIRKS[quirk]
    advice = {
        "polled_links": "A lower miimon costs little: 50 or 20 ms are usual",
        "announcements_burnt": "Configure one announcement more than peers need",
        "break_before_make": "Switch when multicast receivers can miss a moment; updelay gives returning ports time",
        "neighbors_flushed": "Applications see a pause until neighbors answer; no setting helps",
        "cold_standby": "Expect multicast to pause longest after a failover; no setting helps",
        "no_handover": "Switch when a few frames may be lost",
        "last_member_takes_bond": "Whatever restarts the InfiniBand driver must create the bond again afterwards",
    }
    return Rule(
        f"quirk-{quirk.replace('_', '-')}",
        Severity.NOTE,
        _sentence(row.kernel),
        _sentence(row.why),
        look,
        quirk,
        needs=("release", "mode"),
        infiniband=True,
    )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


KERNEL_RULES = (
    Rule(
        "kernel-before-2007-patches",
        Severity.ERROR,
        "A kernel without the four patches of 2007",
        "It cannot bond IPoIB devices correctly",
        too_old,
        "dev_setup",
        needs=("release",),
        infiniband=True,
    ),
    Rule(
        "kernel-defect",
        Severity.NOTE,
        "A known defect of this kernel",
        "Stable releases have the cure",
        known_defect,
        needs=("release",),
        infiniband=True,
    ),
    Rule(
        "neighbor-locktime",
        Severity.WARNING,
        "Announcements of peers' failovers may be ignored",
        "Before Linux 4.13 a gratuitous ARP did not replace an entry younger than locktime: packets go to the old port"
        " of a peer that has failed over twice",
        locktime,
        needs=("release",),
    ),
    Rule(
        "moves-without-primary",
        Severity.NOTE,
        "Traffic moves back to the first member without a request",
        "Without a primary and with primary_reselect always, any new choice prefers the first member that is up",
        moves_back,
        "equal_priority_moves",
        needs=("release", "mode", "primary", "active", "primary_reselect", "member.link"),
    ),
    Rule(
        "mtu-limit-lost",
        Severity.WARNING,
        "The bond's largest MTU is 1500",
        "Larger MTUs are refused, although its members support them",
        mtu_limit,
        "mtu_limit_lost",
        needs=("release",),
    ),
    *(_always(quirk) for quirk in ALWAYS),
)
