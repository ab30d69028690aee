"""Reliable queue pairs: what arrives, what a dead path does, what keys protect."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest

from ibbond.fabric.events import Cut, MakeLossy, Mend, MessageArrived, Post, SubnetEffect, WorkDone
from ibbond.fabric.reliable import QUEUE
from ibbond.fabric.subnet import Subnet
from ibbond.machine import MS, US
from ibbond.verbs.generation import Generation
from ibbond.verbs.memory import ALL_ACCESS, BufferMemory, Region
from ibbond.verbs.reliable_verbs import Completion, Operation, Peer, Receive, Status, Work
from ibbond.verbs.timing import Timing

A, B = "a/1", "b/1"


@dataclass
class Two:
    """Two adapters at one switch, with a connected pair and 64 KiB of memory each."""

    subnet: Subnet
    now: int = 0
    memory: dict[str, bytearray] = field(default_factory=dict)
    key: dict[str, int] = field(default_factory=dict)
    qpn: dict[str, int] = field(default_factory=dict)
    done: dict[str, list[Completion]] = field(default_factory=lambda: {A: [], B: []})
    handed: dict[str, list[bytes]] = field(default_factory=lambda: {A: [], B: []})

    def take(self, effects: list[SubnetEffect]) -> None:
        for effect in effects:
            if isinstance(effect, WorkDone):
                self.done[effect.port].append(effect.completion)
            elif isinstance(effect, MessageArrived):
                self.handed[effect.port].append(effect.payload)

    def post(self, port: str, request: Work | Receive) -> None:
        self.take(self.subnet.handle(self.now, Post(port, self.qpn[port], request)))

    def run(self, ms: float) -> None:
        end = self.now + round(ms * MS)
        while (at := self.subnet.deadline()) is not None and at <= end:
            self.now = max(self.now, at)
            self.take(self.subnet.tick(self.now))
        self.now = end


def region(memory: bytearray) -> Region:
    return Region(BufferMemory(memoryview(memory)), 0, 0, len(memory), ALL_ACCESS)


def two(
    *,
    timeout: int = 11,
    retry_count: int = 2,
    rnr_retry_count: int = 7,
    timing: Timing | None = None,
    mtu_bytes: tuple[int, int] = (2048, 2048),
) -> Two:
    subnet = Subnet(generation=Generation(), random=Random(1), timing=timing or Timing.simulated())
    subnet.add_switch("s")
    for name, port in (("a", A), ("b", B)):
        subnet.add_hca(name, 1)
        subnet.connect(port, f"s/{1 if port == A else 2}")
    pair = Two(subnet)
    pair.take(subnet.start(0))
    pair.run(100)
    for port in (A, B):
        domain = subnet.new_domain()
        pair.memory[port] = bytearray(1 << 16)
        pair.key[port] = domain.register(region(pair.memory[port]))
        pair.qpn[port] = subnet.create_reliable(port, domain)
    for port, other, mtu in ((A, B, mtu_bytes[0]), (B, A, mtu_bytes[1])):
        lid = subnet.port(other).lid
        peer = Peer(lid, pair.qpn[other], 0xFFFFFE, 0xFFFFFE, mtu, timeout, retry_count, rnr_retry_count)
        subnet.connect_reliable(port, pair.qpn[port], peer)
    return pair


def test_send_write_and_read_move_the_bytes() -> None:
    pair = two()
    pair.memory[A][:5000] = bytes(range(250)) * 20
    pair.post(B, Receive(1, pair.key[B], 0, 5000))
    pair.post(A, Work(2, Operation.SEND, pair.key[A], 0, 5000))
    pair.post(A, Work(3, Operation.WRITE, pair.key[A], 0, 5000, pair.key[B], 10_000))
    pair.post(A, Work(4, Operation.READ, pair.key[A], 20_000, 5000, pair.key[B], 10_000))
    pair.run(1)
    sent = bytes(range(250)) * 20
    assert pair.memory[B][:5000] == pair.memory[B][10_000:15_000] == pair.memory[A][20_000:25_000] == sent
    assert [(each.number, each.status) for each in pair.done[A]] == [(n, Status.SUCCESS) for n in (2, 3, 4)]
    assert pair.done[B] == [Completion(1, Operation.RECEIVE, Status.SUCCESS, 5000)]


@pytest.mark.parametrize("mtu_bytes", [(256, 4096), (4096, 256)])
def test_a_read_uses_as_many_numbers_at_both_ends(mtu_bytes: tuple[int, int]) -> None:
    """Even where the ends were notified different MTUs."""
    pair = two(mtu_bytes=mtu_bytes)
    pair.post(B, Receive(1, pair.key[B], 0, 64))
    pair.post(A, Work(2, Operation.READ, pair.key[A], 0, 5000, pair.key[B], 10_000))
    pair.post(A, Work(3, Operation.SEND, inline=b"x"))
    pair.run(1)
    assert [(each.number, each.status) for each in pair.done[A]] == [(2, Status.SUCCESS), (3, Status.SUCCESS)]
    assert [each.number for each in pair.done[B]] == [1]


def test_a_dead_port_is_retry_exceeded_after_the_stated_time_and_the_rest_is_flushed() -> None:
    pair = two(timeout=11, retry_count=2)
    pair.take(pair.subnet.handle(pair.now, Cut(A)))
    pair.post(A, Receive(9, pair.key[A], 0, 64))
    pair.post(A, Work(1, Operation.SEND, inline=b"x"))
    pair.post(A, Work(2, Operation.SEND, inline=b"y"))
    limit = 3 * (4096 << 11) / MS
    pair.run(limit - 0.1)
    assert pair.done[A] == []
    pair.run(0.2)
    assert [(each.number, each.status) for each in pair.done[A]] == [
        (1, Status.RETRY_EXCEEDED),
        (2, Status.FLUSHED),
        (9, Status.FLUSHED),
    ]
    pair.post(A, Work(3, Operation.SEND, inline=b"z"))
    assert pair.done[A][-1].status is Status.FLUSHED


def test_a_cable_that_comes_back_in_time_costs_nothing_but_time() -> None:
    pair = two(timeout=14, retry_count=7)
    for number in range(4):
        pair.post(B, Receive(number, pair.key[B], number * 64, 64))
    pair.take(pair.subnet.handle(pair.now, Cut(A)))
    pair.post(A, Work(1, Operation.SEND, inline=b"x"))
    pair.run(20)
    pair.take(pair.subnet.handle(pair.now, Mend(A)))
    pair.run(500)
    assert [each.status for each in pair.done[A]] == [Status.SUCCESS]
    assert [each.number for each in pair.done[B]] == [0]


def test_a_lossy_cable_repeats_but_delivers_once_and_in_order() -> None:
    pair = two(timeout=8, retry_count=7)
    pair.take(pair.subnet.handle(pair.now, MakeLossy(A, 0.2)))
    for number in range(100):
        pair.post(B, Receive(number, pair.key[B], number * 8, 8))
    for number in range(100):
        pair.post(A, Work(number, Operation.SEND, inline=number.to_bytes(8)))
    pair.run(2000)
    assert [each.number for each in pair.done[B] if each.status is Status.SUCCESS] == list(range(100))
    assert [int.from_bytes(pair.memory[B][n * 8 : n * 8 + 8]) for n in range(100)] == list(range(100))


def test_a_wrong_key_or_range_touches_nothing_and_ends_the_connection() -> None:
    for key_off, offset in ((1, 0), (0, (1 << 16) - 10)):
        pair = two()
        pair.memory[A][:64] = b"x" * 64
        pair.post(A, Work(1, Operation.WRITE, pair.key[A], 0, 64, pair.key[B] + key_off, offset))
        pair.run(1)
        assert [each.status for each in pair.done[A]] == [Status.REMOTE_ACCESS]
        assert not any(pair.memory[B])


def test_what_went_before_a_wrong_key_of_ours_ends_first() -> None:
    """Its turn comes when all before it is over; what comes after it has never left."""
    pair = two()
    for number in range(4):
        pair.post(B, Receive(number, pair.key[B], number * 64, 64))
    pair.post(A, Work(0, Operation.SEND, inline=b"first"))
    pair.post(A, Work(1, Operation.READ, pair.key[A], 0, 64, pair.key[B], 0))
    pair.post(A, Work(2, Operation.SEND, pair.key[A] + 1, 0, 64))
    pair.post(A, Work(3, Operation.SEND, inline=b"behind"))
    assert pair.done[A] == []
    pair.run(1)
    assert [(each.number, each.status) for each in pair.done[A]] == [
        (0, Status.SUCCESS),
        (1, Status.SUCCESS),
        (2, Status.LOCAL_PROTECTION),
        (3, Status.FLUSHED),
    ]
    assert [each.number for each in pair.done[B]] == [0]


def test_a_wrong_key_of_ours_waits_for_those_before_it_that_fail() -> None:
    pair = two(timeout=11, retry_count=2)
    pair.take(pair.subnet.handle(pair.now, Cut(B)))
    pair.post(A, Work(0, Operation.SEND, inline=b"first"))
    pair.post(A, Work(1, Operation.SEND, pair.key[A] + 1, 0, 64))
    pair.run(100)
    assert [(each.number, each.status) for each in pair.done[A]] == [(0, Status.RETRY_EXCEEDED), (1, Status.FLUSHED)]


def test_memory_that_goes_while_it_is_repeated_fails_in_its_turn() -> None:
    pair = two(timeout=11, retry_count=7)
    domain = pair.subnet.new_domain()
    key = domain.register(region(bytearray(64)))
    pair.subnet.destroy_queue_pair(A, pair.qpn[A])
    pair.qpn[A] = pair.subnet.create_reliable(A, domain)
    pair.subnet.connect_reliable(A, pair.qpn[A], Peer(pair.subnet.port(B).lid, pair.qpn[B], 5, 5, 2048, 11, 7))
    pair.take(pair.subnet.handle(pair.now, Cut(B)))
    pair.post(A, Work(0, Operation.SEND, key, 0, 64))
    pair.run(1)
    domain.deregister(key)
    pair.run(100)
    assert [(each.number, each.status) for each in pair.done[A]] == [(0, Status.LOCAL_PROTECTION)]


def test_a_wrong_key_of_the_receivers_is_a_fault_at_its_end() -> None:
    pair = two()
    pair.post(B, Receive(1, pair.key[B] + 1, 0, 64))
    pair.post(A, Work(2, Operation.SEND, inline=b"x"))
    pair.run(1)
    assert [each.status for each in pair.done[B]] == [Status.LOCAL_PROTECTION]
    assert [each.status for each in pair.done[A]] == [Status.REMOTE_OPERATION]


def test_a_message_longer_than_the_room_is_an_invalid_request() -> None:
    pair = two()
    pair.post(B, Receive(1, pair.key[B], 0, 1))
    pair.post(A, Work(2, Operation.SEND, inline=b"xy"))
    pair.run(1)
    assert [each.status for each in pair.done[B]] == [Status.LOCAL_LENGTH]
    assert [each.status for each in pair.done[A]] == [Status.REMOTE_INVALID_REQUEST]


def test_no_bytes_need_no_key() -> None:
    pair = two()
    pair.post(B, Receive(9, 1, 0, 64))
    for number, operation in enumerate((Operation.WRITE, Operation.READ, Operation.SEND)):
        pair.post(A, Work(number, operation, key=1, remote_key=1, remote_offset=1 << 40))
    pair.run(1)
    assert [(each.number, each.status) for each in pair.done[A]] == [(n, Status.SUCCESS) for n in range(3)]
    assert pair.done[B] == [Completion(9, Operation.RECEIVE, Status.SUCCESS, 0)]


TIMINGS = pytest.mark.parametrize("timing", [Timing.simulated(), Timing.live()], ids=["simulated", "live"])


@TIMINGS
@pytest.mark.parametrize("sends", [1, 2, 5])
def test_a_receiver_that_is_not_ready_is_waited_for_as_often_as_was_said(sends: int, timing: Timing) -> None:
    pair = two(rnr_retry_count=2, timing=timing)
    for number in range(sends):
        pair.post(A, Work(number, Operation.SEND, inline=b"x"))
    pair.run(2.5)
    assert pair.done[A] == []
    pair.run(0.2)
    assert [each.status for each in pair.done[A]] == [Status.RNR_RETRY_EXCEEDED] + [Status.FLUSHED] * (sends - 1)
    patient = two(rnr_retry_count=7, timing=timing)
    for number in range(sends):
        patient.post(A, Work(number, Operation.SEND, inline=b"x"))
    patient.run(20)
    for number in range(sends):
        patient.post(B, Receive(number, patient.key[B], 0, 8))
    patient.run(5)
    assert [(each.number, each.status) for each in patient.done[A]] == [(n, Status.SUCCESS) for n in range(sends)]


@TIMINGS
def test_room_for_some_of_the_messages_lets_the_rest_wait(timing: Timing) -> None:
    pair = two(timing=timing)
    for number in range(3):
        pair.post(A, Work(number, Operation.SEND, inline=b"x"))
    pair.post(B, Receive(7, pair.key[B], 0, 8))
    pair.run(1.5)
    assert [(each.number, each.status) for each in pair.done[A]] == [(0, Status.SUCCESS)]
    for number in (8, 9):
        pair.post(B, Receive(number, pair.key[B], 0, 8))
    pair.run(1.5)
    assert [each.status for each in pair.done[A]] == [Status.SUCCESS] * 3
    assert [each.number for each in pair.done[B]] == [7, 8, 9]


def test_an_acknowledgment_during_the_pause_ends_no_pause_and_strands_nothing() -> None:
    """The timer was faster than the path: the first copy finds no room, the second one does."""
    pair = two(timeout=1, rnr_retry_count=1, timing=Timing(hop_ns=6 * US))
    pair.post(A, Work(0, Operation.SEND, inline=b"x"))
    pair.run(0.014)
    pair.post(B, Receive(0, pair.key[B], 0, 8))
    pair.run(0.04)
    assert [each.status for each in pair.done[A]] == [Status.SUCCESS]
    pair.post(A, Work(1, Operation.SEND, inline=b"y"))
    pair.post(B, Receive(1, pair.key[B], 0, 8))
    pair.run(0.5)
    assert len(pair.done[A]) == 1
    pair.run(1)
    assert [each.status for each in pair.done[A]] == [Status.SUCCESS] * 2


def driven(**settings: Any) -> Two:
    """Both queue pairs are a driver's, as IPoIB's are: no memory, messages handed up."""
    pair = two(**settings)
    for port in (A, B):
        pair.subnet.destroy_queue_pair(port, pair.qpn[port])
        pair.qpn[port] = pair.subnet.create_reliable(port, None)
    for port, other in ((A, B), (B, A)):
        lid = pair.subnet.port(other).lid
        peer = Peer(lid, pair.qpn[other], 5, 5, 2048, 11, settings.get("retry_count", 2))
        pair.subnet.connect_reliable(port, pair.qpn[port], peer)
    return pair


def message(payload: bytes) -> Work:
    return Work(0, Operation.SEND, inline=payload, signaled=False)


def test_a_drivers_messages_are_handed_up_whole_and_success_is_not_reported() -> None:
    pair = driven()
    for payload in (b"small", bytes(65524)):
        pair.post(A, message(payload))
    pair.run(1)
    assert pair.handed[B] == [b"small", bytes(65524)]
    assert pair.done == {A: [], B: []}
    assert pair.subnet.carries(A, pair.qpn[A], B, pair.qpn[B])
    assert not pair.subnet.carries(A, pair.qpn[A], B, pair.qpn[B] + 1)


def test_a_drivers_memory_cannot_be_written() -> None:
    pair = driven()
    pair.post(A, Work(1, Operation.WRITE, inline=b"x", remote_key=0x1300))
    pair.run(1)
    assert [each.status for each in pair.done[A]] == [Status.REMOTE_ACCESS]
    assert pair.handed[B] == []


def test_a_driver_learns_of_every_message_that_was_lost_and_of_no_room() -> None:
    pair = driven(retry_count=0)
    pair.take(pair.subnet.handle(pair.now, Cut(B)))
    posted = 0
    while pair.subnet.has_room(A, pair.qpn[A]):
        pair.post(A, message(b"x"))
        posted += 1
    assert posted == QUEUE
    assert not pair.subnet.carries(A, pair.qpn[A], B, pair.qpn[B]), "a flow would overtake what waits"
    pair.run(100)
    assert [each.status for each in pair.done[A]] == [Status.RETRY_EXCEEDED] + [Status.FLUSHED] * (QUEUE - 1)
    pair.subnet.destroy_queue_pair(A, pair.qpn[A])
    pair.post(A, message(b"late"))
    assert not pair.subnet.has_room(A, pair.qpn[A])


def test_repeated_messages_are_handed_up_once() -> None:
    pair = driven(retry_count=7)
    pair.take(pair.subnet.handle(pair.now, MakeLossy(A, 0.2)))
    sent = [number.to_bytes(4) for number in range(100)]
    for payload in sent:
        pair.post(A, message(payload))
    pair.run(5000)
    assert pair.handed[B] == sent
