"""Running programs inside a lab host: the namespaces come as open files over the lab's socket, so no path is needed.

Read first: setns(2), user_namespaces(7). The programs see where they are by two variables of their environment, which
is how a plain `bond0` inside means that host's bond. Left out: starting and ending labs (`lab.launch`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ibbond.backend.control_socket import CONTROL, HOST, Control
from ibbond.errors import Refused
from ibbond.host import namespace, notification
from ibbond.host.syscalls import CLONE_NEWUSER, setns
from ibbond.tools.infiniband_tools import SYSTEM_FOLDERS, TOOLS, equip, is_tool

SHIMS = "stand-ins"  # as `cli.entry` knows it


class HostHandle(NamedTuple):
    """The way into a host: descriptors of its namespaces (`user` is -1 where the lab has none of its own).

    `rdma` is a socket on which the lab takes the listener that serves RDMA devices, -1 where it has none.
    """

    namespaces: namespace.Descriptors
    user: int
    rdma: int
    environment: dict[str, str]

    def enter(self) -> None:
        """Move this process, of one thread, into the host permanently."""
        if self.user >= 0:
            setns(self.user, CLONE_NEWUSER)
        namespace.enter(self.namespaces)
        if self.rdma >= 0:
            offer_listener(self.rdma)

    def popen(
        self, command: Sequence[str], *, cwd: str | os.PathLike[str] | None = None, priority: int = 0, **options: Any
    ) -> subprocess.Popen[bytes]:
        """Start a program in the host; `options` are those of subprocess.Popen. `cwd` is a directory of the host.

        With a priority (a nice value) it is a session of its own that is run before others, where that is allowed.
        """
        problem, telling = os.pipe()

        def start() -> None:
            if priority:
                ask_for_priority(priority)
            self.enter()
            if cwd is not None:
                change_directory(cwd, telling)

        try:
            return subprocess.Popen(
                command,
                env=self.environment,
                preexec_fn=start,
                start_new_session=options.pop("start_new_session", bool(priority)),
                **options,
            )
        except subprocess.SubprocessError:
            os.close(telling)
            telling = -1
            if code := int.from_bytes(os.read(problem, 4), "little"):
                raise OSError(code, os.strerror(code), str(cwd)) from None
            raise
        finally:
            os.close(problem)
            if telling >= 0:
                os.close(telling)

    def close(self) -> None:
        self.namespaces.close()
        for descriptor in (self.user, self.rdma):
            if descriptor >= 0:
                os.close(descriptor)


def change_directory(directory: str | os.PathLike[str], telling: int) -> None:
    """In the child: what is raised there does not reach the parent, so the errno goes into the pipe `telling`."""
    try:
        os.chdir(directory)
    except OSError as error:
        os.write(telling, (error.errno or errno.EIO).to_bytes(4, "little"))
        raise


def offer_listener(rdma: int) -> None:
    """Have the lab serve the RDMA devices of this process and all that it executes.

    Inside a host there is a listener already, which is inherited and serves whatever host its callers are in.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < notification.HIGH <= hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (notification.HIGH, hard))
    with socket.socket(fileno=os.dup(rdma)) as lab:
        try:
            listener = notification.install()
        except OSError as error:
            if error.errno == errno.EBUSY:
                return
            raise
        socket.send_fds(lab, [b"listener"], [listener])
        os.close(listener)
        lab.recv(1)  # from now on calls are answered


