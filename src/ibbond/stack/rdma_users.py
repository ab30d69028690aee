"""RDMA CM of one host: what its programs ask for, and what the host tells them.

Read first: of Linux `core/cma.c` and rdma_cm(7). Ids are in `rdma_ids`; finding addresses and paths is
`rdma_resolving`, making connections `rdma_connecting`. Left out: datagram services, multicast, path migration.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import TYPE_CHECKING, assert_never

from ibbond.errors import Malformed
from ibbond.fabric.events import FailQueuePair, Post
from ibbond.fabric.reliable import Buffer
from ibbond.fabric.reliable_verbs import Completion, Operation, Receive, Status
from ibbond.fabric.subnet import Subnet
from ibbond.netdev.device import Device
from ibbond.stack.rdma_connecting import Connecting
from ibbond.stack.rdma_events import (
    Accept,
    Connect,
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
    WorkOver,
)
from ibbond.stack.rdma_ids import IdState, RdmaId, RdmaIds, need, refused
from ibbond.stack.rdma_resolving import Resolving
from ibbond.wire.cm import CmMad
from ibbond.wire.mad import MadHeader, ManagementClass
from ibbond.wire.sa import SaMad

if TYPE_CHECKING:
    from ibbond.stack.host_stack import HostStack


class RdmaUsers:
    """All programs of one host that use RDMA CM; `user` is a number of theirs."""

    def __init__(self, host: HostStack, subnet: Subnet) -> None:
        self._host = host
        self._ids = RdmaIds(host, subnet)
        self._resolving = Resolving(host, subnet, self._ids)
        self._connecting = Connecting(host, subnet, self._ids)

    def register(self, user: int, memory: Buffer) -> int:
        """Memory of a program that its connections and their peers may use; the key. On every adapter of the host."""
        return self._ids.domain(user).register(memory, remote=True)

    def ids(self) -> Iterator[RdmaId]:
        return iter(self._ids)

    # ---- the program asks

    def handle(self, now: int, user: int, request: RdmaRequest) -> None:
        ids = self._ids
        match request:
            case Listen(number, port, address):
                self._listen(user, number, port, address)
            case ResolveAddress(number):
                one = ids.find(user, number) or ids.new(user, number)
                need(one, IdState.IDLE, IdState.ADDRESS_RESOLVED, IdState.ROUTE_RESOLVED)
                self._resolving.address(now, one, request)
            case ResolveRoute(number, timeout_ms):
                self._resolving.route(now, need(ids.get(user, number), IdState.ADDRESS_RESOLVED), timeout_ms)
            case MakeQueuePair(number):
                one = ids.get(user, number)
                if one.state is IdState.REMOVED:
                    raise refused(one, "its adapter is gone", errno.ENODEV)
                ids.make_queue_pair(one)
            case Connect(number):
                self._connecting.connect(now, need(ids.get(user, number), IdState.ROUTE_RESOLVED), request)
            case Accept(number, private):
                self._connecting.accept(now, need(ids.get(user, number), IdState.CONNECTING), private)
            case Reject(number, private):
                self._connecting.reject(now, need(ids.get(user, number), IdState.CONNECTING), private)
            case Disconnect(number):
                self._connecting.disconnect(now, ids.get(user, number))
            case Destroy(number):
                self._connecting.leave(now, ids.get(user, number))
            case PostWork(number, work):
                one = ids.get(user, number)
                if one.qpn is None:
                    raise refused(one, "it has no queue pair", errno.EINVAL)
                if not isinstance(work, Receive) and not self._ids.may_send(one):
                    raise refused(one, "its queue pair is not connected", errno.EINVAL)
                self._host.outbox.send(Post(one.port, one.qpn, work))
            case _:
                assert_never(request)

    def gone(self, now: int, user: int) -> None:
        """The program has ended: its connections are ended as `rdma_destroy_id` would."""
        for one in self._ids:
            if one.user == user:
                self._connecting.disconnect(now, one)
                self._connecting.leave(now, one)
        self._ids.forget_domain(user)

    def _listen(self, user: int, number: int, port: int, address: bytes) -> None:
        taken = any(
            other.state is IdState.LISTENING
            and other.service_port == port
            and (other.source == address or not other.source or not address)
            for other in self._ids
        )
        one = self._ids.new(user, number)
        if taken or not 0 < port < 0x10000:
            self._ids.forget(one)
            raise refused(one, f"service port {port} cannot be had", errno.EADDRINUSE if taken else errno.EINVAL)
        one.state, one.service_port, one.source = IdState.LISTENING, port, address

    # ---- the host reports

    def mad_arrived(self, now: int, port: str, raw: bytes) -> None:
        """Ours are CM messages to RDMA services or about our ids, and answers to our path queries."""
        try:
            header = MadHeader.parse(raw)
            if header.management_class == ManagementClass.COMMUNICATION:
                self._connecting.mad_arrived(now, port, CmMad.parse(raw))
            elif header.management_class == ManagementClass.SUBNET_ADMINISTRATION:
                self._resolving.path_answered(SaMad.parse(raw))
        except Malformed:
            return  # counted by whoever reads everything

    def work_done(self, now: int, port: str, qpn: int, completion: Completion) -> None:
        one = self._ids.of_pair(port, qpn)
        if one is None:
            return
        if completion.operation is Operation.RECEIVE and completion.status is Status.SUCCESS:
            self._connecting.heard_data(now, qpn)
        self._host.outbox.tell(RdmaEvent(self._host.name, one.user, WorkOver(one.number, completion)))

    def failed_over(self, device: Device) -> None:
        """`cma_netdev_callback`: ids on this bond whose stored source address is not the bond's any more hear of it."""
        for one in self._ids:
            if one.device == device.name and one.source_address and one.source_address != device.address:
                self._ids.tell(one, RdmaKind.ADDR_CHANGE)

    def device_removed(self, port: str) -> None:
        """`cma_process_remove`, for one port of an adapter that is gone: its ids hear it, and can only be destroyed.

        Their queue pairs fail first, as a driver flushes them. Ids that listen are on no adapter and stay.
        """
        self._connecting.device_removed(port)
        for one in self._ids:
            if one.port == port and one.state is not IdState.REMOVED:
                one.state, one.source_address = IdState.REMOVED, b""  # of failovers it hears no more
                one.due_at = one.ask_at = None
                if one.qpn is not None:
                    self._host.outbox.send(FailQueuePair(one.port, one.qpn))
                self._ids.tell(one, RdmaKind.DEVICE_REMOVAL, detail=port)

    def settle(self, now: int) -> None:
        """Something has happened on the host: a neighbor that somebody waits for may have answered."""
        self._resolving.settle(now)

    def tick(self, now: int) -> None:
        self._resolving.tick(now)
        self._connecting.tick(now)

    def deadline(self) -> int | None:
        waits = (self._resolving.deadline(), self._connecting.deadline())
        return min((at for at in waits if at is not None), default=None)
