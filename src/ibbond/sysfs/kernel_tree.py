"""The kernel's own /sys/class/net of a lab host, seen past the view that lies over it.

Read first: openat(2), Documentation/filesystems/sysfs.rst. Directories are held since before the view was mounted, and
no link is followed here: one that leads back to /sys/class/net would lead into the view, and the server of the view
would wait for itself. Left out: what is ours (`tree`).
"""

from __future__ import annotations

import errno
import os
import stat

CLASS, DEVICES = "/sys/class/net", "/sys/devices/virtual/net"
_LOOK = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


class KernelTree:
    """Made in the host's mount namespace, before the view is mounted; usable from anywhere."""

    def __init__(self) -> None:
        self._class = os.open(CLASS, _LOOK)
        try:
            self._devices = os.open(DEVICES, _LOOK)
        except BaseException:
            os.close(self._class)
            raise

    def close(self) -> None:
        for descriptor in (self._class, self._devices):
            if descriptor >= 0:
                os.close(descriptor)
        self._class = self._devices = -1

    def devices(self) -> list[str]:
        """The kernel's devices, without the files that are beside them (a real bonding_masters)."""
        return [name for name in self._list(self._class, ".") if stat.S_ISLNK(self._stat(self._class, name).st_mode)]

    def names(self, path: str) -> list[str]:
        """What is in a directory of a device; nothing where it does not exist."""
        try:
            return self._list(self._devices, path)
        except OSError:
            return []

    def stat(self, path: str) -> os.stat_result:
        """Of the thing itself, also of a link; OSError."""
        return self._stat(self._of(path), path)

    def readlink(self, path: str) -> str:
        return os.readlink(path, dir_fd=self._of(path))

    def read(self, path: str) -> bytes:
        descriptor = self._open(path, os.O_RDONLY)
        try:
            return os.read(descriptor, 1 << 16)
        finally:
            os.close(descriptor)

    def write(self, path: str, data: bytes) -> int:
        """One write(2); the kernel decides, with the rights of the lab."""
        descriptor = self._open(path, os.O_WRONLY)
        try:
            return os.write(descriptor, data)
        finally:
            os.close(descriptor)

    def _of(self, path: str) -> int:
        """Whole devices are links in /sys/class/net, what is in them is below /sys/devices."""
        return self._devices if "/" in path else self._class

    def _stat(self, directory: int, path: str) -> os.stat_result:
        return os.stat(path, dir_fd=directory, follow_symlinks=False)

    def _open(self, path: str, flags: int) -> int:
        if "/" not in path:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES), path)
        return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._devices)

    def _list(self, directory: int, path: str) -> list[str]:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        try:
            return os.listdir(descriptor)
        finally:
            os.close(descriptor)
