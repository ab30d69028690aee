"""Programs that ask for anything in any order, through failovers and removals: they are refused, and nothing breaks."""

from __future__ import annotations

from random import Random

import pytest

from ibbond.errors import Refused
from ibbond.fabric.events import Cut, KillAdapter, Mend, ReviveAdapter, SubnetEvent
from ibbond.machine import MS
from ibbond.rdma_cm.events import (
    ARRIVED_IDS,
    Accept,
    Connect,
    Destroy,
    Disconnect,
    Listen,
    MakeQueuePair,
    PostWork,
    RdmaCall,
    RdmaRequest,
    RdmaUserClosed,
    Reject,
    ResolveAddress,
    ResolveRoute,
)
from ibbond.rdma_cm.id_states import IdState
from ibbond.rdma_cm.ids import RdmaId
from ibbond.sim.story import Story
from ibbond.sim.world import World
from ibbond.stack.events import OnHost, OnSubnet
from ibbond.topology.default import TWO_HOSTS
from ibbond.topology.load import parse
from ibbond.verbs.reliable_verbs import Operation, Receive, Work

TWO_ADAPTERS = TWO_HOSTS.replace('ib1 = "s2"', 'ib1 = { to = "s2", hca = 2 }')
PORTS = (7301, 7302)
FAULTS: tuple[SubnetEvent, ...] = (
    *(each(f"{host}/1") for host in ("h1", "h2", "h1-2", "h2-2") for each in (Cut, Mend)),
    *(each(host) for host in ("h1", "h2", "h1-2", "h2-2") for each in (KillAdapter, ReviveAdapter)),
)


def request(random: Random) -> RdmaRequest:
    own = random.randrange(4)
    any_id = random.choice((own, own, ARRIVED_IDS + random.randrange(6)))
    address = bytes([10, 0, 0, random.choice((1, 2))])
    work = random.choice(
        (
            Receive(1, random.choice((0, 0x1300)), 0, 64),
            Work(2, Operation.SEND, inline=b"x"),
            Work(3, Operation.WRITE, 0x1300, 0, 64, 0x1300, 0),
            Work(4, random.choice(list(Operation)), random.choice((0, 0x1300)), 0, 8, 0x1301),
        )
    )
    requests: list[RdmaRequest] = [
        Listen(own, random.choice(PORTS), random.choice((b"", address))),
        *[ResolveAddress(own, address, random.choice(PORTS), timeout_ms=20)] * 3,
        *[ResolveRoute(own, timeout_ms=20)] * 3,
        *[MakeQueuePair(any_id)] * 3,
        *[Connect(own, ack_timeout=8, response_timeout=10, cm_retries=2)] * 3,
        *[Accept(any_id)] * 3,
        Reject(any_id),
        Disconnect(any_id),
        Destroy(any_id),
        *[PostWork(any_id, work)] * 3,
    ]
    return random.choice(requests)


def next_step(random: Random, ids: list[RdmaId]) -> tuple[int, RdmaRequest] | None:
    """What a program that knows what it does would ask for, so that some of it gets far."""
    if not ids:
        return None
    one = random.choice(ids)
    if one.state is IdState.ADDRESS_RESOLVED:
        return one.user, ResolveRoute(one.number)
    if one.state in (IdState.ROUTE_RESOLVED, IdState.CONNECTING) and one.qpn is None:
        return one.user, MakeQueuePair(one.number)
    if one.state is IdState.ROUTE_RESOLVED:
        return one.user, Connect(one.number, ack_timeout=8, response_timeout=14, cm_retries=2)
    return (one.user, Accept(one.number)) if one.request is not None else None


@pytest.mark.parametrize("first", range(0, 20, 5))
def test_whatever_is_asked_for_nothing_raises_but_refusals(first: int) -> None:
    assert sum(anything(seed) for seed in range(first, first + 5)), "some get as far as a connection"


def anything(seed: int) -> bool:
    """Whether there was a connection ever."""
    random = Random(seed)
    world = World(Story("any", parse(TWO_ADAPTERS, name="any"), pairs=(("h1", "h2"),)), seed, checked=False)
    world.begin()
    world.run_until(1000 * MS)
    taken, established = 0, False
    for _ in range(600):
        host, user = random.choice(("h1", "h2")), random.choice((1, 2))
        if random.random() < 0.02:
            world.feed(OnSubnet(random.choice(FAULTS)))
        elif random.random() < 0.01:
            world.feed(OnHost(host, RdmaUserClosed(user)))
        else:
            rdma = world.network.hosts[host].rdma
            rdma.register(user, memoryview(bytearray(64)))
            step = next_step(random, list(rdma.ids())) if random.random() < 0.7 else None
            try:
                world.feed(OnHost(host, RdmaCall(*(step or (user, request(random))))))
                taken += 1
            except Refused:
                pass
        world.run_until(world.now + random.choice((0, 1, 1, 5, 30)) * MS)
        established |= any(
            one.state is IdState.CONNECTED for host in world.network.hosts.values() for one in host.rdma.ids()
        )
    assert taken > 100, "most of it would be refused, and nothing tested"
    for host in ("h1", "h2"):
        for user in (1, 2):
            world.feed(OnHost(host, RdmaUserClosed(user)))
        assert list(world.network.hosts[host].rdma.ids()) == []
    world.run_until(world.now + 3000 * MS)
    for name in ("h1", "h2", "h1-2", "h2-2"):
        kinds = [pair.kind for pair in world.network.subnet._inventory.adapter(name).queue_pairs.values()]
        assert "RC" not in kinds, "every queue pair of both is gone"
    return established
