"""A host that makes its kernel's lists long, and changes them all the time, gets a small share of the loop's time."""

from __future__ import annotations

import heapq
from collections.abc import Callable

from ibbond.host.read_scheduler import CHEAP_NS, SHARE, ReadScheduler
from ibbond.machine import MS, SECOND


class Clock:
    """Time that passes by what readings cost, and calls that are due."""

    def __init__(self, costs: dict[str, int]) -> None:
        self.now = self.spent = 0
        self.costs = costs
        self.read: list[str] = []
        self.looks = ReadScheduler(self.look, lambda: self.now, self.call_at, lambda: self.spent)
        self._calls: list[tuple[int, int, Callable[[], object]]] = []

    def look(self, host: str) -> None:
        self.read.append(host)
        self.spent += self.costs[host]
        self.now += self.costs[host]

    def call_at(self, at: int, call: Callable[[], object]) -> None:
        heapq.heappush(self._calls, (at, len(self._calls), call))

    def run(self, until: int, ask: tuple[str, ...] = ()) -> None:
        while self.now < until:
            for host in ask:
                self.looks.ask(host)
            self.now += MS
            while self._calls and self._calls[0][0] <= self.now:
                heapq.heappop(self._calls)[2]()


def test_what_is_cheap_is_read_at_once() -> None:
    clock = Clock({"h1": CHEAP_NS // 2})
    for _ in range(5):
        clock.looks.ask("h1")
    assert clock.read == ["h1"] * 5


def test_what_is_not_cheap_has_its_share_and_is_read_in_the_end() -> None:
    clock = Clock({"h1": 25 * MS, "h2": 50 * MS, "h3": CHEAP_NS // 2})
    clock.run(10 * SECOND, ("h1", "h2"))
    assert clock.spent <= 10 * SECOND / SHARE * 1.1
    assert min(clock.read.count("h1"), clock.read.count("h2")) >= 10, "both have their turn"
    clock.run(clock.now + 2 * SECOND)
    clock.read.clear()
    clock.looks.ask("h1")
    clock.looks.ask("h1")
    clock.looks.ask("h3")
    assert clock.read == ["h1", "h3"], "the second one waits, and keeps no other host"
    clock.run(clock.now + SECOND)
    assert clock.read == ["h1", "h3", "h1"]


def test_a_host_that_is_quick_again_does_not_wait() -> None:
    clock = Clock({"h1": 25 * MS})
    clock.looks.ask("h1")
    clock.looks.ask("h1")
    clock.costs["h1"] = MS
    clock.run(SECOND)
    clock.looks.ask("h1")
    clock.looks.ask("h1")
    assert clock.read == ["h1"] * 4


def test_a_caller_that_must_know_now_does_not_wait() -> None:
    clock = Clock({"h1": 25 * MS})
    clock.looks.look_now("h1")
    clock.looks.look_now("h1")
    assert clock.read == ["h1"] * 2
