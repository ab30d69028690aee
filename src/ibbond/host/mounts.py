"""What a host's mount namespace shows: its own root, /sys of its network namespace, /etc/hosts with the lab's hosts, a
/dev/shm of its own, no console of the machine, and files that only the host sees (`host.own_files`).

Read first: mount_namespaces(7), pivot_root(2).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from ibbond.host.own_files import lay_out
from ibbond.host.syscalls import (
    CLONE_FS,
    CLONE_NEWNS,
    MS_BIND,
    MS_NODEV,
    MS_NOSUID,
    MS_PRIVATE,
    MS_REC,
    mount,
    pivot_root,
    setns,
    unmount,
    unshare,
)
from ibbond.topology.model import HostFile


def own_directory() -> None:
    """Give this thread a working directory and a root of its own, without which it may not change mounts."""
    unshare(CLONE_FS)


def prepare_mounts(hosts_file: str = "", files: Sequence[HostFile] = ()) -> None:
    """Set up the mounts of a host in a mount namespace that was made just now; arguments as for `namespace.make`."""
    _take_the_root()
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    _show_own_sysfs()
    _hide_console()
    _share_no_memory(hosts_file)
    lay_out(files)


def _take_the_root() -> None:
    """In a chroot, make its directory the root of the new mount namespace: setns(2) to one changes to its root.

    Read first: setns(2), pivot_root(2). Outside a chroot the root is where it belongs already.
    """
    own = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    namespace = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    setns(namespace, CLONE_NEWNS)  # into the one we are in: its root is ours now
    if os.path.samestat(os.fstat(own), os.stat("/")):
        return
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    os.fchdir(own)
    here = os.getcwd()
    mount(here, here, None, MS_BIND | MS_REC)
    os.chdir(here)
    pivot_root(b".", b".")
    unmount(".")
    os.chdir("/")


def _show_own_sysfs() -> None:
    """/sys of the new network namespace; the control groups, mounted below the old one, stay in sight."""
    groups = -1
    with contextlib.suppress(OSError):
        groups = os.open("/sys/fs/cgroup", os.O_PATH | os.O_CLOEXEC)
    try:
        mount("sysfs", "/sys", "sysfs", 0)  # refused in containers that hide parts of /sys: the old one stays
        mount(f"/proc/self/fd/{groups}", "/sys/fs/cgroup", None, MS_BIND | MS_REC)
    except OSError:
        pass
    finally:
        if groups >= 0:
            os.close(groups)


def _hide_console() -> None:
    """The machine's console is not the host's: where no syslog runs, syslog(3) would write there, a byte at a time."""
    with contextlib.suppress(OSError):  # a container without one
        mount("/dev/null", "/dev/console", None, MS_BIND)


def _share_no_memory(hosts_file: str) -> None:
    """A /dev/shm of the host, as it has System V IPC and message queues of its own; /etc/hosts is a file of it.

    The file has no name there: the bind mount keeps it.
    """
    with contextlib.suppress(OSError):  # a system without one of the two
        mount("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")
        if hosts_file:
            file = Path("/dev/shm/hosts")
            file.write_text(hosts_file)
            file.chmod(0o644)
            mount(str(file), "/etc/hosts", None, MS_BIND)
            file.unlink()
