"""One ibbond at a time changes a host's bonds."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ibbond.backend import lock
from ibbond.backend.lock import alone
from ibbond.errors import Refused

HOLD = """
import sys
from ibbond.backend.lock import alone
with alone(sys.argv[1], "them"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_writer_waits_and_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "WAIT_SECONDS", 0.2)
    place = os.fspath(tmp_path)
    other = subprocess.Popen([sys.executable, "-c", HOLD, place], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout is not None
    assert other.stdout.readline() == b"held\n"
    with pytest.raises(Refused, match="another ibbond"), alone(place, "them"):
        pass
    other.kill()  # however it ends, the lock ends with it
    other.communicate()
    with alone(place, "them"):
        pass
