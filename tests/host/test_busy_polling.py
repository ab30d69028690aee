"""The timer that epoll waits for, and the loop that looks again before it sleeps."""

import os
import select
import time
from collections.abc import Iterator

import pytest

from ibbond.host.busy_polling import TRIAL, TRIALS, Pressure, Waiter
from ibbond.host.timer import Timer

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


class Scripted:
    """An epoll set and a clock: asleep, work comes after `asleep` nanoseconds, while looking after `looking`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, asleep: int, looking: int) -> None:
        self.asleep, self.looking = asleep, looking
        self.now = self.began = 0
        self.sleeps = 0
        monkeypatch.setattr(time, "monotonic_ns", self.clock)
        self.busy = 0.0
        self.waiter = Waiter(self, self)  # type: ignore[arg-type]

    def share(self) -> float:
        return self.busy

    def clock(self) -> int:
        self.now += 100
        return self.now

    def poll(self, timeout: float, _: int) -> list[tuple[int, int]]:
        ready = [(3, 1)]
        if timeout == 0:
            self.now += 500
            return ready if self.now - self.began >= self.looking else []
        self.sleeps += 1
        self.now = max(self.now, self.began + self.asleep)
        return ready

    def wait(self, times: int) -> int:
        """How many of these waits were spent looking."""
        looked = 0
        for _ in range(times):
            self.began = self.now
            assert self.waiter.wait() == [(3, 1)]
            looked += self.waiter.looking
        return looked


def test_where_waking_up_is_slow_it_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    world = Scripted(monkeypatch, asleep=45_000, looking=18_000)
    world.wait(2 * TRIAL)
    assert world.wait(1000) > 900


def test_where_looking_is_no_quicker_it_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    world = Scripted(monkeypatch, asleep=20_000, looking=19_000)
    world.wait(3 * TRIAL)
    assert world.wait(1000) < 100


def test_on_a_busy_machine_it_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    world = Scripted(monkeypatch, asleep=45_000, looking=18_000)
    world.wait(2 * TRIAL)
    assert world.waiter.looking
    world.busy = 0.9
    world.wait(TRIAL)
    assert world.wait(1000) == 0


def test_the_pressure_is_a_share_of_time() -> None:
    pressure = Pressure()
    time.sleep(0.02)
    assert 0 <= pressure.share() < 1.5
    pressure.close()


def test_a_slow_pace_is_waited_for_asleep(monkeypatch: pytest.MonkeyPatch) -> None:
    """A packet every 50 microseconds: looking ends in vain, and must not cost a core."""
    world = Scripted(monkeypatch, asleep=50_000, looking=50_000)
    world.wait(3 * TRIAL)
    assert world.wait(TRIAL * TRIALS // 2) < 2 * TRIAL


def test_without_traffic_it_never_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    world = Scripted(monkeypatch, asleep=1_000_000, looking=1_000_000)
    assert world.wait(1000) == 0


def test_the_end_of_the_traffic_ends_the_looking(monkeypatch: pytest.MonkeyPatch) -> None:
    world = Scripted(monkeypatch, asleep=45_000, looking=18_000)
    world.wait(3 * TRIAL)
    assert world.waiter.looking
    world.asleep = world.looking = 1_000_000
    world.wait(TRIAL + 1)
    assert not world.waiter.looking


def test_a_real_descriptor_wakes_it() -> None:
    bell = os.eventfd(1)
    with select.epoll() as epoll:
        epoll.register(bell, select.EPOLLIN)
        assert Waiter(epoll, Pressure()).wait() == [(bell, select.EPOLLIN)]
    os.close(bell)
