"""Objects of an open device: what they do, what they refuse, and that nothing a program writes disturbs another."""

from __future__ import annotations

import errno
import itertools
from random import Random
from typing import Any, get_args

import pytest

from ibbond.fabric.events import KillAdapter, SetPkeys
from ibbond.verbs.reliable_verbs import PairEvent
from ibbond.verbs.verbs import PortEventKind
from ibbond.verbs_objects.queue_pair import CHANGES
from ibbond.wire import rxe, uverbs
from ibbond.wire.rxe import PRODUCER, ReceiveRequest, SendOpcode, Sge
from ibbond.wire.rxe import CompletionStatus as S
from ibbond.wire.uverbs import (
    AsyncEvent,
    CreateCq,
    CreateQp,
    DeallocPd,
    DeregMr,
    DestroyCq,
    DestroyQp,
    DestroySrq,
    ModifyQp,
    QpMask,
    QpState,
    QpType,
    QueryQp,
    RegMr,
    ReqNotifyCq,
    ResizeCq,
)
from tests.verbs_objects.programs import BYTES, NOTHING, ROOM, Cq, Program, Qp, post, request, two_programs


def pair(**settings: Any) -> tuple[Program, Program, Qp, Qp]:
    a, b = two_programs()
    qa, qb = a.qp(a.cq(), **settings), b.qp(b.cq(), **settings)
    qa.connect(qb)
    qb.connect(qa)
    return a, b, qa, qb


def errno_of(program: Program, what: Any) -> int:
    with pytest.raises(OSError) as caught:  # noqa: PT011
        program.do(what)
    assert caught.value.errno is not None
    return caught.value.errno


def test_what_is_sent_arrives_and_both_are_notified() -> None:
    a, b = two_programs()
    ca, cb = a.cq(), b.cq()
    qa, qb = a.qp(ca), b.qp(cb)
    qa.connect(qb)
    qb.connect(qa)
    a.memory[:100] = bytes(range(100))
    qb.receive(11, Sge(1000, 60, b.key), Sge(3000, 60, b.key))
    qa.send(request(22, SendOpcode.SEND_IMM, Sge(0, 40, a.key), Sge(50, 50, a.key), immediate=b"data"))
    (sent,), (received,) = ca.poll(), cb.poll()
    assert (sent.number, sent.status, sent.opcode, sent.length) == (22, S.SUCCESS, rxe.CompletionOpcode.SEND, 90)
    assert (received.number, received.length, received.immediate, received.flags) == (11, 90, b"data", 2)
    assert received.qpn == qb.number
    assert b.memory[1000:1060] == bytes(range(40)) + bytes(range(50, 70))
    assert b.memory[3000:3030] == bytes(range(70, 100))


def test_rdma_and_atomics_reach_by_key() -> None:
    a, b, qa, _ = pair()
    a.memory[:8] = b"written!"
    b.memory[64:72] = (5).to_bytes(8, "little")
    qa.send(
        request(1, SendOpcode.WRITE, Sge(0, 8, a.key), remote_address=8, remote_key=b.key),
        request(2, SendOpcode.READ, Sge(100, 8, a.key), remote_address=8, remote_key=b.key),
        request(3, SendOpcode.FETCH_ADD, Sge(200, 8, a.key), remote_address=64, remote_key=b.key, compare_add=7),
        request(
            4, SendOpcode.COMPARE_SWAP, Sge(208, 8, a.key), remote_address=64, remote_key=b.key, compare_add=12, swap=99
        ),
    )
    assert b.memory[8:16] == a.memory[100:108] == b"written!"
    assert int.from_bytes(a.memory[200:208], "little") == 5
    assert int.from_bytes(a.memory[208:216], "little") == 12
    assert int.from_bytes(b.memory[64:72], "little") == 99


def test_a_deregistered_key_reaches_nothing() -> None:
    a, b, qa, qb = pair()
    b.do(DeregMr(b.mr))
    qa.send(request(1, SendOpcode.WRITE, Sge(0, 8, a.key), remote_address=8, remote_key=b.key))
    assert not any(b.memory)
    assert b.context.pair(qb.handle).state is QpState.ERR
    assert b.events.others == [(7, AsyncEvent.QP_ACCESS_ERR)]


