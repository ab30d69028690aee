"""Resolving of RDMA CM: which port leads to an IP address, where the neighbor is, and the path to it.

Read first: of Linux `core/addr.c` and `core/cma.c` (names of functions are given where they are followed). The port
comes from the device's address of the moment, which on a bond is that of its active member: so a program that resolves
the same IP again after a failover gets the new one. Left out: the kernel's own cache of resolved addresses.
"""

from __future__ import annotations

import errno

from ibbond.fabric.events import SendMad
from ibbond.fabric.subnet import Subnet
from ibbond.machine import MS
from ibbond.rdma_cm.events import RdmaKind, ResolveAddress
from ibbond.rdma_cm.host import RdmaHost
from ibbond.rdma_cm.id_states import IdInput, IdState, IdVerb
from ibbond.rdma_cm.ids import RdmaId, RdmaIds, move, step
from ibbond.verbs.verbs import GSI_QPN, ManagementDatagram, PortState
from ibbond.wire.mad import Method
from ibbond.wire.sa import SaAttribute, SaMad, SaStatus
from ibbond.wire.sa_records import PathMask, PathRecord

QUERIES = 0x8002 << 48  # transaction ids of our path queries
ASK_AGAIN = 200 * MS
QUESTION = PathMask.DGID | PathMask.SGID | PathMask.REVERSIBLE | PathMask.NUMB_PATH | PathMask.PKEY


class Resolving:
    """Looks for addresses and paths of a host's ids."""

    def __init__(self, host: RdmaHost, subnet: Subnet, ids: RdmaIds) -> None:
        self._host = host
        self._subnet = subnet
        self._ids = ids
        self._next_query = 0

    def address(self, now: int, cm_id: RdmaId, request: ResolveAddress) -> None:
        host, destination = self._host, request.destination
        if cm_id.state is IdState.BOUND:
            cm_id.source_port = cm_id.service_port
        cm_id.source_port = cm_id.source_port or self._ids.free_port()
        if any(cm_id.bound):
            device = host.device_with(cm_id.bound)
        else:
            device = host.device_with(destination) or host.device_to(destination)
        cm_id.service_port, cm_id.destination, cm_id.record = request.port, destination, None
        move(cm_id, IdVerb.RESOLVE_ADDRESS)
        if device is None or not device.usable or len(device.address) != 20:
            step(cm_id, IdInput.FAILED)
            self._ids.notify(cm_id, RdmaKind.ADDR_ERROR, errno.ENODEV if device else errno.ENETUNREACH)
            return
        cm_id.device = device.name
        cm_id.source = cm_id.bound if any(cm_id.bound) else host.source_for(device.name, destination)
        if host.owns(device.name, destination):
            self._address_resolved(cm_id, device.address)
            return
        cm_id.next_hop = host.next_hop(device.name, destination)
        known = host.neighbor(device.name, cm_id.next_hop)
        cm_id.due_at = now + request.timeout_ms * MS
        host.resolve(now, device.name, cm_id.next_hop)
        if known:
            self._address_resolved(cm_id, known)

    def route(self, now: int, cm_id: RdmaId, timeout_ms: int) -> None:
        move(cm_id, IdVerb.RESOLVE_ROUTE)
        cm_id.due_at = now + timeout_ms * MS
        self._ask_path(now, cm_id)

    def path_answered(self, answer: SaMad) -> None:
        for cm_id in self._ids:
            if cm_id.query == answer.transaction_id and cm_id.state is IdState.RESOLVING_ROUTE:
                cm_id.due_at = cm_id.ask_at = None
                record = PathRecord.parse(answer.data)
                if answer.status != SaStatus.OK or not record.dlid:
                    step(cm_id, IdInput.FAILED)
                    self._ids.notify(cm_id, RdmaKind.ROUTE_ERROR, errno.EHOSTUNREACH)
                    return
                cm_id.record = record
                step(cm_id, IdInput.RESOLVED)
                self._ids.notify(cm_id, RdmaKind.ROUTE_RESOLVED, detail=f"LID {record.slid} to {record.dlid}")

    def run_due(self, now: int) -> None:
        """Something has happened on the host: a neighbor that an id waits for may have answered.

        Ids with a path get no event when a neighbor moves: `cma_netevent_callback` knows only ids of RoCE.
        """
        for cm_id in self._ids:
            if cm_id.state is IdState.RESOLVING_ADDRESS and (
                known := self._host.neighbor(cm_id.device, cm_id.next_hop)
            ):
                self._address_resolved(cm_id, known)

    def tick(self, now: int) -> None:
        for cm_id in self._ids:
            if cm_id.due_at is not None and cm_id.due_at <= now:
                cm_id.due_at = cm_id.ask_at = None
                route = cm_id.state is IdState.RESOLVING_ROUTE
                step(cm_id, IdInput.FAILED)
                self._ids.notify(cm_id, RdmaKind.ROUTE_ERROR if route else RdmaKind.ADDR_ERROR, errno.ETIMEDOUT)
            elif cm_id.ask_at is not None and cm_id.ask_at <= now:
                self._ask_path(now, cm_id)

    def deadline(self) -> int | None:
        if not self._ids:  # on most hosts, after every packet
            return None
        return min((at for cm_id in self._ids for at in (cm_id.due_at, cm_id.ask_at) if at is not None), default=None)

    def _address_resolved(self, cm_id: RdmaId, neighbor: bytes) -> None:
        device = self._host.device(cm_id.device)
        cm_id.due_at = None
        cm_id.neighbor_address, cm_id.source_address = neighbor, device.address
        cm_id.pkey = int.from_bytes(device.broadcast[8:10])
        port = self._ids.port_of(device)
        if port is None:
            step(cm_id, IdInput.FAILED)
            self._ids.notify(cm_id, RdmaKind.ADDR_ERROR, errno.ENODEV)
            return
        cm_id.port = port
        step(cm_id, IdInput.RESOLVED)
        self._ids.notify(cm_id, RdmaKind.ADDR_RESOLVED, detail=port)

    def _ask_path(self, now: int, cm_id: RdmaId) -> None:
        """`cma_query_ib_route`. The administrator may be silent while it sweeps; it is asked again."""
        self._next_query += 1
        cm_id.query = QUERIES | self._next_query
        cm_id.ask_at = now + ASK_AGAIN
        question = PathRecord(
            dgid=cm_id.neighbor_address[4:],
            sgid=cm_id.source_address[4:],
            pkey=cm_id.pkey,
            numb_path=1,
            reversible=True,
        )
        port = self._subnet.port(cm_id.port)
        if port.state == PortState.ACTIVE and port.sm_lid:
            mad = SaMad(
                Method.GET,
                SaAttribute.PATH_RECORD,
                component_mask=QUESTION,
                data=question.pack(),
                transaction_id=cm_id.query,
            )
            self._host.send(
                SendMad(cm_id.port, ManagementDatagram(port.lid, port.sm_lid, GSI_QPN, GSI_QPN, mad.pack()))
            )
