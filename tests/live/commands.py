"""What live tests do besides `ibbond.Lab`: the command `ibbond`, scripts and files in hosts, labs without faults."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from ibbond import Lab, TopologyBuilder
from ibbond.lab.state import Files
from ibbond.sysfs.mount import why_not
from ibbond.testing.lab import LabHost

IBBOND = str(Path(sys.executable).parent / "ibbond")
EXAMPLES = Path(__file__).parents[2] / "examples"
DEVICES = "/sys/class/net"
NO_VIEW = why_not()
Run = subprocess.CompletedProcess[str]


def ibbond(*words: str, lab: Lab | str | None = None, check: bool = True) -> Run:
    """Run a command outside of the hosts, with `--name` of a lab where one is given."""
    name = lab.name if isinstance(lab, Lab) else lab
    command = [IBBOND, *words, *(["--name", name] if name else [])]
    done = subprocess.run(command, text=True, capture_output=True, timeout=90, stdin=subprocess.DEVNULL, check=False)
    assert not check or done.returncode == 0, done.stderr
    return done


def bash(host: LabHost, script: str, *, timeout: float = 60) -> Run:
    """Run a script of bash in a host, in /sys/class/net; its exit status is the caller's business."""
    return host.run(["bash", "-c", script], cwd=DEVICES, check=False, timeout=timeout)


def read(host: LabHost, path: str) -> str:
    """The text of a file below /sys/class/net of a host."""
    return host.run(["cat", path], cwd=DEVICES, timeout=60).stdout


@contextlib.contextmanager
def sound_lab(
    topology: str | os.PathLike[str] | TopologyBuilder | None = None, *, profile: str = "default"
) -> Iterator[Lab]:
    """A lab that must not have counted a fault when the block ends; the test may have taken it down."""
    with Lab(topology, profile=profile) as lab:
        yield lab
        assert_no_faults(lab.name)


@contextlib.contextmanager
def commanded_lab(name: str, *words: str, prefix: tuple[str, ...] = ()) -> Iterator[Lab]:
    """A lab started by `ibbond lab up`, perhaps under another program, for tests of that command, and attached to."""
    up = [*prefix, IBBOND, "lab", "up", "--name", name, *words]
    subprocess.run(up, check=True, capture_output=True, timeout=60, stdin=subprocess.DEVNULL)
    try:
        with Lab.attach(name) as lab:
            yield lab
        assert_no_faults(name)
    finally:
        ibbond("lab", "down", lab=name, check=False)


def kill(lab: Lab) -> None:
    """Kill the process of a lab with SIGKILL."""
    os.kill(lab.status()["pid"], signal.SIGKILL)


def resume(lab: Lab) -> None:
    """Resume a killed lab by the command, and attach to it again."""
    ibbond("lab", "up", "--resume", lab=lab)
    lab.stop()
    lab.start()


def assert_no_faults(name: str) -> None:
    """Of a lab, if it still runs."""
    files = Files(name)
    if files.held:
        with Lab.attach(name) as lab:
            assert lab.status()["faults"] == {}, files.log.read_text()


def unique(what: str) -> str:
    """A lab name that no other test run uses, and that is not the beginning of a name of another one."""
    return f"{what}{os.getpid() % 1000000}x"
