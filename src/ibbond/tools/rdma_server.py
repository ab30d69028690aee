"""The adapters of lab hosts for the programs inside: a Unix socket in each host's network namespace.

Read first: `rdma.messages`. A program is a user of `stack.rdma_users`; its memory is mapped here, so that RDMA of peers
really touches it. Nothing waits: what a program does not read is queued; of one that leaves much of it nothing more is
taken until it has read, and one that peers go on telling of more is dropped. What cannot be done is refused, and the
lab goes on whatever a program sends. Left out: how many programs a host has.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import mmap
import os
import socket
import traceback
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import get_args

from ibbond.errors import Malformed, Refused
from ibbond.host.loop import LiveLoop
from ibbond.host.namespace import Space
from ibbond.machine import MS
from ibbond.rdma.messages import (
    LARGEST,
    MOST_MEMORY,
    SOCKET_NAME,
    NotDone,
    Register,
    Registered,
    Settle,
    Settled,
    admitted,
    pack,
    parse,
    too_large,
)
from ibbond.stack.events import NetworkEffect, OnHost
from ibbond.stack.rdma_events import Destroy, PostWork, RdmaCall, RdmaEvent, RdmaGone, RdmaRequest, WorkOver
from ibbond.verbs.reliable_verbs import Completion, Operation, Receive, Status, Work

PAUSE_AT = 1024  # messages that a program has not read: of what it asks no more is taken
QUEUE_LIMIT = 65536  # ... and it is dropped
QUEUE_DEPTH = 4096  # sends, and as many receives, posted to one queue pair and not over
MOST_REGIONS = 64  # of one program; each is an open file of the lab
MOST_WORDS = 300  # characters of a refusal
REQUESTS = get_args(RdmaRequest)


@dataclass(eq=False, slots=True)
class _Posted:
    """Work of a queue pair that is not over. What is not signaled is over when something later is, as with verbs."""

    sends: deque[tuple[int, bool]] = field(default_factory=deque)  # number, signaled
    receives: int = 0

    def add(self, work: Work | Receive) -> None:
        open_now = self.receives if isinstance(work, Receive) else len(self.sends)
        if open_now >= QUEUE_DEPTH:
            raise Refused(
                "cannot post this work",
                why=f"{QUEUE_DEPTH} of its kind are posted to the queue pair and not known to be over",
                fix="Wait for completions; of sends that are not signaled only a later, signaled one tells",
                code=errno.ENOMEM,
            )
        if isinstance(work, Receive):
            self.receives += 1
        else:
            self.sends.append((work.number, work.signaled))

    def undo(self, work: Work | Receive) -> None:
        if isinstance(work, Receive):
            self.receives -= 1
        elif self.sends:
            self.sends.pop()

    def over(self, completion: Completion) -> None:
        if completion.operation is Operation.RECEIVE:
            self.receives -= 1
            return
        done = completion.status is Status.SUCCESS
        while self.sends:
            number, signaled = self.sends.popleft()
            if number == completion.number and (signaled or not done):
                return


@dataclass(eq=False, slots=True)
class _Program:
    user: int
    host: str
    sock: socket.socket
    waiting: deque[bytes] = field(default_factory=deque)
    posted: dict[int, _Posted] = field(default_factory=dict)  # by id
    regions: int = 0
    paused: bool = False


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
            if len(program.waiting) > PAUSE_AT:
                program.paused = True
                self._loop.remove_reader(program.sock.fileno())
                return
            try:
                raw, descriptors, flags, _ = socket.recv_fds(program.sock, LARGEST, 4)
            except BlockingIOError:
                return
            except OSError:
                raw, descriptors, flags = b"", [], 0
            try:
                if not raw:
                    self._drop(program)
                    return
                self._take(program, raw, descriptors, cut_off=bool(flags & socket.MSG_TRUNC))
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)

    def _take(self, program: _Program, raw: bytes, descriptors: list[int], *, cut_off: bool) -> None:
        try:
            if cut_off:
                raise too_large(f"its packet has more than {LARGEST} bytes")
            requests = parse(raw)
        except Malformed as problem:
            why, fix = str(problem), "See rdma/messages.py for what a request looks like"
            self._refuse(program, Refused("cannot read this request", why=why, fix=fix))
            return
        except Refused as refusal:
            self._refuse(program, refusal)
            return
        for request in requests:
            self._try(program, request, descriptors)

    def _try(self, program: _Program, request: object, descriptors: list[int]) -> None:
        """Whatever goes wrong is that program's trouble and in the lab's log; the lab and all others go on."""
        question = request.question if isinstance(request, Register | Settle) else -1
        try:
            self._answer(program, request, descriptors)
        except Refused as refusal:
            self._refuse(program, refusal, question)
        except Exception as error:
            traceback.print_exc()
            why = f"the lab failed at it ({type(error).__name__})"
            failure = Refused("cannot do this", why=why, fix="Read the lab's log", code=errno.EIO)
            self._refuse(program, failure, question)

    def _refuse(self, program: _Program, refusal: Refused, question: int = -1) -> None:
        why = refusal.why[:MOST_WORDS]
        self._give(program, pack(NotDone(refusal.what, why, refusal.fix, refusal.code, question)))

    def _answer(self, program: _Program, request: object, descriptors: list[int]) -> None:
        if isinstance(request, Register):
            if program.regions == MOST_REGIONS:
                why, fix = f"the program has {MOST_REGIONS} regions", "Register fewer, larger ones"
                raise Refused("cannot register memory", why=why, fix=fix, code=errno.ENOMEM)
            memory = _map(descriptors)
            key = self._loop.network.hosts[program.host].rdma.register(program.user, memory)
            program.regions += 1
            self._give(program, pack(Registered(key, request.question)))
        elif isinstance(request, Settle):
            self._give(program, pack(Settled(request.question)))
        elif isinstance(request, PostWork):
            self._post(program, request)
        elif isinstance(request, REQUESTS):
            self._loop.handle(OnHost(program.host, RdmaCall(program.user, admitted(request))))
            if isinstance(request, Destroy):
                program.posted.pop(request.id, None)
        else:
            name = type(request).__name__
            raise Refused("cannot do this", why=f"{name} is no request", fix="See stack/rdma_events.py for those")

    def _post(self, program: _Program, request: PostWork) -> None:
        """Counted first: work can be over before `handle` returns."""
        admitted(request)
        posted = program.posted.get(request.id) or _Posted()
        posted.add(request.request)
        program.posted[request.id] = posted
        try:
            self._loop.handle(OnHost(program.host, RdmaCall(program.user, request)))
        except BaseException:
            posted.undo(request.request)
            if not posted.sends and not posted.receives:
                program.posted.pop(request.id, None)
            raise

    def _heard(self, _now: int, effect: NetworkEffect) -> None:
        if isinstance(effect, RdmaEvent):
            program = self._programs.get(effect.user)
            if program is not None and program.host == effect.host:
                if isinstance(effect.news, WorkOver) and (posted := program.posted.get(effect.news.id)) is not None:
                    posted.over(effect.news.completion)
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
                self._resume(program)  # its end is read soon
                return
            program.waiting.popleft()
        if program.user in self._programs:
            self._resume(program)

    def _resume(self, program: _Program) -> None:
        if program.paused:
            program.paused = False
            self._loop.add_reader(program.sock.fileno(), functools.partial(self._asked, program))

    def _drop(self, program: _Program) -> None:
        if self._programs.pop(program.user, None) is None:
            return
        self._loop.remove_reader(program.sock.fileno())
        program.sock.close()
        try:
            self._loop.handle(OnHost(program.host, RdmaGone(program.user)))
        except Exception:
            traceback.print_exc()  # what is left of the program stays; the lab and all others go on


def _listen() -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    sock.bind(SOCKET_NAME)
    sock.listen(64)
    return sock


def _map(descriptors: list[int]) -> memoryview:
    """The memory behind a descriptor. One that could shrink would kill us when it does."""
    try:
        sealed = fcntl.fcntl(descriptors[0], fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK
        size = os.fstat(descriptors[0]).st_size
        if sealed and 0 < size <= MOST_MEMORY:
            return memoryview(mmap.mmap(descriptors[0], size))
        why = f"it has {size} bytes, not 1 to {MOST_MEMORY}" if sealed else "it is not sealed against shrinking"
    except (IndexError, OSError, ValueError) as error:
        why = str(error)
    raise Refused("cannot register memory", why=why, fix="Send a memfd with F_SEAL_SHRINK", code=errno.EINVAL)
