"""One ibbond at a time changes this host's bonds."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ibbond.backend.kernel import files
from ibbond.backend.kernel.files import CLASS_NET, HostFiles
from ibbond.errors import Refused

HOLD = """
import sys
from ibbond.backend.kernel.files import HostFiles
with HostFiles(sys.argv[1]).alone():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_writer_waits_and_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / CLASS_NET).mkdir(parents=True)
    monkeypatch.setattr(files, "OTHER_WRITER_SECONDS", 0.2)
    host = HostFiles(tmp_path)
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, os.fspath(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout is not None
    assert other.stdout.readline() == b"held\n"
    with pytest.raises(Refused, match="another ibbond"), host.alone():
        pass
    other.kill()  # whatever ends it, the lock ends with it
    other.communicate()
    with host.alone():
        pass
