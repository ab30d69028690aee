"""Temporary directories that outlive no process for long: what a kill -9 left is removed by the next command.

Read first: flock(2), whose lock ends with its process, however that ends. Left out: labs and their files, see
`lab.launch`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

PREFIX = "ibbond-"
SETTLED_S = 60  # a directory that is younger may not be locked yet


@contextlib.contextmanager
def scratch(purpose: str) -> Iterator[Path]:
    """A directory of this user's alone, in $TMPDIR or /tmp, removed at the end; OSError where there is no room."""
    prefix = f"{PREFIX}{purpose}-"
    remove_abandoned(prefix)
    with tempfile.TemporaryDirectory(prefix=prefix) as name:
        lock = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield Path(name)
        finally:
            os.close(lock)


def remove_abandoned(prefix: str) -> None:
    """Remove the directories of this user whose process has ended."""
    for entry in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        with contextlib.suppress(OSError):
            lock = os.open(entry, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                found = os.fstat(lock)
                if found.st_uid == os.geteuid() and time.time() - found.st_mtime > SETTLED_S:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(entry, ignore_errors=True)
            finally:
                os.close(lock)
