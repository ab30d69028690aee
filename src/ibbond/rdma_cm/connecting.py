"""Connecting of RDMA CM: from a path to two queue pairs that are each other's peer, and apart again.

Read first: of Linux `core/cma.c` (names of functions are given where they are followed), InfiniBand annex A11 for what
a REQ says of IP addresses. The messages themselves are the connection manager's (`cm`). Left out: path migration, the
check that the reverse route leads out of the device a request came by.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_address
from typing import NamedTuple

from ibbond.cm.connection_manager import ConnectionManager
from ibbond.cm.events import (
    CmEvent,
    Disconnected,
    NoReply,
    Notify,
    RejReceived,
    RepReceived,
    ReqReceived,
    RtuReceived,
    TimewaitExit,
)
from ibbond.cm.states import CmState
from ibbond.errors import Malformed
from ibbond.fabric.events import SendMad
from ibbond.fabric.subnet import Subnet
from ibbond.netdev.device import Device
from ibbond.rdma_cm.events import Accept, Connect, RdmaKind
from ibbond.rdma_cm.host import RdmaHost
from ibbond.rdma_cm.id_states import IdInput, IdState, IdVerb
from ibbond.rdma_cm.ids import RdmaId, RdmaIds, move, refused, step
from ibbond.verbs.reliable_verbs import Peer
from ibbond.wire.cm import CmPath, Rej, RejectReason, Rep, Req
from ibbond.wire.port_info import MTU_BYTES
from ibbond.wire.rdma_ip import ROOM, RdmaIpHeader
from ibbond.wire.service_id import RDMA_CM_MASK, RDMA_CM_PREFIX, rdma_cm, rdma_cm_port


class Reached(NamedTuple):
    """A peer, and what else a program modifies its queue pair by: MTU and rate as codes, READs out and in at once."""

    peer: Peer
    gid: bytes
    mtu: int
    rate: int
    initiator_depth: int
    responder_resources: int


class Connecting:
    """Connects a host's ids, through its one communication manager."""

    def __init__(self, host: RdmaHost, subnet: Subnet, ids: RdmaIds, manager: ConnectionManager) -> None:
        self._host = host
        self._subnet = subnet
        self._ids = ids
        self._manager = manager
        manager.listen(self._handle, RDMA_CM_PREFIX, RDMA_CM_MASK)

    def data_arrived(self, now: int, cm_id: RdmaId) -> None:
        """A message has come to the id's queue pair: as good as an RTU."""
        for effect in self._manager.data_arrived(now, cm_id.local_id) if cm_id.local_id is not None else ():
            if isinstance(effect, Notify):
                effect.user(now, effect.event)

    def device_removed(self, cm_id: RdmaId) -> None:
        if cm_id.local_id is not None:
            self._manager.forget(cm_id.local_id)

    def connect(self, now: int, cm_id: RdmaId, request: Connect) -> None:
        record, qpn = cm_id.record, _queue_pair(cm_id, request.qpn)
        if record is None:
            raise refused(cm_id, "it has no route", errno.EINVAL)
        request = _checked(cm_id, request)
        port = self._subnet.port(cm_id.port)
        header = RdmaIpHeader(cm_id.source, cm_id.destination, cm_id.source_port)
        cm_id.settings = request
        move(cm_id, IdVerb.CONNECT)
        req = Req(
            local_id=0,
            service_id=rdma_cm(cm_id.service_port),
            ca_guid=port.node.guid,
            qpn=qpn,
            psn=cm_id.psn,
            responder_resources=request.responder_resources,
            initiator_depth=request.initiator_depth,
            flow_control=request.flow_control,
            srq=request.srq,
            remote_timeout=request.response_timeout,
            local_timeout=request.response_timeout,
            retry_count=request.retry_count,
            rnr_retry_count=request.rnr_retry_count,
            max_cm_retries=request.cm_retries,
            pkey=cm_id.pkey,
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
                ack_timeout=self._ack_timeout(cm_id),
            ),
            private=(header.pack() + request.private).ljust(92, b"\0"),
        )
        local_id, mads = self._manager.connect(now, self._handle, cm_id.port, req)
        self._ids.has_local(cm_id, local_id)
        self._send(mads)

    def accept(self, now: int, cm_id: RdmaId, request: Accept) -> None:
        req, private = cm_id.request, request.private
        if cm_id.local_id is None:
            raise refused(cm_id, "no peer has requested a connection", errno.EINVAL)
        if req is None and self._manager.state(cm_id.local_id) is CmState.REP_RCVD:  # after CONNECT_RESPONSE
            self._send(self._manager.ready(cm_id.local_id))
            step(cm_id, IdInput.ESTABLISHED)
            return
        if req is None or self._manager.state(cm_id.local_id) is not CmState.REQ_RCVD:
            raise refused(cm_id, "it has already answered", errno.EINVAL)
        qpn = _queue_pair(cm_id, request.qpn)
        check_private(cm_id, private, Rep.PRIVATE_BYTES)
        if cm_id.qpn is not None:
            self._connect_pair(cm_id)
        reply = Rep(
            local_id=0,
            remote_id=0,
            qpn=qpn,
            psn=cm_id.psn,
            ca_guid=self._subnet.port(cm_id.port).node.guid,
            responder_resources=_or(request.responder_resources, req.initiator_depth),
            initiator_depth=_or(request.initiator_depth, req.responder_resources),
            rnr_retry_count=_or(request.rnr_retry_count, req.rnr_retry_count),
            flow_control=request.flow_control,
            srq=request.srq,
            private=private.ljust(Rep.PRIVATE_BYTES, b"\0"),
        )
        move(cm_id, IdVerb.ACCEPT)
        self._send(self._manager.accept(now, cm_id.local_id, reply))

    def reached(self, cm_id: RdmaId) -> Reached | None:
        """What the id knows of its peer's queue pair; None before REQ or REP."""
        if (request := cm_id.request) is not None:
            peer = Peer(
                request.primary.local_lid,
                request.qpn,
                send_psn=cm_id.psn,
                receive_psn=request.psn,
                mtu_bytes=MTU_BYTES[request.path_mtu],
                timeout=request.primary.ack_timeout,
                retry_count=request.retry_count,
                rnr_retry_count=request.rnr_retry_count,
                pkey=request.pkey,
                service_level=request.primary.sl,
            )
            depths = request.responder_resources, request.initiator_depth
            return Reached(peer, request.primary.local_gid, request.path_mtu, request.primary.rate, *depths)
        record, reply, settings = cm_id.record, cm_id.reply, cm_id.settings
        if record is None or reply is None or settings is None:
            return None
        peer = Peer(
            record.dlid,
            reply.qpn,
            send_psn=cm_id.psn,
            receive_psn=reply.psn,
            mtu_bytes=MTU_BYTES[record.mtu],
            timeout=self._ack_timeout(cm_id),
            retry_count=settings.retry_count,
            rnr_retry_count=min(settings.rnr_retry_count, reply.rnr_retry_count),
            pkey=cm_id.pkey,
            service_level=record.sl,
        )
        depths = reply.responder_resources, reply.initiator_depth
        return Reached(peer, record.dgid, record.mtu, record.rate, *depths)

    def _connect_pair(self, cm_id: RdmaId) -> None:
        """Move the queue pair of an id to RTS, as the peer's REQ or REP describes the connection."""
        reached = self.reached(cm_id)
        assert cm_id.qpn is not None
        assert reached is not None, "the peer has said it all"
        self._subnet.connect_reliable(cm_id.port, cm_id.qpn, reached.peer)

    def reject(self, now: int, cm_id: RdmaId, private: bytes) -> None:
        check_private(cm_id, private, Rej.PRIVATE_BYTES)
        if cm_id.local_id is not None:
            self._send(self._manager.reject(now, cm_id.local_id, RejectReason.CONSUMER, private))
        move(cm_id, IdVerb.REJECT)
        self._ids.fail_queue_pair(cm_id)

    def disconnect(self, now: int, cm_id: RdmaId) -> None:
        """End the connection; if it is still being made, give it up."""
        move(cm_id, IdVerb.DISCONNECT)
        self._ids.fail_queue_pair(cm_id)
        if cm_id.local_id is not None:
            self._send(self._manager.disconnect(now, cm_id.local_id))

    def leave(self, now: int, cm_id: RdmaId) -> None:
        """The id is no more: its connection has no more events, and its queue pair is destroyed."""
        if cm_id.local_id is not None:
            self._send(self._manager.disconnect(now, cm_id.local_id))
        self._ids.forget(cm_id)
        if cm_id.qpn is not None:
            self._subnet.destroy_queue_pair(cm_id.port, cm_id.qpn)

    # ---- what the communication manager says

    def _handle(self, now: int, event: CmEvent) -> None:
        match event:
            case ReqReceived(local_id, port, request):
                self._requested(now, local_id, port, request)
            case RepReceived(local_id, reply):
                self._accepted(now, local_id, reply)
            case RtuReceived(local_id):
                self._established(local_id)
            case RejReceived(local_id, reason, private):
                self._ended(local_id, RdmaKind.REJECTED, reason, private)
            case NoReply(local_id):
                self._ended(local_id, RdmaKind.UNREACHABLE, errno.ETIMEDOUT)
            case Disconnected(local_id, answered):
                self._ended(local_id, RdmaKind.DISCONNECTED, 0 if answered else errno.ETIMEDOUT)
            case TimewaitExit(local_id):
                self._timewait_exit(local_id)

    def _send(self, mads: Iterable[SendMad]) -> None:
        for mad in mads:
            self._host.send(mad)

    def _established(self, local_id: int) -> None:
        cm_id = self._ids.of_local(local_id)
        if cm_id is not None and step(cm_id, IdInput.ESTABLISHED):
            self._ids.notify(cm_id, RdmaKind.ESTABLISHED)

    def _timewait_exit(self, local_id: int) -> None:
        cm_id = self._ids.of_local(local_id)
        if cm_id is not None and cm_id.program_qpn is not None:
            self._ids.notify(cm_id, RdmaKind.TIMEWAIT_EXIT)

    def _ended(self, local_id: int, kind: RdmaKind, status: int, private: bytes = b"") -> None:
        cm_id = self._ids.of_local(local_id)
        if cm_id is not None and step(cm_id, IdInput.ENDED):
            self._ids.fail_queue_pair(cm_id)  # nothing stays posted
            self._ids.notify(cm_id, kind, status, private)

    def _requested(self, now: int, local_id: int, port: str, request: Req) -> None:
        """`cma_ib_req_handler`: the device by port, P_Key and destination, or its master; then the listener."""
        found = self._destination(port, request)
        if found is None or request.path_mtu not in MTU_BYTES:
            reason = RejectReason.INVALID_SERVICE_ID if found is None else RejectReason.PATH_MTU
            self._send(self._manager.reject(now, local_id, reason))
            return
        listener, device, header = found
        cm_id = self._ids.arrived(listener.user)
        step(cm_id, IdInput.REQUESTED)
        cm_id.service_port, cm_id.port = listener.service_port, port
        cm_id.device, cm_id.source, cm_id.destination = device.name, header.destination, header.source
        cm_id.source_address, cm_id.pkey, cm_id.request = device.address, request.pkey, request
        cm_id.source_port = header.port
        self._ids.has_local(cm_id, local_id)
        private = request.private[RdmaIpHeader.LAYOUT.size :]
        peer = str(ip_address(header.source))
        self._ids.notify(cm_id, RdmaKind.CONNECT_REQUEST, private=private, listener=listener.number, detail=peer)

    def _destination(self, port: str, request: Req) -> tuple[RdmaId, Device, RdmaIpHeader] | None:
        service = rdma_cm_port(request.service_id)
        try:
            header = RdmaIpHeader.parse(request.private)
        except Malformed:
            return None
        for lower in self._host.devices_at(port):
            if int.from_bytes(lower.broadcast[8:10]) & 0x7FFF != request.pkey & 0x7FFF:
                continue
            device = lower.master or lower
            if not self._host.owns(device.name, header.destination):
                continue
            for cm_id in self._ids:
                wanted = service is not None and cm_id.service_port == service[1]
                if cm_id.state is IdState.LISTENING and wanted and self._match_reply(cm_id, port, header.destination):
                    return cm_id, device, header
        return None

    def _match_reply(self, listener: RdmaId, port: str, destination: bytes) -> bool:
        """One that is bound to an address is bound to the adapter that had it then (`cma_find_listener`)."""
        if not listener.port:
            return not listener.only or len(listener.source) == len(destination)
        return listener.source == destination and self._ids.adapter(listener.port) == self._ids.adapter(port)

    def _accepted(self, now: int, local_id: int, reply: Rep) -> None:
        cm_id = self._ids.of_local(local_id)
        if cm_id is None or cm_id.record is None or cm_id.settings is None:
            self._send(self._manager.reject(now, local_id, RejectReason.CONSUMER))
            return
        cm_id.reply = reply
        if cm_id.qpn is None:
            self._ids.notify(cm_id, RdmaKind.CONNECT_RESPONSE, private=reply.private)
            return
        self._connect_pair(cm_id)
        self._send(self._manager.ready(local_id))
        step(cm_id, IdInput.ESTABLISHED)
        self._ids.notify(cm_id, RdmaKind.ESTABLISHED, private=reply.private)

    def _ack_timeout(self, cm_id: RdmaId) -> int:
        """The requested value, else that of the path (`cma_set_ack_timeout`, `cm_ack_timeout`)."""
        requested = cm_id.settings.ack_timeout if cm_id.settings is not None else None
        lifetime = cm_id.record.lifetime if cm_id.record is not None else 18
        return min(31, lifetime + 1) if requested is None else requested


