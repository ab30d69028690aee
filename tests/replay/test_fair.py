"""Recordings that pass at their own recorded times only: a correct driver passes them, a wrong one still fails."""

import lzma
from collections.abc import Callable
from pathlib import Path

import pytest

from ibbond.abi.recording import Recording, parse_recording
from ibbond.bonding import arp_monitor, miimon
from ibbond.bonding.events import ArpSeen, FrameSeen, NeighborDiscoverySeen
from ibbond.bonding.member import Link, Member
from ibbond.bonding.state import State
from ibbond.replay.conform import Verdict, replay

MORE = Path(__file__).parents[1] / "golden/kernel-6.1-more"
Break = Callable[[pytest.MonkeyPatch], None]


def cases(file: str) -> list[Recording]:
    return [case for case in parse_recording(lzma.decompress((MORE / file).read_bytes())) if case.monitor]


ARP = [case for case in cases("phases-b.json.xz") if "arp" in case.name]


def missed_max_is_one_more(patch: pytest.MonkeyPatch) -> None:
    right = arp_monitor.is_within

    def wrong(state: State, last: int, intervals: int) -> bool:
        return right(state, last, intervals + (intervals == state.values.arp_missed_max))

    patch.setattr(arp_monitor, "is_within", wrong)


def missed_max_is_one_less(patch: pytest.MonkeyPatch) -> None:
    right = arp_monitor.is_within

    def wrong(state: State, last: int, intervals: int) -> bool:
        return right(state, last, intervals - (intervals == state.values.arp_missed_max))

    patch.setattr(arp_monitor, "is_within", wrong)


def the_wrong_member_is_next(patch: pytest.MonkeyPatch) -> None:
    def wrong(state: State) -> Member | None:
        return next((member for member in state.members.values() if member.usable), None)

    patch.setattr(arp_monitor, "_next_candidate", wrong)


def a_trial_lasts_two_runs(patch: pytest.MonkeyPatch) -> None:
    right, runs = arp_monitor._next_candidate, [0]

    def wrong(state: State) -> Member | None:
        runs[0] += 1
        last = state.arp_member
        return last if runs[0] % 2 and last is not None and last.usable else right(state)

    patch.setattr(arp_monitor, "_next_candidate", wrong)


def validation_is_ignored(patch: pytest.MonkeyPatch) -> None:
    def wrong(state: State, member: Member, event: ArpSeen | NeighborDiscoverySeen | FrameSeen) -> None:
        member.last_rx = state.now

    patch.setattr(arp_monitor, "frame_seen", wrong)


def failed(patch: pytest.MonkeyPatch, how: Break, recordings: list[Recording]) -> int:
    how(patch)
    return sum(replay(case).verdict is Verdict.FAILED for case in recordings)


@pytest.mark.parametrize(
    ("how", "least"),
    [
        (missed_max_is_one_more, 6),
        (missed_max_is_one_less, 6),
        (the_wrong_member_is_next, 3),
        (a_trial_lasts_two_runs, 3),
        (validation_is_ignored, 3),
    ],
)
def test_a_wrong_arp_monitor_fails(how: Break, least: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert failed(monkeypatch, how, ARP) >= least


def test_an_updelay_that_lasts_a_run_too_long_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    right = miimon.delays

    def wrong(state: State) -> dict[Link, int]:
        return {link: runs + (link is Link.DOWN and runs > 0) for link, runs in right(state).items()}

    def lengthen(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(miimon, "delays", wrong)

    assert failed(monkeypatch, lengthen, cases("failover.json.xz")) >= 1


def test_what_the_comparison_allowed_for_is_said() -> None:
    reasons = {case.name: replay(case).reason for case in cases("phases-c.json.xz")}
    assert reasons["phases/mii-ib/two-cables"] == "with a run of the monitor between its cables, as recorded"
    assert reasons["phases/arp-eth/missed-max-5"].startswith("at the recorded times")
