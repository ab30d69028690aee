"""Programs without processes: what a library writes into rings, and contexts on a subnet of two adapters."""

from __future__ import annotations

from random import Random
from typing import Any

from ibbond.fabric.hca import Hca
from ibbond.fabric.subnet import Subnet
from ibbond.verbs.generation import Generation
from ibbond.verbs.memory import BufferMemory, Memory
from ibbond.verbs.timing import Timing
from ibbond.verbs_objects.context import Context
from ibbond.wire import rxe
from ibbond.wire.rxe import PRODUCER, ReceiveRequest, Ring, RingShape, SendRequest, Sge, WorkCompletion
from ibbond.wire.uverbs import (
    AllocPd,
    AsyncEvent,
    CreateCq,
    CreateQp,
    CreateSrq,
    Envelope,
    ModifyQp,
    Path,
    QpMask,
    QpState,
    QpType,
    RegMr,
    Request,
)

M = QpMask
ACCESS = 0xF
BYTES = 1 << 16
NOTHING = ModifyQp(Path(), Path(), *[0] * 23)
ROOM = Envelope(1, 4096, 64, False)


class NetNamespace:
    """Queue memory that is a bytearray for each queue."""

    def __init__(self) -> None:
        self.taken: dict[int, bytearray] = {}
        self._next = 0

    def take(self, size: int) -> tuple[int, memoryview]:
        offset, self._next = self._next, self._next + size
        self.taken[offset] = bytearray(size)
        return offset, memoryview(self.taken[offset])

    def give_back(self, offset: int) -> None:
        del self.taken[offset]


class Events:
    """An outlet that writes down; `completions` and `others` are not read by anyone."""

    def __init__(self) -> None:
        self.completions: list[tuple[int, int]] = []
        self.others: list[tuple[int, AsyncEvent]] = []

    def completion(self, channel: int, user: int) -> bool:
        self.completions.append((channel, user))
        return True

    def asynchronous(self, element: int, kind: AsyncEvent) -> bool:
        self.others.append((element, kind))
        return True

    def retract_completions(self, channel: int, user: int) -> int:
        before = len(self.completions)
        self.completions = [event for event in self.completions if event != (channel, user)]
        return before - len(self.completions)

    def retract_asynchronous(self, element: int) -> int:
        before = len(self.others)
        self.others = [event for event in self.others if event[0] != element]
        return before - len(self.others)


class Program:
    """A program at one adapter: a context, a domain, 64 KiB of registered memory."""

    def __init__(self, subnet: Subnet, name: str) -> None:
        self.subnet = subnet
        hca = subnet.node(name)
        assert isinstance(hca, Hca)
        self.hca = hca
        self.space, self.events = NetNamespace(), Events()
        self.context = Context(subnet.verbs(hca), self.space, self.events)
        self.memory = bytearray(BYTES)
        (self.pd,) = self.do(AllocPd())
        self.mr, self.key, _ = self.do(RegMr(0, BYTES, 0, self.pd, ACCESS))

    def registered(self, start: int, length: int, *, write: bool) -> Memory:
        return BufferMemory(memoryview(self.memory))

    def do(self, request: Request) -> tuple[int, ...]:
        """The words of the answer."""
        raw = self.context.execute(self, ROOM, request)
        self.subnet.tick(0)
        return tuple(int.from_bytes(raw[at : at + 4], "little") for at in range(0, len(raw), 4))

    def cq(self, entries: int = 16, *, user: int = 1, channel: int = -1) -> Cq:
        return Cq(self, *self.do(CreateCq(user, entries, 0, channel)))

    def qp(self, cq: Cq, **settings: Any) -> Qp:
        fields: dict[str, Any] = {
            "user": 7, "pd": self.pd, "send_cq": cq.handle, "recv_cq": cq.handle, "srq": 0, "max_send_wr": 8,
            "max_recv_wr": 8, "max_send_sge": 2, "max_recv_sge": 2, "max_inline": 64, "all_signaled": 0,
            "kind": QpType.RC, "is_srq": 0,
        }  # fmt: skip
        return Qp(self, *self.do(CreateQp(**{**fields, **settings})))

    def srq(self, entries: int, limit: int = 0) -> tuple[int, Ring]:
        handle, _, _, _, offset, *_ = self.do(CreateSrq(9, 0, self.pd, entries, 2, limit))
        return handle, self.map(offset, rxe.receive_shape(entries, 2))

    def map(self, offset: int, shape: RingShape) -> Ring:
        """As a program maps it: the indices stay what they are."""
        memory = memoryview(self.space.taken[offset])
        before = bytes(memory)
        ring = Ring(memory, shape)
        memory[:] = before
        return ring

    def ring(self, qp: Qp) -> None:
        self.context.pair(qp.handle).ring(0)
        self.subnet.tick(0)


