"""Memory that a program and its adapter share: the file from which a program maps its queues, and word of its close.

Read first: memfd_create(2), inotify(7). One sealed file of holes for each open device; a queue takes the next pages,
and gives them back as a hole. The program gets an open file of its own, so that its last close, or the end of its
last mapping, can be distinguished from this process's.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import struct
from collections.abc import Callable

SPACE = 1 << 30  # of addresses; pages are there when they are touched
PAGE = mmap.PAGESIZE
_PUNCH = 3  # FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE
_IN_CLOSE = 0x8 | 0x10
_EVENT = struct.Struct("=iIII")
_libc = ctypes.CDLL(None, use_errno=True)


class QueueFile:
    """`descriptor` is what the program gets a copy of; `release` it when it has."""

    def __init__(self) -> None:
        self._own = os.memfd_create("infiniband", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self._own, SPACE)
        fcntl.fcntl(self._own, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        self.path = f"/proc/self/fd/{self._own}"
        self.descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        self._next = 0
        self._free: dict[int, list[int]] = {}  # offsets of pieces that were given back, by their size
        self._maps: dict[int, mmap.mmap] = {}

    def release(self) -> None:
        """The program has its copy."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def take(self, size: int) -> tuple[int, memoryview]:
        """Zeroed memory of whole pages: where it is in the file, and the memory. OSError (ENOMEM)."""
        pieces = self._free.get(size)
        offset = pieces.pop() if pieces else self._next
        if offset + size > SPACE:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        if offset == self._next:
            self._next += size
        mapped = self._maps[offset] = mmap.mmap(self._own, size, offset=offset)
        return offset, memoryview(mapped)

    def give_back(self, offset: int) -> None:
        """Release a piece whose memory is no longer used here."""
        mapped = self._maps.pop(offset)
        size = len(mapped)
        mapped.close()
        _libc.fallocate(self._own, _PUNCH, ctypes.c_long(offset), ctypes.c_long(size))
        self._free.setdefault(size, []).append(offset)

    def close(self) -> None:
        self.release()
        for mapped in self._maps.values():
            mapped.close()
        self._maps.clear()
        os.close(self._own)


class CloseWatch:
    """Reports when programs have closed these files; `fileno` is readable when `ready` should be called."""

    def __init__(self) -> None:
        self._descriptor: int = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._descriptor < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        self._calls: dict[int, Callable[[], object]] = {}

    def fileno(self) -> int:
        return self._descriptor

    def add(self, path: str, closed: Callable[[], object]) -> int:
        """Call `closed` when an open file of this path is closed for the last time; what `remove` takes. OSError."""
        watch: int = _libc.inotify_add_watch(self._descriptor, path.encode(), _IN_CLOSE)
        if watch < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        self._calls[watch] = closed
        return watch

    def remove(self, watch: int) -> None:
        if self._calls.pop(watch, None) is not None:
            _libc.inotify_rm_watch(self._descriptor, watch)

    def ready(self) -> None:
        try:
            raw = os.read(self._descriptor, 1 << 16)
        except BlockingIOError:
            return
        at = 0
        while at < len(raw):
            watch, _, _, length = _EVENT.unpack_from(raw, at)
            at += _EVENT.size + length
            call = self._calls.get(watch)
            if call is not None:
                call()

    def close(self) -> None:
        os.close(self._descriptor)
