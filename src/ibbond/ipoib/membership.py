"""The multicast groups of one interface: broadcast first, then what the device receives, then what it only sends to.

Read first: RFC 4391 sections 5 and 10, and Linux's `ipoib_multicast.c`. A group's states are the table in
`membership_states`. Joins are MCMemberRecord requests; a group
that the administrator does not give is asked for again after 2, 4, 8, then every 16 seconds. Where the subnet has no
room for more groups, all that were refused share one such back-off (`refused_groups`). One thing is better than in
Linux: when the subnet manager asks all ports to register again, groups are joined again without being left, so that
nothing is lost while it answers. Only `want_only`, `renew`, `collect`, `superseded` and `stop` look at all groups.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial

from ibbond.errors import Malformed
from ibbond.ipoib.events import Attach, Detach, InterfaceEffect, PathsChanged
from ibbond.ipoib.membership_states import MEMBERSHIP_TABLE, MemberInput, MemberReaction, MemberState
from ibbond.ipoib.queries import Join, Leave, Queries
from ibbond.ipoib.refused_groups import MAX_BACKOFF_S, RefusedGroups
from ibbond.ipoib.transmit import SUPERSEDED, Packet, Path, TransmitSide
from ibbond.machine import SECOND, Deadlines
from ibbond.verbs.verbs import FIRST_MLID, MULTICAST_QPN, PortState
from ibbond.wire.mad import Method
from ibbond.wire.sa import SaAttribute, SaMad, SaStatus
from ibbond.wire.sa_records import JoinState, McMemberMask, McMemberRecord, Selector

WAITING_PACKETS = 64  # per group while it is joined (IPOIB_MAX_MCAST_QUEUE)
SEND_ONLY_TRIES = 2
MAX_SEND_ONLY = 256  # groups only sent to: each random IPv6 neighbor that is looked for has a group of its own
SEND_ONLY_NS = 1 * SECOND  # so long at least a group only sent to is kept for the next packet
LOOKS = 8  # how many of the oldest of these are looked at to find one that may give way
NOTHING = JoinState(0)

IDENTITY = McMemberMask.MGID | McMemberMask.PORT_GID | McMemberMask.PKEY | McMemberMask.JOIN_STATE
CREATION = (
    McMemberMask.QKEY
    | McMemberMask.MTU_SELECTOR
    | McMemberMask.MTU
    | McMemberMask.TRAFFIC_CLASS
    | McMemberMask.RATE_SELECTOR
    | McMemberMask.RATE
    | McMemberMask.SL
    | McMemberMask.FLOW_LABEL
    | McMemberMask.HOP_LIMIT
)


@dataclass(eq=False, slots=True)
class Group:
    """One group: what we want to be in it, what the administrator has given us, what waits for it."""

    mgid: bytes
    wanted: JoinState
    held: JoinState = NOTHING
    path: Path | None = None  # once joined; kept while the membership is renewed
    attached: bool = False
    state: MemberState = MemberState.IDLE
    tries: int = 0  # failures since the last success
    backoff_s: int = 1
    used_at: int = 0
    waiting: list[Packet] = field(default_factory=list)

    @property
    def settled(self) -> bool:
        """Joined as wanted, and attached if it is to be received."""
        wanted = self.wanted
        if wanted is not self.held and int.__and__(wanted, self.held) != wanted:  # asked often: not by way of IntFlag
            return False
        return self.attached or wanted != JoinState.FULL


class Membership:
    """Which groups the interface is in. `begin` and `stop` bracket the time in which the port may be used."""

    def __init__(self, outlet: TransmitSide, queries: Queries) -> None:
        self._outlet = outlet
        self._queries = queries
        self._groups: dict[bytes, Group] = {}
        self._sent_to: OrderedDict[bytes, int] = OrderedDict()  # groups only sent to, and their use when last looked at
        self._queued: dict[bytes, None] = {}  # to be asked for as soon as that is possible
        self._retries: Deadlines[bytes] = Deadlines()  # back-offs of single groups
        self._no_room = RefusedGroups()
        self.broadcast: Group | None = None
        self.record: McMemberRecord | None = None  # the broadcast group's answer: the parameters of the link

    @property
    def ready(self) -> bool:
        """Whether the broadcast group is joined and attached: nothing else may be joined or sent before."""
        return self.broadcast is not None and self.broadcast.attached

    def __iter__(self) -> Iterator[Group]:
        return iter(tuple(self._groups.values()))

    def get(self, mgid: bytes) -> Group | None:
        return self._groups.get(mgid)

    def receives(self, mgid: bytes) -> bool:
        group = self._groups.get(mgid)
        return group is not None and group.attached

    def begin(self, now: int, broadcast_mgid: bytes) -> list[InterfaceEffect]:
        """Join the broadcast group."""
        assert self.broadcast is None, "the broadcast group is joined once"
        self.broadcast = self._groups[broadcast_mgid] = Group(broadcast_mgid, JoinState.FULL)
        return self._on(now, self.broadcast, MemberInput.NEEDED)

    def stop(self, now: int, pkey: int | None = None) -> list[InterfaceEffect]:
        """Leave everything (under the P_Key with which it was joined, if that is gone); on a dead port silently."""
        effects: list[InterfaceEffect] = []
        for group in self:
            effects += self._leave(now, group, "the interface stopped", pkey)
        self.broadcast = None
        self.record = None
        return effects

    def want_only(self, now: int, mgids: Iterable[bytes]) -> list[InterfaceEffect]:
        """Be a full member of exactly these groups, broadcast aside; groups only sent to stay."""
        wanted = dict.fromkeys(mgids)
        effects: list[InterfaceEffect] = []
        for group in self:
            if group.mgid not in wanted:
                effects += self.unwant(now, group.mgid)
        for mgid in wanted:
            effects += self.want(now, mgid)
        return effects

    def want(self, now: int, mgid: bytes) -> list[InterfaceEffect]:
        """Be a full member of this group."""
        if self.broadcast is None or mgid == self.broadcast.mgid:
            return []
        group = self._groups.get(mgid)
        if group is None:
            group = self._groups[mgid] = Group(mgid, JoinState.FULL)
        elif group.wanted != JoinState.FULL:  # until now only sent to; sending continues during the join
            self._sent_to.pop(mgid, None)
            group.wanted = JoinState.FULL
            self._on(now, group, MemberInput.AGAIN)
        if group.settled:
            return []
        return self._on(now, group, MemberInput.NEEDED if self.ready else MemberInput.NEEDED_LATER)

    def unwant(self, now: int, mgid: bytes) -> list[InterfaceEffect]:
        """Leave this group; the broadcast group and groups only sent to stay."""
        group = self._groups.get(mgid)
        if group is None or group is self.broadcast or group.wanted != JoinState.FULL:
            return []
        return self._leave(now, group, "the group was left")

    def send(self, now: int, mgid: bytes, packet: Packet) -> list[InterfaceEffect]:
        """To a group; one that we do not know is joined for sending first, and packets wait meanwhile."""
        if not self.ready:
            return self._outlet.drop("the broadcast group is not joined")
        group = self._groups.get(mgid)
        effects: list[InterfaceEffect] = []
        if group is None:
            if len(self._sent_to) >= MAX_SEND_ONLY:
                effects += self._leave_idle(now)
                if len(self._sent_to) >= MAX_SEND_ONLY:
                    return effects + self._outlet.drop("too many send-only groups")
            group = self._groups[mgid] = Group(mgid, JoinState.SEND_ONLY_FULL)
            self._sent_to[mgid] = now
        group.used_at = now
        if group.path is not None:
            return effects + self._outlet.send(group.path, packet)
        if mgid in self._no_room:
            return effects + self._outlet.drop("the subnet has no room for the group")
        if len(group.waiting) >= WAITING_PACKETS:
            effects += self._outlet.drop("too many packets wait for the group")
        else:
            group.waiting.append(packet)
        return effects + self._on(now, group, MemberInput.NEEDED)

    def path_to(self, mgid: bytes) -> Path | None:
        group = self._groups.get(mgid)
        return group.path if group is not None and self.ready else None

    def touch(self, now: int, mgid: bytes) -> None:
        group = self._groups.get(mgid)
        if group is not None:
            group.used_at = now

    def answered(self, now: int, mgid: bytes, reply: SaMad) -> list[InterfaceEffect]:
        """The administrator's word about a join."""
        group = self._groups.get(mgid)
        if group is None:
            return []
        if reply.status != SaStatus.OK:
            return self.refused(now, mgid, no_room=reply.status == SaStatus.NO_RESOURCES)
        try:
            record = McMemberRecord.parse(reply.data)
        except Malformed:
            return self.refused(now, mgid)
        if record.mlid < FIRST_MLID:
            return self.refused(now, mgid)
        if group is self.broadcast:
            self.record = record
            self._outlet.qkey = record.qkey
        assert self.record is not None, "the broadcast group is joined before any other"
        path = Path(
            dlid=record.mlid,
            qpn=MULTICAST_QPN,
            qkey=self.record.qkey,
            sl=record.sl,
            gid=mgid,
            traffic_class=record.traffic_class,
            flow_label=record.flow_label,
            hop_limit=record.hop_limit,
        )
        effects: list[InterfaceEffect] = []
        if group.path is not None and group.path != path:
            effects.append(PathsChanged())
            if group.attached and group.path.dlid != path.dlid:
                effects.append(Detach(mgid))
                group.attached = False
        group.path = path
        group.held |= group.wanted | JoinState(record.join_state)
        self._on(now, group, MemberInput.GRANTED)
        self._no_room.granted(now, mgid)
        if group.wanted == JoinState.FULL and not group.attached:
            effects.append(Attach(mgid, record.mlid))
            group.attached = True
        for packet in group.waiting:
            effects += self._outlet.send(path, packet)
        group.waiting.clear()
        return effects

    def refused(self, now: int, mgid: bytes, *, silent: bool = False, no_room: bool = False) -> list[InterfaceEffect]:
        """No, or (when `silent`) no answer. A group that is only sent to is given up at the second time, its packets
        are dropped; but while the administrator is silent a group that could be sent to still can.
        """
        group = self._groups.get(mgid)
        if group is None:
            return []
        group.tries += 1
        usable = silent and group.path is not None
        gives_up = group.wanted != JoinState.FULL and not usable and (no_room or group.tries >= SEND_ONLY_TRIES)
        effects: list[InterfaceEffect] = []
        if gives_up:
            effects += self._purge(group, "the group cannot be joined for sending")
            if group.path is not None:
                effects.append(PathsChanged())
            group.tries, group.backoff_s = 0, 1
            group.path, group.held = None, NOTHING
        if no_room and group is not self.broadcast:
            self._on(now, group, MemberInput.NO_RESOURCES)
        else:
            self._on(now, group, MemberInput.REFUSED_AT_LAST if gives_up else MemberInput.REFUSED)
        return effects

    def proceed(self, now: int) -> list[InterfaceEffect]:
        """Ask for whatever is due: broadcast alone as long as it is not attached, then all others."""
        if self._outlet.port.state != PortState.ACTIVE or self.broadcast is None:
            return []
        for mgid in (*self._retries.due(now), *self._no_room.due(now)):
            self._on(now, self._groups[mgid], MemberInput.DUE)
        due = tuple(self._queued) if self.ready else (self.broadcast.mgid,)
        effects: list[InterfaceEffect] = []
        for mgid in due:
            effects += self._on(now, self._groups[mgid], MemberInput.TURN)
        return effects

    def renew(self, now: int) -> list[InterfaceEffect]:
        """Join every group again without leaving it: the subnet manager has forgotten us."""
        for group in self:
            self._on(now, group, MemberInput.AGAIN)
        return self.proceed(now)

    def collect(self, now: int, idle_ns: int) -> list[InterfaceEffect]:
        """Leave groups that were only sent to, and not for a while."""
        effects: list[InterfaceEffect] = []
        for group in self:
            if group.wanted != JoinState.FULL and group.used_at + idle_ns <= now:
                effects += self._leave(now, group, "the group was not used")
        return effects

    def deadline(self) -> int | None:
        single, shared = self._retries.earliest(), self._no_room.deadline()
        return single if shared is None or (single is not None and single < shared) else shared

    def _on(self, now: int, group: Group, event: MemberInput) -> list[InterfaceEffect]:
        """Do what the table says about asking; what else an answer means is done where it arrives."""
        reaction, group.state = MEMBERSHIP_TABLE[group.state, event]
        match reaction:
            case MemberReaction.ASK:
                self._queued.pop(group.mgid, None)
                return self._ask(now, group)
            case MemberReaction.QUEUE:
                self._queued[group.mgid] = None
            case MemberReaction.START_OVER:
                group.tries, group.backoff_s = 0, 1
                self._forget_waits(group.mgid)
                self._queries.forget(Join(group.mgid))
                self._queued[group.mgid] = None
            case MemberReaction.USE:
                group.tries, group.backoff_s = 0, 1
            case MemberReaction.BACK_OFF:
                group.backoff_s = min(group.backoff_s * 2, MAX_BACKOFF_S)
                self._retries.report(group.mgid, now + group.backoff_s * SECOND)
            case MemberReaction.SHARE_BACK_OFF:
                self._no_room.add(now, group.mgid)
            case MemberReaction.GIVE_UP | MemberReaction.IGNORE:
                pass
        return []

    def _forget_waits(self, mgid: bytes) -> None:
        self._retries.report(mgid, None)
        self._queued.pop(mgid, None)
        self._no_room.forget(mgid)

    def _leave_idle(self, now: int) -> list[InterfaceEffect]:
        """Make room for one more group that is only sent to, if one of the oldest few was not used for a second."""
        for _ in range(LOOKS):
            mgid, seen = self._sent_to.popitem(last=False)
            group = self._groups[mgid]
            if group.used_at == seen and seen + SEND_ONLY_NS <= now:
                return self._leave(now, group, "the group was left to make room for another")
            self._sent_to[mgid] = group.used_at
        return []

    def _ask(self, now: int, group: Group) -> list[InterfaceEffect]:
        self._queries.forget(Leave(group.mgid))  # a repeated leave must not undo this join
        return list(self._queries.ask(now, Join(group.mgid), partial(self._join_request, group)))

    def _join_request(self, group: Group) -> SaMad:
        record = self.record
        port = self._outlet.port
        mine = McMemberRecord(
            mgid=group.mgid, port_gid=port.gid, pkey=self._outlet.partition.key, join_state=self._join_state(group)
        )
        mask = IDENTITY
        if group is not self.broadcast:
            assert record is not None, "the broadcast group is joined before any other"
            mask |= CREATION
            mine = McMemberRecord(
                mgid=mine.mgid,
                port_gid=mine.port_gid,
                pkey=mine.pkey,
                join_state=mine.join_state,
                qkey=record.qkey,
                mtu_selector=Selector.EXACTLY,
                mtu=record.mtu,
                traffic_class=record.traffic_class,
                rate_selector=Selector.EXACTLY,
                rate=record.rate,
                sl=record.sl,
                flow_label=record.flow_label,
                hop_limit=record.hop_limit,
            )
        return _request(Method.SET, mask, mine)

    def _join_state(self, group: Group) -> JoinState:
        """An administrator that knows no send-only full members is asked for a full one the second time."""
        if group.wanted == JoinState.SEND_ONLY_FULL and group.tries:
            return JoinState.FULL
        return group.wanted

    def _leave(self, now: int, group: Group, why: str, pkey: int | None = None) -> list[InterfaceEffect]:
        del self._groups[group.mgid]
        self._sent_to.pop(group.mgid, None)
        self._forget_waits(group.mgid)
        asked = self._queries.sent(Join(group.mgid))
        self._queries.forget(Join(group.mgid))
        effects = self._purge(group, why)
        if group.attached:
            effects.append(Detach(group.mgid))
        if group.path is not None:
            effects.append(PathsChanged())
        states = group.held | (group.wanted if asked else NOTHING)
        if states and self._outlet.port.state == PortState.ACTIVE:
            key = self._outlet.partition.key if pkey is None else pkey
            mine = McMemberRecord(mgid=group.mgid, port_gid=self._outlet.port.gid, pkey=key, join_state=states)
            request = _request(Method.DELETE, IDENTITY, mine)
            effects += self._queries.ask(now, Leave(group.mgid), lambda: request)
        return effects

    def superseded(self) -> list[InterfaceEffect]:
        """Drop waiting packets that would make others send to this interface."""
        lost = 0
        for group in self._groups.values():
            kept = [packet for packet in group.waiting if not packet.names_sender]
            lost += len(group.waiting) - len(kept)
            group.waiting = kept
        return self._outlet.drop(SUPERSEDED, lost)

    def _purge(self, group: Group, why: str) -> list[InterfaceEffect]:
        packets = len(group.waiting)
        group.waiting.clear()
        return self._outlet.drop(why, packets)


def _request(method: Method, mask: int, record: McMemberRecord) -> SaMad:
    return SaMad(method, SaAttribute.MC_MEMBER_RECORD, component_mask=mask, data=record.pack())
