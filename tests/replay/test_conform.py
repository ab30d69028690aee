"""Every recording of the kernel's driver, replayed; and recordings that were tampered with, which must not pass."""

import dataclasses
import json
import lzma
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ibbond.abi.recording import Recording, Step, parse_recording
from ibbond.cli.main import run
from ibbond.replay.conform import Result, Verdict, replay
from ibbond.replay.skips import SKIPS

GOLDEN = Path(__file__).parents[1] / "golden" / "kernel-6.1"
UNDECIDED = {
    # A run of the monitor that lasted longer than its interval, and announced between.
    "more/phases-a/phases/arp-ib/filter-active-returns",
    # One of three recordings has the report after the second notice.
    "more/failover2/failover2/eth/second-failover-during-announcements",
}
MORE = {
    f"more/{path.name.split('.')[0]}/{case.name}": case
    for path in sorted((GOLDEN.parent / "kernel-6.1-more").glob("*.json.xz"))
    for case in parse_recording(lzma.decompress(path.read_bytes()))
}
NEWER = {
    case.name: case
    for path in sorted((GOLDEN.parent / "kernel-6.12").glob("*.json.xz"))
    for case in parse_recording(lzma.decompress(path.read_bytes()))
}
CASES = {case.name: case for path in sorted(GOLDEN.glob("*.json")) for case in parse_recording(path.read_bytes())}


def first(result: Result) -> str:
    return str(result.differences[0]) if result.differences else result.reason


@pytest.mark.parametrize("name", sorted(CASES))
def test_our_driver_does_what_the_kernels_did(name: str) -> None:
    result = replay(CASES[name])
    assert result.verdict is Verdict.PASSED or (result.verdict is Verdict.SKIPPED and name in SKIPS), first(result)


@pytest.mark.parametrize("name", sorted(MORE))
def test_our_driver_does_what_the_kernels_did_in_generated_cases(name: str) -> None:
    result = replay(MORE[name])
    assert (result.verdict is Verdict.PASSED) == (name not in UNDECIDED), first(result)


@pytest.mark.parametrize("name", sorted(NEWER))
def test_our_driver_does_what_that_of_6_12_did(name: str) -> None:
    result = replay(NEWER[name], "kernel-6.12")
    assert result.verdict is Verdict.PASSED or name in SKIPS, first(result)


def test_the_page_on_both_kernels_is_what_the_recordings_say() -> None:
    subprocess.run([sys.executable, GOLDEN.parents[2] / "scripts/kernel-versions", "--check"], check=True)


def test_skips_name_cases_that_exist_and_may_be_skipped() -> None:
    assert all(name in CASES and "802.3ad" in name and reason for name, reason in SKIPS.items())


def tampered(case: Recording, number: int, **changes: Any) -> Recording:
    steps = list(case.steps)
    steps[number] = dataclasses.replace(steps[number], **changes)
    return dataclasses.replace(case, steps=tuple(steps))


def steps_of(case: Recording, *ops: str) -> list[tuple[int, Step]]:
    return [(number, step) for number, step in enumerate(case.steps) if step.op in ops and step.fuzzy is not True]


SAMPLE = sorted(name for name in CASES if name not in SKIPS)[::7]


@pytest.mark.parametrize("name", SAMPLE)
def test_another_answer_is_noticed_at_its_step(name: str) -> None:
    for number, step in steps_of(CASES[name], "read", "maddr", "proc")[:5]:
        if step.errno:
            continue
        wrong = [*step.expect, "ff"] if isinstance(step.expect, list) else f"{step.expect}x".replace("802.3ad info", "")
        if step.op == "proc":
            wrong = str(step.expect).replace("MII Polling", "MII polling")
        result = replay(tampered(CASES[name], number, expect=wrong))
        assert result.verdict is Verdict.FAILED
        assert result.differences[0].step == number


@pytest.mark.parametrize("name", SAMPLE)
def test_a_missing_errno_and_one_too_many_are_noticed(name: str) -> None:
    for number, step in steps_of(CASES[name], "write", "enslave", "release", "masters")[:8]:
        result = replay(tampered(CASES[name], number, errno="" if step.errno else "EINVAL"))
        assert result.verdict is Verdict.FAILED
        assert result.differences[0].step == number


@pytest.mark.parametrize("key", ["type", "address", "mtu", "flags", "carrier", "max_mtu", "master", "promiscuity"])
def test_every_key_of_a_link_counts(key: str) -> None:
    case = CASES["enslave/ib/infiniband-down/active-backup/bond-up"]
    number, step = steps_of(case, "link")[1]
    assert isinstance(step.expect, dict)
    result = replay(tampered(case, number, expect={**step.expect, key: "else"}))
    assert [difference.step for difference in result.differences] == [number]


def test_what_depends_on_the_link_watch_does_not_count() -> None:
    case = CASES["enslave/ib/infiniband-down/active-backup/bond-up"]
    number, step = steps_of(case, "link")[1]
    assert isinstance(step.expect, dict)
    flags = step.expect["flag_names"]
    assert isinstance(flags, list)
    names = [name for name in flags if name != "RUNNING"]
    result = replay(tampered(case, number, expect={**step.expect, "operstate": "dormant", "flag_names": names}))
    assert result.verdict is Verdict.PASSED, first(result)


def test_fuzzy_answers_do_not_count() -> None:
    case = CASES["enslave/ib/infiniband-down/active-backup/bond-up"]
    number, step = steps_of(case, "link")[1]
    assert isinstance(step.expect, dict)
    wrong = {**step.expect, "mtu": "1", "type": "7"}
    assert replay(tampered(case, number, expect=wrong, fuzzy=("mtu", "type"))).verdict is Verdict.PASSED
    assert replay(tampered(case, number, expect=wrong, fuzzy=("mtu",))).verdict is Verdict.FAILED
    assert replay(tampered(case, number, expect=wrong, fuzzy=True)).verdict is Verdict.PASSED


