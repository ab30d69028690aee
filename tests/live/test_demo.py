"""`ibbond demo` as people and graders call it: one object, exit codes, a report; and what each patch of 2007 is for."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

IBBOND = str(Path(sys.executable).parent / "ibbond")
PROTOCOLS = {"icmp", "udp", "tcp", "multicast"}


STARTED: list[int] = []  # the demos of these tests: others run on the machine meanwhile


def start(*words: str, **options: Any) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [IBBOND, "demo", *words], text=True, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, **options
    )
    STARTED.append(process.pid)
    return process


def demo(*words: str) -> subprocess.CompletedProcess[str]:
    with start(*words, stdout=subprocess.PIPE) as process:
        try:
            out, err = process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    return subprocess.CompletedProcess(words, process.returncode, out, err)


def left() -> list[str]:
    """What the demos of these tests have left on the machine."""
    netns, runtime = Path("/run/netns"), Path("/run/ibbond")
    names = [path.name for path in netns.iterdir()] if netns.is_dir() else []
    spaces = [name for name in names if any(name.startswith(f"ibbond-demo{pid}-") for pid in STARTED)]
    return spaces + [path.name for pid in STARTED for path in runtime.glob(f"demo{pid}.*")]


def test_one_object_and_exit_0_when_every_protocol_survived(tmp_path: Path) -> None:
    done = demo("--rounds", "1", "--json", "--report", str(tmp_path / "report"))
    facts = json.loads(done.stdout)
    assert done.returncode == 0, facts
    assert set(facts) == {"mode", "rounds", "survived", "events", "protocols", "late_ms", "report"}
    assert (facts["mode"], facts["rounds"], facts["survived"]) == ("live", 1, True)
    assert set(facts["protocols"]) == PROTOCOLS
    for protocol in facts["protocols"].values():
        assert set(protocol) == {"sent", "received", "failover", "failback"}
        assert protocol["sent"] >= protocol["received"] > 0
        for kind in ("failover", "failback"):
            assert set(protocol[kind]) == {"lost_max", "outage_ms_median", "outage_ms_max"}
            assert protocol[kind]["outage_ms_median"] <= protocol[kind]["outage_ms_max"] < 1500
    words = [event["what"] for event in facts["events"]]
    assert words.count("cut") == words.count("mend") == words.count("failover") == words.count("failback") == 2
    assert {event["where"] for event in facts["events"] if event["what"] == "cut"} == {"h1/ib0", "h1/ib1"}
    times = [event["t_ms"] for event in facts["events"]]
    assert times[0] > 0
    report = Path(facts["report"]).read_text()
    assert "<svg" in report
    assert "every protocol survived" in report
    assert left() == []


def test_the_text_names_every_protocol_and_the_verdict() -> None:
    done = demo("--rounds", "1")
    assert done.returncode == 0, done.stdout
    for word in (*PROTOCOLS, "pulled h1/ib0", "plugged h1/ib1", "every protocol survived"):
        assert word in done.stdout


def test_an_rdma_session_stands_beside_the_others(tmp_path: Path) -> None:
    done = demo("--rounds", "1", "--rdma", "--json", "--report", str(tmp_path))
    facts = json.loads(done.stdout)
    assert done.returncode == 0, facts
    assert set(facts) == {"mode", "rounds", "survived", "events", "protocols", "late_ms", "report", "rdma"}
    assert set(facts["protocols"]) == PROTOCOLS
    session = facts["rdma"]
    assert (session["writes_lost"], session["writes_doubled"], session["verified"]) == (0, 0, True)
    assert session["sent"] == session["received"] == session["writes"] > 100
    assert {row["what"] for row in session["failovers"]} >= {"failover", "failback"}
    for row in session["failovers"]:
        assert row["sign"] == "ADDR_CHANGE", "every move is one of the initiator's own bond"
        assert row["failover_ms"] - 20 <= row["addr_change_ms"] <= row["reconnected_ms"] <= row["first_io_ms"]
    page = Path(facts["report"]).read_text()
    assert "The RDMA session" in page
    assert page.count(">rdma<") >= 1, "a lane of its own"


@pytest.mark.parametrize(
    ("row", "breaks"),
    [
        ("dev_setup", PROTOCOLS),
        ("set_mac_address", PROTOCOLS),
        ("allow_not_up_enslave", {"multicast"}),
        ("ipoib_neighbour", {"tcp", "udp"}),
    ],
)
def test_without_a_patch_of_2007_something_breaks(row: str, breaks: set[str]) -> None:
    done = demo("--rounds", "1", "--without", row)
    assert done.returncode == 1
    assert f"without {row}:" in done.stdout
    table = [line.split() for line in done.stdout.splitlines() if line.split()[:1] and line.split()[0] in PROTOCOLS]
    broken = {words[0] for words in table if words[-1] == "no"}
    assert breaks <= broken
    assert left() == []


@pytest.mark.parametrize("moment", [0.3, 1.2, 3.0])
def test_ctrl_c_leaves_nothing(moment: float) -> None:
    process = start(stdout=subprocess.DEVNULL, process_group=0)
    time.sleep(moment)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(30) in (130, -signal.SIGINT)  # the latter while Python itself still starts
    assert process.stderr is not None
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()
    assert left() == []


def test_a_killed_demo_takes_its_lab_with_it() -> None:
    process = start(stdout=subprocess.DEVNULL)
    end = time.monotonic() + 20
    while not any("sock" in name for name in left()) and time.monotonic() < end:
        time.sleep(0.1)
    time.sleep(2)
    process.kill()
    process.communicate()
    end = time.monotonic() + 20
    while left() and time.monotonic() < end:
        time.sleep(0.1)
    assert left() == []
