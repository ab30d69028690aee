"""A process that touches the memory of programs that could block this access.

Read first: userfaultfd(2), proc_pid_mem(5), fuse(4); `request_wait_answer` of fs/fuse/dev.c. A page of a file on FUSE
is there when the server of that file system delivers it, which may be never, and not even SIGKILL ends every wait for
it. The command lines, mappings and memory files of such a program can block their reader, too. So a child of the lab
does all of that, and the lab waits for it a limited time: a program may make it wait for `ALLOWANCE_NS` at once and
for a tenth of the time in the long run. A family of programs that takes more loses the helper, and all access with it.
Time in which the helper could have run and others were run instead does not count. Left out: which memory needs it
(`tools.program_access`).
"""

from __future__ import annotations

import contextlib
import enum
import errno
import gc
import mmap
import os
import select
import signal
import struct
import time
from pathlib import Path

from ibbond.host.program_memory import ProgramMemory, covers
from ibbond.host.signals import fork
from ibbond.verbs.memory import Memory

ALLOWANCE_NS = 50_000_000  # that the loop waits at once
REFILL = 10  # a tenth of the time
MAX_WAIT_NS = 1_000_000_000  # even when the helper is only waiting for a processor
FREE_NS = 2_000_000  # not charged
CHUNK = 256 * 1024
_REQUEST = struct.Struct("=BxxxIQQQ")  # operation, process, handle, address, length
_REPLY = struct.Struct("=qQ")  # result or -errno, nanoseconds

_ended: list[int] = []  # helpers that are not reaped yet


class MemoryOperation(enum.IntEnum):
    """What the helper can do; data go by the shared buffer."""

    OPEN = 1
    CLOSE = 2
    ALIVE = 3
    READ = 4
    WRITE = 5
    STRING = 6
    COVERS = 7
    COVERS_WRITABLE = 8


