"""What programs may do to the adapters of lab hosts: a wrong request is refused in its words, and the lab continues."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

IBBOND = str(Path(sys.executable).parent / "ibbond")

BEGINNING = """
import errno, socket, struct, time
from ibbond.errors import Refused
from ibbond.verbs.reliable_verbs import Operation, Receive, Status, Work
from ibbond.rdma.client import Context
from ibbond.rdma.messages import SOCKET_NAME, pack
from ibbond.rdma_cm.events import *

def refused(do, *words):
    try:
        do(*words)
    except Refused as refusal:
        return refusal
    raise AssertionError("it was not refused")

context = Context()
"""
ROUTED = """
def routed(context, number=1):
    context.ask(ResolveAddress(number, bytes((10, 0, 0, 2)), 4242))
    assert context.poll(10).kind is RdmaKind.ADDR_RESOLVED
    context.ask(ResolveRoute(number))
    assert context.poll(10).kind is RdmaKind.ROUTE_RESOLVED
    context.ask(MakeQueuePair(number))
    context.settle()

def connected(context):
    memory, key = context.register(4096)
    routed(context)
    context.ask(Connect(1))
    assert context.poll(10).kind is RdmaKind.ESTABLISHED
    return key
"""
PEER = """
context.ask(Listen(0, 4242))
context.settle()
print("ready", flush=True)
while True:
    event = context.poll(None)
    if isinstance(event, RdmaCmEvent) and event.kind is RdmaKind.CONNECT_REQUEST:
        context.ask(MakeQueuePair(event.id), Accept(event.id))
"""


@pytest.fixture(scope="module")
def name() -> Iterator[str]:
    lab = f"programs{os.getpid()}"
    ibbond("lab", "up", "--name", lab)
    peer = program(lab, PEER, host="h2")
    assert peer.stdout is not None
    assert peer.stdout.readline() == "ready\n"
    yield lab
    peer.kill()
    peer.communicate()
    assert json.loads(ibbond("lab", "status", "--name", lab, "--json"))["hosts"]
    ibbond("lab", "down", "--name", lab)


def ibbond(*words: str) -> str:
    done = subprocess.run([IBBOND, *words], text=True, capture_output=True, timeout=60, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    return done.stdout


def program(name: str, text: str, host: str = "h1") -> subprocess.Popen[str]:
    words = [IBBOND, "lab", "exec", "--name", name, host, "--", sys.executable, "-c", BEGINNING + text]
    return subprocess.Popen(words, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def run(name: str, text: str) -> str:
    running = program(name, text)
    out, errors = running.communicate(timeout=60)
    assert running.returncode == 0, out + errors
    return out


def test_an_answer_belongs_to_its_question(name: str) -> None:
    run(
        name,
        """
context.ask(Destroy(77))
keys = [context.register(4096)[1] for _ in range(3)]
assert len(set(keys)) == 3, keys
refusal = refused(context.poll, 1)
assert (refusal.code, "77" in str(refusal)) == (errno.ENOENT, True), refusal
began = time.monotonic()
assert context.poll(0.3) is None
assert time.monotonic() - began > 0.29
""",
    )


def test_a_wait_is_not_ended_by_irrelevant_events(name: str) -> None:
    run(
        name,
        """
from ibbond.rdma.messages import Settle
context._send(pack(Settle(999)))  # the caller has moved on
began = time.monotonic()
assert context.poll(0.3) is None
assert time.monotonic() - began > 0.29
""",
    )


def test_sizes_of_memory(name: str) -> None:
    run(
        name,
        """
assert refused(context.register, 0).code == errno.EINVAL
assert refused(context.register, -1).code == errno.EINVAL
assert refused(context.register, 1 << 46).code == errno.ENOMEM
for _ in range(64):
    context.register(4096)
assert refused(context.register, 4096).code == errno.ENOMEM
""",
    )


def test_what_is_too_large_is_refused_and_the_program_goes_on(name: str) -> None:
    run(
        name,
        ROUTED
        + """
