"""Which member should be active, and how the choice is put into effect.

Read first: `bond_choose_primary_or_current`, `bond_find_best_slave` and `bond_select_active_slave` of the kernel's
driver. Left out: what changes when another member becomes active (`failover`).
"""

from ibbond.bonding import failover
from ibbond.bonding.effects import Prepare
from ibbond.bonding.member import Link, Member
from ibbond.bonding.state import Preparation, State
from ibbond.machine import MS

PREPARATION = 100 * MS  # how long a planned switch waits for the new member

ALWAYS, BETTER, FAILURE = range(3)  # primary_reselect


def choose(state: State) -> Member | None:
    """The primary or the current active member, as `primary_reselect` says; None while neither is up."""
    primary, current = state.primary_member, state.active_member
    if primary is None or primary.link is not Link.UP:
        highest = highest_priority(state)
        if highest is None or highest is current:
            return current if current is not None and current.link is Link.UP else None
        primary = highest
        stays = not state.rules.kernel("equal_priority_moves")
        if stays and current is not None and current.link is Link.UP and highest.priority <= current.priority:
            return current
    elif state.force_primary:
        state.force_primary = False
        return primary
    if current is None or current.link is not Link.UP:
        return primary
    if state.values.primary_reselect == ALWAYS:
        return primary
    if state.values.primary_reselect == BETTER and primary.rank > current.rank:
        return primary
    return current


def highest_priority(state: State) -> Member | None:
    """The first member with link UP that has the highest `prio`."""
    return max(
        (member for member in state.members.values() if member.link is Link.UP),
        key=lambda member: member.priority,
        default=None,
    )


def find_best(state: State) -> Member | None:
    """The chosen one, else the first member that is up, else the one that will be up soonest."""
    if chosen := choose(state):
        return chosen
    soonest, shortest = None, state.values.updelay
    for member in state.members.values():
        if member.link is Link.UP:
            return member
        if member.link is Link.BACK and member.usable and member.delay < shortest:
            soonest, shortest = member, member.delay
    return soonest


def select_active(state: State) -> None:
    """Make the best member the active one: at once when the present one is lost, prepared when it still works."""
    best = find_best(state)
    if best is state.active_member:
        waiting = state.preparation
        if waiting is not None and waiting.target.link is not Link.UP:
            state.preparation = None
        return
    if best is not None and may_prepare(state, best):
        prepare(state, best)
        return
    switch(state, best)


def may_prepare(state: State, best: Member) -> bool:
    """The present member still carries traffic, so there is time to make before we break."""
    present = state.active_member
    return (
        not state.rules.kernel("break_before_make")
        and state.values.active_backup
        and state.running
        and present is not None
        and present.link is Link.UP
        and present.usable
        and best.link is Link.UP
        and best.usable
    )


def prepare(state: State, best: Member) -> None:
    if state.preparation is not None and state.preparation.target is best:
        return
    state.preparation = Preparation(best, state.now + PREPARATION)
    state.emit(Prepare(best.name))


def finish_preparation(state: State) -> None:
    """The prepared member is ready, or time is up: switch if it still can carry traffic."""
    assert state.preparation is not None
    target, state.preparation = state.preparation.target, None
    if target.link is Link.UP and target.usable and target is not state.active_member:
        switch(state, target)
    else:
        select_active(state)


def switch(state: State, best: Member | None) -> None:
    """Change the active member, then the bond's carrier; say so when that changed."""
    state.preparation = None
    failover.change_active(state, best)
    if failover.set_carrier(state):
        if state.device.carrier:
            state.say("active interface up!")
        else:
            state.say("now running without any active interface!")
