"""The command line without any lab: fast to start, clear refusals, the same exit codes everywhere."""

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from ibbond.cli.bond import option_and_value
from ibbond.cli.main import COMMANDS, ibbond, run
from ibbond.topology.default import TWO_HOSTS

HEAVY = ("rich", "pyroute2", "msgspec", "asyncio", "mfusepy", "ibbond.stack", "ibbond.fabric")


def test_importing_the_command_imports_nothing_heavy() -> None:
    code = "import sys, ibbond.cli.main; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert [name for name in HEAVY if name in loaded] == []


def test_every_row_of_the_table_is_a_command_with_help(capsys: pytest.CaptureFixture[str]) -> None:
    for name in COMMANDS:
        command = ibbond.get_command(click.Context(ibbond), name)
        assert isinstance(command, click.Command), name
        assert run([name, "--help"]) == 0
        assert "Usage: ibbond" in capsys.readouterr().out


def leaves(command: click.Command, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], click.Command]]:
    if isinstance(command, click.Group):
        context = click.Context(command)
        names = command.list_commands(context)
        found = [(name, command.get_command(context, name)) for name in names]
        return [leaf for name, inner in found if inner is not None for leaf in leaves(inner, (*path, name))]
    return [(path, command)]


@pytest.mark.parametrize(
    ("path", "command"), leaves(ibbond), ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_every_command_has_json_and_help(path: tuple[str, ...], command: click.Command) -> None:
    options = {option for parameter in command.params for option in parameter.opts}
    assert "--json" in options or path == ("lab", "shell")
    assert command.help


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("ibbond, version ")


BAD = {
    "unknown command": ["lob", "up"],
    "unknown option": ["lab", "up", "--nam", "x"],
    "no such file": ["lab", "up", "/nowhere/at.toml"],
    "bad lab name": ["lab", "up", "--name", "two words"],
    "no lab": ["lab", "status", "--name", "nosuchlab"],
    "no lab to end": ["lab", "down", "--name", "nosuchlab"],
    "no lab to enter": ["lab", "exec", "--name", "nosuchlab", "h1", "--", "true"],
    "no lab for a cut": ["lab", "cut", "--name", "nosuchlab", "h1/ib0"],
    "no lab for a bond": ["bond", "show", "--name", "nosuchlab", "h1/bond0"],
    "no device name": ["bond", "show", "h1/"],
    "too many slashes": ["bond", "show", "a/b/c"],
    "rounds of nothing": ["demo", "--rounds", "0"],
    "unknown patch": ["demo", "--without", "everything"],
    "missing argument": ["lab", "cut"],
    "an option without a value": ["bond", "set", "h1/bond0", "miimon"],
}


@pytest.mark.parametrize("words", BAD.values(), ids=BAD)
def test_bad_input_is_exit_2_with_a_message(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(words) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err
    assert "Traceback" not in told.err


@pytest.mark.parametrize("words", [words for words in BAD.values() if words[0] != "lob"], ids=str)
def test_with_json_a_refusal_is_an_object(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    words = [*words[:2], "--json", *words[2:]] if "--" in words else [*words, "--json"]
    assert run(words) == 2
    assert set(json.loads(capsys.readouterr().out)["error"]) == {"what", "why", "fix"}


def test_a_refusal_says_what_why_and_how_to_fix(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["lab", "status", "--name", "nosuchlab"]) == 2
    assert capsys.readouterr().err == (
        "ibbond: no lab nosuchlab runs: nobody answers at /run/ibbond/nosuchlab.sock. "
        "Start one with: ibbond lab up --name nosuchlab.\n"
    ).replace("/run/ibbond", str(runtime()))


def runtime() -> Path:
    from ibbond.backend.control_socket import runtime_directory

    return runtime_directory()


def test_an_option_and_its_value() -> None:
    assert option_and_value("bond0", "miimon", "50") == option_and_value("bond0", "miimon=50", None) == ("miimon", "50")
    assert option_and_value("bond0", "primary=", None) == option_and_value("bond0", "primary", "") == ("primary", "")
    assert option_and_value("bond0", "arp_ip_target", "-10.0.0.1") == ("arp_ip_target", "-10.0.0.1")


def test_topology_prints_the_default_and_checks_files(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from ibbond.topology.load import parse

    assert run(["lab", "topology"]) == 0
    text = capsys.readouterr().out
    assert len(parse(text).hosts) == 2
    file = tmp_path / "mine.toml"
    file.write_text(text)
    assert run(["lab", "topology", str(file)]) == 0
    assert "2 hosts, 2 switches, 6 cables" in capsys.readouterr().out
    file.write_text(text.replace("members", "membres"))
    assert run(["lab", "topology", str(file)]) == 2
    assert "Did you mean members" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["lab", "up"], ["lab", "cut"], ["lab", "capture", "h1/ib0"], ["bond", "show"]])
def test_words_that_are_no_utf_8_are_refused_before_anybody_is_asked(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*words, "\udcff.toml"]) == 2
    assert capsys.readouterr().err == "ibbond: cannot read \\udcff.toml: it is not UTF-8. Use another name.\n"


@pytest.mark.parametrize("words", [["lab", "topology"], ["sim", "run"]])
def test_a_file_may_have_any_name(words: list[str], tmp_path: Path) -> None:
    file = os.fsencode(tmp_path) + b"/\xff.toml"
    Path(os.fsdecode(file)).write_text(TWO_HOSTS)
    command = [os.fsencode(word) for word in (sys.executable, "-c", "from ibbond.cli.main import main; main()", *words)]
    surroundings = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}  # as in most languages' locales
    done = subprocess.run([*command, file], capture_output=True, env=surroundings)
    assert done.returncode == 0, done.stderr
    if words[0] == "lab":
        assert done.stdout.startswith(file)
