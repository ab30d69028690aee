"""The short way of reliable queue pairs does what the long way does: one script, two worlds, all facts compared."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import pytest

from ibbond.fabric.events import Cut, MakeLossy, Mend, SetPkeys
from ibbond.fabric.subnet import Subnet
from ibbond.machine import MS
from ibbond.verbs.generation import Generation
from ibbond.verbs.memory import Access, BufferMemory, Region
from ibbond.verbs.reliable_verbs import (
    Arrival,
    Operation,
    PairEvent,
    Peer,
    ReceiveRequest,
    SendRequest,
    Status,
)
from ibbond.verbs.timing import Timing
from ibbond.wire.rxe import Sge

A, B = "a/1", "b/1"
BYTES = 1 << 15
PSN_HALF = (
    BYTES // 2
)  # what is read and sent is below, what is written and received is above: with overlaps all is allowed
START = 0x7000
RIGHTS = int(Access.LOCAL_WRITE | Access.REMOTE_WRITE | Access.REMOTE_READ | Access.REMOTE_ATOMIC)


class Listed:
    """Queues that are lists here, and write down what is over."""

    def __init__(self) -> None:
        self.sends: deque[SendRequest] = deque()
        self.receives: deque[ReceiveRequest] = deque()
        self.log: list[tuple[Any, ...]] = []

    def next_send(self) -> SendRequest | None:
        return self.sends.popleft() if self.sends else None

    def next_receive(self) -> ReceiveRequest | None:
        return self.receives.popleft() if self.receives else None

    def left_receives(self) -> Iterator[ReceiveRequest]:
        while self.receives:
            yield self.receives.popleft()

    def sent(self, request: SendRequest, status: Status) -> None:
        self.log.append(("sent", request.number, status))

    def received(self, request: ReceiveRequest, status: Status, arrival: Arrival) -> None:
        self.log.append(("received", request.number, status, arrival))

    def raised(self, event: PairEvent) -> None:
        self.log.append(("raised", event))


class World:
    """Two adapters at one switch, a connected queue pair at each; captured all the time, nothing goes the short way."""

    def __init__(self, *, captured: bool) -> None:
        self.now = 0
        self.subnet = Subnet(generation=Generation(), random=Random(1), timing=Timing())
        self.subnet.add_switch("s")
        for name, port in (("a", A), ("b", B)):
            self.subnet.add_hca(name, 1)
            self.subnet.connect(port, f"s/{1 if port == A else 2}")
        self.subnet.start(0)
        self.queues = {A: Listed(), B: Listed()}
        self.memory = {port: bytearray(range(256)) * (BYTES // 256) for port in (A, B)}
        self.domain = {port: self.subnet.new_domain() for port in (A, B)}
        self.key: dict[str, int] = {}
        self.qpn: dict[str, int] = {}
        for port in (A, B):
            self.register(port)
            verbs = self.subnet.verbs(self.subnet.port(port).node)  # type: ignore[arg-type]
            self.qpn[port] = verbs.create(self.domain[port], self.queues[port])
            self.ring = {**getattr(self, "ring", {}), port: functools.partial(verbs.ring, qpn=self.qpn[port])}
        for port, other in ((A, B), (B, A)):
            peer = Peer(
                self.subnet.port(other).lid, self.qpn[other], 0xFFFFFE, 0xFFFFFE, 1024, timeout=10, retry_count=1,
                rnr_retry_count=1, rnr_timer=1,
            )  # fmt: skip
            self.subnet.connect_reliable(port, self.qpn[port], peer)
        if captured:
            for port in (A, B):
                self.subnet.mirror(port, True)

    def register(self, port: str) -> None:
        region = Region(BufferMemory(memoryview(self.memory[port])), 0, START, BYTES, RIGHTS)
        self.key[port] = self.domain[port].register(region)

    def post(self, port: str, *requests: SendRequest) -> None:
        self.queues[port].sends.extend(requests)
        self.ring[port](self.now)
        self.subnet.tick(self.now)

    def wait(self, ns: int) -> None:
        end = self.now + ns
        while (at := self.subnet.deadline()) is not None and at <= end:
            self.now = max(self.now, at)
            self.subnet.tick(self.now)
        self.now = end

    def facts(self) -> dict[str, Any]:
        verbs = {port: self.subnet.verbs(self.subnet.port(port).node) for port in (A, B)}  # type: ignore[arg-type]
        return {
            "logs": {port: queues.log for port, queues in self.queues.items()},
            "memory": {port: bytes(memory) for port, memory in self.memory.items()},
            "numbers": {port: verbs[port].numbers(self.qpn[port]) for port in (A, B)},
            "counters": [self.subnet.counters(port) for port in (A, B, "s/1", "s/2")],
        }


def some_work(random: Random, world: World, port: str, number: int) -> SendRequest:
    """Mostly work that goes well; sometimes keys, ranges and lengths that must not be."""
    other = B if port == A else A
    key, remote = world.key[port], world.key[other]
    if random.random() < 0.03:
        key, remote = key ^ 1, remote ^ 1
    sizes = [random.choice((0, 1, 8, 100, 1024, 1025, 5000)) for _ in range(random.randint(1, 3))]
    operation = random.choice([each for each in Operation if each is not Operation.RECEIVE])
    atomic = operation in (Operation.COMPARE_SWAP, Operation.FETCH_ADD)
    if atomic:
        sizes = [8]
    fetches = atomic or operation is Operation.READ
    near, far = (
        (START + PSN_HALF, START)
        if fetches and not atomic
        else (START + PSN_HALF if atomic else START, START + PSN_HALF)
    )
    pieces = tuple(Sge(near + random.randrange(PSN_HALF - 5000), size, key) for size in sizes)
    inline = bytes(random.randrange(256) for _ in range(20)) if random.random() < 0.2 and not fetches else None
    pieces = pieces if inline is None else ()
    immediate = b"imm%d" % random.randrange(10) if operation in (Operation.SEND, Operation.WRITE) else b""
    return SendRequest(
        number,
        operation,
        pieces,
        len(inline) if inline is not None else sum(sizes),
        inline,
        remote,
        far + random.randrange(0, PSN_HALF - 15000, 8),
        solicited=random.random() < 0.5,
        immediate=immediate if random.random() < 0.4 else b"",
        compare_add=random.randrange(1 << 63),
        swap=random.randrange(1 << 63),
        fence=random.random() < 0.1,
    )


def script(random: Random, world: World) -> Iterator[Callable[[], object]]:
    """What happens in a world; both worlds get the same, since both draw the same."""
    pkeys = ((0xFFFF,), (0x8001,), (0xFFFF, 0x8001))
    for number in range(60):
        port = random.choice((A, A, B))
        other = B if port == A else A
        match random.randrange(20):
            case 0:
                yield functools.partial(world.subnet.handle, world.now, Cut(B))
            case 1:
                yield functools.partial(world.subnet.handle, world.now, Mend(B))
            case 2:
                yield functools.partial(world.subnet.handle, world.now, SetPkeys(B, random.choice(pkeys)))
            case 3:
                yield functools.partial(world.domain[other].deregister, world.key[other])
                yield functools.partial(world.register, other)
            case 4:
                yield functools.partial(world.wait, random.choice((1, 50_000, 5 * MS)))
            case 5 | 6 | 7 | 8 | 9 | 10:
                for _ in range(random.randint(1, 4)):
                    size = random.choice((5000, 15000, 15000, 15000, 10))
                    piece = Sge(START + PSN_HALF + random.randrange(PSN_HALF - 15000), size, world.key[other])
                    world.queues[other].receives.append(ReceiveRequest(number, (piece,)))
            case _:
                work = [some_work(random, world, port, number) for _ in range(random.randint(1, 4))]
                yield functools.partial(world.post, port, *work)
    yield functools.partial(world.subnet.handle, world.now, Mend(B))
    yield functools.partial(world.wait, 100 * MS)


@pytest.mark.parametrize("seed", range(60))
def test_the_short_way_is_the_long_way(seed: int) -> None:
    """Cuts, P_Keys and deregistrations come between and into messages; nothing is different but the steps."""
    worlds = [World(captured=False), World(captured=True)]
    for world in worlds:
        for step in script(Random(seed), world):
            step()
            world.subnet.tick(world.now)
    short, long = (world.facts() for world in worlds)
    assert short["logs"] == long["logs"]
    assert short["numbers"] == long["numbers"]
    assert short["memory"] == long["memory"]
    assert short["counters"] == long["counters"]


def test_the_short_way_is_taken() -> None:
    """With a lossless cable and no capture no packet exists; with either there are packets."""
    for captured, loss, packets in ((False, 0.0, 0), (True, 0.0, 2), (False, 1e-9, 2)):
        world = World(captured=captured)
        if loss:
            world.subnet.handle(0, MakeLossy(B, loss))
        sent: list[object] = []
        transit = world.subnet._transit  # the one place where packets come into being
        original = transit.send
        transit.send = lambda port, packet, original=original, sent=sent: (sent.append(packet), original(port, packet))  # type: ignore[method-assign,misc,assignment]
        world.queues[B].receives.append(ReceiveRequest(1, (Sge(START, 100, world.key[B]),)))
        world.post(A, SendRequest(2, Operation.SEND, (Sge(START, 100, world.key[A]),), 100))
        world.wait(MS)
        assert [entry[2] for entry in world.queues[A].log] == [Status.SUCCESS]
        assert len(sent) == packets
