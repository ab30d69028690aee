"""System calls of programs that wait for us: a seccomp filter and its listener.

Read first: seccomp(2), seccomp_unotify(2), Documentation/userspace-api/seccomp_filter.rst. A launcher installs the
filter in itself, hands the listener to the lab and executes the program; children inherit both. Trapped are opens
with the flags that RDMA libraries use, NETLINK_RDMA sockets, and a few calls on descriptors `LOW` to `HIGH` - 1, the
numbers at which ibbond's files are installed in programs. Everything else passes the filter untouched, and calls of
other processor modes too. A call that does not concern one of these files is continued: that decides nothing about
rights, which are checked where a call is served. Left out: what the calls mean; memory of programs (`program_memory`).
"""

from __future__ import annotations

import ctypes
import enum
import errno
import fcntl
import os
import struct
import sys
from typing import NamedTuple

LOW, HIGH = 512, 1024  # below FD_SETSIZE, for programs call select() with the numbers that librdmacm gives them
AUDIT_ARCH_X86_64 = 0xC000003E
NETLINK_RDMA = 20
OPEN_FLAGS = (os.O_RDWR | os.O_CLOEXEC, os.O_RDWR | os.O_NONBLOCK)  # libibverbs and librdmacm; libibumad

_SYS_SECCOMP = 317
_SET_MODE_FILTER, _GET_ACTION_AVAIL = 1, 2
_NEW_LISTENER, _WAIT_KILLABLE_RECV = 8, 32
_ALLOW, _NOTIFY = 0x7FFF_0000, 0x7FC0_0000
_RECV, _SEND, _ID_VALID, _ADDFD = 0xC050_2100, 0xC018_2101, 0x4008_2102, 0x4018_2103
_RECV_REQUEST = ctypes.c_ulong(_RECV)
_CONTINUE = 1
_ADDFD_SETFD, _ADDFD_SEND = 1, 2
_NOTIFICATION = struct.Struct("=QIIiIQ6Q")
_RESPONSE = struct.Struct("=QqiI")
_ADDFD_LAYOUT = struct.Struct("=QIIII")
_PR_SET_NO_NEW_PRIVS = 38
NOTIFICATION_BYTES = _NOTIFICATION.size
_ZEROS = bytes(NOTIFICATION_BYTES)

_libc = ctypes.CDLL(None, use_errno=True)


class Call(enum.IntEnum):
    """The system calls of x86-64 that are trapped."""

    WRITE = 1
    OPEN = 2
    FSTAT = 5
    IOCTL = 16
    SOCKET = 41
    SENDTO = 44
    SENDMSG = 46
    OPENAT = 257
    NEWFSTATAT = 262
    STATX = 332


BY_DESCRIPTOR = (Call.WRITE, Call.IOCTL, Call.FSTAT, Call.NEWFSTATAT, Call.STATX, Call.SENDTO, Call.SENDMSG)


class Notification(NamedTuple):
    """A call that waits: `id` answers it, `thread` is who made it, `arguments` are as in the registers."""

    id: int
    thread: int
    call: int
    arguments: tuple[int, ...]


def why_not() -> str | None:
    """None where programs can be served, else the reason; found out without changing anything."""
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        return f"RDMA programs need x86-64, this machine is {os.uname().machine}"
    action = ctypes.c_uint32(_NOTIFY)
    if _libc.syscall(_SYS_SECCOMP, _GET_ACTION_AVAIL, 0, ctypes.byref(action)):
        return "RDMA programs need seccomp user notification (Linux 5.0), which this kernel or container does not have"
    # Asked without a filter: EFAULT where the flags are known, EINVAL where one is not.
    _libc.syscall(_SYS_SECCOMP, _SET_MODE_FILTER, _NEW_LISTENER | _WAIT_KILLABLE_RECV, None)
    if ctypes.get_errno() != errno.EFAULT:
        return "RDMA programs need SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (Linux 5.19), which this kernel does not have"
    return None


