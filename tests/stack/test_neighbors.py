"""The neighbor cache: states, retries, announcements, and what a change of our own address does."""

import pytest

from ibbond.machine import SECOND
from ibbond.stack.neighbor_states import DELAY, REACHABLE_FOR, RETRY, STALE_FOR, NudState
from ibbond.stack.neighbors import (
    ATTEMPTS,
    QUEUE_PACKETS,
    Neighbors,
    Resolved,
    Silent,
    Solicit,
    Unreachable,
)
from ibbond.verbs.generation import Generation

IP = bytes((10, 0, 0, 2))
OTHER = bytes((10, 0, 0, 3))
HERE = b"\x80" + bytes(18) + b"\x01"
THERE = b"\x80" + bytes(18) + b"\x02"


@pytest.fixture
def generation() -> Generation:
    return Generation()


@pytest.fixture
def neighbors(generation: Generation) -> Neighbors:
    return Neighbors(generation)


def state(neighbors: Neighbors, ip: bytes = IP) -> NudState | None:
    entry = neighbors.get(ip)
    return entry.state if entry is not None else None


def test_a_packet_waits_for_the_answer(neighbors: Neighbors) -> None:
    assert neighbors.send(0, IP, b"one") == [Solicit(IP, packet=b"one")]
    assert neighbors.send(1, IP, b"two", b"offload") == []
    assert neighbors.learn(2, IP, HERE, confirmed=True) == [
        Resolved(IP, HERE, b"one"),
        Resolved(IP, HERE, b"two", b"offload"),
    ]
    assert state(neighbors) is NudState.REACHABLE
    assert neighbors.send(3, IP, b"three") == [Resolved(IP, HERE, b"three")]


def test_three_questions_a_second_apart_then_the_packets_are_given_up(neighbors: Neighbors) -> None:
    neighbors.send(0, IP, b"one")
    asked = 1
    now = 0
    effects = []
    while (deadline := neighbors.deadline()) is not None:
        assert deadline == now + RETRY
        now = deadline
        effects = neighbors.tick(now)
        asked += sum(isinstance(effect, Solicit) for effect in effects)
    assert asked == ATTEMPTS
    assert effects == [Unreachable(IP, (b"one",))]
    assert len(neighbors) == 0


def test_the_oldest_packet_gives_way(neighbors: Neighbors) -> None:
    for number in range(QUEUE_PACKETS + 2):
        neighbors.send(0, IP, b"%d" % number)
    assert neighbors.dropped == 2
    assert neighbors.learn(1, IP, HERE, confirmed=True)[0] == Resolved(IP, HERE, b"2")


def test_an_update_applies_at_once_but_makes_no_entry(neighbors: Neighbors, generation: Generation) -> None:
    assert neighbors.learn(0, IP, HERE) == []
    assert len(neighbors) == 0
    neighbors.send(0, IP, b"one")
    neighbors.learn(1, IP, HERE, confirmed=True)
    before = generation.value
    neighbors.learn(2, IP, THERE)
    assert generation.value > before
    assert neighbors.send(3, IP, b"two") == [Resolved(IP, THERE, b"two")]


def test_an_advertisement_without_override_only_casts_doubt(neighbors: Neighbors) -> None:
    neighbors.learn(0, IP, HERE, confirmed=True, create=True)
    neighbors.learn(1, IP, THERE, confirmed=True, override=False)
    assert state(neighbors) is NudState.STALE
    assert neighbors.send(2, IP, b"one") == [Resolved(IP, HERE, b"one")]


def test_the_same_update_again_changes_nothing(neighbors: Neighbors, generation: Generation) -> None:
    neighbors.learn(0, IP, HERE, confirmed=True, create=True)
    before = generation.value
    neighbors.learn(1, IP, HERE)
    assert state(neighbors) is NudState.REACHABLE
    assert generation.value == before


def test_a_used_entry_is_confirmed_and_an_idle_one_forgotten(neighbors: Neighbors, generation: Generation) -> None:
    neighbors.learn(0, IP, HERE, confirmed=True, create=True)
    neighbors.learn(0, OTHER, THERE, confirmed=True, create=True)
    before = generation.value
    assert neighbors.tick(REACHABLE_FOR) == []
    assert state(neighbors) is NudState.STALE
    assert generation.value > before, "a flow must come by, or no one would confirm the entry"
    assert neighbors.usable(IP) is None
    now = REACHABLE_FOR + 1
    assert neighbors.send(now, IP, b"one") == [Resolved(IP, HERE, b"one")]
    assert state(neighbors) is NudState.DELAY
    assert neighbors.usable(IP) == HERE
    assert neighbors.deadline() == now + DELAY
    assert neighbors.tick(now + DELAY) == [Solicit(IP, HERE)]
    after = neighbors.tick(now + DELAY + RETRY)
    assert after == [Silent(HERE), Solicit(IP)], "after one question to itself, everyone is asked"
    neighbors.learn(now + DELAY + RETRY + 1, IP, HERE, confirmed=True)
    assert state(neighbors) is NudState.REACHABLE
    neighbors.tick(REACHABLE_FOR + STALE_FOR)
    assert state(neighbors, OTHER) is None


def test_a_neighbor_that_does_not_confirm_is_forgotten(neighbors: Neighbors) -> None:
    neighbors.learn(0, IP, HERE, create=True)
    neighbors.send(0, IP, b"one")
    now = DELAY
    for _ in range(ATTEMPTS):
        assert neighbors.usable(IP) == HERE
        neighbors.tick(now)
        now += RETRY
    assert neighbors.tick(now) == []
    assert state(neighbors) is None


def test_after_a_failover_of_our_own_the_first_packet_goes_and_asks(
    neighbors: Neighbors, generation: Generation
) -> None:
    neighbors.learn(0, IP, HERE, confirmed=True, create=True)
    neighbors.send(0, OTHER, b"waits")
    before = generation.value
    assert neighbors.readdressed(5) == [Solicit(OTHER)]
    assert generation.value > before
    assert neighbors.send(6, IP, b"one") == [Resolved(IP, HERE, b"one"), Solicit(IP, packet=b"one")]
    assert neighbors.send(6, IP, b"two") == [Resolved(IP, HERE, b"two")]
    neighbors.learn(7, IP, HERE, confirmed=True)
    assert state(neighbors) is NudState.REACHABLE


def test_flush_is_the_kernels_way(neighbors: Neighbors) -> None:
    neighbors.learn(0, IP, HERE, confirmed=True, create=True)
    neighbors.send(0, OTHER, b"lost")
    neighbors.flush()
    assert len(neighbors) == 0
    assert neighbors.deadline() is None
    assert neighbors.tick(100 * SECOND) == []
