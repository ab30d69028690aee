"""The live loop when something in it fails: counted, logged, and everything else goes on (`host.guard`)."""

import errno
import functools
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ibbond.errors import Refused
from ibbond.host.guard import Entry
from ibbond.lab.state import Files
from ibbond.machine import MS
from ibbond.stack.events import HostEvent, SetAdmin, Transmit
from ibbond.topology.default import TWO_HOSTS
from tests.live.running_lab import RunningLab

FAILURES = [AssertionError("a promise"), KeyError("x"), Refused("this", why="no", fix="Do that"), MemoryError()]


@pytest.fixture
def faulty(lab2: RunningLab, capfd: pytest.CaptureFixture[str]) -> Iterator[RunningLab]:
    """The default lab, whose faults are expected."""
    yield lab2
    lab2.loop.faults.counts.clear()
    assert "Traceback" in capfd.readouterr().err


def answers(lab: RunningLab) -> bool:
    return lab.run("h1", "ping -c 1 -W 2 10.0.0.2").returncode == 0


@pytest.mark.parametrize("failure", FAILURES, ids=repr)
def test_a_packet_that_fails_costs_that_packet(
    faulty: RunningLab, failure: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = faulty.loop.network.hosts["h1"]
    handle = host.handle

    def fail(now: int, event: HostEvent) -> object:
        if isinstance(event, Transmit):
            raise failure
        return handle(now, event)

    monkeypatch.setattr(host, "handle", fail)
    assert faulty.run("h1", "ping -c 3 -i 0.05 -W 1 10.0.0.2").returncode == 1
    monkeypatch.undo()
    assert faulty.until(lambda: answers(faulty))
    assert set(faulty.loop.faults.counts) == {Entry.PACKET}


def test_what_the_kernel_said_is_read_again(faulty: RunningLab, monkeypatch: pytest.MonkeyPatch) -> None:
    host = faulty.loop.network.hosts["h1"]
    failed: list[HostEvent] = []
    handle = host.handle

    def fail_once(now: int, event: HostEvent) -> object:
        if isinstance(event, SetAdmin) and not failed:
            failed.append(event)
            raise AssertionError
        return handle(now, event)

    monkeypatch.setattr(host, "handle", fail_once)
    faulty.run("h1", "ip link set ib1 down")
    assert faulty.until(lambda: bool(failed))
    assert faulty.until(lambda: not host.device("ib1").up)


def test_timers_listeners_and_effects_fail_alone(faulty: RunningLab) -> None:
    loop = faulty.loop
    called: list[str] = []

    def fail(*_: object) -> None:
        raise KeyError

    loop.ask(lambda: loop.listeners.insert(0, fail))
    loop.ask(functools.partial(loop.call_at, loop.now(), fail))
    loop.ask(functools.partial(loop.call_at, loop.now(), lambda: called.append("later")))
    assert faulty.until(lambda: called == ["later"])
    faulty.run("h1", "ip link set ib1 down")
    assert faulty.until(lambda: bool(loop.faults.counts[Entry.LISTENER]))
    assert any(loop.faults.counts[Entry.LISTENER] for _ in faulty.reported), "the next listener was notified as well"
    loop.ask(lambda: loop.listeners.remove(fail))
    assert loop.faults.counts[Entry.TIMER] == 1
    assert answers(faulty)


def test_a_client_whose_handler_fails_is_dropped_and_others_rest(faulty: RunningLab) -> None:
    loop = faulty.loop
    one, two = socket.socketpair()
    three, four = socket.socketpair()
    seen: list[int] = []

    def fail(sock: socket.socket) -> None:
        seen.append(sock.fileno())
        raise OSError(errno.EIO, "as if")

    def drop() -> None:
        loop.remove_reader(one.fileno())
        one.close()

    loop.ask(lambda: loop.add_reader(one.fileno(), functools.partial(fail, one), Entry.RDMA, drop))
    loop.ask(lambda: loop.add_reader(three.fileno(), functools.partial(fail, three), Entry.UMAD))
    two.send(b"x")
    four.send(b"x")
    with pytest.raises(ConnectionResetError):
        two.recv(1)
    time.sleep(0.5)
    loop.ask(lambda: loop.remove_reader(three.fileno()))
    assert loop.faults.counts[Entry.RDMA] == 1
    assert 2 <= seen.count(three.fileno()) <= 0.5 * 1000 * MS / (10 * MS) + 1, "it is tried again, at a measured pace"
    for sock in (two, three, four):
        sock.close()


def test_a_device_whose_name_is_taken_comes_back_when_it_is_free(lab2: RunningLab) -> None:
    """`ip` deletes ib1 and makes another ib1 before the lab can: that ended it, and every host with it."""
    batch = "link delete ib1\ntuntap add dev ib1 mode tap\n"
    done = lab2.loop.ask(  # on the loop's thread, so that the lab is not faster than the second line
        lambda: subprocess.run(
            ["ip", "-batch", "-"], preexec_fn=lab2.spaces["h1"].enter, input=batch, text=True, capture_output=True
        )
    )
    assert done.returncode == 0, done.stderr
    assert lab2.until(lambda: any("cannot be created again yet" in text for _, text in lab2.happened("log")))
    assert answers(lab2)
    lab2.run("h1", "ip tuntap del dev ib1 mode tap")
    assert lab2.until(lambda: any("exists again" in text for _, text in lab2.happened("log")))
    assert "link/infiniband" in lab2.run("h1", "ip link show ib1").stdout


DAEMON = """
import sys
from ibbond.errors import Refused
from ibbond.host.loop import LiveLoop
from ibbond.lab import daemon
run = LiveLoop.run
def fail_later(loop):
    loop.call_at(loop.now() + 10**9, lambda: loop.fail(Refused("this", why="no", fix="Do that")))
    run(loop)
LiveLoop.run = fail_later
sys.argv = ["daemon", sys.argv[1], sys.argv[2]]
daemon.main()
"""


def test_a_refusal_that_ends_the_lab_is_an_error_and_keeps_the_log(lab: str) -> None:
    files = Files(lab)
    files.directory.mkdir(mode=0o700, exist_ok=True)
    config = {"name": lab, "text": TWO_HOSTS, "source": "a test", "without": []}
    reported, telling = os.pipe()
    with files.log.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", DAEMON, str(telling), lab],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            pass_fds=[telling],
            start_new_session=True,
        )
    os.close(telling)
    try:
        process.communicate(json.dumps(config).encode(), timeout=30)
        assert b'{"ok":' in os.read(reported, 1 << 16)
        assert process.returncode == 1
        assert "the lab could not start" in files.log.read_text()
        assert [path.name for path in files.directory.glob(f"{lab}*")] == [files.log.name]
    finally:
        os.close(reported)
        files.log.unlink(missing_ok=True)
    assert not list(Path("/run/netns").glob(f"*{lab}*"))
