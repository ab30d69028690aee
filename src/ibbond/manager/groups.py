"""Multicast groups of the subnet: who has joined, with which parameters, on which MLID.

Read first: InfiniBand Architecture volume 1, 15.2.5.17 (MCMemberRecord rules o15-0.2). A group begins with a join that
carries all that is needed, or as a partition's broadcast group; it ends with its last full member, but for
broadcast groups. Left out: proxy joins for other nodes' ports.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field, replace

from ibbond.manager.directory import EndPort
from ibbond.manager.partitions import RATE_10, Partition
from ibbond.verbs.verbs import FIRST_MLID
from ibbond.wire.pkey import FULL_MEMBER
from ibbond.wire.port_info import MTU_CODE
from ibbond.wire.sa import SaStatus
from ibbond.wire.sa_records import JoinState, McMemberMask, McMemberRecord, Selector
from ibbond.wire.smp import MULTICAST_CAP

RATE_40 = 7
DEFAULT_MTU = 4  # 2048 bytes
LIFETIME = 0x12  # 4.096 us x 2^18
NEEDED_TO_JOIN = McMemberMask.PORT_GID | McMemberMask.JOIN_STATE
NEEDED_TO_CREATE = (
    McMemberMask.QKEY | McMemberMask.TRAFFIC_CLASS | McMemberMask.PKEY | McMemberMask.FLOW_LABEL | McMemberMask.SL
)
FULL_STATES = JoinState.FULL | JoinState.SEND_ONLY_FULL
RECEIVING_STATES = JoinState.FULL | JoinState.NON_MEMBER
IPOIB_SIGNATURES = (0x401B, 0x601B)


class RefusedBySa(Exception):
    """The request is answered with this status; nothing has changed."""

    def __init__(self, status: SaStatus) -> None:
        self.status = status


@dataclass(slots=True)
class Group:
    """A group; `parameters` is its record without a member, `members` has the join state by port GUID."""

    parameters: McMemberRecord
    permanent: bool = False
    members: dict[int, int] = field(default_factory=dict)

    @property
    def mgid(self) -> bytes:
        return self.parameters.mgid

    @property
    def mlid(self) -> int:
        return self.parameters.mlid

    def record(self, gid: bytes = bytes(16), state: int = 0) -> McMemberRecord:
        return replace(self.parameters, port_gid=gid, join_state=state)


class Mlids:
    """The multicast LIDs in use: the lowest free one is given first."""

    def __init__(self) -> None:
        self._used: set[int] = set()
        self._free: list[int] = []  # those given back, a heap
        self._fresh = FIRST_MLID  # never given so far
        self.top = 0  # the highest in use; 0 when none is

    def take(self) -> int:
        if self._free:
            mlid = heapq.heappop(self._free)
        elif self._fresh < FIRST_MLID + MULTICAST_CAP:
            mlid, self._fresh = self._fresh, self._fresh + 1
        else:
            raise RefusedBySa(SaStatus.NO_RESOURCES)
        self._used.add(mlid)
        self.top = max(self.top, mlid)
        return mlid

    def give_back(self, mlid: int) -> None:
        self._used.remove(mlid)
        heapq.heappush(self._free, mlid)
        while self.top and self.top not in self._used:
            self.top = self.top - 1 if self.top > FIRST_MLID else 0


class Groups:
    """All groups by MGID."""

    def __init__(self) -> None:
        self.by_mgid: dict[bytes, Group] = {}
        self.mlids = Mlids()
        self._made = 0

    def add_broadcast(self, partition: Partition) -> Group:
        """The broadcast group of a partition, which no member's leaving ends."""
        record = McMemberRecord(
            mgid=partition.broadcast_mgid(),
            qkey=partition.qkey,
            mlid=self.mlids.take(),
            mtu_selector=Selector.EXACTLY,
            mtu=MTU_CODE[partition.mtu_bytes],
            pkey=partition.full_pkey,
            rate_selector=Selector.EXACTLY,
            rate=partition.rate,
            lifetime_selector=Selector.EXACTLY,
            lifetime=LIFETIME,
            sl=partition.sl,
            scope=partition.scope,
        )
        group = self.by_mgid[record.mgid] = Group(record, permanent=True)
        return group

    def join(self, asked: McMemberRecord, mask: int, member: EndPort | None) -> tuple[Group, McMemberRecord, bool]:
        """Join, making the group where that is possible: (group, answer, made just now); raises `RefusedBySa`."""
        if mask & NEEDED_TO_JOIN != NEEDED_TO_JOIN:
            raise RefusedBySa(SaStatus.INSUFFICIENT_COMPONENTS)
        if member is None:
            raise RefusedBySa(SaStatus.INVALID_GID)
        if not asked.join_state:
            raise RefusedBySa(SaStatus.INVALID)
        named = bool(mask & McMemberMask.MGID) and any(asked.mgid)
        group = self.by_mgid.get(asked.mgid) if named else None
        made = group is None
        if group is None:
            group = self._make(asked, mask, member, named)
        else:
            _check_fits(group, asked, mask, member)
        state = group.members[member.guid] = group.members.get(member.guid, 0) | asked.join_state
        return group, group.record(member.gid, state), made

    def leave(self, asked: McMemberRecord, mask: int, member: EndPort | None) -> tuple[Group, McMemberRecord, bool]:
        """Leave with some or all join states: (group, answer, the group has ended); raises `RefusedBySa`."""
        needed = NEEDED_TO_JOIN | McMemberMask.MGID
        if mask & needed != needed:
            raise RefusedBySa(SaStatus.INSUFFICIENT_COMPONENTS)
        group = self.by_mgid.get(asked.mgid)
        state = group.members.get(member.guid, 0) if group is not None and member is not None else 0
        if group is None or member is None or not state & asked.join_state:
            raise RefusedBySa(SaStatus.INVALID)
        rest = state & ~asked.join_state
        if rest:
            group.members[member.guid] = rest
        else:
            del group.members[member.guid]
        return group, group.record(member.gid, state & asked.join_state), self._end_if_empty(group)

    def forget(self, guid: int) -> list[tuple[Group, bool]]:
        """A port is gone: the groups that it was in, and whether each has ended with it."""
        left = [group for group in self.by_mgid.values() if group.members.pop(guid, 0)]
        return [(group, self._end_if_empty(group)) for group in left]

    def clear(self) -> None:
        """Only broadcast groups are left, without members: what a subnet manager that starts knows."""
        for group in tuple(self.by_mgid.values()):
            group.members.clear()
            self._end_if_empty(group)

    def _end_if_empty(self, group: Group) -> bool:
        """o15-0.2.3: without full members a group ends, and those who only sent lose it."""
        if group.permanent or any(state & FULL_STATES for state in group.members.values()):
            return False
        del self.by_mgid[group.mgid]
        self.mlids.give_back(group.mlid)
        return True

    def _make(self, asked: McMemberRecord, mask: int, member: EndPort, named: bool) -> Group:
        if mask & NEEDED_TO_CREATE != NEEDED_TO_CREATE:
            raise RefusedBySa(SaStatus.INSUFFICIENT_COMPONENTS)
        if not asked.join_state & FULL_STATES or not asked.pkey & 0x7FFF or not member.has_pkey(asked.pkey):
            raise RefusedBySa(SaStatus.INVALID)
        mgid = asked.mgid if named else self._new_mgid()
        if not _valid_mgid(mgid, asked.pkey):
            raise RefusedBySa(SaStatus.INVALID)
        mtu = _choose(asked.mtu, asked.mtu_selector, mask, McMemberMask.MTU, min(DEFAULT_MTU, member.mtu), member.mtu)
        rate = _choose(asked.rate, asked.rate_selector, mask, McMemberMask.RATE, RATE_10, RATE_40)
        parameters = replace(
            asked,
            mgid=mgid,
            port_gid=bytes(16),
            mlid=self.mlids.take(),
            mtu_selector=Selector.EXACTLY,
            mtu=mtu,
            rate_selector=Selector.EXACTLY,
            rate=rate,
            pkey=asked.pkey | FULL_MEMBER,
            lifetime_selector=Selector.EXACTLY,
            lifetime=LIFETIME,
            scope=asked.scope if mask & McMemberMask.SCOPE else mgid[1] & 0xF,
            hop_limit=asked.hop_limit if mask & McMemberMask.HOP_LIMIT else 0,
            join_state=0,
            proxy_join=False,
        )
        group = self.by_mgid[mgid] = Group(parameters)
        return group

    def _new_mgid(self) -> bytes:
        """An MGID of the administrator's own choice: ff12:a01b:... and a count."""
        self._made += 1
        return bytes.fromhex("ff12a01b") + self._made.to_bytes(12, "big")


