"""Reliable datagrams in the simulator: whatever breaks, each arrives once and in order."""

import errno
from dataclasses import dataclass, field
from ipaddress import ip_address

import pytest

from ibbond.demo.rdma_session import SimulatedProgram
from ibbond.errors import Refused
from ibbond.fabric.events import Cut, Mend
from ibbond.machine import MS
from ibbond.rdma.datagram import MAX_BYTES, MEMORY_BYTES, PEERS, QUEUED, Endpoint
from ibbond.rdma_cm.events import RdmaCmEvent, RdmaRequest, RdmaUserClosed, WorkCompleted
from ibbond.sim.faults import KINDS, RandomFaults
from ibbond.sim.story import Story
from ibbond.sim.world import World
from ibbond.stack.events import OnHost, OnSubnet
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
    listens: bool = True
    sent: int = 0
    next_at: int = 0

    def start(self, now: int) -> list[RdmaRequest]:
        self.next_at = now
        return self.endpoint.start(now) if self.listens else []

    def on_event(self, now: int, event: RdmaCmEvent | WorkCompleted) -> list[RdmaRequest]:
        return self.endpoint.on_event(now, event)

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

    def enter(
        self, host: str, destinations: tuple[bytes, ...], until_ms: int, *, name: int = 0, listens: bool = True
    ) -> Sender:
        """One program more on a host; its name is its number as a user too."""
        memory = memoryview(bytearray(MEMORY_BYTES))
        user = name or len(self.ends) + 1
        key = self.world.network.hosts[host].rdma.register(user, memory)
        sender = self.ends[host] = Sender(Endpoint(memory, key, name=user), destinations, until_ms * MS, listens)
        self.world.programs.append(SimulatedProgram(host, user, sender, _now=self.world.now))
        return sender

    def kill(self, host: str, end: Sender) -> None:
        """The program is no more, and its connections with it."""
        self.world.programs[:] = [
            each for each in self.world.programs if not isinstance(each, SimulatedProgram) or each.end is not end
        ]
        self.world.feed(OnHost(host, RdmaUserClosed(end.endpoint.name)))


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
    again = play.enter("h1", (TWO,), 1300, name=9, listens=False)
    play.world.run_until(1400 * MS)
    assert numbers(receiver, 9) == list(range(again.sent))
    assert again.sent == 100


@pytest.mark.parametrize("away_ms", [0, 300])
def test_a_new_life_of_the_receiver_gets_what_the_old_one_did_not_acknowledge(away_ms: int) -> None:
    play = stage()
    old = play.enter("h2", (), 0, name=7)
    sender = play.enter("h1", (TWO,), 2000, name=1)
    play.world.run_until(1500 * MS)
    play.kill("h2", old)
    acknowledged = sender.endpoint.acknowledged
    play.world.run_until((1500 + away_ms) * MS)
    new = play.enter("h2", (), 0, name=8)
    play.world.run_until(2300 * MS)
    before, after = numbers(old, 1), numbers(new, 1)
    assert before == list(range(len(before)))
    assert acknowledged <= after[0] <= len(before), "none is missing between the two lives"
    assert after == list(range(after[0], sender.sent))
    assert (sender.endpoint.unacknowledged, sender.endpoint.acknowledged) == (0, sender.sent)
    (restarted,) = sender.endpoint.began_anew
    assert (restarted.destination, restarted.again > 0) == (TWO, True)
    assert len(sender.endpoint.reconnects) == 1


def test_after_a_new_life_a_failover_is_one_as_before() -> None:
    play = stage()
    old = play.enter("h2", (), 0, name=7)
    sender = play.enter("h1", (TWO,), 2000, name=1)
    play.world.run_until(1300 * MS)
    play.kill("h2", old)
    new = play.enter("h2", (), 0, name=8)
    play.world.run_until(1600 * MS)
    play.world.feed(OnSubnet(Cut("h2/1")))
    play.world.run_until(2300 * MS)
    after = numbers(new, 1)
    assert after == list(range(after[0], sender.sent))
    assert len(sender.endpoint.began_anew) == 1
    assert len(sender.endpoint.reconnects) == 2


