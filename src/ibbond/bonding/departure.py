"""A member leaves a bond, by request or because its device goes, and what it is given back.

Read first: `__bond_release_one`, `bond_release_and_destroy` and `bond_uninit` of the kernel's driver. Left out: the
choice of another active member (`selection`).
"""

import errno
from contextlib import suppress

from ibbond.bonding import adaptive, datapath, failover, identity, selection, solicited
from ibbond.bonding.member import Member
from ibbond.bonding.state import State, is_promiscuous, takes_all_multicast
from ibbond.errors import Refused
from ibbond.netdev.device import AddressOrigin, Device, Flags, NetdevEvent
from ibbond.wire.hardware_type import ETHERNET


def remove_member(state: State, device: Device) -> None:
    """`bond_release`: EINVAL when the device is not a member of this bond."""
    member = state.member_of(device)
    if member is None:
        raise Refused(
            f"cannot remove {device.name} from {state.name}",
            why="it is not one of its members",
            fix="The file slaves lists the members",
            code=errno.EINVAL,
        )
    _release(state, member, keep_choice=True)


def member_unregistered(state: State, device: Device) -> None:
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
        bond.notify(NetdevEvent.CHANGEADDR)
        bond.notify(NetdevEvent.RELEASE)
    if device.driver.vlan_challenged and not any(m.device.driver.vlan_challenged for m in state.members.values()):
        state.say_of("last VLAN challenged slave left bond - VLAN blocking is removed", device.name)
    if not values.uses_primary:
        _take_back_lists(state, member)
    solicited.listen(member, ())
    device.close()
    if not keeps_own:
        restore_address(member)
    restore_mtu(member)
    state.changed("slaves")


def _unlink(state: State, member: Member) -> None:
    del state.members[member.name]
    if state.preparation is not None and state.preparation.target is member:
        state.preparation = None
    state.device.lowers.remove(member.device)
    member.device.master = None
    member.device.flags &= ~Flags.SLAVE
    member.device.notify(NetdevEvent.CHANGEUPPER)


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


def restore_mtu(member: Member) -> None:
    with suppress(Refused):
        member.device.set_mtu(member.original_mtu)


def restore_address(member: Member) -> None:
    with suppress(Refused):
        member.device.set_address(member.permanent_address, AddressOrigin.SET)
