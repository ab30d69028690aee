"""The network and mount namespaces of a lab's hosts: made, entered, pinned for `ip netns`, removed.

Read first: namespaces(7), user_namespaces(7), mount_namespaces(7), ip-netns(8) for the convention of /run/netns.
A host is `ibbond-LAB-HOST`. Where /run/netns cannot be written (an ordinary user inside a user namespace of his own)
a host has no pin and lives as long as a process or a descriptor holds it. iproute2 is not needed. Left out: the
devices inside (tun.py), the sysfs view that a host's mount namespace is for.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from ibbond.errors import Refused

PINS = Path("/run/netns")
OURS = Path("/run/ibbond-netns")  # holds a note of what /run/netns was before us
CLONE_NEWNS, CLONE_NEWNET, CLONE_NEWUSER = 0x00020000, 0x40000000, 0x10000000
CLONE_FS = 0x00000200
MS_NOSUID, MS_NODEV, MS_NOEXEC = 0x2, 0x4, 0x8
MS_BIND, MS_REC, MS_PRIVATE, MS_SHARED = 0x1000, 0x4000, 0x40000, 0x100000
MNT_DETACH = 0x2
SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}.get(os.uname().machine, 155)

_libc = ctypes.CDLL(None, use_errno=True)

Result = TypeVar("Result")


def pin_name(lab: str, host: str) -> str:
    """The name that `ip netns` shows. A lab's name has no dash, so that names of two labs cannot meet."""
    if "-" in lab or "/" in lab + host or not lab or not host:
        raise Refused(
            f"cannot name the namespace of host {host!r} in lab {lab!r}",
            why="a lab's name may not be empty or contain '-', and neither name may contain '/'",
            fix="Choose another name",
        )
    return f"ibbond-{lab}-{host}"


