"""What this machine gives a lab: each facility is tried or looked at, and said what is missing and how to get it.

Read first: docs/lab.md, "What a machine must have". Nothing is changed. Left out: the state of running labs.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ibbond.errors import Refused
from ibbond.host import notification, tun
from ibbond.host.named_namespaces import NETNS_DIRECTORY
from ibbond.host.priority import NICE
from ibbond.host.privilege import SUBUID, map_commands, may_make_namespaces, subordinate_ids
from ibbond.host.signals import fork
from ibbond.lab.prerequisites import why_not_live
from ibbond.sysfs import mount as sysfs
from ibbond.tools.infiniband_tools import SYSTEM_FOLDERS, library

OK, LIMITED, MISSING = "ok", "limited", "missing"
DESCRIPTORS_PER_HOST = 16  # an estimate: devices, sockets of tools, namespaces
USER_NAMESPACE_SWITCHES = (
    ("kernel/unprivileged_userns_clone", "1"),
    ("kernel/apparmor_restrict_unprivileged_userns", "0"),
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One facility: its state, what was found, and where it is not `ok`, what that means and how to change it."""

    name: str
    state: str
    found: str
    means: str = ""
    fix: str = ""


def examine() -> list[Finding]:
    """Every facility, the most important first."""
    return [check() for check in CHECKS]


def can_run(findings: list[Finding]) -> bool:
    return findings[0].state == OK


def _lab() -> Finding:
    reason = why_not_live()
    if reason is None:
        return Finding("labs", OK, "namespaces and TUN devices work, as root" if _root() else "they work, without root")
    means = "no lab can run; the simulator can (ibbond demo --simulated, ibbond sim)"
    return Finding("labs", MISSING, reason, means, "See the lines below")


def _tun() -> Finding:
    reason = tun.available()
    if reason is None:
        return Finding("TUN devices", OK, tun.DEVICE)
    fix = "Run: modprobe tun; in a container: --device /dev/net/tun; for ordinary users: chmod 666 /dev/net/tun"
    return Finding("TUN devices", MISSING, reason, "hosts cannot have devices", fix)


def _user_namespaces() -> Finding:
    if _root():
        return Finding("user namespaces", OK, "not needed: this process may make namespaces")
    wrong = [name for name, wanted in USER_NAMESPACE_SWITCHES if _sysctl(name) not in (None, wanted)]
    if _sysctl("user/max_user_namespaces") == "0":
        wrong.append("user/max_user_namespaces")
    if not wrong:
        return Finding("user namespaces", OK, "no sysctl forbids them")
    fix = "Run: sysctl " + " ".join(
        f"{name.replace('/', '.')}={dict(USER_NAMESPACE_SWITCHES).get(name, '15000')}" for name in wrong
    )
    found = ", ".join(f"{name.replace('/', '.')} is {_sysctl(name)}" for name in wrong)
    return Finding("user namespaces", MISSING, found, "only root can run labs", fix)


def _users() -> Finding:
    if _root():
        return Finding("users in hosts", OK, "the users of this machine")
    if map_commands(os.getpid(), os.geteuid(), os.getegid()):
        found = subordinate_ids(SUBUID, os.geteuid())
        return Finding("users in hosts", OK, f"root and {found[1] if found else 0} more (/etc/subuid)")
    means = "a program that changes its user (tcpdump, PostgreSQL) fails"
    fix = "Run as root: apt-get install uidmap; usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER"
    return Finding("users in hosts", LIMITED, "root alone", means, fix)


def _priority() -> Finding:
    if _granted(lambda: os.setpriority(os.PRIO_PROCESS, 0, NICE)):
        return Finding("priority", OK, f"labs run at nice {NICE}")
    means = "on a busy machine a lab runs late, and failovers look longer than they are"
    fix = "Run as root; or allow it: a line 'USER - nice -20' in /etc/security/limits.conf"
    return Finding("priority", LIMITED, "this process may not raise its priority", means, fix)


