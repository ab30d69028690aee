"""RDMA CM of one host: ids of programs, resolved through the bond's routes and neighbors, connected through its port.

Read first: of Linux `core/cma.c` and `core/addr.c` (names of functions are given where they are followed). The port
comes from the device's address of the moment, which on a bond is that of its active member: so a program that resolves
the same IP again after a failover gets the new one. Left out: datagram services, multicast, DEVICE_REMOVAL (adapters
are not unplugged here), path migration, the check that the reverse route leads out of the device a request came by.
"""

from __future__ import annotations

import enum
import errno
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, assert_never

from ibbond.errors import Malformed, Refused
from ibbond.fabric.connection_manager import (
    Accepted,
    CmEffect,
    ConnectionManager,
    Established,
    NoAnswer,
    Parted,
    Refusal,
    Requested,
)
from ibbond.fabric.events import FailQueuePair, Post, SendMad
from ibbond.fabric.reliable import Buffer, ProtectionDomain
from ibbond.fabric.reliable_verbs import Completion, Operation, Peer, Status
from ibbond.fabric.subnet import Subnet
from ibbond.fabric.verbs import GSI_QPN, ManagementDatagram, PortState
from ibbond.machine import MS
from ibbond.netdev.device import Device
from ibbond.stack.rdma_events import (
    ARRIVED_IDS,
    Accept,
    Connect,
    Destroy,
    Disconnect,
    Listen,
    MakeQueuePair,
    PostWork,
    RdmaEvent,
    RdmaKind,
    RdmaNews,
    RdmaRequest,
    Reject,
    ResolveAddress,
    ResolveRoute,
    WorkOver,
)
from ibbond.wire.cm import CmMad, CmPath, RejectReason, Rep, Req
from ibbond.wire.mad import MadHeader, ManagementClass, Method
from ibbond.wire.port_info import MTU_BYTES
from ibbond.wire.rdma_ip import ROOM, RdmaIpHeader
from ibbond.wire.sa import SaAttribute, SaMad, SaStatus
from ibbond.wire.sa_records import PathMask, PathRecord
from ibbond.wire.service_id import rdma_cm, rdma_cm_port

if TYPE_CHECKING:
    from ibbond.stack.host_stack import HostStack

QUERIES = 0x8002 << 48  # transaction ids of our path queries
ASK_AGAIN = 200 * MS
QUESTION = PathMask.DGID | PathMask.SGID | PathMask.REVERSIBLE | PathMask.NUMB_PATH | PathMask.PKEY
REQ_MTU = {2048: 4, 4096: 5, 1024: 3, 512: 2, 256: 1}


class IdState(enum.Enum):
    IDLE = enum.auto()
    LISTENING = enum.auto()
    RESOLVING_ADDRESS = enum.auto()
    ADDRESS_RESOLVED = enum.auto()
    RESOLVING_ROUTE = enum.auto()
    ROUTE_RESOLVED = enum.auto()
    CONNECTING = enum.auto()
    CONNECTED = enum.auto()
    DISCONNECTED = enum.auto()


@dataclass(eq=False, slots=True)
class RdmaId:
    """An id of a program. `source_address` and `neighbor_address` are the 20 bytes of the time of resolving."""

    user: int
    number: int
    state: IdState = IdState.IDLE
    service_port: int = 0
    device: str = ""
    source: bytes = b""
    destination: bytes = b""
    next_hop: bytes = b""
    source_address: bytes = b""
    neighbor_address: bytes = b""
    port: str = ""
    pkey: int = 0xFFFF
    record: PathRecord | None = None
    qpn: int | None = None
    psn: int = 0
    local_id: int | None = None
    request: Req | None = None  # of a peer
    settings: Connect | None = None
    due_at: int | None = None  # of giving up resolving
    ask_at: int | None = None  # of the next path query
    query: int = 0


