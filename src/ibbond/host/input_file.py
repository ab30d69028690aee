"""Files that people name for input, read whole, without waiting for another process.

Read first: open(2) on O_NONBLOCK, fifo(7). To open a pipe waits for its writer, a device or a file of /proc may have
no end, and a command that root runs must neither hang nor eat the machine's memory because of a name. So only regular
files are read, and no more of them than `MAX_INPUT_BYTES`. Left out: file systems whose server does not answer; a
signal ends a command that waits for one.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ibbond.errors import Refused

MAX_INPUT_BYTES = 64 << 20


def read_input(path: Path, fix: str, *, max_bytes: int = MAX_INPUT_BYTES) -> bytes:
    """The bytes of a regular file. `Refused` (code 2) for anything else, and for more than `max_bytes`."""
    what = f"cannot read {path}"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise Refused(what, why="it is not a regular file", fix=fix, code=2)
            data = file.read(max_bytes + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the name
        why = error.strerror if isinstance(error, OSError) else None
        raise Refused(what, why=why or str(error), fix=fix, code=2) from None
    if data is None:  # a file of /proc that has nothing yet, such as kmsg
        raise Refused(what, why="nothing can be read from it now", fix=fix, code=2)
    if len(data) > max_bytes:
        raise Refused(what, why=f"it is larger than {max_bytes >> 20} MiB", fix=fix, code=2)
    return data


def read_input_text(path: Path, fix: str) -> str:
    """The same as text. `Refused` also where it is not UTF-8."""
    try:
        return read_input(path, fix).decode()
    except UnicodeDecodeError:
        raise Refused(f"cannot read {path}", why="it is not a text file", fix=fix) from None
