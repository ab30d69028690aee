"""May this process make namespaces and devices? As root yes; an ordinary user becomes root in a user namespace.

Read first: user_namespaces(7), capabilities(7).
"""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from ibbond.errors import Refused
from ibbond.host.signals import fork
from ibbond.host.syscalls import CLONE_NEWNS, CLONE_NEWUSER, MS_PRIVATE, MS_REC, mount, unshare

CAP_NET_ADMIN, CAP_SYS_ADMIN = 12, 21
SUBUID, SUBGID = Path("/etc/subuid"), Path("/etc/subgid")


def may_make_namespaces() -> bool:
    """Whether this process is root, as far as a lab needs it."""
    wanted = 1 << CAP_SYS_ADMIN | 1 << CAP_NET_ADMIN
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16) & wanted == wanted
    return os.geteuid() == 0


def gain_privileges() -> bool:
    """Enter a user namespace of our own where that is needed; whether it was. `Refused` where it is not allowed."""
    if may_make_namespaces():
        return False
    become_root()
    return True


def become_root() -> None:
    """Move this process, of one thread, into a user namespace in which it is root, with mounts of its own.

    For ordinary users. Other users exist there where the system has given this one subordinate ids (subuid(5)) and
    newuidmap(1); else root is alone. Refused where the system does not allow user namespaces.
    """
    user, group = os.geteuid(), os.getegid()
    with _mapper(user, group) as ask:
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
        users_mapped, groups_mapped = ask()
    if not users_mapped:
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    if not groups_mapped:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    mount("none", "/", None, MS_REC | MS_PRIVATE)


def subordinate_ids(file: Path, user: int) -> tuple[int, int] | None:
    """The first range of ids (first, count) that /etc/subuid or /etc/subgid gives a user, by name or number."""
    try:
        names = {str(user), pwd.getpwuid(user).pw_name}
    except KeyError:
        names = {str(user)}
    with contextlib.suppress(OSError):
        for line in file.read_text(errors="replace").splitlines():
            owner, _, numbers = line.strip().partition(":")
            first, _, count = numbers.partition(":")
            if owner in names and first.isdecimal() and count.isdecimal() and int(count):
                return int(first), int(count)
    return None


def map_commands(process: int, user: int, group: int) -> list[list[str]]:
    """The commands that give a process's new user namespace other users and groups; empty where there can be none."""
    commands = []
    for program, file, own in (("newuidmap", SUBUID, user), ("newgidmap", SUBGID, group)):
        found = subordinate_ids(file, user)
        if shutil.which(program) is None or found is None:
            return []
        commands.append([program, str(process), "0", str(own), "1", "1", *map(str, found)])
    return commands


@contextlib.contextmanager
def _mapper(user: int, group: int) -> Iterator[Callable[[], tuple[bool, bool]]]:
    """A child that stays outside the namespace, from where it can be mapped; whether users and groups then are."""
    commands = map_commands(os.getpid(), user, group)
    if not commands:
        yield lambda: (False, False)
        return
    go_out, go_in = os.pipe()
    child = fork(signal.SIG_IGN)  # the parent ends it
    if child == 0:
        failed = 3
        try:
            os.close(go_in)
            if os.read(go_out, 1):
                codes = [subprocess.run(command, capture_output=True, check=False).returncode for command in commands]
                failed = sum(bool(code) << place for place, code in enumerate(codes))
        finally:
            os._exit(failed)
    os.close(go_out)
    ended: list[int] = []

    def ask() -> tuple[bool, bool]:
        os.write(go_in, b"1")
        ended.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        return not ended[0] & 1, not ended[0] & 2

    try:
        yield ask
    finally:
        os.close(go_in)
        if not ended:
            os.waitpid(child, 0)
