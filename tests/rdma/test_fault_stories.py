"""The block session through every kind of fault of the simulator, seed after seed: no write lost, none done twice."""

import pytest

from ibbond.demo import rdma_session
from ibbond.demo.rdma_report import came_back
from ibbond.fabric.events import Cut
from ibbond.machine import MS, SECOND
from ibbond.rdma import initiator as initiating
from ibbond.rdma import session
from ibbond.rdma.initiator import Initiator
from ibbond.rdma.target import Target
from ibbond.rdma_cm.events import RdmaCmEvent, RdmaKind, WorkCompleted
from ibbond.sim.faults import KINDS, RandomFaults
from ibbond.sim.story import Story
from ibbond.sim.world import World
from ibbond.stack.events import OnSubnet
from ibbond.topology.default import TWO_HOSTS
from ibbond.topology.load import parse
from ibbond.verbs.reliable_verbs import Completion, Operation, Status


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


def test_an_address_change_that_broke_nothing_is_no_part_of_the_next_break() -> None:
    """With a primary each host fails back, and the connection goes on over the other member."""
    text = TWO_HOSTS.replace("miimon = 100,", 'miimon = 100, primary = "ib0",')
    report = rdma_session.simulate(text, "h1", "h2", failovers=4, heed_address_change=False)
    rows = report["failovers"]
    assert isinstance(rows, list)
    assert [row["sign"] for row in rows] == 4 * ["RETRY_EXCEEDED"]
    assert [row["addr_change_ms"] == row["failover_ms"] for row in rows] == [True, False, True, False]
    assert [row["addr_change_ms"] for row in rows[1::2]] == [None, None]
    assert came_back(report)


@pytest.mark.parametrize("sent_after", [False, True])
def test_only_a_write_sent_after_the_address_change_shows_that_it_broke_nothing(sent_after: bool) -> None:
    memory = memoryview(bytearray(session.MEMORY_BYTES))
    initiator = Initiator(memory, 1, bytes(4), name=1, heed_address_change=False)
    initiator.start(0)

    def answered(kind: int, number: int) -> None:
        session.MESSAGE.pack_into(memory, session.ANSWERS, kind, 1, number, 0, 0, 0, 0)
        initiator.on_event(0, WorkCompleted(0, Completion(0, Operation.RECEIVE, Status.SUCCESS)))

    initiator.on_event(0, RdmaCmEvent(0, RdmaKind.ESTABLISHED, private=session.HELLO.pack(session.MARK, 1)))
    answered(session.LOGGED_IN, 0)
    initiator.tick(0)
    initiator.on_event(5, RdmaCmEvent(0, RdmaKind.ADDR_CHANGE))
    answered(session.WRITTEN, 0)
    if sent_after:
        initiator.tick(MS)
        answered(session.WRITTEN, 1)
    initiator.on_event(50 * MS, WorkCompleted(0, Completion(2, Operation.SEND, Status.RETRY_EXCEEDED)))
    (recovery,) = initiator.recoveries
    assert (recovery.seen_at, recovery.addr_change_at) == (50 * MS, None if sent_after else 5)


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
        stalled.setattr(Target, "on_event", lambda *_: [])
        world.run_until(1530 * MS)
        world.feed(OnSubnet(Cut("h1/1")))
    world.run_until(2500 * MS)
    rdma_session._finish(world, initiator)
    assert initiator.verified is nops
    if nops:
        (recovery,) = initiator.recoveries
        assert recovery.addr_change_at is not None
        assert recovery.seen_at - recovery.addr_change_at < 100 * MS
        assert (recovery.sign, initiator.lost, initiator.doubled) == ("RETRY_EXCEEDED", 0, 0)
