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
        (("h1", "h2", "--json"), "Options go before the hosts"),
        (("h1", "h2", "--"), "nothing was given after --"),
    ],
)
def test_a_probe_that_cannot_be_is_refused(name: str, words: tuple[str, ...], said: str) -> None:
    done = ibbond("lab", "probe", "--name", name, *words)
    assert done.returncode == 2
    assert said in done.stderr


def test_top_shows_which_member_carries(name: str) -> None:
    traffic = subprocess.Popen(
        [IBBOND, "lab", "exec", "--name", name, "h1", "--", "ping", "-n", "-i", "0.02", "10.0.0.2"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert traffic.stdout is not None
    assert any("bytes from" in line for line in traffic.stdout)  # it runs
    try:
        done = ibbond("lab", "top", "--name", name, "--times", "2", "--every", "1", "--json", "h1")
    finally:
        traffic.terminate()
        traffic.communicate()
    looks = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(looks) == 2
    [bond] = looks[-1]["bonds"]
    carrying = {member["name"]: member["tx_packets"] for member in bond["members"]}
    assert bond["name"] == "h1/bond0"
    assert carrying[bond["active"]] > 10
    assert sum(carrying.values()) == carrying[bond["active"]]
    assert {cable["name"] for cable in looks[-1]["cables"]} == {"h1/ib0", "h1/ib1"}
    text = ibbond("lab", "top", "--name", name, "--times", "1", "--every", "0.1").stdout
    assert f"* {bond['active']}" in text
    assert ibbond("lab", "top", "--name", name, "--times", "1", "h9").returncode == 2


def test_doctor_finds_that_labs_run_here() -> None:
    done = ibbond("lab", "doctor", "--json")
    facts = json.loads(done.stdout)
    assert (done.returncode, facts["able"]) == (0, True)
    states = {finding["name"]: finding["state"] for finding in facts["findings"]}
    assert states["labs"] == states["TUN devices"] == "ok"
    assert all(finding["fix"] for finding in facts["findings"] if finding["state"] != "ok")
    assert "TUN devices" in ibbond("lab", "doctor").stdout
