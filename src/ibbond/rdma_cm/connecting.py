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
from ibbond.rdma_cm.ids import IdState, RdmaId, RdmaIds, first_psn, refused
from ibbond.verbs.reliable_verbs import Peer
from ibbond.wire.cm import CmPath, Rej, RejectReason, Rep, Req
from ibbond.wire.port_info import MTU_BYTES
from ibbond.wire.rdma_ip import ROOM, RdmaIpHeader
from ibbond.wire.service_id import RDMA_CM_MASK, RDMA_CM_PREFIX, rdma_cm, rdma_cm_port


class Connecting:
    """Connects a host's ids, through its one communication manager."""

    def __init__(self, host: RdmaHost, subnet: Subnet, ids: RdmaIds, manager: ConnectionManager) -> None:
        self._host = host
        self._subnet = subnet
        self._ids = ids
        self._manager = manager
        manager.listen(self._handle, RDMA_CM_PREFIX, RDMA_CM_MASK)

    def data_arrived(self, now: int, one: RdmaId) -> None:
        """A message has come to the id's queue pair: as good as an RTU."""
        for effect in self._manager.data_arrived(now, one.local_id) if one.local_id is not None else ():
            if isinstance(effect, Notify):
                effect.user(now, effect.event)

    def device_removed(self, one: RdmaId) -> None:
        if one.local_id is not None:
            self._manager.forget(one.local_id)

    def connect(self, now: int, one: RdmaId, wish: Connect) -> None:
        record, qpn = one.record, _queue_pair(one, wish.qpn)
        if record is None:
            raise refused(one, "it has no route", errno.EINVAL)
        wish = _checked(one, wish)
        port = self._subnet.port(one.port)
        one.source_port = self._ids.free_port()
        header = RdmaIpHeader(one.source, one.destination, one.source_port)
        one.settings, one.state = wish, IdState.CONNECTING
        request = Req(
            local_id=0,
            service_id=rdma_cm(one.service_port),
            ca_guid=port.node.guid,
            qpn=qpn,
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
        local_id, mads = self._manager.connect(now, self._handle, one.port, request)
        self._ids.has_local(one, local_id)
        self._send(mads)

    def accept(self, now: int, one: RdmaId, wish: Accept) -> None:
        request, private = one.request, wish.private
        if one.local_id is None:
            raise refused(one, "no peer has requested a connection", errno.EINVAL)
        if request is None and self._manager.state(one.local_id) is CmState.REP_RCVD:  # after CONNECT_RESPONSE
            self._send(self._manager.ready(one.local_id))
            one.state = IdState.CONNECTED
            return
        if request is None or self._manager.state(one.local_id) is not CmState.REQ_RCVD:
            raise refused(one, "it has answered already", errno.EINVAL)
        qpn = _queue_pair(one, wish.qpn)
        check_private(one, private, Rep.PRIVATE_BYTES)
        if one.qpn is not None:
            self._connect_pair(one, request)
        reply = Rep(
            local_id=0,
            remote_id=0,
            qpn=qpn,
            psn=one.psn,
            ca_guid=self._subnet.port(one.port).node.guid,
            responder_resources=request.initiator_depth,
            initiator_depth=request.responder_resources,
            rnr_retry_count=request.rnr_retry_count,
            private=private.ljust(Rep.PRIVATE_BYTES, b"\0"),
        )
        self._send(self._manager.accept(now, one.local_id, reply))

    def _connect_pair(self, one: RdmaId, request: Req) -> None:
        """Move the queue pair of an id to RTS, as the peer's REQ describes the connection."""
        assert one.qpn is not None
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

    def reject(self, now: int, one: RdmaId, private: bytes) -> None:
        check_private(one, private, Rej.PRIVATE_BYTES)
        if one.local_id is not None:
            self._send(self._manager.reject(now, one.local_id, RejectReason.CONSUMER, private))
        self._over(one)

    def disconnect(self, now: int, one: RdmaId) -> None:
        """What is no connection yet is given up; an id that never asked for one has none to end."""
        if one.local_id is None:
            return
        if one.state is IdState.CONNECTING:
            one.state = IdState.DISCONNECTED
        self._ids.fail_queue_pair(one)
        self._send(self._manager.disconnect(now, one.local_id))

    def leave(self, now: int, one: RdmaId) -> None:
        """The id is no more: nothing is heard of its connection, and its queue pair is destroyed."""
        if one.local_id is not None:
            self._send(self._manager.disconnect(now, one.local_id))
        self._ids.forget(one)
        if one.qpn is not None:
            self._subnet.destroy_queue_pair(one.port, one.qpn)

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
        one = self._ids.of_local(local_id)
        if one is not None:
            one.state = IdState.CONNECTED
            self._ids.notify(one, RdmaKind.ESTABLISHED)

    def _timewait_exit(self, local_id: int) -> None:
        one = self._ids.of_local(local_id)
        if one is not None and one.program_qpn is not None:
            self._ids.notify(one, RdmaKind.TIMEWAIT_EXIT)

    def _ended(self, local_id: int, kind: RdmaKind, status: int, private: bytes = b"") -> None:
        one = self._ids.of_local(local_id)
        if one is not None:
            self._over(one)
            self._ids.notify(one, kind, status, private)

    def _over(self, one: RdmaId) -> None:
        """However connecting or the connection has ended: nothing stays posted."""
        one.state = IdState.DISCONNECTED
        self._ids.fail_queue_pair(one)

    def _requested(self, now: int, local_id: int, port: str, request: Req) -> None:
        """`cma_ib_req_handler`: the device by port, P_Key and destination, or its master; then the listener."""
        found = self._destination(port, request)
        if found is None or request.path_mtu not in MTU_BYTES:
            reason = RejectReason.INVALID_SERVICE_ID if found is None else RejectReason.PATH_MTU
            self._send(self._manager.reject(now, local_id, reason))
            return
        listener, device, header = found
        one = self._ids.arrived(listener.user)
        one.state, one.service_port, one.port = IdState.CONNECTING, listener.service_port, port
        one.device, one.source, one.destination = device.name, header.destination, header.source
        one.source_address, one.pkey, one.request = device.address, request.pkey, request
        self._ids.has_local(one, local_id)
        private = request.private[RdmaIpHeader.LAYOUT.size :]
        peer = str(ip_address(header.source))
        self._ids.notify(one, RdmaKind.CONNECT_REQUEST, private=private, listener=listener.number, detail=peer)

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
            for one in self._ids:
                wanted = service is not None and one.service_port == service[1]
                if one.state is IdState.LISTENING and wanted and self._hears(one, port, header.destination):
                    return one, device, header
        return None

    def _hears(self, listener: RdmaId, port: str, destination: bytes) -> bool:
        """One that is bound to an address is bound to the adapter that had it then (`cma_find_listener`)."""
        if not listener.port:
            return True
        return listener.source == destination and self._ids.adapter(listener.port) == self._ids.adapter(port)

    def _accepted(self, now: int, local_id: int, reply: Rep) -> None:
        one = self._ids.of_local(local_id)
        if one is None or one.record is None or one.settings is None:
            self._send(self._manager.reject(now, local_id, RejectReason.CONSUMER))
            return
        one.reply = reply
        if one.qpn is None:
            self._ids.notify(one, RdmaKind.CONNECT_RESPONSE, private=reply.private)
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
        self._send(self._manager.ready(local_id))
        one.state = IdState.CONNECTED
        self._ids.notify(one, RdmaKind.ESTABLISHED, private=reply.private)

    def _ack_timeout(self, one: RdmaId) -> int:
        """As wished for; else of the path (`cma_set_ack_timeout`, `cm_ack_timeout`)."""
        wish = one.settings.ack_timeout if one.settings is not None else None
        lifetime = one.record.lifetime if one.record is not None else 18
        return min(31, lifetime + 1) if wish is None else wish


def _queue_pair(one: RdmaId, program_qpn: int | None) -> int:
    """The number that the peer is told: of the id's own queue pair, or of one that the program moves itself."""
    if program_qpn is not None and one.qpn is None:
        one.program_qpn, one.psn = program_qpn, first_psn(program_qpn)
        return program_qpn
    if one.qpn is None:
        raise refused(one, "it has no queue pair", errno.EINVAL)
    return one.qpn


def check_private(one: RdmaId, private: bytes, room: int) -> None:
    if len(private) > room:
        raise refused(one, f"{len(private)} bytes of private data, there is room for {room}", errno.EINVAL)


def _checked(one: RdmaId, wish: Connect) -> Connect:
    """Retries of more than 7 are taken as 7 (`rdma_connect` of programs does so), what else a REQ cannot say is not."""
    check_private(one, wish.private, ROOM)
    for name, value, most in (
        ("retry_count", wish.retry_count, 255),
        ("rnr_retry_count", wish.rnr_retry_count, 255),
        ("ack_timeout", 0 if wish.ack_timeout is None else wish.ack_timeout, 31),
        ("response_timeout", wish.response_timeout, 31),
        ("cm_retries", wish.cm_retries, 15),
    ):
        if not 0 <= value <= most:
            raise refused(one, f"{name} {value} is not 0 to {most}", errno.EINVAL)
    return replace(wish, retry_count=min(7, wish.retry_count), rnr_retry_count=min(7, wish.rnr_retry_count))
