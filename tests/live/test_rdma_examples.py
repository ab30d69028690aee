"""The examples as separate processes inside lab hosts, with a failover in the middle."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ibbond.topology.default import TWO_HOSTS

IBBOND = str(Path(sys.executable).parent / "ibbond")
EXAMPLES = Path(__file__).parents[2] / "examples"
TWO_ADAPTERS = TWO_HOSTS.replace('ib1 = "s2"', 'ib1 = { to = "s2", hca = 2 }')


def ibbond(*words: str) -> str:
    done = subprocess.run([IBBOND, *words], text=True, capture_output=True, timeout=60, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def name(lab: str) -> Iterator[str]:
    ibbond("lab", "up", "--name", lab)
    yield lab
    ibbond("lab", "down", "--name", lab)


def begin(name: str, host: str, example: str, *words: str) -> subprocess.Popen[str]:
    """Start an example in a host, and wait for its `ready` where it takes part in something that lasts."""
    command = [IBBOND, "lab", "exec", "--name", name, host, "--", sys.executable, str(EXAMPLES / example), *words]
    process = subprocess.Popen(
        command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert example == "rdma-rping.py" or process.stdout.readline() == "ready\n"
    return process


def end(process: subprocess.Popen[str]) -> str:
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 0, out + errors
    return out


def kill(process: subprocess.Popen[str]) -> None:
    """As by kill -9: the program in the host is gone at once, and has said nothing."""
    process.kill()
    process.communicate(timeout=60)


def fail_over(name: str, host: str) -> None:
    ibbond("lab", "cut", "--name", name, f"{host}/ib0")
    time.sleep(0.5)
    ibbond("lab", "mend", "--name", name, f"{host}/ib0")


def test_a_block_session_survives_a_failover_of_either_end(name: str) -> None:
    target = begin(name, "h2", "rdma-block-session.py")
    initiator = begin(name, "h1", "rdma-block-session.py", "10.0.0.2")
    time.sleep(2)
    for host in ("h1", "h2"):
        fail_over(name, host)
        time.sleep(0.5)
    said = end(initiator)
    end(target)
    assert "ADDR_CHANGE: resolved after" in said
    assert said.rstrip().endswith("writes, 0 lost, 0 done twice")
    assert int(said.rstrip().splitlines()[-1].split()[0]) > 500


def test_reliable_datagrams_survive_a_failover_of_either_end(name: str) -> None:
    receiver = begin(name, "h2", "rdma-datagram.py")
    sender = begin(name, "h1", "rdma-datagram.py", "10.0.0.2")
    time.sleep(2)
    for host in ("h1", "h2"):
        fail_over(name, host)
        time.sleep(0.5)
    sent = json.loads(end(sender).splitlines()[-1])
    got = json.loads(end(receiver).splitlines()[-1])
    (received,) = got["received"]
    assert sent["sent"] == sent["acknowledged"] == received["count"] > 500
    assert (received["sender"], received["address"], received["first"]) == (sent["name"], "10.0.0.1", 0)
    assert got["out_of_order"] == 0
    assert len(sent["reconnects_ms"]) >= 2


def test_two_senders_of_one_address_are_two(name: str) -> None:
    receiver = begin(name, "h2", "rdma-datagram.py")
    senders = [begin(name, "h1", "rdma-datagram.py", "10.0.0.2") for _ in range(2)]
    time.sleep(2)
    sent = [json.loads(end(sender).splitlines()[-1]) for sender in senders]
    got = json.loads(end(receiver).splitlines()[-1])
    assert {each["sender"]: each["count"] for each in got["received"]} == {one["name"]: one["sent"] for one in sent}
    assert {each["address"] for each in got["received"]} == {"10.0.0.1"}
    assert got["out_of_order"] == 0


def test_datagrams_go_on_to_a_receiver_that_was_killed_and_started_again(name: str) -> None:
    killed = begin(name, "h2", "rdma-datagram.py")
    sender = begin(name, "h1", "rdma-datagram.py", "10.0.0.2")
    time.sleep(2)
    kill(killed)
    receiver = begin(name, "h2", "rdma-datagram.py")
    time.sleep(3)
    out, errors = sender.communicate(timeout=60)
    assert sender.returncode == 0, out + errors
    sent = json.loads(out.splitlines()[-1])
    got = json.loads(end(receiver).splitlines()[-1])
    (received,) = got["received"]
    assert sent["sent"] == sent["acknowledged"] == received["first"] + received["count"]
    assert received["first"] > 500
    assert received["count"] > 500
    assert got["out_of_order"] == 0
    assert sent["began_anew"] == ["10.0.0.2"]
    assert len(sent["reconnects_ms"]) == 1
    assert errors == "10.0.0.2 refuses: no program accepts datagrams there; trying on\n"


def test_a_block_session_whose_target_began_again_is_over(name: str) -> None:
    killed = begin(name, "h2", "rdma-block-session.py")
    initiator = begin(name, "h1", "rdma-block-session.py", "10.0.0.2")
    time.sleep(1)
    kill(killed)
    target = begin(name, "h2", "rdma-block-session.py")
    assert initiator.wait(timeout=20) == 1
    said, _ = initiator.communicate()
    compared, counted = said.splitlines()[-2:]
    assert compared == "the target has restarted with another ledger: nothing was compared"
    assert counted.endswith("writes, not known lost, not known done twice")
    assert end(begin(name, "h1", "rdma-block-session.py", "10.0.0.2")).endswith("writes, 0 lost, 0 done twice\n")
    end(target)


def test_rping_gets_its_bytes_back(name: str) -> None:
    server = begin(name, "h2", "rdma-rping.py")
    time.sleep(1)
    said = end(begin(name, "h1", "rdma-rping.py", "10.0.0.2"))
    assert said.count("4096 bytes there and back") == 10
    end(server)


def test_a_block_session_goes_on_by_the_other_adapter(lab: str, tmp_path: Path) -> None:
    topology = tmp_path / "two-adapters.toml"
    topology.write_text(TWO_ADAPTERS)
    ibbond("lab", "up", "--name", lab, str(topology))
    try:
        target = begin(lab, "h2", "rdma-block-session.py")
        initiator = begin(lab, "h1", "rdma-block-session.py", "10.0.0.2")
        time.sleep(2)
        ibbond("lab", "kill", "--name", lab, "h1")
        time.sleep(1)
        ibbond("lab", "revive", "--name", lab, "h1")
        time.sleep(0.5)
        said = end(initiator)
        end(target)
        assert "DEVICE_REMOVAL: resolved after" in said
        assert said.rstrip().endswith("writes, 0 lost, 0 done twice")
    finally:
        ibbond("lab", "down", "--name", lab)
