"""RDMA CM of one host: the requests of its programs, and their events.

Read first: of Linux `core/cma.c` and rdma_cm(7). Ids are in `rdma_cm.ids`; finding addresses and paths is
`rdma_cm.resolving`, making connections `rdma_cm.connecting`. Left out: datagram services, multicast, path migration.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import assert_never

from ibbond.cm.connection_manager import ConnectionManager
from ibbond.errors import Malformed, Refused
from ibbond.fabric.events import Post
from ibbond.fabric.subnet import Subnet
from ibbond.netdev.device import Device
from ibbond.rdma_cm.connecting import Connecting
from ibbond.rdma_cm.events import (
    Accept,
    Bind,
    Connect,
    DataArrived,
    Destroy,
    Disconnect,
    Listen,
    MakeQueuePair,
    PostWork,
    RdmaEvent,
    RdmaKind,
    RdmaRequest,
    Reject,
    ResolveAddress,
    ResolveRoute,
    WorkCompleted,
)
from ibbond.rdma_cm.host import RdmaHost
from ibbond.rdma_cm.id_states import IdInput, IdState, IdVerb
from ibbond.rdma_cm.ids import RdmaId, RdmaIds, may, move, refused, step
from ibbond.rdma_cm.queue_pair_attributes import queue_pair_attributes
from ibbond.rdma_cm.resolving import Resolving
from ibbond.verbs.memory import ALL_ACCESS, BufferMemory, Region
from ibbond.verbs.reliable_verbs import Completion, Operation, Receive, Status, Work
from ibbond.wire.mad import MadHeader, ManagementClass
from ibbond.wire.rdma_cm import Place, QueuePairAttributes
from ibbond.wire.sa import SaMad
from ibbond.wire.uverbs import QpState

VERBS: dict[type[RdmaRequest], IdVerb] = {  # of ids that exist
    ResolveRoute: IdVerb.RESOLVE_ROUTE,
    MakeQueuePair: IdVerb.MAKE_QUEUE_PAIR,
    Connect: IdVerb.CONNECT,
    Accept: IdVerb.ACCEPT,
    Reject: IdVerb.REJECT,
    Disconnect: IdVerb.DISCONNECT,
}


class RdmaUsers:
    """All programs of one host that use RDMA CM; `user` identifies a program."""

    def __init__(self, host: RdmaHost, subnet: Subnet, manager: ConnectionManager) -> None:
        self._host = host
        self._subnet = subnet
        self._ids = RdmaIds(host, subnet)
        self._resolving = Resolving(host, subnet, self._ids)
        self._connecting = Connecting(host, subnet, self._ids, manager)

    def register(self, user: int, memory: memoryview) -> int:
        """Memory of a program that its connections and their peers may use; the key. On every adapter of the host."""
        region = Region(BufferMemory(memory), 0, 0, len(memory), ALL_ACCESS)
        return self._ids.domain(user).register(region)

    def find(self, user: int, number: int) -> RdmaId | None:
        return self._ids.find(user, number)

    def attributes(self, cm_id: RdmaId, state: QpState) -> QueuePairAttributes:
        """What the program is to modify its own queue pair by (`rdma_init_qp_attr`); `Refused`."""
        if not cm_id.port:
            raise refused(cm_id, "it is on no port", errno.EINVAL)
        return queue_pair_attributes(cm_id, self._subnet.port(cm_id.port), state, self._connecting.reached(cm_id))

    def own_address(self, length: int) -> bytes:
        """What programs reach by 127.0.0.1 or ::1 (`cma_resolve_loopback`); empty without a usable IPoIB device."""
        return self._host.own_address(length)

    def place(self, cm_id: RdmaId) -> Place:
        """The adapter and port that an id is on."""
        if not cm_id.port:
            return Place()
        port = self._subnet.port(cm_id.port)
        return Place(port.node.guid, port.number, cm_id.pkey)

    def gids(self, cm_id: RdmaId) -> tuple[bytes, bytes]:
        """Its own GID and its peer's, as they were resolved or asked for; empty where unknown."""
        if cm_id.request is not None:
            return cm_id.request.primary.remote_gid, cm_id.request.primary.local_gid
        return cm_id.source_address[4:], cm_id.neighbor_address[4:]

    def ids(self) -> Iterator[RdmaId]:
        return iter(self._ids)

    # ---- the program asks

    def handle(self, now: int, user: int, request: RdmaRequest) -> None:
        ids = self._ids
        verb = VERBS.get(type(request))
        if verb is not None and not may(ids.get(user, request.id), verb):
            return  # the id has ended while this was on its way: its program has the event
        match request:
            case Bind(number):
                cm_id = ids.find(user, number) or ids.new(user, number)
                if may(cm_id, IdVerb.BIND):
                    self._bind(cm_id, request)
            case Listen():
                self._listen(user, request)
            case ResolveAddress(number, destination, port):
                if not 0 <= port < 0x10000 or len(destination) not in (4, 16):
                    what, why = (
                        f"id {number} cannot resolve that",
                        f"port {port} of {len(destination)} bytes of address",
                    )
                    raise Refused(what, why=why, fix="Ports are 0 to 65535, addresses 4 or 16 bytes")
                cm_id = ids.find(user, number) or ids.new(user, number)
                if may(cm_id, IdVerb.RESOLVE_ADDRESS):
                    self._resolving.address(now, cm_id, request)
            case ResolveRoute(number, timeout_ms):
                self._resolving.route(now, ids.get(user, number), timeout_ms)
            case MakeQueuePair(number):
                ids.make_queue_pair(ids.get(user, number))
            case Connect(number):
                self._connecting.connect(now, ids.get(user, number), request)
            case Accept(number):
                self._connecting.accept(now, ids.get(user, number), request)
            case Reject(number, private):
                self._connecting.reject(now, ids.get(user, number), private)
            case DataArrived(number):
                self._connecting.data_arrived(now, ids.get(user, number))
            case Disconnect(number):
                self._connecting.disconnect(now, ids.get(user, number))
            case Destroy(number):
                self._connecting.leave(now, ids.get(user, number))
            case PostWork(number, work):
                cm_id = ids.get(user, number)
                if cm_id.qpn is None:
                    if cm_id.state is IdState.REMOVED:
                        return
                    raise refused(cm_id, "it has no queue pair", errno.EINVAL)
                if not _possible(work):
                    raise refused(cm_id, "RDMA adapters do not support such work", errno.EINVAL)
                if not isinstance(work, Receive) and not self._ids.may_send(cm_id):
                    raise refused(cm_id, "its queue pair is not connected", errno.EINVAL)
                self._host.send(Post(cm_id.port, cm_id.qpn, work))
            case _:
                assert_never(request)

    def gone(self, now: int, user: int) -> None:
        """The program has ended: its connections are ended as `rdma_destroy_id` would."""
        for cm_id in self._ids:
            if cm_id.user == user:
                if may(cm_id, IdVerb.DISCONNECT):
                    self._connecting.disconnect(now, cm_id)
                self._connecting.leave(now, cm_id)
        self._ids.forget_domain(user)

    def _bind(self, cm_id: RdmaId, request: Bind, *, listens: bool = False) -> None:
        """`rdma_bind_addr`: with an address the id is on the device that has it, and on its port."""
        ids, address, what = self._ids, request.address, f"id {cm_id.number} cannot have this address"
        if not 0 <= request.port < 0x10000 or len(address) not in (0, 4, 16):
            why = f"port {request.port} at {len(address)} bytes of address"
            raise Refused(what, why=why, fix="Ports are 1 to 65535, addresses 0, 4 or 16 bytes")
        device = self._host.device_with(address) if any(address) else None
        where = ids.port_of(device) if device is not None else None
        if any(address) and where is None:
            why, code = ("no device of the host has the address", errno.EADDRNOTAVAIL)
            if device is not None:
                why, code = f"{device.name} is at no adapter", errno.ENODEV
            raise Refused(what, why=why, fix="Use an address of an IPoIB device", code=code)
        self._check_port(cm_id, request, listens=listens)
        move(cm_id, IdVerb.BIND)
        cm_id.service_port = request.port or ids.free_port()
        cm_id.bound = cm_id.source = address
        cm_id.only, cm_id.reuse = request.only, request.reuse
        if device is not None and where is not None:
            cm_id.device, cm_id.source_address, cm_id.port = device.name, device.address, where
            cm_id.pkey = int.from_bytes(device.broadcast[8:10])

    def _check_port(self, cm_id: RdmaId, request: Bind, *, listens: bool) -> None:
        """`cma_check_port`: ids that are bound conflict where a peer could mean either."""
        for other in self._ids:
            if other is cm_id or not _has_port(other, request.port) or (request.reuse and other.reuse and not listens):
                continue
            apart = request.only and other.only and len(request.address) != len(other.bound)
            different = any(request.address) and any(other.bound) and request.address != other.bound
            if not apart and not different:
                what, why = f"id {cm_id.number} cannot have this address", f"another id is bound to port {request.port}"
                raise Refused(what, why=why, fix="Use another port", code=errno.EADDRINUSE)

    def _listen(self, user: int, request: Listen) -> None:
        """`rdma_listen`, of an id that is bound; else `rdma_bind_addr` before it."""
        cm_id = self._ids.find(user, request.id)
        if cm_id is not None and cm_id.state is IdState.BOUND:
            bound = Bind(cm_id.number, cm_id.service_port, cm_id.bound, cm_id.only, cm_id.reuse)
            self._check_port(cm_id, bound, listens=True)
        else:
            if not request.port:
                what, fix = f"id {request.id} cannot listen", "Ports are 1 to 65535"
                raise Refused(what, why="port 0 is not a port", fix=fix)
            cm_id = self._ids.new(user, request.id)
            try:
                self._bind(cm_id, Bind(request.id, request.port, request.address), listens=True)
            except Refused:
                self._ids.forget(cm_id)
                raise
        move(cm_id, IdVerb.LISTEN)

    # ---- the host reports

    def mad_arrived(self, raw: bytes) -> None:
        """Answers to path queries of RDMA CM."""
        try:
            if MadHeader.parse(raw).management_class == ManagementClass.SUBNET_ADMINISTRATION:
                self._resolving.path_answered(SaMad.parse(raw))
        except Malformed:
            return  # counted where everything is read

    def work_done(self, now: int, port: str, qpn: int, completion: Completion) -> None:
        cm_id = self._ids.of_pair(port, qpn)
        if cm_id is None:
            return
        if completion.operation is Operation.RECEIVE and completion.status is Status.SUCCESS:
            self._connecting.data_arrived(now, cm_id)
        self._host.notify(RdmaEvent(self._host.name, cm_id.user, WorkCompleted(cm_id.number, completion)))

    def failed_over(self, device: Device) -> None:
        """`cma_netdev_callback`.

        Ids on this bond whose stored source address is no longer the bond's are notified.
        """
        for cm_id in self._ids:
            if cm_id.device == device.name and cm_id.source_address and cm_id.source_address != device.address:
                self._ids.notify(cm_id, RdmaKind.ADDR_CHANGE)

    def device_removed(self, port: str) -> None:
        """`cma_process_remove`, for one port of an adapter that is gone.

        Its ids are notified, and can only be destroyed.

        Their queue pairs fail first, as a driver flushes them. Listeners at every address are on no
        adapter and stay.
        """
        for cm_id in self._ids:
            if cm_id.port == port and step(cm_id, IdInput.REMOVED):
                self._connecting.device_removed(cm_id)
                cm_id.source_address = b""  # it gets no more events of failovers
                cm_id.due_at = cm_id.ask_at = None
                self._ids.fail_queue_pair(cm_id)
                self._ids.notify(cm_id, RdmaKind.DEVICE_REMOVAL, detail=port)

    def run_due(self, now: int) -> None:
        """Something has happened on the host: a neighbor that an id waits for may have answered."""
        self._resolving.run_due(now)

    def tick(self, now: int) -> None:
        self._resolving.tick(now)

    def deadline(self) -> int | None:
        return self._resolving.deadline()


def _has_port(cm_id: RdmaId, port: int) -> bool:
    """A listener whose adapter was removed keeps its port until it is destroyed."""
    bound = cm_id.state in (IdState.BOUND, IdState.LISTENING, IdState.REMOVED)
    return bound and not cm_id.destination and cm_id.service_port == port


def _possible(work: Work | Receive) -> bool:
    """Whether the numbers are such as verbs can say, and the operation one that can be sent."""
    words, offsets = [work.key, work.length], [work.offset]
    if isinstance(work, Work):
        words, offsets = [*words, work.remote_key], [*offsets, work.remote_offset]
        if work.operation is Operation.RECEIVE or work.offload or (work.operation is Operation.READ and work.inline):
            return False
    return all(0 <= word < 1 << 32 for word in words) and all(0 <= offset < 1 << 64 for offset in offsets)
