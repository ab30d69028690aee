"""The files in which a kernel shows its bonds: read and written below one root, with errors that name the file.

Read first: Documentation/networking/bonding.rst, Documentation/filesystems/sysfs.rst. The root is `/` on a live host
and a directory on a saved copy of one, whose symbolic links stay inside it. Left out: what the texts mean.
"""

from __future__ import annotations

import contextlib
import errno
import os

from ibbond.abi.netlink_attributes import IFF_UP
from ibbond.errors import Refused

CLASS_NET = "sys/class/net"
MAX_BYTES = 1 << 20


class HostFiles:
    """Texts below a root; paths are relative to it (`sys/class/net/bond0/mtu`)."""

    def __init__(self, root: str | os.PathLike[str] = "/") -> None:
        self.root = os.fspath(root).rstrip("/") + "/"

    @property
    def live(self) -> bool:
        """Whether this is the running host and no copy."""
        return self.root == "/"

    def name(self, path: str) -> str:
        """The full name, for people and for open(2)."""
        return self.root + path

    def read(self, path: str) -> str:
        """The text of one file; Refused, with the errno, when it cannot be read."""
        try:
            descriptor = os.open(self.name(path), os.O_RDONLY | os.O_CLOEXEC)
            try:
                return os.read(descriptor, MAX_BYTES).decode("utf-8", "replace")
            finally:
                os.close(descriptor)
        except OSError as error:
            raise Refused(
                f"cannot read {self.name(path)}",
                why=os.strerror(error.errno or errno.EIO),
                fix="See what is there with: ls " + os.path.dirname(self.name(path)),
                code=error.errno or errno.EIO,
            ) from None

    def text(self, path: str) -> str | None:
        """The text without its newline; None for a file that is not there or does not answer now.

        tar pads what it reads from /sys with zeros up to the size that stat(2) gives: a copy's text ends at the first.
        """
        with contextlib.suppress(Refused):
            return self.read(path).partition("\0")[0].rstrip("\n")
        return None

    def number(self, path: str) -> int | None:
        """A decimal or 0x number; None if there is no number."""
        found = self.text(path)
        with contextlib.suppress(TypeError, ValueError):
            return int(found or "", 0)
        return None

    def write(self, path: str, text: str) -> None:
        """One write(2). Raises OSError: what an errno means depends on the file, see refusals.py."""
        descriptor = os.open(self.name(path), os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)

    def entries(self, path: str) -> list[str]:
        """The names in a directory, sorted; none when there is no such directory."""
        try:
            return sorted(os.listdir(self.name(path)))
        except OSError:
            return []

    def is_up(self, device: str) -> bool:
        """Whether a device is administratively up."""
        return bool((self.number(f"{CLASS_NET}/{device}/flags") or 0) & IFF_UP)

    def exists(self, path: str) -> bool:
        return os.path.exists(self.name(path))

    def where(self, path: str) -> str | None:
        """What a symbolic link, or a chain of them, leads to: a path below the root, or None."""
        full = os.path.realpath(self.name(path))
        base = os.path.realpath(self.root).rstrip("/") + "/"
        if not os.path.exists(full) or not full.startswith(base):
            return None
        return full.removeprefix(base)

    def matching(self, pattern: str) -> list[str]:
        """The paths below the root that match a glob pattern, sorted."""
        import glob

        return sorted(glob.glob(pattern, root_dir=self.root))
