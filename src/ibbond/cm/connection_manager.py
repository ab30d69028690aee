"""The connection manager of one host: how queue pairs agree to be a connection, and how they part.

Read first: InfiniBand Architecture volume 1, 12.6 (messages) and 12.9 (states, in `cm.states`), and of Linux
`core/cm.c`. Its users (IPoIB's connected mode, RDMA CM) own queue pairs and addresses; here are ids, messages,
repetitions, duplicates, and which user has a service. Left out: path migration, service id lookups (SIDR).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ibbond.cm.events import (
    CmEffect,
    CmEvent,
    CmUser,
    Disconnected,
    NoReply,
    Notify,
    RejReceived,
    RepReceived,
    ReqReceived,
    RtuReceived,
    TimewaitExit,
)
from ibbond.cm.states import CM_TABLE, CM_VERBS, CmInput, CmState, CmVerb, Reaction
from ibbond.fabric.events import SendMad
from ibbond.machine import SECOND, Deadlines
from ibbond.verbs.verbs import GSI_QPN, ManagementDatagram
from ibbond.wire.cm import CmMad, Drep, Dreq, Message, Mra, Rej, Rejected, RejectReason, Rep, Req, Rtu

TRANSACTIONS = 0x8001 << 48  # of the host's software; tools on sockets have smaller ones
TIMEWAIT = 1 * SECOND  # how long messages of a closed connection are still understood
REMEMBERED = 4096  # connections that are over for longer, whose DREQ is still answered
ANY_SERVICE = (1 << 64) - 1

INPUTS: dict[type[Message], CmInput] = {
    Rep: CmInput.REP,
    Rtu: CmInput.RTU,
    Mra: CmInput.MRA,
    Rej: CmInput.REJ,
    Dreq: CmInput.DREQ,
    Drep: CmInput.DREP,
}


@dataclass(frozen=True, slots=True)
class _Listener:
    user: CmUser
    service_id: int
    mask: int
    port: str


@dataclass(eq=False, slots=True)
class _Connection:
    local_id: int
    user: CmUser
    port: str
    local_lid: int
    remote_lid: int
    state: CmState
    transaction: int
    timeout_ns: int
    max_retries: int
    local_guid: int = 0
    remote_id: int = 0
    remote_qpn: int = 0
    remote_guid: int = 0
    sent: bytes = b""  # the message to repeat
    tries: int = 0


def timeout_ns(code: int) -> int:
    """4.096 us x 2^code."""
    return 4096 << code


class ConnectionManager:
    """Connections of one host by local id. Verbs return the MADs to be sent; what users are notified of comes besides.

    A verb about an id that is unknown, or in another state than the verb needs, sends nothing: the peer was faster, and
    the user has the event already.
    """

    def __init__(self) -> None:
        self._all: dict[int, _Connection] = {}
        self._over: dict[int, _Connection] = {}
        self._listeners: list[_Listener] = []
        self._due: Deadlines[int] = Deadlines()
        self._next = 0
        self._transaction = 0

    def state(self, local_id: int) -> CmState | None:
        """The state of a connection by its local communication id, or None if it is not known."""
        conn = self._all.get(local_id)
        return conn.state if conn is not None else None

    # ---- verbs of users

    def listen(self, user: CmUser, service_id: int, mask: int = ANY_SERVICE, *, port: str = "") -> None:
        """Notify this user of requests for services that equal this one under the mask, at one port or all of them."""
        self._listeners.append(_Listener(user, service_id & mask, mask, port))

    def stop_listening(self, user: CmUser) -> None:
        """Drop all listeners of this user; its connections stay."""
        self._listeners = [listener for listener in self._listeners if listener.user != user]

    def connect(
        self, now: int, user: CmUser, port: str, request: Req, *, repeat_ns: int | None = None
    ) -> tuple[int, list[SendMad]]:
        """Send a REQ (its local id is filled in), repeated `max_cm_retries` times.

        It is repeated each `repeat_ns`, if given, else after the time that it grants the peer (`remote_timeout`).
        """
        local_id = self._new_id()
        request = replace(request, local_id=local_id)
        self._transaction += 1
        conn = self._all[local_id] = _Connection(
            local_id,
            user,
            port,
            request.primary.local_lid,
            request.primary.remote_lid,
            CmState.REQ_SENT,
            TRANSACTIONS | (local_id & 0xFFFF_FFFF) << 16 | self._transaction & 0xFFFF,
            timeout_ns(request.remote_timeout) if repeat_ns is None else repeat_ns,
            request.max_cm_retries,
            local_guid=request.ca_guid,
        )
        return local_id, self._send(now, conn, request)

    def accept(self, now: int, local_id: int, reply: Rep, *, repeat_ns: int | None = None) -> list[SendMad]:
        """Answer a request with a REP (its ids are filled in), repeated as the peer's REQ says or each `repeat_ns`."""
        conn = self._asked(local_id, CmVerb.ACCEPT)
        if conn is None:
            return []
        conn.local_guid = reply.ca_guid
        if repeat_ns is not None:
            conn.timeout_ns = repeat_ns
        return self._send(now, conn, replace(reply, local_id=local_id, remote_id=conn.remote_id))

    def ready(self, local_id: int) -> list[SendMad]:
        """The queue pair of an accepted connection is in RTS: send the peer an RTU."""
        conn = self._asked(local_id, CmVerb.READY)
        return [self._say(conn, Rtu(conn.local_id, conn.remote_id))] if conn is not None else []

    def delay(self, local_id: int, service_timeout: int) -> list[SendMad]:
        """Ask the peer by MRA to wait 4.096 us x 2^`service_timeout` for the answer to its REQ or REP."""
        conn = self._asked(local_id, CmVerb.DELAY)
        if conn is None:
            return []
        about = Rejected.REQ if conn.state is CmState.REQ_RCVD else Rejected.REP
        mra = self._say(conn, Mra(conn.local_id, conn.remote_id, about, service_timeout))
        conn.sent = mra.mad.mad
        return [mra]

    def reject(self, now: int, local_id: int, reason: int, private: bytes = b"") -> list[SendMad]:
        """Refuse a request, or a reply that cannot be used."""
        conn = self._all.get(local_id)
        about = Rejected.REP if conn is not None and conn.state is CmState.REP_RCVD else Rejected.REQ
        conn = self._asked(local_id, CmVerb.REJECT)
        if conn is None:
            return []
        rej = Rej(conn.local_id, conn.remote_id, about, reason, private=private.ljust(Rej.PRIVATE_BYTES, b"\0"))
        answer = self._say(conn, rej)
        self._enter_timewait(now, conn, answer.mad.mad)
        return [answer]

    def disconnect(self, now: int, local_id: int) -> list[SendMad]:
        """End a connection by DREQ; one that is not there yet is rejected or given up."""
        state = self.state(local_id)
        if state in (CmState.REQ_RCVD, CmState.REP_RCVD):
            return self.reject(now, local_id, RejectReason.CONSUMER)
        conn = self._asked(local_id, CmVerb.DISCONNECT)
        if conn is None:
            return []
        if state is CmState.REQ_SENT:
            self._enter_timewait(now, conn)
            return [self._give_up(conn, Rejected.OTHER)]
        return self._send(now, conn, Dreq(conn.local_id, conn.remote_id, conn.remote_qpn))

    def reroute(self, local_id: int, local_lid: int, remote_lid: int) -> None:
        """Another path leads to the peer: messages about this connection go by it from now on."""
        conn = self._all.get(local_id)
        if conn is not None:
            conn.local_lid, conn.remote_lid = local_lid, remote_lid

    def forget(self, local_id: int) -> None:
        """Nothing more can be sent about this connection: its adapter was removed (`cm_remove_one`)."""
        conn = self._all.get(local_id)
        if conn is not None:
            self._retire(conn)

    # ---- what arrives

    def data_arrived(self, now: int, local_id: int) -> list[CmEffect]:
        """A message has come to the queue pair of this connection: as good as an RTU."""
        conn = self._all.get(local_id)
        return self._step(now, conn, CmInput.DATA) if conn is not None else []

    def handle(self, now: int, port: str, mad: CmMad) -> list[CmEffect]:
        """A CM message at the port; messages about unknown ids are ignored."""
        message = mad.message
        if isinstance(message, Req):
            return self._requested(now, port, mad.transaction_id, message)
        event = INPUTS.get(type(message))
        if event is None or not isinstance(message, Rep | Rtu | Rej | Dreq | Drep | Mra):
            return []
        conn = self._about(message)
        if conn is None:
            return self._dreq_after_all(message, mad.transaction_id) if isinstance(message, Dreq) else []
        if event is CmInput.DREQ:
            conn.transaction = mad.transaction_id
        return self._step(now, conn, event, message)

    def tick(self, now: int) -> list[CmEffect]:
        """Repeat what was not answered; give up what was repeated often enough; forget what is long over."""
        effects: list[CmEffect] = []
        for local_id in self._due.due(now):
            conn = self._all[local_id]
            if conn.state is not CmState.TIMEWAIT and conn.tries <= conn.max_retries:
                conn.tries += 1
                self._due.report(local_id, now + conn.timeout_ns)
                effects.append(self._mad(conn, conn.sent))
            else:
                effects += self._step(now, conn, CmInput.TIMEOUT)
        return effects

    def deadline(self) -> int | None:
        return self._due.earliest()

    # ---- inside

    def _asked(self, local_id: int, verb: CmVerb) -> _Connection | None:
        """The connection, moved to the state in which the verb leaves it; None if it is not one for this verb."""
        conn = self._all.get(local_id)
        after = CM_VERBS.get((conn.state, verb)) if conn is not None else None
        if conn is None or after is None:
            return None
        conn.state = after
        return conn

    def _step(self, now: int, conn: _Connection, event: CmInput, message: Message | None = None) -> list[CmEffect]:
        """Read the table."""
        reaction, after = CM_TABLE[conn.state, event]
        about = Rejected.REQ if conn.state is CmState.REQ_SENT else Rejected.REP
        moved, conn.state = after is not conn.state, after
        effects: list[CmEffect] = []
        match reaction:
            case Reaction.REPEAT if conn.sent:
                effects = [self._mad(conn, conn.sent)]
            case Reaction.REPLIED if isinstance(message, Rep):
                conn.remote_id, conn.remote_qpn, conn.remote_guid = message.local_id, message.qpn, message.ca_guid
                conn.sent = b""
                effects = [_notify(conn, RepReceived(conn.local_id, message))]
            case Reaction.RTU_AGAIN:
                effects = [self._say(conn, Rtu(conn.local_id, conn.remote_id))]
            case Reaction.ESTABLISH:
                effects = [_notify(conn, RtuReceived(conn.local_id))]
            case Reaction.REJECTED if isinstance(message, Rej):
                effects = [_notify(conn, RejReceived(conn.local_id, message.reason, message.private))]
            case Reaction.WAIT_LONGER if isinstance(message, Mra):
                self._due.report(conn.local_id, now + conn.timeout_ns + timeout_ns(message.service_timeout))
            case Reaction.RELEASE if isinstance(message, Dreq):
                answer = self._say(conn, Drep(conn.local_id, message.local_id))
                effects = [answer, _notify(conn, Disconnected(conn.local_id))]
            case Reaction.DREP_AGAIN if isinstance(message, Dreq):
                effects = [self._say(conn, Drep(conn.local_id, message.local_id))]
            case Reaction.RELEASED:
                effects = [_notify(conn, Disconnected(conn.local_id))]
            case Reaction.UNANSWERED:
                effects = [_notify(conn, Disconnected(conn.local_id, answered=False))]
            case Reaction.GIVE_UP:
                effects = [self._give_up(conn, about), _notify(conn, NoReply(conn.local_id))]
            case Reaction.FORGET:
                self._retire(conn)
                return [_notify(conn, TimewaitExit(conn.local_id))]
        if moved and after is CmState.TIMEWAIT:
            self._enter_timewait(now, conn)
        elif moved:
            self._due.report(conn.local_id, None)
        return effects

    def _about(self, message: Rep | Rtu | Rej | Dreq | Drep | Mra) -> _Connection | None:
        """By the local id, and by the peer's once it is known (`cm_acquire_id`).

        A peer that gave up before it knew this id says its GUID (`cm_acquire_rejected_id`): every host numbers alike.
        """
        if isinstance(message, Rej) and message.reason == RejectReason.TIMEOUT and not message.remote_id:
            guid = int.from_bytes(message.info[:8])
            return next((conn for conn in self._peers(guid) if conn.remote_id == message.local_id != 0), None)
        conn = self._all.get(message.remote_id)
        if conn is None or conn.remote_id not in (0, message.local_id):
            return None
        return conn

    def _dreq_after_all(self, message: Dreq, transaction: int) -> list[CmEffect]:
        """A DREQ is still answered after everything else has ended: a lost DREP must not cost the peer all retries.

        Linux answers one for any id (`cm_issue_drep`); here the way back is only known of connections that were.
        """
        conn = self._over.get(message.remote_id)
        if conn is None or conn.remote_id not in (0, message.local_id):
            return []
        conn.transaction = transaction
        return [self._say(conn, Drep(conn.local_id, message.local_id))]

    def _requested(self, now: int, port: str, transaction: int, request: Req) -> list[CmEffect]:
        for conn in self._peers(request.ca_guid):
            if conn.remote_id == request.local_id:  # again: it gets the same answer, once there is one
                return self._step(now, conn, CmInput.REQ)
        listener = self._listener(port, request.service_id)
        if listener is None:
            return [_reject_at_once(port, transaction, request, RejectReason.INVALID_SERVICE_ID)]
        effects: list[CmEffect] = []
        for conn in self._peers(request.ca_guid):
            if conn.remote_qpn == request.qpn and conn.state is CmState.ESTABLISHED:
                conn.state = CmState.TIMEWAIT  # the peer has used its queue pair for something new
                self._enter_timewait(now, conn)
                effects.append(_notify(conn, Disconnected(conn.local_id)))
        local_id = self._new_id()
        conn = self._all[local_id] = _Connection(
            local_id,
            listener,
            port,
            request.primary.remote_lid,
            request.primary.local_lid,
            CmState.REQ_RCVD,
            transaction,
            timeout_ns(request.local_timeout),
            request.max_cm_retries,
            remote_id=request.local_id,
            remote_qpn=request.qpn,
            remote_guid=request.ca_guid,
        )
        if effects:
            return [*effects, *self.reject(now, local_id, RejectReason.STALE_CONNECTION)]
        return [_notify(conn, ReqReceived(local_id, port, request))]

    def _listener(self, port: str, service_id: int) -> CmUser | None:
        for listener in self._listeners:
            if service_id & listener.mask == listener.service_id and listener.port in ("", port):
                return listener.user
        return None

    def _enter_timewait(self, now: int, conn: _Connection, answer: bytes = b"") -> None:
        """The connection is closed; duplicates of the messages that closed it are still answered for a while."""
        conn.sent = answer
        self._due.report(conn.local_id, now + TIMEWAIT)

    def _retire(self, conn: _Connection) -> None:
        conn.state = CmState.TIMEWAIT
        self._due.report(conn.local_id, None)
        self._over[conn.local_id] = self._all.pop(conn.local_id)
        if len(self._over) > REMEMBERED:
            del self._over[next(iter(self._over))]

    def _send(self, now: int, conn: _Connection, message: Message) -> list[SendMad]:
        """Send what wants an answer."""
        conn.sent = CmMad(conn.transaction, message).pack()
        conn.tries = 1
        self._due.report(conn.local_id, now + conn.timeout_ns)
        return [self._mad(conn, conn.sent)]

    def _give_up(self, conn: _Connection, about: Rejected) -> SendMad:
        guid = conn.local_guid.to_bytes(8)
        return self._say(conn, Rej(conn.local_id, conn.remote_id, about, RejectReason.TIMEOUT, guid))

    def _say(self, conn: _Connection, message: Message) -> SendMad:
        return self._mad(conn, CmMad(conn.transaction, message).pack())

    def _mad(self, conn: _Connection, mad: bytes) -> SendMad:
        return SendMad(conn.port, ManagementDatagram(conn.local_lid, conn.remote_lid, GSI_QPN, GSI_QPN, mad))

    def _peers(self, guid: int) -> Iterator[_Connection]:
        return (conn for conn in tuple(self._all.values()) if conn.remote_guid == guid)

    def _new_id(self) -> int:
        while True:
            self._next = self._next + 1 & 0xFFFF_FFFF
            if self._next and self._next not in self._all:
                return self._next


def _notify(conn: _Connection, event: CmEvent) -> Notify:
    return Notify(conn.user, event)


def _reject_at_once(port: str, transaction: int, request: Req, reason: RejectReason) -> SendMad:
    mad = CmMad(transaction, Rej(0, request.local_id, Rejected.REQ, reason)).pack()
    lids = request.primary.remote_lid, request.primary.local_lid
    return SendMad(port, ManagementDatagram(*lids, GSI_QPN, GSI_QPN, mad))
