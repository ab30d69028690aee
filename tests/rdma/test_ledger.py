"""The block session writes without end: disk and ledger are written round and round, and still say what was done."""

import pytest

from ibbond.demo import rdma_session
from ibbond.fabric.events import Cut, Mend
from ibbond.machine import MS
from ibbond.rdma import session
from ibbond.rdma.initiator import Initiator
from ibbond.rdma.session import BLOCK, BLOCKS, DISK, ENTRY, LEDGER, MEMORY_BYTES, due_entry, entry_at
from ibbond.rdma.target import Target
from ibbond.rdma_cm.events import RdmaUserClosed
from ibbond.sim.story import Story
from ibbond.sim.world import World
from ibbond.stack.events import OnHost, OnSubnet
from ibbond.topology.default import TWO_HOSTS
from ibbond.topology.load import parse


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger that is written round within a tenth of a second."""
    monkeypatch.setattr(session, "LEDGER", 64)


def begin(until_ms: int = 1500, spacing_ns: int = MS) -> tuple[World, Initiator, Target]:
    world = World(Story("rdma", parse(TWO_HOSTS, name="rdma"), pairs=(("h1", "h2"),)), 1, checked=False)
    world.begin()
    world.run_until(1000 * MS)
    initiator, target = rdma_session._begin(world, "h1", "h2", True, spacing_ns=spacing_ns)
    world.run_until(until_ms * MS)
    return world, initiator, target


def test_an_entry_counts_every_write_of_its_remainder() -> None:
    assert [due_entry(3, writes) for writes in (0, 3, 4, LEDGER + 3, LEDGER + 4)] == [
        (0, 0),
        (0, 0),
        (1, 3),
        (1, 3),
        (2, LEDGER + 6),
    ]
    for writes in (1, 5 * LEDGER + 7, 1 << 40):
        assert sum(due_entry(index, writes)[0] for index in range(LEDGER)) == writes
    assert due_entry(LEDGER - 1, 1 << 60)[1] < 1 << 64, "it fits the entry"


@pytest.mark.usefixtures("small")
def test_a_ledger_written_round_is_right_after_failovers() -> None:
    world, initiator, target = begin()
    for port in ("h1/1", "h2/1"):
        world.feed(OnSubnet(Cut(port)))
        world.run_until(world.now + 300 * MS)
    rdma_session._finish(world, initiator)
    assert (initiator.verified, initiator.lost, initiator.doubled) == (True, 0, 0)
    assert initiator.completed == target.expected > 5 * session.LEDGER
    assert len(initiator.recoveries) == 2
    assert initiator.unrecovered == 0


def test_writes_go_on_over_the_end_of_disk_and_ledger() -> None:
    world, initiator, target = begin(1100)
    jump = 3 * LEDGER - 50  # as if so many writes had been done
    rdma_session._wait(world, 1)
    while initiator._open:
        initiator.writing = False
        world.run_until(world.now + MS)
    for number in range(initiator.completed, jump):
        at = DISK + number % BLOCKS * BLOCK
        if number >= jump - BLOCKS:
            target.memory[at : at + BLOCK] = session.content(number)
        count, total = ENTRY.unpack_from(target.memory, entry_at(number))
        ENTRY.pack_into(target.memory, entry_at(number), count + 1, total + number)
    initiator.issued = initiator.completed = target.expected = jump
    initiator.writing, initiator.verified, initiator._reading, initiator._next_at = True, False, False, world.now
    world.run_until(world.now + 200 * MS)
    world.feed(OnSubnet(Cut("h2/1")))
    world.run_until(world.now + 300 * MS)
    rdma_session._finish(world, initiator)
    assert (initiator.verified, initiator.lost, initiator.doubled) == (True, 0, 0)
    assert initiator.completed == target.expected > 3 * LEDGER + 200
    assert initiator.recoveries[-1].first_io_at is not None


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("counts", "numbers", "found"),
    [(-1, -133, (1, 0)), (1, 5, (0, 1)), (0, 64, (1, 1)), (0, 0, (0, 0))],
    ids=["missing", "twice", "one for another", "right"],
)
def test_what_the_ledger_shows(counts: int, numbers: int, found: tuple[int, int]) -> None:
    world, initiator, target = begin()
    count, total = ENTRY.unpack_from(target.memory, entry_at(5))
    ENTRY.pack_into(target.memory, entry_at(5), count + counts, total + numbers)
    rdma_session._finish(world, initiator)
    assert (initiator.lost, initiator.doubled) == found


def test_a_block_with_old_content_is_a_lost_write() -> None:
    world, initiator, target = begin()
    target.memory[DISK : DISK + BLOCK] = session.content(BLOCKS)
    rdma_session._finish(world, initiator)
    assert (initiator.verified, initiator.lost, initiator.doubled) == (True, 1, 0)


def test_what_was_never_read_back_is_not_known() -> None:
    world, initiator, _ = begin()
    world.feed(OnSubnet(Cut("h1/1")))
    world.feed(OnSubnet(Cut("h1/2")))
    world.run_until(2500 * MS)
    initiator.finish()
    world.run_until(3000 * MS)
    assert (initiator.verified, initiator.lost, initiator.doubled) == (False, None, None)
    assert initiator.unrecovered == 1


@pytest.mark.parametrize("spacing_ms", [1, 10, 40])
@pytest.mark.parametrize("late_ms", range(0, 20, 4))
def test_a_failover_of_the_target_costs_less_than_100_ms(spacing_ms: int, late_ms: int) -> None:
    """The initiator receives nothing of it: its transport's error and the NOP-Out are soon enough."""
    world, initiator, _ = begin(1500 + late_ms, spacing_ms * MS)
    cut_at = world.now
    world.feed(OnSubnet(Cut("h2/1")))
    world.run_until(cut_at + 250 * MS)
    (recovery,) = initiator.recoveries
    assert recovery.sign == "RETRY_EXCEEDED"
    assert recovery.first_io_at is not None
    assert recovery.first_io_at - cut_at - spacing_ms * MS < 80 * MS
    if spacing_ms <= 10:
        assert recovery.first_io_at - cut_at < 100 * MS


