"""A lab opens many files, whatever soft limit its starter has; where the hard one does not suffice it says so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from ibbond.host.descriptors import OF_HOST, OF_LAB, RESERVE

IBBOND = Path(sys.executable).with_name("ibbond")
NEEDED = OF_LAB + 2 * OF_HOST + RESERVE


def limited(limit: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = f'ulimit {limit}; exec "$@"'
    return subprocess.run(
        ["bash", "-c", command, "bash", str(IBBOND), *words], text=True, capture_output=True, timeout=120
    )


def test_a_soft_limit_keeps_no_lab_from_starting(lab: str) -> None:
    up = limited("-S -n 60", "lab", "up", "--name", lab)
    try:
        assert up.returncode == 0, up.stderr
        hard = limited("-S -n 2000", "lab", "exec", "--name", lab, "h1", "--", "bash", "-c", "ulimit -S -n")
        assert hard.stdout == "2000\n", "programs have the limit of who starts them"
    finally:
        limited("-S -n 60", "lab", "down", "--name", lab)


def test_a_hard_limit_that_is_too_low_is_refused(lab: str) -> None:
    up = limited(f"-n {NEEDED - 1}", "lab", "up", "--name", lab)
    assert (up.returncode, "open files" in up.stderr, "Traceback" in up.stderr) == (2, True, False)
    down = limited("-S -n 60", "lab", "down", "--name", lab)
    assert "no lab" in down.stderr
