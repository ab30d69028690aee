"""Counting and logging of what fails (`host.guard`)."""

from ibbond.host.guard import WHOLE, Entry, Faults


def fail() -> None:
    raise KeyError("x")


def test_each_entry_is_counted_by_itself() -> None:
    faults = Faults(write=lambda _: None)
    assert not faults.guard(Entry.UMAD, fail)
    assert not faults.guard(Entry.UMAD, fail)
    assert not faults.guard(Entry.PACKET, fail)
    assert faults.guard(Entry.TIMER, lambda: None)
    faults.malformed[Entry.RDMA] += 1
    assert faults.facts() == {"faults": {"packet": 1, "umad": 2}, "malformed": {"rdma": 1}}


def test_what_is_made_to_fail_again_and_again_does_not_fill_the_log() -> None:
    lines: list[str] = []
    faults = Faults(write=lines.append)
    for _ in range(100_000):
        faults.guard(Entry.PACKET, fail)
    assert len(lines) == WHOLE + 5, "and one at 10, 100, ..."
    assert "Traceback" in lines[0]
    assert "KeyError: 'x'" in lines[0]
    assert faults.counts[Entry.PACKET] == 100_000


def test_the_client_is_dropped_even_when_that_fails_too() -> None:
    faults = Faults(write=lambda _: None)
    dropped: list[int] = []

    def drop() -> None:
        dropped.append(1)
        raise OSError

    assert not faults.guard(Entry.RDMA, fail, drop)
    assert dropped == [1]
    assert faults.counts[Entry.RDMA] == 2
