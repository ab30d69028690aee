"""Memory of programs: what their system calls point at, and what peers read and write by RDMA.

Read first: proc_pid_mem(5); `__access_remote_vm` of mm/memory.c. /proc/PID/mem is bound to the address space that was
there when it was opened, so it distinguishes a program from a later one with the same pid. Unlike process_vm_readv(2)
it does not wait for a userfaultfd: such a page is a read error. A page of a file on FUSE it does wait for, see
`memory_helper`. Left out: who may touch what (`fabric.memory`).
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from typing import NamedTuple

from ibbond.verbs.memory import Memory

PAGE = 4096
CHUNK = 64 * 1024  # of a copy: stays in the processor's cache
MAX_PATH = 256

_scratch = memoryview(bytearray(CHUNK))


class Mapping(NamedTuple):
    """Addresses `start` to `end` of a process, and what is there: rights as in proc_pid_maps(5), a file's device."""

    start: int
    end: int
    rights: bytes
    device: bytes  # major:minor in hexadecimal
    inode: int  # 0 for anonymous memory


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
        try:
            found = os.pread(self.descriptor, length, address)
        except (OSError, OverflowError):
            return None
        return found if len(found) == length else None

    def read_into(self, address: int, room: memoryview) -> int:
        """As many bytes as there is room; how many there were."""
        try:
            return os.preadv(self.descriptor, [room], address)
        except (OSError, OverflowError):
            return 0

    def write(self, address: int, data: bytes | memoryview) -> bool:
        """Whether there was memory to take it all, even where the program may only read."""
        try:
            return os.pwrite(self.descriptor, data, address) == len(data)
        except (OSError, OverflowError):
            return False

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
        for done in range(0, length, CHUNK):
            piece = _scratch[: min(CHUNK, length - done)]
            if self.read_into(address + done, piece) != len(piece) or not target.write(target_address + done, piece):
                return False
        return True

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def mappings(process: int) -> Iterator[Mapping]:
    """What is where in a process, by address; nothing of one that does not exist. May block, see `memory_helper`."""
    try:
        with open(f"/proc/{process}/maps", "rb") as lines:
            for line in lines:
                span, rights, _, device, inode, *_ = line.split(None, 5)
                start, end = span.split(b"-")
                yield Mapping(int(start, 16), int(end, 16), rights, device, int(inode))
    except OSError:
        return


def covers(process: int, start: int, length: int, *, write: bool, devices: Collection[bytes] | None = None) -> bool:
    """Whether the program has memory at all these addresses that it may read, and write where `write`.

    With `devices`: and it is anonymous memory, or of files on these.
    """
    at, end = start, start + length
    for found in mappings(process):
        if found.end <= at:
            continue
        if found.start > at or found.rights[:1] != b"r" or (write and found.rights[1:2] != b"w"):
            return False
        if devices is not None and found.inode and found.device not in devices:
            return False
        at = found.end
        if at >= end:
            return True
    return length == 0
