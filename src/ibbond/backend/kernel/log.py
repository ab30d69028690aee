"""What the bonding driver writes to the kernel log while something is done to it.

Read first: Documentation/ABI/testing/dev-kmsg. Where /dev/kmsg may not be read there are no lines; nothing depends on
them but how well an error is explained. Left out: the meaning of the lines.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable

KMSG = "/dev/kmsg"
RECORD_BYTES = 8192


class KernelLog:
    """Reads from the moment of its making on; `fresh` gives what came since the last call."""

    def __init__(self, path: str = KMSG, *, from_start: bool = False) -> None:
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            if not from_start:
                os.lseek(self._descriptor, 0, os.SEEK_END)
        except OSError:
            self._descriptor = -1

    def fileno(self) -> int:
        """For poll(2); -1 where the log may not be read."""
        return self._descriptor

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1

    def fresh(self) -> list[str]:
        """The texts of the new records, oldest first."""
        lines: list[str] = []
        while self._descriptor >= 0:
            try:
                record = os.read(self._descriptor, RECORD_BYTES).decode("utf-8", "replace")
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno == errno.EPIPE:  # records were overwritten before this process read them
                    continue
                break
            if not record:
                break
            lines.append(record.partition(";")[2].split("\n")[0])
        return lines


def about(lines: Iterable[str], devices: Iterable[str]) -> list[str]:
    """Those lines that the bonding driver wrote, or that begin with one of the devices."""
    names = tuple(f"{device}:" for device in devices) + tuple(f"{device} " for device in devices)
    return [line for line in lines if line.startswith(("bonding: ", *names)) or "(slave " in line]
