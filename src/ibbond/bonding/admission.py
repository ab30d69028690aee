"""Members come and go: every check, action and undo of joining and leaving, in the kernel's order.

Read first: `bond_enslave` and `__bond_release_one` of the kernel's driver. Left out: the change of type itself
(`identity`) and the choice of the active member (`selection`).
"""

import errno
from collections.abc import Callable
from contextlib import ExitStack, suppress

from ibbond.bonding import adaptive, datapath, failover, identity, lacp, selection, solicited
from ibbond.bonding.member import Link, Member
from ibbond.bonding.option import Mode
from ibbond.bonding.state import (
    JIFFY,
    State,
    has_own_address,
    is_promiscuous,
    made_up_address,
    takes_all_multicast,
)
from ibbond.errors import Refused
from ibbond.machine import MS
from ibbond.netdev.device import ETHERNET, INFINIBAND, AddressOrigin, Device, Flags, Notice

CAN = 280  # ARPHRD_CAN


def add_member(state: State, device: Device) -> None:
    """`bond_enslave`. Raises `Refused` with the kernel's errno."""
    _check_device(state, device)
    _check_type(state, device)
    if not state.rules.kernel("refusal_undresses_bond"):
        _check_policy(state, device)
        _check_broadcast(state, device)
    retyped = not state.members and state.device.type != device.type and not state.rules.kernel("dev_setup")
    was_up = state.device.up
    if retyped:
        identity.take_type(state, device)
    try:
        _check_policy(state, device)
        _force_policy(state, device)
        member = _prepare_device(state, device)
    except Refused:
        if not state.members:
            _undo_flags(state, device, reopen=was_up)
        raise
    _set_up(state, member)
    _link(state, member)
    if state.values.uses_primary:
        selection.select_active(state)
    state.changed("slaves")
    role = "a backup" if member.backup else "an active"
    state.say(f"Enslaving as {role} interface with {'a down' if member.link is Link.DOWN else 'an up'} link", member)


def remove_member(state: State, device: Device) -> None:
    """`bond_release`: EINVAL when the device is not a member of this bond."""
    member = state.member_of(device)
    if member is None:
        raise _refused(state, device, "it is not one of its members", "See the file slaves", errno.EINVAL, "remove")
    _release(state, member, keep_choice=True)


def member_gone(state: State, device: Device) -> None:
    """The member's device is unregistered. In the kernel the last one of another type takes the bond with it."""
    member = state.member_of(device)
    if member is None:
        return
    _release(state, member, keep_choice=True)
    if not state.members and state.device.type != ETHERNET and state.rules.kernel("last_member_takes_bond"):
        state.say("Destroying bond")
        destroy(state)


def destroy(state: State) -> None:
    """The bond's device is unregistered; its members are released first."""
    dissolve(state)
    if state.device.namespace is not None:
        state.device.namespace.unregister(state.device)


def dissolve(state: State) -> None:
    """`bond_uninit`: the bond's device is going, so all members do."""
    state.gone = True
    state.device.close()
    for member in tuple(state.members.values()):
        _release(state, member, keep_choice=False)
    state.say("Released all slaves")


def _check_device(state: State, device: Device) -> None:
    """Steps 1 to 6: what no bond takes, in the kernel's order."""
    bond = state.device
    if device.type == CAN:
        raise _error(state, device, "Device type (CAN) cannot be enslaved", "Use another device", errno.EPERM)
    if device.flags & Flags.MASTER and device.driver.kind != "bond":
        text = "Device type (master device) cannot be enslaved"
        raise _error(state, device, text, "Use another device", errno.EPERM)
    if device.master is not None:
        fix = f"Remove it from {device.master.name} first"
        raise _error(state, device, "Device is in use and cannot be enslaved", fix, errno.EBUSY)
    if device is bond:
        state.say("Error: Cannot enslave bond to itself.", level="error")
        raise _refused(state, device, "a bond cannot be a member of itself", "Name another device", errno.EPERM)
    if device.driver.vlan_challenged:
        if any(bond in upper.lowers and upper.driver.kind == "vlan" for upper in state.namespace):
            text = "Can not enslave VLAN challenged device to VLAN enabled bond"
            raise _error(state, device, text, "Remove the VLANs first", errno.EPERM)
        text = "enslaved VLAN challenged slave. Adding VLANs will be blocked as long as it is part of bond."
        state.say_of(text, device.name, "warning")
    if device.up:
        fix = f"Set it down first: ip link set {device.name} down"
        raise _error(state, device, "Device can not be enslaved while up", fix, errno.EPERM)
    if not bond.up and state.rules.kernel("allow_not_up_enslave"):
        raise _error(state, device, "the bond is down", f"Set {bond.name} up first", errno.EPERM)
    if _is_below(bond, device):
        raise _refused(state, device, "the bond is already one of its members", "Name another device", errno.EBUSY)


def _check_type(state: State, device: Device) -> None:
    """Steps 7 and 8."""
    bond = state.device
    if bond.type == device.type or state.rules.kernel("dev_setup"):
        return
    if state.members:
        fix = "Remove its members first, or use another bond"
        raise _error(state, device, "Device type is different from other slaves", fix, errno.EINVAL)
    if device.type != ETHERNET and state.values.kind is Mode.LACP:
        fix = "Use mode active-backup"
        raise _error(state, device, "8023AD mode requires Ethernet devices", fix, errno.EINVAL)