def _queue_pair(cm_id: RdmaId, program_qpn: int | None) -> int:
    """The number sent to the peer: of the id's own queue pair, or of one that the program moves itself."""
    if program_qpn is not None and cm_id.qpn is None:
        cm_id.program_qpn = program_qpn
        return program_qpn
    if cm_id.qpn is None:
        raise refused(cm_id, "it has no queue pair", errno.EINVAL)
    return cm_id.qpn


def _or(wanted: int | None, otherwise: int) -> int:
    return otherwise if wanted is None else wanted


def check_private(cm_id: RdmaId, private: bytes, room: int) -> None:
    if len(private) > room:
        raise refused(cm_id, f"{len(private)} bytes of private data, there is room for {room}", errno.EINVAL)


def _checked(cm_id: RdmaId, request: Connect) -> Connect:
    """Retries of more than 7 are taken as 7 (`rdma_connect` of programs does so), what else a REQ cannot say is not."""
    check_private(cm_id, request.private, ROOM)
    for name, value, high in (
        ("retry_count", request.retry_count, 255),
        ("rnr_retry_count", request.rnr_retry_count, 255),
        ("ack_timeout", 0 if request.ack_timeout is None else request.ack_timeout, 31),
        ("response_timeout", request.response_timeout, 31),
        ("cm_retries", request.cm_retries, 15),
        ("responder_resources", request.responder_resources, 255),
        ("initiator_depth", request.initiator_depth, 255),
    ):
        if not 0 <= value <= high:
            raise refused(cm_id, f"{name} {value} is not 0 to {high}", errno.EINVAL)
    return replace(request, retry_count=min(7, request.retry_count), rnr_retry_count=min(7, request.rnr_retry_count))
