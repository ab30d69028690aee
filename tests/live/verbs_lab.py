"""A lab for programs that use RDMA devices, and the programs run in it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

IBBOND = str(Path(sys.executable).with_name("ibbond"))
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"


def installed(*programs: str) -> bool:
    return all(shutil.which(program, path=PATH) for program in programs)


class VerbsLab:
    """A running lab by its name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def ibbond(self, *words: str, timeout: float = 60) -> str:
        done = subprocess.run([IBBOND, *words], capture_output=True, text=True, timeout=timeout, check=False)
        assert done.returncode == 0, f"ibbond {' '.join(words)}: {done.stdout}{done.stderr}"
        return done.stdout

    def lab(self, command: str, *words: str) -> str:
        return self.ibbond("lab", command, "--name", self.name, *words)

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.lab("status", "--json"))
        return found

    def run(self, host: str, *command: str, timeout: float = 60) -> str:
        """A program in a host; what it printed. It must end with 0."""
        return self.ibbond("lab", "exec", "--name", self.name, host, "--", *command, timeout=timeout)

    def start(self, host: str, *command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [IBBOND, "lab", "exec", "--name", self.name, host, "--", *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


@contextmanager
def verbs_lab(name: str, *options: str) -> Iterator[VerbsLab]:
    lab = VerbsLab(name)
    lab.lab("up", *options)
    try:
        yield lab
    finally:
        lab.lab("down")