def test_a_target_begins_a_new_session_when_the_first_has_gone() -> None:
    world, first, target = begin()
    rdma_session._finish(world, first)
    world.feed(OnHost("h1", RdmaUserClosed(rdma_session.USERS["initiator"])))
    second = another(world, name=2)
    world.run_until(world.now + 200 * MS)
    assert target.name == 2
    rdma_session._finish(world, second)
    assert (second.verified, second.lost, second.doubled, second.over) == (True, 0, 0, "")
    assert second.completed == target.expected > 150


def test_a_target_lets_no_one_into_a_session_that_answers() -> None:
    world, first, target = begin()
    second = another(world, name=2)
    world.run_until(world.now + 1200 * MS)
    assert second.over == "the target serves another session"
    assert (second.completed, second.verified, second.deadline()) == (0, False, None)
    rdma_session._finish(world, first)
    assert (first.verified, first.lost, first.doubled, first.recoveries) == (True, 0, 0, [])
    assert target.name == 1


def test_a_session_whose_initiator_vanished_makes_room() -> None:
    """No DREQ came through: that the connection is dead, the target finds out by its NOP-In."""
    world, first, target = begin()
    for cable in ("h1/1", "h1/2"):
        world.feed(OnSubnet(Cut(cable)))
    world.feed(OnHost("h1", RdmaUserClosed(rdma_session.USERS["initiator"])))
    world.run_until(world.now + 500 * MS)
    for cable in ("h1/1", "h1/2"):
        world.feed(OnSubnet(Mend(cable)))
    second = another(world, name=2)
    world.run_until(world.now + 500 * MS)
    assert (target.name, second.over) == (2, "")
    assert second.completed > 100
    assert first.completed < 600


def test_a_session_whose_target_began_again_is_over() -> None:
    world, first, target = begin()
    target.name = None
    world.feed(OnSubnet(Cut("h1/1")))
    world.run_until(world.now + 300 * MS)
    assert first.over == "the target has restarted with another ledger"
    assert (first.verified, first.lost, first.unrecovered, first.deadline()) == (False, None, 1, None)
    assert [one.port for one in world.network.hosts["h1"].rdma.ids()] == [], "it asks for nothing more"


def another(world: World, name: int) -> Initiator:
    """One more initiator on h1, as another program."""
    user = 40 + name
    memory = memoryview(bytearray(MEMORY_BYTES))
    key = world.network.hosts["h1"].rdma.register(user, memory)
    (bond,) = world.story.topology.host("h2").bonds
    initiator = Initiator(memory, key, bond.addresses[0].ip.packed, name)
    world.programs.append(rdma_session.SimulatedProgram("h1", user, initiator, _now=world.now))
    return initiator
