"""The programs of examples/: -h explains, wrong words are exit 2, and neither makes anything."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
BOND_SCRIPTS = ("bond-members-first.sh", "bond-up-first.sh")
SHELL = (*BOND_SCRIPTS, "bond-teardown.sh", "ifenslave")
PYTHON = tuple(sorted(path.name for path in EXAMPLES.glob("*.py")))


def run(tmp_path: Path, script: str, *words: str) -> subprocess.CompletedProcess[str]:
    """In a /sys that has no bond, in which everything that is written stays to be seen."""
    net = tmp_path / "class/net"
    (net / "ib0").mkdir(parents=True)
    (net / "ib1").mkdir()
    (net / "bonding_masters").write_text("")
    command = [sys.executable] if script.endswith(".py") else []
    done = subprocess.run(
        [*command, str(EXAMPLES / script), *words],
        env={**os.environ, "SYSFS": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=30,
        stdin=subprocess.DEVNULL,
    )
    assert (net / "bonding_masters").read_text() == ""
    return done


@pytest.mark.parametrize("word", ["-h", "--help"])
@pytest.mark.parametrize("script", [*SHELL, *PYTHON])
def test_help(tmp_path: Path, script: str, word: str) -> None:
    done = run(tmp_path, script, word)
    assert (done.returncode, done.stderr) == (0, "")
    assert script in done.stdout


@pytest.mark.parametrize("script", [*SHELL, *PYTHON])
def test_an_unknown_option(tmp_path: Path, script: str) -> None:
    done = run(tmp_path, script, "-x")
    assert (done.returncode, done.stdout) == (2, "")
    assert script in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("script", BOND_SCRIPTS)
@pytest.mark.parametrize("words", [("-a",), ("-a", "bond1"), ("-a", "-h")], ids=" ".join)
def test_an_address_that_is_none(tmp_path: Path, script: str, words: tuple[str, ...]) -> None:
    done = run(tmp_path, script, *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"usage: {script} [-a ADDRESS/BITS]" in done.stderr
