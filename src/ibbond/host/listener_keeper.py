"""A process that holds the listeners of a lab's programs while the lab's own process is dead.

Read first: seccomp_unotify(2). When the last copy of a listener is closed, every call that its filter traps fails with
ENOSYS, permanently. So each listener is also held here: after kill -9 the calls wait, and `ibbond lab up --resume`
takes the listeners over. With each comes a page of shared memory in which the lab receives notifications, so that a
call that was received and not answered can be answered by the next process.

It runs from the first program of a lab until the lab ends in order (`end`), or until no program is left. It imports
little of the standard library and nothing else, because it is one more process on the machine.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys
from pathlib import Path

KEEP, KEPT, ALL, END = b"keep", b"kept", b"all", b"end"
TIMEOUT = 5.0  # seconds that a keeper may take to answer


class Keeper:
    """The lab's connection to the keeper; starts it for the first listener to keep."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: socket.socket | None = None

    def take_over(self) -> list[tuple[int, int]]:
        """The (listener, memory) descriptors that a dead lab of this name left; none where it left no keeper."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.settimeout(TIMEOUT)
        found = []
        try:
            connection.connect(str(self._path))
            while True:
                message, descriptors, _, _ = socket.recv_fds(connection, 16, 2)
                if message != KEPT:
                    break
                for descriptor in descriptors:
                    os.set_inheritable(descriptor, False)
                found.append((descriptors[0], descriptors[1]))
        except OSError:
            connection.close()
            self._path.unlink(missing_ok=True)
        else:
            connection.settimeout(None)
            self._connection = connection
        return found

    def keep(self, listener: int, memory: int) -> None:
        """Hold copies of both from now on. OSError where no keeper can be started."""
        if self._connection is None:
            self._connection = self._start()
        socket.send_fds(self._connection, [KEEP], [listener, memory])

    def end(self) -> None:
        """The lab ends in order: no listener has to be kept."""
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.send(END)
            self._connection.close()
            self._path.unlink(missing_ok=True)

    def _start(self) -> socket.socket:
        import subprocess

        self._path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
            listening.bind(str(self._path))
            self._path.chmod(0o600)
            listening.listen(1)
            with open(os.devnull, "r+b") as null:
                subprocess.Popen(
                    [sys.executable, "-I", "-S", __file__, str(listening.fileno()), self._path.stem],
                    stdin=null,
                    stdout=null,
                    stderr=null,
                    start_new_session=True,
                    env={},
                    pass_fds=[listening.fileno()],
                )
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.connect(str(self._path))  # what is sent before it runs waits for it
        return connection


def main() -> None:
    """Hold what comes until there is nothing left to hold."""
    listening = socket.socket(fileno=int(sys.argv[1]))
    path = listening.getsockname()
    poll = select.poll()
    poll.register(listening, select.POLLIN)
    held: dict[int, int] = {}  # listener to memory
    lab: socket.socket | None = None
    lab, _ = listening.accept()
    begin(lab, held)
    poll.register(lab, select.POLLIN)
    while lab is not None or held:
        for descriptor, _events in poll.poll()[:1]:  # one at a time: a number that is closed may be given out again
            if descriptor == listening.fileno():
                if lab is not None:
                    poll.unregister(lab)
                    lab.close()
                lab, _ = listening.accept()
                begin(lab, held)
                poll.register(lab, select.POLLIN)
            elif lab is not None and descriptor == lab.fileno():
                message, descriptors = receive(lab)
                if message == KEEP:
                    held[descriptors[0]] = descriptors[1]
                    poll.register(descriptors[0], 0)  # POLLHUP means that no program has the filter
                    continue
                poll.unregister(lab)
                lab.close()
                lab = None
                if message == END:
                    return
            elif descriptor in held:
                poll.unregister(descriptor)
                os.close(held.pop(descriptor))
                os.close(descriptor)
    with contextlib.suppress(OSError):
        os.unlink(path)


def receive(lab: socket.socket) -> tuple[bytes, list[int]]:
    """The next message and its descriptors; nothing when the lab was killed, which may reset the connection."""
    try:
        message, descriptors, _, _ = socket.recv_fds(lab, 16, 2)
    except OSError:
        return b"", []
    return message, descriptors


def begin(lab: socket.socket, held: dict[int, int]) -> None:
    """Give a lab that connects everything that is held."""
    with contextlib.suppress(OSError):
        for listener, memory in held.items():
            socket.send_fds(lab, [KEPT], [listener, memory])
        lab.send(ALL)


if __name__ == "__main__":
    main()
