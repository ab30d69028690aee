"""Connecting of RDMA CM: from a path to two queue pairs that are each other's peer, and apart again.

Read first: of Linux `core/cma.c` (names of functions are given where they are followed), InfiniBand annex A11 for what
a REQ says of IP addresses. The messages themselves are `fabric.connection_manager`'s. Left out: path migration, the
check that the reverse route leads out of the device a request came by.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from ipaddress import ip_address
from typing import TYPE_CHECKING

from ibbond.errors import Malformed
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
from ibbond.fabric.events import FailQueuePair, SendMad
from ibbond.fabric.reliable_verbs import Peer
from ibbond.fabric.subnet import Subnet
from ibbond.netdev.device import Device
from ibbond.stack.rdma_events import Connect, RdmaKind
from ibbond.stack.rdma_ids import IdState, RdmaId, RdmaIds, refused
from ibbond.wire.cm import CmMad, CmPath, RejectReason, Rep, Req
from ibbond.wire.port_info import MTU_BYTES
from ibbond.wire.rdma_ip import ROOM, RdmaIpHeader
from ibbond.wire.service_id import rdma_cm, rdma_cm_port

if TYPE_CHECKING:
    from ibbond.stack.host_stack import HostStack


class Connecting:
    """Connects a host's ids, through its one communication manager."""

    def __init__(self, host: HostStack, subnet: Subnet, ids: RdmaIds) -> None:
        self._host = host
        self._subnet = subnet
        self._ids = ids
        self._manager = ConnectionManager()

    def mad_arrived(self, now: int, port: str, mad: CmMad) -> None:
        """A CM message at the port; requests for services of others are left to them."""
        if isinstance(mad.message, Req) and rdma_cm_port(mad.message.service_id) is None:
            return
        self._run(now, self._manager.handle(now, port, mad))

    def heard_data(self, now: int, qpn: int) -> None:
        self._run(now, self._manager.heard_data(qpn))

    def device_removed(self, port: str) -> None:
        self._manager.port_removed(port)

    def tick(self, now: int) -> None:
        self._run(now, self._manager.tick(now))

    def deadline(self) -> int | None:
        return self._manager.deadline()

    def connect(self, now: int, one: RdmaId, wish: Connect) -> None:
        record = one.record
        if one.qpn is None or record is None or len(wish.private) > ROOM:
            raise refused(one, "it has no queue pair" if one.qpn is None else "private data are too long", errno.EINVAL)
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
        local_id, effects = self._manager.connect(now, one.port, request)
        self._ids.has_local(one, local_id)
        self._run(now, effects)

    def accept(self, now: int, one: RdmaId, private: bytes) -> None:
        request = one.request
        if one.qpn is None or request is None or one.local_id is None:
            raise refused(one, "it has no queue pair, or nobody asked", errno.EINVAL)
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

    def reject(self, now: int, one: RdmaId, private: bytes) -> None:
        if one.local_id is not None:
            self._run(now, self._manager.reject(now, one.local_id, RejectReason.CONSUMER, private))
        one.state = IdState.DISCONNECTED

    def disconnect(self, now: int, one: RdmaId) -> None:
        if one.qpn is not None:
            self._host.outbox.send(FailQueuePair(one.port, one.qpn))
        if one.local_id is not None:
            self._run(now, self._manager.disconnect(now, one.local_id))

    def leave(self, now: int, one: RdmaId) -> None:
        """The id is no more: nothing is heard of its connection, and its queue pair is destroyed."""
        if one.local_id is not None:
            self._run(now, self._manager.disconnect(now, one.local_id))
        self._ids.forget(one)
        if one.qpn is not None:
            self._subnet.destroy_queue_pair(one.port, one.qpn)

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
        one = self._ids.of_local(local_id)
        if one is not None:
            one.state = state
            self._ids.tell(one, kind, status, private)

    def _parted(self, local_id: int) -> None:
        one = self._ids.of_local(local_id)
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
        one = self._ids.arrived(listener.user)
        one.state, one.service_port, one.port = IdState.CONNECTING, listener.service_port, port
        one.device, one.source, one.destination = device.name, header.destination, header.source
        one.source_address, one.pkey, one.request = device.address, request.pkey, request
        self._ids.has_local(one, local_id)
        private = request.private[RdmaIpHeader.LAYOUT.size :]
        peer = str(ip_address(header.source))
        self._ids.tell(one, RdmaKind.CONNECT_REQUEST, private=private, listener=listener.number, detail=peer)

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
            for one in self._ids:
                wanted = one.source in (b"", header.destination)
                if service is not None and one.state is IdState.LISTENING and one.service_port == service[1] and wanted:
                    return one, device, header
        return None

    def _accepted(self, now: int, local_id: int, reply: Rep) -> None:
        one = self._ids.of_local(local_id)
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
        self._ids.tell(one, RdmaKind.ESTABLISHED, private=reply.private)

    def _ack_timeout(self, one: RdmaId) -> int:
        """As wished for; else of the path (`cma_set_ack_timeout`, `cm_ack_timeout`)."""
        wish = one.settings.ack_timeout if one.settings is not None else None
        lifetime = one.record.lifetime if one.record is not None else 18
        return min(31, lifetime + 1) if wish is None else wish
