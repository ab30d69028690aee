"""A bond as a value: the snapshot that sysfs, procfs, netlink, the CLI and JSON are rendered from.

Read first: `snapshot`, and the show functions of bond_sysfs.c and bond_procfs.c of the kernel's driver. Left out: any
text.
"""

from ibbond.bonding.member import Member
from ibbond.bonding.option import Kind
from ibbond.bonding.options import OPTIONS
from ibbond.bonding.snapshot import BondSnapshot, MemberSnapshot
from ibbond.bonding.state import State

NUMBERS = tuple(
    (option.name, option.key) for option in OPTIONS.values() if option.kind is Kind.VALUE and not option.of_member
)


def snapshot(state: State) -> BondSnapshot:
    """Everything that can be read of a bond, at this moment."""
    device = state.device
    return BondSnapshot(
        name=device.name,
        type=device.type,
        address=device.address,
        broadcast=device.broadcast,
        mtu=device.mtu,
        up=device.up,
        carrier=device.carrier,
        active=state.active if state.values.uses_primary else None,
        primary=state.primary_member.name if state.primary_member else None,
        members=tuple(member_snapshot(member) for member in state.members.values()),
        options=options(state),
    )


def member_snapshot(member: Member) -> MemberSnapshot:
    return MemberSnapshot(
        name=member.name,
        state="backup" if member.backup else "active",
        link=member.link.word,
        link_failure_count=member.failures,
        permanent_address=member.permanent_address,
        queue_id=member.queue_id,
        priority=member.priority,
        speed=member.speed,
        duplex=member.duplex,
    )


def options(state: State) -> dict[str, object]:
    """Every option of the table that has a value: numbers (delays in ms), names, and tuples for lists."""
    values = state.values
    read: dict[str, object] = {name: values.number(key) for name, key in NUMBERS}
    read["slaves"] = tuple(state.members)
    read["active_slave"] = (state.active or "") if values.uses_primary else ""
    read["primary"] = state.primary_member.name if state.primary_member else ""
    read["queue_id"] = tuple((member.name, member.queue_id) for member in state.members.values())
    read["prio"] = tuple((member.name, member.priority) for member in state.members.values())
    read["arp_ip_target"] = values.arp_ip_target
    read["ns_ip6_target"] = values.ns_ip6_target
    read["ad_actor_system"] = values.ad_actor_system
    read["mii_status"] = "up" if state.device.carrier else "down"
    return read
