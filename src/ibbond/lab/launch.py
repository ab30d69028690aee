"""Labs from outside: start one and wait until it carries packets, see whether one was killed, take one down.

The lab itself is a process of its own (`lab.daemon`), started here in a new session with a pipe on which it says that
it is ready, or why not. Left out: everything that is asked of a running lab (`backend.control_socket`).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple, Protocol

from ibbond.backend.control_socket import CONTROL, DEFAULT_LAB, Control, result_of
from ibbond.errors import Refused
from ibbond.host import namespace
from ibbond.host.named_namespaces import named_hosts
from ibbond.host.priority import raise_priority
from ibbond.lab.commands import run_commands
from ibbond.lab.state import NOT_OURS, Files, LabConfig, in_runtime_directory
from ibbond.topology.load import parse

NS_GET_OWNER_UID = 0xB704
START_TIMEOUT = 60.0
END_TIMEOUT = 20.0
EXIT_TIMEOUT = 3.0
ANSWER_TIMEOUT = 5.0  # what a lab that starts or ends may take until it answers or is gone


class DidNotStart(Refused):
    """A lab that ended before it was ready, without a refusal: something is wrong with it, not with the request."""


class Process(Protocol):
    """The process of a lab; the part of subprocess.Popen that is used here."""

    @property
    def pid(self) -> int: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, number: int, /) -> None: ...
    def kill(self) -> None: ...


class Running(NamedTuple):
    """A lab that was started: its process and its status."""

    process: Process
    status: dict[str, object]


Spawn = Callable[[str, int, int, int], Process]


def spawn_process(name: str, config: int, telling: int, log: int) -> subprocess.Popen[bytes]:
    """Start the process of a lab of this name, which people see in ps.

    It reads its configuration from the descriptor `config`, answers on `telling`, and prints to `log`.
    """
    return subprocess.Popen(
        [sys.executable, "-m", "ibbond.lab.daemon", str(telling), name],
        stdin=config,
        stdout=log,
        stderr=log,
        start_new_session=True,
        pass_fds=[telling],
    )


def start(config: LabConfig, spawn: Spawn = spawn_process) -> Running:
    """Start a lab in the background and wait until its ports are active, its bonds are up and its commands have run.

    Whatever interrupts the wait takes the lab down. `spawn` makes its process (see also `lab.prefork`).
    """
    files = Files(config.name)
    files.wait_for_dying_process(EXIT_TIMEOUT)
    topology = None
    if not config.resume:
        topology = parse(config.text, name=config.source, others=NOT_OURS)  # refused here, before anything exists
    if files.held:
        raise files.running()
    reported, telling = os.pipe()
    with in_runtime_directory(lambda: files.log.open("ab")) as log:
        configuration, writing = os.pipe()
        process = spawn(config.name, configuration, telling, log.fileno())
    os.close(telling)
    os.close(configuration)
    try:
        raise_priority(process.pid)  # already to start, for a resumed lab's programs wait for it
        with contextlib.suppress(BrokenPipeError), os.fdopen(writing, "wb") as file:
            file.write(json.dumps(asdict(config)).encode())
        status = wait_until_ready(reported, files)
        if topology is not None:  # in a resumed lab they have run
            run_commands(topology, config.name, files.log)
        return Running(process, status)
    except BaseException as reason:
        stop(process)
        said_why = isinstance(reason, DidNotStart) and files.log.exists() and files.log.stat().st_size
        if not said_why:  # else the log is worth reading
            remove_log(files)
        raise
    finally:
        os.close(reported)


def remove_log(files: Files) -> None:
    """The log was made here, before the lab could have taken it over. That of one that runs or was killed stays."""
    with contextlib.suppress(Refused):
        lock = files.hold()
        try:
            if files.read_note() is None:
                files.remove(lock)
        finally:
            os.close(lock)


def wait_until_ready(reported: int, files: Files) -> dict[str, object]:
    """The status that a starting lab reports, or its refusal."""
    text = b""
    until = time.monotonic() + START_TIMEOUT
    while not text.endswith(b"\n"):
        readable, _, _ = select.select([reported], [], [], max(0, until - time.monotonic()))
        piece = os.read(reported, 1 << 16) if readable else b""
        if not piece:
            last = files.log.read_text(errors="replace").strip().splitlines()[-1:] if files.log.exists() else []
            raise DidNotStart(
                f"lab {files.name} did not start",
                why=last[0] if last else ("it ended without a message" if readable else "it was not ready in time"),
                fix=f"Read its log: {files.log}" if last else "Start it again",
            )
        text += piece
    answer = json.loads(text)
    if "failed" in answer:
        raise DidNotStart(f"lab {files.name} did not start", why=answer["failed"], fix=f"Read its log: {files.log}")
    status = result_of(answer)
    assert isinstance(status, dict)
    return status


def stop(process: Process) -> None:
    """Ask a lab to end and wait for it; a lab that does not is killed, which `take_down` cleans after."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(END_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def killed(name: str) -> bool:
    """Whether a lab of this name was killed and something of it is left."""
    files = Files(name)
    if files.held:
        return False
    left = files.read_note() is not None or bool(named_hosts(name))
    return left and not files.held  # which may have started meanwhile


