"""The namespaces of a lab's hosts (network, mounts, host name, IPC): made, entered, removed with the programs inside.

Read first: namespaces(7); `host.named_namespaces` for their names in /run/netns, `host.mounts` for what they show.
iproute2 is not needed. Process ids and users are those of the machine. Left out: the devices inside (`host.tun`), the
sysfs view that a host's mount namespace is for.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn, TypeVar

from ibbond.errors import Refused
from ibbond.host.mounts import own_directory, prepare_mounts
from ibbond.host.named_namespaces import NETNS_DIRECTORY, bind, leftovers, namespace_name, unbind
from ibbond.host.own_files import check_files
from ibbond.host.signals import fork
from ibbond.host.syscalls import CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWUTS, setns, unshare
from ibbond.topology.model import HostFile

Result = TypeVar("Result")


class Descriptors(NamedTuple):
    """The namespaces of a host as open files, in the order in which they are entered; -1 for none."""

    net: int = -1
    uts: int = -1
    ipc: int = -1
    mount: int = -1

    def close(self) -> None:
        for descriptor in self:
            if descriptor >= 0:
                os.close(descriptor)


KINDS = {"net": CLONE_NEWNET, "uts": CLONE_NEWUTS, "ipc": CLONE_NEWIPC, "mount": CLONE_NEWNS}
FILES = {"net": "net", "uts": "uts", "ipc": "ipc", "mount": "mnt"}  # below /proc/PID/ns


@dataclass(slots=True)
class NetNamespace:
    """The namespaces of one lab host, held by descriptors; `named_hosts` says whether `ip netns` knows it."""

    name: str
    namespaces: Descriptors
    named: bool

    @property
    def net(self) -> int:
        return self.namespaces.net

    @property
    def mount(self) -> int:
        return self.namespaces.mount

    def run_in(self, call: Callable[[], Result]) -> Result:
        """Make a call in the host's network namespace, for sockets and TUNs that stay there.

        Where this thread may return it makes the call itself: that is ten times as fast as the thread that makes it
        for an ordinary user.
        """
        home = _way_home()
        if home < 0:
            return self._visited(lambda: setns(self.net, CLONE_NEWNET), call)
        try:
            setns(self.net, CLONE_NEWNET)
            return call()
        finally:
            setns(home, CLONE_NEWNET)
            os.close(home)

    def run_in_mounts(self, call: Callable[[], Result]) -> Result:
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
        """Move this process, which has one thread, into the host permanently."""
        enter(self.namespaces)

    def popen(self, command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a program inside the host; `options` are those of subprocess.Popen."""
        namespaces = self.namespaces
        return subprocess.Popen(command, preexec_fn=lambda: enter(namespaces), **options)

    def run(self, command: Sequence[str], *, timeout: float | None = 60) -> subprocess.CompletedProcess[str]:
        """Run a program inside the host to its end and take what it printed, as text."""
        namespaces = self.namespaces
        return subprocess.run(
            command,
            preexec_fn=lambda: enter(namespaces),
            text=True,
            capture_output=True,
            timeout=timeout,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def processes(self) -> list[int]:
        """The processes whose network namespace this is, without the calling one."""
        own = os.fstat(self.net).st_ino
        return [process for process in _processes() if _network_of(process) == own and process != os.getpid()]

    def close(self) -> None:
        """Let go of the descriptors; a pinned host stays."""
        self.namespaces.close()
        self.namespaces = Descriptors()

    def remove(self, *, timeout: float = 2.0) -> None:
        """End the programs inside (SIGTERM, after `timeout` seconds SIGKILL), unpin, let go."""
        end_processes(self.processes, timeout)
        if self.named:
            unbind(self.name)
        self.close()


def make(lab: str, host: str, hosts_file: str = "", files: Sequence[HostFile] = ()) -> NetNamespace:
    """Namespaces for a new host, loopback up. Refused when the name is taken or the system does not allow it.

    The host's name is `host`; `hosts_file` is what its /etc/hosts says, the machine's where it is empty; `files` are
    seen in this host only.
    """
    check_files(host, files)
    name = namespace_name(lab, host)
    if os.path.lexists(NETNS_DIRECTORY / name):
        raise Refused(
            f"cannot create the namespace {name}",
            why="it already exists, perhaps from a lab that was killed",
            fix="Take that lab down first",
            code=errno.EEXIST,
        )
    space = NetNamespace(name, _create(host, hosts_file, files), named=False)
    try:
        space.named = bind(space.net, name)
        space.run_in(_raise_loopback)
    except BaseException:
        space.remove()
        raise
    return space


def take_over(lab: str, host: str, hosts_file: str = "", files: Sequence[HostFile] = ()) -> NetNamespace:
    """Take over a pinned host of a lab whose process is gone: its programs, devices and mounts are as they were."""
    name = namespace_name(lab, host)
    net = os.open(NETNS_DIRECTORY / name, os.O_RDONLY | os.O_CLOEXEC)
    space = NetNamespace(name, Descriptors(net), named=True)
    for process in space.processes():
        found = _namespaces_of(process)
        if found is None:
            continue
        if os.fstat(found.mount).st_ino != os.stat("/proc/self/ns/mnt").st_ino:
            os.close(net)
            space.namespaces = found
            return space
        found.close()
    space.namespaces = _create(host, hosts_file, files, net)
    return space


def clean(lab: str) -> list[str]:
    """Remove what a killed lab left: its hosts and the programs in them. The names that were removed."""
    removed = leftovers(lab)
    for name in removed:
        try:
            net = os.open(NETNS_DIRECTORY / name, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            unbind(name)
            continue
        if _is_namespace(net):
            NetNamespace(name, Descriptors(net), named=True).remove()
        else:  # the file was made, its lab died before it was mounted on
            os.close(net)
            unbind(name)
    return removed


def enter(namespaces: Descriptors) -> None:
    """The namespaces of a host, for a process of one thread; the working directory is kept where it exists."""
    here = os.getcwd()
    for kind, descriptor in namespaces._asdict().items():
        setns(descriptor, KINDS[kind])
    with contextlib.suppress(OSError):
        os.chdir(here)


def end_processes(find: Callable[[], list[int]], timeout: float) -> None:
    """Ask the processes that `find` names to end, then make them."""
    for number, seconds in ((signal.SIGTERM, timeout), (signal.SIGKILL, 5.0)):
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


def _create(host: str, hosts_file: str, files: Sequence[HostFile], net: int = -1) -> Descriptors:
    """New namespaces (the network only where `net` is none), as descriptors. A child makes them."""
    ready_out, ready_in = os.pipe()
    go_out, go_in = os.pipe()
    child = fork(signal.SIG_IGN)  # the parent ends it
    if child == 0:
        os.close(go_in)
        _child_main(host, hosts_file, files, net, ready_in, go_out)
    os.close(ready_in)
    os.close(go_out)
    try:
        problem = int.from_bytes(os.read(ready_out, 4) or b"\1", "little")
        found = _namespaces_of(child) if not problem else None
        if found is None:
            raise Refused(
                "cannot create the namespaces of a host",
                why=os.strerror(problem or errno.ESRCH),
                fix="Run as root, or in a user namespace (unshare -Ur -n -m)",
                code=problem,
            )
        if net >= 0:
            os.close(net)
        return found
    finally:
        os.close(ready_out)
        os.close(go_in)  # the child ends
        os.waitpid(child, 0)


def _child_main(
    host: str, hosts_file: str, files: Sequence[HostFile], net: int, ready_in: int, go_out: int
) -> NoReturn:
    """The child: makes the namespaces, says 0 or an errno, stays until the parent holds them."""
    problem = 0
    try:
        if net >= 0:
            setns(net, CLONE_NEWNET)
        unshare(CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | (CLONE_NEWNET if net < 0 else 0))
        socket.sethostname(host)
        prepare_mounts(hosts_file, files)
    except OSError as trouble:
        problem = trouble.errno or errno.EIO
    finally:
        os.write(ready_in, problem.to_bytes(4, "little"))
        os.read(go_out, 1)
        os._exit(0)


def _namespaces_of(process: int) -> Descriptors | None:
    """None where the process has ended meanwhile."""
    opened: dict[str, int] = {}
    try:
        for kind, file in FILES.items():
            opened[kind] = os.open(f"/proc/{process}/ns/{file}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        Descriptors(**opened).close()
        return None
    return Descriptors(**opened)


def _way_home() -> int:
    """This thread's network namespace as a descriptor, -1 where it could not return there (setns(2): capabilities)."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        setns(home, CLONE_NEWNET)
    except OSError:
        os.close(home)
        return -1
    return home


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


def _network_of(process: int) -> int | None:
    try:
        return os.stat(f"/proc/{process}/ns/net").st_ino
    except OSError:
        return None
