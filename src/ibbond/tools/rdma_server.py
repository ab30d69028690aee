"""The adapters of lab hosts for the programs inside: a Unix socket in each host's network namespace.

Read first: `rdma.messages`. A program is a user of `rdma_cm.users`; its memory is mapped here, so that RDMA of peers
really touches it. Nothing waits: what a program does not read is queued; of one that leaves much of it nothing more is
taken until it has read, and one that peers go on telling of more is dropped. What cannot be done is refused, and the
lab continues whatever a program sends. No program has the loop for longer than `TURN` at a time, and a host has at most
`MAX_PROGRAMS` of them.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import socket
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import get_args

from ibbond.errors import Malformed, Refused
from ibbond.host import credentials
from ibbond.host.credentials import Credentials
from ibbond.host.descriptors import is_scarce
from ibbond.host.device_access import DeviceFile, may_open
from ibbond.host.foreign_descriptors import MAX_IN_MESSAGE, discard
from ibbond.host.guard import Entry
from ibbond.host.loop import LiveLoop
from ibbond.host.namespace import NetNamespace
from ibbond.host.shared_memory import map_memfd
from ibbond.machine import MS
from ibbond.rdma.messages import (
    MAX_BYTES,
    MAX_MEMORY,
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
from ibbond.rdma_cm.events import Destroy, PostWork, RdmaCall, RdmaEvent, RdmaRequest, RdmaUserClosed, WorkCompleted
from ibbond.stack.events import NetworkEffect, OnHost
from ibbond.verbs.reliable_verbs import Completion, Operation, Receive, Status, Work

PAUSE_AT = 1024  # messages that a program has not read: of what it asks no more is taken
QUEUE_LIMIT = 65536  # ... and it is dropped
QUEUE_DEPTH = 4096  # sends, and as many receives, posted to one queue pair and not over
MAX_REGIONS = 64  # of one program
MAX_HOST_REGIONS = 512  # of all programs of a host: a process has 65,530 mappings at most (vm.max_map_count)
MAX_PROGRAMS = 64  # of one host
ACCEPT_PAUSE = 100 * MS  # when no descriptor is free
TURN = 1 * MS  # for what one program asks, before others have theirs
MAX_WORDS = 300  # characters of a refusal
REQUESTS = get_args(RdmaRequest)
Memory = memoryview | Refused | None  # of a `Register`: what its descriptor led to


@dataclass(eq=False, slots=True)
class _SendAccounting:
    """Outstanding work of a queue pair. A request that is not signaled completes with a later one, as with verbs."""

    sends: deque[tuple[int, bool]] = field(default_factory=deque)  # number, signaled
    receives: int = 0

    def add(self, work: Work | Receive) -> None:
        open_now = self.receives if isinstance(work, Receive) else len(self.sends)
        if open_now >= QUEUE_DEPTH:
            raise Refused(
                "cannot post this work",
                why=f"{QUEUE_DEPTH} of its kind are posted to the queue pair and not known to be over",
                fix="Wait for completions; unsignaled sends complete with a later signaled one",
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

    def completed(self, completion: Completion) -> None:
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
    process: Credentials
    sock: socket.socket
    asked: deque[tuple[object, Memory]] = field(default_factory=deque)  # requests that were read and are to be done
    waiting: deque[bytes] = field(default_factory=deque)
    posted: dict[int, _SendAccounting] = field(default_factory=dict)  # by id
    regions: int = 0
    paused: bool = False


class RdmaServer:
    """Serves the programs of all hosts. Only on the loop's thread."""

    def __init__(self, loop: LiveLoop, spaces: Mapping[str, NetNamespace]) -> None:
        self._loop = loop
        self._handles: list[socket.socket] = []
        self._programs: dict[int, _Program] = {}
        self._next = 1
        for host, space in spaces.items():
            listener = space.run_in(_listen)
            self._handles.append(listener)
            loop.add_reader(listener.fileno(), functools.partial(self._enter, host, listener), Entry.RDMA)
        loop.listeners.append(self._on_effect)

    def close(self) -> None:
        self._loop.listeners.remove(self._on_effect)
        for sock in (*self._handles, *(program.sock for program in self._programs.values())):
            self._loop.remove_reader(sock.fileno())
            discard(sock.detach())
        self._programs.clear()

    def _enter(self, host: str, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        except BlockingIOError:
            return
        except OSError:  # no descriptor is free: it waits to be accepted
            self._loop.rest_reader(listener.fileno(), ACCEPT_PAUSE)
            return
        sock.setblocking(False)
        if (refusal := self._no_entry(host, sock)) is not None:
            with contextlib.suppress(OSError):  # it does not wait for the answer
                sock.send(pack(refused(refusal)))
            discard(sock.detach())
            return
        program = _Program(self._next, host, credentials.of_peer(sock), sock)
        self._programs[self._next] = program
        self._next += 1
        self._listen_to(program)

    def _no_entry(self, host: str, sock: socket.socket) -> Refused | None:
        what = "cannot open the adapters of this host"
        if not may_open(credentials.of_peer(sock), DeviceFile.RDMA_CM):
            return Refused(what, why="only root may open them", fix="Ask as root", code=errno.EACCES)
        if sum(program.host == host for program in self._programs.values()) >= MAX_PROGRAMS:
            why = f"{MAX_PROGRAMS} programs of {host} have done so"
            return Refused(what, why=why, fix="End one of them", code=errno.EMFILE)
        if is_scarce(sock.fileno()):
            fix = "Raise the limit (ulimit -n) before the lab is started"
            return Refused(what, why="the lab has too many open files", fix=fix, code=errno.ENFILE)
        return None

    def _listen_to(self, program: _Program) -> None:
        drop = functools.partial(self._drop, program)
        self._loop.add_reader(program.sock.fileno(), functools.partial(self._asked, program), Entry.RDMA, drop)

    def _asked(self, program: _Program) -> None:
        """Take packets and do what they ask, for one turn."""
        until = self._loop.now() + TURN
        while self._loop.now() < until:
            if len(program.waiting) > PAUSE_AT:
                self._pause(program)
                return
            if not self._read(program):
                return
            self._work_off(program, until)
        if program.asked:
            self._pause(program)
            self._resume(program)

    def _read(self, program: _Program) -> bool:
        """Whether there is something to do now."""
        if program.asked:
            return True
        try:
            raw, descriptors, flags, _ = socket.recv_fds(
                program.sock, MAX_BYTES, MAX_IN_MESSAGE, socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return False
        except OSError:
            raw, descriptors, flags = b"", [], 0
        try:
            if not raw:
                self._drop(program)
                return False
            self._take(program, raw, descriptors, cut_off=bool(flags & socket.MSG_TRUNC))
        finally:
            discard(*descriptors)
        return True

    def _take(self, program: _Program, raw: bytes, descriptors: list[int], *, cut_off: bool) -> None:
        """Requests are done later; the memory of a `Register` is mapped now, while its descriptor is here."""
        try:
            if cut_off:
                raise too_large(f"its packet has more than {MAX_BYTES} bytes")
            requests = parse(raw)
        except Malformed as problem:
            self._loop.faults.malformed[Entry.RDMA] += 1
            why, fix = str(problem), "See rdma/messages.py for what a request looks like"
            self._refuse(program, Refused("cannot read this request", why=why, fix=fix))
            return
        except Refused as refusal:
            self._refuse(program, refusal)
            return
        for request in requests:
            memory = self._memory(program, descriptors) if isinstance(request, Register) else None
            program.asked.append((request, memory))

    def _memory(self, program: _Program, descriptors: list[int]) -> memoryview | Refused:
        of_host = sum(each.regions for each in self._programs.values() if each.host == program.host)
        if program.regions == MAX_REGIONS or of_host >= MAX_HOST_REGIONS:
            why, fix = f"the program has {program.regions} regions, its host {of_host}", "Register fewer, larger ones"
            return Refused("cannot register memory", why=why, fix=fix, code=errno.ENOMEM)
        try:
            memory = map_memfd(descriptors[0], MAX_MEMORY)
        except (IndexError, OSError, ValueError) as error:
            fix = "Send a memfd with F_SEAL_SHRINK"
            return Refused("cannot register memory", why=str(error), fix=fix, code=errno.EINVAL)
        program.regions += 1
        return memory

    def _work_off(self, program: _Program, until: int) -> None:
        while program.asked:
            self._try(program, *program.asked.popleft())
            if self._loop.now() >= until:
                return

    def _try(self, program: _Program, request: object, memory: Memory) -> None:
        """Whatever goes wrong is that program's trouble and in the lab's log; the lab and all others go on."""
        question = request.question if isinstance(request, Register | Settle) else -1
        try:
            self._answer(program, request, memory)
        except Refused as refusal:
            self._refuse(program, refusal, question)
        except Exception as error:
            self._loop.faults.note(Entry.RDMA, error)
            why = f"it failed with {type(error).__name__}"
            failure = Refused("cannot carry out this request", why=why, fix="Read the lab's log", code=errno.EIO)
            self._refuse(program, failure, question)

    def _refuse(self, program: _Program, refusal: Refused, question: int = -1) -> None:
        self._give(program, pack(refused(refusal, question)))

    def _answer(self, program: _Program, request: object, memory: Memory) -> None:
        if isinstance(memory, Refused):
            raise memory
        if isinstance(request, Register):
            assert memory is not None
            key = self._loop.network.hosts[program.host].rdma.register(program.user, memory)
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
            raise Refused(
                "cannot carry out this request",
                why=f"{name} is not a request",
                fix="See rdma_cm/events.py for the requests",
            )

    def _post(self, program: _Program, request: PostWork) -> None:
        """Counted first: work can be over before `handle` returns."""
        admitted(request)
        posted = program.posted.get(request.id) or _SendAccounting()
        posted.add(request.request)
        program.posted[request.id] = posted
        try:
            self._loop.handle(OnHost(program.host, RdmaCall(program.user, request)))
        except BaseException:
            posted.undo(request.request)
            if not posted.sends and not posted.receives:
                program.posted.pop(request.id, None)
            raise

    def _on_effect(self, _now: int, effect: NetworkEffect) -> None:
        if isinstance(effect, RdmaEvent):
            program = self._programs.get(effect.user)
            if program is not None and program.host == effect.host:
                if (
                    isinstance(effect.event, WorkCompleted)
                    and (posted := program.posted.get(effect.event.id)) is not None
                ):
                    posted.completed(effect.event.completion)
                self._give(program, pack(effect.event))

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

    def _pause(self, program: _Program) -> None:
        """Of what it asks no more is taken."""
        program.paused = True
        self._loop.remove_reader(program.sock.fileno())

    def _resume(self, program: _Program) -> None:
        """Soon, because another program's request may be in progress."""
        if program.paused:
            self._loop.call_at(self._loop.now(), functools.partial(self._resume_reading, program))

    def _resume_reading(self, program: _Program) -> None:
        if program.paused and program.user in self._programs:
            program.paused = False
            self._listen_to(program)
            self._asked(program)

    def _drop(self, program: _Program) -> None:
        if self._programs.pop(program.user, None) is None:
            return
        self._loop.remove_reader(program.sock.fileno())
        discard(program.sock.detach())  # with what it has not read
        program.asked.clear()
        # Should this fail, what is left of the program stays; the lab and all others go on.
        self._loop.faults.guard(
            Entry.RDMA, lambda: self._loop.handle(OnHost(program.host, RdmaUserClosed(program.user)))
        )


def _listen() -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    sock.bind(SOCKET_NAME)
    sock.listen(64)
    return sock


def refused(refusal: Refused, question: int = -1) -> NotDone:
    return NotDone(refusal.what, refusal.why[:MAX_WORDS], refusal.fix, refusal.code, question)
