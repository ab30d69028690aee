"""The adapters' server beside a stack that fails: the program learns of it, the lab goes on."""

import errno
import socket
from collections.abc import Callable, Iterator

import pytest

from ibbond.errors import Refused
from ibbond.host.guard import Entry, Faults
from ibbond.rdma.messages import NotDone, Settle, Settled, pack, parse
from ibbond.rdma_cm.events import Destroy, PostWork, RdmaCall, RdmaUserClosed
from ibbond.stack.events import OnHost
from ibbond.tools.rdma_server import QUEUE_DEPTH, RdmaServer
from ibbond.verbs.reliable_verbs import Receive

EVERY_FAILURE = [KeyError("x"), AssertionError(), Refused("this", why="no", fix="Do that")]


class Loop:
    """As much of a live loop as the server needs; what it is notified fails."""

    def __init__(self, failure: Exception) -> None:
        self.failure = failure
        self.faults = Faults(write=lambda _: None)
        self.listeners: list[object] = []
        self.readers: dict[int, Callable[[], object]] = {}
        self.reported: list[object] = []

    def add_reader(self, fd: int, handler: Callable[[], object], entry: Entry, drop: object = None) -> None:
        self.readers[fd] = handler

    def now(self) -> int:
        return 0

    def remove_reader(self, fd: int) -> None:
        self.readers.pop(fd, None)

    def handle(self, event: OnHost) -> None:
        self.reported.append(event.event)
        raise self.failure


class NetNamespace:
    """A host whose socket has a name of its own, since no network namespace keeps it apart."""

    def __init__(self) -> None:
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        self.listener.bind("")  # the kernel names it
        self.listener.listen()

    def run_in(self, make: Callable[[], socket.socket]) -> socket.socket:
        return self.listener


@pytest.fixture
def meeting(request: pytest.FixtureRequest) -> Iterator[tuple[Loop, socket.socket]]:
    """A loop that fails, and a program that is connected to its server."""
    loop = Loop(request.param)
    space = NetNamespace()
    server = RdmaServer(loop, {"h1": space})  # type: ignore[arg-type, dict-item]
    (listener,) = loop.readers
    program = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    program.connect(space.listener.getsockname())
    loop.readers[listener]()
    yield loop, program
    program.close()
    server.close()


def turn(loop: Loop) -> None:
    for read in tuple(loop.readers.values())[1:]:
        read()


@pytest.mark.parametrize("meeting", EVERY_FAILURE, ids=repr, indirect=True)
def test_a_failure_of_the_stack_is_reported_and_the_next_request_is_answered(
    meeting: tuple[Loop, socket.socket],
) -> None:
    loop, program = meeting
    program.send(pack(Destroy(7), Settle(1)))
    turn(loop)
    (refusal,), (answer,) = parse(program.recv(10000)), parse(program.recv(10000))
    assert isinstance(refusal, NotDone)
    assert refusal.code == (errno.EINVAL if isinstance(loop.failure, Refused) else errno.EIO)
    assert answer == Settled(1)


@pytest.mark.parametrize("meeting", EVERY_FAILURE, ids=repr, indirect=True)
def test_dropping_a_program_never_fails(meeting: tuple[Loop, socket.socket]) -> None:
    loop, program = meeting
    program.close()
    turn(loop)
    assert loop.reported == [RdmaUserClosed(1)]
    assert len(loop.readers) == 1


@pytest.mark.parametrize("meeting", EVERY_FAILURE[-1:], ids=repr, indirect=True)
def test_work_that_is_refused_does_not_count(meeting: tuple[Loop, socket.socket]) -> None:
    loop, program = meeting
    for _ in range(QUEUE_DEPTH + 10):
        program.send(pack(PostWork(0, Receive(0, 0, 0, 0))))
        turn(loop)
        (refusal,) = parse(program.recv(10000))
        assert isinstance(refusal, NotDone)
        assert refusal.code == errno.EINVAL
    assert {type(reported) for reported in loop.reported} == {RdmaCall}
