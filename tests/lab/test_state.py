"""The lock of a lab: who holds it holds the file that everyone else finds."""

import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ibbond.backend import control_socket
from ibbond.backend.control_socket import no_lab
from ibbond.errors import Refused
from ibbond.lab import state
from ibbond.lab.launch import take_down
from ibbond.lab.state import Files, LabConfig, Note, is_dying


@pytest.fixture
def files(tmp_path: Path) -> Files:
    (tmp_path / "another_lab.lock").touch()  # so that the directory stays
    return Files("rl1", tmp_path)


def holds(files: Files, lock: int) -> bool:
    return files.lock.exists() and os.path.samestat(os.fstat(lock), files.lock.stat())


def test_a_lock_that_was_removed_after_it_was_opened_is_not_held(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = os.open
    ends: list[Callable[[], object]] = [
        lambda: files.lock.unlink(),
        lambda: files.lock.rename(files.lock.with_suffix(".old")),
    ]

    def open_late(path: Path, flags: int, mode: int = 0o777) -> int:
        descriptor = opened(path, flags, mode)
        if ends:
            ends.pop()()
        return descriptor

    monkeypatch.setattr(os, "open", open_late)
    lock = files.hold()
    assert not ends
    assert holds(files, lock)
    os.close(lock)


def test_an_end_leaves_the_files_of_the_next_lab_alone(files: Files) -> None:
    old = files.hold()
    files.lock.unlink()
    new = files.hold()
    files.note.touch()
    files.remove(old)
    assert files.note.exists()
    assert holds(files, new)
    files.remove(new)
    assert not files.note.exists()
    assert not files.lock.exists()
    os.close(old)
    os.close(new)


def test_a_second_holder_is_refused(files: Files) -> None:
    lock = files.hold()
    assert files.held
    with pytest.raises(Refused, match="is already running"):
        files.hold()
    os.close(lock)
    assert not files.held


def test_who_asks_whether_it_runs_is_in_no_ones_way(files: Files) -> None:
    enough = threading.Event()
    found: set[bool] = set()
    os.close(files.hold())

    def ask() -> None:
        while not enough.is_set():
            found.add(files.held)

    observers = [threading.Thread(target=ask) for _ in range(2)]
    for observer in observers:
        observer.start()
    try:
        for _ in range(2000):
            assert not files.held
            os.close(files.hold())
    finally:
        enough.set()
        for observer in observers:
            observer.join()
    assert False in found


def test_a_lab_whose_lock_is_held_was_not_killed(files: Files) -> None:
    lock = files.hold()
    files.note.write_text("{}")
    error = OSError(errno.ECONNREFUSED, "no one listens")
    assert "starting or shutting down" in no_lab(files.socket, error).why
    os.close(lock)
    assert "was killed" in no_lab(files.socket, error).why


def test_a_process_that_was_killed_and_is_not_collected_is_dying() -> None:
    child = subprocess.Popen(["sleep", "60"])
    assert not is_dying(child.pid)
    child.kill()
    deadline = time.monotonic() + 10
    while not is_dying(child.pid):
        assert time.monotonic() < deadline
    child.wait()
    assert not is_dying(child.pid)


def test_a_start_waits_for_a_process_that_is_dying(tmp_path: Path) -> None:
    files = Files("dying", tmp_path)
    stopped = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "ibbond.lab.daemon", "dying"])
    files.write_note(Note(stopped.pid, LabConfig("dying", "", "")))
    deadline = time.monotonic() + 10
    while not files.held:
        assert time.monotonic() < deadline
    begin = time.monotonic()
    files.wait_for_dying_process(5.0)
    assert time.monotonic() - begin < 1, "a lab that lives is not waited for"
    stopped.kill()
    files.wait_for_dying_process(5.0)
    assert not files.held
    stopped.wait()


def test_down_removes_the_log_of_a_lab_that_was_killed_before_it_had_a_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (state, control_socket):
        monkeypatch.setattr(module, "runtime_directory", lambda: tmp_path / "labs")
    left = Files("rl1")
    left.directory.mkdir()
    left.log.touch()
    assert "removed what it left" in take_down("rl1")
    assert not left.directory.exists()
    with pytest.raises(Refused, match="no lab rl1 is running"):
        take_down("rl1")