class Cq:
    def __init__(self, program: Program, handle: int, entries: int, offset: int, *_: int) -> None:
        self.handle = handle
        self.ring = program.map(offset, rxe.completion_shape(entries))

    def poll(self) -> list[WorkCompletion]:
        found = []
        while self.ring.consumer != self.ring.producer:
            found.append(WorkCompletion.parse(self.ring.data, self.ring.at(self.ring.consumer)))
            self.ring.advance_consumer()
        return found


class Qp:
    def __init__(self, program: Program, handle: int, number: int, *rest: int) -> None:
        self.program, self.handle, self.number = program, handle, number
        sends, receives, send_sge, receive_sge, inline, _, offset, _, _, _, send_offset, *_ = rest
        self.receives = program.map(offset, rxe.receive_shape(receives, receive_sge)) if receives else None
        self.sends = program.map(send_offset, rxe.send_shape(sends, send_sge, inline))

    def receive(self, number: int, *pieces: Sge) -> None:
        assert self.receives is not None
        post(self.receives, rxe.pack_receive(ReceiveRequest(number, pieces)))

    def send(self, *requests: SendRequest) -> None:
        for request in requests:
            post(self.sends, rxe.pack_send(request))
        self.program.ring(self)

    def modify(self, mask: QpMask, **fields: Any) -> None:
        self.program.do(NOTHING._replace(handle=self.handle, mask=int(mask), **fields))

    def connect(self, other: Qp) -> None:
        port = self.program.hca.ports[1]
        there = other.program.hca.ports[1]
        self.modify(M.STATE | M.PKEY_INDEX | M.PORT | M.ACCESS_FLAGS, state=QpState.INIT, port=port.number, access=0xF)
        self.modify(
            M.STATE | M.AV | M.PATH_MTU | M.DEST_QPN | M.RQ_PSN | M.MAX_DEST_RD_ATOMIC | M.MIN_RNR_TIMER,
            state=QpState.RTR, path=Path(lid=there.lid), path_mtu=4, dest_qpn=other.number, rq_psn=5,
            max_dest_rd_atomic=4, min_rnr_timer=1,
        )  # fmt: skip
        self.modify(
            M.STATE | M.TIMEOUT | M.RETRY_COUNT | M.RNR_RETRY | M.SQ_PSN | M.MAX_QP_RD_ATOMIC,
            state=QpState.RTS, timeout=10, retry_count=1, rnr_retry=1, sq_psn=5, max_rd_atomic=4,
        )  # fmt: skip


def post(ring: Ring, element: bytes) -> None:
    at = ring.at(ring.producer)
    ring.data[at : at + len(element)] = element
    ring.words[PRODUCER] = (ring.producer + 1) & ring.mask


def request(number: int, opcode: int, *pieces: Sge, **fields: Any) -> SendRequest:
    values: dict[str, Any] = {
        "number": number, "opcode": opcode, "flags": rxe.SendFlags.SIGNALED, "immediate": bytes(4),
        "length": sum(piece.length for piece in pieces), "pieces": pieces, "inline": b"", "remote_address": 0,
        "remote_key": 0, "compare_add": 0, "swap": 0, "remote_qpn": 0, "remote_qkey": 0, "address_handle": 0,
    }  # fmt: skip
    return SendRequest(**{**values, **fields})


def two_programs() -> tuple[Program, Program]:
    subnet = Subnet(generation=Generation(), random=Random(1), timing=Timing())
    subnet.add_switch("s")
    for number, name in enumerate(("a", "b"), start=1):
        subnet.add_hca(name, 2)
        subnet.connect(f"{name}/1", f"s/{number}")
    subnet.start(0)
    return Program(subnet, "a"), Program(subnet, "b")
