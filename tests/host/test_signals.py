"""Signals that come while a process forks: they are for the parent, and no child prints a traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

FORKS = """
import os, signal, sys, time
from ibbond.host.signals import fork

signal.signal(signal.SIGINT, lambda *_: None)
print("ready", flush=True)
end = time.monotonic() + 1.5
ways = []
while time.monotonic() < end:
    child = fork(signal.{disposition})
    if child == 0:
        sum(range(3000))
        os._exit(0)
    ways.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(sorted(set(ways)), len(ways))
"""


@pytest.mark.parametrize(("disposition", "allowed"), [("SIG_DFL", {0, -signal.SIGINT}), ("SIG_IGN", {0})])
def test_a_child_is_ended_or_spared_and_never_interrupted_in_python(disposition: str, allowed: set[int]) -> None:
    words = [sys.executable, "-c", FORKS.format(disposition=disposition)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        until = time.monotonic() + 1.3
        while time.monotonic() < until:
            os.killpg(process.pid, signal.SIGINT)
            time.sleep(0.0003)
        out, err = process.communicate(timeout=60)
    assert err == ""
    ways, _, count = out.rpartition(" ")
    assert int(count) > 20
    assert set(eval(ways)) <= allowed
