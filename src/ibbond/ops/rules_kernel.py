"""Rules about the kernel: each row of `bonding.quirks` that this host's version has, where it can hit this bond.

Read first: bonding/quirks.py, where each defect is described. Most rows are behind a rule about members or options
(`Rule.quirk`); here are the others: those with a condition of their own, and those that are so whatever one does.
Left out, named in UNSEEN: defects that show only in the moment of a change.
"""

from __future__ import annotations

from collections.abc import Iterator

from ibbond.bonding.option import Mode
from ibbond.bonding.quirks import PATCHES, QUIRKS
from ibbond.ops.facts import BondFacts, HostFacts
from ibbond.ops.rule import Found, Rule, Severity

UNSEEN = {
    "refusal_undresses_bond": "it shows when a first member is refused; ibbond's own requests put the bond back",
    "cleared_active_drops": "it shows when active_slave is cleared, which ibbond's own requests do not do",
    "promiscuity_forgotten": "it shows when a capture is running while the last member leaves",
    "late_answers": "it shows when a switch is made while the subnet administrator does not answer",
    "first_run_locked_out": "it lasts four milliseconds",
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
    if host.version is not None and (2, 0) < host.version < FIRST_RIGHT and bond.is_infiniband:
        yield Found(
            f"the bonding driver of Linux {host.release} has none of the four patches of 2007",
            "Use Linux 2.6.24 or newer, or the ib-bonding package of OFED",
            why="; ".join(QUIRKS[patch].kernel for patch in sorted(PATCHES)),
        )


def moves_back(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    if not has_quirk(host, "equal_priority_moves") or bond.number("mode") != Mode.ACTIVE_BACKUP:
        return
    if bond.snapshot.primary or bond.number("primary_reselect") != 0:
        return
    first = next((member.name for member in bond.members if member.bonding.link == "up"), None)
    if first is not None and bond.snapshot.active not in (None, first):
        yield Found(
            f"{bond.name} leaves {bond.snapshot.active} for {first} once a member is added or an option is written",
            f"ibbond bond set {bond.name} primary_reselect failure, or switch at a time of your choice:"
            f" ibbond bond switch {bond.name} {first}",
            bond.snapshot.active or "",
        )


def mtu_limit(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    limit = bond.device.max_mtu
    if has_quirk(host, "mtu_limit_lost") and limit == 1500 and (bond.is_infiniband or bond.members):
        yield Found(
            f"{bond.name} takes no MTU above {limit}",
            f"Delete {bond.name} and create it again",
            why="It was made an Ethernet device again once, by a member that left or was refused",
        )


def has_quirk(host: HostFacts, quirk: str) -> bool:
    """The kernel of this host has that defect."""
    return host.version is not None and QUIRKS[quirk].in_kernel(host.version)


def _always(quirk: str) -> Rule:
    """A defect that a bond of InfiniBand members has on every kernel of that version."""

    def look(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
        if has_quirk(host, quirk) and bond.is_infiniband and bond.number("mode") == Mode.ACTIVE_BACKUP:
            yield Found(f"Linux {host.release}: {row.kernel}", fixes[quirk])

    row = QUIRKS[quirk]
    fixes = {
        "polled_links": "A lower miimon costs little: 50 or 20 ms are usual",
        "announcements_burnt": "Ask for one announcement more than peers need",
        "break_before_make": "Switch when multicast receivers can miss a moment; updelay gives returning ports time",
        "neighbors_flushed": "Applications see a pause while neighbors answer; nothing to set",
        "cold_standby": "Expect multicast to pause longest after a failover; nothing to set",
        "no_handover": "Switch when a few frames may be lost",
        "last_member_takes_bond": "Whatever restarts the InfiniBand driver must make the bond again afterwards",
    }
    return Rule(
        f"quirk-{quirk.replace('_', '-')}", Severity.NOTE, _sentence(row.kernel), _sentence(row.why), look, quirk
    )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


KERNEL_RULES = (
    Rule(
        "kernel-before-2007-patches",
        Severity.ERROR,
        "A kernel without the four patches of 2007",
        "IPoIB devices cannot be bonded right with it",
        too_old,
        "dev_setup",
    ),
    Rule(
        "moves-without-primary",
        Severity.WARNING,
        "Traffic goes back to the first member unasked",
        "Without a primary and with primary_reselect always, any new choice prefers the first member that is up",
        moves_back,
        "equal_priority_moves",
    ),
    Rule(
        "mtu-limit-lost",
        Severity.WARNING,
        "The bond's largest MTU is 1500",
        "Larger MTUs, which its members carry, are refused",
        mtu_limit,
        "mtu_limit_lost",
    ),
    *(_always(quirk) for quirk in ALWAYS),
)
