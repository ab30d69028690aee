"""An adapter is pulled out: its ids receive DEVICE_REMOVAL and can only be destroyed; the session goes on elsewhere."""

import errno

import pytest

from ibbond.demo import rdma_session
from ibbond.demo.rdma_session import SimulatedProgram
from ibbond.errors import Refused
from ibbond.fabric.events import KillAdapter, ReviveAdapter
from ibbond.machine import MS
from ibbond.rdma.initiator import Initiator
from ibbond.rdma.target import Target
from ibbond.rdma_cm.events import (
    Accept,
    Destroy,
    Disconnect,
    Listen,
    MakeQueuePair,
    RdmaCall,
    RdmaCmEvent,
    RdmaKind,
    WorkCompleted,
)
from ibbond.rdma_cm.id_states import IdState
from ibbond.sim.story import Story
from ibbond.sim.world import World
from ibbond.stack.events import OnHost, OnSubnet
from ibbond.topology.default import TWO_HOSTS
from ibbond.topology.load import parse

TWO_ADAPTERS = TWO_HOSTS.replace('ib1 = "s2"', 'ib1 = { to = "s2", hca = 2 }')


def begin(text: str, seed: int = 0) -> tuple[World, Initiator, Target, list[RdmaCmEvent]]:
    """A session in flight, and everything that its initiator receives besides completions."""
    world = World(Story("removal", parse(text, name="removal"), pairs=(("h1", "h2"),)), seed, checked=False)
    world.begin()
    world.run_until(1000 * MS)
    initiator, target = rdma_session._begin(world, "h1", "h2", True)
    received: list[RdmaCmEvent] = []
    (program,) = (each for each in world.programs if isinstance(each, SimulatedProgram) and each.end is initiator)
    on_event = initiator.on_event

    class Listening:
        start, tick, deadline = initiator.start, initiator.tick, initiator.deadline

        def on_event(self, now: int, event: RdmaCmEvent | WorkCompleted) -> list[object]:
            if isinstance(event, RdmaCmEvent):
                received.append(event)
            return list(on_event(now, event))

    program.end = Listening()  # type: ignore[assignment]
    world.run_until(1300 * MS)
    return world, initiator, target, received


def finish(world: World, initiator: Initiator) -> None:
    rdma_session._finish(world, initiator)
    assert initiator.verified
    assert (initiator.lost, initiator.doubled) == (0, 0)


def test_the_session_goes_on_by_the_second_adapter() -> None:
    world, initiator, _, received = begin(TWO_ADAPTERS)
    assert world.network.hosts["h1"].registry.bonds["bond0"].active == "ib0"
    received.clear()
    world.feed(OnSubnet(KillAdapter("h1")))
    world.run_until(1600 * MS)
    first = received[0]
    assert (first.kind, first.detail) == (RdmaKind.DEVICE_REMOVAL, "h1/1")
    assert RdmaKind.ADDR_CHANGE not in [event.kind for event in received], "what was removed learns of no failover"
    (recovery,) = initiator.recoveries
    assert recovery.sign == "DEVICE_REMOVAL"
    assert recovery.first_io_at is not None
    assert recovery.first_io_at - recovery.seen_at < 100 * MS
    assert [one.port for one in world.network.hosts["h1"].rdma.ids()] == ["h1-2/1"]
    finish(world, initiator)


def test_with_one_adapter_it_waits_until_that_is_back() -> None:
    world, initiator, _, received = begin(TWO_HOSTS)
    received.clear()
    world.feed(OnSubnet(KillAdapter("h1")))
    assert not world.network.subnet.node("h1").alive
    world.run_until(2000 * MS)
    assert [event.kind for event in received[:1]] == [RdmaKind.DEVICE_REMOVAL]
    assert RdmaKind.ADDR_ERROR in [event.kind for event in received], "there is no way meanwhile"
    assert initiator.recoveries[-1].first_io_at is None
    world.feed(OnSubnet(ReviveAdapter("h1")))
    world.run_until(2600 * MS)
    assert initiator.recoveries[-1].first_io_at is not None
    finish(world, initiator)


def test_a_removed_id_can_only_be_destroyed_and_listeners_stay() -> None:
    world, _, target, _ = begin(TWO_HOSTS)
    (arrived,) = (one for one in world.network.hosts["h2"].rdma.ids() if one.port)
    world.programs.clear()  # no one reacts
    world.network.handle(world.now, OnSubnet(KillAdapter("h2")))
    adapter = world.network.subnet.node("h2")
    for late in (MakeQueuePair(arrived.number), Accept(arrived.number), Disconnect(arrived.number)):
        world.network.handle(world.now, OnHost("h2", RdmaCall(arrived.user, late)))
    assert arrived.state is IdState.REMOVED
    world.network.handle(world.now, OnHost("h2", RdmaCall(arrived.user, Destroy(arrived.number))))
    assert arrived not in world.network.hosts["h2"].rdma.ids()
    assert not adapter.alive
    (listener,) = (one for one in world.network.hosts["h2"].rdma.ids() if not one.port)
    with pytest.raises(Refused) as taken:
        world.network.handle(world.now, OnHost("h2", RdmaCall(77, Listen(0, listener.service_port))))
    assert taken.value.code == errno.EADDRINUSE
    assert target.expected > 0


def test_killing_twice_says_it_once_and_a_switch_is_no_adapter() -> None:
    world, _, _, received = begin(TWO_ADAPTERS)
    received.clear()
    world.feed(OnSubnet(KillAdapter("h1")))
    world.feed(OnSubnet(KillAdapter("h1")))
    world.run_until(1400 * MS)
    assert [event.kind for event in received].count(RdmaKind.DEVICE_REMOVAL) == 1
    with pytest.raises(Refused, match="s1 is not an adapter"):
        world.network.handle(world.now, OnSubnet(KillAdapter("s1")))