def _check_policy(state: State, device: Device) -> None:
    """Steps 9 and 10, as far as they refuse."""
    if device.type == INFINIBAND and not state.values.active_backup:
        text = "Only active-backup mode is supported for infiniband slaves"
        raise _error(state, device, text, "Set the mode to active-backup", errno.EOPNOTSUPP)
    if _takes_address(device):
        return
    if state.rules.kernel("set_mac_address"):
        text = "The slave device you specified does not support setting the MAC address"
        raise _error(state, device, text, "Use the patch set_mac_address", errno.EOPNOTSUPP)
    if state.members and state.values.active_backup and state.values.fail_over_mac != identity.ACTIVE:
        text = "Slave device does not support setting the MAC address, but fail_over_mac is not set to active"
        fix = "Remove the members and set fail_over_mac to active"
        raise _error(state, device, text, fix, errno.EOPNOTSUPP)


def _force_policy(state: State, device: Device) -> None:
    """Step 10: members that cannot take another address make the bond take theirs."""
    if _takes_address(device):
        return
    state.say_of("The slave device specified does not support setting the MAC address", device.name, "warning")
    if state.values.active_backup and state.values.fail_over_mac != identity.ACTIVE:
        state.values.fail_over_mac = identity.ACTIVE
        state.say_of("Setting fail_over_mac to active for active-backup mode", device.name, "warning")
        state.changed("fail_over_mac")


def _check_broadcast(state: State, device: Device) -> None:
    """Members must agree on the broadcast address: on InfiniBand it names the partition and the scope."""
    bond = state.device
    if not state.members or device.broadcast == bond.broadcast or device.type != INFINIBAND:
        return
    why = f"its broadcast address {device.broadcast.hex(':')} is not the bond's {bond.broadcast.hex(':')}"
    raise _refused(state, device, why, "Use members of one P_Key and scope", errno.EINVAL)


def _takes_address(device: Device) -> bool:
    """IPoIB can set its address since 4.7, but only within its own port: it counts as one that cannot."""
    return device.driver.can_set_address and device.type != INFINIBAND


def _is_below(bond: Device, device: Device) -> bool:
    return any(lower is bond or _is_below(bond, lower) for lower in device.lowers)


def _prepare_device(state: State, device: Device) -> Member:
    """Steps 11 to 16: MTU, address, open. What was done is undone when a driver refuses."""
    device.tell(Notice.JOIN)
    if not state.members and has_own_address(state):
        identity.take_address_of(state, device)
    member = Member(device, device.mtu, device.address)
    with ExitStack() as undo:
        _or_say(state, member, "calling dev_set_mtu", lambda: device.set_mtu(state.device.mtu))
        undo.callback(_restore_mtu, member)
        if state.values.fail_over_mac == identity.NONE or not state.values.active_backup:
            address = state.device.address
            _or_say(state, member, "calling set_mac_address", lambda: device.set_address(address, AddressOrigin.SET))
            undo.callback(_restore_address, member)
        elif _would_be_double(state, device):
            device.set_address(made_up_address(state), AddressOrigin.SET)
        device.flags |= Flags.SLAVE
        undo.callback(_clear_slave_flag, device)
        device.open()
        undo.callback(device.close)
        adaptive.join(state, member)
        undo.pop_all()
    return member


def _would_be_double(state: State, device: Device) -> bool:
    """Policy follow: a later member that has the bond's own address."""
    return (
        state.values.fail_over_mac == identity.FOLLOW
        and bool(state.members)
        and device.address == state.device.address
        and not state.rules.kernel("follow_gives_duplicates")
    )


def _set_up(state: State, member: Member) -> None:
    """Steps 16 to 20: what the bond remembers of a member when it joins."""
    values, now = state.values, state.now
    datapath.remember_statistics(member)
    member.refresh_speed()
    long_ago = now - values.arp_interval * MS - JIFFY
    member.last_rx = member.last_tx = long_ago
    member.target_rx = [long_ago] * len(member.target_rx)
    member.link = _initial_link(state, member)
    if member.link is not Link.DOWN:
        member.last_link_up = now
    if values.uses_primary and values.primary == member.name:
        state.primary_member = member
        state.force_primary = True
    kind = values.kind
    if kind in (Mode.ACTIVE_BACKUP, Mode.LACP):
        failover.set_inactive(state, member)
    elif kind.is_load_balancing:
        member.backup = False
        failover.set_inactive(state, member)
    else:
        member.backup = member.inactive = False
        if state.active_member is None and member.link is Link.UP:
            state.active_member = member


def _initial_link(state: State, member: Member) -> Link:
    values = state.values
    if values.miimon or (values.link_events and not values.arp_interval):
        if not member.usable:
            return Link.DOWN
        if not (values.miimon and values.updelay):
            return Link.UP
        member.delay = values.updelay
        if values.link_events:
            member.delay_ends_at = state.now + member.delay * values.miimon * MS
        return Link.BACK
    if values.arp_interval:
        return Link.UP if member.device.carrier else Link.DOWN
    return Link.UP


