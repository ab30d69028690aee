"""RDMA for a program inside a lab host: the host's adapters by a Unix socket, memory as memfds that RDMA touches.

Read first: docs/rdma.md. One `Context` is one program to the host; when it closes or dies its connections end. Left
out: threads (use one context in each), blocking calls.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import select
import socket
from collections import deque

from ibbond.errors import Refused
from ibbond.rdma.messages import SOCKET_NAME, NotDone, Register, Registered, pack, parse
from ibbond.stack.rdma_events import RdmaNews, RdmaRequest, WorkOver

LARGEST = 1 << 17
AT_ONCE = 64  # requests in one packet; an inline message of 512 bytes is about 1200 of JSON


class Context:
    """A connection to the host's adapters. `Refused` where no lab serves them."""

    def __init__(self) -> None:
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        try:
            self._sock.connect(SOCKET_NAME)
        except OSError as error:
            self._sock.close()
            why = error.strerror or str(error)
            raise Refused("no RDMA here", why=why, fix="Run this inside a lab host (ibbond lab exec)") from None
        self._heard: deque[RdmaNews | WorkOver] = deque()

    def close(self) -> None:
        self._sock.close()

    def fileno(self) -> int:
        return self._sock.fileno()

    def register(self, size: int) -> tuple[memoryview, int]:
        """New memory of so many bytes that connections of this context and their peers may use, and its key."""
        descriptor = os.memfd_create("ibbond-rdma", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
        try:
            os.ftruncate(descriptor, size)
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
            memory = memoryview(mmap.mmap(descriptor, size))
            socket.send_fds(self._sock, [pack(Register())], [descriptor])
        finally:
            os.close(descriptor)
        while True:
            for answer in self._receive():
                if isinstance(answer, Registered):
                    return memory, answer.key

    def ask(self, *requests: RdmaRequest) -> None:
        """In this order; what is refused raises `Refused` from the next `poll`."""
        for first in range(0, len(requests), AT_ONCE):
            self._sock.send(pack(*requests[first : first + AT_ONCE]))

    def poll(self, timeout: float | None) -> RdmaNews | WorkOver | None:
        """The next event or completion; None when `timeout` seconds have passed without one."""
        if not self._heard:
            if not select.select([self._sock], [], [], timeout)[0]:
                return None
            self._receive()
        return self._heard.popleft() if self._heard else None

    def _receive(self) -> list[object]:
        raw = self._sock.recv(LARGEST)
        if not raw:
            raise Refused("RDMA has gone", why="the lab has ended", fix="Start it again")
        messages = parse(raw)
        for message in messages:
            if isinstance(message, NotDone):
                raise Refused("RDMA request", why=message.text, fix="See docs/rdma.md", code=message.code)
            if isinstance(message, RdmaNews | WorkOver):
                self._heard.append(message)
        return messages
