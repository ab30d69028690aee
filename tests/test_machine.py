"""Deadlines against the obvious: ask every machine for its own."""

import enum
from random import Random

import pytest

from ibbond.machine import Deadlines, EventQueue, Timers


@pytest.mark.parametrize("seed", range(20))
def test_deadlines_is_the_minimum_of_all(seed: int) -> None:
    random = Random(seed)
    deadlines: Deadlines[int] = Deadlines()
    plain: dict[int, int | None] = {}
    now = 0
    for _ in range(300):
        key = random.randrange(8)
        plain[key] = random.choice([None, now + random.randrange(20)])
        deadlines.report(key, plain[key])
        waiting = [at for at in plain.values() if at is not None]
        assert deadlines.earliest() == min(waiting, default=None)
        if random.random() < 0.3:
            now += random.randrange(10)
            expected = {key for key, at in plain.items() if at is not None and at <= now}
            due = deadlines.due(now)
            assert set(due) == expected
            assert [plain[key] for key in due] == sorted(at for key in due if (at := plain[key]) is not None)
            plain.update(dict.fromkeys(due))


def test_equal_times_keep_the_order_of_report() -> None:
    deadlines: Deadlines[str] = Deadlines()
    for key in ("c", "a", "b", "a"):
        deadlines.report(key, 5)
    assert deadlines.due(5) == ["c", "a", "b"]


class Wait(enum.Enum):
    REPEAT = enum.auto()
    GIVE_UP = enum.auto()


def test_timers_expire_until_they_are_stopped_or_set_again() -> None:
    timers: Timers[Wait] = Timers()
    assert timers.next() is None
    timers.set(Wait.GIVE_UP, 5)
    timers.set(Wait.REPEAT, 7)
    assert timers.next() == 5
    assert [timers.expired(timer, 5) for timer in Wait] == [False, True]
    timers.stop(Wait.GIVE_UP)
    assert [timers.expired(timer, 7) for timer in Wait] == [True, False]
    timers.set(Wait.REPEAT, 9)
    assert (timers.get(Wait.REPEAT), timers.next()) == (9, 9)
    timers.set(Wait.REPEAT, None)
    assert timers.next() is None


def test_calls_come_in_order_and_what_they_make_due_at_once() -> None:
    queue, seen = EventQueue(), []

    def again() -> None:
        seen.append("again")
        queue.call_after(0, seen.append, "made due")

    queue.call_at(3, seen.append, "later")
    queue.call_at(1, again)
    queue.call_at(1, seen.append, "equal")
    queue.run(2)
    assert (seen, queue.deadline()) == (["again", "equal", "made due"], 3)
    queue.run_next()
    assert (seen[-1], queue.deadline()) == ("later", None)
