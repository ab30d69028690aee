"""What the data path asks a bond: which member sends, which member's frames are taken, and what was counted.

Read first: `bond_start_xmit`, `bond_handle_frame` and `bond_get_stats` of the kernel's driver. Only active-backup
carries traffic; the other modes can be configured and have no route. Left out: frames (the stack has them).
"""

from copy import copy
from dataclasses import fields

from ibbond.bonding.member import Link, Member
from ibbond.bonding.state import State
from ibbond.netdev.device import Statistics

COUNTERS = tuple(entry.name for entry in fields(Statistics))


def route(state: State, queue: int = 0) -> Member | None:
    """The member that sends: the one that has the frame's transmit queue (`queue_id`), else the active one."""
    if not state.values.active_backup:
        return None
    if queue:
        for member in state.members.values():
            if member.queue_id == queue and member.usable and member.link is Link.UP:
                return member
    return state.active_member


def accepts(state: State, member: Member, now: int, unicast: bool = True) -> bool:
    """May this member's frames go up? After a failover the old member still receives unicast for a while.

    Broadcasts and multicasts are taken from one member only, or each would be delivered twice.
    """
    if not state.values.active_backup:
        return False
    if not member.inactive:
        return True
    return unicast and member.receives_until is not None and now < member.receives_until


def hands_over(state: State, now: int) -> bool:
    """Is a handover going on? One whose old member has no carrier has ended: nothing comes from there any longer."""
    for member in state.members.values():
        if member.receives_until is not None and now < member.receives_until and member.device.carrier:
            return True
    return False


def record_statistics(member: Member) -> None:
    """What the device counted before it became a member is not the bond's."""
    member.counted = copy(member.device.statistics)


def fold_statistics(state: State) -> Statistics:
    """`bond_get_stats`: add to the bond's counters what its members have counted since the last time."""
    total = state.device.statistics
    for member in state.members.values():
        for name in COUNTERS:
            delta = getattr(member.device.statistics, name) - getattr(member.counted, name)
            if delta > 0:
                setattr(total, name, getattr(total, name) + delta)
        record_statistics(member)
    return total
