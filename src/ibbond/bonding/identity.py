"""Who the bond is: its type, taken from the first member, and its hardware address, by the fail_over_mac policy.

Read first: `bond_setup_by_slave`, `bond_ether_setup`, `bond_set_dev_addr` and `bond_do_fail_over_mac` of the kernel's
driver, and the rows `dev_setup` and `allow_not_up_enslave` of `quirks`. Left out: the members' own addresses at joining
and leaving (`admission`).
"""

import errno

from ibbond.bonding import adaptive
from ibbond.bonding.member import Member
from ibbond.bonding.option import Mode
from ibbond.bonding.state import State, made_up_address
from ibbond.errors import Refused
from ibbond.netdev.device import AddressOrigin, Device, Flags, NetdevEvent
from ibbond.wire.hardware_type import ETHERNET

NONE, ACTIVE, FOLLOW = range(3)  # fail_over_mac
ETHERNET_BYTES = 6
ETHERNET_MTU = 1500
MAX_MTU = 65535
ETHERNET_FLAGS = Flags.BROADCAST | Flags.MULTICAST
POINT_TO_POINT_FLAGS = Flags.POINTOPOINT | Flags.NOARP


def take_type(state: State, first: Device) -> None:
    """The bond becomes a device of its first member's type; every listener maps its groups again.

    EBUSY when a listener of PRE_TYPE_CHANGE refuses; nothing has changed then.
    """
    remaps = not state.rules.kernel("allow_not_up_enslave")
    if remaps:
        try:
            state.device.notify(NetdevEvent.PRE_TYPE_CHANGE)
        except Refused as veto:
            state.say_of("Error: refused to change device type", first.name, "error")
            raise Refused(veto.what, why=veto.why, fix=veto.fix, code=errno.EBUSY) from veto
        state.device.unicast.flush()
        state.device.multicast.flush()
    if first.type == ETHERNET:
        become_ethernet(state)
    else:
        _become_like(state, first)
    if remaps:
        state.device.notify(NetdevEvent.POST_TYPE_CHANGE)


def _become_like(state: State, first: Device) -> None:
    bond = state.device
    was_up = bond.up
    cycles = not state.rules.kernel("allow_not_up_enslave")  # in 2007 an up bond stayed up, with the groups it had
    if cycles:
        bond.close()
    bond.type = first.type
    bond.hard_header_len = first.hard_header_len
    resize_address(state, first.addr_len)
    bond.broadcast = first.broadcast
    if first.flags & Flags.POINTOPOINT:
        bond.flags = bond.flags & ~ETHERNET_FLAGS | POINT_TO_POINT_FLAGS
    if was_up and cycles:
        bond.open()
        state.monitor_ran_without_members()


def become_ethernet(state: State) -> None:
    """`bond_ether_setup`: all that `ether_setup` sets, the MTU included."""
    bond = state.device
    bond.type = ETHERNET
    bond.hard_header_len = 14
    resize_address(state, ETHERNET_BYTES)
    bond.broadcast = b"\xff" * ETHERNET_BYTES
    bond.mtu = ETHERNET_MTU
    bond.min_mtu = 68
    bond.max_mtu = ETHERNET_MTU if state.rules.kernel("mtu_limit_lost") else MAX_MTU
    bond.tx_queue_len = 1000
    kept = Flags.MASTER | Flags.SLAVE | Flags.UP
    if not state.rules.kernel("promiscuity_forgotten"):
        kept |= Flags.PROMISC | Flags.ALLMULTI
    bond.flags = bond.flags & kept | ETHERNET_FLAGS
    state.promiscuous_seen = bool(bond.flags & Flags.PROMISC)
    state.allmulti_seen = bool(bond.flags & Flags.ALLMULTI)


def resize_address(state: State, length: int) -> None:
    """Another address length: octets beyond the old one are what they were when they were last in use."""
    state.address_memory = state.device.address + state.address_memory[state.device.addr_len :]
    state.device.address = state.address_memory[:length]


def make_up_address(state: State) -> None:
    """`eth_hw_addr_random`: six octets; what follows them is zero, or in the kernel what was there before."""
    rest = state.device.address[ETHERNET_BYTES:]
    if not state.rules.kernel("random_address_of_six"):
        rest = bytes(len(rest))
    state.device.address = (made_up_address(state) + rest)[: state.device.addr_len]
    state.device.address_origin = AddressOrigin.RANDOM


def take_address_of(state: State, member: Device) -> None:
    """`bond_set_dev_addr`: the bond shows this member's address. A listener may refuse."""
    bond = state.device
    bond.notify(NetdevEvent.PRE_CHANGEADDR)
    state.address_memory = bond.address + state.address_memory[bond.addr_len :]
    state.address_memory = member.address + state.address_memory[member.addr_len :]
    bond.address = state.address_memory[: bond.addr_len]
    bond.address_origin = AddressOrigin.STOLEN
    bond.notify(NetdevEvent.CHANGEADDR)


def follow_active(state: State, new: Member, old: Member | None) -> None:
    """`bond_do_fail_over_mac`: what the policy says when another member becomes active."""
    policy = state.values.fail_over_mac
    if policy == ACTIVE:
        try:
            take_address_of(state, new.device)
        except Refused as veto:
            state.say(f"Error: {veto.why}: the bond keeps its hardware address", new, "error")
    elif policy == FOLLOW:
        _swap_addresses(state, new, old)


def _swap_addresses(state: State, new: Member, old: Member | None) -> None:
    """The new active member takes the bond's address, the old one the address that this frees."""
    old = old or _carrier_of_bond_address(state, new)
    before = new.device.address
    wanted = old.device.address if old is not None else state.device.address
    for member, address in ((new, wanted), (old, before)):
        if member is None:
            continue
        try:
            member.device.set_address(address, AddressOrigin.SET)
        except Refused as refused:
            state.say(f"Error {-refused.code} setting MAC of slave", member, "error")
            return


def _carrier_of_bond_address(state: State, new: Member) -> Member | None:
    """`bond_get_old_active`: the active member left, but another one may have the bond's address."""
    for member in state.members.values():
        if member is not new and member.device.address == state.device.address:
            return member
    return None


def set_address_by_hand(state: State, address: bytes) -> None:
    """`bond_set_mac_address`: all members take it, or none does. With fail_over_mac it is accepted and ignored."""
    bond = state.device
    if state.values.fail_over_mac != NONE and state.values.active_backup:
        return
    if not _is_ethernet_address(address[:ETHERNET_BYTES]):
        raise Refused(
            f"cannot set the hardware address of {bond.name}",
            why="it is not a unicast Ethernet address",
            fix="Use a unicast address that is not all zero",
            code=errno.EADDRNOTAVAIL,
        )
    if state.values.kind is Mode.BALANCE_ALB:
        adaptive.set_bond_address(state, address)
        return
    done: list[Member] = []
    for member in state.members.values():
        try:
            member.device.set_address(address, AddressOrigin.SET)
        except Refused:
            for changed in done:
                changed.device.set_address(bond.address, AddressOrigin.SET)
            raise
        done.append(member)
    bond.address = address[: bond.addr_len].ljust(bond.addr_len, b"\0")


def _is_ethernet_address(address: bytes) -> bool:
    return len(address) == ETHERNET_BYTES and not address[0] & 1 and any(address)