def test_keys_do_not_follow_one_another() -> None:
    a, _ = two_programs()
    keys = [a.do(RegMr(0, BYTES, 0, a.pd, 1))[1] for _ in range(50)]
    steps = {after - before for before, after in itertools.pairwise(keys)}
    assert len(steps) > 45


def test_a_key_is_worth_nothing_in_another_domain() -> None:
    a, b, qa, _ = pair()
    (other,) = b.do(uverbs.AllocPd())
    _, key, _ = b.do(RegMr(0, BYTES, 0, other, 0xF))
    a.memory[:8] = b"intruder"
    qa.send(request(1, SendOpcode.WRITE, Sge(0, 8, a.key), remote_address=8, remote_key=key))
    assert not any(b.memory)


def test_events_are_reported_once_for_each_request() -> None:
    a, b = two_programs()
    cb = b.cq(user=77, channel=5)
    qa, qb = a.qp(a.cq()), b.qp(cb)
    qa.connect(qb)
    qb.connect(qa)
    for number in range(4):
        qb.receive(number, Sge(0, 8, b.key))
    send = request(1, SendOpcode.SEND, Sge(0, 8, a.key))
    qa.send(send)
    assert b.events.completions == []
    b.do(ReqNotifyCq(cb.handle, 0))
    qa.send(send, send)
    assert b.events.completions == [(5, 77)]
    b.do(ReqNotifyCq(cb.handle, 1))
    qa.send(send)
    assert b.events.completions == [(5, 77)], "that one was not solicited"
    qb.receive(9, Sge(0, 8, b.key))
    qa.send(send._replace(flags=rxe.SendFlags.SIGNALED | rxe.SendFlags.SOLICITED))
    assert b.events.completions == [(5, 77)] * 2


def test_what_is_used_is_busy_and_reports_what_was_read() -> None:
    a, _ = two_programs()
    cq = a.cq(user=1, channel=5)
    qp = a.qp(cq)
    assert errno_of(a, DestroyCq(cq.handle)) == errno.EBUSY
    assert errno_of(a, DeallocPd(a.pd)) == errno.EBUSY
    a.context.pair(qp.handle).raised(PairEvent.ESTABLISHED)
    assert a.do(DestroyQp(qp.handle)) == (0,), "it is not read"
    assert errno_of(a, DestroyQp(qp.handle)) == errno.EINVAL
    assert a.do(DestroyCq(cq.handle)) == (0, 0)
    assert errno_of(a, DeallocPd(a.pd)) == errno.EBUSY
    a.do(DeregMr(a.mr))
    a.do(DeallocPd(a.pd))
    assert a.space.taken == {}


@pytest.mark.parametrize("before", [QpState.RESET, QpState.INIT, QpState.RTR, QpState.RTS, QpState.ERR])
@pytest.mark.parametrize("after", list(QpState))
def test_states_change_as_the_table_says(before: QpState, after: QpState) -> None:
    a, _ = two_programs()
    qp = a.qp(a.cq())
    common = {"port": 1, "access": 1, "path_mtu": 4, "path": uverbs.Path(lid=1)}
    way = {
        QpState.RESET: (), QpState.INIT: (QpState.INIT,), QpState.RTR: (QpState.INIT, QpState.RTR),
        QpState.RTS: (QpState.INIT, QpState.RTR, QpState.RTS), QpState.ERR: (QpState.ERR,),
    }[before]  # fmt: skip
    now = QpState.RESET
    for step in way:
        needed = CHANGES.get((now, step), (QpMask(0), QpMask(0)))[0]
        qp.modify(QpMask.STATE | needed, state=step, **common)
        now = step
    needed, _ = CHANGES.get((before, after), (QpMask(0), QpMask(0)))
    possible = (before, after) in CHANGES or after in (QpState.RESET, QpState.ERR)
    try:
        qp.modify(QpMask.STATE | needed, state=after, **common)
    except OSError:
        assert not possible
    else:
        assert possible
    assert a.context.pair(qp.handle).state is (after if possible else before)
    if needed:
        missing = next(bit for bit in QpMask if needed & bit)
        again = a.qp(a.cq())
        with pytest.raises(OSError):  # noqa: PT011
            again.modify(QpMask.STATE | (needed & ~missing), state=after, **common)


