"""Labs that are forked from a template: quick, named as others, and independent of the template's end."""

import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

from ibbond import Lab
from ibbond.lab.state import Files

CPU_SECONDS = 0.3  # to start a lab; 0.16 as measured
TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_lab_takes_little_time() -> None:
    taken = []
    for _ in range(5):
        with Lab() as lab:
            taken.append(cpu_seconds(lab.status()["pid"]))
    assert statistics.median(taken) < CPU_SECONDS, taken


def test_a_forked_lab_has_the_name_of_its_start() -> None:
    with Lab() as first, Lab() as second:
        for lab in (first, second):
            pid = lab.status()["pid"]
            assert Files(lab.name).process() == pid
            assert lab.name in Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
            assert b"prefork" in Path(f"/proc/{parent(pid)}/cmdline").read_bytes()


def test_labs_survive_the_template_and_another_one_is_made() -> None:
    with Lab() as first:
        os.kill(parent(first.status()["pid"]), signal.SIGKILL)
        with Lab() as second:
            for lab in (first, second):
                lab["h1"].run(["ping", "-c1", "-w5", "10.0.0.2"])


KILLED = """
import os, signal, pathlib
from ibbond import Lab
lab = Lab().start()
pid = lab.status()["pid"]
stat = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
print(pid, stat[1], flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_template_and_labs_end_with_a_killed_test_process() -> None:
    said = subprocess.run([sys.executable, "-c", KILLED], capture_output=True, text=True, check=False).stdout
    until = time.monotonic() + 60
    left = said.split()
    assert len(left) == 2
    while left and time.monotonic() < until:
        left = [pid for pid in left if command_line(pid)]
        time.sleep(0.02)
    assert not left


def command_line(pid: str) -> bytes:
    """Empty when the process has ended, also where nothing waits for it."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
