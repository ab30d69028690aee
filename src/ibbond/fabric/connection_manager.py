"""The communication manager of one host: how queue pairs agree to be a connection, and how they part.

Read first: InfiniBand Architecture volume 1, 12.6 (messages) and 12.9 (states), and of Linux `core/cm.c`. Whoever uses
it (`stack.rdma_users`) owns queue pairs and addresses; here are ids, messages, repetitions and duplicates. Services
that nobody listens to are rejected by the user, since IPoIB has connections of its own at the same ports. Left out:
path migration, service id lookups (SIDR), sending MRA.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass, replace

from ibbond.fabric.events import SendMad
from ibbond.machine import SECOND
from ibbond.verbs.verbs import GSI_QPN, ManagementDatagram
from ibbond.wire.cm import CmMad, Drep, Dreq, Message, Mra, Rej, Rejected, RejectReason, Rep, Req, Rtu

FIRST_ID = 0xF000_0000  # IPoIB's connections have ids below
TRANSACTIONS = 0x8001 << 48  # of our software; tools on sockets have smaller ones
TIMEWAIT = 1 * SECOND  # how long messages of a connection that is over are still understood
REMEMBERED = 4096  # connections that are over for longer, whose DREQ is still answered


class CmState(enum.Enum):
    REQ_SENT = enum.auto()
    REQ_RECEIVED = enum.auto()
    REP_SENT = enum.auto()
    ESTABLISHED = enum.auto()
    DREQ_SENT = enum.auto()
    TIMEWAIT = enum.auto()


@dataclass(frozen=True, slots=True)
class Requested:
    """Event: a peer wants a connection; the user answers with `accept` or `reject`."""

    local_id: int
    port: str
    request: Req


@dataclass(frozen=True, slots=True)
class Accepted:
    """Event: the peer has accepted; the user connects its queue pair and calls `ready`."""

    local_id: int
    reply: Rep


@dataclass(frozen=True, slots=True)
class Established:
    """Event, at the passive side: the peer may send."""

    local_id: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """Event: the peer has rejected."""

    local_id: int
    reason: int
    private: bytes


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """Event: nobody answered the request or the reply, as often as it was repeated."""

    local_id: int


@dataclass(frozen=True, slots=True)
class Parted:
    """Event: the connection is over: the peer asked for it, answered, or (not `answered`) said nothing any more."""

    local_id: int
    answered: bool = True


CmEvent = Requested | Accepted | Established | Refusal | NoAnswer | Parted
CmEffect = SendMad | CmEvent


@dataclass(eq=False, slots=True)
class _Communication:
    local_id: int
    port: str
    local_lid: int
    remote_lid: int
    state: CmState
    transaction: int
    timeout_ns: int
    max_retries: int
    local_guid: int = 0
    local_qpn: int = 0
    remote_id: int = 0
    remote_qpn: int = 0
    remote_guid: int = 0
    sent: bytes = b""  # the message to repeat
    tries: int = 0
    due_at: int | None = None


def timeout_ns(code: int) -> int:
    """4.096 us x 2^code."""
    return 4096 << code


class ConnectionManager:
    """Connections of one host by local id. Verbs return what is to be sent and what the user must hear, in order."""

    def __init__(self) -> None:
        self._all: dict[int, _Communication] = {}
        self._over: dict[int, _Communication] = {}
        self._next = 0
        self._transaction = 0

    def state(self, local_id: int) -> CmState | None:
        one = self._all.get(local_id)
        return one.state if one is not None else None

    # ---- what the user asks for

    def connect(self, now: int, port: str, request: Req) -> tuple[int, list[CmEffect]]:
        """Send a REQ (its local id is filled in); `remote_timeout` and `max_cm_retries` say how patiently."""
        local_id = self._new_id()
        request = replace(request, local_id=local_id)
        self._transaction += 1
        one = self._all[local_id] = _Communication(
            local_id,
            port,
            request.primary.local_lid,
            request.primary.remote_lid,
            CmState.REQ_SENT,
            TRANSACTIONS | local_id << 16 | self._transaction & 0xFFFF,
            timeout_ns(request.remote_timeout),
            request.max_cm_retries,
            local_guid=request.ca_guid,
            local_qpn=request.qpn,
        )
        return local_id, self._send(now, one, request)

    def accept(self, now: int, local_id: int, reply: Rep) -> list[CmEffect]:
        """Answer a request with a REP (its ids are filled in)."""
        one = self._all.get(local_id)
        if one is None or one.state is not CmState.REQ_RECEIVED:
            return []
        one.state, one.local_guid, one.local_qpn = CmState.REP_SENT, reply.ca_guid, reply.qpn
        return self._send(now, one, replace(reply, local_id=local_id, remote_id=one.remote_id))

    def ready(self, local_id: int) -> list[CmEffect]:
        """The queue pair of an accepted connection is connected: tell the peer by RTU."""
        one = self._all.get(local_id)
        if one is None or one.state is not CmState.REQ_SENT:
            return []
        one.state, one.due_at = CmState.ESTABLISHED, None
        return [self._say(one, Rtu(one.local_id, one.remote_id))]

    def reject(self, now: int, local_id: int, reason: int, private: bytes = b"") -> list[CmEffect]:
        """Say no to a request, or to a reply that cannot be used."""
        one = self._all.get(local_id)
        if one is None or one.state not in (CmState.REQ_RECEIVED, CmState.REQ_SENT):
            return []
        about = Rejected.REQ if one.state is CmState.REQ_RECEIVED else Rejected.REP
        rej = Rej(one.local_id, one.remote_id, about, reason, private=private.ljust(Rej.PRIVATE_BYTES, b"\0"))
        effects: list[CmEffect] = [self._say(one, rej)]
        self._wait(now, one, effects[0])
        return effects

    def disconnect(self, now: int, local_id: int) -> list[CmEffect]:
        """End a connection by DREQ; one that is not there yet is given up."""
        one = self._all.get(local_id)
        if one is None:
            return []
        if one.state is CmState.REQ_RECEIVED:
            return self.reject(now, local_id, RejectReason.CONSUMER)
        if one.state is CmState.REQ_SENT:
            effects: list[CmEffect] = [self._give_up(one, Rejected.OTHER)]
            self._wait(now, one, None)
            return effects
        if one.state in (CmState.ESTABLISHED, CmState.REP_SENT):
            one.state = CmState.DREQ_SENT
            return self._send(now, one, Dreq(one.local_id, one.remote_id, one.remote_qpn))
        return []

    def heard_data(self, port: str, qpn: int) -> list[CmEffect]:
        """Data have arrived at this queue pair: as good as an RTU. Each adapter numbers its own."""
        for one in self._all.values():
            if one.port == port and one.local_qpn == qpn and one.state is CmState.REP_SENT:
                return self._established(one)
        return []

    def port_removed(self, port: str) -> None:
        """The adapter of this port has gone, and what was said through it with it (`cm_remove_one`)."""
        for one in [each for each in self._all.values() if each.port == port]:
            self._forget(one)

    # ---- what arrives

    def handle(self, now: int, port: str, mad: CmMad) -> list[CmEffect]:
        """A CM message at the port; messages about ids that are not ours are left alone."""
        message = mad.message
        if isinstance(message, Req):
            return self._requested(now, port, mad.transaction_id, message)
        if not isinstance(message, Rep | Rtu | Rej | Dreq | Drep | Mra):
            return []
        one = self._about(message)
        if one is None:
            return []
        match message:
            case Rep():
                return self._replied(one, message)
            case Rtu() if one.state is CmState.REP_SENT:
                return self._established(one)
            case Rej() if one.state in (CmState.REQ_SENT, CmState.REP_SENT, CmState.REQ_RECEIVED):
                self._wait(now, one, None)
                return [Refusal(one.local_id, message.reason, message.private)]
            case Mra() if one.due_at is not None:
                one.due_at = now + one.timeout_ns + timeout_ns(message.service_timeout)
            case Dreq():
                return self._released(now, one, mad.transaction_id, message)
            case Drep() if one.state is CmState.DREQ_SENT:
                self._wait(now, one, None)
                return [Parted(one.local_id)]
        return []

    def tick(self, now: int) -> list[CmEffect]:
        """Repeat what was not answered; give up what was repeated enough; forget what is long over."""
        effects: list[CmEffect] = []
        for one in [each for each in self._all.values() if each.due_at is not None and each.due_at <= now]:
            if one.state is CmState.TIMEWAIT:
                self._forget(one)
            elif one.tries <= one.max_retries:
                one.tries += 1
                one.due_at = now + one.timeout_ns
                effects.append(self._mad(one, one.sent))
            elif one.state is CmState.DREQ_SENT:
                self._wait(now, one, None)
                effects.append(Parted(one.local_id, answered=False))
            else:
                about = Rejected.REQ if one.state is CmState.REQ_SENT else Rejected.REP
                effects.append(self._give_up(one, about))
                self._wait(now, one, None)
                effects.append(NoAnswer(one.local_id))
        return effects

    def deadline(self) -> int | None:
        if not self._all:
            return None
        return min((one.due_at for one in self._all.values() if one.due_at is not None), default=None)

    # ---- inside

    def _about(self, message: Rep | Rtu | Rej | Dreq | Drep | Mra) -> _Communication | None:
        """By our id, and by the peer's once it is known (`cm_acquire_id`).

        A peer that gave up before it knew our id says its GUID (`cm_acquire_rejected_id`): every host numbers alike.
        """
        if isinstance(message, Rej) and message.reason == RejectReason.TIMEOUT and not message.remote_id:
            guid = int.from_bytes(message.info[:8])
            return next((one for one in self._peers(guid) if one.remote_id == message.local_id != 0), None)
        one = self._all.get(message.remote_id)
        if one is None and isinstance(message, Dreq):
            one = self._over.get(message.remote_id)
        if one is None or one.remote_id not in (0, message.local_id):
            return None
        return one

    def _requested(self, now: int, port: str, transaction: int, request: Req) -> list[CmEffect]:
        for one in self._peers(request.ca_guid):
            if one.remote_id == request.local_id:  # again: it gets the same answer, once there is one
                return [self._mad(one, one.sent)] if one.sent else []
        effects: list[CmEffect] = []
        for one in self._peers(request.ca_guid):
            if one.remote_qpn == request.qpn and one.state is CmState.ESTABLISHED:
                self._wait(now, one, None)  # the peer has used its queue pair for something new
                effects.append(Parted(one.local_id))
        local_id = self._new_id()
        one = self._all[local_id] = _Communication(
            local_id,
            port,
            request.primary.remote_lid,
            request.primary.local_lid,
            CmState.REQ_RECEIVED,
            transaction,
            timeout_ns(request.local_timeout),
            request.max_cm_retries,
            remote_id=request.local_id,
            remote_qpn=request.qpn,
            remote_guid=request.ca_guid,
        )
        if effects:
            return [*effects, *self.reject(now, local_id, RejectReason.STALE_CONNECTION)]
        return [Requested(local_id, port, request)]

    def _replied(self, one: _Communication, reply: Rep) -> list[CmEffect]:
        if one.state is CmState.ESTABLISHED and one.remote_id == reply.local_id:
            return [self._say(one, Rtu(one.local_id, one.remote_id))]  # the first RTU was lost
        if one.state is not CmState.REQ_SENT or one.due_at is None:
            return []
        one.remote_id, one.remote_qpn, one.remote_guid = reply.local_id, reply.qpn, reply.ca_guid
        one.due_at = None
        return [Accepted(one.local_id, reply)]

    def _established(self, one: _Communication) -> list[CmEffect]:
        one.state, one.due_at = CmState.ESTABLISHED, None
        return [Established(one.local_id)]

    def _released(self, now: int, one: _Communication, transaction: int, request: Dreq) -> list[CmEffect]:
        one.transaction = transaction
        answer = self._say(one, Drep(one.local_id, request.local_id))
        over = one.state is CmState.TIMEWAIT
        self._wait(now, one, None)
        return [answer] if over else [answer, Parted(one.local_id)]

    def _wait(self, now: int, one: _Communication, answer: CmEffect | None) -> None:
        """The connection is over; duplicates of what led to that are still answered for a while."""
        one.state, one.due_at = CmState.TIMEWAIT, now + TIMEWAIT
        one.sent = answer.mad.mad if isinstance(answer, SendMad) else b""

    def _forget(self, one: _Communication) -> None:
        """A DREQ alone is still answered: a lost DREP must not cost the peer all its repetitions.

        Linux answers one for any id (`cm_issue_drep`); here the way back is only known of connections that were.
        """
        one.state, one.due_at = CmState.TIMEWAIT, None
        self._over[one.local_id] = self._all.pop(one.local_id)
        if len(self._over) > REMEMBERED:
            del self._over[next(iter(self._over))]

    def _send(self, now: int, one: _Communication, message: Message) -> list[CmEffect]:
        """Send what wants an answer."""
        one.sent = CmMad(one.transaction, message).pack()
        one.tries, one.due_at = 1, now + one.timeout_ns
        return [self._mad(one, one.sent)]

    def _give_up(self, one: _Communication, about: Rejected) -> SendMad:
        guid = one.local_guid.to_bytes(8)
        return self._say(one, Rej(one.local_id, one.remote_id, about, RejectReason.TIMEOUT, guid))

    def _say(self, one: _Communication, message: Message) -> SendMad:
        return self._mad(one, CmMad(one.transaction, message).pack())

    def _mad(self, one: _Communication, mad: bytes) -> SendMad:
        return SendMad(one.port, ManagementDatagram(one.local_lid, one.remote_lid, GSI_QPN, GSI_QPN, mad))

    def _peers(self, guid: int) -> Iterator[_Communication]:
        return (one for one in tuple(self._all.values()) if one.remote_guid == guid)

    def _new_id(self) -> int:
        while (local_id := FIRST_ID | self._next & 0xFFFFFF) in self._all:
            self._next += 1
        self._next += 1
        return local_id
