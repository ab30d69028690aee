"""RDMA for a program inside a lab host: a Unix socket to the host's adapters, and memfds as registered memory.

Read first: docs/rdma.md. To the host each `Context` is a program: when it is closed, its connections end. Messages that
arrive while a call waits for its own answer are kept for `poll`. Left out: threads (use one context per thread).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import select
import socket
import time
from array import array
from collections import deque
from collections.abc import Iterator, Sequence

from ibbond.errors import Refused
from ibbond.rdma.messages import (
    MAX_BYTES,
    MAX_MEMORY,
    SOCKET_NAME,
    NotDone,
    Register,
    Registered,
    Settle,
    Settled,
    pack,
    parse,
    too_large,
)
from ibbond.rdma_cm.events import RdmaCmEvent, RdmaRequest, WorkCompleted

AT_ONCE = 64  # requests in one packet
Answer = Registered | Settled | NotDone


class Context:
    """A connection to the host's adapters. Raises `Refused` outside lab hosts."""

    def __init__(self) -> None:
        self._sock = _socket()
        try:
            self._sock.connect(SOCKET_NAME)
        except OSError as error:
            self._sock.close()
            why = error.strerror or str(error)
            raise Refused(
                "RDMA is not available here", why=why, fix="Run this inside a lab host (ibbond lab exec)"
            ) from None
        self._received: deque[RdmaCmEvent | WorkCompleted | Refused] = deque()
        self._questions = 0

    def close(self) -> None:
        """Close the connection: the lab then destroys the ids, queue pairs and memory keys of this context."""
        self._sock.close()

    def fileno(self) -> int:
        """A descriptor for select(2). Call `poll(0)` until it returns None first: events may already be received."""
        return self._sock.fileno()

    def register(self, size: int) -> tuple[memoryview, int]:
        """Allocate and register `size` bytes: the memory, and the key by which this context and its peers access it.

        Raises `Refused` with EINVAL or ENOMEM if the size is not possible.
        """
        if not 0 < size <= MAX_MEMORY:
            code = errno.ENOMEM if size > 0 else errno.EINVAL
            raise _no_memory(size, f"a region has 1 to {MAX_MEMORY} bytes", "Choose another size", code)
        descriptor = os.memfd_create("ibbond-rdma", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
        try:
            os.ftruncate(descriptor, size)
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
            memory = memoryview(mmap.mmap(descriptor, size))
        except OSError as error:
            os.close(descriptor)
            why = error.strerror or str(error)
            raise _no_memory(size, why, "Ask for less", error.errno or errno.ENOMEM) from None
        try:
            answer = self._answer_to(Register(self._new_question()), [descriptor])
        finally:
            os.close(descriptor)
        assert isinstance(answer, Registered), answer
        return memory, answer.key

    def ask(self, *requests: RdmaRequest) -> None:
        """Send requests, to be processed in this order; a later `poll` or `settle` raises `Refused` for a refused one.

        If a request is too large to be sent, `Refused` is raised here, and none is sent.
        """
        for packet in _packets([pack(request) for request in requests]):
            self._send(packet)

    def settle(self) -> None:
        """Wait until all requests have been processed. Raises `Refused` for the first that was refused."""
        self._answer_to(Settle(self._new_question()))
        for received in self._received:
            if isinstance(received, Refused):
                self._received.remove(received)
                raise received

    def poll(self, timeout: float | None) -> RdmaCmEvent | WorkCompleted | None:
        """Return the next event or completion, or None after `timeout` seconds without one (None: wait forever)."""
        until = None if timeout is None else time.monotonic() + timeout
        while not self._received:
            left = None if until is None else max(0.0, until - time.monotonic())
            if not select.select([self._sock], [], [], left)[0]:
                return None
            self._receive()
        first = self._received.popleft()
        if isinstance(first, Refused):
            raise first
        return first

    def _new_question(self) -> int:
        self._questions += 1
        return self._questions

    def _answer_to(self, request: Register | Settle, descriptors: Sequence[int] = ()) -> Answer:
        """Send a question and wait for its own answer; `Refused` when it is that."""
        self._send(pack(request), descriptors)
        while True:
            for answer in self._receive():
                if answer.question == request.question:
                    if isinstance(answer, NotDone):
                        raise _refusal(answer)
                    return answer

    def _send(self, packet: bytes, descriptors: Sequence[int] = ()) -> None:
        """One packet. While there is no room, packets are received: the lab stops reading from clients that do not."""
        beside = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))] if descriptors else []
        while True:
            try:
                self._sock.sendmsg([packet], beside, socket.MSG_DONTWAIT)
                return
            except BlockingIOError:
                if select.select([self._sock], [self._sock], [])[0]:
                    self._receive()
            except ConnectionError:
                raise self._lost() from None
            except OSError as error:
                if error.errno == errno.EMSGSIZE:
                    raise too_large(f"its request has {len(packet)} bytes") from None
                why, code = error.strerror or str(error), error.errno or errno.EIO
                raise Refused("cannot send the RDMA request", why=why, fix="Open another context", code=code) from None

    def _receive(self) -> list[Answer]:
        """Receive one packet: answers are returned, all else is kept for `poll`."""
        try:
            raw = self._sock.recv(MAX_BYTES)
        except ConnectionError:
            raise self._lost() from None
        if not raw:
            raise self._lost()
        return self._sorted(raw)

    def _lost(self) -> Refused:
        """The connection is lost: the last refusal says why, where there was one, and else whether the lab runs on."""
        with contextlib.suppress(OSError):
            self._sock.setblocking(False)
            while raw := self._sock.recv(MAX_BYTES):
                self._sorted(raw)
        return (
            next((received for received in reversed(self._received) if isinstance(received, Refused)), None) or _gone()
        )

    def _sorted(self, raw: bytes) -> list[Answer]:
        """The answers in a packet; all else is kept for `poll`."""
        answers: list[Answer] = []
        for message in parse(raw):
            if isinstance(message, NotDone) and message.question < 0:
                self._received.append(_refusal(message))
            elif isinstance(message, RdmaCmEvent | WorkCompleted):
                self._received.append(message)
            elif isinstance(message, Registered | Settled | NotDone):
                answers.append(message)
        return answers


