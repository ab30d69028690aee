"""The agenda against the obvious: ask everybody for the earliest deadline."""

from random import Random

import pytest

from ibbond.stack.agenda import Agenda


@pytest.mark.parametrize("seed", range(20))
def test_agenda_is_the_minimum_of_all(seed: int) -> None:
    random = Random(seed)
    agenda: Agenda[int] = Agenda()
    plain: dict[int, int | None] = {}
    now = 0
    for _ in range(300):
        key = random.randrange(8)
        plain[key] = random.choice([None, now + random.randrange(20)])
        agenda.report(key, plain[key])
        waiting = [at for at in plain.values() if at is not None]
        assert agenda.earliest() == min(waiting, default=None)
        if random.random() < 0.3:
            now += random.randrange(10)
            expected = {key for key, at in plain.items() if at is not None and at <= now}
            due = agenda.due(now)
            assert set(due) == expected
            assert [plain[key] for key in due] == sorted(at for key in due if (at := plain[key]) is not None)
            plain.update(dict.fromkeys(due))


def test_equal_times_keep_the_order_of_report() -> None:
    agenda: Agenda[str] = Agenda()
    for key in ("c", "a", "b", "a"):
        agenda.report(key, 5)
    assert agenda.due(5) == ["c", "a", "b"]
