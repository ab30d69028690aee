"""Temporary directories: removed at the end, and after a kill by the next command, but never another's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ibbond.host.scratch import SETTLED_S, scratch

HOLD = """
import sys, time
from ibbond.host.scratch import scratch
with scratch("test") as place:
    (place / "file").write_text("x")
    print(place, flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)


def old(place: Path) -> None:
    at = time.time() - 2 * SETTLED_S
    os.utime(place, (at, at))


def test_what_a_killed_process_left_is_removed_and_what_a_running_one_uses_is_not() -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        place = Path(holder.stdout.readline().strip())
        assert (place / "file").exists()
        old(place)
        with scratch("test") as mine:
            assert place.is_dir(), "its process runs"
            assert mine.is_dir()
        assert not mine.exists()
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        assert place.is_dir()
        with scratch("other"):
            assert place.is_dir(), "of another purpose"
        with scratch("test"):
            assert not place.exists()


def test_a_young_directory_and_a_link_stay(tmp_path: Path) -> None:
    young = tmp_path / "ibbond-test-young"
    young.mkdir()
    target = tmp_path / "precious"
    target.mkdir()
    old(target)
    (tmp_path / "ibbond-test-link").symlink_to(target)
    with scratch("test"):
        pass
    assert young.is_dir()
    assert target.is_dir()
