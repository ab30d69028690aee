"""Memory of programs: what their system calls point at, and what peers read and write by RDMA.

Read first: process_vm_readv(2), proc_pid_mem(5). /proc/PID/mem is bound to the address space that was there when it
was opened, so it distinguishes a program from a later one with the same pid; it is also the cheaper way for small
pieces. Large ones go by process_vm_*, after a look that the address space still lives. Left out: who may touch what
(`fabric.memory`).
"""

from __future__ import annotations

import ctypes
import os

from ibbond.verbs.memory import Memory

SMALL = 4096  # up to here /proc/PID/mem is quicker
PAGE = 4096
CHUNK = 256 * 1024  # of a copy: stays in the processor's cache
MAX_PATH = 256

_libc = ctypes.CDLL(None, use_errno=True)


class _IoVec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


_readv, _writev = _libc.process_vm_readv, _libc.process_vm_writev
for _function in (_readv, _writev):
    _function.restype = ctypes.c_ssize_t
    _function.argtypes = [
        ctypes.c_int, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_ulong
    ]  # fmt: skip
_scratch = bytearray(CHUNK)
_scratch_view = memoryview(_scratch)
_pinned = ctypes.c_char.from_buffer(_scratch)  # keeps it where it is
_here, _there = _IoVec(ctypes.addressof(_pinned), CHUNK), _IoVec(0, 0)
_here_at, _there_at = ctypes.addressof(_here), ctypes.addressof(_there)


class ProgramMemory:
    """The address space of one process. Addresses are the program's own; lengths are bytes."""

    __slots__ = ("descriptor", "process")

    def __init__(self, process: int) -> None:
        """OSError where there is no such process, or it is not ours to look into."""
        self.process = process
        self.descriptor = os.open(f"/proc/{process}/mem", os.O_RDWR | os.O_CLOEXEC)

    def alive(self) -> bool:
        """Whether it is still the address space of a running program: not after its end, nor after execve.

        A dead one reads as end of file everywhere, a living one fails at page 0.
        """
        try:
            os.pread(self.descriptor, 1, 0)
        except OSError:
            return True
        return False

    def read(self, address: int, length: int) -> bytes | None:
        """Exactly these bytes; None where there is no such memory."""
        if length <= SMALL:
            try:
                found = os.pread(self.descriptor, length, address)
            except (OSError, OverflowError):
                return None
            return found if len(found) == length else None
        out = bytearray(length)
        done = 0
        while done < length:
            size = min(CHUNK, length - done)
            if not self._fetch(address + done, size):
                return None
            out[done : done + size] = _scratch_view[:size]
            done += size
        return bytes(out)

    def write(self, address: int, data: bytes | bytearray | memoryview) -> bool:
        """Whether there was memory to take it all; for small data even where the program may only read."""
        length = len(data)
        if length <= SMALL:
            try:
                return os.pwrite(self.descriptor, data, address) == length
            except (OSError, OverflowError):
                return False
        done = 0
        while done < length:
            size = min(CHUNK, length - done)
            _scratch_view[:size] = data[done : done + size]
            if not self._store(address + done, size):
                return False
            done += size
        return True

    def string(self, address: int) -> bytes:
        """Up to the NUL, at most `MAX_PATH` bytes; a page behind it is not touched, for it may be absent."""
        out = b""
        while len(out) < MAX_PATH:
            at = address + len(out)
            try:
                part = os.pread(self.descriptor, min(PAGE - at % PAGE, MAX_PATH - len(out)), at)
            except (OSError, OverflowError):
                return out
            end = part.find(0)
            if end >= 0:
                return out + part[:end]
            if not part:
                break
            out += part
        return out

    def copy(self, address: int, target: Memory, target_address: int, length: int) -> bool:
        """From here to another program; whether there was memory at both ends."""
        if not isinstance(target, ProgramMemory):
            data = self.read(address, length)
            return data is not None and target.write(target_address, data)
        if length <= SMALL:
            try:
                found = os.pread(self.descriptor, length, address)
                return len(found) == length and os.pwrite(target.descriptor, found, target_address) == length
            except (OSError, OverflowError):
                return False
        done = 0
        while done < length:
            size = min(CHUNK, length - done)
            if not self._fetch(address + done, size) or not target._store(target_address + done, size):
                return False
            done += size
        return True

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def _fetch(self, address: int, size: int) -> bool:
        """From the program into the scratch buffer."""
        if not self.alive() or address + size >= 1 << 64:
            return False
        _here.length = _there.length = size
        _there.base = address
        return bool(_readv(self.process, _here_at, 1, _there_at, 1, 0) == size)

    def _store(self, address: int, size: int) -> bool:
        if not self.alive() or address + size >= 1 << 64:
            return False
        _here.length = _there.length = size
        _there.base = address
        return bool(_writev(self.process, _here_at, 1, _there_at, 1, 0) == size)


def covers(process: int, start: int, length: int, *, write: bool) -> bool:
    """Whether the program has memory at all these addresses that it may read, and write where `write`."""
    at, end = start, start + length
    try:
        with open(f"/proc/{process}/maps", "rb") as maps:
            for line in maps:
                span, rights = line.split(b" ", 2)[:2]
                low, high = (int(edge, 16) for edge in span.split(b"-"))
                if high <= at:
                    continue
                if low > at or rights[:1] != b"r" or (write and rights[1:2] != b"w"):
                    return False
                at = high
                if at >= end:
                    return True
    except OSError:
        return False
    return length == 0
