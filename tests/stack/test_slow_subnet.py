"""The same hosts when the subnet takes its time: 1 us a hop, 1 ms an answer of the subnet administrator."""

from __future__ import annotations

import pytest

from ibbond.bonding.events import SetOption
from ibbond.fabric.events import Cut, Mend
from ibbond.machine import MS, US
from ibbond.stack.events import GroupJoined, ToBond
from ibbond.topology.default import TWO_HOSTS
from ibbond.verbs.timing import Timing
from ibbond.wire.udp import UdpDatagram
from tests.stack.small_world import SmallWorld, ip, world_of

CHAT = ip("239.1.2.3")
STEP = 100 * US


@pytest.fixture
def world() -> SmallWorld:
    world = world_of(TWO_HOSTS, timing=Timing.simulated())
    world.run(ms=100)
    for host in ("h1", "h2"):
        world.on(host, GroupJoined("bond0", CHAT))
    world.run(ms=1000)
    stream(world, 20)  # everyone has met
    return world


def stream(world: SmallWorld, count: int) -> dict[str, int]:
    """Packets every 0.1 ms both ways and to a group; what each kind lost, after everything has arrived."""
    kinds = {
        "to h2": ("h1", "h2", UdpDatagram(ip("10.0.0.1"), ip("10.0.0.2"), 1, 2, b"there")),
        "to h1": ("h2", "h1", UdpDatagram(ip("10.0.0.2"), ip("10.0.0.1"), 1, 2, b"back")),
        "v6 to h1": ("h2", "h1", UdpDatagram(ip("fd00::2"), ip("fd00::1"), 1, 2, b"six")),
        "group to h1": ("h2", "h1", UdpDatagram(ip("10.0.0.2"), CHAT, 1, 2, b"all")),
        "group to h2": ("h1", "h2", UdpDatagram(ip("10.0.0.1"), CHAT, 1, 2, b"all")),
    }
    for _ in range(count):
        for sender, _, packet in kinds.values():
            world.send(sender, packet.pack())
        world.run(STEP / MS)
    world.run(ms=20)
    inbox = {host: world.got(host) for host in ("h1", "h2")}
    return {kind: count - inbox[receiver].count(packet.pack()) for kind, (_, receiver, packet) in kinds.items()}


def test_nothing_is_lost_while_nothing_happens(world: SmallWorld) -> None:
    assert set(stream(world, 50).values()) == {0}


@pytest.mark.parametrize("host", ["h1", "h2"])
def test_a_planned_switch_loses_nothing(world: SmallWorld, host: str) -> None:
    for member in ("ib1", "ib0"):
        world.on(host, ToBond("bond0", SetOption("active_slave", member)))
        assert stream(world, 100) == dict.fromkeys(stream(world, 1), 0)
        assert world.network.hosts[host].bond("bond0").active == member


def test_fail_back_to_the_primary_loses_nothing(world: SmallWorld) -> None:
    world.on("h1", ToBond("bond0", SetOption("primary", "ib0")))
    world.fabric(Cut("h1/1"))
    world.run(ms=100)
    stream(world, 20)
    world.fabric(Mend("h1/1"))
    assert set(stream(world, 300).values()) == {0}
    assert world.network.hosts["h1"].bond("bond0").active == "ib0"


def test_a_cut_costs_the_answers_of_the_administrator(world: SmallWorld) -> None:
    """The new member must ask for its paths and the peers for theirs (1 ms each), groups are joined again."""
    world.fabric(Cut("h1/1"))
    lost = stream(world, 300)
    assert max(lost.values()) * STEP <= 5 * MS, lost


def test_two_worlds_of_one_seed_do_the_same() -> None:
    traces = []
    for _ in range(2):
        world = world_of(TWO_HOSTS, timing=Timing.simulated())
        world.run(ms=500)
        for event in (Cut("h1/1"), Mend("h1/1"), Cut("h2/2"), Cut("s1/3")):
            world.fabric(event)
            stream(world, 20)
        traces.append([repr(effect) for effect in world.effects])
    assert traces[0] == traces[1]
