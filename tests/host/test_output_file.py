"""Output goes to no file that another user has laid out in a world-writable directory (run as root)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ibbond.errors import Refused
from ibbond.host.output_file import open_output, write_output

NOBODY = 65534


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    directory = tmp_path / "shared"
    directory.mkdir()
    directory.chmod(0o1777)
    return directory


def of_another_user(path: Path) -> None:
    if os.geteuid():
        pytest.skip("giving files away needs root")
    os.chown(path, NOBODY, NOBODY, follow_symlinks=False)


def test_a_link_of_another_user_is_not_followed(shared: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    trap = shared / "x.pcap"
    trap.symlink_to(victim)
    of_another_user(trap)
    with pytest.raises(Refused, match="link of another user"):
        open_output(trap)
    with pytest.raises(Refused, match="link of another user"):
        write_output(trap, b"more")
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("make", [Path.touch, os.mkfifo])
def test_a_file_or_pipe_of_another_user_is_not_written(shared: Path, make: object) -> None:
    trap = shared / "x.pcap"
    make(trap)  # type: ignore[operator]
    of_another_user(trap)
    with pytest.raises(Refused, match="file of another user"):
        open_output(trap)


def test_our_own_links_and_files_are_written(shared: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    link = shared / "link"
    link.symlink_to(target)
    write_output(link, b"one")
    write_output(shared / "file", b"longer than two")
    write_output(shared / "file", b"two")
    assert (target.read_bytes(), (shared / "file").read_bytes()) == (b"one", b"two")


def test_elsewhere_links_of_others_are_followed(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "target")
    of_another_user(link)
    write_output(link, b"one")
    assert (tmp_path / "target").read_bytes() == b"one"


def test_what_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(Refused, match="a pipe without a reader"):
        open_output(tmp_path / "pipe", flags=os.O_NONBLOCK)
    with pytest.raises(Refused, match="cannot write"):
        open_output(tmp_path / "no" / "such")
    with pytest.raises(Refused, match="directory"):
        open_output(tmp_path)
