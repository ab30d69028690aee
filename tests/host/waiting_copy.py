"""A program that waits: a copy of this process, whose memory others look into."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def waiting_copy(user: int | None = None) -> Iterator[int]:
    """The number of a copy of this process, with that user id if there is one; it ends at the end."""
    ready, written = os.pipe()
    number = os.fork()
    if number == 0:
        try:
            if user is not None:
                os.setresuid(user, user, user)
            os.write(written, b"1")
            signal.pause()
        finally:
            os._exit(0)
    os.read(ready, 1)
    os.close(ready)
    os.close(written)
    try:
        yield number
    finally:
        os.kill(number, signal.SIGKILL)
        os.waitpid(number, 0)
