"""The ARP monitor: members are up while targets answer.

Read first: `bond_activebackup_arp_mon`, `bond_rcv_validate` and `bond_loadbalance_arp_mon` of the kernel's driver. It
catches what a carrier cannot: a dead switch behind a live port, a partitioned subnet. Left out: making the probes
(the stack does, it knows the bond's IP addresses and routes) and parsing frames.
"""

from ibbond.bonding import announcements, failover, selection
from ibbond.bonding.effects import ProbeArp, ProbeNeighbor
from ibbond.bonding.events import ArpSeen, FrameSeen, NeighborDiscoverySeen
from ibbond.bonding.member import Link, Member
from ibbond.bonding.state import JIFFY, BondTimer, State
from ibbond.machine import MS
from ibbond.wire.hardware_type import ETHERNET

ANY, ALL = range(2)  # arp_all_targets
VALIDATE_ACTIVE, VALIDATE_BACKUP, FILTER = 1, 2, 4  # bits of arp_validate
ARP_REPLY = 2
NEIGHBOR_SOLICITATION, NEIGHBOR_ADVERTISEMENT = 135, 136
ALL_NODES = bytes.fromhex("ff020000000000000000000000000001")


def run(state: State) -> None:
    """One run, re-armed exactly one interval later."""
    was_due = announcements.is_due(state)
    if state.members:
        if not state.values.active_backup:
            _run_balanced(state)
        else:
            if _inspect(state):
                if state.lock_taken:
                    state.lock_taken = False
                    state.timers.set(BondTimer.ARP, state.now + JIFFY)
                    return
                _commit(state)
            _probe(state)
    state.lock_taken = False
    state.timers.set(BondTimer.ARP, state.now + state.values.arp_interval * MS if state.values.arp_interval else None)
    if state.values.active_backup:
        announcements.after_arp_run(state, was_due)


