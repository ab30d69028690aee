"""The view as a file system: what FUSE asks, answered from the tree, the backend and the kernel's own sysfs.

Read first: fs/kernfs/file.c of Linux for the manners of sysfs: a read from the start renders the text again, one
write is one request and its errno is the writer's, a poll wakes with POLLPRI | POLLERR when the value changed since it
was read. mfusepy brings libfuse; one thread serves one host. Left out: where it is mounted (`mount`).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import itertools
import os
import select
import stat
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Concatenate, ParamSpec, TypeVar

import mfusepy

from ibbond.abi.device_tree import HIDDEN, DeviceTree, Directory, File, Foreign, Kind, Link, Place
from ibbond.backend.contract import Files
from ibbond.errors import Refused
from ibbond.host.guard import Entry, Faults
from ibbond.sysfs.kernel_tree import KernelTree

T = TypeVar("T")
Words = ParamSpec("Words")
PAGE = 4096
POLLRDNORM, POLLWRNORM = 0x40, 0x100
READY = select.POLLIN | select.POLLOUT | POLLRDNORM | POLLWRNORM
CHANGED = READY | select.POLLERR | select.POLLPRI
ATOMIC_O_TRUNC = 1 << 3  # FUSE_CAP_ATOMIC_O_TRUNC: `>` opens and truncates in one request
NUMBERS = frozenset(("ifindex", "iflink"))  # the kernel's where it has some: those of `ip link`
NAMES_STAY = 1.0  # seconds that the kernel need not ask again for a file which is there as long as its directory

_libfuse = mfusepy._libfuse
_libfuse.fuse_notify_poll.argtypes = _libfuse.fuse_pollhandle_destroy.argtypes = [ctypes.c_void_p]
_libfuse.fuse_pollhandle_destroy.restype = None


@dataclass(slots=True)
class OpenFile:
    """One open file; `read` and `write` are None where this kind of file does not have them."""

    path: str
    read: Callable[[], bytes]
    write: Callable[[bytes], int]
    text: bytes = b""
    changes: int = 1  # of the value, since the file was opened; the first poll before a read wakes, as in sysfs
    seen: int = 0  # of them, when it was read last
    waiting: int | None = None  # libfuse's handle of a sleeping poll


def guarded(operation: Callable[Concatenate[View, Words], T]) -> Callable[Concatenate[View, Words], T]:
    """What fails without an errno is counted, and EIO for the caller; mfusepy would log each time."""

    def call(view: View, /, *words: Words.args, **named: Words.kwargs) -> T:
        try:
            return operation(view, *words, **named)
        except OSError:
            raise
        except Exception as error:
            view.faults.note(Entry.SYSFS, error)
            raise OSError(errno.EIO, os.strerror(errno.EIO)) from None

    functools.update_wrapper(call, operation)
    return call


class View(mfusepy.Operations):  # type: ignore[misc]
    """The file system of one host. Called on its own thread, but for `changed` and `close`."""

    use_ns = True

    def __init__(
        self, tree: DeviceTree, backend: Files, kernel: KernelTree | None, faults: Faults | None = None
    ) -> None:
        self.faults = faults or Faults()
        self._tree = tree
        self._backend = backend
        self._kernel = kernel
        self._open: dict[int, OpenFile] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()  # of the open files and their polls
        self._closed = False
        self._config: mfusepy.fuse_config | None = None
        self._born = time.time_ns()

    def changed(self, path: str) -> None:
        """The value of a file has changed: wake its pollers. From any thread."""
        with self._lock:
            for file in self._open.values():
                if file.path == path:
                    file.changes += 1
                    self._wake(file)

    def close(self) -> None:
        """Stop waking polls; called before the connection ends, from any thread."""
        with self._lock:
            self._closed = True

    # What FUSE asks

    def init_with_config(self, connection: mfusepy.fuse_conn_info, config: mfusepy.fuse_config | None) -> None:
        """Both are libfuse's own memory; the configuration is that of the whole time."""
        connection.want |= connection.capable & ATOMIC_O_TRUNC
        self._config = config

    @guarded
    def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
        node = self._find(path)
        if self._config is not None:  # libfuse looks at it after this answer
            self._config.entry_timeout = NAMES_STAY if isinstance(node, File) or path.endswith("/bonding") else 0.0
        match node:
            case Directory():
                return self._attributes(stat.S_IFDIR | 0o755, 0)
            case File(mode=mode):
                return self._attributes(stat.S_IFREG | mode, PAGE)
            case Link(target):
                return self._attributes(stat.S_IFLNK | 0o777, len(target))
            case Foreign():
                found = self._passed(lambda kernel: kernel.stat(path[1:]))
                return self._attributes(found.st_mode, found.st_size)

    @guarded
    def readlink(self, path: str) -> str:
        node = self._find(path)
        if isinstance(node, Link):
            return node.target
        return self._passed(lambda kernel: kernel.readlink(path[1:]))

    @guarded
    def readdir(self, path: str, fh: int) -> list[str]:
        node, place = self._find(path), path[1:]
        names = dict.fromkeys(self._tree.names(place))
        if self._kernel is not None and (isinstance(node, Foreign) or (isinstance(node, Directory) and node.shared)):
            found = self._kernel.names(place) if place else self._kernel.devices()
            names |= dict.fromkeys(name for name in found if name not in HIDDEN)
        return [".", "..", *names]

    @guarded
    def open(self, path: str, flags: int) -> int:
        node = self._find(path)
        mode = node.mode if isinstance(node, File) else self.getattr(path)["st_mode"]
        wanted = {os.O_RDONLY: 0o444, os.O_WRONLY: 0o222, os.O_RDWR: 0o666}[flags & os.O_ACCMODE]
        if (wanted & 0o444 and not mode & 0o444) or (wanted & 0o222 and not mode & 0o222):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))  # root, too: see kernfs_fop_open
        number = next(self._numbers)
        file = self._opened(path[1:], node)
        with self._lock:
            self._open[number] = file
        return number

    @guarded
    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        file = self._open[fh]
        if offset == 0:
            file.seen = file.changes
            file.text = of_open_file(file.read)
        return file.text[offset : offset + size]

    @guarded
    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        file = self._open[fh]
        return of_open_file(lambda: file.write(data[:PAGE]))

    @guarded
    def truncate(self, path: str, length: int, fh: int | None = None) -> int:
        self._find(path)
        return 0  # what `>` does first; the request is the write

    @guarded
    def release(self, path: str, fh: int) -> int:
        with self._lock:
            file = self._open.pop(fh)
            self._forget(file)
        return 0

    @guarded
    def poll(self, path: str, fh: int, ph: int | None, reventsp: ctypes._Pointer[ctypes.c_uint]) -> int:
        file = self._open[fh]
        with self._lock:
            self._forget(file)
            file.waiting = ph or None
            reventsp[0] = CHANGED if file.seen != file.changes else READY
        return 0

    def statfs(self, path: str) -> dict[str, int]:
        return {"f_bsize": PAGE, "f_namemax": 255}

    def create(self, path: str, mode: int, fi: object = None) -> int:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    def _never(self, *_: object) -> int:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    unlink = rmdir = mkdir = mknod = rename = symlink = link = chmod = chown = _never

    def utimens(self, path: str, times: object = None) -> int:
        self._find(path)
        return 0

    def destroy(self, path: str) -> None:
        self.close()

    # Answers

    def _find(self, path: str) -> Place:
        node = self._tree.find(path[1:])
        if node is None:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        return node

    def _opened(self, path: str, node: Place) -> OpenFile:
        match node:
            case File(Kind.PROC, bond):
                return OpenFile(path, lambda: asked(lambda: self._backend.proc(bond)).encode(), self._never)
            case File():
                numbered = node.kind is Kind.DEVICE and node.name in NUMBERS
                return OpenFile(path, lambda: self._text(path, numbered), lambda data: self._request(path, data))
            case _:
                return OpenFile(
                    path,
                    lambda: self._passed(lambda kernel: kernel.read(path)),
                    lambda data: self._passed(lambda kernel: kernel.write(path, data)),
                )

    def _text(self, path: str, numbered: bool) -> bytes:
        if numbered and self._kernel is not None:
            with contextlib.suppress(OSError):
                return self._kernel.read(path)
        return asked(lambda: self._backend.read(path)).encode()

    def _request(self, path: str, data: bytes) -> int:
        try:
            text = data.decode()
        except UnicodeDecodeError:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL)) from None
        asked(lambda: self._backend.write(path, text))
        return len(data)

    def _passed(self, ask: Callable[[KernelTree], T]) -> T:
        if self._kernel is None:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        return ask(self._kernel)

    def _attributes(self, mode: int, size: int) -> dict[str, int]:
        return {
            "st_mode": mode,
            "st_size": size,
            "st_nlink": 2 if stat.S_ISDIR(mode) else 1,
            "st_atime": self._born,
            "st_mtime": self._born,
            "st_ctime": self._born,
        }

    # With the lock held

    def _wake(self, file: OpenFile) -> None:
        if file.waiting is not None and not self._closed:
            _libfuse.fuse_notify_poll(file.waiting)
            self._forget(file)

    def _forget(self, file: OpenFile) -> None:
        if file.waiting is not None:
            _libfuse.fuse_pollhandle_destroy(file.waiting)
            file.waiting = None


def of_open_file(do: Callable[[], T]) -> T:
    """What the file says; where it is gone since it was opened, ENODEV (`kernfs_get_active`)."""
    try:
        return do()
    except OSError as error:
        if error.errno == errno.ENOENT:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV)) from None
        raise


def asked(ask: Callable[[], T]) -> T:
    """What the backend answers; its refusal as the errno of the system call."""
    try:
        return ask()
    except Refused as refusal:
        code = refusal.code or errno.EINVAL
        raise OSError(code, os.strerror(code)) from None
    except TimeoutError:
        raise OSError(errno.EIO, os.strerror(errno.EIO)) from None
