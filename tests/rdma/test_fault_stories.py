"""The block session through every kind of fault of the simulator, seed after seed: no write lost, none done twice."""

import pytest

from ibbond.fabric.events import Cut
from ibbond.lab import rdma_session
from ibbond.machine import MS, SECOND
from ibbond.rdma import initiator as initiating
from ibbond.rdma.target import Target
from ibbond.sim.faults import KINDS, RandomFaults
from ibbond.sim.story import Story
from ibbond.sim.world import World
from ibbond.stack.events import OnSubnet
from ibbond.topology.default import TWO_HOSTS
from ibbond.topology.load import parse


@pytest.mark.parametrize(("seed", "kind"), list(enumerate(KINDS)))
def test_every_write_is_done_once(seed: int, kind: str) -> None:
    faults = RandomFaults(3, (kind,), (50, 400), (1200, 2000))
    world = World(
        Story("rdma", parse(TWO_HOSTS, name="rdma"), pairs=(("h1", "h2"),), random_faults=faults), seed, checked=False
    )
    world.begin()
    world.run_until(1000 * MS)
    initiator, target = rdma_session._begin(world, "h1", "h2", True, spacing_ns=4 * MS)
    world.run_until(2500 * MS)
    rdma_session._finish(world, initiator)
    hint = f"{kind}, seed {seed}: {world.faults}"
    assert initiator.verified, hint
    assert (initiator.lost, initiator.doubled) == (0, 0), hint
    assert initiator.completed == target.expected > 200, hint
    assert initiator.unrecovered == 0, hint


def test_two_runs_of_one_seed_are_the_same() -> None:
    reports = [rdma_session.simulate(TWO_HOSTS, "h1", "h2", failovers=1, seed=4) for _ in range(2)]
    assert reports[0] == reports[1]


@pytest.mark.parametrize("nops", [True, False])
def test_an_initiator_that_only_waits_finds_the_dead_path(monkeypatch: pytest.MonkeyPatch, nops: bool) -> None:
    """All its writes have been acknowledged and none answered when the cable goes: nothing is left to be repeated."""
    if not nops:
        monkeypatch.setattr(initiating, "NOP_AFTER", 3600 * SECOND)
    world = World(Story("rdma", parse(TWO_HOSTS, name="rdma"), pairs=(("h1", "h2"),)), 1, checked=False)
    world.begin()
    world.run_until(1000 * MS)
    initiator, _ = rdma_session._begin(world, "h1", "h2", False, spacing_ns=MS)
    world.run_until(1500 * MS)
    with monkeypatch.context() as stalled:
        stalled.setattr(Target, "hear", lambda *_: [])
        world.run_until(1530 * MS)
        world.feed(OnSubnet(Cut("h1/1")))
    world.run_until(2500 * MS)
    rdma_session._finish(world, initiator)
    assert initiator.verified is nops
    if nops:
        (recovery,) = initiator.recoveries
        assert recovery.error_at is not None
        assert recovery.error_at - recovery.seen_at < 100 * MS
        assert (recovery.sign, initiator.lost, initiator.doubled) == ("RETRY_EXCEEDED", 0, 0)
