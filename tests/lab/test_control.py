"""The socket between a lab and those who ask: answers, refusals, feeds, descriptors, and clients that misbehave."""

import json
import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ibbond.backend import control_server
from ibbond.backend.control_server import ControlServer, Feed, Lease, WithDescriptors
from ibbond.backend.control_socket import Control
from ibbond.errors import Refused


def refuse() -> None:
    raise Refused("cannot", why="because", fix="Do otherwise", code=17)


def fail() -> None:
    raise RuntimeError("broken")


@pytest.fixture
def ended() -> threading.Event:
    return threading.Event()


@pytest.fixture
def server(tmp_path: Path, ended: threading.Event) -> Iterator[ControlServer]:
    read_end, write_end = os.pipe()
    os.write(write_end, b"through a descriptor")
    serving = ControlServer(
        tmp_path / "lab.sock",
        {
            "echo": lambda text: {"said": text},
            "refuse": refuse,
            "fail": fail,
            "feed": lambda: Feed(["first", "second"]),
            "host_handle": lambda: WithDescriptors({"descriptors": ["pipe"]}, [read_end]),
            "lease": lambda: Lease(ended.set),
            "big": lambda: "x" * 5_000_000,
        },
    )
    serving.start()
    yield serving
    serving.close()
    os.close(read_end)
    os.close(write_end)


def test_answers_come_back(server: ControlServer) -> None:
    with Control(server.path) as control:
        assert control.ask("echo", text="hello") == {"said": "hello"}
        assert control.ask("echo", text="ümlaut\n") == {"said": "ümlaut\n"}
        assert len(str(control.ask("big"))) == 5_000_000


def test_refusals_are_raised_on_the_other_side_whole(server: ControlServer) -> None:
    with Control(server.path) as control, pytest.raises(Refused) as refusal:
        control.ask("refuse")
    assert (refusal.value.what, refusal.value.why, refusal.value.fix, refusal.value.code) == (
        "cannot",
        "because",
        "Do otherwise",
        17,
    )


def test_unknown_requests_and_failures_leave_the_connection_usable(server: ControlServer) -> None:
    with Control(server.path) as control:
        with pytest.raises(Refused, match="does not know"):
            control.ask("dance")
        with pytest.raises(Refused, match="broken"):
            control.ask("fail")
        with pytest.raises(Refused):
            control.ask("echo", wrong="word")
        assert control.ask("echo", text="still here") == {"said": "still here"}


def test_descriptors_travel_beside_the_answer(server: ControlServer) -> None:
    with Control(server.path) as control:
        answer, descriptors = control.ask_for_descriptors("host_handle")
    assert answer == {"descriptors": ["pipe"]}
    assert not os.get_inheritable(descriptors[0])
    assert os.read(descriptors[0], 100) == b"through a descriptor"
    os.close(descriptors[0])


def test_a_feed_gives_what_was_and_what_comes(server: ControlServer) -> None:
    with Control(server.path) as control:
        items = control.follow("feed")
        assert [next(items), next(items)] == ["first", "second"]
        server.publish("third")
        assert next(items) == "third"
        server.close()
        assert list(items) == []


def test_a_follower_that_hangs_up_is_not_a_fault(server: ControlServer) -> None:
    """It closes its end before the first item is sent."""
    mine, theirs = socket.socketpair()
    client = control_server.Client(theirs, 0)
    mine.close()
    with pytest.raises(BrokenPipeError):
        server._answer(client, b'{"do": "feed"}')
    theirs.close()
    assert not server._faults.counts


def test_following_ends_in_another_thread(server: ControlServer) -> None:
    with Control(server.path) as control:
        items = control.follow("feed")
        assert next(items) == "first"
        rest: list[object] = []
        follower = threading.Thread(target=lambda: rest.extend(items))
        follower.start()
        control.hang_up()
        follower.join(10)
        assert not follower.is_alive()


def test_threads_share_a_connection(server: ControlServer) -> None:
    with Control(server.path) as control, ThreadPoolExecutor(8) as threads:
        asked = [str(number) for number in range(500)]
        answers = list(threads.map(lambda text: control.ask("echo", text=text), asked))
    assert answers == [{"said": text} for text in asked]


def test_a_lease_ends_with_its_connection(server: ControlServer, ended: threading.Event) -> None:
    control = Control(server.path)
    control.ask("lease")
    assert not ended.wait(0.1)
    control.close()
    assert ended.wait(5)


def test_a_reader_that_sleeps_does_not_stop_the_others(server: ControlServer) -> None:
    with Control(server.path) as lazy, Control(server.path) as control:
        feed = lazy.follow("feed")
        next(feed)
        for number in range(3000):
            server.publish({"number": number, "text": "x" * 5000})
        assert control.ask("echo", text="prompt") == {"said": "prompt"}


