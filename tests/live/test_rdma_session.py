"""The block session between two processes in two lab hosts, while cables are pulled."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ibbond.backend.control_socket import Control, runtime_directory
from ibbond.errors import Refused

IBBOND = str(Path(sys.executable).parent / "ibbond")


def test_every_write_is_done_once_through_a_failover_of_either_end() -> None:
    command = [IBBOND, "lab", "rdma-session", "h1", "h2", "--failovers", "2", "--json"]
    done = subprocess.run(command, text=True, capture_output=True, timeout=120, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert (report["mode"], report["verified"]) == ("live", True)
    assert (report["writes_lost"], report["writes_doubled"]) == (0, 0)
    assert report["writes"] > 100
    assert [each["sign"] for each in report["failovers"]] == ["ADDR_CHANGE", "RETRY_EXCEEDED"]
    for failover in report["failovers"]:
        assert failover["first_io_ms"] > failover["reconnected_ms"] > failover["resolved_ms"]


def test_a_running_lab_is_used_and_left_as_it_was(lab: str) -> None:
    run("lab", "up", "--name", lab)
    try:
        before = json.loads(run("lab", "status", "--name", lab, "--json"))
        report = json.loads(
            run("lab", "rdma-session", "--name", lab, "h1", "h2", "--failovers", "1", "--ignore-addr-change", "--json")
        )
        assert report["settings"]["heed_address_change"] is False
        assert (report["verified"], report["writes_lost"], report["writes_doubled"]) == (True, 0, 0)
        (failover,) = report["failovers"]
        assert failover["sign"] == "RETRY_EXCEEDED"
        assert failover["addr_change_ms"] < failover["error_seen_ms"] < failover["first_io_ms"]
        after = json.loads(run("lab", "status", "--name", lab, "--json"))
        assert (after["pid"], after["cables"]) == (before["pid"], before["cables"])
    finally:
        run("lab", "down", "--name", lab)


def test_a_host_that_is_not_there_is_refused_and_no_lab_stays() -> None:
    done = subprocess.run([IBBOND, "lab", "rdma-session", "h1", "h9"], text=True, capture_output=True, timeout=60)
    assert done.returncode == 2
    assert "h9" in done.stderr
    assert not list(runtime_directory().glob("rdma*"))


def steady_status(lab: str) -> object:
    """The status of a lab without its counters: neighbor discovery sends a packet now and then."""

    def steady(value: object) -> object:
        if isinstance(value, dict):
            return {key: steady(item) for key, item in value.items() if not key.endswith(("_packets", "_bytes"))}
        return [steady(item) for item in value] if isinstance(value, list) else value

    facts = json.loads(run("lab", "status", "--name", lab, "--json"))
    return steady({key: value for key, value in facts.items() if key != "late"})


def test_a_service_port_that_is_taken_is_refused_and_nothing_is_touched(running: str) -> None:
    target = subprocess.Popen(
        [IBBOND, "lab", "exec", "--name", running, "h2", "--", sys.executable, "-m", "ibbond.rdma.program", "target"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert target.stdout is not None
    assert target.stdout.readline() == b"ready\n"
    before = steady_status(running)
    command = [IBBOND, "lab", "rdma-session", "--name", running, "h1", "h2"]
    done = subprocess.run(command, text=True, capture_output=True, timeout=60, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("ibbond: cannot start the target on h2: its service port 3260 is in use. ")
    assert len(done.stderr.splitlines()) == 1
    assert steady_status(running) == before
    target.communicate(timeout=10)
    assert target.returncode == 0


@pytest.mark.parametrize(
    ("number", "code", "words"),
    [
        (signal.SIGINT, 130, "ibbond: interrupted\n"),
        (signal.SIGTERM, 143, "ibbond: ended by SIGTERM; every cable that was unplugged is plugged in again\n"),
    ],
)
def test_a_signal_ends_it_with_every_cable_plugged(running: str, number: int, code: int, words: str) -> None:
    session = begin_and_see_a_cable_pulled(running)
    os.killpg(session.pid, number)
    out, errors = session.communicate(timeout=5)
    assert (session.returncode, out, errors.lstrip("\n")) == (code, "", words)
    assert not cut(running)
    assert not programs(running)


def test_a_lab_that_is_taken_down_under_it_is_reported(running: str) -> None:
    session = begin_and_see_a_cable_pulled(running)
    run("lab", "down", "--name", running)
    out, errors = session.communicate(timeout=10)
    assert (session.returncode, out) == (2, "")
    assert errors.startswith("ibbond: the ")
    assert len(errors.splitlines()) == 1, errors


def test_its_programs_end_with_it_even_when_it_is_killed_and_the_lab_plugs_its_cable(running: str) -> None:
    session = begin_and_see_a_cable_pulled(running)
    session.kill()
    _, errors = session.communicate(timeout=5)  # its programs have the same standard error
    assert errors == ""
    assert not programs(running)
    until = time.monotonic() + 2
    while cut(running):
        assert time.monotonic() < until, "the cable of a session that was killed stays out"


def test_a_cable_is_out_for_as_long_as_who_pulled_it_is_there(running: str) -> None:
    with Control.of(running) as other:
        with Control.of(running) as holder:
            holder.ask("pull", cable="h1/ib0")
            assert cut(running) == ["h1/ib0"]
            with pytest.raises(Refused, match="already cut"):
                other.ask("pull", cable="h1/ib0")
        until = time.monotonic() + 2
        while cut(running):
            assert time.monotonic() < until


@pytest.fixture
def running(lab: str) -> Iterator[str]:
    run("lab", "up", "--name", lab)
    yield lab
    subprocess.run([IBBOND, "lab", "down", "--name", lab], capture_output=True, check=False)


def begin_and_see_a_cable_pulled(name: str) -> subprocess.Popen[str]:
    command = [IBBOND, "lab", "rdma-session", "--name", name, "h1", "h2"]
    session = subprocess.Popen(
        command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, process_group=0
    )
    until = time.monotonic() + 20
    while not cut(name):
        assert session.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)
    time.sleep(0.3)
    return session


def cut(name: str) -> list[str]:
    status = json.loads(run("lab", "status", "--name", name, "--json"))
    return [cable["name"] for cable in status["cables"] if cable["state"] == "cut"]


def programs(name: str) -> list[str]:
    """The processes that are ends of a session in this lab, a moment later."""
    time.sleep(0.5)
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words, around = (process / "cmdline").read_bytes(), (process / "environ").read_bytes()
            if b"ibbond.rdma.program" in words and f"/{name}.sock".encode() in around:
                found.append(process.name)
    return found


def run(*words: str) -> str:
    done = subprocess.run([IBBOND, *words], text=True, capture_output=True, timeout=120, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
