"""Names of lab hosts in /run/netns, as `ip netns` keeps them: bind mounts of their network namespaces.

Read first: ip-netns(8). A host is `ibbond-LAB-HOST`. Where /run/netns cannot be written (an ordinary user inside a user
namespace) a host has no name there and lives as long as a process or a descriptor holds it.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from ibbond.errors import Refused
from ibbond.host.syscalls import MS_BIND, MS_REC, MS_SHARED, mount, unmount

NETNS_DIRECTORY = Path("/run/netns")
STATE_DIRECTORY = Path("/run/ibbond-netns")  # holds a note of what /run/netns was before us


def namespace_name(lab: str, host: str) -> str:
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
    prefix = namespace_name(lab, "x")[:-1]
    return (
        sorted(path.name for path in NETNS_DIRECTORY.iterdir() if path.name.startswith(prefix))
        if NETNS_DIRECTORY.is_dir()
        else []
    )


def named_hosts(lab: str) -> list[str]:
    """The hosts that outlive this lab, by name.

    None for users who may not mount: hosts of this name belong to others.
    """
    return leftovers(lab) if os.access(NETNS_DIRECTORY, os.W_OK) else []


def bind(net: int, name: str) -> bool:
    """Give the namespace its name in /run/netns; False where this user may not."""
    try:
        _prepare_directory()
        (NETNS_DIRECTORY / name).touch(mode=0o444, exist_ok=False)
        try:
            mount(f"/proc/self/fd/{net}", str(NETNS_DIRECTORY / name), None, MS_BIND)
        except OSError:
            (NETNS_DIRECTORY / name).unlink()
            raise
    except OSError as problem:
        if problem.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return False
        raise
    return True


def unbind(name: str) -> None:
    """Take one name out of /run/netns, and what `bind` had to add there when it was the last."""
    path = NETNS_DIRECTORY / name
    with contextlib.suppress(OSError):
        while True:
            unmount(str(path))
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    if (STATE_DIRECTORY / "pins").exists() and not any(NETNS_DIRECTORY.iterdir()):
        with contextlib.suppress(OSError):
            unmount(str(NETNS_DIRECTORY))
            if (STATE_DIRECTORY / "pins").read_text() == "directory":
                NETNS_DIRECTORY.rmdir()
            (STATE_DIRECTORY / "pins").unlink()
            STATE_DIRECTORY.rmdir()


def _prepare_directory() -> None:
    """Make /run/netns what `ip netns` makes it: a shared mount on itself, so that names reach other namespaces."""
    fresh = not NETNS_DIRECTORY.exists()
    NETNS_DIRECTORY.mkdir(mode=0o755, exist_ok=True)
    try:
        mount("none", str(NETNS_DIRECTORY), None, MS_SHARED | MS_REC)
    except OSError as problem:
        if problem.errno != errno.EINVAL:  # anything but "not a mount point"
            raise
        mount(str(NETNS_DIRECTORY), str(NETNS_DIRECTORY), None, MS_BIND | MS_REC)
        mount("none", str(NETNS_DIRECTORY), None, MS_SHARED | MS_REC)
        STATE_DIRECTORY.mkdir(mode=0o700, exist_ok=True)
        (STATE_DIRECTORY / "pins").write_text("directory" if fresh else "mount")
