"""RDMA devices for the programs of lab hosts: every trapped call comes here, and goes to the file that it is about.

Read first: `host.notification`; docs/rdma.md. One listener for each `lab exec`, whose children share it. An
injected file has the same number in all of them, so that (listener, number) identifies it for every caller. The host is
that of the caller's network namespace at the moment of opening. Only on the loop's thread; nothing here waits, a call
that must wait is kept. Left out: the files themselves (`uverbs_file`, `netlink_file`).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import os
import re
import select
import socket
import stat
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from ibbond.fabric.hca import Hca
from ibbond.host import notification
from ibbond.host.descriptors import is_scarce
from ibbond.host.guard import Entry
from ibbond.host.listener_keeper import Keeper
from ibbond.host.loop import LiveLoop
from ibbond.host.namespace import NetNamespace
from ibbond.host.notification import HIGH, LOW, Call, Listener
from ibbond.host.queue_file import CloseWatch
from ibbond.host.shared_memory import map_memfd
from ibbond.machine import MS
from ibbond.rdma_cm.channel import DEVICE_USER, Channels
from ibbond.rdma_cm.events import RdmaCall, RdmaCmEvent, RdmaEvent, RdmaRequest
from ibbond.stack.events import NetworkEffect, OnHost, TraceEvent
from ibbond.tools.netlink_file import NetlinkFile
from ibbond.tools.program_access import ProgramAccess
from ibbond.tools.program_call import Caller
from ibbond.tools.rdma_cm_file import PIPE_NAME, RdmaCmFile
from ibbond.tools.rdma_hosts import RdmaHosts
from ibbond.tools.uverbs_file import UverbsFile
from ibbond.verbs.verbs import PortEventKind

DEVICE = re.compile(rb"/dev/infiniband/(uverbs|rdma_cm|umad|issm)(\d*)\Z")
FLUSH_EVERY = 10 * MS
PAGE = 4096
_STAT = struct.Struct("=QQQIIIIQqqq72x")
_STATX = struct.Struct("=IIQIIIH2xQQQQ64xIIII112x")


class ProgramFile(Protocol):
    """A file of ibbond in a program."""

    @property
    def descriptor(self) -> int:
        """What the program gets a copy of."""
        ...

    @property
    def device_number(self) -> tuple[int, int] | None:
        """What stat returns; None for what is not a character device."""
        ...

    def call(self, caller: Caller) -> None:
        """Serve a write, ioctl or send. OSError is the program's errno."""
        ...

    def in_use(self, process: int, number: int) -> bool:
        """Whether the program may still have it, for files that do not signal when they are closed."""
        ...

    def watch(self, closes: CloseWatch, closed: Callable[[], None]) -> None:
        """The program has its copy: call `closed` when the last one is closed, if that can be detected."""
        ...

    def close(self) -> None: ...


class Family:
    """A program and its children: those that share a listener."""

    def __init__(self, listener: Listener, *, resumed: bool) -> None:
        self.listener = listener
        self.access = ProgramAccess()
        self.resumed = resumed  # it may have files of the lab that was killed
        self.files: dict[
            int, tuple[ProgramFile, int]
        ] = {}  # by number in the programs, with the process that opened it

    def file(self, number: int) -> ProgramFile | None:
        entry = self.files.get(number)
        return entry[0] if entry is not None else None


