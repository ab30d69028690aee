"""Connected mode: IP packets of up to 65520 bytes over reliable connections, one for each direction.

Read first: RFC 4755 and Linux's `ipoib_cm.c`, whose service ids and one-way use of connections are ours. ARP, neighbor
discovery and groups stay datagrams. Better than Linux: a peer that rejects us is sent datagrams for a while; a request
is repeated soon, more than three packets wait for its answer, and a lost message is repeated before it ends the
connection, so that a failover costs no seconds. Queue pairs are numbers that the host makes; `ConnectQueuePair` says
between which of them a connection exists; messages and their repetition are the connection manager's (`cm`).
Left out: unreliable connections (UC), path migration, shared receive queues.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from ibbond.cm.connection_manager import ConnectionManager
from ibbond.cm.events import (
    CmEvent,
    CmUser,
    Disconnected,
    NoReply,
    RejReceived,
    RepReceived,
    ReqReceived,
    RtuReceived,
    TimewaitExit,
)
from ibbond.fabric.events import SendMad
from ibbond.ipoib.events import (
    CloseQueuePair,
    ConnectQueuePair,
    EmitMad,
    EmitMessage,
    InterfaceEffect,
    PathsChanged,
    TooLong,
)
from ibbond.ipoib.transmit import Packet, Path, TransmitSide
from ibbond.machine import SECOND
from ibbond.wire import nd
from ibbond.wire.cm import CmPath, RejectReason, Rep, Req
from ibbond.wire.hwaddr import RC_SUPPORTED
from ibbond.wire.ipoib import ENCAPSULATION_BYTES, ETHERTYPE_IPV6, ConnectedModeData
from ibbond.wire.offload import largest_segment, segment_count
from ibbond.wire.sa_records import PathRecord
from ibbond.wire.service_id import connected_mode, connected_mode_standard

TIMEOUT_CODE = 20  # the response time that we grant by our REQ, 4.3 s, as Linux does
CM_RETRIES = 15
REPEAT_NS = SECOND // 2  # but nothing forbids asking again before
WAITING_PACKETS = 64  # Linux has 3
ACK_TIMEOUT, RETRIES = 12, 3  # 16.8 ms, four times; Linux takes the path's lifetime (seconds), and no retries
IDLE_NS = 512 * SECOND  # passive connections
REJECTED_NS = 30 * SECOND  # datagrams only, to a peer that rejected
REJECTED_BRIEFLY: dict[int, int] = {  # reasons that pass by themselves
    RejectReason.INVALID_SERVICE_ID: SECOND,  # the peer's interface is not running at the moment
    RejectReason.STALE_CONNECTION: 0,  # the peer still had an earlier connection of this queue pair
}


@dataclass(eq=False, slots=True)
class Active:
    """A connection that this side asked for, to send to one address."""

    address: bytes
    qpn: int
    local_id: int
    record: PathRecord
    peer_qpn: int = 0
    max_bytes: int = 0  # of an IP packet; 0 until connected
    waiting: list[Packet] = field(default_factory=list)


@dataclass(eq=False, slots=True)
class Passive:
    """A connection that a peer asked for, to send to this side."""

    qpn: int
    local_id: int
    peer_qpn: int
    used_at: int
    established: bool = False  # the peer is known to be ready, by its RTU or its first message


@dataclass(frozen=True, slots=True)
class ConnectedMode:
    """What an interface needs of its host for connected mode. `new_queue_pair` makes one of kind RC; its number."""

    manager: ConnectionManager
    user: CmUser  # takes the manager's events to this interface
    ca_guid: int
    new_queue_pair: Callable[[], int]


class Connections:
    """The reliable connections of one interface."""

    def __init__(self, outlet: TransmitSide, mode: ConnectedMode) -> None:
        self._outlet = outlet
        self._mode = mode
        self._manager = mode.manager
        self._listening = False
        self._active: dict[bytes, Active] = {}
        self._passive: dict[int, Passive] = {}  # by queue pair
        self._rejected: dict[bytes, int] = {}  # address -> until

    def listen(self, on: bool) -> None:
        """Take requests of peers (or not), in both forms of the service id."""
        if on == self._listening:
            return
        self._listening = on
        if not on:
            self._manager.stop_listening(self._mode.user)
            return
        for service_id in (connected_mode(self._outlet.qpn), connected_mode_standard(self._outlet.qpn)):
            self._manager.listen(self._mode.user, service_id, port=self._outlet.port.name)

    def carries(self, now: int, address: bytes, packet: Packet) -> bool:
        """Whether this packet goes by connection: the peer says that it takes them, and it is not a discovery."""
        if not address[0] & RC_SUPPORTED or self._rejected.get(address, 0) > now:
            return False
        head = packet.encapsulated[:2]
        return head != ETHERTYPE_IPV6.to_bytes(2) or not nd.is_message(packet.encapsulated[ENCAPSULATION_BYTES:])

    def send(self, now: int, address: bytes, record: PathRecord, packet: Packet) -> list[InterfaceEffect]:
        """Through the connection to this address; the first packet asks for it, and waits with others."""
        connection = self._active.get(address)
        effects: list[InterfaceEffect] = []
        if connection is None:
            connection, effects = self._connect(now, address, record)
        if connection.max_bytes:
            return effects + self._transmit(connection, packet)
        if len(connection.waiting) >= WAITING_PACKETS:
            return effects + self._outlet.drop("too many packets wait for the connection")
        connection.waiting.append(packet)
        return effects

    def handle(self, now: int, event: CmEvent) -> list[InterfaceEffect]:
        """An event of the connection manager about a connection of this interface."""
        match event:
            case ReqReceived():
                return self._requested(now, event)
            case RepReceived():
                return self._accepted(now, event)
            case RtuReceived(local_id):
                passive = self._passive_by_id(local_id)
                if passive is not None:
                    passive.established = True
                return []
            case RejReceived():
                return self._refused(now, event)
            case NoReply(local_id):
                return self._ended(local_id, "the peer does not answer")
            case Disconnected(local_id):
                return self._ended(local_id, "the peer ended the connection")
            case TimewaitExit():
                return []

    def peer_of(self, now: int, qpn: int) -> int | None:
        """A message has arrived at this queue pair: the sender's queue pair, None when it is not one."""
        passive = self._passive.get(qpn)
        if passive is None:
            return None
        passive.used_at = now
        if not passive.established:
            passive.established = True
            self._manager.data_arrived(now, passive.local_id)  # its event says what is known here already
        return passive.peer_qpn

    def failed(self, now: int, qpn: int) -> tuple[bytes | None, list[InterfaceEffect]]:
        """A queue pair is in error. The address that it led to, for an active one; the peer learns that it ended."""
        for connection in self._active.values():
            if connection.qpn == qpn:
                return connection.address, self._end(now, connection, "the connection broke")
        passive = self._passive.get(qpn)
        return None, self._end_passive(now, passive) if passive is not None else []

    def path_to(self, address: bytes) -> Path | None:
        """The connection to this address, while it is there."""
        connection = self._active.get(address)
        if connection is None or not connection.max_bytes:
            return None
        return Path(
            connection.record.dlid,
            connection.peer_qpn,
            qkey=0,
            sl=connection.record.sl,
            own_qpn=connection.qpn,
            max_bytes=connection.max_bytes,
        )

    def rerouted(self, now: int, address: bytes, record: PathRecord) -> list[InterfaceEffect]:
        """Another path leads to this address: a new connection is made by it, at once if packets wait for one."""
        connection = self._active.get(address)
        if connection is None:
            return []
        waiting, connection.waiting = connection.waiting, []
        self._manager.reroute(connection.local_id, self._outlet.port.lid, record.dlid)
        effects = self._end(now, connection, "the path to the neighbor has changed")
        for packet in waiting:
            effects += self.send(now, address, record, packet)
        return [*effects, PathsChanged()]

    def forget(self, now: int, address: bytes) -> list[InterfaceEffect]:
        """Nothing more is sent to this address."""
        connection = self._active.get(address)
        return self._end(now, connection, "the neighbor was removed") if connection is not None else []

    def close(self, now: int, *, passive: bool) -> list[InterfaceEffect]:
        """End all connections that this side asked for, and (when the interface stops) those that peers asked for."""
        effects: list[InterfaceEffect] = []
        for connection in tuple(self._active.values()):
            effects += self._end(now, connection, "connections were closed")
        self._rejected.clear()
        for each in tuple(self._passive.values()) if passive else ():
            effects += self._end_passive(now, each)
        return effects

    def tick(self, now: int) -> list[InterfaceEffect]:
        """End connections of peers that are idle."""
        idle = [each for each in self._passive.values() if each.used_at + IDLE_NS <= now]
        return [effect for each in idle for effect in self._end_passive(now, each)]

    def deadline(self) -> int | None:
        return min((each.used_at + IDLE_NS for each in self._passive.values()), default=None)

    # Asking

    def _connect(self, now: int, address: bytes, record: PathRecord) -> tuple[Active, list[InterfaceEffect]]:
        port, qpn = self._outlet.port, self._mode.new_queue_pair()
        request = Req(
            local_id=0,
            service_id=connected_mode(int.from_bytes(address[1:4])),
            ca_guid=self._mode.ca_guid,
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
        local_id, mads = self._manager.connect(now, self._mode.user, port.name, request, repeat_ns=REPEAT_NS)
        connection = self._active[address] = Active(address, qpn, local_id, record)
        return connection, _emit(mads)

    def _accepted(self, now: int, event: RepReceived) -> list[InterfaceEffect]:
        message = event.reply
        connection = self._active_by_id(event.local_id)
        if connection is None:
            return _emit(self._manager.disconnect(now, event.local_id))
        max_bytes = ConnectedModeData.parse(message.private).receive_bytes - ENCAPSULATION_BYTES
        if max_bytes <= 0:
            return self._end(now, connection, "the peer announces no receive size")
        connection.peer_qpn, connection.max_bytes = message.qpn, max_bytes
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
            *_emit(self._manager.ready(connection.local_id)),
        ]
        for packet in connection.waiting:
            effects += self._transmit(connection, packet)
        connection.waiting.clear()
        return effects

    def _transmit(self, connection: Active, packet: Packet) -> list[InterfaceEffect]:
        payload, offload = packet.encapsulated, packet.offload
        statistics = self._outlet.device.statistics
        if largest_segment(offload, payload, ENCAPSULATION_BYTES) > connection.max_bytes:
            statistics.tx_errors += 1
            too_long = TooLong(payload[ENCAPSULATION_BYTES:], connection.max_bytes)
            return [too_long, *self._outlet.drop("packet longer than the peer accepts")]
        statistics.tx_packets += segment_count(offload, payload, ENCAPSULATION_BYTES) if offload else 1
        statistics.tx_bytes += len(payload)
        return [EmitMessage(connection.qpn, payload, offload)]

    # Being asked

    def _requested(self, now: int, event: ReqReceived) -> list[InterfaceEffect]:
        message, local_id = event.request, event.local_id
        if message.primary.remote_gid != self._outlet.port.gid:
            return _emit(self._manager.reject(now, local_id, RejectReason.PRIMARY_GID))
        lid, sl, qpn = message.primary.local_lid, message.primary.sl, self._mode.new_queue_pair()
        reply = Rep(
            local_id=0,
            remote_id=0,
            qpn=qpn,
            psn=_first_psn(qpn),
            ca_guid=self._mode.ca_guid,
            responder_resources=4,
            private=self._private_data(Rep.PRIVATE_BYTES),
        )
        self._passive[qpn] = Passive(qpn, local_id, message.qpn, used_at=now)
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
            *_emit(self._manager.accept(now, local_id, reply, repeat_ns=REPEAT_NS)),
        ]

    # Parting

    def _refused(self, now: int, event: RejReceived) -> list[InterfaceEffect]:
        connection = self._active_by_id(event.local_id)
        if connection is not None and not connection.max_bytes:
            self._rejected[connection.address] = now + REJECTED_BRIEFLY.get(event.reason, REJECTED_NS)
        return self._ended(event.local_id, "the peer refused the connection")

    def _ended(self, local_id: int, why: str) -> list[InterfaceEffect]:
        """The connection manager has ended it already."""
        connection = self._active_by_id(local_id)
        if connection is not None:
            return self._close(connection, why)
        passive = self._passive_by_id(local_id)
        if passive is None:
            return []
        del self._passive[passive.qpn]
        return [CloseQueuePair(passive.qpn)]

    def _end(self, now: int, connection: Active, why: str) -> list[InterfaceEffect]:
        return _emit(self._manager.disconnect(now, connection.local_id)) + self._close(connection, why)

    def _end_passive(self, now: int, passive: Passive) -> list[InterfaceEffect]:
        del self._passive[passive.qpn]
        return [*_emit(self._manager.disconnect(now, passive.local_id)), CloseQueuePair(passive.qpn)]

    def _close(self, connection: Active, why: str) -> list[InterfaceEffect]:
        del self._active[connection.address]
        return [CloseQueuePair(connection.qpn), *self._outlet.drop(why, len(connection.waiting))]

    # Small things

    def _active_by_id(self, local_id: int) -> Active | None:
        return next((each for each in self._active.values() if each.local_id == local_id), None)

    def _passive_by_id(self, local_id: int) -> Passive | None:
        return next((each for each in self._passive.values() if each.local_id == local_id), None)

    def _private_data(self, size: int) -> bytes:
        return ConnectedModeData(self._outlet.qpn).pack().ljust(size, b"\0")


def _first_psn(qpn: int) -> int:
    """Another first number for every queue pair, without drawing lots."""
    return qpn * 0x9E3779B1 >> 8 & 0xFFFFFF


def _emit(mads: Iterable[SendMad]) -> list[InterfaceEffect]:
    return [EmitMad(each.mad) for each in mads]