class RdmaUsers:
    """All ids of one host, by (user, number)."""

    def __init__(self, host: HostStack, subnet: Subnet) -> None:
        self._host = host
        self._subnet = subnet
        self._manager = ConnectionManager()
        self._ids: dict[tuple[int, int], RdmaId] = {}
        self._by_pair: dict[tuple[str, int], RdmaId] = {}  # adapter, QPN
        self._by_local: dict[int, RdmaId] = {}
        self._domains: dict[int, ProtectionDomain] = {}
        self._next_arrived = ARRIVED_IDS
        self._next_query = 0
        self._changes: dict[str, int] = {}  # of neighbors, as seen last

    def register(self, user: int, memory: Buffer) -> int:
        """Memory of a program that its connections and their peers may use; the key. On every adapter of the host."""
        return self._domain(user).register(memory, remote=True)

    def ids(self) -> Iterator[RdmaId]:
        return iter(tuple(self._ids.values()))

    # ---- the program asks

    def handle(self, now: int, user: int, request: RdmaRequest) -> None:
        match request:
            case Listen(number, port, address):
                self._listen(self._new(user, number), port, address)
            case ResolveAddress(number, destination, port, timeout_ms):
                one = self._ids.get((user, number)) or self._new(user, number)
                self._need(one, IdState.IDLE, IdState.ADDRESS_RESOLVED, IdState.ROUTE_RESOLVED)
                self._resolve_address(now, one, destination, port, timeout_ms)
            case ResolveRoute(number, timeout_ms):
                one = self._need(self._id(user, number), IdState.ADDRESS_RESOLVED)
                one.state, one.due_at = IdState.RESOLVING_ROUTE, now + timeout_ms * MS
                self._ask_path(now, one)
            case MakeQueuePair(number):
                one = self._id(user, number)
                if not one.port or one.qpn is not None:
                    raise _refused(one, "it has no port yet" if not one.port else "it has one already", errno.EINVAL)
                one.qpn = self._subnet.create_reliable(one.port, self._domain(user))
                one.psn = one.qpn * 0x9E3779B1 >> 8 & 0xFFFFFF
                self._by_pair[self._adapter(one.port), one.qpn] = one
            case Connect(number):
                self._connect(now, self._need(self._id(user, number), IdState.ROUTE_RESOLVED), request)
            case Accept(number, private):
                self._accept(now, self._need(self._id(user, number), IdState.CONNECTING), private)
            case Reject(number, private):
                one = self._need(self._id(user, number), IdState.CONNECTING)
                if one.local_id is not None:
                    self._run(now, self._manager.reject(now, one.local_id, RejectReason.CONSUMER, private))
                one.state = IdState.DISCONNECTED
            case Disconnect(number):
                self._disconnect(now, self._id(user, number))
            case Destroy(number):
                self._destroy(now, self._id(user, number))
            case PostWork(number, work):
                one = self._id(user, number)
                if one.qpn is None:
                    raise _refused(one, "it has no queue pair", errno.EINVAL)
                self._host.outbox.send(Post(one.port, one.qpn, work))
            case _:
                assert_never(request)

    def gone(self, now: int, user: int) -> None:
        """The program has ended: its connections are ended as `rdma_destroy_id` would."""
        for one in [one for one in self._ids.values() if one.user == user]:
            self._disconnect(now, one)
            self._destroy(now, one)
        self._domains.pop(user, None)

    # ---- the host reports

    def mad_arrived(self, now: int, port: str, raw: bytes) -> None:
        """Ours are CM messages to RDMA services or about our ids, and answers to our path queries."""
        try:
            header = MadHeader.parse(raw)
            if header.management_class == ManagementClass.COMMUNICATION:
                mad = CmMad.parse(raw)
                if isinstance(mad.message, Req) and rdma_cm_port(mad.message.service_id) is None:
                    return
                self._run(now, self._manager.handle(now, port, mad))
            elif header.management_class == ManagementClass.SUBNET_ADMINISTRATION:
                self._path_answered(SaMad.parse(raw))
        except Malformed:
            return  # counted by whoever reads everything

    def work_done(self, now: int, port: str, qpn: int, completion: Completion) -> None:
        one = self._by_pair.get((self._adapter(port), qpn))
        if one is None:
            return
        if completion.operation is Operation.RECEIVE and completion.status is Status.SUCCESS:
            self._run(now, self._manager.heard_data(qpn))
        self._host.outbox.tell(RdmaEvent(self._host.name, one.user, WorkOver(one.number, completion)))

    def failed_over(self, device: Device) -> None:
        """`cma_netdev_callback`: ids on this bond whose stored source address is not the bond's any more hear of it."""
        for one in self.ids():
            if one.device == device.name and one.source_address and one.source_address != device.address:
                self._tell(one, RdmaKind.ADDR_CHANGE)

    def settle(self, now: int) -> None:
        """Something has happened on the host: a neighbor that somebody waits for or relies on may have moved."""
        if not self._ids:
            return
        moved = set()
        for name in dict.fromkeys(one.device for one in self._ids.values() if one.device):
            layer = self._host.ip.get(name)
            if layer is not None and self._changes.get(name) != layer.neighbors.changes:
                self._changes[name] = layer.neighbors.changes
                moved.add(name)
        for one in self.ids():
            if one.device not in moved:
                continue
            entry = self._host.ip[one.device].neighbors.get(one.next_hop)
            if entry is None or not entry.hardware:
                continue
            if one.state is IdState.RESOLVING_ADDRESS:
                self._address_resolved(one, entry.hardware)
            elif one.state in (IdState.CONNECTING, IdState.CONNECTED) and one.neighbor_address not in (
                b"",
                entry.hardware,
            ):
                one.neighbor_address = entry.hardware  # `cma_netevent_callback`: once per move
                self._tell(one, RdmaKind.UNREACHABLE, errno.ETIMEDOUT, detail="the neighbor is at another address")

    def tick(self, now: int) -> None:
        for one in self.ids():
            if one.due_at is not None and one.due_at <= now:
                one.due_at = one.ask_at = None
                route = one.state is IdState.RESOLVING_ROUTE
                one.state = IdState.ADDRESS_RESOLVED if route else IdState.IDLE
                self._tell(one, RdmaKind.ROUTE_ERROR if route else RdmaKind.ADDR_ERROR, errno.ETIMEDOUT)
            elif one.ask_at is not None and one.ask_at <= now:
                self._ask_path(now, one)
        self._run(now, self._manager.tick(now))

    def deadline(self) -> int | None:
        waits = [at for one in self._ids.values() for at in (one.due_at, one.ask_at)]
        return min((at for at in (*waits, self._manager.deadline()) if at is not None), default=None)

    # ---- resolving

    def _listen(self, one: RdmaId, port: int, address: bytes) -> None:
        taken = any(
            other.state is IdState.LISTENING
            and other.service_port == port
            and (other.source == address or not other.source or not address)
            for other in self._ids.values()
        )
        if taken or not 0 < port < 0x10000:
            del self._ids[one.user, one.number]
            raise _refused(one, f"service port {port} cannot be had", errno.EADDRINUSE if taken else errno.EINVAL)
        one.state, one.service_port, one.source = IdState.LISTENING, port, address

    def _resolve_address(self, now: int, one: RdmaId, destination: bytes, port: int, timeout_ms: int) -> None:
        host = self._host
        name = host.next_hops.device_for(destination)
        device = host.namespace.get(name) if name is not None else None
        one.service_port, one.destination, one.record = port, destination, None
        if device is None or not device.usable or len(device.address) != 20:
            one.state = IdState.IDLE
            self._tell(one, RdmaKind.ADDR_ERROR, errno.ENODEV if device else errno.ENETUNREACH)
            return
        layer = host.ip[device.name]
        one.device, one.source = device.name, layer.source_for(destination)
        one.state = IdState.RESOLVING_ADDRESS
        if layer.owns(destination):
            self._address_resolved(one, device.address)
            return
        one.next_hop = layer.next_hop(destination)
        entry = layer.neighbors.get(one.next_hop)
        known = entry.hardware if entry is not None else b""
        one.due_at = now + timeout_ms * MS
        host.frames.send_all(now, layer, layer.resolve(now, one.next_hop))
        if known:
            self._address_resolved(one, known)

    def _address_resolved(self, one: RdmaId, neighbor: bytes) -> None:
        """`cma_acquire_dev_by_src_ip`: the device's address of now says which port."""
        device = self._host.device(one.device)
        one.due_at = None
        one.neighbor_address, one.source_address = neighbor, device.address
        one.pkey = int.from_bytes(device.broadcast[8:10])
        port = self._port_of(device.address[4:])
        if port is None:
            one.state = IdState.IDLE
            self._tell(one, RdmaKind.ADDR_ERROR, errno.ENODEV)
            return
        one.port, one.state = port, IdState.ADDRESS_RESOLVED
        self._tell(one, RdmaKind.ADDR_RESOLVED, detail=port)

    def _ask_path(self, now: int, one: RdmaId) -> None:
        """`cma_query_ib_route`. The administrator may be silent while it sweeps; it is asked again."""
        self._next_query += 1
        one.query = QUERIES | self._next_query
        one.ask_at = now + ASK_AGAIN
        question = PathRecord(
            dgid=one.neighbor_address[4:],
            sgid=one.source_address[4:],
            pkey=one.pkey,
            numb_path=1,
            reversible=True,
        )
        port = self._subnet.port(one.port)
        if port.state == PortState.ACTIVE and port.sm_lid:
            mad = SaMad(
                Method.GET,
                SaAttribute.PATH_RECORD,
                component_mask=QUESTION,
                data=question.pack(),
                transaction_id=one.query,
            )
            self._host.outbox.send(
                SendMad(one.port, ManagementDatagram(port.lid, port.sm_lid, GSI_QPN, GSI_QPN, mad.pack()))
            )

    def _path_answered(self, answer: SaMad) -> None:
        for one in self.ids():
            if one.query == answer.transaction_id and one.state is IdState.RESOLVING_ROUTE:
                one.due_at = one.ask_at = None
                record = PathRecord.parse(answer.data)
                if answer.status != SaStatus.OK or not record.dlid:
                    one.state = IdState.ADDRESS_RESOLVED
                    self._tell(one, RdmaKind.ROUTE_ERROR, errno.EHOSTUNREACH)
                    return
                one.record, one.state = record, IdState.ROUTE_RESOLVED
                self._tell(one, RdmaKind.ROUTE_RESOLVED, detail=f"LID {record.slid} to {record.dlid}")

    # ---- connecting

    def _connect(self, now: int, one: RdmaId, wish: Connect) -> None:
        record = one.record
        if one.qpn is None or record is None or len(wish.private) > ROOM:
            raise _refused(
                one, "it has no queue pair" if one.qpn is None else "private data are too long", errno.EINVAL
            )
        port = self._subnet.port(one.port)
        header = RdmaIpHeader(one.source, one.destination)
        one.settings, one.state = wish, IdState.CONNECTING
        request = Req(
            local_id=0,
            service_id=rdma_cm(one.service_port),
            ca_guid=port.node.guid,
            qpn=one.qpn,
            psn=one.psn,
            responder_resources=16,
            initiator_depth=16,
            remote_timeout=wish.response_timeout,
            local_timeout=wish.response_timeout,
            retry_count=wish.retry_count,
            rnr_retry_count=wish.rnr_retry_count,
            max_cm_retries=wish.cm_retries,
            pkey=one.pkey,
            path_mtu=record.mtu,
            primary=CmPath(
                local_lid=record.slid,
                remote_lid=record.dlid,
                local_gid=record.sgid,
                remote_gid=record.dgid,
                rate=record.rate,
                sl=record.sl,
                hop_limit=record.hop_limit,
                subnet_local=True,
                ack_timeout=self._ack_timeout(one),
            ),
            private=(header.pack() + wish.private).ljust(92, b"\0"),
        )
        one.local_id, effects = self._manager.connect(now, one.port, request)
        self._by_local[one.local_id] = one
        self._run(now, effects)

    def _ack_timeout(self, one: RdmaId) -> int:
        """As wished for; else of the path (`cma_set_ack_timeout`, `cm_ack_timeout`)."""
        wish = one.settings.ack_timeout if one.settings is not None else None
        lifetime = one.record.lifetime if one.record is not None else 18
        return min(31, lifetime + 1) if wish is None else wish

    def _accept(self, now: int, one: RdmaId, private: bytes) -> None:
        request = one.request
        if one.qpn is None or request is None or one.local_id is None:
            raise _refused(one, "it has no queue pair, or nobody asked", errno.EINVAL)
        self._subnet.connect_reliable(
            one.port,
            one.qpn,
            Peer(
                request.primary.local_lid,
                request.qpn,
                send_psn=one.psn,
                receive_psn=request.psn,
                mtu_bytes=MTU_BYTES[request.path_mtu],
                timeout=request.primary.ack_timeout,
                retry_count=request.retry_count,
                rnr_retry_count=request.rnr_retry_count,
                pkey=request.pkey,
                service_level=request.primary.sl,
            ),
        )
        reply = Rep(
            local_id=0,
            remote_id=0,
            qpn=one.qpn,
            psn=one.psn,
            ca_guid=self._subnet.port(one.port).node.guid,
            responder_resources=request.initiator_depth,
            initiator_depth=request.responder_resources,
            rnr_retry_count=request.rnr_retry_count,
            private=private.ljust(Rep.PRIVATE_BYTES, b"\0"),
        )
        self._run(now, self._manager.accept(now, one.local_id, reply))

    def _disconnect(self, now: int, one: RdmaId) -> None:
        if one.qpn is not None:
            self._host.outbox.send(FailQueuePair(one.port, one.qpn))
        if one.local_id is not None:
            self._run(now, self._manager.disconnect(now, one.local_id))

    def _destroy(self, now: int, one: RdmaId) -> None:
        if one.local_id is not None:
            self._run(now, self._manager.disconnect(now, one.local_id))
            self._by_local.pop(one.local_id, None)
        if one.qpn is not None:
            self._by_pair.pop((self._adapter(one.port), one.qpn), None)
            self._subnet.destroy_queue_pair(one.port, one.qpn)
        self._ids.pop((one.user, one.number), None)

    # ---- what the communication manager says

    def _run(self, now: int, effects: Iterable[CmEffect]) -> None:
        for effect in effects:
            match effect:
                case SendMad():
                    self._host.outbox.send(effect)
                case Requested(local_id, port, request):
                    self._requested(now, local_id, port, request)
                case Accepted(local_id, reply):
                    self._accepted(now, local_id, reply)
                case Established(local_id):
                    self._news(local_id, RdmaKind.ESTABLISHED, IdState.CONNECTED)
                case Refusal(local_id, reason, private):
                    self._news(local_id, RdmaKind.REJECTED, IdState.DISCONNECTED, reason, private)
                case NoAnswer(local_id):
                    self._news(local_id, RdmaKind.UNREACHABLE, IdState.DISCONNECTED, errno.ETIMEDOUT)
                case Parted(local_id):
                    self._parted(local_id)

    def _news(self, local_id: int, kind: RdmaKind, state: IdState, status: int = 0, private: bytes = b"") -> None:
        one = self._by_local.get(local_id)
        if one is not None:
            one.state = state
            self._tell(one, kind, status, private)

    def _parted(self, local_id: int) -> None:
        one = self._by_local.get(local_id)
        if one is not None and one.qpn is not None:
            self._host.outbox.send(FailQueuePair(one.port, one.qpn))
        self._news(local_id, RdmaKind.DISCONNECTED, IdState.DISCONNECTED)

    def _requested(self, now: int, local_id: int, port: str, request: Req) -> None:
        """`cma_ib_req_handler`: the device by port, P_Key and destination, or its master; then the listener."""
        found = self._destination(port, request)
        if found is None:
            self._run(now, self._manager.reject(now, local_id, RejectReason.INVALID_SERVICE_ID))
            return
        listener, device, header = found
        number = self._next_arrived
        self._next_arrived += 1
        one = self._ids[listener.user, number] = RdmaId(
            listener.user,
            number,
            IdState.CONNECTING,
            service_port=listener.service_port,
            device=device.name,
            source=header.destination,
            destination=header.source,
            next_hop=self._host.ip[device.name].next_hop(header.source),
            source_address=device.address,
            port=port,
            pkey=request.pkey,
            local_id=local_id,
            request=request,
        )
        self._by_local[local_id] = one
        private = request.private[RdmaIpHeader.LAYOUT.size :]
        peer = str(ip_address(header.source))
        self._tell(one, RdmaKind.CONNECT_REQUEST, private=private, listener=listener.number, detail=peer)

    def _destination(self, port: str, request: Req) -> tuple[RdmaId, Device, RdmaIpHeader] | None:
        service = rdma_cm_port(request.service_id)
        try:
            header = RdmaIpHeader.parse(request.private)
        except Malformed:
            return None
        host = self._host
        for interface in host.links:
            if interface.port.name != port:
                continue
            if int.from_bytes(interface.device.broadcast[8:10]) & 0x7FFF != request.pkey & 0x7FFF:
                continue
            device = interface.device.master or interface.device
            if device.name not in host.ip or not host.ip[device.name].owns(header.destination):
                continue
            for one in self._ids.values():
                wanted = one.source in (b"", header.destination)
                if service is not None and one.state is IdState.LISTENING and one.service_port == service[1] and wanted:
                    return one, device, header
        return None

    def _accepted(self, now: int, local_id: int, reply: Rep) -> None:
        one = self._by_local.get(local_id)
        if one is None or one.qpn is None or one.record is None or one.settings is None:
            self._run(now, self._manager.reject(now, local_id, RejectReason.CONSUMER))
            return
        self._subnet.connect_reliable(
            one.port,
            one.qpn,
            Peer(
                one.record.dlid,
                reply.qpn,
                send_psn=one.psn,
                receive_psn=reply.psn,
                mtu_bytes=MTU_BYTES[one.record.mtu],
                timeout=self._ack_timeout(one),
                retry_count=one.settings.retry_count,
                rnr_retry_count=min(one.settings.rnr_retry_count, reply.rnr_retry_count),
                pkey=one.pkey,
                service_level=one.record.sl,
            ),
        )
        self._run(now, self._manager.ready(now, local_id))
        one.state = IdState.CONNECTED
        self._tell(one, RdmaKind.ESTABLISHED, private=reply.private)

    # ---- small things

    def _tell(
        self,
        one: RdmaId,
        kind: RdmaKind,
        status: int = 0,
        private: bytes = b"",
        *,
        listener: int = -1,
        detail: str = "",
    ) -> None:
        news = RdmaNews(one.number, kind, status, private, listener, detail)
        self._host.outbox.tell(RdmaEvent(self._host.name, one.user, news))

    def _port_of(self, gid: bytes) -> str | None:
        return next((name for name in self._host.ports if self._subnet.port(name).gid == gid), None)

    def _adapter(self, port: str) -> str:
        return self._subnet.port(port).node.name

    def _domain(self, user: int) -> ProtectionDomain:
        return self._domains.setdefault(user, ProtectionDomain())

    def _new(self, user: int, number: int) -> RdmaId:
        if (user, number) in self._ids or not 0 <= number < ARRIVED_IDS:
            raise Refused(f"no new id {number}", why="the number is taken", fix="Take another", code=errno.EEXIST)
        one = self._ids[user, number] = RdmaId(user, number)
        return one

    def _id(self, user: int, number: int) -> RdmaId:
        one = self._ids.get((user, number))
        if one is None:
            why = "this program has none of this number"
            raise Refused(f"no id {number}", why=why, fix="Resolve an address first", code=errno.ENOENT)
        return one

    def _need(self, one: RdmaId, *states: IdState) -> RdmaId:
        if one.state not in states:
            raise _refused(one, f"it is {one.state.name.lower().replace('_', ' ')}", errno.EINVAL)
        return one


def _refused(one: RdmaId, why: str, code: int) -> Refused:
    fix = "Follow the order of rdma_cm(7)"
    return Refused(f"id {one.number} cannot do this", why=why, fix=fix, code=code)
