"""/dev/infiniband/rdma_cm of a host's programs: their ids and event channels, and what each command does. Pure.

Read first: `wire.rdma_cm`; of Linux `core/ucma.c`, whose errors these are (OSError carries the errno). A channel is one
open file. All programs of a host are one user of RDMA CM (`DEVICE_USER`); which channel an id is on is known here, so
that it can migrate. RDMA CM has an id from its first address on. Left out: datagram ids, multicast, AF_IB addresses.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn, Protocol

from ibbond.errors import Refused
from ibbond.rdma_cm import events
from ibbond.rdma_cm.events import ARRIVED_IDS, DataArrived, Destroy, RdmaCmEvent, RdmaKind, RdmaRequest
from ibbond.rdma_cm.id_states import IdState
from ibbond.rdma_cm.ids import RdmaId
from ibbond.rdma_cm.users import RdmaUsers
from ibbond.wire import rdma_cm
from ibbond.wire.rdma_cm import (
    AF_IB,
    Accept,
    Bind,
    Connect,
    ConnectionParameters,
    CreateId,
    DestroyId,
    Disconnect,
    Envelope,
    EventType,
    InitQpAttr,
    Listen,
    MigrateId,
    Notify,
    Place,
    PortSpace,
    Query,
    QueryOption,
    Reject,
    Request,
    ResolveAddr,
    ResolveRoute,
    SetOption,
    SocketAddress,
    address_of_ip,
)
from ibbond.wire.uverbs import AsyncEvent, QpState

DEVICE_USER = 0  # programs of the Python API are numbered from 1
MAX_IDS = 8192  # of one channel
MAX_EVENTS = 65536  # of one channel that are not read
MAX_BACKLOG = 1024
QPN_MASK = 0xFFFFFF
CONSUMER_OPTIONS, IB_OPTIONS = 0, 1
TOS, REUSE_ADDRESS, FAMILY_ONLY, ACK_TIMEOUT = range(4)
OPTION_BYTES = {TOS: 1, REUSE_ADDRESS: 4, FAMILY_ONLY: 4, ACK_TIMEOUT: 1}


class Outlet(Protocol):
    """How the program of a channel finds out that there are events."""

    def ready(self) -> None:
        """There is an event that was not there."""
        ...


class Caller(Protocol):
    """The process that makes a call."""

    def read(self, address: int, length: int) -> bytes:
        """Its memory (OSError: EFAULT)."""
        ...

    def channel(self, descriptor: int) -> Channel | None:
        """The channel that is open at this descriptor of it."""
        ...


@dataclass(eq=False, slots=True)
class ChannelId:
    """An id as its program sees it."""

    number: int
    uid: int
    channel: Channel
    port_space: int
    listener: ChannelId | None = None
    reported: int = 0  # events that the program has read
    backlog: int = MAX_BACKLOG
    unread: int = 0  # connection requests to this listener that are not read
    only: bool | None = None  # None: as the kernel has it by default
    reuse: bool = False
    ack_timeout: int | None = None


@dataclass(eq=False, slots=True)
class Event:
    about: ChannelId
    uid: int
    raw: bytes
    requested: ChannelId | None = None  # the new id of a connection request


class Channels:
    """All channels of one host. `ask` gives RDMA CM a request and executes what follows; it may raise `Refused`."""

    def __init__(self, users: RdmaUsers, ask: Callable[[RdmaRequest], None]) -> None:
        self.users = users
        self.ids: dict[int, ChannelId] = {}
        self._ask = ask
        self._next = 0

    def open(self, outlet: Outlet) -> Channel:
        return Channel(self, outlet)

    def known(self, one: ChannelId) -> RdmaId | None:
        return self.users.find(DEVICE_USER, one.number)

    def ask(self, request: RdmaRequest) -> None:
        """OSError where RDMA CM refuses."""
        try:
            self._ask(request)
        except Refused as refusal:
            raise OSError(refusal.code, str(refusal)) from None

    def create(self, channel: Channel, uid: int, port_space: int) -> ChannelId:
        while True:
            self._next = (self._next + 1) % ARRIVED_IDS
            if self._next not in self.ids:
                break
        one = self.ids[self._next] = ChannelId(self._next, uid, channel, port_space)
        return one

    def on_event(self, event: RdmaCmEvent) -> None:
        """An event of an id; one that is destroyed may have a last event."""
        about = self.ids.get(event.listener if event.kind is RdmaKind.CONNECT_REQUEST else event.id)
        if about is None:
            if event.kind is RdmaKind.CONNECT_REQUEST:
                self.ask(Destroy(event.id))
            return
        if event.kind is not RdmaKind.CONNECT_REQUEST:
            about.channel.put(Event(about, about.uid, self._pack(about.uid, event)))
            return
        if about.unread >= about.backlog or len(about.channel.events) >= MAX_EVENTS:
            self.ask(Destroy(event.id))
            return
        about.unread += 1
        new = self.ids[event.id] = ChannelId(event.id, 0, about.channel, about.port_space, about)
        about.channel.put(Event(about, about.uid, self._pack(about.uid, event), new))

    def _pack(self, uid: int, event: RdmaCmEvent) -> bytes:
        one = self.users.find(DEVICE_USER, event.id)
        parameters = ConnectionParameters(private=event.private)
        if one is not None and event.kind is RdmaKind.CONNECT_REQUEST and (req := one.request) is not None:
            parameters = ConnectionParameters(
                req.qpn, event.private, req.srq, req.initiator_depth, req.responder_resources, req.flow_control,
                req.retry_count, req.rnr_retry_count, 1,
            )  # fmt: skip
        elif one is not None and event.kind is RdmaKind.CONNECT_RESPONSE and (rep := one.reply) is not None:
            parameters = ConnectionParameters(
                rep.qpn, event.private, rep.srq, rep.initiator_depth, rep.responder_resources, rep.flow_control,
                0, rep.rnr_retry_count, 1,
            )  # fmt: skip
        status = event.status if event.kind is RdmaKind.REJECTED else -event.status
        return rdma_cm.pack_event(uid, event.id, EventType[event.kind.name], status, parameters)

    def destroy(self, one: ChannelId) -> int:
        """How many of its events were read. Requests to a listener that its program never read are rejected."""
        self.ids.pop(one.number, None)
        for event in one.channel.forget(one):
            if event.requested is not None:
                self.destroy(event.requested)
        if self.known(one) is not None:
            self.ask(Destroy(one.number))
        return one.reported


class Channel:
    """One open file."""

    def __init__(self, channels: Channels, outlet: Outlet) -> None:
        self.events: deque[Event] = deque()
        self._channels = channels
        self._outlet = outlet

    # ---- events

    def put(self, event: Event) -> None:
        if len(self.events) < MAX_EVENTS:
            self.events.append(event)
            self._outlet.ready()

    def next_event(self) -> bytes | None:
        """Take the oldest event, for a program that reads it."""
        if not self.events:
            return None
        event = self.events.popleft()
        event.about.reported += 1
        if event.requested is not None:
            event.about.unread -= 1
        return event.raw

    def forget(self, one: ChannelId) -> list[Event]:
        """Events of this id are no longer read."""
        gone = [event for event in self.events if event.about is one or event.requested is one]
        if gone:
            self.events = deque(event for event in self.events if event not in gone)
        for event in gone:
            if event.requested is not None:
                event.about.unread -= 1
        return [event for event in gone if event.about is one]

    def close(self) -> None:
        """The ids on it are destroyed; OSError of one does not keep the others."""
        for one in [one for one in self._channels.ids.values() if one.channel is self]:
            self._channels.destroy(one)

    # ---- commands

    def execute(self, caller: Caller, envelope: Envelope, request: Request) -> bytes:
        """Carry out a command but GET_EVENT; its answer. OSError when it is refused."""
        return self._execute(caller, request)[: envelope.room]

    def _execute(self, caller: Caller, request: Request) -> bytes:
        channels = self._channels
        match request:
            case CreateId(uid, port_space, qp_type):
                return _words(self._create(uid, port_space, qp_type).number)
            case DestroyId(number):
                return _words(channels.destroy(self._get(number)))
            case Bind(number, where):
                self._bind(self._get(number), where)
            case ResolveAddr(number):
                self._resolve(self._get(number), request)
            case ResolveRoute(number, timeout_ms):
                channels.ask(events.ResolveRoute(self._known(number).number, timeout_ms))
            case Query(number, option):
                return self._query(self._get(number), option)
            case SetOption():
                self._set_option(self._get(request.id), caller, request)
            case MigrateId(number, descriptor):
                return _words(self._migrate(number, caller.channel(descriptor)))
            case _:
                return self._execute_connection(request)
        return b""

    def _execute_connection(self, request: Request) -> bytes:
        ask = self._channels.ask
        match request:
            case Listen(number, backlog):
                self._listen(self._get(number), backlog)
            case Connect(p, number):
                if not p.valid:
                    _refuse()
                ask(
                    events.Connect(
                        self._known(number).number, p.private, p.retry_count, p.rnr_retry_count,
                        qpn=p.qpn & QPN_MASK, responder_resources=p.responder_resources,
                        initiator_depth=p.initiator_depth, flow_control=bool(p.flow_control), srq=bool(p.srq),
                        ack_timeout=self._get(number).ack_timeout,
                    )
                )  # fmt: skip
            case Accept(uid, p, number):
                ask(accepted(self._known(number).number, p))
                if p.valid:
                    self._get(number).uid = uid
            case Reject(number, private):
                ask(events.Reject(self._known(number).number, private))
            case Disconnect(number):
                if self._known(number).local_id is None:
                    _refuse()
                ask(events.Disconnect(number))
            case Notify(number, event):
                if event != AsyncEvent.COMM_EST or self._known(number).local_id is None:
                    _refuse()
                ask(DataArrived(number))
            case InitQpAttr(number, state):
                return self._attributes(self._get(number), state)
            case _:
                _refuse(errno.ENOSYS)
        return b""

    def _get(self, number: int) -> ChannelId:
        one = self._channels.ids.get(number)
        if one is None or one.channel is not self:
            _refuse(errno.ENOENT)
        return one

    def _known(self, number: int) -> RdmaId:
        """An id that has an address, and an adapter that is still there."""
        found = self._channels.known(self._get(number))
        return found if found is not None and found.state is not IdState.REMOVED else _refuse()

    def _create(self, uid: int, port_space: int, qp_type: int) -> ChannelId:
        if port_space not in tuple(PortSpace):
            _refuse()
        if port_space not in (PortSpace.TCP, PortSpace.IB):
            _refuse(errno.EOPNOTSUPP)  # datagrams
        if sum(one.channel is self for one in self._channels.ids.values()) >= MAX_IDS:
            _refuse(errno.ENOMEM)
        return self._channels.create(self, uid, port_space)

    def _bind(self, one: ChannelId, where: SocketAddress | None) -> None:
        if where is None:
            _refuse()
        if where.family == AF_IB:
            if not where.is_any:
                _refuse(errno.EADDRNOTAVAIL)
            return  # librdmacm asks so whether such addresses are known
        address = bytes(len(where.address)) if where.is_loopback else where.address
        only = len(where.address) == 4 if one.only is None else one.only
        self._channels.ask(events.Bind(one.number, where.port, address, only, one.reuse))

    def _resolve(self, one: ChannelId, request: ResolveAddr) -> None:
        destination = request.destination
        if destination is None or destination.family == AF_IB:
            _refuse(errno.EINVAL if destination is None else errno.EAFNOSUPPORT)
        known = self._channels.known(one)
        if request.source is not None and (known is None or known.state is IdState.IDLE):
            self._bind(one, request.source)
        address = destination.address
        if destination.is_any or destination.is_loopback:
            address = self._channels.users.own_address(len(address)) or _refuse(errno.ENODEV)
        self._channels.ask(events.ResolveAddress(one.number, address, destination.port, request.timeout_ms))

    def _listen(self, one: ChannelId, backlog: int) -> None:
        if self._channels.known(one) is None:
            self._bind(one, address_of_ip(bytes(4), 0))
        self._channels.ask(events.Listen(one.number))
        one.backlog = backlog if 0 < backlog < MAX_BACKLOG else MAX_BACKLOG

    def _query(self, one: ChannelId, option: int) -> bytes:
        known, users = self._channels.known(one), self._channels.users
        place = users.place(known) if known is not None else Place()
        record = known.record if known is not None else None
        if option == QueryOption.PATH:
            return rdma_cm.pack_path(record)
        source, destination = _ends(known)
        if option == QueryOption.GID:
            ends = users.gids(known) if known is not None else (b"", b"")
            source, destination = (
                SocketAddress(AF_IB, gid, end.port if end is not None else 0) if gid else None
                for gid, end in zip(ends, (source, destination), strict=True)
            )
        elif option not in (QueryOption.ADDR, QueryOption.ROUTE):
            _refuse(errno.ENOSYS)
        own, peer = (rdma_cm.pack_socket_address(end, one.port_space, place.pkey) for end in (source, destination))
        if option == QueryOption.ROUTE:
            return rdma_cm.pack_route(place, own, peer, record)
        return rdma_cm.pack_addresses(place, own, peer)

    def _attributes(self, one: ChannelId, state: int) -> bytes:
        known = self._known(one.number)
        try:
            found = self._channels.users.attributes(known, QpState(state))
        except (Refused, ValueError):
            _refuse()
        if one.ack_timeout is not None:
            found = found._replace(timeout=one.ack_timeout)
        return rdma_cm.pack_attributes(found)

    def _set_option(self, one: ChannelId, caller: Caller, request: SetOption) -> None:
        if request.level != CONSUMER_OPTIONS:
            _refuse(errno.ENOSYS)  # paths that ibacm has found
        if request.length != OPTION_BYTES.get(request.name):
            _refuse(errno.EINVAL if request.name in OPTION_BYTES else errno.ENOSYS)
        value = int.from_bytes(caller.read(request.value_at, request.length), "little")
        match request.name:
            case n if n == REUSE_ADDRESS:
                one.reuse = bool(value)
            case n if n == FAMILY_ONLY:
                one.only = bool(value)
            case n if n == ACK_TIMEOUT:
                if value > 31:
                    _refuse()
                one.ack_timeout = value

    def _migrate(self, number: int, source: Channel | None) -> int:
        """The id moves here, with its events that are not read."""
        one = self._channels.ids.get(number)
        if source is None or one is None or one.channel is not source:
            _refuse(errno.ENOENT)
        moved = [event for event in source.events if event.about is one]
        source.events = deque(event for event in source.events if event.about is not one)
        one.channel = self
        for event in moved:
            if event.requested is not None:
                event.requested.channel = self
            self.put(event)
        return one.reported


def accepted(number: int, p: ConnectionParameters) -> events.Accept:
    """Without parameters it is the answer to a REP: the RTU."""
    if not p.valid:
        return events.Accept(number)
    return events.Accept(
        number, p.private, p.qpn & QPN_MASK, p.responder_resources, p.initiator_depth, min(7, p.rnr_retry_count),
        bool(p.flow_control), bool(p.srq),
    )  # fmt: skip


def _ends(known: RdmaId | None) -> tuple[SocketAddress | None, SocketAddress | None]:
    """Its own address and its peer's."""
    if known is None:
        return None, None
    if not known.destination:
        return address_of_ip(known.source, known.service_port) if known.source else None, None
    own, peer = known.source_port, known.service_port
    if known.request is not None:  # the peer asked for our port
        own, peer = peer, own
    return address_of_ip(known.source, own), address_of_ip(known.destination, peer)


def _words(word: int) -> bytes:
    return word.to_bytes(4, "little")


def _refuse(number: int = errno.EINVAL) -> NoReturn:
    raise OSError(number, os.strerror(number))
