"""Another member becomes active: receive filters, address lists, the bond's address, its carrier, in this order.

Read first: `bond_change_active_slave`, `bond_hw_addr_swap` and `bond_set_carrier` of the kernel's driver. Left out:
which member it is (`selection`), and announcements to peers (`announcements`).
"""

from ibbond.bonding import adaptive, announcements, identity, lacp
from ibbond.bonding.effects import FailedOver
from ibbond.bonding.member import Link, Member
from ibbond.bonding.option import Mode
from ibbond.bonding.state import State, is_promiscuous, takes_all_multicast
from ibbond.machine import MS
from ibbond.netdev.device import NetdevEvent


def change_active(state: State, new: Member | None) -> None:
    """`bond_change_active_slave`: `new` is the active member now, or None."""
    old = state.active_member
    if old is new:
        return
    values = state.values
    if new is not None:
        _bring_up_early(state, new)
    if values.uses_primary:
        swap_lists(state, new, old)
    state.active_member = new
    if values.kind.is_load_balancing:
        adaptive.change_active(state, new, old)
    if values.active_backup or values.kind.is_load_balancing:
        if old is not None:
            set_inactive(state, old)
            _hand_over(state, old)
        if new is not None:
            set_active(state, new)
            new.receives_until = None
    if values.active_backup and new is not None:
        identity.follow_active(state, new, old)
        announcements.start(state)
        state.emit(FailedOver(old.name if old else None, new.name))
        state.device.notify(NetdevEvent.BONDING_FAILOVER)
        announcements.at_change(state)
    resends = (values.uses_primary and new is not None) or values.kind is Mode.BALANCE_RR
    if state.running and values.resend_igmp and resends:
        announcements.start_reports(state)
    state.changed("active_slave")


def set_inactive(state: State, member: Member) -> None:
    """`bond_set_slave_inactive_flags`: a backup, whose frames are dropped unless all_slaves_active."""
    if not state.values.kind.is_load_balancing:
        _set_backup(state, member, True)
    member.inactive = not state.values.all_slaves_active


def set_active(state: State, member: Member) -> None:
    """`bond_set_slave_active_flags`."""
    _set_backup(state, member, False)
    member.inactive = False


def set_link(state: State, member: Member, link: Link) -> None:
    if member.link is not link:
        member.link = link
        state.changed("mii_status", member)


def set_carrier(state: State) -> bool:
    """The bond's carrier follows its members' links; True when it changed."""
    carrier = _should_have_carrier(state)
    if carrier == state.device.carrier:
        return False
    state.device.set_carrier(carrier)
    state.changed("mii_status")
    return True


def swap_lists(state: State, new: Member | None, old: Member | None) -> None:
    """Move the bond's receive settings (address lists, promiscuity) from one member to another."""
    if old is not None:
        _count(state, old, -1)
        if state.running:
            unsync_lists(state, old)
    if new is not None:
        _count(state, new, 1)
        if state.running:
            sync_lists(state, new)


def sync_lists(state: State, member: Member) -> None:
    """`dev_uc_sync`, `dev_mc_sync`: only between devices of one address length."""
    device, bond = member.device, state.device
    if device.addr_len != bond.addr_len:
        return
    if state.values.uses_primary:
        bond.unicast.sync(device.unicast)
        bond.multicast.sync(device.multicast)
    else:
        bond.unicast.sync_multiple(device.unicast)
        bond.multicast.sync_multiple(device.multicast)
    device.rx_mode_changed()


def unsync_lists(state: State, member: Member) -> None:
    """`bond_hw_addr_flush`."""
    device, bond = member.device, state.device
    if device.addr_len == bond.addr_len:
        bond.unicast.unsync(device.unicast)
        bond.multicast.unsync(device.multicast)
        device.rx_mode_changed()
    lacp.ignore(state, member)


def rx_mode_changed(state: State) -> None:
    """`bond_set_rx_mode`: the bond's lists changed while it is up."""
    if state.values.uses_primary:
        receivers = [state.active_member] if state.active_member else []
    else:
        receivers = list(state.members.values())
    for member in receivers:
        sync_lists(state, member)


def rx_flags_changed(state: State) -> None:
    """`bond_change_rx_flags`: pass PROMISC and ALLMULTI on to the members that receive for the bond."""
    if state.values.uses_primary:
        receivers = [state.active_member] if state.active_member else []
    else:
        receivers = list(state.members.values())
    if (promiscuous := is_promiscuous(state)) != state.promiscuous_seen:
        state.promiscuous_seen = promiscuous
        for member in receivers:
            member.device.count_promiscuous(1 if promiscuous else -1)
    if (allmulti := takes_all_multicast(state)) != state.allmulti_seen:
        state.allmulti_seen = allmulti
        for member in receivers:
            member.device.count_allmulti(1 if allmulti else -1)


def _bring_up_early(state: State, new: Member) -> None:
    new.last_link_up = state.now
    if new.link is not Link.BACK:
        if state.values.uses_primary:
            state.say("making interface the new active one", new)
        return
    if state.values.uses_primary:
        early = (state.values.updelay - new.delay) * state.values.miimon
        state.say(f"making interface the new active one {early} ms earlier", new)
    new.delay = 0
    new.delay_ends_at = None
    set_link(state, new, Link.UP)


def _hand_over(state: State, old: Member) -> None:
    if state.running and state.values.handover_ms:
        old.receives_until = state.now + state.values.handover_ms * MS


def _set_backup(state: State, member: Member, backup: bool) -> None:
    if member.backup != backup:
        member.backup = backup
        state.changed("state", member)


def _count(state: State, member: Member, users: int) -> None:
    if is_promiscuous(state):
        member.device.count_promiscuous(users)
    if takes_all_multicast(state):
        member.device.count_allmulti(users)


def _should_have_carrier(state: State) -> bool:
    members = state.members.values()
    if lacp.is_used(state):
        return lacp.has_carrier(state)
    if any(member.link is Link.UP for member in members):
        return True
    active = state.active_member
    return active is not None and active.link is Link.FAIL and not state.rules.kernel("carrier_lost_in_downdelay")
