"""/dev/infiniband/rdma_cm of a program: commands in, answers out, and events that wake it.

Read first: `rdma_cm.channel`, which decides. The program has the read end of a named pipe that holds one byte while
there are events, so that poll(2) is the kernel's own. A GET_EVENT that must wait is kept and answered by the event.
Left out: where calls come from (`rdma_programs`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ibbond.abi.infiniband_text import RDMA_CM_DEV
from ibbond.errors import Malformed
from ibbond.host.guard import Entry
from ibbond.host.loop import LiveLoop
from ibbond.host.notification import Call
from ibbond.host.queue_file import CloseWatch
from ibbond.machine import MS
from ibbond.rdma_cm.channel import Channel, Channels
from ibbond.tools.program_call import Caller
from ibbond.verbs_objects.refusal import refuse
from ibbond.wire import rdma_cm
from ibbond.wire.rdma_cm import Envelope, GetEvent

PIPE_NAME = "ibbond-rdma_cm"  # by this a lab that is resumed knows the files of the one that was killed
LOOK_FOR_SIGNALS = 100 * MS
FindFile = Callable[[int], object]  # by the program's descriptor


class _Waiting(NamedTuple):
    caller: Caller
    envelope: Envelope
    length: int


class RdmaCmFile:
    """One open file. `find` gives what is open at a descriptor of the program."""

    device_number = RDMA_CM_DEV

    def __init__(self, loop: LiveLoop, channels: Channels, folder: Path, find: FindFile) -> None:
        self.channel: Channel = channels.open(self)
        self._loop = loop
        self._find = find
        self._waiting: deque[_Waiting] = deque()
        self._signaled = False  # there is a byte in the pipe
        self._looking = False
        self._closed: Callable[[], None] | None = None  # what to call when no call is waiting
        place = folder / f"{PIPE_NAME}.{id(self):x}"
        os.mkfifo(place, 0o600)
        try:
            self.descriptor = os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            self._bell = os.open(place, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        finally:
            place.unlink()
        os.set_blocking(self.descriptor, True)  # as open(2) asked

    def watch(self, closes: CloseWatch, closed: Callable[[], None]) -> None:
        """The kernel signals at this end of the pipe when no copy of the program's end is left.

        A call that waits in another thread keeps the file open, as it does in the kernel.
        """
        self._release()

        def ended(_: int) -> None:
            self._loop.remove_reader(self._bell)
            self._closed = closed
            self._look()

        self._loop.add_watcher(self._bell, select.EPOLLERR, ended, Entry.RDMA)

    def in_use(self, process: int, number: int) -> bool:
        return True  # it signals when it is closed

    def close(self) -> None:
        for one in self._waiting:
            self._let_go(one.caller, errno.EBADF)
        self._waiting.clear()
        self._loop.remove_reader(self._bell)
        self.channel.close()
        self._release()
        os.close(self._bell)

    def _release(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    # ---- calls

    def call(self, caller: Caller) -> None:
        if caller.call != Call.WRITE:
            raise OSError(errno.ENOTTY if caller.call == Call.IOCTL else errno.ENOTSOCK, "not served")
        address, length = caller.arguments[1:3]
        if length > rdma_cm.MAX_COMMAND_BYTES:
            refuse()
        try:
            envelope, request = rdma_cm.parse(caller.read(address, length))
        except Malformed:
            refuse()
        if isinstance(request, GetEvent):
            self._get_event(_Waiting(caller, envelope, length))
            return
        answer = self.channel.execute(_Process(caller, self._find), envelope, request)
        if answer:
            caller.write(envelope.address, answer)
        self._mute()
        caller.answer(length)

    def _get_event(self, asked: _Waiting) -> None:
        caller, envelope, _ = asked
        if envelope.room < rdma_cm.MIN_EVENT_BYTES:
            refuse(errno.ENOSPC)
        if self.channel.events:
            self._deliver(asked)
            self._mute()
        elif not blocks(caller) or not caller.listener.hold(caller.id):
            refuse(errno.EAGAIN)
        else:
            self._waiting.append(asked)
            self._look_for_signals()

    def _deliver(self, asked: _Waiting) -> None:
        event = self.channel.events[0]
        asked.caller.write(asked.envelope.address, event.raw[: asked.envelope.room])
        self.channel.next_event()
        asked.caller.answer(asked.length)

    def ready(self) -> None:
        """`rdma_cm.channel.Outlet`."""
        while self._waiting and self.channel.events:
            asked = self._waiting.popleft()
            asked.caller.listener.release(asked.caller.id)
            try:
                self._deliver(asked)
            except OSError as problem:  # it was killed meanwhile, or has no memory there
                asked.caller.fail(problem.errno or errno.EFAULT)
            finally:
                asked.caller.close()
        if self.channel.events and not self._signaled:
            self._signaled = True
            with contextlib.suppress(OSError):
                os.write(self._bell, b"\1")

    def _mute(self) -> None:
        """The last event was read: take the byte back."""
        if self.channel.events or not self._signaled:
            return
        self._signaled = False
        with contextlib.suppress(OSError):
            reader = os.open(f"/proc/self/fd/{self._bell}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                os.read(reader, 1)
            finally:
                os.close(reader)

    # ---- signals

    def _look_for_signals(self) -> None:
        """A call that waits for us is not interrupted by signals that its program catches; so they are looked for."""
        if self._waiting and not self._looking:
            self._looking = True
            self._loop.call_at(self._loop.now() + LOOK_FOR_SIGNALS, self._look)

    def _look(self) -> None:
        self._looking = False
        for one in tuple(self._waiting):
            if not one.caller.listener.valid(one.caller.id) or is_signaled(one.caller.thread):
                self._waiting.remove(one)
                self._let_go(one.caller, errno.EINTR)
        if self._closed is not None and not self._waiting:
            self._closed()
        else:
            self._look_for_signals()

    def _let_go(self, caller: Caller, number: int) -> None:
        caller.listener.release(caller.id)
        caller.fail(number)
        caller.close()


class _Process:
    """`rdma_cm.channel.Caller`."""

    def __init__(self, caller: Caller, find: FindFile) -> None:
        self._find = find
        self.read = caller.read

    def channel(self, descriptor: int) -> Channel | None:
        found = self._find(descriptor)
        return found.channel if isinstance(found, RdmaCmFile) else None


def blocks(caller: Caller) -> bool:
    """Whether the program has its descriptor without O_NONBLOCK."""
    with open(f"/proc/{caller.thread}/fdinfo/{caller.arguments[0] & 0xFFFF_FFFF}") as lines:
        flags = next(int(line.split()[1], 8) for line in lines if line.startswith("flags:"))
    return not flags & os.O_NONBLOCK


def is_signaled(thread: int) -> bool:
    """Whether a signal waits that the thread would catch; also where it has ended."""
    try:
        with open(f"/proc/{thread}/status") as lines:
            fields = dict(line.split(":", 1) for line in lines)
    except OSError:
        return True
    masks = {name: int(fields[name], 16) for name in ("SigPnd", "ShdPnd", "SigCgt", "SigBlk")}
    return bool((masks["SigPnd"] | masks["ShdPnd"]) & masks["SigCgt"] & ~masks["SigBlk"])
