"""Hostile programs in a lab host: the lab goes on, says what happened, and gives them no power over others."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ibbond import Lab
from tests.live.commands import commanded_lab, unique

CLIENT = str(Path(__file__).with_name("umad_client.py"))
NOBODY = "65534"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


def umad(lab: Lab, story: str, *words: str, user: str = "0") -> list[str]:
    done = lab["h1"].run([sys.executable, CLIENT, story, user, *words], check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[:-1]


def held(lab: Lab, *words: str) -> subprocess.Popen[str]:
    """A Python program in h1 that waits for its standard input."""
    pipe = subprocess.PIPE
    return lab["h1"].popen([sys.executable, *words], stdin=pipe, stdout=pipe, stderr=pipe)


def end(program: subprocess.Popen[str]) -> None:
    program.kill()
    program.communicate()


def test_a_malformed_mad_is_delivered_as_it_came_and_counted(lab: Lab) -> None:
    assert umad(lab, "malformed") == ["True", "as sent"]
    status = lab.status()
    assert status["faults"] == {}
    assert status["malformed"] == {"umad": 1}


@pytest.mark.parametrize("node", ["s1", "s1:0", "s1:3", "h2", "h2:1", "nothere", "h1:9", "h1:x", ":", "h1:-1"])
def test_a_client_attaches_to_ports_of_its_own_host_only(lab: Lab, node: str) -> None:
    assert umad(lab, "nodes", node) == [f"{node} False"]


def test_a_client_attaches_to_each_port_of_its_host(lab: Lab) -> None:
    assert umad(lab, "nodes", "h1:1", "h1:2", "h1/2") == ["h1:1 True", "h1:2 True", "h1/2 True"]


def test_a_switch_is_managed_by_no_one_from_a_host(lab: Lab) -> None:
    assert umad(lab, "switch") == ["False", "True"]
    assert lab.status()["faults"] == {}


def test_other_users_than_root_have_no_umad(lab: Lab) -> None:
    """As on a host with hardware, whose /dev/infiniband/umad0 is root's."""
    assert umad(lab, "nodes", "h1:1", "", user=NOBODY) == ["h1:1 False", " False"]


def test_what_others_put_into_our_sockets_is_not_taken_for_roots(lab: Lab) -> None:
    before = lab.status()["malformed"]
    assert umad(lab, "squatter", user=NOBODY) == ["True"]
    assert umad(lab, "nodes", "h1:1") == ["h1:1 True"]
    assert lab.status()["malformed"] == before


def test_one_process_has_one_place_whatever_number_it_says(lab: Lab) -> None:
    holders = [held(lab, CLIENT, "slots", user) for user in ("0", NOBODY)]
    try:
        for holder in holders:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "asked\n"
        assert umad(lab, "nodes", *["h1:1"] * 3) == ["h1:1 True"] * 3
    finally:
        for holder in holders:
            end(holder)


RDMA_CROWD = """
import socket, sys
from ibbond.rdma.messages import SOCKET_NAME
held, answers = [], []
for _ in range(int(sys.argv[1])):
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.setblocking(False)
    try:
        sock.connect(SOCKET_NAME)
    except BlockingIOError:
        break
    held.append(sock)
print(len(held), flush=True)
sys.stdin.readline()
"""
REGISTRATIONS = """
import resource, sys
from ibbond.errors import Refused
from ibbond.rdma.client import Context
contexts, done = [], 0
try:
    while done < 2000:
        contexts.append(Context())
        for _ in range(64):
            contexts[-1].register(4096)
            done += 1
except Refused as refusal:
    print(done, refusal.code, flush=True)
sys.stdin.readline()
"""
REGISTRATION = "import ibbond.rdma.client as c; c.Context().register(4096)"
CONTROL_CROWD = """
import os, socket, sys
held = []
for _ in range(int(sys.argv[1])):
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.connect(os.environ["IBBOND_CONTROL"])
    held.append(sock)
print(len(held), flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("limit", [1024, 300])
def test_a_host_cannot_use_up_the_labs_descriptors(limit: int) -> None:
    """Connections, memory, connections to the lab itself: `lab status` answers, and another host has its own share."""
    with (
        commanded_lab(unique("few"), prefix=("prlimit", f"--nofile={limit}:{limit}")) as lab,
        contextlib.ExitStack() as crowds,
    ):
        for script, count in ((RDMA_CROWD, 400), (REGISTRATIONS, 0), (CONTROL_CROWD, 200)):
            crowd = held(lab, "-c", script, str(count))
            crowds.callback(end, crowd)
            assert crowd.stdout is not None
            assert crowd.stdout.readline()
        began = time.monotonic()
        with Lab.attach(lab.name) as again:
            status = again.status()
        assert time.monotonic() - began < 2
        assert status["faults"] == {}
        assert len(os.listdir(f"/proc/{status['pid']}/fd")) < limit - 20
        lab["h2"].run([sys.executable, "-c", REGISTRATION])
        lab["h1"].run(["ping", "-c", "1", "-W", "2", "10.0.0.2"])


def test_a_host_has_so_many_programs_and_each_is_reported(lab: Lab) -> None:
    crowd = held(lab, "-c", RDMA_CROWD, "64")
    try:
        assert crowd.stdout is not None
        assert crowd.stdout.readline() == "64\n"
        one_more = lab["h1"].run([sys.executable, "-c", REGISTRATION], check=False)
        assert "64 programs of h1" in one_more.stderr
    finally:
        end(crowd)
    lab["h1"].run([sys.executable, "-c", REGISTRATION])
