"""The promises page is made from its table, quotes the whole seed, and names only what exists."""

import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest

from ibbond.cli.main import ibbond

ROOT = Path(__file__).resolve().parents[2]
ROWS = tomllib.loads((ROOT / "docs" / "promises.toml").read_text())
EVERY_ROW = [*ROWS["seed"], *ROWS["history"]]


def words(text: str) -> str:
    return " ".join(text.split())


def test_the_page_is_made_from_the_table() -> None:
    check = subprocess.run([sys.executable, ROOT / "scripts" / "promises", "--check"], capture_output=True, text=True)
    assert check.returncode == 0, check.stderr


def test_the_quotes_are_the_whole_seed() -> None:
    assert words(" ".join(row["quote"] for row in ROWS["seed"])) == words((ROOT / "docs" / "seed.txt").read_text())


def test_states_are_known() -> None:
    assert {row["state"] for row in EVERY_ROW} <= {"works", "not yet"}


@pytest.mark.parametrize("row", EVERY_ROW, ids=lambda row: words(row.get("quote") or row["promise"])[:40])
def test_what_works_names_what_exists(row: dict[str, str]) -> None:
    if row["state"] == "works":
        missing = [row[key] for key in ("test", "file") if not (ROOT / row[key]).is_file()]
        assert not missing, f"{missing} not in the project"


@pytest.mark.parametrize("line", sorted({row["command"] for row in EVERY_ROW if "command" in row}))
def test_commands_exist(line: str) -> None:
    for words in (shlex.split(part) for part in line.split(" && ")):
        if words[0] != "ibbond":
            assert shutil.which(words[0]) or (ROOT / words[0]).is_file()
            continue
        command: click.Command | None = ibbond
        rest = words[1:]
        while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
            command = command.get_command(click.Context(command), rest.pop(0))
        assert command is not None, f"no such command: {line}"
        options = {name for parameter in command.params for name in (*parameter.opts, "--help", "--")}
        assert {word for word in rest[: rest.index("--") if "--" in rest else None] if word[:2] == "--"} <= options
        assert all((ROOT / word).exists() for word in rest if word.startswith(("examples/", "scenarios/")))


def test_readme_says_where_it_comes_from() -> None:
    """The first row: README names the seed, Linux 2.6.24 and what ibbond is beside that."""
    text = (ROOT / "README.md").read_text()
    paragraph = next(part for part in text.split("\n\n") if part.startswith("**Where it comes from.**"))
    assert "2007" in paragraph
    assert "2.6.24" in paragraph