def _link(state: State, member: Member) -> None:
    """Steps 22 to 26: the member is one of ours from here on."""
    state.members[member.name] = member
    member.device.master = state.device
    state.device.lowers.append(member.device)
    member.device.tell(Notice.CHANGEUPPER)
    if not state.values.uses_primary:
        if is_promiscuous(state):
            member.device.count_promiscuous(1)
        if takes_all_multicast(state):
            member.device.count_allmulti(1)
        if state.running:
            failover.sync_lists(state, member)
            lacp.listen(state, member)
    failover.set_carrier(state)


def _undo_flags(state: State, device: Device, reopen: bool) -> None:
    """`err_undo_flags`: the first member was refused after the bond had taken its type or address."""
    bond = state.device
    same = (bond.address + state.address_memory[bond.addr_len :])[:6] == device.address[:6].ljust(6, b"\0")
    if same:
        identity.make_up_address(state)
    if bond.type == ETHERNET:
        return
    kernel = state.rules.kernel("refusal_undresses_bond")
    if not kernel:
        with suppress(Refused):
            bond.tell(Notice.PRE_TYPE_CHANGE)
        bond.unicast.flush()
        bond.multicast.flush()
    bond.close()
    identity.become_ethernet(state)
    if not kernel:
        bond.tell(Notice.POST_TYPE_CHANGE)
        if reopen:
            bond.open()


def _release(state: State, member: Member, keep_choice: bool) -> None:
    """`__bond_release_one`; `keep_choice` is false when all members go."""
    bond, device, values = state.device, member.device, state.values
    failover.set_inactive(state, member)
    datapath.fold_statistics(state)
    _unlink(state, member)
    state.say_of(f"Releasing {'backup' if member.backup else 'active'} interface", device.name)
    state.arp_member = None
    keeps_own = values.active_backup and values.fail_over_mac == identity.ACTIVE
    follows = values.active_backup and values.fail_over_mac != identity.NONE
    if keep_choice and not follows and bond.address == member.permanent_address and state.members:
        _warn_of_address(state, member)
    if state.primary_member is member:
        state.primary_member = None
        state.changed("primary")
    was_active = state.active_member is member
    if was_active:
        failover.change_active(state, None)
    if state.members:
        adaptive.leave(state, member)
    if not keep_choice:
        state.active_member = None
    elif was_active:
        selection.select_active(state)
    failover.set_carrier(state)
    if not state.members:
        identity.make_up_address(state)
        bond.tell(Notice.CHANGEADDR)
        bond.tell(Notice.RELEASE)
    if device.driver.vlan_challenged and not any(m.device.driver.vlan_challenged for m in state.members.values()):
        state.say_of("last VLAN challenged slave left bond - VLAN blocking is removed", device.name)
    if not values.uses_primary:
        _take_back_lists(state, member)
    solicited.listen(member, ())
    device.close()
    if not keeps_own:
        _restore_address(member)
    _restore_mtu(member)
    state.changed("slaves")


def _unlink(state: State, member: Member) -> None:
    del state.members[member.name]
    if state.preparation is not None and state.preparation.target is member:
        state.preparation = None
    state.device.lowers.remove(member.device)
    member.device.master = None
    member.device.flags &= ~Flags.SLAVE
    member.device.tell(Notice.CHANGEUPPER)


def _take_back_lists(state: State, member: Member) -> None:
    if is_promiscuous(state):
        member.device.count_promiscuous(-1)
    if takes_all_multicast(state):
        member.device.count_allmulti(-1)
    if state.running:
        failover.unsync_lists(state, member)


def _warn_of_address(state: State, member: Member) -> None:
    address = member.permanent_address[:6].hex(":")
    state.say_of(
        f"the permanent HWaddr of slave - {address} - is still in use by bond"
        " - set the HWaddr of slave to a different address to avoid conflicts",
        member.name,
        "warning",
    )


def _restore_mtu(member: Member) -> None:
    with suppress(Refused):
        member.device.set_mtu(member.original_mtu)


def _restore_address(member: Member) -> None:
    with suppress(Refused):
        member.device.set_address(member.permanent_address, AddressOrigin.SET)


def _clear_slave_flag(device: Device) -> None:
    device.flags &= ~Flags.SLAVE


def _or_say(state: State, member: Member, doing: str, action: Callable[[], None]) -> None:
    try:
        action()
    except Refused as refused:
        state.say(f"Error {-refused.code} {doing}", member, "error")
        raise


def _error(state: State, device: Device, text: str, fix: str, code: int) -> Refused:
    """A refusal that the kernel logs."""
    state.say_of(f"Error: {text}", device.name, "error")
    return _refused(state, device, text, fix, code)


def _refused(state: State, device: Device, why: str, fix: str, code: int, verb: str = "add") -> Refused:
    what = f"cannot add {device.name} to" if verb == "add" else f"cannot remove {device.name} from"
    return Refused(f"{what} {state.name}", why=why, fix=fix, code=code)