def is_within(state: State, last: int, intervals: int) -> bool:
    """`bond_time_in_interval`: not longer ago than so many intervals and a half (nor too far ahead)."""
    unit = JIFFY if state.rules.kernel("ages_in_jiffies") else 1
    interval, age = -(-state.values.arp_interval * MS // unit), state.now // unit - last // unit
    return -interval <= age <= intervals * interval + interval // 2


def last_received(state: State, member: Member) -> int:
    """`slave_last_rx`: of any target, or of the one that is silent for the longest time."""
    if state.values.arp_all_targets == ANY:
        return member.last_rx
    return min(member.target_rx[: max(1, len(state.values.arp_ip_target))])


def carrier_changed(state: State) -> None:
    """`link_events`: a member that lost its carrier is down at once; whether it is up again the targets decide."""
    lost = [member for member in state.members.values() if member.link is Link.UP and not member.usable]
    for member in lost:
        _take_down(state, member)
        state.say("link status definitely down, disabling slave", member)
    if any(member is state.active_member for member in lost):
        state.arp_member = None
        selection.select_active(state)
    if lost:
        failover.set_carrier(state)


def end_trial(state: State) -> None:
    """No member is on trial while none is active."""
    if state.arp_member is not None and state.arp_member is not state.active_member:
        failover.set_inactive(state, state.arp_member)
    state.arp_member = None


def _inspect(state: State) -> bool:
    missed = state.values.arp_missed_max
    for member in state.members.values():
        member.proposal = None
        received = last_received(state, member)
        if member.link is not Link.UP:
            if is_within(state, received, 1) and _may_be_up(state, member):
                member.proposal = Link.UP
            elif member.link is Link.BACK:
                member.proposal = Link.FAIL
        elif is_within(state, member.last_link_up, 2):
            continue  # grace period after joining or becoming active
        elif member.backup:
            if state.arp_member is None and not is_within(state, received, missed + 1):
                member.proposal = Link.DOWN
        elif not is_within(state, member.last_tx, missed) or not is_within(state, received, missed):
            member.proposal = Link.DOWN
    return any(member.proposal is not None for member in state.members.values())


def _may_be_up(state: State, member: Member) -> bool:
    """A frame received just before the cable was unplugged does not bring a member up; in the kernel it does."""
    return member.usable or state.rules.kernel("polled_links")


def _commit(state: State) -> None:
    again = False
    for member in state.members.values():
        proposal, member.proposal = member.proposal, None
        if proposal is Link.UP and state.active_member is not member:
            again |= _take_up(state, member)
        elif proposal is Link.DOWN:
            _take_down(state, member)
            state.say("link status definitely down, disabling slave", member)
            if member is state.active_member:
                state.arp_member = None
                again = True
        elif proposal is Link.FAIL:
            failover.set_link(state, member, Link.FAIL)
            failover.set_inactive(state, member)
            if state.active_member is not None:
                state.arp_member = None
    if again:
        selection.select_active(state)
    failover.set_carrier(state)


def _take_up(state: State, member: Member) -> bool:
    failover.set_link(state, member, Link.UP)
    if state.arp_member is not None:
        failover.set_inactive(state, state.arp_member)
        state.arp_member = None
    state.say("link status definitely up", member)
    active = state.active_member
    return active is None or member is state.primary_member or member.priority > active.priority


def _take_down(state: State, member: Member) -> None:
    member.fail()
    state.changed("link_failure_count", member)
    failover.set_link(state, member, Link.DOWN)
    failover.set_inactive(state, member)


def _probe(state: State) -> None:
    """Through the active member; while there is none, through one member after the other."""
    if state.active_member is not None:
        _send_probes(state, state.active_member)
        return
    candidate = _next_candidate(state)
    if candidate is None:
        return
    failover.set_link(state, candidate, Link.BACK)
    failover.set_active(state, candidate)
    _send_probes(state, candidate)
    candidate.last_link_up = state.now
    state.arp_member = candidate


def _next_candidate(state: State) -> Member | None:
    """The next member with carrier after the one that was tried last, or the first."""
    members = list(state.members.values())
    last = state.arp_member or members[0]
    for member in members:
        if (
            not member.usable and member.link is Link.UP
        ):  # lost its carrier with the others, which the monitor has not seen
            _take_down(state, member)
            state.say("backup interface is now down", member)
    place = members.index(last)
    rotated = members[place + 1 :] + members[: place + 1]
    return next((member for member in rotated if member.usable), None)


def _send_probes(state: State, member: Member) -> None:
    for target in state.values.arp_ip_target:
        state.emit(ProbeArp(member.name, target))
    for target in state.values.ns_ip6_target:
        state.emit(ProbeNeighbor(member.name, target))
    if state.values.arp_ip_target or state.values.ns_ip6_target:
        member.last_tx = state.now


def _run_balanced(state: State) -> None:
    """`bond_loadbalance_arp_mon`: the modes without a primary."""
    again = changed = False
    current, missed = state.active_member, state.values.arp_missed_max
    for member in state.members.values():
        proposal = None
        if member.link is not Link.UP:
            if is_within(state, member.last_tx, 1) and is_within(state, member.last_rx, 1):
                proposal = Link.UP
                state.say("link status definitely up" if current is None else "interface is now up", member)
                again |= current is None
        elif not is_within(state, member.last_tx, missed) or not is_within(state, member.last_rx, missed):
            proposal = Link.DOWN
            member.fail()
            state.say("interface is now down", member)
            again |= member is current
        if member.usable:
            _send_probes(state, member)
        member.proposal = proposal
        changed |= proposal is not None
    for member in state.members.values():
        proposal, member.proposal = member.proposal, None
        if proposal is not None:
            failover.set_link(state, member, proposal)
    if changed:
        for member in state.members.values():
            if member.link is Link.UP:
                failover.set_active(state, member)
            else:
                failover.set_inactive(state, member)
    if again:
        selection.select_active(state)


def frame_seen(state: State, member: Member, event: ArpSeen | NeighborDiscoverySeen | FrameSeen) -> None:
    """`bond_rcv_validate`: any frame shows life, unless answers of targets are asked for."""
    if not state.probing:
        return
    if event.own and not state.rules.kernel("own_probes_count"):
        _own_probe_seen(state, member, event)
        return
    validate = state.values.arp_validate
    wanted = VALIDATE_BACKUP if member.backup else VALIDATE_ACTIVE
    if not validate & wanted:
        is_arp_or_ipv6 = not isinstance(event, FrameSeen) or event.ipv6
        if not validate & FILTER or is_arp_or_ipv6:
            member.last_rx = state.now
            _answered(state, member)
    elif isinstance(event, ArpSeen):
        _arp_seen(state, member, event)
    elif isinstance(event, NeighborDiscoverySeen):
        _neighbor_seen(state, member, event)


def _own_probe_seen(state: State, member: Member, event: ArpSeen | NeighborDiscoverySeen | FrameSeen) -> None:
    """A member received what another one asked: it has a way to that member, and to the target if that is answered."""
    if not member.backup or isinstance(event, FrameSeen):
        return
    if isinstance(event, ArpSeen):
        asked, targets = event.target_ip, state.values.arp_ip_target
    else:
        asked, targets = event.target, state.values.ns_ip6_target
    if asked in targets:
        member.echoes[targets.index(asked)] = state.now


def _answered(state: State, member: Member, target: int | None = None) -> None:
    """A member that asks was answered (by this target, where that is known): so the probes of before were worth it."""
    if member.backup:
        return
    for other in state.members.values():
        for index, at in tuple(other.echoes.items()):
            if target in (None, index):
                del other.echoes[index]
                other.last_rx = max(other.last_rx, at)
                other.target_rx[index] = max(other.target_rx[index], at)


def _arp_seen(state: State, member: Member, event: ArpSeen) -> None:
    expected = ETHERNET if state.rules.kernel("arp_of_ethernet_only") else state.device.type
    if event.hardware_length != state.device.addr_len or event.hardware_type != expected:
        return
    if not member.backup:
        _validate_arp(state, member, event.sender_ip, event.target_ip)
    elif _active_sees_targets(state):
        # A backup sees the broadcast request of the active member, not the answer.
        _validate_arp(state, member, event.target_ip, event.sender_ip)
    elif event.operation == ARP_REPLY and _tried_lately(state):
        _validate_arp(state, member, event.sender_ip, event.target_ip)


def _validate_arp(state: State, member: Member, target: bytes, own: bytes) -> None:
    targets = state.values.arp_ip_target
    if any(target) and own in state.ip_addresses and target in targets:
        member.last_rx = member.target_rx[targets.index(target)] = state.now
        _answered(state, member, targets.index(target))


def _neighbor_seen(state: State, member: Member, event: NeighborDiscoverySeen) -> None:
    if event.icmp_type not in (NEIGHBOR_SOLICITATION, NEIGHBOR_ADVERTISEMENT):
        return
    if member.backup and not _active_sees_targets(state) and not _tried_lately(state):
        return
    targets = state.values.ns_ip6_target
    ours = event.destination == ALL_NODES or event.destination in state.ip_addresses
    if ours and any(event.source) and event.source in targets:
        member.last_rx = member.target_rx[targets.index(event.source)] = state.now
        _answered(state, member, targets.index(event.source))


def _active_sees_targets(state: State) -> bool:
    active = state.active_member
    return active is not None and last_received(state, active) > active.last_link_up


def _tried_lately(state: State) -> bool:
    return state.arp_member is not None and is_within(state, state.arp_member.last_tx, 1)
