"""Programs that wait by `select`: what a call received while it waited for something else does not wait with them."""

import runpy
import select
import socket
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ibbond.rdma import client, program
from ibbond.rdma.client import Context
from ibbond.rdma.messages import Settled, pack
from ibbond.rdma.session import MEMORY_BYTES
from ibbond.rdma.target import Target
from ibbond.rdma_cm.events import Listen, RdmaCmEvent, RdmaKind, RdmaRequest

NEWS = RdmaCmEvent(0, RdmaKind.ADDR_CHANGE)
EXAMPLES = Path(__file__).parents[2] / "examples"


class Heard:
    """A context that receives something in each call that may wait; the waiter then sleeps through it."""

    def __init__(self) -> None:
        self.received: deque[RdmaCmEvent] = deque()
        self.polled = 0

    def fileno(self) -> int:
        return -1

    def register(self, size: int) -> tuple[memoryview, int]:
        self.received.append(NEWS)
        return memoryview(bytearray(size)), 1

    def ask(self, *requests: RdmaRequest) -> None:
        if requests:
            self.received.append(NEWS)

    def settle(self) -> None:
        self.received.append(NEWS)

    def poll(self, timeout: float) -> RdmaCmEvent | None:
        self.polled += 1
        return self.received.popleft() if self.received else None

    def select(self, readers: list[Any], *_: object) -> tuple[list[Any], list[Any], list[Any]]:
        """In place of the system's; standard input has ended."""
        assert not self.received, "it sleeps through what was received"
        return [each for each in readers if each is not self and each != self.fileno()], [], []


def test_an_end_of_the_session_sleeps_through_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    context = Heard()
    monkeypatch.setattr(program, "select", SimpleNamespace(select=context.select))
    monkeypatch.setattr(program, "os", SimpleNamespace(read=lambda *_: b""))
    program.run(context, Target(memoryview(bytearray(MEMORY_BYTES)), 1))  # type: ignore[arg-type]
    assert context.polled > 2


def test_reliable_datagrams_sleep_through_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    context = Heard()
    names = runpy.run_path(str(EXAMPLES / "rdma-datagram.py"))
    names["main"].__globals__.update(Context=lambda: context, select=SimpleNamespace(select=context.select))
    monkeypatch.setattr("sys.stdin", SimpleNamespace(readline=lambda: ""))
    with pytest.raises(SystemExit) as ended:
        names["main"]([])
    assert (ended.value.code, context.polled > 2) == (False, True)


@pytest.fixture
def meeting(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Context, socket.socket]]:
    """A context and its host's end of the socket."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind("")  # the kernel names it
    listener.listen()
    monkeypatch.setattr(client, "SOCKET_NAME", listener.getsockname())
    context = Context()
    host, _ = listener.accept()
    yield context, host
    for each in (context, host, listener):
        each.close()


def test_what_settle_received_is_returned_by_poll_and_not_by_the_socket(meeting: tuple[Context, socket.socket]) -> None:
    context, host = meeting
    host.send(pack(NEWS))
    host.send(pack(Settled(1)))
    context.ask(Listen(0, 7))
    context.settle()
    assert select.select([context], [], [], 0)[0] == []
    assert [context.poll(0), context.poll(0)] == [NEWS, None]
    host.send(pack(NEWS))
    assert select.select([context], [], [], 0)[0] == [context]