def _valid_mgid(mgid: bytes, pkey: int) -> bool:
    """A multicast GID; where it is an IPoIB one, it names its own P_Key in the full form."""
    if mgid[0] != 0xFF or mgid[1] & 0xE0:
        return False
    if int.from_bytes(mgid[2:4], "big") in IPOIB_SIGNATURES and mgid[1] & 0x10:
        return int.from_bytes(mgid[4:6], "big") == pkey | FULL_MEMBER
    return True


def matches(value: int, wanted: int, selector: int) -> bool:
    """A code against what was asked: greater than, less than, exactly, or the largest there is."""
    if selector == Selector.GREATER:
        return value > wanted
    if selector == Selector.LESS:
        return value < wanted
    return selector == Selector.MAX_BYTES or value == wanted


def _choose(wanted: int, selector: int, mask: int, bit: McMemberMask, default: int, largest: int) -> int:
    """The MTU or rate of a group that is made: as asked, or the default."""
    if not mask & bit:
        return default
    if selector == Selector.MAX_BYTES:
        return largest
    value = {Selector.GREATER: wanted + 1, Selector.LESS: wanted - 1}.get(Selector(selector), wanted)
    if not 0 < value <= largest:
        raise RefusedBySa(SaStatus.INVALID)
    return value


def _check_fits(group: Group, asked: McMemberRecord, mask: int, member: EndPort) -> None:
    """Whatever the request names must be what the group has, and the port must be able to take part."""
    own = group.parameters
    pairs = (
        (McMemberMask.QKEY, own.qkey == asked.qkey),
        (McMemberMask.MLID, own.mlid == asked.mlid),
        (McMemberMask.TRAFFIC_CLASS, own.traffic_class == asked.traffic_class),
        (McMemberMask.PKEY, not (own.pkey ^ asked.pkey) & 0x7FFF),
        (McMemberMask.MTU, matches(own.mtu, asked.mtu, asked.mtu_selector)),
        (McMemberMask.RATE, matches(own.rate, asked.rate, asked.rate_selector)),
        (McMemberMask.SL, own.sl == asked.sl),
        (McMemberMask.FLOW_LABEL, own.flow_label == asked.flow_label),
        (McMemberMask.SCOPE, own.scope == asked.scope),
    )
    if any(mask & bit and not fits for bit, fits in pairs) or member.mtu < own.mtu or not member.has_pkey(own.pkey):
        raise RefusedBySa(SaStatus.INVALID)