def ask_for_priority(nice: int) -> None:
    """Read first: sched(7) on autogroups, by which nice values count between sessions."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, nice)
        Path("/proc/self/autogroup").write_text(str(nice))


def host_handle(control: Control, host: str) -> HostHandle:
    """The way into a host of a running lab; `Refused` when it has no such host, or there is no working directory."""
    try:
        os.getcwd()
    except FileNotFoundError:
        raise Refused(
            f"cannot enter {host}",
            why="the working directory no longer exists",
            fix="Change to another directory",
        ) from None
    answer, descriptors = control.ask_for_descriptors("host_handle", host=host)
    assert isinstance(answer, dict)
    kinds: list[str] = answer["descriptors"]
    given = dict(zip(kinds, descriptors, strict=True))
    user, rdma = given.pop("user", -1), given.pop("rdma", -1)
    if user >= 0 and os.fstat(user).st_ino == os.stat("/proc/self/ns/user").st_ino:
        os.close(user)  # this process is inside already
        user = -1
    return HostHandle(namespace.Descriptors(**given), user, rdma, environment(control, host))


def environment(control: Control, host: str) -> dict[str, str]:
    """What programs in a host find in their environment. `ibbond` is found there even when it was called by path."""
    own = Path(sys.executable).parent
    folders = without_shims(os.environ.get("PATH", os.defpath))
    if str(own) not in folders:
        folders.append(str(own))
    inherited = {name: value for name, value in os.environ.items() if name != "IBBOND_LAB"}  # it is in this lab
    return {
        **inherited,
        "PATH": os.pathsep.join((*shim_directories(control), *folders)),
        CONTROL: str(control.path.absolute()),
        HOST: host,
        "PS1": f"{host}# ",
    }


def shim_directories(control: Control) -> list[str]:
    """The folder in which shells and scripts of a host find the InfiniBand tools; none where it cannot be made.

    There each tool that is installed is a link to `ibbond`, which under such a name runs the tool (`cli.entry`).
    """
    folder = tools_home(control) / SHIMS
    command = Path(sys.executable).with_name("ibbond")
    path = os.pathsep.join((*without_shims(os.environ.get("PATH", os.defpath)), *SYSTEM_FOLDERS))
    if not folder.is_dir():
        if not command.exists():
            return []
        with contextlib.suppress(OSError), tempfile.TemporaryDirectory(dir=tools_home(control)) as scratch:
            made = Path(scratch) / SHIMS
            made.mkdir()
            for tool in TOOLS:
                if shutil.which(tool, path=path):
                    (made / tool).symlink_to(command)
            made.rename(folder)  # fails if another process was faster
    return [str(folder)] if folder.is_dir() else []


def without_shims(path: str) -> list[str]:
    return [folder for folder in path.split(os.pathsep) if Path(folder).name != SHIMS]


def tools_home(control: Control) -> Path:
    """Where InfiniBand tools of a lab write; it goes with the lab."""
    home = control.path.absolute().with_suffix(".tools")
    with contextlib.suppress(OSError):
        home.mkdir(mode=0o700, exist_ok=True)
    return home


def become(control: Control, host: str, command: Sequence[str]) -> None:
    """Replace this process by a program in a host; returns only by `Refused`."""
    way, place = handle_and_directory(control, host, command[0])
    if place is not None:
        os.chdir(place)
    way.enter()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, programs expect it
    try:
        os.execvpe(command[0], list(command), way.environment)
    except OSError as error:
        raise cannot_run(command[0], host, error) from None


def run(control: Control, host: str, command: Sequence[str]) -> subprocess.CompletedProcess[bytes]:
    """Run a program in a host to its end and take what it said. For one that a signal ended the code is a shell's."""
    way, place = handle_and_directory(control, host, command[0])
    try:
        with way.popen(command, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            out, err = process.communicate()
    except OSError as error:
        raise cannot_run(command[0], host, error) from None
    finally:
        way.close()
    code = process.returncode
    return subprocess.CompletedProcess(command, code if code >= 0 else 128 - code, out, err)


def handle_and_directory(control: Control, host: str, program: str) -> tuple[HostHandle, str | None]:
    """The way into a host for a program, and where it must start: an InfiniBand tool, where its library may write."""
    way = host_handle(control, host)
    if not is_tool(program):
        return way, None
    equipped = tool_environment(control, host, way.environment)
    return way._replace(environment=equipped), equipped["OSM_TMP_DIR"]


def tool_environment(control: Control, host: str, environment: dict[str, str]) -> dict[str, str]:
    """The surroundings of an InfiniBand tool: the first active port of the host, or the one that SIM_HOST names."""
    path = os.pathsep.join(without_shims(environment["PATH"]))  # tools that are scripts run others
    node = os.environ.get("SIM_HOST", "")
    return equip({**environment, "PATH": path}, tools_home(control), node or host)


def cannot_run(program: str, host: str, error: OSError) -> Refused:
    """The refusal for an error of `HostHandle.popen`."""
    if error.filename is not None and error.filename != program:  # the directory
        return Refused(
            f"cannot run {program} in directory {error.filename} of {host}",
            why=os.strerror(error.errno or 0),
            fix="Choose a directory that exists in the host",
            code=error.errno or 0,
        )
    return Refused(
        f"cannot run {program} in {host}",
        why=os.strerror(error.errno or 0),
        fix="See whether it is installed: a lab's hosts use the files of this machine",
        code=error.errno or 0,
    )
