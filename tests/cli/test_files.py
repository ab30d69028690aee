"""Scenarios by name: those that come with ibbond."""

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from ibbond.cli.files import ScenarioFile, shipped_scenarios
from ibbond.cli.sim import progress_bar


def test_a_scenario_is_found_by_name_and_a_file_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = shipped_scenarios()["two_hosts"]
    assert ScenarioFile().convert("two_hosts", None, None) == shipped
    assert ScenarioFile().convert("two_hosts.toml", None, None) == shipped
    Path("two_hosts.toml").write_text("")
    assert ScenarioFile().convert("two_hosts.toml", None, None) == Path("two_hosts.toml")


def test_an_unknown_scenario_is_refused_with_the_names_that_exist() -> None:
    with pytest.raises(click.BadParameter, match="two_hosts"):
        ScenarioFile().convert("three_hundred_hosts", None, None)


def test_away_from_a_terminal_progress_is_a_line_for_each_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("story", 25) as step:
        for number in range(25):
            step(f"{number + 1} of 25")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert lines[-1] == "25 of 25"


@pytest.mark.parametrize(
    "command",
    [
        "lab topology FILE",
        "lab up --name no-such-lab FILE",
        "lab up --name no-such-lab --from FILE",
        "sim run FILE",
        "sim explore FILE",
        "sim run two_hosts --from FILE",
        "fabric whatif FILE",
        "check --root FILE",
        "conform FILE",
        "config lint FILE",
        "apply --dry-run FILE",
    ],
)
def test_a_pipe_without_a_writer_is_refused_at_once(command: str, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    words = [str(pipe) if word == "FILE" else word for word in command.split()]
    done = subprocess.run(
        [sys.executable, "-m", "ibbond", *words], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "regular file" in done.stderr