@dataclass(slots=True)
class Space:
    """The namespaces of one lab host, held by descriptors; `pinned` says whether `ip netns` knows it."""

    name: str
    net: int
    mount: int
    pinned: bool

    def within(self, call: Callable[[], Result]) -> Result:
        """Make a call in the host's network namespace: for sockets and TUNs that belong there for good.

        A thread of its own makes it, so that nobody has to come back: an ordinary user may not.
        """
        return self._visited(lambda: setns(self.net, CLONE_NEWNET), call)

    def within_mounts(self, call: Callable[[], Result]) -> Result:
        """Make a call in the host's mount namespace, for what is mounted there; the network stays the caller's."""

        def go() -> None:
            own_directory()
            setns(self.mount, CLONE_NEWNS)

        return self._visited(go, call)

    def _visited(self, go: Callable[[], None], call: Callable[[], Result]) -> Result:
        outcome: list[Result] = []
        problems: list[BaseException] = []

        def visit() -> None:
            try:
                go()
                outcome.append(call())
            except BaseException as problem:
                problems.append(problem)

        visitor = threading.Thread(target=visit, name=self.name)
        visitor.start()
        visitor.join()
        if problems:
            raise problems[0]
        return outcome[0]

    def enter(self) -> None:
        """Move this process, which has one thread, into the host for good: network and mounts."""
        enter(self.net, self.mount)

    def popen(self, command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a program inside the host; `options` are those of subprocess.Popen."""
        descriptors = (self.net, self.mount)
        return subprocess.Popen(command, preexec_fn=lambda: enter(*descriptors), **options)

    def run(self, command: Sequence[str], *, timeout: float | None = 60) -> subprocess.CompletedProcess[str]:
        """Run a program inside the host to its end and take what it printed, as text."""
        descriptors = (self.net, self.mount)
        return subprocess.run(
            command,
            preexec_fn=lambda: enter(*descriptors),
            text=True,
            capture_output=True,
            timeout=timeout,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def processes(self) -> list[int]:
        """The processes whose network namespace this is, without the calling one."""
        own = os.fstat(self.net).st_ino
        return [process for process in _processes() if _namespace_of(process) == own and process != os.getpid()]

    def close(self) -> None:
        """Let go of the descriptors; a pinned host stays."""
        for descriptor in (self.net, self.mount):
            if descriptor >= 0:
                os.close(descriptor)
        self.net = self.mount = -1

    def remove(self, *, patience: float = 2.0) -> None:
        """End the programs inside (SIGTERM, after `patience` seconds SIGKILL), unpin, let go."""
        end_processes(self.processes, patience)
        if self.pinned:
            unpin(self.name)
        self.close()


def make(lab: str, host: str) -> Space:
    """Namespaces for a new host, loopback up. Refused when the name is taken or the system does not allow it."""
    name = pin_name(lab, host)
    if os.path.lexists(PINS / name):
        raise Refused(
            f"cannot make the namespace {name}",
            why="there is one already, perhaps of a lab that was killed",
            fix="Take that lab down first",
            code=errno.EEXIST,
        )
    net, mount = _born()
    space = Space(name, net, mount, pinned=False)
    try:
        space.pinned = _pin(net, name)
        space.within(_raise_loopback)
    except BaseException:
        space.remove()
        raise
    return space


def adopt(name: str) -> Space:
    """Take over a pinned host of a lab whose process is gone: its programs, devices and mounts are as they were."""
    net = os.open(PINS / name, os.O_RDONLY | os.O_CLOEXEC)
    space = Space(name, net, -1, pinned=True)
    for process in space.processes():
        with contextlib.suppress(OSError):
            found = os.open(f"/proc/{process}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
            if os.fstat(found).st_ino != os.stat("/proc/self/ns/mnt").st_ino:
                space.mount = found
                return space
            os.close(found)
    _, space.mount = _born(net)
    return space


def leftovers(lab: str) -> list[str]:
    """The pinned hosts of a lab, dead or alive, by name: what a killed lab leaves behind."""
    prefix = pin_name(lab, "x")[:-1]
    return sorted(path.name for path in PINS.iterdir() if path.name.startswith(prefix)) if PINS.is_dir() else []


def clean(lab: str) -> list[str]:
    """Remove what a killed lab left: its hosts and the programs in them. The names that were removed."""
    removed = leftovers(lab)
    for name in removed:
        try:
            net = os.open(PINS / name, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            unpin(name)
            continue
        if _is_namespace(net):
            Space(name, net, -1, pinned=True).remove()
        else:  # the file was made, its lab died before it was mounted on
            os.close(net)
            unpin(name)
    return removed


def become_root() -> None:
    """Move this process, of one thread, into a user namespace in which it is root, with mounts of its own.

    For ordinary users. Refused where the system does not allow it.
    """
    user, group = os.geteuid(), os.getegid()
    if _libc.unshare(CLONE_NEWUSER | CLONE_NEWNS):
        raise Refused(
            "cannot become root in a user namespace",
            why=os.strerror(ctypes.get_errno()),
            fix="Run as root, or allow user namespaces (sysctl kernel.unprivileged_userns_clone=1, "
            "kernel.apparmor_restrict_unprivileged_userns=0, user.max_user_namespaces above 0)",
            code=errno.EPERM,
        )
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    mount("none", "/", None, MS_REC | MS_PRIVATE)


def setns(descriptor: int, kind: int) -> None:
    if _libc.setns(descriptor, kind):
        code = ctypes.get_errno()
        raise OSError(code, f"setns: {os.strerror(code)}")


def own_directory() -> None:
    """Give this thread a working directory and a root of its own, without which it may not change mounts."""
    if _libc.unshare(CLONE_FS):
        code = ctypes.get_errno()
        raise OSError(code, f"unshare: {os.strerror(code)}")


def enter(net: int, mount_namespace: int) -> None:
    """Both namespaces of a host, for a process of one thread; the working directory is kept where it exists."""
    here = os.getcwd()
    setns(net, CLONE_NEWNET)
    setns(mount_namespace, CLONE_NEWNS)
    with contextlib.suppress(OSError):
        os.chdir(here)


def mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
    if _libc.mount(source.encode(), target.encode(), kind.encode() if kind else None, flags, data.encode() or None):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), target)


def unmount(target: str, flags: int = MNT_DETACH) -> None:
    if _libc.umount2(target.encode(), flags):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), target)


def unpin(name: str) -> None:
    """Take one name out of /run/netns, and what `make` had to add there when it was the last."""
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


def end_processes(find: Callable[[], list[int]], patience: float) -> None:
    """Ask the processes that `find` names to end, then make them."""
    for number, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, 5.0)):
        until = time.monotonic() + seconds
        found = find()
        for process in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)
        while found and time.monotonic() < until:
            time.sleep(0.01)
            found = find()
        if not found:
            return


def _born(net: int = -1) -> tuple[int, int]:
    """New network (unless `net` is one already) and mount namespaces, as descriptors. A child makes them."""
    ready_out, ready_in = os.pipe()
    go_out, go_in = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(go_in)
        _be_born(net, ready_in, go_out)
    os.close(ready_in)
    os.close(go_out)
    try:
        problem = int.from_bytes(os.read(ready_out, 4) or b"\1", "little")
        if problem:
            raise Refused(
                "cannot make the namespaces of a host",
                why=os.strerror(problem),
                fix="Run as root, or in a user namespace (unshare -Ur -n -m)",
                code=problem,
            )
        if net < 0:
            net = os.open(f"/proc/{child}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        return net, os.open(f"/proc/{child}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(ready_out)
        os.close(go_in)  # the child ends
        os.waitpid(child, 0)


def _be_born(net: int, ready_in: int, go_out: int) -> NoReturn:
    """The child: makes the namespaces, says 0 or an errno, stays until the parent holds them."""
    problem = 0
    try:
        if net >= 0:
            setns(net, CLONE_NEWNET)
        if _libc.unshare(CLONE_NEWNS if net >= 0 else CLONE_NEWNET | CLONE_NEWNS):
            problem = ctypes.get_errno()
        else:
            _take_the_root()
            mount("none", "/", None, MS_REC | MS_PRIVATE)
            _show_own_sysfs()
            _hide_console()
    except OSError as trouble:
        problem = trouble.errno or errno.EIO
    finally:
        os.write(ready_in, problem.to_bytes(4, "little"))
        os.read(go_out, 1)
        os._exit(0)


def _take_the_root() -> None:
    """In a chroot, make its directory the root of the new mount namespace: whoever enters one lands at its root.

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
    if _libc.syscall(SYS_PIVOT_ROOT, b".", b"."):
        code = ctypes.get_errno()
        raise OSError(code, f"pivot_root: {os.strerror(code)}")
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


def _pin(net: int, name: str) -> bool:
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


def _raise_loopback() -> None:
    from ibbond.host.rtnetlink import RouteSocket

    routes = RouteSocket()
    try:
        routes.set_up(1, True)
    finally:
        routes.close()


def _is_namespace(descriptor: int) -> bool:
    return os.readlink(f"/proc/self/fd/{descriptor}").startswith("net:")


def _processes() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]


def _namespace_of(process: int) -> int | None:
    try:
        return os.stat(f"/proc/{process}/ns/net").st_ino
    except OSError:
        return None