def test_the_sender_too_many_learns_why_and_gets_the_place_of_one_that_has_gone() -> None:
    play = stage()
    receiver = play.enter("h2", (), 0, name=99)
    senders = [play.enter("h1", (TWO,), 1100, name=name, listens=False) for name in range(1, PEERS + 1)]
    play.world.run_until(1200 * MS)
    late = play.enter("h1", (TWO,), 1300, name=50, listens=False)
    play.world.run_until(1400 * MS)
    assert late.endpoint.refusals == {TWO: "it already has 8 senders and accepts no more"}
    assert numbers(receiver, 50) == []
    for sender in (senders[2], senders[0]):
        play.kill("h1", sender)
        play.world.run_until(play.world.now + 1 * MS)
    play.world.run_until(1600 * MS)
    assert late.endpoint.refusals == {}
    assert numbers(receiver, 50) == list(range(late.sent))
    assert late.endpoint.unacknowledged == 0
    forgotten = set(range(1, PEERS + 1)) - set(receiver.endpoint._sources)
    assert forgotten == {3}, "the one that has been away for longest"


def test_a_sender_that_was_forgotten_goes_on() -> None:
    play = stage()
    receiver = play.enter("h2", (), 0, name=99)
    senders = [play.enter("h1", (TWO,), 3000, name=name, listens=False) for name in range(1, PEERS + 1)]
    play.world.run_until(1200 * MS)
    way = senders[0].endpoint._ways[TWO]
    receiver.endpoint._sources.pop(1)  # as for one sender more
    play.world.feed(OnHost("h1", RdmaUserClosed(2)))
    play.kill("h1", senders[1])
    senders[0].endpoint._broken(play.world.now, way)
    way.id, way.again_at = -1, play.world.now
    play.world.run_until(3100 * MS)
    got = numbers(receiver, 1)
    assert sorted(set(got)) == list(range(senders[0].sent))
    assert len(senders[0].endpoint.began_anew) == 1
    assert senders[0].endpoint.unacknowledged == 0


def test_where_no_one_listens_the_sender_knows() -> None:
    play = stage()
    sender = play.enter("h1", (TWO,), 1100)
    play.world.run_until(1200 * MS)
    assert sender.endpoint.refusals == {TWO: "no program accepts datagrams there"}
    assert sender.endpoint.reconnects == []


def test_a_sender_that_only_waits_finds_the_dead_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """The receiver's adapter has acknowledged all and the receiver nothing when its cable goes."""
    play = stage()
    receiver = play.enter("h2", (), 0, name=2)
    sender = play.enter("h1", (TWO,), 1110, name=1)
    play.world.run_until(1100 * MS)
    took = Endpoint._took
    monkeypatch.setattr(Endpoint, "_took", lambda *_: [])
    play.world.run_until(1115 * MS)
    monkeypatch.setattr(Endpoint, "_took", took)
    assert sender.endpoint.unacknowledged > 0
    cut_at = play.world.now
    play.world.feed(OnSubnet(Cut("h2/1")))
    play.world.run_until(1300 * MS)
    assert sender.endpoint.unacknowledged == 0
    assert numbers(receiver, 1) == list(range(sender.sent))
    ((_, flowing_at),) = sender.endpoint.reconnects
    assert flowing_at - cut_at < 100 * MS


@pytest.mark.parametrize("seed", range(3))
def test_a_failover_of_the_receiver_costs_less_than_100_ms(seed: int) -> None:
    play = stage(seed)
    receiver = play.enter("h2", (), 0, name=2)
    sender = play.enter("h1", (TWO,), 1700, name=1)
    play.world.run_until(1500 * MS)
    play.world.feed(OnSubnet(Cut("h2/1")))
    play.world.run_until(1600 * MS)
    ((_, flowing_at),) = sender.endpoint.reconnects
    assert flowing_at - 1500 * MS < 100 * MS
    play.world.run_until(1800 * MS)
    assert numbers(receiver, 1) == list(range(sender.sent))


def test_what_does_not_fit_is_refused() -> None:
    endpoint = Endpoint(memoryview(bytearray(MEMORY_BYTES)), 1, name=1)
    with pytest.raises(Refused) as too_long:
        endpoint.send(0, TWO, bytes(MAX_BYTES + 1))
    assert too_long.value.code == errno.EMSGSIZE
    for _ in range(QUEUED):
        endpoint.send(0, TWO, b"")
    with pytest.raises(Refused) as full:
        endpoint.send(0, TWO, b"")
    assert full.value.code == errno.EAGAIN
