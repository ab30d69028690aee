"""The timer that epoll waits for, and the loop that looks again before it sleeps."""

import os
import select
import time
from collections.abc import Iterator

import pytest

from ibbond.host.timer import Timer
from ibbond.host.waiting import FIRST_NS, SHORT_SLEEPS, Waiter

MS = 1_000_000


@pytest.fixture
def timer() -> Iterator[Timer]:
    made = Timer()
    yield made
    made.close()


def rings_within(timer: Timer, ms: int) -> bool:
    return bool(select.select([timer], [], [], ms / 1000)[0])


def test_it_rings_at_its_time_and_not_before(timer: Timer) -> None:
    at = time.monotonic_ns() + 20 * MS
    timer.set(at)
    assert rings_within(timer, 2000)
    assert time.monotonic_ns() >= at


def test_a_time_that_is_past_rings_at_once(timer: Timer) -> None:
    timer.set(-5)
    assert rings_within(timer, 1000)


def test_none_unsets_it(timer: Timer) -> None:
    timer.set(time.monotonic_ns() + 20 * MS)
    timer.set(None)
    assert not rings_within(timer, 60)


def test_after_a_ring_the_same_time_can_be_set_again(timer: Timer) -> None:
    timer.set(1)
    assert rings_within(timer, 1000)
    timer.rang()
    assert not rings_within(timer, 5)
    timer.set(1)
    assert rings_within(timer, 1000)


class Endless:
    """An epoll set that is ready when its script says so: for each poll, the answer."""

    def __init__(self, script: list[bool]) -> None:
        self.script = script
        self.slept = 0

    def poll(self, timeout: float | None = None) -> list[tuple[int, int]]:
        if timeout is None:
            self.slept += 1
            return [(3, 1)]
        return [(3, 1)] if self.script and self.script.pop(0) else []


def test_short_sleeps_start_the_looking() -> None:
    waiter = Waiter(Endless([]))  # type: ignore[arg-type]
    for _ in range(SHORT_SLEEPS):
        assert waiter.window == 0
        waiter.wait()
    assert waiter.window == FIRST_NS


def test_looking_that_finds_something_does_not_sleep() -> None:
    epoll = Endless([False, False, True])
    waiter = Waiter(epoll)  # type: ignore[arg-type]
    waiter.window = 1_000_000_000
    assert waiter.wait() == [(3, 1)]
    assert epoll.slept == 0


def test_looking_in_vain_ends_soon() -> None:
    waiter = Waiter(Endless([]))  # type: ignore[arg-type]
    waiter.window = FIRST_NS
    for _ in range(3):
        waiter.wait()
    assert waiter.window == 0


def test_a_real_descriptor_wakes_it() -> None:
    bell = os.eventfd(1)
    with select.epoll() as epoll:
        epoll.register(bell, select.EPOLLIN)
        assert Waiter(epoll).wait() == [(bell, select.EPOLLIN)]
    os.close(bell)
