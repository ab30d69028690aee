"""The MII monitor: inspect every member's carrier, then act once.

Read first: `bond_miimon_inspect` and `bond_miimon_commit` of the kernel's driver. Two cables lost together are one
failover, because all members are inspected before any is acted on. With `link_events` a change of a carrier is
inspected at once and delays are counted in time; else they are counted in runs, as the kernel does.
"""

from collections.abc import Mapping

from ibbond.bonding import announcements, failover, selection
from ibbond.bonding.member import Link, Member
from ibbond.bonding.option import Mode
from ibbond.bonding.state import JIFFY, BondTimer, State
from ibbond.machine import MS

MII_TABLE = {  # (link, carrier): (while the delay runs, after it)
    (Link.UP, True): (Link.UP, Link.UP),
    (Link.UP, False): (Link.FAIL, Link.DOWN),  # downdelay starts
    (Link.FAIL, False): (Link.FAIL, Link.DOWN),
    (Link.FAIL, True): (Link.UP, Link.UP),  # came back in time
    (Link.DOWN, False): (Link.DOWN, Link.DOWN),
    (Link.DOWN, True): (Link.BACK, Link.UP),  # updelay starts
    (Link.BACK, True): (Link.BACK, Link.UP),
    (Link.BACK, False): (Link.DOWN, Link.DOWN),
}


def step(
    link: Link, carrier: bool, ticks_left: int, delay: Mapping[Link, int], hurry: bool = False
) -> tuple[Link, int]:
    """The next link and the ticks that are left; `delay` is what leaving UP and leaving DOWN take.

    `hurry`: no member is active, so updelay is not waited for.
    """
    waiting, done = MII_TABLE[link, carrier]
    if link in delay and waiting is not link:
        ticks_left = delay[link]
    if hurry and waiting is Link.BACK:
        ticks_left = 0
    return (waiting, ticks_left - 1) if ticks_left > 0 and waiting is not done else (done, 0)


def run(state: State) -> None:
    """One run of the monitor, re-armed exactly one interval later."""
    was_due = announcements.is_due(state)
    proposed = _inspect_all(state)
    if proposed and state.lock_taken:
        state.lock_taken = False
        state.timers.set(BondTimer.MONITOR, state.now + JIFFY)
        return
    state.lock_taken = False
    _commit_all(state, proposed)
    state.timers.set(BondTimer.MONITOR, state.now + state.values.miimon * MS if state.values.miimon else None)
    announcements.after_mii_run(state, was_due)


def carrier_changed(state: State) -> None:
    """`link_events`: look at once, without waiting for the next run."""
    _commit_all(state, _inspect_all(state))


def delays(state: State) -> dict[Link, int]:
    """In ticks, which last `miimon`; without miimon there is nothing to count them with."""
    values = state.values
    return {Link.UP: values.downdelay, Link.DOWN: values.updelay} if values.miimon else {Link.UP: 0, Link.DOWN: 0}


def delay_deadline(state: State) -> int | None:
    """When the next delay that is counted in time ends."""
    return min((m.delay_ends_at for m in state.members.values() if m.delay_ends_at is not None), default=None)


def _inspect_all(state: State) -> list[Member]:
    """Every member's proposal; the members that have one."""
    ignore_updelay = _no_active_member(state)
    delay = delays(state)
    for member in state.members.values():
        if _inspect(state, member, delay, ignore_updelay):
            ignore_updelay = False
    return [member for member in state.members.values() if member.proposal is not None]


def _commit_all(state: State, proposed: list[Member]) -> None:
    if not proposed:
        return
    for member in proposed:
        assert member.proposal is not None
        failover.set_link(state, member, member.proposal)
    again = [_commit(state, member) for member in proposed]  # each of them, whatever the first one says
    if any(again):
        selection.select_active(state)
    failover.set_carrier(state)


def _inspect(state: State, member: Member, delay: Mapping[Link, int], hurry: bool) -> bool:
    """Propose the member's next link; True when it used up the hurry."""
    link, carrier = member.link, member.usable
    if carrier == (link is Link.UP) and link in delay:  # unchanged
        member.proposal = None
        return False
    timed = bool(state.values.link_events)
    left = _ticks_left(state, member) if timed else member.delay
    proposed, member.delay = step(link, carrier, left, delay, hurry)
    member.proposal = proposed if proposed is not link else None
    _report_changes(state, member, carrier, left, hurry)
    if proposed not in (Link.FAIL, Link.BACK):
        member.delay_ends_at = None
    elif timed and member.proposal is not None:
        member.delay = delay[link]
        member.delay_ends_at = state.now + member.delay * state.values.miimon * MS
    elif timed:
        member.delay = left
    return hurry and carrier and link in (Link.DOWN, Link.BACK)


def _ticks_left(state: State, member: Member) -> int:
    """Delays in time, as ticks: rounded up, so that none ends too early."""
    if member.delay_ends_at is None:
        return member.delay
    return max(0, -((state.now - member.delay_ends_at) // max(1, state.values.miimon * MS)))


def _no_active_member(state: State) -> bool:
    """`ignore_updelay`: no active member, or in the modes with a hash no usable one."""
    kind = state.values.kind
    if kind is Mode.ACTIVE_BACKUP:
        return state.active_member is None
    if kind in (Mode.BALANCE_RR, Mode.BROADCAST, Mode.LACP) or not state.members:
        return False
    return not any(m.usable and m.link is Link.UP and not m.backup for m in state.members.values())


def _commit(state: State, member: Member) -> bool:
    """Act on a proposal; True when the choice of the active member must be made again."""
    proposal, member.proposal = member.proposal, None
    values = state.values
    if proposal is Link.UP:
        member.refresh_speed()
        member.last_link_up = state.now
        if values.kind is Mode.LACP:
            member.backup = True
        elif not values.active_backup:
            member.backup = False
        duplex = "half" if member.duplex == "half" else "full"
        state.say(f"link status definitely up, {member.speed or 0} Mbps {duplex} duplex", member)
        active = state.active_member
        return active is None or member is state.primary_member or member.priority > active.priority
    if proposal is Link.DOWN:
        member.fail()
        state.changed("link_failure_count", member)
        if values.kind in (Mode.ACTIVE_BACKUP, Mode.LACP):
            failover.set_inactive(state, member)
        state.say("link status definitely down, disabling slave", member)
        return member is state.active_member
    return False


def _report_changes(state: State, member: Member, carrier: bool, left: int, hurry: bool) -> None:
    values, link = state.values, member.link
    delay = delays(state)
    if link is Link.UP and not carrier and delay[Link.UP]:
        role = ("backup " if member.backup else "active ") if values.active_backup else ""
        wait = delay[Link.UP] * values.miimon
        state.say(f"link status down for {role}interface, disabling it in {wait} ms", member)
    elif link is Link.FAIL and carrier:
        member.last_link_up = state.now
        state.say(f"link status up again after {(values.downdelay - left) * values.miimon} ms", member)
    elif link is Link.DOWN and carrier and delay[Link.DOWN]:
        wait = 0 if hurry else delay[Link.DOWN] * values.miimon
        state.say(f"link status up, enabling it in {wait} ms", member)
    elif link is Link.BACK and not carrier:
        state.say(f"link status down again after {(values.updelay - left) * values.miimon} ms", member)