class RdmaPrograms:
    """Serves the programs of all hosts; `missing` is the reason why there are no RDMA devices."""

    def __init__(
        self,
        loop: LiveLoop,
        spaces: Mapping[str, NetNamespace],
        adapters: Mapping[str, Sequence[Hca]],
        folder: Path,
        keeper: Keeper,
    ) -> None:
        self.missing = notification.why_not()
        self._keeper = keeper
        self._loop = loop
        self._hosts = RdmaHosts(loop, spaces, adapters, folder)
        self._families: set[Family] = set()
        self._channels: dict[str, Channels] = {}  # by host
        self._entering: set[socket.socket] = set()
        self._closes = CloseWatch()
        self._flushing = False
        loop.add_reader(self._closes.fileno(), self._closes.ready, Entry.RDMA)
        loop.listeners.append(self._on_effect)

    def enter(self, host: str) -> int | None:
        """A program will enter the host: a socket on which its launcher hands its listener over, else None.

        Not on the loop's thread. The caller closes it when it has been sent.
        """
        if self.missing is not None:
            return None
        try:
            self._hosts.open(host)
        except OSError as error:
            self.missing = f"RDMA devices cannot be mounted in {host}: {error.strerror or error}"
            return None
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._loop.ask(lambda: self._await_listener(ours))
        return theirs.detach()

    def adapters(self) -> dict[str, dict[str, str]]:
        """The names of RDMA devices by the node names of their adapters, host by host; nothing where there are none."""
        return {} if self.missing is not None else self._hosts.names()

    def take_over(self) -> None:
        """Serve the programs that a killed lab has left, the call first that it had received and not answered."""
        for descriptor, memory in self._keeper.take_over():
            family = self._serve_family(descriptor, memory, resumed=True)
            os.close(memory)
            for identity in family.listener.held():  # they waited for an event of a file that is lost
                family.listener.release(identity)
                family.listener.answer(identity, error=errno.EIO)
            if (received := family.listener.unanswered()) is not None:
                self._handle(family, Caller(family.listener, received, family.access))

    def close(self) -> None:
        self._keeper.end()
        for sock in tuple(self._entering):
            self._stop_waiting(sock)
        for family in tuple(self._families):
            self._end(family)
        self._loop.listeners.remove(self._on_effect)
        self._loop.remove_reader(self._closes.fileno())
        self._closes.close()
        self._hosts.close()

    # ---- programs come and go

    def _await_listener(self, sock: socket.socket) -> None:
        self._entering.add(sock)
        stop = functools.partial(self._stop_waiting, sock)
        self._loop.add_reader(sock.fileno(), functools.partial(self._take_listener, sock), Entry.RDMA, stop)

    def _take_listener(self, sock: socket.socket) -> None:
        """One way into a host may be taken by several programs, one after the other."""
        try:
            _, descriptors, _, _ = socket.recv_fds(sock, 64, 1)
            if descriptors:
                self._begin(descriptors[0])
                sock.send(b"1")
                return
        except OSError:
            pass  # the launcher has ended
        self._stop_waiting(sock)

    def _stop_waiting(self, sock: socket.socket) -> None:
        self._entering.discard(sock)
        self._loop.remove_reader(sock.fileno())
        sock.close()

    def _begin(self, descriptor: int) -> None:
        os.set_inheritable(descriptor, False)
        memory = os.memfd_create("ibbond-notifications", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(memory, PAGE)
            fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
            self._serve_family(descriptor, memory, resumed=False)
            with contextlib.suppress(OSError):  # without a keeper the programs do not outlive a kill of the lab
                self._keeper.keep(descriptor, memory)
        finally:
            os.close(memory)

    def _serve_family(self, descriptor: int, memory: int, *, resumed: bool) -> Family:
        family = Family(Listener(descriptor, map_memfd(memory, PAGE)), resumed=resumed)
        self._families.add(family)
        ready, end = functools.partial(self._ready, family), functools.partial(self._end, family)
        self._loop.add_watcher(descriptor, select.EPOLLIN, ready, Entry.RDMA, end)
        return family

    def _end(self, family: Family) -> None:
        """The last program with the filter has exited."""
        self._families.discard(family)
        for number in tuple(family.files):
            self._drop(family, number)
        self._loop.remove_reader(family.listener.descriptor)
        family.listener.close()
        family.access.close()

    def _drop(self, family: Family, number: int) -> None:
        entry = family.files.pop(number, None)
        if entry is not None:
            entry[0].close()

    # ---- what happens to adapters

    def _on_effect(self, _now: int, effect: NetworkEffect) -> None:
        if isinstance(effect, TraceEvent) and effect.what == "port":
            port = self._loop.network.subnet.port(effect.where)
            kind = PortEventKind[effect.detail.upper()]
            for file in self._opened():
                file.port_event(port, kind)
        elif isinstance(effect, RdmaEvent) and effect.user == DEVICE_USER and isinstance(effect.event, RdmaCmEvent):
            self._channels_of(effect.host).on_event(effect.event)

    def _channels_of(self, host: str) -> Channels:
        channels = self._channels.get(host)
        if channels is None:
            users = self._loop.network.hosts[host].rdma

            def ask(request: RdmaRequest) -> None:
                self._loop.handle(OnHost(host, RdmaCall(DEVICE_USER, request)))

            channels = self._channels[host] = Channels(users, ask)
        return channels

    def _opened(self) -> list[UverbsFile]:
        files = [file for family in self._families for file, _ in family.files.values()]
        return [file for file in files if isinstance(file, UverbsFile)]

    def _flush_failed(self) -> None:
        """Receives posted to queue pairs in error ring no doorbell."""
        files = self._opened()
        for file in files:
            file.flush_failed()
        self._flushing = bool(files)
        if files:
            self._loop.call_at(self._loop.now() + FLUSH_EVERY, self._flush_failed)

    # ---- calls

    def _ready(self, family: Family, events: int) -> None:
        if not events & select.EPOLLIN:
            self._end(family)
            return
        received = family.listener.receive()
        if received is None:
            return
        self._handle(family, Caller(family.listener, received, family.access))

    def _handle(self, family: Family, caller: Caller) -> None:
        try:
            self._serve(family, caller)
        except OSError as problem:
            caller.fail(problem.errno or errno.EIO)
        except Exception as error:
            self._loop.faults.note(Entry.RDMA, error)
            caller.fail(errno.EIO)
        finally:
            caller.close()  # of one that is kept it is opened again

    def _serve(self, family: Family, caller: Caller) -> None:
        match caller.call:
            case Call.OPENAT | Call.OPEN:
                self._open(family, caller)
            case Call.SOCKET:
                self._open_netlink(family, caller)
            case _:
                entry = family.files.get(caller.arguments[0] & 0xFFFF_FFFF)
                if entry is None and family.resumed and is_lost_file(caller):
                    caller.fail(errno.EIO)
                elif entry is None:
                    caller.go_on()
                elif caller.call in (Call.FSTAT, Call.NEWFSTATAT, Call.STATX):
                    self._stat(entry[0], caller)
                else:
                    entry[0].call(caller)

    def _open(self, family: Family, caller: Caller) -> None:
        try:
            path = caller.string(caller.arguments[1 if caller.call == Call.OPENAT else 0])
        except OSError:
            path = b""  # the kernel will find that out, too, and wait in the program
        found = DEVICE.match(path)
        host = self._hosts.of_thread(caller.thread) if found is not None else None
        if found is None or host is None:
            caller.go_on()
            return
        kind, number = found[1].decode(), int(found[2] or 0)
        if kind == "rdma_cm":
            channels = self._channels_of(host.name)
            self._put(family, caller, lambda: RdmaCmFile(self._loop, channels, host.folder, family.file))
            return
        if kind != "uverbs":
            raise OSError(errno.ENXIO, f"{kind} is not served")
        device = host.device(number)
        if device is None:
            raise OSError(errno.ENXIO, "the adapter is not plugged in")
        self._put(family, caller, lambda: UverbsFile(self._loop, device))
        if not self._flushing:
            self._flush_failed()

    def _open_netlink(self, family: Family, caller: Caller) -> None:
        host = self._hosts.of_thread(caller.thread)
        if host is None:
            caller.go_on()
            return
        blocking = not caller.arguments[1] & socket.SOCK_NONBLOCK
        self._put(family, caller, lambda: NetlinkFile(host, blocking=blocking))

    def _put(self, family: Family, caller: Caller, make: Callable[[], ProgramFile]) -> None:
        """Give the program a new file at a number that is free in it and all its family."""
        process = caller.process()
        number = self._free_number(family, process)
        file = make()
        if is_scarce(file.descriptor):
            file.close()
            raise OSError(errno.ENFILE, os.strerror(errno.ENFILE))
        family.files[number] = file, process
        try:
            caller.give(file.descriptor, number, answer=True)
        except OSError as problem:
            self._drop(family, number)
            if problem.errno == errno.EBADF:  # the number is above its RLIMIT_NOFILE
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE)) from None
            raise
        file.watch(self._closes, functools.partial(self._drop, family, number))

    def _free_number(self, family: Family, process: int) -> int:
        for number, (file, opener) in tuple(family.files.items()):
            if not file.in_use(opener, number):
                self._drop(family, number)
        for number in range(LOW, HIGH):
            if number not in family.files and not os.path.lexists(f"/proc/{process}/fd/{number}"):
                return number
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    def _stat(self, file: ProgramFile, caller: Caller) -> None:
        """fstat, and the newer calls where they are about the descriptor itself and not a path below it."""
        device, arguments = file.device_number, caller.arguments
        if device is None or (caller.call != Call.FSTAT and caller.string(arguments[1])):
            caller.go_on()
            return
        mode = stat.S_IFCHR | 0o666
        if caller.call == Call.STATX:
            found = _STATX.pack(0x7FF, 4096, 0, 1, 0, 0, mode, 1, 0, 0, 0, *device, 0, 6)
            caller.write(arguments[4], found)
        else:
            found = _STAT.pack(6, 1, 1, mode, 0, 0, 0, os.makedev(*device), 0, 4096, 0)
            caller.write(arguments[1 if caller.call == Call.FSTAT else 2], found)
        caller.answer()


def is_lost_file(caller: Caller) -> bool:
    """Whether a call is about an RDMA device that a killed lab put into the program: a memfd, or an ibbond pipe."""
    try:
        target = os.readlink(f"/proc/{caller.thread}/fd/{caller.arguments[0] & 0xFFFF_FFFF}")
    except OSError:
        return False
    return target.startswith("/memfd:infiniband") or f"/{PIPE_NAME}." in target
