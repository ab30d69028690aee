"""Looking at a running lab: neighbors, what a fault costs, who carries what, what this machine gives."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

IBBOND = str(Path(sys.executable).with_name("ibbond"))


def ibbond(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([IBBOND, *words], capture_output=True, text=True, timeout=90, stdin=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def name() -> Iterator[str]:
    name = f"look{os.getpid() % 100000}"
    assert ibbond("lab", "up", "--name", name).returncode == 0
    yield name
    ibbond("lab", "down", "--name", name)


def test_neighbors_are_shown_with_their_ports(name: str) -> None:
    assert ibbond("lab", "exec", "--name", name, "h1", "--", "ping", "-n", "-c", "1", "10.0.0.2").returncode == 0
    rows = json.loads(ibbond("lab", "neighbors", "--name", name, "h1", "--json").stdout)["neighbors"]
    (row,) = [row for row in rows if row["address"] == "10.0.0.2"]
    assert (row["host"], row["device"], row["port"], row["state"]) == ("h1", "bond0", "h2/ib0", "REACHABLE")
    assert len(row["hardware_address"].split(":")) == 20
    assert 0 <= row["age_ms"] < 60_000
    assert "h2/ib0" in ibbond("lab", "neighbors", "--name", name).stdout
    assert ibbond("lab", "neighbors", "--name", name, "h7").returncode == 2


def test_a_probe_measures_what_a_command_does(name: str) -> None:
    done = ibbond(
        "lab", "probe", "--name", name, "--json", "h1", "h2", "--", "ibbond", "lab", "flap", "h1/ib0", "--times", "1"
    )
    found = json.loads(done.stdout)
    assert (done.returncode, found["exit"], found["works"]) == (0, 0, True), found
    assert {"cut", "failover", "mend"} <= {event["what"] for event in found["events"]}
    assert all(0 <= event["t_ms"] <= found["seconds"] * 1000 for event in found["events"])
    assert set(found["protocols"]) == {"udp", "multicast", "icmp", "tcp"}
    assert all(row["sent"] and row["received"] for row in found["protocols"].values())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("h1", "h7"), "no host h7"),
        (("h1", "h1"), "to itself"),
        (("h1", "h2", "--", "no-such-program"), "no such program"),
        (("h1", "h2", "--json"), "Options stand before the hosts"),
        (("h1", "h2", "--"), "nothing follows --"),
    ],
)
def test_a_probe_that_cannot_be_is_refused(name: str, words: tuple[str, ...], said: str) -> None:
    done = ibbond("lab", "probe", "--name", name, *words)
    assert done.returncode == 2
    assert said in done.stderr
