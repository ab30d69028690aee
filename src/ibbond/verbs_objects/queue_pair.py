"""A queue pair of a program: its rings as the transport's queues, its attributes as verbs change them.

Read first: `verbs.reliable_verbs.Queues`; `drivers/infiniband/core/verbs.c` of Linux (`qp_state_table`) for which
change of state needs what. Nothing that a program writes into a ring is trusted: places are counted here, what is
read is bounded, and a request that makes no sense fails with a completion. Left out: SQD, path migration, datagrams.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass

from ibbond.errors import Malformed
from ibbond.fabric.port import Port
from ibbond.fabric.reliable_verbs import ReliableVerbs
from ibbond.verbs.memory import ProtectionDomain
from ibbond.verbs.reliable_verbs import (
    Arrival,
    Operation,
    PairEvent,
    Peer,
    ReceiveRequest,
    SendRequest,
    Status,
)
from ibbond.verbs_objects.adapter import MAX_MESSAGE_BYTES, MAX_READS
from ibbond.verbs_objects.completion_queue import CompletionQueue, EventSink
from ibbond.verbs_objects.refusal import refuse
from ibbond.wire import rxe
from ibbond.wire.port_info import MTU_BYTES
from ibbond.wire.rxe import (
    COMPLETION,
    CONSUMER,
    PRODUCER,
    CompletionFlags,
    CompletionOpcode,
    CompletionStatus,
    Ring,
    SendFlags,
    SendOpcode,
)
from ibbond.wire.uverbs import AsyncEvent, ModifyQp, Path, QpMask, QpState
from ibbond.wire.uverbs_answers import QpCaps

NO_IMMEDIATE = bytes(4)
IMM = CompletionFlags.IMM.value
NOTHING = ModifyQp(Path(), Path(), *[0] * 23)
OPERATIONS = {
    SendOpcode.SEND: Operation.SEND,
    SendOpcode.SEND_IMM: Operation.SEND,
    SendOpcode.WRITE: Operation.WRITE,
    SendOpcode.WRITE_IMM: Operation.WRITE,
    SendOpcode.READ: Operation.READ,
    SendOpcode.COMPARE_SWAP: Operation.COMPARE_SWAP,
    SendOpcode.FETCH_ADD: Operation.FETCH_ADD,
}
# Numbers, for an operation on a member of an IntFlag takes a microsecond.
FENCE, SIGNALED, SOLICITED, INLINE = (flag.value for flag in SendFlags)
BY_OPCODE = {int(opcode): operation for opcode, operation in OPERATIONS.items()}
IMMEDIATES = (SendOpcode.SEND_IMM, SendOpcode.WRITE_IMM)
OPCODES = {
    Operation.SEND: CompletionOpcode.SEND,
    Operation.WRITE: CompletionOpcode.WRITE,
    Operation.READ: CompletionOpcode.READ,
    Operation.COMPARE_SWAP: CompletionOpcode.COMPARE_SWAP,
    Operation.FETCH_ADD: CompletionOpcode.FETCH_ADD,
}
STATUSES = {
    Status.SUCCESS: CompletionStatus.SUCCESS,
    Status.LOCAL_LENGTH: CompletionStatus.LOC_LEN_ERR,
    Status.LOCAL_OPERATION: CompletionStatus.LOC_QP_OP_ERR,
    Status.LOCAL_PROTECTION: CompletionStatus.LOC_PROT_ERR,
    Status.FLUSHED: CompletionStatus.WR_FLUSH_ERR,
    Status.REMOTE_INVALID_REQUEST: CompletionStatus.REM_INV_REQ_ERR,
    Status.REMOTE_ACCESS: CompletionStatus.REM_ACCESS_ERR,
    Status.REMOTE_OPERATION: CompletionStatus.REM_OP_ERR,
    Status.RETRY_EXCEEDED: CompletionStatus.RETRY_EXC_ERR,
    Status.RNR_RETRY_EXCEEDED: CompletionStatus.RNR_RETRY_EXC_ERR,
}
EVENTS = {
    PairEvent.ESTABLISHED: AsyncEvent.COMM_EST,
    PairEvent.REQUEST_ERROR: AsyncEvent.QP_REQUEST_ERR,
    PairEvent.ACCESS_ERROR: AsyncEvent.QP_ACCESS_ERR,
    PairEvent.DRAINED: AsyncEvent.SQ_DRAINED,
}

M = QpMask
ANY_TIME = M.STATE | M.CURRENT_STATE
CHANGES: dict[tuple[QpState, QpState], tuple[QpMask, QpMask]] = {  # from, to: what is needed, what else may be said
    (QpState.RESET, QpState.RESET): (M(0), M(0)),
    (QpState.RESET, QpState.INIT): (M.PKEY_INDEX | M.PORT | M.ACCESS_FLAGS, M(0)),
    (QpState.INIT, QpState.INIT): (M(0), M.PKEY_INDEX | M.PORT | M.ACCESS_FLAGS),
    (QpState.INIT, QpState.RTR): (
        M.AV | M.PATH_MTU | M.DEST_QPN | M.RQ_PSN | M.MAX_DEST_RD_ATOMIC | M.MIN_RNR_TIMER,
        M.ALT_PATH | M.ACCESS_FLAGS | M.PKEY_INDEX,
    ),
    (QpState.RTR, QpState.RTS): (
        M.TIMEOUT | M.RETRY_COUNT | M.RNR_RETRY | M.SQ_PSN | M.MAX_QP_RD_ATOMIC,
        M.ALT_PATH | M.ACCESS_FLAGS | M.MIN_RNR_TIMER | M.PATH_MIG_STATE,
    ),
    (QpState.RTS, QpState.RTS): (M(0), M.ACCESS_FLAGS | M.ALT_PATH | M.PATH_MIG_STATE | M.MIN_RNR_TIMER),
}
FIELDS: dict[QpMask, tuple[str, ...]] = {
    M.ACCESS_FLAGS: ("access",),
    M.PKEY_INDEX: ("pkey_index",),
    M.PORT: ("port",),
    M.QKEY: ("qkey",),
    M.AV: ("path",),
    M.PATH_MTU: ("path_mtu",),
    M.TIMEOUT: ("timeout",),
    M.RETRY_COUNT: ("retry_count",),
    M.RNR_RETRY: ("rnr_retry",),
    M.RQ_PSN: ("rq_psn",),
    M.MAX_QP_RD_ATOMIC: ("max_rd_atomic",),
    M.ALT_PATH: ("alternate", "alternate_port", "alternate_timeout", "alternate_pkey_index"),
    M.MIN_RNR_TIMER: ("min_rnr_timer",),
    M.SQ_PSN: ("sq_psn",),
    M.MAX_DEST_RD_ATOMIC: ("max_dest_rd_atomic",),
    M.PATH_MIG_STATE: ("path_mig_state",),
    M.DEST_QPN: ("dest_qpn",),
}
LIMITS = {
    "timeout": 31, "retry_count": 7, "rnr_retry": 7, "min_rnr_timer": 31, "max_rd_atomic": MAX_READS,
    "max_dest_rd_atomic": MAX_READS, "rq_psn": 0xFFFFFF, "sq_psn": 0xFFFFFF, "dest_qpn": 0xFFFFFF,
}  # fmt: skip


@dataclass(eq=False, slots=True)
class ReceiveQueue:
    """Receives that a program has posted: of one queue pair, or shared by several (an SRQ)."""

    ring: Ring
    offset: int  # in the file that the program maps
    max_pieces: int
    limit: int = 0  # of an SRQ: when fewer are left, its program is notified once
    user: int = 0
    users: int = 0
    events: int = 0
    taken: int = 0  # place of the next one

    def take(self) -> ReceiveRequest | None:
        ring = self.ring
        index = self.taken
        if index == ring.words[PRODUCER] & ring.mask:
            return None
        self.taken = ring.words[CONSUMER] = (index + 1) & ring.mask
        try:
            return ReceiveRequest(*rxe.parse_receive(ring.data, ring.at(index), max_pieces=self.max_pieces))
        except Malformed:
            return ReceiveRequest(0, (), Status.LOCAL_OPERATION)

    def left(self) -> int:
        return (self.ring.words[PRODUCER] - self.taken) & self.ring.mask

    def reset(self) -> None:
        self.taken = 0
        self.ring.reset()


class QueuePair:
    """One queue pair; `verbs.reliable_verbs.Queues` to the transport."""

    def __init__(
        self,
        verbs: ReliableVerbs,
        domain: ProtectionDomain,
        outlet: EventSink,
        *,
        user: int,
        send_cq: CompletionQueue,
        receive_cq: CompletionQueue,
        sends: Ring,
        offset: int,
        receives: ReceiveQueue,
        shared: bool,
        caps: QpCaps,
        all_signaled: bool,
    ) -> None:
        self._verbs = verbs
        self._outlet = outlet
        self.user = user
        self.send_cq, self.receive_cq = send_cq, receive_cq
        self.sends, self.offset = sends, offset
        self.receives, self.shared = receives, shared
        self.caps, self.all_signaled = caps, all_signaled
        self.attributes = NOTHING
        self.events = 0
        self._state = QpState.RESET
        self._fetched = self._consumed = 0
        self._max_inline = max(caps.max_inline, rxe.SGE.size * caps.max_send_sge)
        self.number = verbs.create(domain, self)

    @property
    def state(self) -> QpState:
        """The transport may have brought it into the error state."""
        if self._state in (QpState.RTR, QpState.RTS) and self._verbs.failed(self.number):
            self._state = QpState.ERR
        return self._state

    # ---- the transport's view

    def next_send(self) -> SendRequest | None:
        ring = self.sends
        index = self._fetched
        if index == ring.words[PRODUCER] & ring.mask:
            return None
        self._fetched = (index + 1) & ring.mask
        try:
            found = rxe.parse_send(
                ring.data, ring.at(index), max_pieces=self.caps.max_send_sge, max_inline=self._max_inline
            )
        except Malformed:
            return SendRequest(0, Operation.SEND, fault=Status.LOCAL_OPERATION)
        flags, opcode = found.flags, found.opcode
        operation = BY_OPCODE.get(opcode)
        request = SendRequest(
            found.number,
            operation or Operation.SEND,
            found.pieces,
            found.length,
            found.inline if flags & INLINE else None,
            found.remote_key,
            found.remote_address,
            self.all_signaled or flags & SIGNALED != 0,
            flags & SOLICITED != 0,
            flags & FENCE != 0,
            found.immediate if opcode in IMMEDIATES else b"",
            b"",
            found.compare_add,
            found.swap,
        )
        if operation is None or (request.inline is not None and operation is Operation.READ):
            request.fault = Status.LOCAL_OPERATION
        elif request.length > MAX_MESSAGE_BYTES:
            request.fault = Status.LOCAL_LENGTH
        return request

    def next_receive(self) -> ReceiveRequest | None:
        receives = self.receives
        found = receives.take()
        if self.shared and found is not None and receives.limit and receives.left() < receives.limit:
            receives.limit = 0
            receives.events += self._outlet.asynchronous(receives.user, AsyncEvent.SRQ_LIMIT_REACHED)
        return found

    def left_receives(self) -> Iterator[ReceiveRequest]:
        """At most as many as there is room for: the program may go on posting while they are flushed."""
        if self.shared:
            return
        for _ in range(self.receives.ring.mask):
            found = self.receives.take()
            if found is None:
                return
            yield found

    def sent(self, request: SendRequest, status: Status) -> None:
        """Room first: a program that sees the completion may post at once."""
        ring = self.sends
        self._consumed = ring.words[CONSUMER] = (self._consumed + 1) & ring.mask
        if status is Status.SUCCESS and not request.signaled:
            return
        self._complete(
            self.send_cq, request.number, STATUSES[status], OPCODES[request.operation],
            request.length if status is Status.SUCCESS else 0,
        )  # fmt: skip

    def received(self, request: ReceiveRequest, status: Status, arrival: Arrival) -> None:
        opcode = CompletionOpcode.RECV_WRITE_IMM if arrival.written else CompletionOpcode.RECV
        self._complete(
            self.receive_cq,
            request.number,
            STATUSES[status],
            opcode,
            arrival.length,
            immediate=arrival.immediate,
            solicited=arrival.solicited,
        )

    def raised(self, event: PairEvent) -> None:
        self.events += self._outlet.asynchronous(self.user, EVENTS[event])

    def _complete(
        self,
        queue: CompletionQueue,
        number: int,
        status: CompletionStatus,
        opcode: CompletionOpcode,
        length: int,
        *,
        immediate: bytes = b"",
        solicited: bool = False,
    ) -> None:
        attributes = self.attributes
        path = attributes.path
        element = COMPLETION.pack(
            number,
            status,
            opcode,
            0,
            length,
            immediate or NO_IMMEDIATE,
            self.number,
            attributes.dest_qpn,
            IMM if immediate else 0,
            0,
            path.lid,
            path.service_level,
            0,
            attributes.port,
        )
        if not queue.push(element, urgent=solicited or status != 0) and not status:
            self._verbs.fail(self.number)

    # ---- the program's view

    def ring(self, now: int) -> None:
        """The doorbell."""
        self._verbs.ring(now, self.number)

    def modify(self, request: ModifyQp) -> None:
        """OSError where the state does not allow it, an attribute is missing, or a value cannot be."""
        mask, before = QpMask(request.mask & int(~QpMask(0))), self.state
        if mask & M.CURRENT_STATE and request.current_state != before:
            refuse()
        try:
            after = QpState(request.state) if mask & M.STATE else before
        except ValueError:
            refuse()
        if after in (QpState.RESET, QpState.ERR):
            if mask & ~ANY_TIME:
                refuse()
        else:
            change = CHANGES.get((before, after))
            if change is None:
                refuse(errno.EOPNOTSUPP if QpState.SQD in (before, after) else errno.EINVAL)
            needed, allowed = change
            if needed & ~mask or mask & ~(needed | allowed | ANY_TIME):
                refuse()
        wanted = self._changed(request, mask)
        self.attributes = wanted
        self._move(before, after)

    def _changed(self, request: ModifyQp, mask: QpMask) -> ModifyQp:
        names = [name for bit, its in FIELDS.items() if mask & bit for name in its]
        fields = {name: getattr(request, name) for name in names}
        if any(fields.get(name, 0) > most for name, most in LIMITS.items()):
            refuse()
        hca = self._verbs.hca
        if "port" in fields and fields["port"] not in hca.ports:
            refuse()
        wanted = self.attributes._replace(**fields)
        table = hca.ports[wanted.port].pkey_table if wanted.port else []
        if wanted.pkey_index >= max(1, len(table)) or ("path_mtu" in fields and wanted.path_mtu not in MTU_BYTES):
            refuse()
        return wanted

    def _move(self, before: QpState, after: QpState) -> None:
        self._state = after
        match before, after:
            case (_, QpState.RESET):
                self._verbs.reset(self.number)
                self.sends.reset()
                self._fetched = self._consumed = 0
                if not self.shared:
                    self.receives.reset()
                self.attributes = NOTHING
            case (_, QpState.ERR):
                self._verbs.fail(self.number)
                if self.shared and before is not QpState.ERR:
                    self.events += self._outlet.asynchronous(self.user, AsyncEvent.LAST_WQE_REACHED)
            case (QpState.INIT, QpState.RTR):
                self._verbs.listen(self.number, self._port(), self._peer())
            case (QpState.RTR | QpState.RTS, QpState.RTS):
                self._verbs.speak(self.number, self._peer())

    def pkeys_changed(self, port: Port) -> None:
        """Its P_Key is that of its index, whatever the table has there now."""
        if self.attributes.port == port.number and self.state is QpState.RTS:
            self._verbs.speak(self.number, self._peer())

    def destroy(self) -> int:
        """How many of its events the program has read."""
        self._verbs.destroy(self.number)
        return self.events - self._outlet.retract_asynchronous(self.user)

    def _port(self) -> Port:
        return self._verbs.hca.ports[self.attributes.port]

    def _peer(self) -> Peer:
        a = self.attributes
        return Peer(
            a.path.lid,
            a.dest_qpn,
            send_psn=a.sq_psn,
            receive_psn=a.rq_psn,
            mtu_bytes=MTU_BYTES[a.path_mtu],
            timeout=a.timeout,
            retry_count=a.retry_count,
            rnr_retry_count=a.rnr_retry,
            pkey=self._port().pkey_table[a.pkey_index],
            service_level=a.path.service_level,
            rnr_timer=a.min_rnr_timer,
            max_reads=a.max_rd_atomic,
            access=a.access,
        )
