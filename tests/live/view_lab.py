"""Real labs, started and ended by the command, for tests of the view: what people have."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ibbond.backend.control_socket import Control
from ibbond.lab.exec import HostHandle, host_handle
from ibbond.lab.state import Files
from ibbond.sysfs.mount import why_not

IBBOND = str(Path(sys.executable).parent / "ibbond")
EXAMPLES = Path(__file__).parents[2] / "examples"
NO_VIEW = why_not()
Run = subprocess.CompletedProcess[str]


def ibbond(*words: str, check: bool = True) -> Run:
    done = subprocess.run([IBBOND, *words], text=True, capture_output=True, timeout=90, stdin=subprocess.DEVNULL)
    assert not check or done.returncode == 0, done.stderr
    return done


@dataclass
class ViewLab:
    """A running lab."""

    name: str

    def bash(self, script: str, *, host: str = "h1", timeout: float = 60) -> Run:
        """A script of bash in a host, which starts in /sys/class/net."""
        return self.run("bash", "-c", f"cd /sys/class/net; {script}", host=host, timeout=timeout)

    def run(self, *command: str, host: str = "h1", timeout: float = 60) -> Run:
        with self.popen(*command, host=host) as running:
            try:
                out, err = running.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                running.kill()
                raise
        return subprocess.CompletedProcess(command, running.returncode, out.decode(), err.decode())

    def popen(self, *command: str, host: str = "h1", pipe_in: bool = False) -> subprocess.Popen[bytes]:
        way = self._door(host)
        try:
            pipe = subprocess.PIPE
            return way.popen(command, stdin=pipe if pipe_in else subprocess.DEVNULL, stdout=pipe, stderr=pipe)
        finally:
            way.close()

    def read(self, path: str, host: str = "h1") -> str:
        done = self.bash(f"cat {path}", host=host)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def ibbond(self, *words: str, check: bool = True) -> Run:
        return ibbond(*words, "--name", self.name, check=check)

    @property
    def log(self) -> str:
        return Files(self.name).log.read_text()

    def _door(self, host: str) -> HostHandle:
        with Control.of(self.name) as control:
            return host_handle(control, host)


@contextlib.contextmanager
def view_lab(name: str, topology: str, directory: Path, *options: str) -> Iterator[ViewLab]:
    """A lab of this topology (TOML) until the block ends."""
    file = directory / f"{name}.toml"
    file.write_text(topology)
    ibbond("lab", "up", str(file), "--name", name, *options)
    try:
        yield (lab := ViewLab(name))
        if Files(name).held:  # else the test has taken it down
            with Control.of(name) as control:
                status = control.ask("status")
            assert isinstance(status, dict)
            assert status["faults"] == {}, lab.log
    finally:
        ibbond("lab", "down", "--name", name, check=False)


def judge_speed(good: bool, measured: object) -> None:
    """Speed is a benchmark's business, not a test's: a missed goal is notified, with the figures, and nothing fails."""
    if not good:
        pytest.skip(f"goal missed at load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors: {measured}")


@contextlib.contextmanager
def cores_awake() -> Iterator[str]:
    """Idle cores look around instead of sleeping, as cyclictest has it; says whether that was to be had.

    On a virtual machine a core that sleeps takes 50 to 100 us to wake, and a request of FUSE wakes two.
    """
    try:
        quality = os.open("/dev/cpu_dma_latency", os.O_WRONLY)
    except OSError:
        yield "idle cores asleep"
        return
    try:
        os.write(quality, bytes(4))
        yield "idle cores awake"
    finally:
        os.close(quality)


def unique(what: str) -> str:
    """A lab name that no other test run uses, and that is not the beginning of a name of another one."""
    return f"{what}{os.getpid() % 1000000}x"