class MemoryHelper:
    """The helper of one family of programs, started when it is first needed. Not thread-safe."""

    def __init__(self) -> None:
        self.buffer = memoryview(mmap.mmap(-1, CHUNK))
        self.stalled = False
        self._process: int | None = None
        self._to = self._from = -1
        self._poll = select.poll()
        self._allowance = ALLOWANCE_NS
        self._refilled = time.monotonic_ns()
        self._handles = 0

    def ask(
        self, operation: MemoryOperation, process: int = 0, handle: int = 0, address: int = 0, length: int = 0
    ) -> int:
        """The result of an operation. OSError: EFAULT from the moment on at which a program stalled the helper."""
        if self._process is None and not self.stalled:
            self._start()
        if self.stalled:
            raise OSError(errno.EFAULT, "the program's memory does not answer")
        try:
            os.write(self._to, _REQUEST.pack(operation, process, handle, address, length))
        except BrokenPipeError:  # it was killed, as by a lack of memory
            self.close()
            raise OSError(errno.EFAULT, "the process that reaches the program's memory was killed") from None
        result, took = self._await_reply()
        self._charge(took)
        if result < 0:
            raise OSError(-result, os.strerror(-result))
        return result

    def new_handle(self) -> int:
        self._handles += 1
        return self._handles

    def close(self) -> None:
        """End the helper. One that is blocked ends with the server of the file that blocks it."""
        if self._process is not None:
            os.close(self._to)
            os.close(self._from)
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process, signal.SIGKILL)
            _ended.append(self._process)
            self._process = None
        _reap()
        self.stalled = True

    def _start(self) -> None:
        theirs, self._to = os.pipe2(os.O_CLOEXEC)
        self._from, answers = os.pipe2(os.O_CLOEXEC)
        self._process = fork()
        if self._process == 0:
            try:
                _serve(theirs, answers, self.buffer)
            finally:
                os._exit(0)
        os.close(theirs)
        os.close(answers)
        self._poll.register(self._from, select.POLLIN)

    def _await_reply(self) -> tuple[int, int]:
        """Its reply; where it is blocked for longer than the program may, the helper is given up."""
        end = time.monotonic_ns() + MAX_WAIT_NS
        while not self._poll.poll(max(1, self._allowed() // 1_000_000)):
            if time.monotonic_ns() > end or not self._is_runnable():
                break
        else:
            raw = os.read(self._from, _REPLY.size)
            if len(raw) == _REPLY.size:
                result, took = _REPLY.unpack(raw)
                return result, took
        self.close()
        raise OSError(errno.EFAULT, "the program's memory does not answer")

    def _allowed(self) -> int:
        now = time.monotonic_ns()
        self._allowance = min(ALLOWANCE_NS, self._allowance + (now - self._refilled) // REFILL)
        self._refilled = now
        return self._allowance

    def _charge(self, took: int) -> None:
        if took > FREE_NS:
            self._allowance = max(0, self._allowed() - took)

    def _is_runnable(self) -> bool:
        """Whether it only waits for a processor."""
        with contextlib.suppress(OSError):
            return Path(f"/proc/{self._process}/stat").read_text().rpartition(")")[2].split()[0] == "R"
        return False


class HelpedMemory:
    """`verbs.memory.Memory` of a process, by way of a helper. Addresses are the program's own; lengths are bytes."""

    __slots__ = ("_handle", "_helper", "process")

    def __init__(self, helper: MemoryHelper, process: int) -> None:
        """OSError where there is no such process, or it is not ours to look into."""
        self._helper = helper
        self._handle = helper.new_handle()
        self.process = process
        helper.ask(MemoryOperation.OPEN, process, self._handle)

    def alive(self) -> bool:
        return self._ask(MemoryOperation.ALIVE) == 1

    def read(self, address: int, length: int) -> bytes | None:
        out = bytearray()
        while len(out) < length:
            size = min(CHUNK, length - len(out))
            if self._ask(MemoryOperation.READ, address + len(out), size) != size:
                return None
            out += self._helper.buffer[:size]
        return bytes(out)

    def write(self, address: int, data: bytes | memoryview) -> bool:
        for done in range(0, len(data), CHUNK):
            piece = data[done : done + CHUNK]
            self._helper.buffer[: len(piece)] = piece
            if self._ask(MemoryOperation.WRITE, address + done, len(piece)) != len(piece):
                return False
        return True

    def string(self, address: int) -> bytes:
        found = self._ask(MemoryOperation.STRING, address)
        return bytes(self._helper.buffer[: max(0, found)])

    def covers(self, start: int, length: int, *, write: bool) -> bool:
        return self._ask(MemoryOperation.COVERS_WRITABLE if write else MemoryOperation.COVERS, start, length) == 1

    def copy(self, address: int, target: Memory, target_address: int, length: int) -> bool:
        data = self.read(address, length)
        return data is not None and target.write(target_address, data)

    def close(self) -> None:
        if self._handle:
            self._ask(MemoryOperation.CLOSE)
            self._handle = 0

    def _ask(self, operation: MemoryOperation, address: int = 0, length: int = 0) -> int:
        if (address | length) >> 64:
            return -1
        try:
            return self._helper.ask(operation, self.process, self._handle, address, length)
        except OSError:
            return -1


def _reap() -> None:
    for process in tuple(_ended):
        with contextlib.suppress(ChildProcessError):
            if os.waitpid(process, os.WNOHANG) == (0, 0):
                continue
        _ended.remove(process)


# ---- in the helper


def _serve(requests: int, answers: int, buffer: memoryview) -> None:
    """Until the lab closes its end."""
    gc.disable()
    kept = sorted((requests, answers))
    os.closerange(0, kept[0])
    os.closerange(kept[0] + 1, kept[1])
    os.closerange(kept[1] + 1, os.sysconf("SC_OPEN_MAX"))
    memories: dict[int, ProgramMemory] = {}
    while raw := os.read(requests, _REQUEST.size):
        began = time.monotonic_ns()
        try:
            result = _carry_out(memories, buffer, *_REQUEST.unpack(raw))
        except OSError as problem:
            result = -(problem.errno or errno.EIO)
        os.write(answers, _REPLY.pack(result, time.monotonic_ns() - began))


def _carry_out(
    memories: dict[int, ProgramMemory], buffer: memoryview, operation: int, process: int, *place: int
) -> int:
    handle, address, length = place
    if operation == MemoryOperation.OPEN:
        memories[handle] = ProgramMemory(process)
        return 0
    if operation in (MemoryOperation.COVERS, MemoryOperation.COVERS_WRITABLE):
        return covers(process, address, length, write=operation == MemoryOperation.COVERS_WRITABLE)
    memory = memories[handle]
    match operation:
        case MemoryOperation.CLOSE:
            memories.pop(handle).close()
        case MemoryOperation.ALIVE:
            return memory.alive()
        case MemoryOperation.READ:
            return memory.read_into(address, buffer[:length])
        case MemoryOperation.WRITE:
            return length if memory.write(address, buffer[:length]) else -errno.EFAULT
        case MemoryOperation.STRING:
            found = memory.string(address)
            buffer[: len(found)] = found
            return len(found)
    return 0
