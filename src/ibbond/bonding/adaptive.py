"""Hardware addresses in balance-tlb and balance-alb: every member has one of its own, the active one the bond's.

Read first: `bond_alb_init_slave`, `bond_alb_handle_active_change`, `alb_change_hw_addr_on_detach` and
`bond_alb_set_mac_address` (bond_alb.c) of the kernel's driver. Left out: balancing, and with it all traffic.
"""

from contextlib import suppress

from ibbond.bonding.member import Link, Member
from ibbond.bonding.option import Mode
from ibbond.bonding.state import BondTimer, State
from ibbond.errors import Refused
from ibbond.machine import SECOND
from ibbond.netdev.device import AddressOrigin

BYTES = 6
OVERHEARING = 10 * SECOND


def join(state: State, member: Member) -> None:
    """A member keeps the address it came with, unless another member has it already. The driver may refuse."""
    if not state.values.kind.is_load_balancing:
        return
    _give(state, member, member.permanent_address)
    if not state.members:
        return
    taken = {other.device.address for other in state.members.values()}
    if member.permanent_address != state.device.address:
        if member.permanent_address not in taken:
            return
        _give(state, member, state.device.address)
    for other in state.members.values():  # an address that was some member's own and is free now
        if other.permanent_address not in taken:
            _give(state, member, other.permanent_address)
            return


def change_active(state: State, new: Member | None, old: Member | None) -> None:
    """The bond's address moves to the new active member, the old one takes what this frees."""
    stop_overhearing(state)
    if new is None or not state.members:
        return
    _swap_in(state, new, old or _holder(state, state.device.address))


def leave(state: State, member: Member) -> None:
    """A member that leaves keeps its own address: the member that was using it gets the address that becomes free."""
    own = member.permanent_address
    if not state.values.kind.is_load_balancing or own in (member.device.address, state.device.address):
        return
    if (holder := _holder(state, own)) is not None:
        _swap(state, member, holder)
        _overhear(state, member, holder)


def set_bond_address(state: State, address: bytes) -> None:
    """`bond_alb_set_mac_address`: only the active member takes the new address."""
    state.device.address = address[: state.device.addr_len].ljust(state.device.addr_len, b"\0")
    if state.active_member is not None:
        _swap_in(state, state.active_member, _holder(state, state.device.address))


def stop_overhearing(state: State) -> None:
    """The time has expired, or another member is active."""
    if state.overhearing is not None:
        state.overhearing.device.count_promiscuous(-1)
    state.overhearing = None
    state.timers.stop(BondTimer.OVERHEARING)


def _overhear(state: State, one: Member, other: Member) -> None:
    """`rlb_teach_disabled_mac_on_primary`: a member that cannot transmit got an address that peers still use."""
    active = state.active_member
    if state.values.kind is not Mode.BALANCE_ALB or active is None or _transmits(one) == _transmits(other):
        return
    if state.overhearing is None:
        active.device.count_promiscuous(1)
        state.overhearing = active
    state.timers.set(BondTimer.OVERHEARING, state.now + OVERHEARING)


def _transmits(member: Member) -> bool:
    return member.usable and member.link is Link.UP and not member.backup


def _swap_in(state: State, new: Member, holder: Member | None) -> None:
    if holder is None:
        with suppress(Refused):
            _give(state, new, state.device.address)
    elif holder is not new:
        _swap(state, holder, new)
        _overhear(state, holder, new)


def _swap(state: State, one: Member, other: Member) -> None:
    first, second = one.device.address, other.device.address
    with suppress(Refused):
        _give(state, one, second)
    with suppress(Refused):
        _give(state, other, first)


def _give(state: State, member: Member, address: bytes) -> None:
    """In balance-tlb only the bond's own record of the address changes; no member is involved."""
    if state.values.kind is Mode.BALANCE_TLB:
        member.device.address = address
    else:
        member.device.set_address(address, AddressOrigin.SET)


def _holder(state: State, address: bytes) -> Member | None:
    return next((m for m in state.members.values() if m.device.address[:BYTES] == address[:BYTES]), None)
