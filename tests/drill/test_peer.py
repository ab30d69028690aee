"""The peer of a drill answers only who has the token, one at a time; what it reads from a host's tools."""

import socket
import threading
from pathlib import Path

import pytest

from ibbond.drill import peer
from ibbond.drill.host_watch import event_of
from ibbond.drill.host_world import unsettled
from ibbond.drill.peer import Line, proof, read_token
from ibbond.drill.sightings import Event
from ibbond.errors import Refused

TOKEN = b"0123456789abcdef"


class Connection:
    """One end of a connection to a peer that is served in a thread."""

    def __init__(self, busy: threading.Lock) -> None:
        ours, theirs = socket.socketpair()
        self.said: list[str] = []
        words = (theirs, TOKEN, busy, self.said.append, "10.0.0.1")
        self.thread = threading.Thread(target=peer.answer, args=words, daemon=True)
        self.thread.start()
        ours.settimeout(10)
        self.line = Line(ours)
        self.nonce = str(self.line.receive()["nonce"])

    def prove(self, token: bytes) -> dict[str, object]:
        self.line.send({"nonce": "ab", "proof": proof(token, "drill", self.nonce, "ab")})
        return self.line.receive()

    def close(self) -> None:
        self.line.sock.close()
        self.thread.join(timeout=10)
        assert not self.thread.is_alive()


@pytest.fixture(autouse=True)
def no_netlink(monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket pair has no addresses, and this test watches no neighbors."""

    class Log:
        moves = [(1, "10.0.0.1", "80:00")]

        def close(self) -> None:
            pass

    monkeypatch.setattr(peer, "NeighborLog", Log)
    monkeypatch.setattr(socket.socket, "setsockopt", lambda *_: None)


def test_the_token_opens_and_the_peer_proves_itself_too() -> None:
    connection = Connection(threading.Lock())
    assert connection.prove(TOKEN)["proof"] == proof(TOKEN, "peer", connection.nonce, "ab")
    connection.line.send({"do": "clock"})
    assert int(str(connection.line.receive()["ns"])) > 0
    connection.line.send({"do": "moves"})
    assert connection.line.receive() == {"moves": [[1, "10.0.0.1", "80:00"]]}
    connection.close()
    assert connection.said == ["a drill of 10.0.0.1 begins", "the drill of 10.0.0.1 has ended"]


def test_another_token_gets_nothing() -> None:
    connection = Connection(threading.Lock())
    assert connection.prove(b"another token of it") == {"proof": ""}
    with pytest.raises(ConnectionError):
        connection.line.receive()
    connection.close()
    assert connection.said == ["10.0.0.1 does not have the token"]


def test_the_proof_of_one_side_is_not_that_of_the_other() -> None:
    assert proof(TOKEN, "drill", "a", "b") != proof(TOKEN, "peer", "a", "b")
    assert proof(TOKEN, "drill", "a", "b") != proof(TOKEN, "drill", "b", "a")


def test_a_second_drill_learns_that_the_peer_is_busy() -> None:
    busy = threading.Lock()
    first, second = Connection(busy), Connection(busy)
    assert first.prove(TOKEN)["proof"]
    assert second.prove(TOKEN) == {"busy": True}
    second.close()
    first.close()
    third = Connection(busy)
    assert third.prove(TOKEN)["proof"], "the first is over"
    third.close()


@pytest.mark.parametrize(
    "request_", [{"do": "melt"}, {"do": "end"}, {"do": "start"}, {"do": "start", "spacing_us": []}]
)
def test_a_request_that_is_not_understood_is_refused(request_: dict[str, object]) -> None:
    connection = Connection(threading.Lock())
    connection.prove(TOKEN)
    connection.line.send(request_)
    assert "not understood" in str(connection.line.receive()["refused"])
    connection.close()


@pytest.mark.parametrize("raw", [b"\n", b"[]\n", b"{\n", b"\xff\xfe\n", b"x" * 5000 + b"\n"])
def test_what_is_no_request_ends_the_connection(raw: bytes) -> None:
    connection = Connection(threading.Lock())
    connection.line.sock.sendall(raw)
    with pytest.raises(ConnectionError):
        connection.line.receive()
    connection.close()


def test_tokens(tmp_path: Path) -> None:
    file = tmp_path / "token"
    for make, why in (
        (lambda: None, "No such file"),
        (lambda: (file.write_text("short"), file.chmod(0o600)), "needs 16 to 4096"),
        (lambda: (file.write_bytes(TOKEN), file.chmod(0o644)), "other users may read"),
    ):
        make()
        with pytest.raises(Refused, match=why):
            read_token(file)
    file.chmod(0o600)
    assert read_token(file) == TOKEN
    with pytest.raises(Refused, match="no token"):
        read_token(None)


def test_a_manager_that_changes_a_device() -> None:
    nmcli = "ib0:connecting (getting IP configuration)\nib1:connected\neth0:connecting (prepare)\n"
    assert unsettled(nmcli, ["bond0", "ib0", "ib1"]) == "ib0"
    assert unsettled(nmcli, ["ib1"]) is None
    networkctl = "  3 ib0 infiniband carrier configuring\n  4 ib1 infiniband enslaved configured\n"
    assert unsettled(networkctl, ["ib0"]) == "ib0"
    assert unsettled(networkctl, ["ib1"]) is None
    assert unsettled("", ["ib0"]) is None


def test_link_messages_as_events() -> None:
    carrier = {"what": "carrier", "where": "ib0", "old": True, "new": False}
    assert event_of(5, carrier) == Event(5, "carrier", "ib0", "off")
    active: dict[str, object] = {"what": "active", "where": "bond0", "old": "ib0", "new": "ib1"}
    assert event_of(5, active) == Event(5, "failover", "bond0", "ib0 -> ib1")
    assert event_of(5, {"what": "left", "where": "ib0", "bond": "bond0"}) == Event(5, "port", "ib0", "device_fatal")
    assert event_of(5, {"what": "mtu", "where": "ib0", "old": 1, "new": 2}) is None
