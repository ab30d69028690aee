"""Reliable datagrams in the simulator: whatever breaks, each arrives once and in order."""

import errno
from dataclasses import dataclass, field
from ipaddress import ip_address

import pytest

from ibbond.errors import Refused
from ibbond.fabric.events import Cut, Mend
from ibbond.lab.rdma_session import SimulatedProgram
from ibbond.machine import MS
from ibbond.rdma.datagram import LARGEST, MEMORY_BYTES, QUEUED, Endpoint
from ibbond.sim.faults import KINDS, RandomFaults
from ibbond.sim.story import Story
from ibbond.sim.world import World
from ibbond.stack.events import OnSubnet
from ibbond.stack.rdma_events import RdmaNews, RdmaRequest, WorkOver
from ibbond.topology.default import TWO_HOSTS
from ibbond.topology.load import parse

TWO = ip_address("10.0.0.2").packed
ONE = ip_address("10.0.0.1").packed


@dataclass
class Sender:
    """Sends a datagram to each destination every millisecond until `until`."""

    endpoint: Endpoint
    destinations: tuple[bytes, ...]
    until: int
    sent: int = 0
    next_at: int = 0

    def start(self, now: int) -> list[RdmaRequest]:
        self.next_at = now
        return self.endpoint.start(now)

    def hear(self, now: int, news: RdmaNews | WorkOver) -> list[RdmaRequest]:
        return self.endpoint.hear(now, news)

    def tick(self, now: int) -> list[RdmaRequest]:
        requests = self.endpoint.tick(now)
        while self.next_at <= now and self.next_at < self.until:
            self.next_at += MS
            try:
                for destination in self.destinations:
                    requests += self.endpoint.send(now, destination, b"%d" % self.sent)
                self.sent += 1
            except Refused:
                break  # as many as may wait do
        return requests

    def deadline(self) -> int | None:
        waits = [self.endpoint.deadline(), self.next_at if self.next_at < self.until else None]
        return min((at for at in waits if at is not None), default=None)


@dataclass
class Stage:
    world: World
    ends: dict[str, Sender] = field(default_factory=dict)

    def enter(self, host: str, destinations: tuple[bytes, ...], until_ms: int) -> Sender:
        memory = memoryview(bytearray(MEMORY_BYTES))
        user = len(self.ends) + 1
        key = self.world.network.hosts[host].rdma.register(user, memory)
        sender = self.ends[host] = Sender(Endpoint(memory, key, name=user), destinations, until_ms * MS)
        self.world.programs.append(SimulatedProgram(host, user, sender, _now=self.world.now))
        return sender


def stage(seed: int = 0, faults: RandomFaults | None = None) -> Stage:
    topology = parse(TWO_HOSTS, name="datagrams")
    story = Story("datagrams", topology, pairs=(("h1", "h2"),), random_faults=faults)
    world = World(story, seed, checked=False)
    world.begin()
    world.run_until(1000 * MS)
    return Stage(world)


def numbers(end: Sender, sender: int) -> list[int]:
    return [int(each.payload) for each in end.endpoint.arrived if each.sender == sender]


def test_both_ways_through_a_failover_of_either_end() -> None:
    play = stage()
    one = play.enter("h1", (TWO,), 3000)
    two = play.enter("h2", (ONE,), 3000)
    for at, host in ((1500, "h1"), (2200, "h2")):
        play.world.run_until(at * MS)
        active = play.world.network.hosts[host].registry.bonds["bond0"].active
        device = play.world.story.topology.host(host).device(active or "")
        assert device is not None
        play.world.feed(OnSubnet(Cut(device.port)))
        play.world.run_until((at + 300) * MS)
        play.world.feed(OnSubnet(Mend(device.port)))
    play.world.run_until(3500 * MS)
    for sender, receiver, name in ((one, two, 1), (two, one, 2)):
        assert sender.sent > 1900
        assert numbers(receiver, name) == list(range(sender.sent))
        assert (sender.endpoint.unacknowledged, sender.endpoint.acknowledged) == (0, sender.sent)
        assert len(sender.endpoint.reconnects) >= 2
        assert max(until - since for since, until in sender.endpoint.reconnects) < 100 * MS


@pytest.mark.parametrize(("seed", "kind"), list(enumerate(KINDS)))
def test_no_fault_loses_or_doubles_one(seed: int, kind: str) -> None:
    play = stage(seed, RandomFaults(3, (kind,), (50, 400), (1200, 2000)))
    one = play.enter("h1", (TWO,), 2500)
    two = play.enter("h2", (), 0)
    play.world.run_until(2700 * MS)
    for _ in range(80):
        if not one.endpoint.unacknowledged:
            break
        play.world.run_until(play.world.now + 100 * MS)
    hint = f"{kind}, seed {seed}: {play.world.faults}"
    assert one.endpoint.unacknowledged == 0, hint
    assert numbers(two, 1) == list(range(one.sent)), hint
    assert one.endpoint.acknowledged == one.sent > 500, hint


def test_a_new_life_of_a_sender_begins_at_zero() -> None:
    play = stage()
    receiver = play.enter("h2", (), 0)
    play.enter("h1", (TWO,), 1100)
    play.world.run_until(1200 * MS)
    first = len(receiver.endpoint.arrived)
    assert first > 90
    memory = memoryview(bytearray(MEMORY_BYTES))
    key = play.world.network.hosts["h1"].rdma.register(9, memory)
    again = Sender(Endpoint(memory, key, name=9, port=18634), (TWO,), 1300 * MS)
    again.start = lambda now: []  # type: ignore[method-assign]  # the port is the first life's
    again.next_at = play.world.now
    play.world.programs.append(SimulatedProgram("h1", 9, again, _now=play.world.now))
    play.world.run_until(1400 * MS)
    assert numbers(receiver, 9) == list(range(again.sent))
    assert again.sent == 100


def test_what_does_not_fit_is_refused() -> None:
    endpoint = Endpoint(memoryview(bytearray(MEMORY_BYTES)), 1, name=1)
    with pytest.raises(Refused) as too_long:
        endpoint.send(0, TWO, bytes(LARGEST + 1))
    assert too_long.value.code == errno.EMSGSIZE
    for _ in range(QUEUED):
        endpoint.send(0, TWO, b"")
    with pytest.raises(Refused) as full:
        endpoint.send(0, TWO, b"")
    assert full.value.code == errno.EAGAIN