def test_who_asks_and_goes_while_an_answer_is_pending_is_forgotten_once(tmp_path: Path) -> None:
    gone = threading.Event()

    def wait() -> None:  # in the server's thread, while the follower asks and goes
        assert gone.wait(5)
        serving.enqueue("events")

    serving = ControlServer(tmp_path / "lab.sock", {"feed": lambda: Feed([1]), "wait": wait, "echo": lambda: "here"})
    serving.start()
    try:
        with Control(serving.path) as control, socket.socket(socket.AF_UNIX) as follower:
            follower.connect(str(serving.path))
            follower.sendall(b'{"do": "feed"}\n')
            assert follower.recv(100) == b'{"item":1}\n'
            asking = threading.Thread(target=control.ask, args=("wait",))
            asking.start()
            follower.sendall(b'{"do": "echo"}\n{"do": "echo"}\n')
            follower.close()
            gone.set()
            asking.join(5)
            assert control.ask("echo") == "here"
    finally:
        serving.close()


def test_a_lease_whose_end_fails_does_not_end_the_server(tmp_path: Path) -> None:
    handlers = {"lease": lambda: Lease(fail), "echo": lambda: "here"}
    serving = ControlServer(tmp_path / "lab.sock", handlers)
    serving.start()
    try:
        with Control(serving.path) as control:
            with Control(serving.path) as holder:
                holder.ask("lease")
            for _ in range(3):
                assert control.ask("echo") == "here"
    finally:
        serving.close()


def test_the_socket_is_the_owners(server: ControlServer) -> None:
    assert server.path.stat().st_mode & 0o777 == 0o600


def test_a_request_that_needs_the_closing_thread_is_answered_before_the_end(tmp_path: Path) -> None:
    asked, answering = threading.Event(), threading.Event()

    def wait() -> str:
        asked.set()
        assert answering.wait(60)
        return "answered"

    serving = ControlServer(tmp_path / "lab.sock", {"wait": wait})
    serving.start()
    answers: list[object] = []
    with Control(tmp_path / "lab.sock") as control:
        client = threading.Thread(target=lambda: answers.append(control.ask("wait")))
        client.start()
        assert asked.wait(60)
        serving.close(answering.set)
        client.join(60)
    assert answers == ["answered"]


def test_after_close_no_one_answers(server: ControlServer) -> None:
    server.close()
    assert not server.path.exists()
    with pytest.raises(Refused, match="no process answers"):
        Control(server.path)


def raw(path: Path, sent: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        client.settimeout(5)
        got = b""
        while piece := client.recv(65536):
            got += piece
        return got


@pytest.mark.parametrize(
    "line", [b"{", b"[]", b'"text"', b"{}", b'{"do": 5}', b'{"do": "echo", "with": 5}', b"\xff\xfe"]
)
def test_malformed_requests_are_answered_and_forgotten(server: ControlServer, line: bytes) -> None:
    answer = json.loads(raw(server.path, line + b"\n"))
    assert "failed" in answer or "refused" in answer
    with Control(server.path) as control:
        assert control.ask("echo", text="fine") == {"said": "fine"}


def test_any_bytes_leave_the_server_alive(server: ControlServer) -> None:
    @settings(max_examples=60, deadline=None)
    @given(st.binary(max_size=200))
    def send(garbage: bytes) -> None:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(server.path))
            client.sendall(garbage)

    send()
    with Control(server.path) as control:
        assert control.ask("echo", text="alive") == {"said": "alive"}


def test_many_clients_at_once(server: ControlServer) -> None:
    problems: list[BaseException] = []

    def talk(number: int) -> None:
        try:
            with Control(server.path) as control:
                for turn in range(20):
                    assert control.ask("echo", text=f"{number} {turn}") == {"said": f"{number} {turn}"}
        except BaseException as problem:
            problems.append(problem)

    run_all([threading.Thread(target=talk, args=(number,)) for number in range(16)])
    assert problems == []


def run_all(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)


@pytest.mark.parametrize("do", ["echo", "no\udcff"])
def test_text_that_is_no_utf_8_is_answered_like_any_other(server: ControlServer, do: str) -> None:
    with Control(server.path) as control:
        if do == "echo":
            assert control.ask(do, text="h\udcff") == {"said": "h\udcff"}
        else:
            with pytest.raises(Refused, match="does not know the request"):
                control.ask(do)
    with Control(server.path) as control:
        assert control.ask("echo", text="alive") == {"said": "alive"}


def test_a_client_that_cannot_be_answered_is_dropped_and_the_others_are_served(
    server: ControlServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Control(server.path) as other, Control(server.path) as control:
        assert other.ask("echo", text="before") == {"said": "before"}
        with monkeypatch.context() as patched:
            patched.setattr(control_server, "encode", _cannot)
            with pytest.raises(Refused, match="the lab did not answer"):
                control.ask("echo", text="x")
        assert other.ask("echo", text="after") == {"said": "after"}
    assert "cannot be said" in capsys.readouterr().err


def _cannot(_answer: object) -> bytes:
    raise ValueError("cannot be said")
