"""A lab for programs that use RDMA devices, and the programs run in it.

Programs are started by what `ibbond lab exec` calls, without the time that a command line takes to start.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ibbond.backend.control_socket import Control
from ibbond.lab import exec as lab_exec
from ibbond.lab.capturing import RunningCapture

IBBOND = str(Path(sys.executable).with_name("ibbond"))
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"


def installed(*programs: str) -> bool:
    return all(shutil.which(program, path=PATH) for program in programs)


class VerbsLab:
    """A running lab by its name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._started: list[subprocess.Popen[bytes]] = []

    def ibbond(self, *words: str, timeout: float = 120) -> str:
        done = subprocess.run([IBBOND, *words], capture_output=True, text=True, timeout=timeout, check=False)
        assert done.returncode == 0, f"ibbond {' '.join(words)}: {done.stdout}{done.stderr}"
        return done.stdout

    def ask(self, what: str, **words: object) -> Any:
        """A request of the lab's socket."""
        with Control.of(self.name) as control:
            return control.ask(what, **words)

    @contextmanager
    def capture(self, device: str, file: Path) -> Iterator[None]:
        running = RunningCapture(self.name, device, file)
        yield
        running.end()

    def cut(self, *cables: str) -> None:
        self.ask("cut", cables=list(cables))

    def mend(self, *cables: str) -> None:
        self.ask("mend", cables=list(cables))

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(json.dumps(self.ask("status")))
        return found

    def rdma_ids(self, host: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask("status")["hosts"][host]["rdma_ids"]
        return found

    def run(self, host: str, *command: str, timeout: float = 60) -> str:
        """A program in a host to its end; what it printed. It must end with 0."""
        process = self.start(host, *command)
        try:
            out, _ = process.communicate(timeout=timeout)
        finally:
            self.end(process)
        text = out.decode(errors="replace")
        assert process.returncode == 0, f"{' '.join(command)} in {host} ended with {process.returncode}: {text}"
        return text

    def start(self, host: str, *command: str) -> subprocess.Popen[bytes]:
        with Control.of(self.name) as control:
            host_handle = lab_exec.host_handle(control, host)
        try:
            process = host_handle.popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, process_group=0
            )
        finally:
            host_handle.close()
        self._started.append(process)
        return process

    def end(self, process: subprocess.Popen[bytes]) -> None:
        """With its children, if it still runs."""
        if process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdout is not None and not process.stdout.closed:
            process.stdout.close()
        self._started.remove(process)

    def end_all(self) -> None:
        for process in tuple(self._started):
            self.end(process)


@contextmanager
def verbs_lab(name: str, *options: str) -> Iterator[VerbsLab]:
    lab = VerbsLab(name)
    lab.ibbond("lab", "up", "--name", name, *options)
    try:
        yield lab
    finally:
        lab.end_all()
        lab.ibbond("lab", "down", "--name", name)


def until(condition: Any, seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True
