"""The adapters of lab hosts for the programs inside: a Unix socket in each host's network namespace.

Read first: `rdma.messages`. A program is a user of `stack.rdma_users`; its memory is mapped here, so that RDMA of peers
really touches it. Nothing waits: what a program does not read is queued, and one that reads nothing is dropped.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import mmap
import os
import socket
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import get_args

from ibbond.errors import Malformed, Refused
from ibbond.host.loop import LiveLoop
from ibbond.host.netns import Space
from ibbond.machine import MS
from ibbond.rdma.messages import SOCKET_NAME, NotDone, Register, Registered, pack, parse
from ibbond.stack.events import NetworkEffect, OnHost
from ibbond.stack.rdma_events import RdmaCall, RdmaEvent, RdmaGone, RdmaRequest

LARGEST = 1 << 17
QUEUE_LIMIT = 16384
REQUESTS = get_args(RdmaRequest)


@dataclass(eq=False, slots=True)
class _Program:
    user: int
    host: str
    sock: socket.socket
    waiting: deque[bytes] = field(default_factory=deque)


class RdmaServer:
    """Serves the programs of all hosts. Only on the loop's thread."""

    def __init__(self, loop: LiveLoop, spaces: Mapping[str, Space]) -> None:
        self._loop = loop
        self._doors: list[socket.socket] = []
        self._programs: dict[int, _Program] = {}
        self._next = 1
        for host, space in spaces.items():
            door = space.within(_listen)
            self._doors.append(door)
            loop.add_reader(door.fileno(), functools.partial(self._enter, host, door))
        loop.listeners.append(self._heard)

    def close(self) -> None:
        self._loop.listeners.remove(self._heard)
        for sock in (*self._doors, *(program.sock for program in self._programs.values())):
            self._loop.remove_reader(sock.fileno())
            sock.close()
        self._programs.clear()

    def _enter(self, host: str, door: socket.socket) -> None:
        with contextlib.suppress(OSError):
            sock, _ = door.accept()
            sock.setblocking(False)
            program = self._programs[self._next] = _Program(self._next, host, sock)
            self._next += 1
            self._loop.add_reader(sock.fileno(), functools.partial(self._asked, program))

    def _asked(self, program: _Program) -> None:
        for _ in range(32):
            try:
                raw, descriptors, _, _ = socket.recv_fds(program.sock, LARGEST, 4)
            except BlockingIOError:
                return
            except OSError:
                raw, descriptors = b"", []
            try:
                if not raw:
                    self._drop(program)
                    return
                for request in parse(raw):
                    self._try(program, request, descriptors)
            except Malformed:
                self._drop(program)
                return
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)

    def _try(self, program: _Program, request: object, descriptors: list[int]) -> None:
        try:
            self._answer(program, request, descriptors)
        except Refused as refusal:
            self._give(program, pack(NotDone(str(refusal), refusal.code)))

    def _answer(self, program: _Program, request: object, descriptors: list[int]) -> None:
        if isinstance(request, Register):
            memory = _map(descriptors)
            key = self._loop.network.hosts[program.host].rdma.register(program.user, memory)
            self._give(program, pack(Registered(key)))
        elif isinstance(request, REQUESTS):
            self._loop.handle(OnHost(program.host, RdmaCall(program.user, request)))
        else:
            raise Malformed("not a request")

    def _heard(self, _now: int, effect: NetworkEffect) -> None:
        if isinstance(effect, RdmaEvent):
            program = self._programs.get(effect.user)
            if program is not None and program.host == effect.host:
                self._give(program, pack(effect.news))

    def _give(self, program: _Program, message: bytes) -> None:
        program.waiting.append(message)
        if len(program.waiting) > QUEUE_LIMIT:
            self._loop.call_at(self._loop.now(), functools.partial(self._drop, program))
        elif len(program.waiting) == 1:
            self._flush(program)

    def _flush(self, program: _Program) -> None:
        while program.waiting and program.user in self._programs:
            try:
                program.sock.send(program.waiting[0])
            except BlockingIOError:
                self._loop.call_at(self._loop.now() + MS, functools.partial(self._flush, program))
                return
            except OSError:
                return  # its end is read soon
            program.waiting.popleft()

    def _drop(self, program: _Program) -> None:
        if self._programs.pop(program.user, None) is not None:
            self._loop.remove_reader(program.sock.fileno())
            program.sock.close()
            self._loop.handle(OnHost(program.host, RdmaGone(program.user)))


def _listen() -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    sock.bind(SOCKET_NAME)
    sock.listen(64)
    return sock


def _map(descriptors: list[int]) -> memoryview:
    """The memory behind a descriptor. One that could shrink would kill us when it does."""
    try:
        sealed = fcntl.fcntl(descriptors[0], fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK
        if sealed:
            return memoryview(mmap.mmap(descriptors[0], os.fstat(descriptors[0]).st_size))
        why = "it is not sealed against shrinking"
    except (IndexError, OSError, ValueError) as error:
        why = str(error)
    raise Refused("cannot register memory", why=why, fix="Send a memfd with F_SEAL_SHRINK", code=errno.EINVAL)
