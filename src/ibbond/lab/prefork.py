"""Labs without the start of an interpreter: a process that has loaded the lab's code forks one for each start.

Read first: fork(2), pidfd_open(2). To load the code takes longer than to start the lab, and tests start many. The
first lab of a test process starts the template process, which ends with the test process. It has one thread.
Left out: what a lab is given and what it answers (`lab.launch`).
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
from typing import NamedTuple

from ibbond.errors import Refused
from ibbond.lab.launch import spawn_process

MESSAGE_BYTES = (
    1 << 18
)  # a request has the environment in it; Linux takes 208 KiB on a socket unless reported otherwise
PADDING = "-" * 64  # room for the command line of a lab, which `ps` and `lab.state` read


class ForkedLab:
    """The process of a lab that is not a child of this one; the part of subprocess.Popen that `lab.launch` uses."""

    def __init__(self, pid: int, descriptor: int) -> None:
        self.pid = pid
        self._descriptor = descriptor

    def poll(self) -> int | None:
        """0 when it has ended (however), else None."""
        return 0 if self._ended(0) else None

    def wait(self, timeout: float | None = None) -> int:
        if not self._ended(timeout):
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
        return 0

    def send_signal(self, number: int) -> None:
        if not self._ended(0):
            signal.pidfd_send_signal(self._descriptor, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _ended(self, timeout: float | None) -> bool:
        if self._descriptor >= 0:
            ended = select.poll()
            ended.register(self._descriptor, select.POLLIN)
            if not ended.poll(None if timeout is None else timeout * 1000):
                return False
            os.close(self._descriptor)
            self._descriptor = -1
        return True


class Template(NamedTuple):
    """The connection to the template process, and the process that it belongs to."""

    connection: socket.socket
    owner: int


_templates: list[Template] = []


def spawn(name: str, config: int, telling: int, log: int) -> ForkedLab | subprocess.Popen[bytes]:
    """Fork a lab, as `lab.launch.spawn_process` starts one; where that fails, start one."""
    message = json.dumps({"name": name, "environment": dict(os.environ), "directory": os.getcwd()}).encode()
    if len(message) < MESSAGE_BYTES // 2:
        for _ in range(2):  # the template may have been killed
            try:
                connection = template()
                socket.send_fds(connection, [message], [config, telling, log])
                answer, descriptors, _, _ = socket.recv_fds(connection, 64, 1)
                if descriptors:
                    return ForkedLab(int(answer), descriptors[0])
            except OSError:
                pass
            _templates.clear()
    return spawn_process(name, config, telling, log)


def template() -> socket.socket:
    """The connection to this process's template process, which is started if there is none."""
    if not _templates or _templates[0].owner != os.getpid():
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            subprocess.Popen(
                [sys.executable, "-m", "ibbond.lab.prefork", str(theirs.fileno()), PADDING],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
                pass_fds=[theirs.fileno()],
            )
        _templates[:] = [Template(ours, os.getpid())]
    return _templates[0].connection


def main() -> None:
    """Be the template: fork a lab for each request, until the process that asks has ended."""
    import msgspec  # noqa: F401 - a lab that has just started needs it to write down its state

    from ibbond.lab import daemon

    connection = socket.socket(fileno=int(sys.argv[1]))
    gc.collect()
    gc.freeze()  # what is loaded stays shared with the labs
    signal.signal(signal.SIGCHLD, lambda *_: reap())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        message, descriptors, _, _ = socket.recv_fds(connection, MESSAGE_BYTES, 3)
        if not message:
            return
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
        child = os.fork()
        if child == 0:
            connection.close()
            become_lab(message, descriptors)
            daemon.main()
            os._exit(0)
        process = os.pidfd_open(child)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
        socket.send_fds(connection, [str(child).encode()], [process])
        for descriptor in (*descriptors, process):
            os.close(descriptor)


def reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def become_lab(message: bytes, descriptors: list[int]) -> None:
    """In the child: everything that `lab.launch.spawn_process` gives a process."""
    request = json.loads(message)
    config, telling, log = descriptors
    os.setsid()
    for number in (signal.SIGCHLD, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["directory"])
    for target, descriptor in ((0, config), (1, log), (2, log)):
        os.dup2(descriptor, target)
    os.close(config)
    os.close(log)
    sys.argv[1:] = [str(telling), request["name"]]
    set_command_line([sys.executable, "-m", "ibbond.lab.daemon", *sys.argv[1:]])


def set_command_line(words: list[str]) -> None:
    """What /proc/self/cmdline says, which is the memory between arg_start and arg_end of proc(5)."""
    with open("/proc/self/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    begin, end = int(fields[45]), int(fields[46])
    text = b"".join(word.encode() + b"\0" for word in words)
    if not begin or len(text) > end - begin:
        raise Refused("cannot fork a lab", why="its command line is too short to hold the lab's name", fix="Report it")
    ctypes.memmove(begin, text.ljust(end - begin, b"\0"), end - begin)


if __name__ == "__main__":
    main()
