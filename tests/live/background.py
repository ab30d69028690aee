"""A lab for programs that use RDMA devices, and the programs run in it.

Read first: docs/testing.md, whose `Lab` this is.
"""

from __future__ import annotations

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

from ibbond import Lab

IBBOND = str(Path(sys.executable).with_name("ibbond"))
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"


def installed(*programs: str) -> bool:
    return all(shutil.which(program, path=PATH) for program in programs)


class VerbsLab(Lab):
    """A lab whose programs are ended with all their children."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name)
        self._started: list[subprocess.Popen[str]] = []

    def rdma_ids(self, host: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.status()["hosts"][host]["rdma_ids"]
        return found

    def run(self, host: str, *command: str, timeout: float = 60) -> str:
        """A program in a host to its end; what it printed. It must end with 0."""
        process = self.run_in_background(host, *command)
        try:
            text, _ = process.communicate(timeout=timeout)
        finally:
            self.end(process)
        assert process.returncode == 0, f"{' '.join(command)} in {host} ended with {process.returncode}: {text}"
        return text

    def run_in_background(self, host: str, *command: str) -> subprocess.Popen[str]:
        started = self[host].popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, process_group=0)
        self._started.append(started)
        return started

    def end(self, process: subprocess.Popen[str]) -> None:
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
def verbs_lab(name: str) -> Iterator[VerbsLab]:
    with VerbsLab(name) as lab:
        try:
            yield lab
        finally:
            lab.end_all()


def until(condition: Any, seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True
