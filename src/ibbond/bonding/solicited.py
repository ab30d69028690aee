"""Backups that are monitored by IPv6 targets must receive the bond's neighbor solicitations: the groups for that.

Read first: `bond_slave_ns_maddrs_add` and its callers in the kernel's driver. A backup listens to the solicited-node
group of each target, in the kernel only while `arp_validate` is set: there any frame counts otherwise, here none of the
bond's own does before it was answered. The active member has the bond's own groups. Left out: the frames.
"""

from ibbond.bonding.member import Member
from ibbond.bonding.state import State
from ibbond.netdev.device import Flags
from ibbond.wire.group_address import map_group

SOLICITED_NODE = bytes.fromhex("ff0200000000000000000001ff")


def refresh(state: State) -> None:
    """Let every member listen to what it should, whatever has changed."""
    if not state.values.ns_ip6_target and not any(member.solicited for member in state.members.values()):
        return
    for member in state.members.values():
        listen(member, _wanted(state, member))


def listen(member: Member, groups: tuple[bytes, ...]) -> None:
    """Exactly these link-layer groups, beside all others that the device has."""
    if groups == member.solicited:
        return
    for group in member.solicited:
        member.device.remove_multicast(group)
    for group in groups:
        member.device.add_multicast(group)
    member.solicited = groups


def _wanted(state: State, member: Member) -> tuple[bytes, ...]:
    values, device = state.values, member.device
    receives_multicast = bool(device.flags & Flags.MULTICAST)
    asked_for = values.arp_validate or not state.rules.kernel("own_probes_count")
    if not (values.active_backup and asked_for and member.backup and receives_multicast):
        return ()
    targets = values.ns_ip6_target
    return tuple(map_group(SOLICITED_NODE + target[13:], device.type, device.broadcast) for target in targets)