def _load() -> Finding:
    cores = len(os.sched_getaffinity(0))
    load = os.getloadavg()[0]
    found = f"{cores} {'core' if cores == 1 else 'cores'}, load {load:.1f}"
    if load <= cores:
        return Finding("processors", OK, found)
    return Finding(
        "processors",
        LIMITED,
        found,
        "other programs use the processors, so measured times are too long",
        "Wait until the machine is idle",
    )


def _sysfs() -> Finding:
    reason = sysfs.why_not()
    if reason is None:
        return Finding("sysfs view", OK, f"{sysfs.library()}, {sysfs.DEVICE}")
    means = "/sys/class/net of hosts does not show bonds; ibbond bond works anyway"
    fix = "Run: apt-get install libfuse3-3; modprobe fuse; in a container: --device /dev/fuse"
    return Finding("sysfs view", MISSING, reason, means, fix)


def _rdma() -> Finding:
    reason = notification.why_not()
    if reason is None:
        return Finding("RDMA programs", OK, "seccomp user notification")
    return Finding(
        "RDMA programs", MISSING, reason, "programs with libibverbs find no device in a host", "Use a newer kernel"
    )


def _tools() -> Finding:
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), *SYSTEM_FOLDERS))
    absent = [package for program, package in TOOL_PACKAGES.items() if shutil.which(program, path=path) is None]
    try:
        library()
    except Refused:
        absent.append("libumad2sim0")
    if not absent:
        return Finding("InfiniBand tools", OK, "infiniband-diags, opensm, libumad2sim")
    means = "these tools cannot be used in hosts; ibbond fabric shows the subnet"
    return Finding(
        "InfiniBand tools", MISSING, f"no {', '.join(absent)}", means, f"Run: apt-get install {' '.join(absent)}"
    )


TOOL_PACKAGES = {"ibnetdiscover": "infiniband-diags", "opensm": "opensm"}


def _descriptors() -> Finding:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = f"{hard} open files"
    if hard >= 4096:
        return Finding("open files", OK, found)
    means = f"a lab of more than about {hard // DESCRIPTORS_PER_HOST} hosts does not start"
    return Finding("open files", LIMITED, found, means, "Run as root: ulimit -Hn 65536")


def _ipv6() -> Finding:
    if Path("/proc/sys/net/ipv6").is_dir():
        return Finding("IPv6", OK, "this kernel has it")
    return Finding(
        "IPv6", MISSING, "this kernel has none", "IPv6 addresses of a topology are refused", "Boot with ipv6.disable=0"
    )


def _sysctls() -> Finding:
    if os.access("/proc/sys/net/ipv4/ip_forward", os.W_OK) or not _root():
        return Finding("/proc/sys", OK, "hosts may set their own sysctls")
    means = "no routers in labs, no IPv6 duplicate address detection"
    return Finding(
        "/proc/sys", LIMITED, "read-only", means, "Start the container with --security-opt systempaths=unconfined"
    )


def _resume() -> Finding:
    place = NETNS_DIRECTORY if NETNS_DIRECTORY.exists() else NETNS_DIRECTORY.parent
    if _root() and os.access(place, os.W_OK):
        return Finding("resume", OK, "hosts outlive a lab that is killed (lab up --resume)")
    return Finding(
        "resume",
        LIMITED,
        f"{NETNS_DIRECTORY} is not writable",
        "hosts end with their lab, also when it is killed",
        "Run as root",
    )


CHECKS: tuple[Callable[[], Finding], ...] = (
    *(_lab, _tun, _user_namespaces, _users, _priority, _load, _sysfs, _rdma, _tools),
    *(_descriptors, _ipv6, _sysctls, _resume),
)


def _root() -> bool:
    return may_make_namespaces()


def _sysctl(name: str) -> str | None:
    with contextlib.suppress(OSError):
        return Path("/proc/sys", name).read_text().strip()
    return None


def _granted(call: Callable[[], None]) -> bool:
    """Whether the kernel allows this, tried in a child."""
    child = fork()
    if child == 0:
        code = 1
        try:
            call()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
