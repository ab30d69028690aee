"""kill -9 of a lab and its resume do no harm to programs whose calls the lab's seccomp filter traps."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ibbond.host import notification

pytestmark = pytest.mark.skipif(notification.why_not() is not None, reason=str(notification.why_not()))
IBBOND = str(Path(sys.executable).parent / "ibbond")
OPENER = """
import os, sys, time
count = 0
while True:
    try:
        os.close(os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        print("failed", error, flush=True)
    count += 1
    if count % 50 == 0:
        print(count, flush=True)
    time.sleep(0.001)
"""


def ibbond(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([IBBOND, *words], text=True, capture_output=True, timeout=60, stdin=subprocess.DEVNULL)
    assert not check or done.returncode == 0, done.stderr
    return done


def until(condition: Callable[[], bool], seconds: float = 15) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture
def named(lab: str) -> Iterator[str]:
    ibbond("lab", "up", "--name", lab)
    yield lab
    ibbond("lab", "down", "--name", lab, check=False)


def keepers(lab: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if any(word.endswith(b"listener_keeper.py") for word in words) and lab.encode() in words:
                found.append(int(entry.name))
    return found


def pid_of(lab: str) -> int:
    return int(json.loads(ibbond("lab", "status", "--name", lab, "--json").stdout)["pid"])


def start(lab: str, file: Path) -> subprocess.Popen[bytes]:
    words = [IBBOND, "lab", "exec", "--name", lab, "h1", "--", sys.executable, "-c", OPENER]
    return subprocess.Popen(words, stdout=file.open("wb"))


def goes_on(output: Path) -> bool:
    """Whether a program writes more lines."""
    lines = len(output.read_text().splitlines())
    return until(lambda: len(output.read_text().splitlines()) > lines + 3)


def test_trapped_calls_wait_for_the_resume_and_never_fail(named: str, tmp_path: Path) -> None:
    output = tmp_path / "output"
    program = start(named, output)
    try:
        assert until(lambda: len(output.read_text().splitlines()) > 3)
        for _ in range(3):
            os.kill(pid_of(named), signal.SIGKILL)
            time.sleep(0.5)
            assert program.poll() is None
            ibbond("lab", "up", "--name", named, "--resume")
            assert goes_on(output)
        assert "failed" not in output.read_text()
        assert len(keepers(named)) == 1
        ibbond("lab", "down", "--name", named)
        assert until(lambda: program.poll() is not None and not keepers(named))
    finally:
        program.kill()
        program.wait()


@pytest.mark.parametrize("how", ["down", "down after kill -9"])
def test_the_keeper_ends_with_the_lab(named: str, tmp_path: Path, how: str) -> None:
    output = tmp_path / "output"
    program = start(named, output)
    try:
        assert until(lambda: bool(output.read_text()))
        assert len(keepers(named)) == 1
        if how != "down":
            os.kill(pid_of(named), signal.SIGKILL)
        ibbond("lab", "down", "--name", named)
        assert until(lambda: not keepers(named))
        assert until(lambda: program.poll() is not None)
        assert not list(Path("/run/ibbond").glob(f"{named}.*"))
    finally:
        program.kill()
        program.wait()