def with_events(case: Recording, change: dict[int, dict[str, object] | None]) -> Recording:
    events = [change.get(number, row) for number, row in enumerate(case.observations.events)]
    kept = tuple(row for row in events if row is not None)
    return dataclasses.replace(case, observations=dataclasses.replace(case.observations, events=kept))


def numbers(case: Recording, what: str, **facts: object) -> list[int]:
    return [
        number
        for number, row in enumerate(case.observations.events)
        if row["what"] == what and all(str(value) in str(row.get(key, "")) for key, value in facts.items())
    ]


CASE = CASES["failover/grat-arp/active-num3-delay300"]


@pytest.mark.parametrize(
    ("what", "facts", "projection"),
    [
        ("log", {"text": "link status definitely down"}, "verdicts"),
        ("log", {"text": "making interface the new active one"}, "verdicts"),
        ("rtnetlink", {"event": "NOTIFY_PEERS"}, "rtnetlink"),
        ("rtnetlink", {"event": "BONDING_FAILOVER"}, "rtnetlink"),
        ("rtnetlink", {"event": "IGMP_RESEND"}, "rtnetlink"),
        ("frame", {"dir": "out", "spa": "10.0.0.1", "tpa": "10.0.0.1"}, "announcements"),
    ],
)
def test_an_event_less_and_one_too_many_are_noticed(what: str, facts: dict[str, object], projection: str) -> None:
    number = numbers(CASE, what, **facts)[-1]
    row = CASE.observations.events[number]
    less = replay(with_events(CASE, {number: None}))
    assert less.differences
    assert str(less.differences[0].step).startswith(projection)
    twice = dataclasses.replace(
        CASE, observations=dataclasses.replace(CASE.observations, events=(*CASE.observations.events, row))
    )
    assert str(replay(twice).differences[0].step).startswith(projection)


def test_a_field_of_an_announcement_counts() -> None:
    number = numbers(CASE, "frame", dir="out", spa="10.0.0.1", tpa="10.0.0.1")[0]
    row = {**CASE.observations.events[number], "sha": "02:00:00:00:00:01"}
    assert str(replay(with_events(CASE, {number: row})).differences[0].step).startswith("announcements")


def test_a_verdict_at_another_time_is_noticed() -> None:
    number = numbers(CASE, "log", text="link status definitely down")[0]
    row = {**CASE.observations.events[number]}
    row["t_ms"] = float(str(row["t_ms"])) + 900
    assert replay(with_events(CASE, {number: row})).verdict is Verdict.FAILED


def test_polled_values_must_be_ours_in_their_order() -> None:
    number = numbers(CASE, "state", key="ib0/mii_status", value="down")[0]
    row = {**CASE.observations.events[number], "value": "going back"}
    assert str(replay(with_events(CASE, {number: row})).differences[0].step) == "state"


def test_a_stalled_recording_is_not_held_against_us() -> None:
    case = with_events(CASE, dict.fromkeys(numbers(CASE, "log")))
    assert replay(case).verdict is Verdict.FAILED
    count = next(number for number, step in enumerate(case.steps) if step.op == "link")
    stalled = tampered(case, count, op="read", path="bonding_slave/link_failure_count", dev="ib0", fuzzy=True)
    assert replay(stalled).verdict is Verdict.PASSED


@pytest.mark.parametrize("count", [0, 40])
def test_the_number_of_probes_counts(count: int) -> None:
    case = CASES["arpmon/eth/steady"]
    probes = numbers(case, "frame", dir="out", arp="request", tpa="10.0.0.254")
    if not count:
        assert replay(with_events(case, dict.fromkeys(probes[1:]))).verdict is Verdict.FAILED
        return
    more = case.observations.events + tuple(case.observations.events[number] for number in probes) * 3
    many = dataclasses.replace(case, observations=dataclasses.replace(case.observations, events=more))
    assert replay(many).verdict is Verdict.FAILED


def test_the_default_profile_is_another_driver() -> None:
    assert replay(CASES["failover/short-flap-unseen"], "default").verdict is Verdict.FAILED


def test_a_command_of_ip_that_no_one_knows_fails_the_case() -> None:
    case = CASES["masters/ip-link"]
    number = steps_of(case, "ip")[0][0]
    result = replay(tampered(case, number, args="link add dummy0 type dummy"))
    assert result.verdict is Verdict.FAILED
    assert "type dummy" in first(result)


def test_a_broken_promise_of_ours_fails_the_case_and_not_the_run() -> None:
    case = CASES["failover/basic/miimon100-up0-down0"]
    number = steps_of(case, "carrier")[0][0]
    result = replay(tampered(case, number, dev="lo0"))
    assert result.verdict is Verdict.FAILED


@pytest.mark.parametrize("ms", [-5, -0.5])
def test_a_wait_of_less_than_nothing_is_malformed_at_its_line(
    ms: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [json.loads(line) for line in (GOLDEN / "arpmon.json").read_text().splitlines()[:2]]
    number = next(number for number, step in enumerate(lines[1]["steps"]) if step["op"] == "wait_ms")
    lines[1]["steps"][number]["ms"] = ms
    path = tmp_path / "case.json"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert run(["conform", str(path)]) == 2
    error = capsys.readouterr().err
    assert "line 2: " in error
    assert f"step {number} waits {ms:.1f} ms" in error
