"""A machine that fails in the middle: what was in flight beside it is carried on, and nothing happens twice."""

import contextlib
from collections.abc import Callable
from itertools import pairwise

import pytest

from ibbond.bonding.events import SetOption
from ibbond.errors import Refused
from ibbond.fabric.events import Cut
from ibbond.machine import MS, SECOND
from ibbond.stack.events import OnHost, ToBond, TraceEvent, Transmit
from ibbond.topology.default import TWO_HOSTS
from tests.stack.small_world import SmallWorld, ping, world_of


class BrokenPromise(AssertionError):
    """Of a machine."""


@pytest.fixture
def world() -> SmallWorld:
    return world_of(TWO_HOSTS)


def failing(*, times: int) -> Callable[..., object]:
    """A method that fails so many times; `calls` counts."""

    def fail(*_: object) -> list[object]:
        fail.calls += 1  # type: ignore[attr-defined]
        if fail.calls <= times:  # type: ignore[attr-defined]
            raise BrokenPromise
        return []

    fail.calls = 0  # type: ignore[attr-defined]
    return fail


def test_what_was_under_way_is_carried_on(world: SmallWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """h1 fails when it learns of its cut cable; the switch's side of the events still reaches the subnet and h2."""
    monkeypatch.setattr(world.network.hosts["h1"], "port_raised", failing(times=1))
    world.effects.clear()
    with pytest.raises(BrokenPromise):
        world.fabric(Cut("h1/1"))
    assert world.network.deadline() == world.now, "the rest is due at once"
    world.run(100)
    assert [fact.where for fact in world.happened("port")].count("h1/1") == 1
    world.on("h2", Transmit("bond0", ping("10.0.0.2", "10.0.0.1"), b""))  # h2 goes on


def test_a_machine_that_fails_on_time_does_not_keep_the_others_from_theirs(
    world: SmallWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail, other = failing(times=10**9), world.network.hosts["h2"]
    monkeypatch.setattr(world.network.hosts["h1"], "tick", fail)
    ticks: list[int] = []
    tick = other.tick
    monkeypatch.setattr(other, "tick", lambda now: (ticks.append(now), tick(now))[1])
    end = world.now + 3 * SECOND
    while (deadline := world.network.deadline()) is not None and deadline <= end:
        world.now = max(world.now, deadline)
        with contextlib.suppress(BrokenPromise):
            world.take(world.network.tick(world.now))
    assert 2 <= fail.calls <= 15, "again after a pause and after events, not at once"  # type: ignore[attr-defined]
    assert len(ticks) >= 20, "miimon of h2"
    assert max(b - a for a, b in pairwise(ticks)) <= 200 * MS


def test_a_refusal_is_reported_once(world: SmallWorld) -> None:
    world.effects.clear()
    with pytest.raises(Refused):
        world.network.handle(world.now, OnHost("h1", ToBond("bond0", SetOption("mode", "balance-rr\n"))))
    world.run_until_quiescent()
    lines = [effect for effect in world.effects if isinstance(effect, TraceEvent)]
    assert lines
    assert len(lines) == len(set(lines))
