"""As much of 802.3ad as a bond needs to be configured and brought up: its group, and when it has carrier.

Read first: `bond_3ad_set_carrier` and `bond_3ad_state_machine_handler` (bond_3ad.c) of the kernel's driver. Without a
partner every member is an aggregator of its own; the work that runs every 100 ms makes one of them the active one. Left
out: LACPDUs, and with them partners, churn and traffic.
"""

from ibbond.bonding.member import Member
from ibbond.bonding.option import Mode
from ibbond.bonding.state import BondTimer, State
from ibbond.machine import MS

PERIOD = 100 * MS
GROUP = bytes.fromhex("0180c2000002")  # where LACPDUs are sent


def is_used(state: State) -> bool:
    return state.values.kind is Mode.LACP


def open_bond(state: State) -> None:
    """`bond_open`: the work is due at once, members listen to LACPDUs."""
    if is_used(state):
        state.timers.set(BondTimer.LACP, state.now)
        for member in state.members.values():
            listen(state, member)


def listen(state: State, member: Member) -> None:
    if is_used(state):
        member.device.add_multicast(GROUP)


def ignore(state: State, member: Member) -> None:
    if is_used(state):
        member.device.remove_multicast(GROUP)


def run(state: State) -> None:
    """One run of the work: members that joined since then have an aggregator now."""
    for member in state.members.values():
        member.aggregated = True
    state.timers.set(BondTimer.LACP, state.now + PERIOD)


def has_carrier(state: State) -> bool:
    """`bond_3ad_set_carrier`: an aggregator of one port is active, and min_links asks for no more.

    Aggregators look at the device itself (`agg_device_up`), not at what the monitor makes of its carrier.
    """
    if state.values.min_links > 1:
        return False
    return any(member.aggregated and member.usable for member in state.members.values())
