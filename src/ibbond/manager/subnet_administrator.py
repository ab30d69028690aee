"""The subnet administrator: answers questions about the subnet, keeps groups, services and subscriptions.

Read first: InfiniBand Architecture volume 1, chapter 15. It changes nothing in the subnet by itself: an `Answer` says
which groups changed, the subnet manager writes the tables and then lets the answer go. Left out: GetMulti and
MultiPathRecord, GetTraceTable, authentication beyond the SM_Key of trusted requests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from ibbond.errors import Malformed
from ibbond.machine import SECOND
from ibbond.manager.directory import Directory, EndPort
from ibbond.manager.groups import LIFETIME, RATE_40, Group, Groups, RefusedBySa, matches
from ibbond.wire.mad import Method, Status
from ibbond.wire.sa import SaAttribute, SaMad, SaStatus
from ibbond.wire.sa_records import (
    ClassPortInfo,
    InformInfo,
    LinkRecord,
    LinkRecordMask,
    McMemberMask,
    McMemberRecord,
    NodeRecord,
    NodeRecordMask,
    PathMask,
    PathRecord,
    PortInfoRecord,
    PortInfoRecordMask,
    ServiceMask,
    ServiceRecord,
)
from ibbond.wire.smp import NodeDescription

TRUSTED_SM_KEY = 1  # OpenSM's default; saquery sends it where it wants member records
FOREVER = 0xFFFFFFFF
SA_CAPABILITIES = (
    1 << 1 | 1 << 9 | 1 << 10 | 1 << 13
)  # traps, optional records, UD multicast, port info capability match
SEND_ONLY_FULL_SUPPORTED = 1 << 12


@dataclass(frozen=True, slots=True)
class Subscriber:
    """A subscriber to a trap, at a queue pair; removed with its port."""

    guid: int
    lid: int
    qpn: int
    trap: int


@dataclass(slots=True)
class Answer:
    """What to send back (records of one kind), after the tables of `groups` have been written."""

    method: int
    status: int = 0
    records: list[bytes] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    created: list[bytes] = field(default_factory=list)  # MGIDs, for traps 66
    deleted: list[bytes] = field(default_factory=list)  # and 67


@dataclass(frozen=True, slots=True)
class _Request:
    now: int
    mad: SaMad
    source_lid: int

    @property
    def mask(self) -> int:
        return self.mad.component_mask

    @property
    def trusted(self) -> bool:
        return self.mad.sm_key == TRUSTED_SM_KEY


RESPONSES = {
    Method.GET: Method.GET_RESP,
    Method.SET: Method.GET_RESP,
    Method.GET_TABLE: Method.GET_TABLE_RESP,
    Method.DELETE: Method.DELETE_RESP,
}
READ = (Method.GET, Method.GET_TABLE)
KEEP = (*READ, Method.SET, Method.DELETE)


class SubnetAdministrator:
    """Pure: `answer` reads the directory and changes only its own registers."""

    def __init__(self, directory: Directory, groups: Groups) -> None:
        self.directory = directory
        self.groups = groups
        self.services: dict[tuple[int, bytes, int], tuple[ServiceRecord, int | None]] = {}  # record, expires at
        self.subscribers: list[Subscriber] = []
        self._handlers: dict[int, tuple[tuple[Method, ...], Callable[[_Request], Answer | list[bytes]]]] = {
            SaAttribute.CLASS_PORT_INFO: ((Method.GET,), self._class_port_info),
            SaAttribute.INFORM_INFO: ((Method.SET,), self._inform),
            SaAttribute.NODE_RECORD: (READ, self._nodes),
            SaAttribute.PORT_INFO_RECORD: (READ, self._port_infos),
            SaAttribute.LINK_RECORD: (READ, self._links),
            SaAttribute.SERVICE_RECORD: (KEEP, self._services),
            SaAttribute.PATH_RECORD: (READ, self._paths),
            SaAttribute.MC_MEMBER_RECORD: (KEEP, self._members),
        }

    def answer(self, now: int, mad: SaMad, source_lid: int) -> Answer:
        """The answer to one request MAD that came from `source_lid`."""
        method = mad.method
        if method not in RESPONSES:
            return Answer(method | 0x80, Status.BAD_METHOD)
        response = RESPONSES[Method(method)]
        handler = self._handlers.get(mad.attribute)
        if handler is None:
            return Answer(response, Status.BAD_ATTRIBUTE)
        methods, serve = handler
        if method not in methods:
            return Answer(response, Status.BAD_ATTRIBUTE)  # 13.4.7: a method that the attribute does not have
        try:
            result = serve(_Request(now, mad, source_lid))
        except RefusedBySa as refused:
            return Answer(response, refused.status)
        except Malformed:
            return Answer(response, SaStatus.INVALID)
        answer = result if isinstance(result, Answer) else Answer(response, records=result)
        answer.method = response
        if method == Method.GET and len(answer.records) != 1:
            answer.status = SaStatus.TOO_MANY_RECORDS if answer.records else SaStatus.NO_RECORDS
            answer.records = []
        return answer

    def port_gone(self, guid: int) -> None:
        """Forget what a vanished port had subscribed to."""
        self.subscribers = [subscriber for subscriber in self.subscribers if subscriber.guid != guid]

    def clear(self) -> None:
        """What a manager that starts again does not know: members, services, subscriptions."""
        self.groups.clear()
        self.services.clear()
        self.subscribers.clear()

    def _class_port_info(self, request: _Request) -> list[bytes]:
        return [ClassPortInfo(SA_CAPABILITIES, class_version=2, capability_mask2=SEND_ONLY_FULL_SUPPORTED).pack()]

    def _inform(self, request: _Request) -> list[bytes]:
        info = InformInfo.parse(request.mad.data)
        end = self.directory.by_lid.get(request.source_lid)
        if end is None:
            raise RefusedBySa(SaStatus.INVALID)
        subscriber = Subscriber(end.guid, end.lid, info.qpn or 1, info.trap)
        known = subscriber in self.subscribers
        if info.subscribe and not known:
            self.subscribers.append(subscriber)
        elif not info.subscribe:
            if not known:
                raise RefusedBySa(SaStatus.INVALID)
            self.subscribers.remove(subscriber)
        return [info.pack()]

    def _members(self, request: _Request) -> Answer | list[bytes]:
        asked = McMemberRecord.parse(request.mad.data)
        if request.mad.method in READ:
            return self._member_records(request, asked)
        member = self.directory.by_gid(asked.port_gid)
        if request.mad.method == Method.SET:
            group, record, made = self.groups.join(asked, request.mask, member)
            return Answer(0, records=[record.pack()], groups=[group], created=[group.mgid] if made else [])
        group, record, ended = self.groups.leave(asked, request.mask, member)
        return Answer(0, records=[record.pack()], groups=[group], deleted=[group.mgid] if ended else [])

    def _member_records(self, request: _Request, asked: McMemberRecord) -> list[bytes]:
        """Groups; with the port GID named that member, to the trusted all members."""
        mask = request.mask
        chosen: list[McMemberRecord] = []
        for group in self.groups.by_mgid.values():
            if mask & McMemberMask.PORT_GID:
                guid = int.from_bytes(asked.port_gid[8:], "big")
                if guid in group.members:
                    chosen.append(group.record(asked.port_gid, group.members[guid]))
            elif request.trusted and group.members:
                ends = self.directory.ends
                chosen += [group.record(ends[guid].gid, at) for guid, at in group.members.items() if guid in ends]
            else:
                chosen.append(group.record())
        return [record.pack() for record in chosen if _member_fits(record, asked, mask)]

    def _paths(self, request: _Request) -> list[bytes]:
        asked, mask = PathRecord.parse(request.mad.data), request.mask
        if not mask & (PathMask.SGID | PathMask.SLID) and request.mad.method == Method.GET:
            raise RefusedBySa(SaStatus.INSUFFICIENT_COMPONENTS)
        sources = self._named(asked.sgid, asked.slid, mask, PathMask.SGID, PathMask.SLID)
        if mask & PathMask.DGID and asked.dgid[0] == 0xFF:
            return [path.pack() for source in sources if (path := self._group_path(source, asked, mask)) is not None]
        targets = self._named(asked.dgid, asked.dlid, mask, PathMask.DGID, PathMask.DLID)
        found = (_path(source, target, asked, mask) for source in sources for target in targets)
        return [path.pack() for path in found if path is not None]

    def _named(self, gid: bytes, lid: int, mask: int, gid_bit: PathMask, lid_bit: PathMask) -> list[EndPort]:
        """The end ports that a GID and a LID leave possible."""
        if mask & gid_bit:
            end = self.directory.by_gid(gid)
            if end is None:
                raise RefusedBySa(SaStatus.NO_RECORDS)
            chosen = [end]
        else:
            chosen = list(self.directory.ends.values())
        return [end for end in chosen if not mask & lid_bit or end.lid == lid]

    def _group_path(self, source: EndPort, asked: PathRecord, mask: int) -> PathRecord | None:
        group = self.groups.by_mgid.get(asked.dgid)
        if group is None or not source.has_pkey(group.parameters.pkey):
            return None
        own = group.parameters
        if mask & PathMask.PKEY and (own.pkey ^ asked.pkey) & 0x7FFF:
            return None
        return PathRecord(
            dgid=group.mgid,
            sgid=source.gid,
            dlid=group.mlid,
            slid=source.lid,
            flow_label=own.flow_label,
            hop_limit=own.hop_limit,
            traffic_class=own.traffic_class,
            numb_path=asked.numb_path,
            pkey=own.pkey,
            sl=own.sl,
            mtu_selector=own.mtu_selector,
            mtu=own.mtu,
            rate_selector=own.rate_selector,
            rate=own.rate,
            lifetime_selector=own.lifetime_selector,
            lifetime=own.lifetime,
        )

    def _services(self, request: _Request) -> Answer | list[bytes]:
        asked, mask, method = ServiceRecord.parse(request.mad.data), request.mask, request.mad.method
        self.services = {key: kept for key, kept in self.services.items() if kept[1] is None or kept[1] > request.now}
        if method in READ:
            return [record.pack() for record, _ in self.services.values() if _service_fits(record, asked, mask)]
        needed = ServiceMask.SERVICE_ID | ServiceMask.GID | ServiceMask.PKEY
        if mask & needed != needed:
            raise RefusedBySa(SaStatus.INSUFFICIENT_COMPONENTS)
        key = (asked.service_id, asked.gid, asked.pkey)
        if method == Method.DELETE:
            if key not in self.services:
                raise RefusedBySa(SaStatus.NO_RECORDS)
            return [self.services.pop(key)[0].pack()]
        end = self.directory.by_gid(asked.gid)
        if end is None or not end.has_pkey(asked.pkey):
            raise RefusedBySa(SaStatus.INVALID_GID if end is None else SaStatus.INVALID)
        if not mask & ServiceMask.LEASE:
            asked = replace(asked, lease=FOREVER)
        self.services[key] = (asked, None if asked.lease == FOREVER else request.now + asked.lease * SECOND)
        return [asked.pack()]

    def _nodes(self, request: _Request) -> list[bytes]:
        data, mask = request.mad.data, request.mask
        lid = int.from_bytes(data[:2], "big")
        answers = []
        for end in self.directory.ends.values():
            node = self.directory.map.nodes[end.key[0]]
            info = replace(node.info, port_guid=end.guid, local_port=end.key[1])
            wanted = (
                (NodeRecordMask.LID, end.lid == lid),
                (NodeRecordMask.NODE_TYPE, info.node_type == data[6]),
                (NodeRecordMask.NUM_PORTS, info.port_count == data[7]),
                (NodeRecordMask.SYSTEM_GUID, info.system_guid == int.from_bytes(data[8:16], "big")),
                (NodeRecordMask.NODE_GUID, info.node_guid == int.from_bytes(data[16:24], "big")),
                (NodeRecordMask.PORT_GUID, info.port_guid == int.from_bytes(data[24:32], "big")),
                (NodeRecordMask.DESCRIPTION, node.description.encode() == data[44:108].rstrip(b"\0")),
            )
            if all(fits for bit, fits in wanted if mask & bit):
                answers.append(NodeRecord(end.lid, info, NodeDescription(node.description)).pack())
        return answers

    def _port_infos(self, request: _Request) -> list[bytes]:
        data, mask = request.mad.data, request.mask
        lid, number = int.from_bytes(data[:2], "big"), data[2]
        capability = int.from_bytes(data[24:28], "big")
        answers = []
        for node in self.directory.map.nodes.values():
            for port in node.ports.values():
                own = self.directory.node_lid(node.guid, port.number)
                held = port.info.capability_mask & capability == capability
                wanted = (
                    (PortInfoRecordMask.LID, own == lid),
                    (PortInfoRecordMask.PORT, port.number == number),
                    (PortInfoRecordMask.CAPABILITY_MASK, held),
                )
                if own and all(fits for bit, fits in wanted if mask & bit):
                    answers.append(PortInfoRecord(own, port.number, port.info).pack())
        return answers

    def _links(self, request: _Request) -> list[bytes]:
        asked, mask = LinkRecord.parse(request.mad.data), request.mask
        answers = []
        for (from_guid, from_port), (to_guid, to_port) in self.directory.map.links.items():
            from_lid = self.directory.node_lid(from_guid, from_port)
            to_lid = self.directory.node_lid(to_guid, to_port)
            wanted = (
                (LinkRecordMask.FROM_LID, from_lid == asked.from_lid),
                (LinkRecordMask.FROM_PORT, from_port == asked.from_port),
                (LinkRecordMask.TO_PORT, to_port == asked.to_port),
                (LinkRecordMask.TO_LID, to_lid == asked.to_lid),
            )
            if from_lid and to_lid and all(fits for bit, fits in wanted if mask & bit):
                answers.append(LinkRecord(from_lid, from_port, to_port, to_lid).pack())
        return answers


def _member_fits(record: McMemberRecord, asked: McMemberRecord, mask: int) -> bool:
    wanted = (
        (McMemberMask.MGID, record.mgid == asked.mgid),
        (McMemberMask.QKEY, record.qkey == asked.qkey),
        (McMemberMask.MLID, record.mlid == asked.mlid),
        (McMemberMask.MTU, matches(record.mtu, asked.mtu, asked.mtu_selector)),
        (McMemberMask.TRAFFIC_CLASS, record.traffic_class == asked.traffic_class),
        (McMemberMask.PKEY, record.pkey == asked.pkey),
        (McMemberMask.RATE, matches(record.rate, asked.rate, asked.rate_selector)),
        (McMemberMask.SL, record.sl == asked.sl),
        (McMemberMask.FLOW_LABEL, record.flow_label == asked.flow_label),
        (McMemberMask.HOP_LIMIT, record.hop_limit == asked.hop_limit),
        (McMemberMask.SCOPE, record.scope == asked.scope),
        (McMemberMask.JOIN_STATE, bool(record.join_state & asked.join_state)),
    )
    return all(fits for bit, fits in wanted if mask & bit)


def _service_fits(record: ServiceRecord, asked: ServiceRecord, mask: int) -> bool:
    wanted = (
        (ServiceMask.SERVICE_ID, record.service_id == asked.service_id),
        (ServiceMask.GID, record.gid == asked.gid),
        (ServiceMask.PKEY, record.pkey == asked.pkey),
        (ServiceMask.NAME, record.name == asked.name),
    )
    return all(fits for bit, fits in wanted if mask & bit)


def _path(source: EndPort, target: EndPort, asked: PathRecord, mask: int) -> PathRecord | None:
    """The path between two ports, or None when their P_Keys or the asked MTU or rate forbid it."""
    keys = source.shared_pkeys(target)
    if mask & PathMask.PKEY:
        keys = [key for key in keys if not (key ^ asked.pkey) & 0x7FFF]
    mtu = min(source.mtu, target.mtu)
    if mask & PathMask.MTU and not matches(mtu, asked.mtu, asked.mtu_selector):
        return None
    if mask & PathMask.RATE and not matches(RATE_40, asked.rate, asked.rate_selector):
        return None
    if not keys:
        return None
    return PathRecord(
        dgid=target.gid,
        sgid=source.gid,
        dlid=target.lid,
        slid=source.lid,
        service_id=asked.service_id if mask & (PathMask.SERVICE_ID_HIGH | PathMask.SERVICE_ID_LOW) else 0,
        flow_label=asked.flow_label if mask & PathMask.FLOW_LABEL else 0,
        traffic_class=asked.traffic_class if mask & PathMask.TRAFFIC_CLASS else 0,
        reversible=True,
        numb_path=asked.numb_path if mask & PathMask.NUMB_PATH else 1,
        pkey=asked.pkey if mask & PathMask.PKEY else keys[0],
        sl=0,
        mtu_selector=2,
        mtu=mtu,
        rate_selector=2,
        rate=RATE_40,
        lifetime_selector=2,
        lifetime=LIFETIME,
    )
