"""A device joins a bond: every check, action and undo, in the kernel's order.

Read first: `bond_enslave` of the kernel's driver. Left out: the change of type itself (`identity`), the choice of the
active member (`selection`), and leaving (`departure`).
"""

import errno
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass

from ibbond.bonding import adaptive, datapath, failover, identity, lacp, selection
from ibbond.bonding.departure import restore_address, restore_mtu
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
from ibbond.netdev.device import AddressOrigin, Device, Flags, NetdevEvent
from ibbond.wire.hardware_type import ETHERNET, INFINIBAND

CAN = 280  # ARPHRD_CAN
OF_TYPE = identity.ETHERNET_FLAGS | identity.POINT_TO_POINT_FLAGS  # flags that come with a type


def add_member(state: State, device: Device) -> None:
    """`bond_enslave`. Raises `Refused` with the kernel's errno."""
    _check_device(state, device)
    _check_type(state, device)
    if not state.rules.kernel("refusal_undresses_bond"):
        _check_policy(state, device)
        _check_broadcast(state, device)
    retyped = not state.members and state.device.type != device.type and not state.rules.kernel("dev_setup")
    before = _SavedIdentity.of(state)
    if retyped:
        identity.take_type(state, device)
    try:
        _check_policy(state, device)
        _force_policy(state, device)
        member = _prepare_device(state, device)
    except Refused:
        if not state.members:
            _undo_flags(state, device, before)
        raise
    _set_up(state, member)
    _link(state, member)
    if state.values.uses_primary:
        selection.select_active(state)
    state.changed("slaves")
    role = "a backup" if member.backup else "an active"
    state.say(f"Enslaving as {role} interface with {'a down' if member.link is Link.DOWN else 'an up'} link", member)


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
        raise _refused(state, device, "a bond cannot be a member of itself", "Choose another device", errno.EPERM)
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
        raise _refused(state, device, "the bond is already one of its members", "Choose another device", errno.EBUSY)


def _check_type(state: State, device: Device) -> None:
    """Steps 7 and 8."""
    bond = state.device
    if bond.type == device.type or state.rules.kernel("dev_setup"):
        return
    if state.members:
        state.say_of("Error: Device type is different from other slaves", device.name, "error")
        why = f"its members are {_type_name(bond.type)} and {device.name} is {_type_name(device.type)}"
        fix = f"Remove {' and '.join(state.members)} first, or use another bond"
        raise _refused(state, device, why, fix, errno.EINVAL)
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
        raise _error(state, device, text, "Do not leave out the patch set_mac_address", errno.EOPNOTSUPP)
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
    if not state.members or device.broadcast == bond.broadcast or not device.type == bond.type == INFINIBAND:
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
    device.notify(NetdevEvent.JOIN)
    if not state.members and has_own_address(state):
        identity.take_address_of(state, device)
    member = Member(device, device.mtu, device.address)
    with ExitStack() as undo:
        _or_say(state, member, "calling dev_set_mtu", lambda: device.set_mtu(state.device.mtu))
        undo.callback(restore_mtu, member)
        if state.values.fail_over_mac == identity.NONE or not state.values.active_backup:
            address = state.device.address
            _or_say(state, member, "calling set_mac_address", lambda: device.set_address(address, AddressOrigin.SET))
            undo.callback(restore_address, member)
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
    datapath.record_statistics(member)
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
    """Steps 22 to 26: from here on the device is a member."""
    state.members[member.name] = member
    member.device.master = state.device
    state.device.lowers.append(member.device)
    member.device.notify(NetdevEvent.CHANGEUPPER)
    if not state.values.uses_primary:
        if is_promiscuous(state):
            member.device.count_promiscuous(1)
        if takes_all_multicast(state):
            member.device.count_allmulti(1)
        if state.running:
            failover.sync_lists(state, member)
            lacp.listen(state, member)
    failover.set_carrier(state)


@dataclass(frozen=True, slots=True)
class _SavedIdentity:
    """What a first member changes of a bond."""

    up: bool
    type: int
    address: bytes
    origin: AddressOrigin
    broadcast: bytes
    hard_header_len: int
    kind: Flags
    mtu: int
    max_mtu: int
    fail_over_mac: int

    @classmethod
    def of(cls, state: State) -> "_SavedIdentity":
        bond = state.device
        return cls(
            up=bond.up,
            type=bond.type,
            address=bond.address,
            origin=bond.address_origin,
            broadcast=bond.broadcast,
            hard_header_len=bond.hard_header_len,
            kind=bond.flags & OF_TYPE,
            mtu=bond.mtu,
            max_mtu=bond.max_mtu,
            fail_over_mac=state.values.fail_over_mac,
        )


def _undo_flags(state: State, device: Device, before: _SavedIdentity) -> None:
    """`err_undo_flags`: the first member was refused after the bond had taken its type or address."""
    if not state.rules.kernel("refusal_undresses_bond"):
        _restore_identity(state, before)
        return
    bond = state.device
    if (bond.address + state.address_memory[bond.addr_len :])[:6] == device.address[:6].ljust(6, b"\0"):
        identity.make_up_address(state)
    if bond.type != ETHERNET:
        bond.close()
        identity.become_ethernet(state)


def _restore_identity(state: State, before: _SavedIdentity) -> None:
    """Our way: type, address, MTU, policy and admin state are what they were before the request."""
    bond = state.device
    retyped = bond.type != before.type
    if retyped:
        with suppress(Refused):
            bond.notify(NetdevEvent.PRE_TYPE_CHANGE)
        bond.unicast.flush()
        bond.multicast.flush()
        bond.close()
    bond.type, bond.address, bond.address_origin = before.type, before.address, before.origin
    bond.broadcast, bond.hard_header_len = before.broadcast, before.hard_header_len
    bond.mtu, bond.max_mtu = before.mtu, before.max_mtu
    bond.flags = bond.flags & ~OF_TYPE | before.kind
    state.values.fail_over_mac = before.fail_over_mac
    if retyped:
        if before.up:
            bond.open()
        bond.notify(NetdevEvent.POST_TYPE_CHANGE)


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


def _refused(state: State, device: Device, why: str, fix: str, code: int) -> Refused:
    return Refused(f"cannot add {device.name} to {state.name}", why=why, fix=fix, code=code)


def _type_name(kind: int) -> str:
    return {ETHERNET: "Ethernet", INFINIBAND: "InfiniBand"}.get(kind, f"of type {kind}")
