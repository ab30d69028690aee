"""A capture goes to a regular file or a pipe: the lab writes it on the thread that carries all traffic."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ibbond import Lab
from ibbond.errors import Refused
from ibbond.lab.capturing import RunningCapture, file_system
from tests.live.commands import IBBOND, sound_lab
from tests.live.test_soak import TWO_HOSTS


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with sound_lab(TWO_HOSTS) as lab:
        yield lab


def test_a_file_that_a_program_serves_is_refused(lab: Lab) -> None:
    """The sysfs view of a lab host is such a file system."""
    served = "/sys/class/net/bond0/bonding/primary"
    done = lab["h1"].run([IBBOND, "lab", "capture", "--name", lab.name, "h1/bond0", served], check=False, timeout=30)
    assert done.returncode == 2, done.stderr
    assert "a program serves its file system (fuse" in done.stderr


def test_a_device_is_refused(lab: Lab) -> None:
    with pytest.raises(Refused, match="neither a regular file nor a pipe") as refused:
        RunningCapture(lab.name, "h1/bond0", "/dev/null")
    assert refused.value.code == 2


def test_a_pipe_with_a_reader_is_written(lab: Lab, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        capture = RunningCapture(lab.name, "h1/bond0", tmp_path / "pipe")
        lab["h1"].run(["ping", "-c1", "10.0.0.2"])
        assert capture.end().packets > 0
    finally:
        os.close(reader)


def test_the_file_system_of_an_open_file() -> None:
    with open("/proc/self/stat") as file:
        assert file_system(file.fileno()) == "proc"
