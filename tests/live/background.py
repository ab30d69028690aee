"""Programs in lab hosts that run beside a test and end with it, their children included; packets of captures.

Read first: docs/testing.md, for the hosts. Left out: programs that run to their end (`LabHost.run`).
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ibbond import Lab
from ibbond.testing.lab import LabHost

PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"


def installed(*programs: str) -> bool:
    return all(shutil.which(program, path=PATH) for program in programs)


@contextmanager
def background(host: LabHost, *command: str) -> Iterator[subprocess.Popen[str]]:
    """A program in a host until the block ends; stderr goes with stdout, into a pipe."""
    with host.popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, process_group=0) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)


def output(host: LabHost, *command: str, timeout: float = 60) -> str:
    """What a program prints that must succeed, on stdout and then on stderr."""
    done = host.run(command, timeout=timeout)
    return done.stdout + done.stderr


def rdma_ids(lab: Lab, host: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = lab.status()["hosts"][host]["rdma_ids"]
    return found


def packets(file: Path, which: str) -> int:
    """How many packets of a capture a display filter of tshark selects."""
    words = ["tshark", "-r", str(file), "-Y", which, "-T", "fields", "-e", "infiniband.bth.psn"]
    return len(subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines())
