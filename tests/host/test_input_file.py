"""Whatever a person names as a file to read, the command answers at once and within bounds."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

from ibbond.errors import Refused
from ibbond.host.input_file import read_input, read_input_text

FIX = "Give another file"


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, make_socket])
def test_only_regular_files_are_read(make: object, tmp_path: Path) -> None:
    make(tmp_path / "x")  # type: ignore[operator]
    with pytest.raises(Refused, match=r"cannot read .*/x: ") as refused:
        read_input(tmp_path / "x", FIX)
    assert refused.value.code == 2


def test_a_pipe_with_a_writer_is_refused_too(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x")
    held = os.open(tmp_path / "x", os.O_RDWR | os.O_NONBLOCK)
    try:
        with pytest.raises(Refused, match="not a regular file"):
            read_input(tmp_path / "x", FIX)
    finally:
        os.close(held)


@pytest.mark.parametrize("name", ["/dev/zero", "/dev/null", "/proc/self/mem", "/proc/self/fd"])
def test_devices_and_files_of_proc_are_refused(name: str) -> None:
    refused: list[Refused] = []

    def read() -> None:
        try:
            read_input(Path(name), FIX)
        except Refused as error:
            refused.append(error)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(5)
    assert refused, name


def test_a_file_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "x").open("wb") as file:
        file.truncate(3 << 20)
    with pytest.raises(Refused, match="larger than 2 MiB"):
        read_input(tmp_path / "x", FIX, max_bytes=2 << 20)
    assert len(read_input(tmp_path / "x", FIX)) == 3 << 20


def test_text_is_utf_8(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes("Käfig".encode())
    assert read_input_text(tmp_path / "x", FIX) == "Käfig"
    (tmp_path / "x").write_bytes(b"\xff\xfe")
    with pytest.raises(Refused, match="not a text file"):
        read_input_text(tmp_path / "x", FIX)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"No such file or directory\. Give another file"):
        read_input(tmp_path / "x", FIX)