def test_a_queue_that_overruns_is_in_error_and_takes_its_queue_pair_along() -> None:
    a, b = two_programs()
    ca = a.cq(3, user=33)
    qa, qb = a.qp(ca), b.qp(b.cq())
    qa.connect(qb)
    qb.connect(qa)
    for number in range(5):
        qb.receive(number, Sge(0, 8, b.key))
    qa.send(*(request(number, SendOpcode.SEND, Sge(0, 8, a.key)) for number in range(5)))
    assert (33, AsyncEvent.CQ_ERR) in a.events.others
    assert a.context.pair(qa.handle).state is QpState.ERR
    assert len(ca.poll()) == 3


def test_a_resized_queue_keeps_what_is_not_polled_and_has_the_new_room() -> None:
    a, b = two_programs()
    ca = a.cq(3, user=33)
    qa, qb = a.qp(ca), b.qp(b.cq())
    qa.connect(qb)
    qb.connect(qa)
    for number in range(8):
        qb.receive(number, Sge(0, 8, b.key))
    qa.send(*(request(number, SendOpcode.SEND, Sge(0, 8, a.key)) for number in range(2)))
    assert [done.number for done in ca.poll()] == [0, 1]
    qa.send(*(request(number, SendOpcode.SEND, Sge(0, 8, a.key)) for number in range(2, 5)))
    queues = len(a.space.taken)
    assert errno_of(a, ResizeCq(ca.handle, 2)) == errno.EINVAL, "three wait"
    larger = Cq(a, ca.handle, *resized(a, ca, 7))
    assert len(a.space.taken) == queues
    qa.send(*(request(number, SendOpcode.SEND, Sge(0, 8, a.key)) for number in range(5, 7)))
    assert [done.number for done in larger.poll()] == [2, 3, 4, 5, 6]
    smaller = Cq(a, ca.handle, *resized(a, ca, 1))
    qa.send(request(7, SendOpcode.SEND, Sge(0, 8, a.key)))
    assert [done.number for done in smaller.poll()] == [7]
    assert a.events.others == []


def resized(program: Program, cq: Cq, entries: int) -> tuple[int, int]:
    """Entries as made, and where the queue is."""
    made, _, offset, *_ = program.do(ResizeCq(cq.handle, entries))
    return made, offset


@pytest.mark.parametrize(
    ("number", "extended"),
    [
        (10, False), (14, False), (15, False), (16, False), (37, False), (38, False), (40, False),
        (50, True), (51, True), (52, True), (53, True), (54, True), (55, True), (56, True), (61, True),
    ],
)  # fmt: skip
def test_memory_windows_xrc_flow_steering_and_work_queues_are_not_supported(number: int, extended: bool) -> None:
    a, _ = two_programs()
    _, refused = uverbs.parse((number | (uverbs.EXTENDED if extended else 0)).to_bytes(4, "little") + bytes(200))
    assert errno_of(a, refused) == errno.EOPNOTSUPP


def test_receives_of_a_queue_pair_in_error_come_back() -> None:
    a, b = two_programs()
    cb = b.cq()
    qb = b.qp(cb)
    qb.modify(QpMask.STATE, state=QpState.ERR)
    qb.receive(4, Sge(0, 8, b.key))
    assert cb.poll() == []
    b.context.flush_failed(0)
    assert [(done.number, done.status) for done in cb.poll()] == [(4, S.WR_FLUSH_ERR)]
    assert a.events.others == []


def test_a_shared_receive_queue_serves_several_and_tells_when_it_runs_low() -> None:
    a, b = two_programs()
    srq, ring = b.srq(7, limit=2)
    cb = b.cq()
    ends = []
    for _ in range(2):
        qa, qb = a.qp(a.cq()), b.qp(cb, srq=srq, is_srq=1)
        qa.connect(qb)
        qb.connect(qa)
        ends.append(qa)
    for number in range(3):
        post(ring, rxe.pack_receive(ReceiveRequest(number, (Sge(number * 8, 8, b.key),))))
    assert errno_of(b, DestroySrq(srq)) == errno.EBUSY
    ends[0].send(request(1, SendOpcode.SEND, Sge(0, 8, a.key)))
    assert b.events.others == []
    ends[1].send(request(1, SendOpcode.SEND, Sge(0, 8, a.key)))
    assert b.events.others == [(9, AsyncEvent.SRQ_LIMIT_REACHED)]
    assert [done.number for done in cb.poll()] == [0, 1]


