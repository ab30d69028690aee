"""What a lab's process may still do once it reads what hosts send: the capabilities that it needs, and no others.

Read first: capabilities(7), prctl(2) on PR_CAPBSET_DROP and PR_SET_NO_NEW_PRIVS. They are dropped before the first
thread is made, because each thread has its own. The bounding set goes with them: it is what a program of root gets
back at execve. Left out: a filter of system calls.
"""

from __future__ import annotations

import ctypes
import enum
import os
import struct
from collections.abc import Collection
from pathlib import Path

PR_CAPBSET_READ, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 23, 24, 38
SETPCAP = 8
_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


class Capability(enum.IntEnum):
    """Those that a lab keeps, and why."""

    DAC_OVERRIDE = 1  # captures, to files of other users
    DAC_READ_SEARCH = 2  # /proc of all users' programs in hosts
    KILL = 5  # programs in hosts, when the lab ends
    NET_ADMIN = 12  # TUN devices, netlink
    SYS_CHROOT = 18  # setns to the mount namespace of a host
    SYS_PTRACE = 19  # memory of RDMA programs, and who is in which namespace
    SYS_ADMIN = 21  # setns, mounts
    SYS_NICE = 23  # to be run before others


def drop(kept: Collection[int] = tuple(Capability)) -> bool:
    """Give up all other capabilities of this process and of its future children; whether that was done.

    Not done where it may not look at all programs (CAP_SYS_PTRACE, which containers tend to lack): those in its
    hosts may have every capability that it has now, and with fewer it could not find them to end them. OSError where
    a system call fails.
    """
    own = sum(1 << number for number in kept) & held()
    if not own >> Capability.SYS_PTRACE & 1 and kept:
        return False
    for number in range(64 if held() >> SETPCAP & 1 else 0):
        in_set = _libc.prctl(PR_CAPBSET_READ, number, 0, 0, 0)
        if in_set < 0:
            break  # the kernel knows no more
        if in_set and number not in kept:
            _check(_libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0), "PR_CAPBSET_DROP")
    header = ctypes.create_string_buffer(struct.pack("=Ii", _VERSION_3, 0))
    low, high = own & 0xFFFF_FFFF, own >> 32
    data = ctypes.create_string_buffer(
        struct.pack("=6I", low, low, 0, high, high, 0)
    )  # effective, permitted, inherited
    _check(_libc.capset(header, data), "capset")
    _check(_libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "PR_SET_NO_NEW_PRIVS")
    return True


def held() -> int:
    """The permitted set of this thread, as a mask."""
    for line in Path("/proc/thread-self/status").read_text().splitlines():
        if line.startswith("CapPrm:"):
            return int(line.split()[1], 16)
    return 0


def _check(failed: int, what: str) -> None:
    if failed:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), what)
