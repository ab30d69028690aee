"""Probes of the ARP monitor: recordings and drivers with other probes than the right ones do not pass."""

import dataclasses
import lzma
from pathlib import Path

import pytest

from ibbond.abi.recording import Recording, parse_recording
from ibbond.bonding.bond import Bond
from ibbond.netdev.device import Device
from ibbond.replay.conform import Result, Verdict, replay
from ibbond.replay.world import RecordedWorld

GOLDEN = Path(__file__).parents[1] / "golden"
RECORDINGS = [path.read_bytes() for path in sorted((GOLDEN / "kernel-6.1").glob("arpmon.json"))] + [
    lzma.decompress(path.read_bytes()) for path in sorted((GOLDEN / "kernel-6.1-more").glob("arpmon.json.xz"))
]


def probes(case: Recording) -> list[int]:
    """Where the probes are among the recorded events, in their order."""
    found = [
        (float(str(row["t_ms"])), number)
        for number, row in enumerate(case.observations.events)
        if (row.get("arp"), row.get("dir")) == ("request", "out") and row.get("spa") != row.get("tpa")
    ]
    return [number for _, number in sorted(found)]


def stalled(case: Recording) -> bool:
    return any(step.fuzzy and step.path.endswith("link_failure_count") for step in case.steps)


CASES = {
    case.name: case
    for text in RECORDINGS
    for case in parse_recording(text)
    if case.monitor and probes(case) and not stalled(case)
}


def with_rows(case: Recording, rows: list[dict[str, object]]) -> Recording:
    return dataclasses.replace(case, observations=dataclasses.replace(case.observations, events=tuple(rows)))


def about_probes(result: Result) -> bool:
    return result.verdict is Verdict.FAILED and str(result.differences[0].step).startswith("probes")


def test_there_are_recordings_of_probes() -> None:
    assert len(CASES) == 35


@pytest.mark.parametrize("name", sorted(CASES))
@pytest.mark.parametrize("odd", [0, 1])
def test_every_second_probe_may_not_be_missing(name: str, odd: int) -> None:
    case = CASES[name]
    dropped = set(probes(case)[odd::2])
    rows = [row for number, row in enumerate(case.observations.events) if number not in dropped]
    assert about_probes(replay(with_rows(case, rows)))


@pytest.mark.parametrize("name", sorted(CASES))
def test_there_may_not_be_twice_as_many_probes(name: str) -> None:
    case = CASES[name]
    events = case.observations.events
    assert about_probes(replay(with_rows(case, [*events, *(events[number] for number in probes(case))])))


@pytest.mark.parametrize("name", sorted(CASES))
@pytest.mark.parametrize("which", [0, 1, 0.5, -1])
@pytest.mark.parametrize("key", ["tpa", "sha", "tha"])
def test_one_wrong_field_of_one_probe_is_noticed(name: str, which: float, key: str) -> None:
    """Also of the first one, of which only the source does not count."""
    case = CASES[name]
    found = probes(case)
    number = found[int(len(found) * which) if which == 0.5 else int(which)]
    rows = list(case.observations.events)
    rows[number] = {**rows[number], key: "10.9.9.9" if key == "tpa" else str(rows[number][key])[:-2] + "77"}
    assert about_probes(replay(with_rows(case, rows)))


def test_the_source_counts_but_for_the_first_probe() -> None:
    case = CASES["arpmon/eth/steady"]
    for place, verdict in ((0, Verdict.PASSED), (1, Verdict.FAILED)):
        number = probes(case)[place]
        rows = list(case.observations.events)
        rows[number] = {**rows[number], "spa": "10.0.0.77"}
        assert replay(with_rows(case, rows)).verdict is verdict


@pytest.mark.parametrize("name", sorted(CASES))
def test_a_driver_that_probes_twice_does_not_pass(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    once = RecordedWorld._probe_arp

    def twice(world: RecordedWorld, bond: Bond, member: Device, target: bytes) -> None:
        once(world, bond, member, target)
        once(world, bond, member, target)

    monkeypatch.setattr(RecordedWorld, "_probe_arp", twice)
    assert replay(CASES[name]).verdict is Verdict.FAILED


@pytest.mark.parametrize("name", sorted(CASES))
def test_a_driver_that_probes_every_second_time_does_not_pass(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that does not probe a target gets no answer, so its verdicts may differ, too."""
    once, calls = RecordedWorld._probe_arp, [0]

    def seldom(world: RecordedWorld, bond: Bond, member: Device, target: bytes) -> None:
        calls[0] += 1
        if calls[0] % 2:
            once(world, bond, member, target)

    monkeypatch.setattr(RecordedWorld, "_probe_arp", seldom)
    assert replay(CASES[name]).verdict is Verdict.FAILED


def test_a_stall_excuses_no_probes_that_are_too_many() -> None:
    """The one recording that stalled during a wait: 256 ms more than the 800 asked for, half of the rounds missing."""
    case = CASES["arpmon/ib/all-targets-any"]
    assert replay(case).verdict is Verdict.PASSED
    starts = list(case.observations.step_t_ms)
    start, end = starts[11:13]
    found = [case.observations.events[number] for number in probes(case)]
    inside = [row for row in found if start <= float(str(row["t_ms"])) < end]
    assert about_probes(replay(with_rows(case, [*case.observations.events, *inside * 2])))
