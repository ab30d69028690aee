"""Connected mode: IP packets of up to 65520 bytes over reliable connections, one for each direction.

Read first: RFC 4755 and Linux' `ipoib_cm.c`, whose service ids and one-way use of connections are ours. ARP, neighbor
discovery and groups stay datagrams. Better than Linux: a peer that rejects us is sent datagrams for a while; a request
is repeated soon, more than three packets wait for its answer, and a lost message is repeated before it ends the
connection, so that a failover costs no seconds. Queue pairs are numbers that the host makes; `ConnectQueuePair` says
between which of them a connection exists.
Left out: unreliable connections (UC), path migration, shared receive queues.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ibbond.ipoib.events import (
    CloseQueuePair,
    ConnectQueuePair,
    EmitMad,
    EmitMessage,
    InterfaceEffect,
    PathsChanged,
    TooLong,
)
from ibbond.ipoib.outlet import Outlet, Packet, Path
from ibbond.machine import SECOND
from ibbond.verbs.verbs import GSI_QPN, ManagementDatagram, PortState
from ibbond.wire import nd
from ibbond.wire.cm import CmMad, CmPath, Drep, Dreq, Message, Mra, Rej, Rejected, RejectReason, Rep, Req, Rtu
from ibbond.wire.hwaddr import RC_SUPPORTED
from ibbond.wire.ipoib import ENCAPSULATION_BYTES, ETHERTYPE_IPV6, ConnectedModeData
from ibbond.wire.offload import largest_segment, segment_count
from ibbond.wire.sa_records import PathRecord
from ibbond.wire.service_id import connected_mode, connected_mode_qpn

TIMEOUT_CODE = 20  # the response time that we grant by our REQ, 4.3 s, as Linux does
CM_RETRIES = 15
REPEAT_NS = SECOND // 2  # but nothing forbids asking again before
WAITING_PACKETS = 64  # Linux has 3
ACK_TIMEOUT, RETRIES = 12, 3  # 16.8 ms, four times; Linux takes the path's lifetime (seconds), and no retries
IDLE_NS = 512 * SECOND  # passive connections
REJECTED_NS = 30 * SECOND  # datagrams only, to a peer that said no
TRANSACTIONS = 0x8000 << 48


@dataclass(eq=False, slots=True)
class Active:
    """A connection that we asked for, to send to one address."""

    address: bytes
    qpn: int
    local_id: int
    record: PathRecord
    request: bytes
    due_at: int | None  # of the next repetition; None once connected
    tries: int = 1
    peer_id: int = 0
    peer_qpn: int = 0
    greatest: int = 0  # of an IP packet; 0 until connected
    waiting: list[Packet] = field(default_factory=list)


@dataclass(eq=False, slots=True)
class Passive:
    """A connection that a peer asked for, to send to us."""

    qpn: int
    local_id: int
    peer_id: int
    peer_guid: int
    peer_qpn: int
    lid: int
    reply: bytes
    due_at: int | None  # of the next repetition; None once the peer is known to send
    used_at: int
    tries: int = 1


class Connections:
    """The reliable connections of one interface. `new_queue_pair` makes one of kind RC and gives its number."""

    def __init__(self, outlet: Outlet, ca_guid: int, new_queue_pair: Callable[[], int]) -> None:
        self._outlet = outlet
        self._ca_guid = ca_guid
        self._new_queue_pair = new_queue_pair
        self._next_id = 0
        self._active: dict[bytes, Active] = {}
        self._passive: dict[int, Passive] = {}  # by queue pair
        self._rejected: dict[bytes, int] = {}  # address -> until

    def carries(self, now: int, address: bytes, packet: Packet) -> bool:
        """Whether this packet goes by connection: the peer says that it takes them, and it is no discovery."""
        if not address[0] & RC_SUPPORTED or self._rejected.get(address, 0) > now:
            return False
        head = packet.encapsulated[:2]
        return head != ETHERTYPE_IPV6.to_bytes(2) or not nd.is_message(packet.encapsulated[ENCAPSULATION_BYTES:])

    def send(self, now: int, address: bytes, record: PathRecord, packet: Packet) -> list[InterfaceEffect]:
        """Through the connection to this address; the first packet asks for it, and waits with others."""
        connection = self._active.get(address)
        effects: list[InterfaceEffect] = []
        if connection is None:
            connection = self._connect(now, address, record)
            effects += self._emit(record.dlid, connection.request)
        if connection.greatest:
            return effects + self._transmit(connection, packet)
        if len(connection.waiting) >= WAITING_PACKETS:
            return effects + self._outlet.drop("too many packets wait for the connection")
        connection.waiting.append(packet)
        return effects

    def handle(self, now: int, mad: CmMad) -> list[InterfaceEffect]:
        """A message of the communication manager; those of other software at the port are left alone."""
        message = mad.message
        match message:
            case Req():
                return self._requested(now, mad.transaction_id, message)
            case Rep():
                return self._accepted(mad.transaction_id, message)
            case Rtu():
                passive = self._passive_by_id(message.remote_id)
                if passive is not None:
                    passive.due_at = None
                return []
            case Mra():
                waiting = self._active_by_id(message.remote_id)
                if waiting is not None and waiting.due_at is not None:
                    waiting.due_at = now + REPEAT_NS + (4096 << message.service_timeout)
                return []
            case Rej():
                return self._refused(now, message)
            case Dreq():
                return self._released(mad.transaction_id, message)
            case _:
                return []

    def peer_of(self, now: int, qpn: int) -> int | None:
        """A message has arrived at this queue pair of ours: the sender's queue pair, None when it is not one."""
        passive = self._passive.get(qpn)
        if passive is None:
            return None
        passive.used_at = now
        passive.due_at = None  # the first data say as much as an RTU
        return passive.peer_qpn

    def failed(self, qpn: int) -> tuple[bytes | None, list[InterfaceEffect]]:
        """A queue pair gave up: its connection is gone. The address that it led to, for an active one."""
        for connection in self._active.values():
            if connection.qpn == qpn:
                return connection.address, self._part(connection) + self._end(connection, "the connection broke")
        if qpn in self._passive:
            del self._passive[qpn]
            return None, [CloseQueuePair(qpn)]
        return None, []

    def path_to(self, address: bytes) -> Path | None:
        """The connection to this address, while it is there."""
        connection = self._active.get(address)
        if connection is None or not connection.greatest:
            return None
        return Path(
            connection.record.dlid,
            connection.peer_qpn,
            qkey=0,
            sl=connection.record.sl,
            own_qpn=connection.qpn,
            greatest=connection.greatest,
        )

    def rerouted(self, now: int, address: bytes, record: PathRecord) -> list[InterfaceEffect]:
        """Another path leads to this address: a new connection is made by it, at once if packets wait for one."""
        connection = self._active.get(address)
        if connection is None:
            return []
        waiting, connection.waiting = connection.waiting, []
        connection.record = record  # by which the peer learns that the old one ends
        effects = self._part(connection) + self._end(connection, "another path leads to the neighbour")
        for packet in waiting:
            effects += self.send(now, address, record, packet)
        return [*effects, PathsChanged()]

    def forget(self, address: bytes) -> list[InterfaceEffect]:
        """Nothing is sent to this address any more."""
        connection = self._active.get(address)
        if connection is None:
            return []
        return self._part(connection) + self._end(connection, "the neighbour went")

    def close(self, *, passive: bool) -> list[InterfaceEffect]:
        """End all that we asked for, and (when the interface stops) all that peers asked for."""
        effects: list[InterfaceEffect] = []
        for connection in tuple(self._active.values()):
            effects += self._part(connection) + self._end(connection, "connections were closed")
        self._rejected.clear()
        if passive:
            for one in self._passive.values():
                effects += [*self._say(one.lid, Dreq(one.local_id, one.peer_id, one.peer_qpn)), CloseQueuePair(one.qpn)]
            self._passive.clear()
        return effects

    def tick(self, now: int) -> list[InterfaceEffect]:
        """Repeat what was not answered, end what nobody uses."""
        effects: list[InterfaceEffect] = []
        for connection in [each for each in self._active.values() if each.due_at is not None and each.due_at <= now]:
            if connection.tries > CM_RETRIES:
                effects += self._end(connection, "the peer does not answer")
                continue
            connection.tries += 1
            connection.due_at = now + REPEAT_NS
            effects += self._emit(connection.record.dlid, connection.request)
        for one in [each for each in self._passive.values() if each.due_at is not None and each.due_at <= now]:
            if one.tries > CM_RETRIES:
                del self._passive[one.qpn]
                effects.append(CloseQueuePair(one.qpn))
                continue
            one.tries += 1
            one.due_at = now + REPEAT_NS
            effects += self._emit(one.lid, one.reply)
        for one in [each for each in self._passive.values() if each.used_at + IDLE_NS <= now]:
            del self._passive[one.qpn]
            effects += [*self._say(one.lid, Dreq(one.local_id, one.peer_id, one.peer_qpn)), CloseQueuePair(one.qpn)]
        return effects

    def deadline(self) -> int | None:
        waits = [each.due_at for each in self._active.values()]
        waits += [each.due_at for each in self._passive.values()]
        waits += [each.used_at + IDLE_NS for each in self._passive.values()]
        return min((at for at in waits if at is not None), default=None)

    # Asking

    def _connect(self, now: int, address: bytes, record: PathRecord) -> Active:
        port, qpn = self._outlet.port, self._new_queue_pair()
        local_id = self._new_id()
        request = Req(
            local_id=local_id,
            service_id=connected_mode(int.from_bytes(address[1:4])),
            ca_guid=self._ca_guid,
            qpn=qpn,
            psn=_first_psn(qpn),
            primary=CmPath(
                local_lid=port.lid,
                remote_lid=record.dlid,
                local_gid=port.gid,
                remote_gid=address[4:],
                flow_label=record.flow_label,
                rate=record.rate,
                traffic_class=record.traffic_class,
                hop_limit=record.hop_limit,
                sl=record.sl,
                subnet_local=record.hop_limit == 0,
                ack_timeout=min(record.lifetime + 1, 31),
            ),
            responder_resources=4,
            remote_timeout=TIMEOUT_CODE,
            local_timeout=TIMEOUT_CODE,
            pkey=self._outlet.partition.table_key,
            path_mtu=record.mtu,
            max_cm_retries=CM_RETRIES,
            private=self._private_data(Req.PRIVATE_BYTES),
        )
        raw = CmMad(TRANSACTIONS | local_id, request).pack()
        connection = Active(address, qpn, local_id, record, raw, due_at=now + REPEAT_NS)
        self._active[address] = connection
        return connection

    def _accepted(self, transaction: int, message: Rep) -> list[InterfaceEffect]:
        connection = self._active_by_id(message.remote_id)
        if connection is None:
            return []
        ready = self._emit(
            connection.record.dlid, CmMad(transaction, Rtu(connection.local_id, message.local_id)).pack()
        )
        if connection.greatest:
            return ready if message.local_id == connection.peer_id else []  # our RTU was lost
        greatest = ConnectedModeData.parse(message.private).receive_bytes - ENCAPSULATION_BYTES
        if greatest <= 0:
            return self._end(connection, "the peer takes no packets")
        connection.peer_id, connection.peer_qpn = message.local_id, message.qpn
        connection.greatest, connection.due_at = greatest, None
        effects: list[InterfaceEffect] = [
            ConnectQueuePair(
                connection.qpn,
                message.qpn,
                dlid=connection.record.dlid,
                sl=connection.record.sl,
                gid=connection.address[4:],
                psn=_first_psn(connection.qpn),
                peer_psn=message.psn,
                mtu=connection.record.mtu,
                ack_timeout=ACK_TIMEOUT,
                retries=RETRIES,
            ),
            *ready,
        ]
        for packet in connection.waiting:
            effects += self._transmit(connection, packet)
        connection.waiting.clear()
        return effects

    def _transmit(self, connection: Active, packet: Packet) -> list[InterfaceEffect]:
        payload, offload = packet.encapsulated, packet.offload
        statistics = self._outlet.device.statistics
        if largest_segment(offload, payload, ENCAPSULATION_BYTES) > connection.greatest:
            statistics.tx_errors += 1
            too_long = TooLong(payload[ENCAPSULATION_BYTES:], connection.greatest)
            return [too_long, *self._outlet.drop("packet longer than the peer takes")]
        statistics.tx_packets += segment_count(offload, payload, ENCAPSULATION_BYTES) if offload else 1
        statistics.tx_bytes += len(payload)
        return [EmitMessage(connection.qpn, payload, offload)]

    # Being asked

    def _requested(self, now: int, transaction: int, message: Req) -> list[InterfaceEffect]:
        if connected_mode_qpn(message.service_id) != self._outlet.qpn:
            return []
        known = next(
            (
                one
                for one in self._passive.values()
                if (one.peer_id, one.peer_guid) == (message.local_id, message.ca_guid)
            ),
            None,
        )
        if known is not None:
            return self._emit(known.lid, known.reply)
        lid, sl = message.primary.local_lid, message.primary.sl
        if message.primary.remote_gid != self._outlet.port.gid:
            reject = Rej(0, message.local_id, Rejected.REQ, RejectReason.PRIMARY_GID)
            return self._emit(lid, CmMad(transaction, reject).pack())
        qpn, local_id = self._new_queue_pair(), self._new_id()
        reply = Rep(
            local_id=local_id,
            remote_id=message.local_id,
            qpn=qpn,
            psn=_first_psn(qpn),
            ca_guid=self._ca_guid,
            responder_resources=4,
            private=self._private_data(Rep.PRIVATE_BYTES),
        )
        raw = CmMad(transaction, reply).pack()
        self._passive[qpn] = Passive(
            qpn, local_id, message.local_id, message.ca_guid, message.qpn, lid, raw, now + REPEAT_NS, used_at=now
        )
        return [
            ConnectQueuePair(
                qpn,
                message.qpn,
                dlid=lid,
                sl=sl,
                gid=message.primary.local_gid,
                psn=_first_psn(qpn),
                peer_psn=message.psn,
                mtu=message.path_mtu,
                ack_timeout=ACK_TIMEOUT,
                retries=RETRIES,
            ),
            *self._emit(lid, raw),
        ]

    # Parting

    def _refused(self, now: int, message: Rej) -> list[InterfaceEffect]:
        connection = self._active_by_id(message.remote_id)
        if connection is not None:
            if not connection.greatest:  # an old connection that the peer has lost is simply asked for again
                self._rejected[connection.address] = now + REJECTED_NS
            return self._end(connection, "the peer refused the connection")
        passive = self._passive_by_id(message.remote_id)
        if passive is None:
            return []
        del self._passive[passive.qpn]
        return [CloseQueuePair(passive.qpn)]

    def _released(self, transaction: int, message: Dreq) -> list[InterfaceEffect]:
        """A repeated DREQ of a connection that is gone finds no one, and ends by its sender's timeout."""
        connection = self._active_by_id(message.remote_id)
        if connection is not None:
            answer = CmMad(transaction, Drep(connection.local_id, message.local_id)).pack()
            return self._emit(connection.record.dlid, answer) + self._end(connection, "the peer ended the connection")
        passive = self._passive_by_id(message.remote_id)
        if passive is None:
            return []
        del self._passive[passive.qpn]
        answer = CmMad(transaction, Drep(passive.local_id, message.local_id)).pack()
        return [*self._emit(passive.lid, answer), CloseQueuePair(passive.qpn)]

    def _part(self, connection: Active) -> list[InterfaceEffect]:
        """Tell the peer that an established connection ends; nobody waits for the answer."""
        if not connection.greatest:
            return []
        return self._say(connection.record.dlid, Dreq(connection.local_id, connection.peer_id, connection.peer_qpn))

    def _end(self, connection: Active, why: str) -> list[InterfaceEffect]:
        del self._active[connection.address]
        return [CloseQueuePair(connection.qpn), *self._outlet.drop(why, len(connection.waiting))]

    # Small things

    def _say(self, dlid: int, message: Message) -> list[InterfaceEffect]:
        return self._emit(dlid, CmMad(TRANSACTIONS | self._new_id(), message).pack())

    def _emit(self, dlid: int, mad: bytes) -> list[InterfaceEffect]:
        port = self._outlet.port
        if port.state != PortState.ACTIVE:
            return []
        return [EmitMad(ManagementDatagram(port.lid, dlid, GSI_QPN, GSI_QPN, mad))]

    def _active_by_id(self, local_id: int) -> Active | None:
        return next((each for each in self._active.values() if each.local_id == local_id), None)

    def _passive_by_id(self, local_id: int) -> Passive | None:
        return next((each for each in self._passive.values() if each.local_id == local_id), None)

    def _new_id(self) -> int:
        """Communication ids of this interface: the low bits of its queue pair's number, and a count.

        Below those of RDMA users (`fabric.connection_manager`), who hear the same port.
        """
        used = {a.local_id for a in self._active.values()} | {p.local_id for p in self._passive.values()}
        while True:
            self._next_id = self._next_id + 1 & 0xFFFF
            local_id = (self._outlet.qpn & 0x7FFF) << 16 | self._next_id
            if local_id not in used:
                return local_id

    def _private_data(self, size: int) -> bytes:
        return ConnectedModeData(self._outlet.qpn).pack().ljust(size, b"\0")


def _first_psn(qpn: int) -> int:
    """Another first number for every queue pair, without drawing lots."""
    return qpn * 0x9E3779B1 >> 8 & 0xFFFFFF
