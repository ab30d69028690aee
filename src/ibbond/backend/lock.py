"""One ibbond at a time changes a host's bonds: an advisory lock on a directory or file that is there anyway.

Read first: flock(2). It needs no file of its own, ends with the process (and with the children that inherited it), and
is the same for all who see the same path. Programs that do not ask for it are not kept out.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator

from ibbond.errors import Refused

WAIT_SECONDS = 10.0
POLL_SECONDS = 0.02


@contextlib.contextmanager
def alone(path: str, what: str) -> Iterator[None]:
    """Holds the lock while it lasts. Refused (EBUSY) when another process does not let go of it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    until = time.monotonic() + WAIT_SECONDS
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise Refused(
                        f"cannot change {what}",
                        why=f"another ibbond process is changing them, for {WAIT_SECONDS:.0f} s already",
                        fix=f"Wait for it to end; to see which process it is: fuser -v {path}",
                        code=errno.EBUSY,
                    ) from None
                time.sleep(POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)
