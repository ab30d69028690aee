"""One open device: its objects by handle, and the commands that make, change and destroy them.

Read first: `wire.uverbs` for the commands, `drivers/infiniband/core/uverbs_cmd.c` of Linux for what each refuses: an
object that others use is busy, one that is not there or of another kind is invalid. OSError carries the errno of the
system call. Left out: descriptors and events (`EventSink`), which the server of programs has; datagrams.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import Protocol, TypeVar

from ibbond.fabric.port import Port
from ibbond.fabric.reliable_verbs import ReliableVerbs
from ibbond.verbs.memory import Access, Memory, ProtectionDomain, Region
from ibbond.verbs.verbs import PortEventKind
from ibbond.verbs_objects.adapter import (
    FIRMWARE,
    MAX_COMPLETIONS,
    MAX_INLINE_BYTES,
    MAX_OBJECTS,
    MAX_PIECES,
    MAX_REGION_BYTES,
    MAX_WORK_REQUESTS,
    limits,
    port_attributes,
)
from ibbond.verbs_objects.completion_queue import CompletionQueue, EventSink
from ibbond.verbs_objects.queue_pair import QueuePair, ReceiveQueue
from ibbond.verbs_objects.refusal import refuse
from ibbond.wire import rxe, uverbs_answers
from ibbond.wire.rxe import Ring, RingShape
from ibbond.wire.uverbs import (
    AllocPd,
    AsyncEvent,
    CreateCq,
    CreateQp,
    CreateSrq,
    DeallocPd,
    DeregMr,
    DestroyCq,
    DestroyQp,
    DestroySrq,
    Envelope,
    ModifyQp,
    ModifySrq,
    PostSend,
    QpState,
    QpType,
    QueryDevice,
    QueryPort,
    QueryQp,
    QuerySrq,
    RegMr,
    ReqNotifyCq,
    Request,
    ResizeCq,
)
from ibbond.wire.uverbs_answers import QpCaps, QueueMemory

Kind = TypeVar("Kind")
PAGE = 4096
SRQ_MAX_WR, SRQ_LIMIT = 1, 2
PORT_EVENTS = {
    PortEventKind.PORT_ACTIVE: AsyncEvent.PORT_ACTIVE,
    PortEventKind.PORT_ERR: AsyncEvent.PORT_ERR,
    PortEventKind.LID_CHANGE: AsyncEvent.LID_CHANGE,
    PortEventKind.PKEY_CHANGE: AsyncEvent.PKEY_CHANGE,
    PortEventKind.SM_CHANGE: AsyncEvent.SM_CHANGE,
    PortEventKind.CLIENT_REREGISTER: AsyncEvent.CLIENT_REREGISTER,
    PortEventKind.GID_CHANGE: AsyncEvent.GID_CHANGE,
}
ENDS = (DeallocPd, DeregMr, DestroyCq, DestroyQp, DestroySrq)
"""What a program may still do when its adapter is gone."""


class QueueSpace(Protocol):
    """Memory that the program maps."""

    def take(self, size: int) -> tuple[int, memoryview]:
        """Zeroed bytes, and where they are in the file; OSError."""
        ...

    def give_back(self, offset: int) -> None: ...


class Caller(Protocol):
    """The process that makes a call."""

    def registered(self, start: int, length: int, *, write: bool) -> Memory:
        """Its memory, which must be there (OSError: EFAULT)."""
        ...


@dataclass(eq=False, slots=True)
class Pd:
    domain: ProtectionDomain
    users: int = 0  # objects that were made with it


@dataclass(eq=False, slots=True)
class Mr:
    pd: Pd
    key: int


class Context:
    """The objects of one open device."""

    def __init__(self, verbs: ReliableVerbs, space: QueueSpace, outlet: EventSink) -> None:
        self._verbs = verbs
        self._space = space
        self._outlet = outlet
        self._objects: dict[int, object] = {}
        self._pds: dict[QueuePair | ReceiveQueue, Pd] = {}
        self._next = 1
        self.gone = False  # the adapter was pulled out while it was open

    # ---- what happens to the adapter

    def port_event(self, port: Port, kind: PortEventKind) -> None:
        if kind is PortEventKind.DEVICE_FATAL:
            self._removed()
            return
        if kind is PortEventKind.PKEY_CHANGE:
            for pair in self._pairs():
                pair.pkeys_changed(port)
        self._outlet.asynchronous(port.number, PORT_EVENTS[kind])

    def _removed(self) -> None:
        if not self.gone:
            self.gone = True
            for pair in self._pairs():
                self._verbs.fail(pair.number)
            self._outlet.asynchronous(0, AsyncEvent.DEVICE_FATAL)

    def flush_failed(self, now: int) -> None:
        """Receives that were posted to queue pairs in error come back."""
        for pair in self._pairs():
            if pair.state is QpState.ERR:
                self._verbs.ring(now, pair.number)

    def close(self) -> None:
        """All of it ends."""
        for handle, thing in tuple(self._objects.items()):
            if isinstance(thing, QueuePair):
                self._verbs.destroy(thing.number)
                thing.sends.release()
                if not thing.shared:
                    thing.receives.ring.release()
                del self._objects[handle]
        for thing in self._objects.values():
            if isinstance(thing, CompletionQueue | ReceiveQueue):
                thing.ring.release()
        self._objects.clear()
        self._pds.clear()

    def pair(self, handle: int) -> QueuePair:
        """For doorbells."""
        found = self._objects.get(handle)
        return found if isinstance(found, QueuePair) else refuse()

    def has_channel(self, number: int) -> bool:
        """Whether a completion queue reports there."""
        return any(isinstance(one, CompletionQueue) and one.channel == number for one in self._objects.values())

    # ---- commands

    def execute(self, caller: Caller, envelope: Envelope, request: Request) -> bytes:
        """Carry out a command; its answer, as long as the program has room for. OSError when it is refused."""
        if (self.gone or not self._verbs.hca.alive) and not isinstance(request, ENDS):
            refuse(errno.EIO)
        core, provider = self._execute(caller, request, envelope)
        return envelope.fit(core, provider)

    def _execute(self, caller: Caller, request: Request, envelope: Envelope) -> tuple[bytes, bytes]:
        match request:
            case QueryDevice():
                hca = self._verbs.hca
                return uverbs_answers.pack_device(FIRMWARE, hca.guid, limits(hca), extended=envelope.extended), b""
            case QueryPort(number):
                port = self._verbs.hca.ports.get(number)
                return uverbs_answers.pack_port(port_attributes(port)) if port is not None else refuse(), b""
            case AllocPd():
                return uverbs_answers.pack_words(self._add(Pd(self._verbs.new_domain()))), b""
            case DeallocPd(handle):
                self._dealloc_pd(handle)
            case RegMr():
                return self._reg_mr(caller, request), b""
            case DeregMr(handle):
                mr = self._get(handle, Mr)
                mr.pd.domain.deregister(mr.key)
                mr.pd.users -= 1
                del self._objects[handle]
            case CreateCq():
                core, memory = self._create_cq(request)
                return core + (uverbs_answers.pack_words(0, 16) if envelope.extended else b""), memory.pack()
            case ResizeCq(handle, entries):
                return self._resize_cq(self._get(handle, CompletionQueue), entries)
            case DestroyCq(handle):
                return uverbs_answers.pack_words(*self._destroy_cq(handle)), b""
            case ReqNotifyCq(handle, solicited_only):
                self._get(handle, CompletionQueue).notify(solicited_only=bool(solicited_only))
            case _:
                return self._execute_queues(request, envelope)
        return b"", b""

    def _execute_queues(self, request: Request, envelope: Envelope) -> tuple[bytes, bytes]:
        match request:
            case CreateQp():
                core, provider = self._create_qp(request)
                return core + (uverbs_answers.pack_words(0, 40) if envelope.extended else b""), provider
            case QueryQp(handle):
                pair = self._get(handle, QueuePair)
                current = pair.attributes._replace(state=pair.state)
                return uverbs_answers.pack_query_qp(current, pair.caps, all_signaled=pair.all_signaled), b""
            case ModifyQp(handle=handle):
                self._get(handle, QueuePair).modify(request)
                return (uverbs_answers.pack_words(0, 8) if envelope.extended else b""), b""
            case DestroyQp(handle):
                return uverbs_answers.pack_words(self._destroy_qp(handle)), b""
            case PostSend():
                refuse()  # with work requests in the command itself
            case CreateSrq():
                return self._create_srq(request)
            case ModifySrq(handle, mask, _, limit):
                self._modify_srq(self._get(handle, ReceiveQueue), mask, limit)
                return b"", b""
            case QuerySrq(handle):
                srq = self._get(handle, ReceiveQueue)
                return uverbs_answers.pack_words(srq.ring.mask, srq.max_pieces, srq.limit, 0), b""
            case DestroySrq(handle):
                return uverbs_answers.pack_words(self._destroy_srq(handle)), b""
        return refuse(errno.EOPNOTSUPP)

    def _add(self, thing: object) -> int:
        if len(self._objects) >= MAX_OBJECTS:
            refuse(errno.ENOMEM)
        handle, self._next = self._next, self._next + 1
        self._objects[handle] = thing
        return handle

    def _get(self, handle: int, kind: type[Kind]) -> Kind:
        found = self._objects.get(handle)
        return found if isinstance(found, kind) else refuse()

    def _pairs(self) -> list[QueuePair]:
        return [thing for thing in self._objects.values() if isinstance(thing, QueuePair)]

    def _dealloc_pd(self, handle: int) -> None:
        if self._get(handle, Pd).users:
            refuse(errno.EBUSY)
        del self._objects[handle]

    def _reg_mr(self, caller: Caller, request: RegMr) -> bytes:
        start, length, va, pd_handle, access = request
        pd = self._get(pd_handle, Pd)
        writes = access & (Access.REMOTE_WRITE | Access.REMOTE_ATOMIC)
        if (start ^ va) % PAGE or not 0 < length <= MAX_REGION_BYTES or start + length > 1 << 64:
            refuse()
        if va + length > 1 << 64 or (writes and not access & Access.LOCAL_WRITE):
            refuse()
        memory = caller.registered(start, length, write=bool(access & Access.LOCAL_WRITE))
        handle = self._add(mr := Mr(pd, 0))
        mr.key = pd.domain.register(Region(memory, start, va, length, access & 0xF))
        pd.users += 1
        return uverbs_answers.pack_words(handle, mr.key, mr.key)

    # ---- queues

    def _ring(self, shape: RingShape) -> tuple[Ring, QueueMemory]:
        offset, memory = self._space.take(shape.total)
        return Ring(memory, shape), QueueMemory(offset, shape.total)

    def _release(self, ring: Ring, offset: int) -> None:
        ring.release()
        self._space.give_back(offset)

    def _create_cq(self, request: CreateCq) -> tuple[bytes, QueueMemory]:
        if not 0 < request.entries <= MAX_COMPLETIONS or request.vector or request.flags:
            refuse()
        ring, memory = self._ring(rxe.completion_shape(request.entries))
        queue = CompletionQueue(ring, memory.offset, request.user, request.channel, self._outlet)
        return uverbs_answers.pack_words(self._add(queue), ring.mask), memory

    def _resize_cq(self, queue: CompletionQueue, entries: int) -> tuple[bytes, bytes]:
        """What is not polled yet moves along; refused when there is no room for it, as by the kernel's rxe."""
        if not 0 < entries <= MAX_COMPLETIONS or entries < queue.ring.waiting():
            refuse()
        ring, memory = self._ring(rxe.completion_shape(entries))
        if not ring.copy_waiting(queue.ring):  # the program has changed its index meanwhile
            self._release(ring, memory.offset)
            refuse()
        self._release(queue.ring, queue.offset)
        queue.ring, queue.offset = ring, memory.offset
        return uverbs_answers.pack_words(ring.mask, 0), memory.pack()

    def _destroy_cq(self, handle: int) -> tuple[int, int]:
        queue = self._get(handle, CompletionQueue)
        if queue.users:
            refuse(errno.EBUSY)
        del self._objects[handle]
        reported = queue.reported()
        self._release(queue.ring, queue.offset)
        return reported

    def _create_qp(self, request: CreateQp) -> tuple[bytes, bytes]:
        r = request
        if r.kind != QpType.RC or r.comp_mask or r.create_flags:
            refuse(errno.EOPNOTSUPP)
        if max(r.max_send_wr, r.max_recv_wr) > MAX_WORK_REQUESTS or r.max_inline > MAX_INLINE_BYTES:
            refuse()
        if max(r.max_send_sge, r.max_recv_sge) > MAX_PIECES:
            refuse()
        pd = self._get(r.pd, Pd)
        send_cq, receive_cq = self._get(r.send_cq, CompletionQueue), self._get(r.recv_cq, CompletionQueue)
        shared = self._get(r.srq, ReceiveQueue) if r.is_srq else None
        receives, receive_memory = (shared, QueueMemory()) if shared is not None else self._receives(r)
        send_sge = max(1, r.max_send_sge)
        sends, send_memory = self._ring(rxe.send_shape(r.max_send_wr, send_sge, r.max_inline))
        caps = QpCaps(
            sends.mask,
            0 if shared is not None else receives.ring.mask,
            send_sge,
            0 if shared is not None else receives.max_pieces,
            max(r.max_inline, rxe.SGE.size * send_sge),
        )
        pair = QueuePair(
            self._verbs,
            pd.domain,
            self._outlet,
            user=r.user,
            send_cq=send_cq,
            receive_cq=receive_cq,
            sends=sends,
            offset=send_memory.offset,
            receives=receives,
            shared=shared is not None,
            caps=caps,
            all_signaled=bool(r.all_signaled),
        )
        handle = self._add(pair)
        self._pds[pair] = pd
        pd.users += 1
        receives.users += 1
        for queue in (send_cq, receive_cq):
            queue.users += 1
        return uverbs_answers.pack_words(handle, pair.number, *caps, 0), receive_memory.pack() + send_memory.pack()

    def _receives(self, request: CreateQp) -> tuple[ReceiveQueue, QueueMemory]:
        pieces = max(1, request.max_recv_sge)
        ring, memory = self._ring(rxe.receive_shape(request.max_recv_wr, pieces))
        return ReceiveQueue(ring, memory.offset, pieces), memory

    def _destroy_qp(self, handle: int) -> int:
        pair = self._get(handle, QueuePair)
        del self._objects[handle]
        reported = pair.destroy()
        for queue in (pair.send_cq, pair.receive_cq):
            queue.users -= 1
        self._pds.pop(pair).users -= 1
        pair.receives.users -= 1
        self._release(pair.sends, pair.offset)
        if not pair.shared:
            self._release(pair.receives.ring, pair.receives.offset)
        return reported

    # ---- shared receive queues

    def _create_srq(self, request: CreateSrq) -> tuple[bytes, bytes]:
        r = request
        if r.kind:
            refuse(errno.EOPNOTSUPP)  # for XRC, or tag matching
        if not 0 < r.max_wr <= MAX_WORK_REQUESTS or r.max_sge > MAX_PIECES or r.limit > r.max_wr:
            refuse()
        pd = self._get(r.pd, Pd)
        pieces = max(1, r.max_sge)
        ring, memory = self._ring(rxe.receive_shape(r.max_wr, pieces))
        srq = ReceiveQueue(ring, memory.offset, pieces, r.limit, r.user)
        handle = self._add(srq)
        self._pds[srq] = pd
        pd.users += 1
        return uverbs_answers.pack_words(handle, ring.mask, pieces, handle), memory.pack() + uverbs_answers.pack_words(
            handle, 0
        )

    def _modify_srq(self, srq: ReceiveQueue, mask: int, limit: int) -> None:
        if mask & SRQ_MAX_WR:
            refuse(errno.EOPNOTSUPP)
        if mask & SRQ_LIMIT:
            if limit > srq.ring.mask:
                refuse()
            srq.limit = limit

    def _destroy_srq(self, handle: int) -> int:
        srq = self._get(handle, ReceiveQueue)
        if srq.users:
            refuse(errno.EBUSY)
        del self._objects[handle]
        self._pds.pop(srq).users -= 1
        reported = srq.events - self._outlet.retract_asynchronous(srq.user)
        self._release(srq.ring, srq.offset)
        return reported
