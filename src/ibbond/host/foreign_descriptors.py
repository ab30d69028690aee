"""Descriptors that come from programs in hosts, and how this process gets rid of them without waiting.

Read first: unix(7) on SCM_RIGHTS; socket(7) on SO_LINGER; `fuse_flush` of fs/fuse/file.c. Closing a descriptor waits
for the server of a file on FUSE, and for the peer of a TCP socket that lingers, as long as these like. So does dropping
a message that carries it, and closing a Unix socket in which such a message waits. Where the kernel can
(SO_PASSRIGHTS, Linux 6.16) such messages are refused to their sender; all else is closed by threads of their own.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import threading
from collections import deque

SO_PASSRIGHTS = 83
MAX_IN_MESSAGE = 253  # SCM_MAX_FD
MAX_THREADS = 16
IDLE_S = 1.0  # a thread without work for this time ends

_changed = threading.Condition()  # protects what follows
_doomed: deque[int] = deque()
_idle = 0  # threads that wait for work
_threads = 0


def refuse(sock: socket.socket) -> None:
    """Have the kernel refuse messages with descriptors to this Unix socket, where it can."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS, 0)


def read(sock: socket.socket, size: int) -> bytes:
    """As recv(2); descriptors that come along are discarded."""
    data, descriptors, _, _ = socket.recv_fds(sock, size, MAX_IN_MESSAGE, socket.MSG_CMSG_CLOEXEC)
    discard(*descriptors)
    return data


def discard(*descriptors: int) -> None:
    """Close them soon; at once where that cannot wait for a program. From any thread."""
    for descriptor in descriptors:
        if _is_memory(descriptor):
            os.close(descriptor)
        else:
            _close_elsewhere(descriptor)


def _close_elsewhere(descriptor: int) -> None:
    global _threads
    with _changed:
        _doomed.append(descriptor)
        if _idle >= len(_doomed):
            _changed.notify()
        elif _threads < MAX_THREADS:
            _threads += 1
            threading.Thread(target=_close_doomed, daemon=True).start()


def _close_doomed() -> None:
    global _idle, _threads
    while True:
        with _changed:
            if not _doomed:
                _idle += 1
                _changed.wait(IDLE_S)
                _idle -= 1
            if not _doomed:
                _threads -= 1
                return
            descriptor = _doomed.popleft()
        with contextlib.suppress(OSError):
            os.close(descriptor)


def _is_memory(descriptor: int) -> bool:
    """Whether it is of a memfd or tmpfs, which has seals."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
    except OSError:
        return False
    return True
