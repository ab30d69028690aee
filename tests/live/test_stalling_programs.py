"""Programs whose memory never answers and whose files never close: the lab waits for none of them."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ibbond import Lab
from ibbond.host import notification

CLIENT = str(Path(__file__).with_name("stalling_client.py"))
NOBODY = "65534"
ROUNDS = 10
ANSWER_S = 1.0  # a stalled helper costs 0.05 s; the rest is for busy machines
needs_devices = pytest.mark.skipif(notification.why_not() is not None, reason=str(notification.why_not()))


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab
    for left in Path("/tmp").glob("ibbond-stalling.*"):
        left.unlink()


def attempt(lab: Lab, *words: str) -> str:
    """How it ended; meanwhile the lab answers, and other hosts reach each other."""
    pipe = subprocess.PIPE
    program = lab["h1"].popen([sys.executable, CLIENT, *words], stdin=pipe, stdout=pipe, stderr=pipe)
    server = 0
    try:
        word, _, number = _line(program).partition(" ")
        assert word == "trying", program.communicate()[1]
        server = int(number)
        answers_soon(lab)
        lab["h2"].run(["ping", "-c", "3", "-i", "0.2", "-W", "1", "10.0.0.1"])
        if server:  # else its client waits for it, dead or alive
            os.kill(server, signal.SIGKILL)
            server = 0
        return _line(program)
    finally:
        program.kill()
        if server:
            os.kill(server, signal.SIGKILL)
        program.communicate()


def _line(program: subprocess.Popen[str]) -> str:
    """What it says next; an attempt that does not end is ended."""
    assert program.stdout is not None
    timer = threading.Timer(20, program.kill)
    timer.start()
    try:
        return program.stdout.readline().strip()
    finally:
        timer.cancel()


def answers_soon(lab: Lab) -> None:
    for _ in range(ROUNDS):
        began = time.monotonic()
        status = lab.status()
        assert time.monotonic() - began < ANSWER_S
        assert status["faults"] == {}
        time.sleep(0.05)


@needs_devices
@pytest.mark.parametrize("user", ["0", NOBODY])
@pytest.mark.parametrize("story", ["fuse-write", "fuse-open", "userfaultfd-write"])
def test_a_page_that_never_comes_holds_up_its_program_only(lab: Lab, story: str, user: str) -> None:
    if story.startswith("userfaultfd") and user != "0":
        pytest.skip("without privileges its pages fail by themselves")
    assert attempt(lab, story, user) == "EFAULT"
    lab["h1"].run(["ibv_devices"])  # another program has its devices


@pytest.mark.parametrize("user", ["0", NOBODY])
@pytest.mark.parametrize("story", ["fuse-rdma", "linger-rdma", "linger-umad"])
def test_a_file_that_never_closes_is_closed_elsewhere(lab: Lab, story: str, user: str) -> None:
    assert attempt(lab, story, user) in ("sent", "EPERM")