def _socket() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)


def _packets(requests: Sequence[bytes]) -> Iterator[bytes]:
    """Requests together in packets; `Refused` at once when one of them fits none."""
    largest = max(map(len, requests), default=0)
    if largest + len(b"[]") > MAX_BYTES:
        raise too_large(f"its request has {largest} bytes, at most {MAX_BYTES} fit")
    return _filled(requests)


def _filled(requests: Sequence[bytes]) -> Iterator[bytes]:
    packet: list[bytes] = []
    room = MAX_BYTES - 1
    for request in requests:
        if len(packet) == AT_ONCE or len(request) + 1 > room:
            yield b"[" + b",".join(packet) + b"]"
            packet, room = [], MAX_BYTES - 1
        packet.append(request)
        room -= len(request) + 1
    if packet:
        yield b"[" + b",".join(packet) + b"]"


def _refusal(answer: NotDone) -> Refused:
    return Refused(answer.what, why=answer.why, fix=answer.fix, code=answer.code)


def _no_memory(size: int, why: str, fix: str, code: int) -> Refused:
    return Refused(f"cannot register {size} bytes", why=why, fix=fix, code=code)


def _gone() -> Refused:
    """The connection is lost: whether the lab still takes others says why."""
    try:
        with _socket() as sock:
            sock.setblocking(False)
            sock.connect(SOCKET_NAME)
    except ConnectionRefusedError:
        return Refused(
            "the RDMA connection to the lab is lost",
            why="the lab has ended",
            fix="Start it again",
            code=errno.ECONNRESET,
        )
    except BlockingIOError:
        pass  # the server is there, but busy
    why = "the lab dropped this program, which left too many events unread"
    return Refused(
        "the RDMA connection to the lab is lost",
        why=why,
        fix="Open another context, and poll it more often",
        code=errno.ECONNRESET,
    )
