"""Files that people name for output, opened with the rights of this process and no more trust than they deserve.

Read first: `may_follow_link` and `may_create_in_sticky` of fs/namei.c (sysctls fs.protected_symlinks and
fs.protected_regular). In a directory like /tmp, where others may make files and not remove ours, a link or file of
another user in the place of our output is a trap, above all for root. The kernel refuses it where these sysctls are
set; here it is refused everywhere. Left out: directories of others without the sticky bit, where nothing helps.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from ibbond.errors import Refused

SHARED = stat.S_ISVTX | stat.S_IWOTH
TRIES = 8  # names that come and go while we look


def open_output(path: Path, *, flags: int = os.O_TRUNC, mode: int = 0o666) -> int:
    """A descriptor for writing to this file, which is made if it is not there; `Refused` where that cannot be.

    `flags` are added to those that it has in any case.
    """
    try:
        for _ in range(TRIES):
            if (descriptor := _open(path, flags | os.O_WRONLY | os.O_CLOEXEC, mode)) is not None:
                return descriptor
        raise OSError(errno.EAGAIN, "it keeps changing")
    except OSError as error:
        why = "it is a pipe without a reader" if error.errno == errno.ENXIO else error.strerror or str(error)
        raise Refused(
            f"cannot write {path}", why=why, fix="Choose another file", code=error.errno or errno.EINVAL
        ) from None


def write_output(path: Path, content: bytes, *, mode: int = 0o666) -> None:
    """Write a whole file; `Refused` as `open_output`, or when there is no room."""
    descriptor = open_output(path, mode=mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
    except OSError as error:
        why = error.strerror or str(error)
        raise Refused(f"cannot write {path}", why=why, fix="Free some space, or choose another file", code=2) from None


def _open(path: Path, flags: int, mode: int) -> int | None:
    """None when what is there has become another file meanwhile."""
    try:
        facts = os.lstat(path)
    except FileNotFoundError:
        try:
            return os.open(path, flags | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        except FileExistsError:
            return None
    _check_owner(path, facts)
    if stat.S_ISLNK(facts.st_mode):  # our own, so no other user can replace it
        return os.open(path, flags | os.O_CREAT, mode)
    try:
        descriptor = os.open(path, flags & ~os.O_TRUNC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    if not os.path.samestat(facts, os.fstat(descriptor)):
        os.close(descriptor)
        return None
    if flags & os.O_TRUNC and stat.S_ISREG(facts.st_mode):
        os.ftruncate(descriptor, 0)
    return descriptor


def _check_owner(path: Path, facts: os.stat_result) -> None:
    directory = os.stat(path.parent)
    if directory.st_mode & SHARED == SHARED and facts.st_uid not in (os.geteuid(), directory.st_uid):
        kind = "link" if stat.S_ISLNK(facts.st_mode) else "file"
        raise OSError(errno.EACCES, f"it is a {kind} of another user in a world-writable directory")
