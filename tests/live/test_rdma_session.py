"""The block session between two processes in two lab hosts, while cables are pulled."""

import json
import subprocess
import sys
from pathlib import Path

IBBOND = str(Path(sys.executable).parent / "ibbond")


def test_every_write_is_done_once_through_a_failover_of_either_end() -> None:
    command = [IBBOND, "lab", "rdma-session", "h1", "h2", "--failovers", "2", "--json"]
    done = subprocess.run(command, text=True, capture_output=True, timeout=120, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["mode"], report["verified"]) == ("live", True)
    assert (report["writes_lost"], report["writes_doubled"]) == (0, 0)
    assert report["writes"] > 100
    assert [each["sign"] for each in report["failovers"]] == ["ADDR_CHANGE", "UNREACHABLE"]
    for failover in report["failovers"]:
        assert failover["first_io_ms"] > failover["reconnected_ms"] > failover["resolved_ms"]
