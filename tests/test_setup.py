"""What scripts/setup says where something is missing and it may not, or cannot, install it."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SETUP = Path(__file__).parents[1] / "scripts" / "setup"
TOOLS = ("sh", "env", "dirname", "cat", "tr", "cksum", "rm", "id")
LINES = {
    "apt-get": "apt-get install -y python3",
    "dnf": "dnf install -y python3.11",
    "zypper": "zypper install -y python311",
    "": "your package manager: python3",
}


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A directory for PATH with the shell's own tools, a Python that is too old, and nothing else."""
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found
        (tmp_path / tool).symlink_to(found)
    program(tmp_path / "python3", "exit 1")
    program(tmp_path / "id", "echo 1000")  # no one who may install
    return tmp_path


def program(path: Path, line: str) -> None:
    path.unlink(missing_ok=True)
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)


@pytest.mark.parametrize("manager", LINES)
def test_a_missing_python_is_named_with_the_line_that_installs_it(bare: Path, manager: str) -> None:
    if manager:
        program(bare / manager, "exit 99")
    done = subprocess.run([SETUP], env={"PATH": os.fspath(bare)}, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"Install it: {LINES[manager]}," in done.stderr


def test_an_unknown_word_is_refused() -> None:
    done = subprocess.run([SETUP, "nonsense"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "nonsense" in done.stderr
