"""Captures of a running lab, read by tshark."""

import functools
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from ibbond.errors import Refused
from ibbond.fabric.events import Cut
from ibbond.host.capture import Capture, Captures
from ibbond.stack.events import OnSubnet
from tests.live.running_lab import RunningLab

pytestmark = pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")


@pytest.fixture
def captures(lab2: RunningLab) -> Captures:
    return lab2.loop.ask(lambda: Captures(lab2.loop))


def fields(file: Path, *names: str) -> list[list[str]]:
    """These fields of every packet, as tshark reads them."""
    command = ["tshark", "-r", str(file), "-T", "fields", *(word for name in names for word in ("-e", name))]
    done = subprocess.run(command, text=True, capture_output=True, check=True)
    return [line.split("\t") for line in done.stdout.splitlines()]


def test_a_bond_shows_arp_with_twenty_bytes_and_the_ping(lab2: RunningLab, captures: Captures, tmp_path: Path) -> None:
    file = tmp_path / "bond0.pcap"
    with file.open("wb") as opened:
        capture = lab2.loop.ask(lambda: captures.start_device("h1", "bond0", opened.fileno()))
        assert lab2.run("h1", "ping -c 3 -i 0.05 10.0.0.2").returncode == 0
        captures.stop(capture)
    seen = fields(file, "arp.hw.type", "arp.hw.size", "icmp.type")
    assert capture.frames == len(seen)
    assert [words[2] for words in seen if words[2]] == ["8", "0"] * 3
    arps = [words for words in seen if words[0]]
    assert arps
    assert all(words[:2] == ["32", "20"] for words in arps)


def test_a_port_shows_everything_down_to_the_local_route(lab2: RunningLab, captures: Captures, tmp_path: Path) -> None:
    file = tmp_path / "h1-1.pcap"
    with file.open("wb") as opened:
        capture = lab2.loop.ask(lambda: captures.start_port("h1/1", opened.fileno()))
        assert lab2.run("h1", "ping -c 2 -i 0.05 10.0.0.2").returncode == 0
        lab2.do(OnSubnet(Cut("s1/1")))
        captures.stop(capture)
    seen = fields(file, "infiniband.lrh.dlid", "infiniband.deth.srcqp", "icmp.type")
    assert [words[2] for words in seen if words[2]] == ["8", "0"] * 2
    assert all(words[0] for words in seen)


def test_gso_packets_come_as_packets_of_the_mtu(lab2: RunningLab, captures: Captures, tmp_path: Path) -> None:
    file = tmp_path / "tcp.pcap"
    payload = tmp_path / "payload"
    payload.write_bytes(os.urandom(300_000))
    with file.open("wb") as opened:
        capture = lab2.loop.ask(lambda: captures.start_device("h2", "bond0", opened.fileno()))
        receiver = lab2.spaces["h2"].popen(["python3", "-c", RECEIVER], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert receiver.stdout is not None
        assert receiver.stdout.readline() == b"ready\n"
        sent = lab2.spaces["h1"].run(["python3", "-c", SENDER, str(payload)])
        assert sent.returncode == 0, sent.stderr
        received = receiver.communicate(timeout=20)[0]
        captures.stop(capture)
    assert received == payload.read_bytes()
    lengths = [int(words[0]) for words in fields(file, "ip.len") if words[0]]
    assert max(lengths) <= 2044
    assert len(lengths) > 150
    bad = subprocess.run(
        ["tshark", "-r", str(file), "-o", "tcp.check_checksum:TRUE", "-Y", "tcp.checksum.status==0"],
        text=True,
        capture_output=True,
        check=True,
    )
    assert bad.stdout == ""


def test_the_fast_path_shows_capture_points_what_it_carries(
    lab2: RunningLab, captures: Captures, tmp_path: Path
) -> None:
    def capture_points() -> list[bool]:
        return [mirror is not None for _, _, mirror in lab2.loop.pumps["h1", "bond0"].flows.values()]

    with (tmp_path / "x.pcap").open("wb") as opened:
        capture = lab2.loop.ask(lambda: captures.start_device("h1", "bond0", opened.fileno()))
        assert lab2.run("h1", "ping -c 3 -i 0.05 10.0.0.2").returncode == 0
        assert lab2.loop.ask(capture_points) == [True]
        captures.stop(capture)
    assert capture.frames >= 6
    assert capture.missed == 0
    assert lab2.run("h1", "ping -c 3 -i 0.05 10.0.0.2").returncode == 0
    assert lab2.loop.ask(capture_points) == [False]


def test_a_reader_that_goes_away_is_noticed(lab2: RunningLab, captures: Captures) -> None:
    reading, writing = os.pipe()
    capture = lab2.loop.ask(functools.partial(captures.start_device, "h1", "bond0", writing))
    os.close(reading)
    assert lab2.run("h1", "ping -c 2 -i 0.05 10.0.0.2").returncode == 0
    os.close(writing)
    assert isinstance(capture, Capture)
    assert isinstance(capture.problem, BrokenPipeError)


@pytest.mark.parametrize("device", ["eth0", "ib7"])
def test_what_cannot_be_captured_is_refused(lab2: RunningLab, captures: Captures, device: str) -> None:
    with pytest.raises(Refused):
        lab2.loop.ask(lambda: captures.start_device("h1", device, 1))


RECEIVER = """
import socket, sys
with socket.create_server(("10.0.0.2", 7000)) as server:
    print("ready", flush=True)
    with server.accept()[0] as peer:
        while part := peer.recv(1 << 16):
            sys.stdout.buffer.write(part)
"""
SENDER = """
import socket, sys
with socket.create_connection(("10.0.0.2", 7000)) as peer:
    peer.sendall(open(sys.argv[1], "rb").read())
"""
