"""Signals end commands as Ctrl-C does: a start leaves no lab, a flap no cable cut. What exec says with --json."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ibbond.backend.control_socket import Control, runtime_directory

IBBOND = str(Path(sys.executable).parent / "ibbond")


def ibbond(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([IBBOND, *words], text=True, capture_output=True, timeout=60, stdin=subprocess.DEVNULL)


def begin(*words: str) -> subprocess.Popen[str]:
    """A command that heeds all signals, whatever these tests themselves were notified to ignore (nohup)."""
    return subprocess.Popen(
        [IBBOND, *words],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        process_group=0,
        preexec_fn=lambda: [signal.signal(number, signal.SIG_DFL) for number, _ in ENDS],
    )


@pytest.fixture
def named(lab: str) -> Iterator[str]:
    yield lab
    ibbond("lab", "down", "--name", lab)


def gone(lab: str, seconds: float = 0) -> bool:
    """Whether nothing of the lab is left, at the latest after this time."""
    until = time.monotonic() + seconds
    netns = Path("/run/netns")
    while True:
        spaces = [entry.name for entry in netns.iterdir() if lab in entry.name] if netns.is_dir() else []
        if not spaces and not list(runtime_directory().glob(f"{lab}.*")) and not daemons(lab):
            return True
        if time.monotonic() > until:
            return False
        time.sleep(0.02)


def daemons(lab: str) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
            if b"ibbond.lab.daemon" in words and lab.encode() in words:
                found.append(entry.name)
    return found


ENDS = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]


@pytest.mark.parametrize(("number", "code"), ENDS)
def test_a_signal_to_a_lab_in_the_foreground_takes_it_down(named: str, number: int, code: int) -> None:
    process = begin("lab", "up", "--name", named, "--foreground")
    assert process.stdout is not None
    assert "is up" in process.stdout.readline()
    os.kill(process.pid, number)
    _, errors = process.communicate(timeout=30)
    words = "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}; lab {named} is down"
    assert (process.returncode, errors.lstrip("\n")) == (code, f"ibbond: {words}\n")
    assert gone(named)


def test_a_lab_in_the_foreground_ends_with_its_process_even_when_that_is_killed(named: str) -> None:
    process = begin("lab", "up", "--name", named, "--foreground")
    assert process.stdout is not None
    lines = iter(process.stdout.readline, "")
    assert next(line for line in lines if "s2/4" in line)  # the last one
    time.sleep(0.1)
    process.kill()
    process.communicate(timeout=10)
    assert gone(named, 10)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("seed", range(4))
def test_a_signal_at_any_moment_of_the_start_leaves_nothing(named: str, number: int, seed: int) -> None:
    moment = random.Random(seed).uniform(0.05, 0.6)
    process = begin("lab", "up", "--name", named)
    time.sleep(moment)
    os.kill(process.pid, number)
    process.communicate(timeout=30)
    if process.returncode == 0:  # it was up before
        ibbond("lab", "down", "--name", named)
    assert gone(named, 2), f"{signal.Signals(number).name} after {moment:.3f} s, exit code {process.returncode}"


def test_a_start_whose_hangups_are_ignored_goes_on(named: str) -> None:
    process = subprocess.Popen(
        ["nohup", IBBOND, "lab", "up", "--name", named, "--json"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    time.sleep(0.2)
    os.kill(process.pid, signal.SIGHUP)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert json.loads(out)["name"] == named


@pytest.fixture
def running(named: str) -> str:
    assert ibbond("lab", "up", "--name", named).returncode == 0
    return named


def cut(lab: str) -> list[str]:
    with Control.of(lab) as control:
        status = control.ask("status")
    assert isinstance(status, dict)
    return [cable["name"] for cable in status["cables"] if cable["state"] == "cut"]


def flapping(lab: str, *words: str, out: bool = True) -> subprocess.Popen[str]:
    """A flap of two cables that has pulled them, and plugged them too where they shall be in."""
    process = begin("lab", "flap", "--name", lab, "h1/ib0", "s1/3", *words)
    wait_until(lambda: len(cut(lab)) == 2)
    if not out:
        wait_until(lambda: not cut(lab))
    return process


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


@pytest.mark.parametrize(("number", "code"), ENDS)
@pytest.mark.parametrize("out", [True, False])
def test_a_signal_to_a_flap_leaves_its_cables_plugged(running: str, number: int, code: int, out: bool) -> None:
    process = flapping(running, *(("--down-ms", "50000") if out else ("--up-ms", "50000")), out=out)
    os.kill(process.pid, number)
    _, errors = process.communicate(timeout=10)
    assert (process.returncode, len(errors.strip().splitlines())) == (code, 1), errors
    assert not cut(running)


def test_a_cable_that_another_user_plugs_while_it_flaps(running: str) -> None:
    process = flapping(running, "--times", "2", "--down-ms", "500", "--up-ms", "500")
    ibbond("lab", "mend", "--name", running, "h1/ib0")
    _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (0, "")
    assert not cut(running)
    process = flapping(running, "--times", "2", "--down-ms", "100", "--up-ms", "1000", out=False)
    ibbond("lab", "cut", "--name", running, "s1/3")
    _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors.count("already cut")) == (2, 1)
    assert cut(running) == ["s1/3"]


def test_a_flap_beyond_an_hour_is_refused_before_anything_is_pulled(running: str) -> None:
    done = ibbond("lab", "flap", "--name", running, "h1/ib0", "--down-ms", "1" + 17 * "0")
    assert (done.returncode, done.stderr.count("Traceback")) == (2, 0)
    assert not cut(running)


def test_exec_with_json_has_the_exit_code_that_a_shell_has(running: str) -> None:
    for end, code in (("exit 3", 3), ("kill -KILL $$", 137), ("kill -TERM $$", 143)):
        done = ibbond("lab", "exec", "--json", "--name", running, "h1", "--", "sh", "-c", f"echo here; {end}")
        assert done.returncode == code
        assert json.loads(done.stdout) == {"exit": code, "stdout": "here\n", "stderr": ""}


needs_tools = pytest.mark.skipif(
    shutil.which("ibstat", path="/usr/sbin:/sbin") is None
    or not list(Path("/usr/lib").glob("*/umad2sim/libumad2sim.so")),
    reason="infiniband-diags and libumad2sim0 are not installed",
)


@needs_tools
def test_a_tool_says_the_same_with_json(running: str) -> None:
    plain = ibbond("lab", "exec", "--name", running, "h2", "--", "ibstat")
    assert "Node GUID: 0x0002c90300100010" in plain.stdout
    done = ibbond("lab", "exec", "--json", "--name", running, "h2", "--", "ibstat")
    assert json.loads(done.stdout) == {"exit": 0, "stdout": plain.stdout, "stderr": ""}


@needs_tools
def test_shells_and_scripts_in_a_host_find_the_tools(running: str) -> None:
    script = "ibstat && ibswitches && command -v ibstat && ibaddr --no-such-option; echo $?"
    done = ibbond("lab", "exec", "--name", running, "h2", "--", "sh", "-c", script)
    assert "Node GUID: 0x0002c90300100010" in done.stdout
    assert done.stdout.count('"s') == 2
    assert done.stdout.splitlines()[-2:] == [f"{runtime_directory()}/{running}.tools/stand-ins/ibstat", "2"]
    inner = ("ibbond", "lab", "exec", "--name", running, "h1", "--", "sh", "-c", "ibstat; echo $PATH")
    other = ibbond("lab", "exec", "--name", running, "h2", "--", *inner)
    assert "Node GUID: 0x0002c90300100000" in other.stdout
    assert other.stdout.splitlines()[-1].count("stand-ins") == 1
