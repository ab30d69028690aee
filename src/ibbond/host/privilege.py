"""May this process make namespaces and devices? As root yes; an ordinary user becomes root in a user namespace.

Read first: user_namespaces(7), capabilities(7).
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from ibbond.errors import Refused
from ibbond.host.syscalls import CLONE_NEWNS, CLONE_NEWUSER, MS_PRIVATE, MS_REC, mount, unshare

CAP_NET_ADMIN, CAP_SYS_ADMIN = 12, 21


def may_make_namespaces() -> bool:
    """Whether this process is root, as far as a lab needs it."""
    wanted = 1 << CAP_SYS_ADMIN | 1 << CAP_NET_ADMIN
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16) & wanted == wanted
    return os.geteuid() == 0


def become_able() -> bool:
    """Enter a user namespace of our own where that is needed; whether it was. `Refused` where it is not allowed."""
    if may_make_namespaces():
        return False
    become_root()
    return True


def become_root() -> None:
    """Move this process, of one thread, into a user namespace in which it is root, with mounts of its own.

    For ordinary users. Refused where the system does not allow it.
    """
    user, group = os.geteuid(), os.getegid()
    try:
        unshare(CLONE_NEWUSER | CLONE_NEWNS)
    except OSError as problem:
        raise Refused(
            "cannot become root in a user namespace",
            why=problem.strerror or str(problem),
            fix="Run as root, or allow user namespaces (sysctl kernel.unprivileged_userns_clone=1, "
            "kernel.apparmor_restrict_unprivileged_userns=0, user.max_user_namespaces above 0)",
            code=errno.EPERM,
        ) from None
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    mount("none", "/", None, MS_REC | MS_PRIVATE)
