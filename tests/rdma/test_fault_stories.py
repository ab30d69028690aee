"""The block session through every kind of fault of the simulator, seed after seed: no write lost, none done twice."""

import pytest

from ibbond.lab import rdma_session
from ibbond.machine import MS
from ibbond.sim.faults import KINDS, RandomFaults
from ibbond.sim.story import Story
from ibbond.sim.world import World
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


def test_two_runs_of_one_seed_are_the_same() -> None:
    reports = [rdma_session.simulate(TWO_HOSTS, "h1", "h2", failovers=1, seed=4) for _ in range(2)]
    assert reports[0] == reports[1]