def refuse_changes(config: LabConfig, given: Sequence[str]) -> None:
    """A lab is resumed unchanged: `Refused` if the given fields of the configuration differ."""
    files = Files(config.name)
    note = files.read_note()
    if note is None or files.held:
        return  # which says more than this
    words = {"text": "FILE", "profile": "--profile", "manager": "--sm"}
    changed = [words[field] for field in given if getattr(config, field) != getattr(note.config, field)]
    if changed:
        option = "" if config.name == DEFAULT_LAB else f" --name {config.name}"
        kept = note.config
        raise Refused(
            f"cannot resume lab {config.name} with a different {' and '.join(changed)}",
            why=f"it continues as it was: {kept.source}, --profile {kept.profile}, --sm {kept.manager}",
            fix=f"Omit that option, or start over: ibbond lab down{option}, then ibbond lab up",
        )


def take_down(name: str = DEFAULT_LAB) -> str:
    """End a lab and wait until nothing is left of it, or clean what a killed one left. What was done, in words."""
    files = Files(name)
    ran = False
    while True:
        if files.held:
            ran = True
            pid = end_running(files)
            if pid is not None and not killed(name):
                return f"lab {name} is down (process {pid} has ended)"
        elif killed(name) or files.lock.exists() or (not ran and files.log.exists()):
            try:
                lock = files.hold()
            except Refused as refusal:
                if refusal.code != errno.EEXIST:
                    raise
                continue  # another process cleans up
            try:
                removed = clean(files)
                files.remove(lock)
            finally:
                os.close(lock)
            return f"lab {name} was killed; removed {', '.join(removed) or 'what it left'}"
        elif ran:
            return f"lab {name} is down"
        else:
            raise Refused(
                f"no lab {name} is running",
                why="no lab of that name was started, or it is already down",
                fix="See what runs with: ibbond lab list",
            )


def end_running(files: Files) -> int | None:
    """Have the lab that runs end, and wait; its pid, or None where it was gone before it was asked."""
    pid = ask_to_end(files)
    until = time.monotonic() + END_TIMEOUT
    while pid is not None and _alive(pid):
        if time.monotonic() > until:
            raise Refused(
                f"lab {files.name} does not end",
                why=f"process {pid} is still running after {END_TIMEOUT:.0f} s",
                fix=f"Kill it with: kill -9 {pid}; then: ibbond lab down",
            )
        time.sleep(0.01)
    return pid


def ask_to_end(files: Files) -> int | None:
    """Ask until the lab answers, for it may just be starting or ending; one that has no socket gets a signal."""
    until = time.monotonic() + ANSWER_TIMEOUT
    while files.held:
        try:
            with Control(files.socket) as control:
                status = control.ask("down")
            assert isinstance(status, dict)
            return int(status["pid"])
        except Refused as refusal:
            if refusal.code == errno.EPERM:
                raise
            if time.monotonic() > until:
                if (pid := files.process()) is None:
                    raise
                end_process(pid)
                return pid
        time.sleep(0.02)
    return None


def end_process(pid: int) -> None:
    namespace.end_processes(lambda: [pid] if _alive(pid) else [], END_TIMEOUT)


def clean(files: Files) -> list[str]:
    """Remove hosts, and programs in them, that a killed lab left; their names."""
    note = files.read_note()
    left = namespace.clean(files.name) if named_hosts(files.name) else []
    inodes = set(note.spaces.values()) if note else set()
    namespace.end_processes(lambda: processes_in(inodes, files), timeout=2.0)
    return left


def processes_in(spaces: set[int], files: Files) -> list[int]:
    """The processes whose network namespace is one of these (inodes) and whose environment names the lab.

    The number of a namespace is given out again after its end; the environment distinguishes this lab's from others.
    """
    marks = f"{CONTROL}={files.socket}".encode(), f"OSM_TMP_DIR={files.tools}/".encode()  # programs, OpenSM
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if (entry / "ns/net").stat().st_ino in spaces and _names(entry, marks):
                    found.append(int(entry.name))
    return found


def _names(process: Path, marks: Sequence[bytes]) -> bool:
    """Whether a process's environment names the lab; that of a subordinate user, whose it is (ioctl_ns(2))."""
    try:
        inherited = (process / "environ").read_bytes()
    except PermissionError:
        with (process / "ns/user").open("rb") as users:
            owner = fcntl.ioctl(users, NS_GET_OWNER_UID, bytes(4))
        return int.from_bytes(owner, sys.byteorder) == os.geteuid()
    return any(mark in inherited for mark in marks)


def _alive(pid: int) -> bool:
    """Whether the process still runs; one that waits for its parent to look is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@contextlib.contextmanager
def running_lab(config: LabConfig, spawn: Spawn = spawn_process) -> Iterator[tuple[Running, Control]]:
    """A lab that ends with this block, and, should this process be killed, with this process."""
    running = start(config, spawn)
    try:
        with Control.of(config.name) as control, Control.of(config.name) as lease:
            lease.ask("lease")
            yield running, control
    finally:
        stop(running.process)
