"""System calls that Python does not offer: namespaces and mounts. Each raises OSError.

Read first: setns(2), unshare(2), mount(2), umount(2), pivot_root(2).
"""

from __future__ import annotations

import ctypes
import os

CLONE_NEWNS, CLONE_NEWNET, CLONE_NEWUSER = 0x00020000, 0x40000000, 0x10000000
CLONE_FS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00000200, 0x04000000, 0x08000000
MS_NOSUID, MS_NODEV, MS_NOEXEC = 0x2, 0x4, 0x8
MS_BIND, MS_REC, MS_PRIVATE, MS_SHARED = 0x1000, 0x4000, 0x40000, 0x100000
MNT_DETACH = 0x2
SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}.get(os.uname().machine, 155)

_libc = ctypes.CDLL(None, use_errno=True)


def setns(descriptor: int, kind: int) -> None:
    _check(_libc.setns(descriptor, kind), "setns")


def unshare(kinds: int) -> None:
    _check(_libc.unshare(kinds), "unshare")


def mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
    failed = _libc.mount(
        source.encode(), target.encode(), kind.encode() if kind else None, flags, data.encode() or None
    )
    _check(failed, target)


def unmount(target: str, flags: int = MNT_DETACH) -> None:
    _check(_libc.umount2(target.encode(), flags), target)


def pivot_root(new_root: bytes, put_old: bytes) -> None:
    _check(_libc.syscall(SYS_PIVOT_ROOT, new_root, put_old), "pivot_root")


def _check(failed: int, what: str) -> None:
    if failed:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), what)
