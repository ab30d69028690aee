"""Names of lab hosts in /run/netns, as `ip netns` keeps them: bind mounts of their network namespaces.

Read first: ip-netns(8). A host is `ibbond-LAB-HOST`. Where /run/netns cannot be written (an ordinary user inside a user
namespace) a host has no pin and lives as long as a process or a descriptor holds it.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from ibbond.errors import Refused
from ibbond.host.syscalls import MS_BIND, MS_REC, MS_SHARED, mount, unmount

PINS = Path("/run/netns")
OURS = Path("/run/ibbond-netns")  # holds a note of what /run/netns was before us


def pin_name(lab: str, host: str) -> str:
    """The name that `ip netns` shows. A lab's name has no dash, so that names of two labs cannot meet."""
    if "-" in lab or "/" in lab + host or not lab or not host:
        raise Refused(
            f"cannot name the namespace of host {host!r} in lab {lab!r}",
            why="a lab's name may not be empty or contain '-', and neither name may contain '/'",
            fix="Choose another name",
        )
    return f"ibbond-{lab}-{host}"


def leftovers(lab: str) -> list[str]:
    """The pinned hosts of a lab, dead or alive, by name: what a killed lab leaves behind."""
    prefix = pin_name(lab, "x")[:-1]
    return sorted(path.name for path in PINS.iterdir() if path.name.startswith(prefix)) if PINS.is_dir() else []


def pinned(lab: str) -> list[str]:
    """The hosts that outlive this lab, by name; none for users who may not pin: those of this name are others'."""
    return leftovers(lab) if os.access(PINS, os.W_OK) else []


def pin(net: int, name: str) -> bool:
    """Give the namespace its name in /run/netns; False where this user may not."""
    try:
        _prepare_pins()
        (PINS / name).touch(mode=0o444, exist_ok=False)
        try:
            mount(f"/proc/self/fd/{net}", str(PINS / name), None, MS_BIND)
        except OSError:
            (PINS / name).unlink()
            raise
    except OSError as problem:
        if problem.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return False
        raise
    return True


def unpin(name: str) -> None:
    """Take one name out of /run/netns, and what `pin` had to add there when it was the last."""
    path = PINS / name
    with contextlib.suppress(OSError):
        while True:
            unmount(str(path))
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    if (OURS / "pins").exists() and not any(PINS.iterdir()):
        with contextlib.suppress(OSError):
            unmount(str(PINS))
            if (OURS / "pins").read_text() == "directory":
                PINS.rmdir()
            (OURS / "pins").unlink()
            OURS.rmdir()


def _prepare_pins() -> None:
    """Make /run/netns what `ip netns` makes it: a shared mount on itself, so that names reach other namespaces."""
    fresh = not PINS.exists()
    PINS.mkdir(mode=0o755, exist_ok=True)
    try:
        mount("none", str(PINS), None, MS_SHARED | MS_REC)
    except OSError as problem:
        if problem.errno != errno.EINVAL:  # anything but "not a mount point"
            raise
        mount(str(PINS), str(PINS), None, MS_BIND | MS_REC)
        mount("none", str(PINS), None, MS_SHARED | MS_REC)
        OURS.mkdir(mode=0o700, exist_ok=True)
        (OURS / "pins").write_text("directory" if fresh else "mount")