routed(context)
send = PostWork(1, Work(1, Operation.SEND, inline=bytes(70000)))
assert refused(context.ask, Destroy(1), send).code == errno.EMSGSIZE
context._sock.send(pack(send))
assert refused(context.poll, 5).code == errno.EMSGSIZE
context.ask(Destroy(1))
context.settle()
""",
    )


def test_what_is_no_request_is_refused_and_the_program_goes_on(name: str) -> None:
    run(
        name,
        ROUTED
        + """
for raw in (b"x", b"[[]]", b'{"":"Destroy","id":"7"}', pack(Work(1, Operation.SEND)), b'"' + b"y" * 100000 + b'"'):
    context._sock.send(raw)
    assert refused(context.poll, 5).code == errno.EINVAL
for request in (ResolveAddress(-1, bytes(4), 7), Listen(3, 1 << 20), Destroy(1 << 40)):
    context.ask(request)
    assert refused(context.settle).code == errno.EINVAL
routed(context)
context.ask(Connect(1, cm_retries=99))
assert refused(context.settle).code == errno.EINVAL
context.register(4096)
""",
    )


def test_work_posted_to_a_queue_pair_is_bounded(name: str) -> None:
    run(
        name,
        ROUTED
        + """
key = connected(context)
context.ask(*(PostWork(1, Receive(number, key, 0, 64)) for number in range(5000)))
codes = [refused(context.poll, 5).code for _ in range(5000 - 4096)]
assert set(codes) == {errno.ENOMEM}
context.settle()
context.ask(Disconnect(1))
event = [context.poll(5) for _ in range(4096 + 1)]
over = [each.completion for each in event if isinstance(each, WorkCompleted)]
assert [each.number for each in over] == list(range(4096))
assert {each.status for each in over} == {Status.FLUSHED}
context.ask(*(PostWork(1, Receive(number, key, 0, 64)) for number in range(30000)))  # flushed at once, and read late
assert [context.poll(5).completion.number for _ in range(30000)] == list(range(30000))
context.settle()
""",
    )


def test_a_program_that_reads_nothing_is_not_served_and_the_others_are(name: str) -> None:
    deaf = program(
        name,
        ROUTED
        + """
key = connected(context)
context.ask(Disconnect(1))
while context.poll(5).kind is not RdmaKind.DISCONNECTED:
    pass
context._sock.settimeout(1)
try:
    for number in range(30000):
        context._sock.send(pack(PostWork(1, Receive(number, key, 0, 64))))
except TimeoutError:
    print("waits", flush=True)
context._sock.settimeout(None)
over = 0
while context.poll(1) is not None:
    over += 1
assert over == number, (over, number)
""",
    )
    assert deaf.stdout is not None
    assert deaf.stdout.readline() == "waits\n"
    run(name, "context.register(4096)")
    out, errors = deaf.communicate(timeout=60)
    assert deaf.returncode == 0, out + errors


def test_who_is_dropped_and_whose_lab_has_ended_get_different_messages(lab: str) -> None:
    ibbond("lab", "up", "--name", lab)
    try:
        said = run(
            lab,
            """
import socket
context._sock.shutdown(socket.SHUT_WR)
refusal = refused(context.poll, 5)
assert "the lab dropped this program" in str(refusal), refusal
assert refused(context.ask, Destroy(1)).code == errno.ECONNRESET
print("well")
""",
        )
        assert said == "well\n"
        staying = program(
            lab,
            """
import os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("here", flush=True)
refusal = refused(context.poll, 30)
assert "the lab has ended" in str(refusal), refusal
refused(context.ask, Destroy(1)), refused(context.register, 4096), refused(context.settle)
os.write(1, b"well")
""",
        )
        assert staying.stdout is not None
        assert staying.stdout.readline() == "here\n"
        pid = json.loads(ibbond("lab", "status", "--name", lab, "--json"))["pid"]
        subprocess.run(["kill", "-KILL", str(pid)], check=True)
        out, errors = staying.communicate(timeout=30)
        assert out == "well", errors
    finally:
        ibbond("lab", "down", "--name", lab)