def install() -> int:
    """Put this thread and all it executes under the filter; the listener, close-on-exec.

    OSError: EBUSY where a listener watches this thread already; EACCES without CAP_SYS_ADMIN in its user namespace.
    """
    raw = filter_program()
    code = ctypes.create_string_buffer(raw, len(raw))
    program = ctypes.create_string_buffer(struct.pack("@HxxxxxxQ", len(raw) // 8, ctypes.addressof(code)))
    listener: int = _libc.syscall(_SYS_SECCOMP, _SET_MODE_FILTER, _NEW_LISTENER | _WAIT_KILLABLE_RECV, program)
    if listener < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"seccomp: {os.strerror(number)}")
    return listener


_LD, _JEQ, _JGE, _RET = 0x20, 0x15, 0x35, 0x06
_NUMBER, _ARCH = 0, 4


def _argument(index: int) -> int:
    """Offset of the low half of an argument in `struct seccomp_data`."""
    return 16 + 8 * index


def filter_program() -> bytes:
    """The filter as `struct sock_filter`s: 8 bytes each."""
    lines: list[tuple[str, int, int, str, str]] = [  # label, code, operand, label if true, label if false
        ("", _LD, _ARCH, "", ""),
        ("", _JEQ, AUDIT_ARCH_X86_64, "", "allow"),
        ("", _LD, _NUMBER, "", ""),
        ("", _JEQ, Call.OPENAT, "openat", ""),  # the most frequent one first
        *(("", _JEQ, int(call), "descriptor", "") for call in BY_DESCRIPTOR),
        ("", _JEQ, Call.OPEN, "open", ""),
        ("", _JEQ, Call.SOCKET, "socket", "allow"),
        ("descriptor", _LD, _argument(0), "", ""),
        ("", _JGE, HIGH, "allow", ""),
        ("", _JGE, LOW, "notify", "allow"),
        ("openat", _LD, _argument(2), "", ""),
        ("", _JEQ, OPEN_FLAGS[0], "notify", ""),
        ("", _JEQ, OPEN_FLAGS[1], "notify", "allow"),
        ("open", _LD, _argument(1), "", ""),
        ("", _JEQ, OPEN_FLAGS[0], "notify", ""),
        ("", _JEQ, OPEN_FLAGS[1], "notify", "allow"),
        ("socket", _LD, _argument(0), "", ""),
        ("", _JEQ, 16, "", "allow"),  # AF_NETLINK
        ("", _LD, _argument(2), "", ""),
        ("", _JEQ, NETLINK_RDMA, "notify", "allow"),
        ("allow", _RET, _ALLOW, "", ""),
        ("notify", _RET, _NOTIFY, "", ""),
    ]
    places = {label: place for place, (label, *_) in enumerate(lines) if label}

    def distance(place: int, label: str) -> int:
        return places[label] - place - 1 if label else 0

    return b"".join(
        struct.pack("=HBBI", code, distance(place, true), distance(place, false), operand)
        for place, (_, code, operand, true, false) in enumerate(lines)
    )


class Listener:
    """The lab's end of a filter. `buffer` receives notifications: memory that outlives us shows which one came last.

    Without SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP: it has a program that continues run on this processor, before the lab's
    own work goes on, which takes a third longer for messages in both directions.
    """

    def __init__(self, descriptor: int, buffer: memoryview) -> None:
        """`buffer` is writable and at least `NOTIFICATION_BYTES` long."""
        self.descriptor = descriptor
        self._buffer = buffer[:NOTIFICATION_BYTES]
        self._held = buffer[NOTIFICATION_BYTES : len(buffer) // 8 * 8].cast("Q")
        self._address = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(self._buffer)))

    def receive(self) -> Notification | None:
        """The next call; None where its thread was killed meanwhile. Waits where none is there: poll first."""
        self._buffer[:] = _ZEROS  # the kernel asks for zeros
        if _libc.ioctl(self.descriptor, _RECV_REQUEST, self._address):
            number = ctypes.get_errno()
            if number in (errno.ENOENT, errno.EINTR):
                return None
            raise OSError(number, os.strerror(number))
        identity, thread, _, call, _, _, *arguments = _NOTIFICATION.unpack_from(self._buffer)
        return Notification(identity, thread, call, tuple(arguments))

    def unanswered(self) -> Notification | None:
        """The call that the last process of this lab received and did not answer, from the shared buffer."""
        identity, thread, _, call, _, _, *arguments = _NOTIFICATION.unpack_from(self._buffer)
        return Notification(identity, thread, call, tuple(arguments)) if identity and self.valid(identity) else None

    def hold(self, identity: int) -> bool:
        """Write down in the shared buffer that a call is kept unanswered; False where there is no room for more."""
        for place, other in enumerate(self._held):
            if not other:
                self._held[place] = identity
                return True
        return False

    def release(self, identity: int) -> None:
        """The call that was kept is answered now."""
        for place, other in enumerate(self._held):
            if other == identity:
                self._held[place] = 0

    def held(self) -> list[int]:
        """The calls that the last process of this lab has kept."""
        return [identity for identity in self._held if identity]

    def answer(self, identity: int, value: int = 0, error: int = 0) -> None:
        """End the call: it returns `value`, or fails with the errno `error`."""
        self._respond(_RESPONSE.pack(identity, 0 if error else value, -error, 0))

    def go_on(self, identity: int) -> None:
        """Have the kernel carry out the call as if there were no filter."""
        self._respond(_RESPONSE.pack(identity, 0, 0, _CONTINUE))

    def valid(self, identity: int) -> bool:
        """Whether the call still waits: what was opened by its thread's number is really its own."""
        try:
            fcntl.ioctl(self.descriptor, _ID_VALID, struct.pack("=Q", identity))
        except OSError:
            return False
        return True

    def give(self, identity: int, descriptor: int, number: int | None = None, *, answer: bool = False) -> int:
        """Put a copy of an open file into the program, close-on-exec; its number there.

        With `answer` the call returns that number. OSError: EBADF where the number is above RLIMIT_NOFILE, EMFILE.
        """
        flags = (_ADDFD_SETFD if number is not None else 0) | (_ADDFD_SEND if answer else 0)
        request = bytearray(_ADDFD_LAYOUT.pack(identity, flags, descriptor, number or 0, os.O_CLOEXEC))
        found: int = fcntl.ioctl(self.descriptor, _ADDFD, request)
        return found

    def close(self) -> None:
        os.close(self.descriptor)

    def _respond(self, response: bytes) -> None:
        try:
            fcntl.ioctl(self.descriptor, _SEND, response)
        except OSError as problem:
            if problem.errno != errno.ENOENT:  # it was killed
                raise
