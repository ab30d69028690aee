"""The block session between two processes in two lab hosts, while cables are pulled."""

import json
import subprocess
import sys
from pathlib import Path

from ibbond.backend.control_socket import runtime_directory

IBBOND = str(Path(sys.executable).parent / "ibbond")


def test_every_write_is_done_once_through_a_failover_of_either_end() -> None:
    command = [IBBOND, "lab", "rdma-session", "h1", "h2", "--failovers", "2", "--json"]
    done = subprocess.run(command, text=True, capture_output=True, timeout=120, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert (report["mode"], report["verified"]) == ("live", True)
    assert (report["writes_lost"], report["writes_doubled"]) == (0, 0)
    assert report["writes"] > 100
    assert [each["sign"] for each in report["failovers"]] == ["ADDR_CHANGE", "UNREACHABLE"]
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


def run(*words: str) -> str:
    done = subprocess.run([IBBOND, *words], text=True, capture_output=True, timeout=120, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
