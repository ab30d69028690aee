"""Scenarios by name: those that come with ibbond."""

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