def test_the_pkey_is_that_of_the_index_when_the_table_changes() -> None:
    a, b, qa, qb = pair()
    for program in (a, b):
        port = program.hca.ports[1]
        a.subnet.handle(0, SetPkeys(port.name, (0x8005,)))
        program.context.port_event(port, PortEventKind.PKEY_CHANGE)
        assert (1, AsyncEvent.PKEY_CHANGE) in program.events.others
    qb.receive(1, Sge(0, 8, b.key))
    qa.send(request(1, SendOpcode.SEND, Sge(0, 8, a.key)))
    assert a.context.pair(qa.handle).state is QpState.RTS
    assert b.context.pair(qb.handle).receives.left() == 0


def test_a_pulled_adapter_is_fatal_and_lets_its_programs_clean_up() -> None:
    a, _, qa, _ = pair()
    qa.receive(5, Sge(0, 8, a.key))
    a.subnet.handle(0, KillAdapter("a"))
    a.context.port_event(a.hca.ports[1], PortEventKind.DEVICE_FATAL)
    a.context.port_event(a.hca.ports[2], PortEventKind.DEVICE_FATAL)
    assert [kind for _, kind in a.events.others] == [AsyncEvent.DEVICE_FATAL]
    assert errno_of(a, uverbs.AllocPd()) == errno.EIO
    a.do(DestroyQp(qa.handle))
    a.do(DeregMr(a.mr))


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (CreateCq(1, 0, 0, -1), errno.EINVAL),
        (CreateCq(1, 1 << 30, 0, -1), errno.EINVAL),
        (CreateCq(1, 8, 3, -1), errno.EINVAL),
        (ResizeCq(77, 8), errno.EINVAL),
        (QueryQp(12345, 0), errno.EINVAL),
        (uverbs.Unknown(99, False), errno.EOPNOTSUPP),
        (uverbs.PostSend(1), errno.EINVAL),
        (RegMr(1 << 63, 1 << 63, 1 << 63, 1, 1), errno.EINVAL),
        (RegMr(0, 0, 0, 1, 1), errno.EINVAL),
        (RegMr(0, 64, 1, 1, 1), errno.EINVAL),
        (RegMr(0, 64, 0, 1, 2), errno.EINVAL),
        (RegMr(0, 64, 0, 2, 1), errno.EINVAL),
        (CreateQp(1, 1, 1, 1, 0, 1, 1, 1, 1, 0, 0, QpType.UC, 0), errno.EOPNOTSUPP),
    ],
)
def test_what_cannot_be_is_refused(request_: Any, code: int) -> None:
    a, _ = two_programs()
    assert errno_of(a, request_) == code


@pytest.mark.parametrize("seed", range(40))
def test_garbage_in_one_program_does_not_disturb_two_others(seed: int) -> None:
    """Commands with any numbers, rings written over: OSError is the worst, and only its own queue pairs fail."""
    random = Random(seed)
    a, b, qa, qb = pair()
    bad = Program(a.subnet, "a")
    mine = bad.qp(bad.cq())
    mine.connect(qb)
    requests = list(get_args(uverbs.Request))
    for _ in range(150):
        if bad.space.taken and random.random() < 0.3:
            queue = random.choice(list(bad.space.taken.values()))
            at = random.randrange(len(queue))
            queue[at : at + 8] = random.randbytes(len(queue[at : at + 8]))
            if random.random() < 0.5:
                mine.sends.words[PRODUCER] = random.getrandbits(32)
        kind = random.choice(requests)
        values = [
            random.choice((0, 1, 2, 3, 4, 5, random.getrandbits(8), random.getrandbits(32))) for _ in kind._fields
        ]
        made = kind(*values)
        if kind is ModifyQp:
            made = NOTHING._replace(handle=random.randrange(6), mask=random.getrandbits(21), state=random.randrange(9))
        elif kind is uverbs.CreateAh:
            continue
        try:
            bad.context.execute(bad, ROOM, made)
            bad.context.pair(random.randrange(8)).ring(0)
        except OSError:
            pass
        bad.subnet.tick(0)
        bad.context.flush_failed(0)
    qb.receive(1, Sge(0, 8, b.key))
    a.memory[:8] = b"untouchd"
    qa.send(request(1, SendOpcode.SEND, Sge(0, 8, a.key)))
    assert b.memory[:8] == b"untouchd"
    assert not any(b.memory[8:])
    bad.context.close()
    assert set(bad.hca.queue_pairs) == {qa.number}
