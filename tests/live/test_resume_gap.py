"""A lab that was killed and goes on: how long nothing passed, and that nothing of it has changed afterwards."""

import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from ibbond import Lab
from tests.live.commands import NO_VIEW, bash, commanded_lab, kill, resume, unique
from tests.live.speed import judge_speed

GOAL_S = 1.0

PROBE = """
import socket, sys, time
probes = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
number = 0
while True:
    number += 1
    try:
        probes.sendto(number.to_bytes(8, "big"), ("10.0.0.2", 7001))
    except OSError:
        pass
    time.sleep(0.001)
"""
LISTEN = """
import socket, time
probes = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
probes.bind(("10.0.0.2", 7001))
print("ready", flush=True)
last = time.monotonic()
while True:
    probes.recv(100)
    now = time.monotonic()
    if now - last > 0.05:
        print(last, now, flush=True)
    last = now
"""
SERVE = """
import hashlib, socket
listener = socket.create_server(("10.0.0.2", 7002))
print("ready", flush=True)
connection, _ = listener.accept()
digest, total = hashlib.sha256(), 0
while data := connection.recv(65536):
    digest.update(data)
    total += len(data)
print(total, digest.hexdigest(), flush=True)
"""
STREAM = """
import hashlib, random, socket, sys, time
connection = socket.create_connection(("10.0.0.2", 7002))
draw, digest, total = random.Random(1), hashlib.sha256(), 0
print("ready", flush=True)
until = time.monotonic() + 4
while time.monotonic() < until:
    data = draw.randbytes(8192)
    connection.sendall(data)
    digest.update(data)
    total += len(data)
    time.sleep(0.002)
connection.close()
print(total, digest.hexdigest(), flush=True)
"""


@pytest.fixture
def lab() -> Iterator[Lab]:
    with commanded_lab(unique("again")) as lab:
        yield lab


def python(lab: Lab, host: str, code: str) -> subprocess.Popen[str]:
    """A program in a host, that has said that it is ready where it says so."""
    program = lab[host].popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    if "ready" in code:
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
    return program


def test_traffic_goes_on_within_a_second_of_the_restart(lab: Lab) -> None:
    """From `lab up --resume` to the first probe that arrives. On a busy machine the best of three counts."""
    listener = python(lab, "h2", LISTEN)
    prober = python(lab, "h1", PROBE)
    assert listener.stdout is not None
    gaps = []
    time.sleep(0.5)
    for _ in range(3):
        time.sleep(0.5)
        kill(lab)
        time.sleep(0.3)
        began = time.monotonic()
        resume(lab)
        while True:
            _, first = (float(word) for word in listener.stdout.readline().split())
            if first > began:
                break
        gaps.append(round(first - began, 3))
        if gaps[-1] < GOAL_S:
            break
    prober.kill()
    listener.kill()
    print(f"seconds from restart to traffic: {gaps}")
    judge_speed(min(gaps) < GOAL_S, f"seconds from restart to traffic: {gaps}")


def test_a_tcp_stream_survives_whole(lab: Lab) -> None:
    server = python(lab, "h2", SERVE)
    stream = python(lab, "h1", STREAM)
    time.sleep(1)
    kill(lab)
    resume(lab)
    sent, _ = stream.communicate(timeout=60)
    received, _ = server.communicate(timeout=60)
    assert received == sent
    assert int(sent.split()[0]) > 1_000_000


@pytest.mark.skipif(NO_VIEW is not None, reason=str(NO_VIEW))
def test_every_bond_is_as_it_was(lab: Lab) -> None:
    """Made by files before the kill: options, members, a bond that is down, a child, MTU, admin states."""
    made = bash(
        lab["h1"],
        """
        set -e
        echo 0x8001 > ib0/create_child
        echo -ib1 > bond0/bonding/slaves
        echo 200 > bond0/bonding/updelay
        echo better > bond0/bonding/primary_reselect
        echo ib0 > bond0/bonding/primary
        echo +10.0.0.2 > bond0/bonding/arp_ip_target
        echo 1500 > bond0/mtu
        echo +quiet > bonding_masters
        echo active-backup > quiet/bonding/mode
        echo 77 > quiet/bonding/miimon
        echo +ib1 > quiet/bonding/slaves
        echo +empty > bonding_masters
        ip link set empty up
        """,
    )
    assert made.returncode == 0, made.stderr
    lab.cut("h1/ib0")
    lab.mend("h1/ib0")
    bash(lab["h1"], "until [ $(cat ib0/carrier) = 1 ]; do sleep 0.05; done")
    keeper = lab["h1"].popen(["sleep", "300"])
    time.sleep(0.5)
    before = bash(lab["h1"], SHOW).stdout
    links = bash(lab["h1"], LINKS).stdout
    assert "quiet/bonding/miimon:77" in before
    kill(lab)
    resume(lab)
    assert bash(lab["h1"], SHOW).stdout.splitlines() == before.splitlines()
    assert bash(lab["h1"], LINKS).stdout.splitlines() == links.splitlines()
    keeper.kill()
    keeper.communicate()


SHOW = """
grep . bonding_masters */bonding/* */mtu */pkey */flags */address \
    */bonding_slave/{state,perm_hwaddr,queue_id,link_failure_count} |
    grep -v -e ad_ -e ^lo/
"""
LINKS = "ip -o address show | grep -v tentative; ip -o link show | sed 's/qdisc.*//'"
