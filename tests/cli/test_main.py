"""The command line without any lab: fast to start, clear refusals, the same exit codes everywhere."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import pytest

from ibbond.cli.bond import pairs
from ibbond.cli.main import COMMANDS, ibbond, run
from ibbond.errors import Refused
from ibbond.topology.default import TWO_HOSTS

HEAVY = ("rich", "pyroute2", "msgspec", "asyncio", "mfusepy", "ibbond.stack", "ibbond.fabric")


def test_importing_the_command_imports_nothing_heavy() -> None:
    code = "import sys, ibbond.cli.main; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert [name for name in HEAVY if name in loaded] == []


@pytest.mark.parametrize("command", ["status", "neighbors"])
def test_an_empty_name_is_not_the_default_lab(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["lab", command, "--name", ""]) == 2
    assert "--name is empty" in capsys.readouterr().err


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
    "a lab needs at least one": ["lab", "exec", "h1", "--"],
    "a program without a name": ["lab", "exec", "h1", "--", ""],
    "seconds that never come": ["lab", "capture", "h1/ib0", "/tmp/x.pcap", "--seconds", "nan"],
    "endless seconds": ["lab", "capture", "h1/ib0", "/tmp/x.pcap", "--seconds", "inf"],
    "too many seconds": ["lab", "capture", "h1/ib0", "/tmp/x.pcap", "--seconds", "1e12"],
    "a share that is not a number": ["lab", "lose", "h1/ib0", "--percent", "nan"],
    "an invalid P_Key": ["lab", "set-pkeys", "h1/ib0", "0xffff", "0x8000"],
    "an option without a value": ["bond", "set", "h1/bond0", "miimon"],
}


@pytest.mark.parametrize("words", BAD.values(), ids=BAD)
def test_bad_input_is_exit_2_with_a_message(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(words) == 2
    reported = capsys.readouterr()
    assert reported.out == ""
    assert reported.err
    assert "Traceback" not in reported.err


@pytest.mark.parametrize("words", [words for words in BAD.values() if words[0] != "lob"], ids=str)
def test_with_json_a_refusal_is_an_object(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    words = [*words[:2], "--json", *words[2:]] if "--" in words else [*words, "--json"]
    assert run(words) == 2
    assert set(json.loads(capsys.readouterr().out)["error"]) == {"what", "why", "fix"}


def test_a_refusal_says_what_why_and_how_to_fix(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["lab", "status", "--name", "nosuchlab"]) == 2
    assert capsys.readouterr().err == (
        "ibbond: no lab nosuchlab is running: no process answers at /run/ibbond/nosuchlab.sock. "
        "Start one with: ibbond lab up --name nosuchlab.\n"
    ).replace("/run/ibbond", str(runtime()))


def runtime() -> Path:
    from ibbond.backend.control_socket import runtime_directory

    return runtime_directory()


def test_options_and_their_values() -> None:
    assert pairs("bond0", ["miimon", "50"]) == pairs("bond0", ["miimon=50"]) == {"miimon": "50"}
    assert pairs("bond0", ["primary="]) == pairs("bond0", ["primary", ""]) == {"primary": ""}
    assert pairs("bond0", ["arp_ip_target", "-10.0.0.1", "miimon=0"]) == {"arp_ip_target": "-10.0.0.1", "miimon": "0"}
    with pytest.raises(Refused, match="no value for updelay"):
        pairs("bond0", ["miimon", "50", "updelay"])


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
def test_words_that_are_not_utf_8_are_refused_before_any_request(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*words, "\udcff.toml"]) == 2
    assert capsys.readouterr().err == "ibbond: cannot read \\udcff.toml: it is not valid UTF-8. Use another name.\n"


@pytest.mark.parametrize("words", [["lab", "topology"], ["sim", "run"]])
def test_a_file_may_have_any_name(words: list[str], tmp_path: Path) -> None:
    file = os.fsencode(tmp_path) + b"/\xff.toml"
    Path(os.fsdecode(file)).write_text(TWO_HOSTS)
    command = [os.fsencode(word) for word in (sys.executable, "-c", "from ibbond.cli.main import main; main()", *words)]
    inherited = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}  # as in most languages' locales
    done = subprocess.run([*command, file], capture_output=True, env=inherited)
    assert done.returncode == 0, done.stderr
    if words[0] == "lab":
        assert done.stdout.startswith(file)


@pytest.mark.parametrize("value", ["nan", "inf", "1e12"])
def test_a_capture_takes_seconds_that_can_be_waited(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["lab", "capture", "--name", "nosuchlab", "h1/ib0", "x.pcap", "--seconds", value]) == 2
    assert "invalid value for --seconds" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["lose", "h1/ib0", "--percent", "nan"], ["set-pkeys", "h1/ib0", "0"]])
def test_what_has_no_meaning_is_refused_before_a_lab_is_asked(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["lab", *words]) == 2
    assert "runs" not in capsys.readouterr().err


def test_a_story_that_is_no_text_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bad.toml"
    file.write_bytes(b"\xff\xfe")
    for command in ("run", "explore"):
        assert run(["sim", command, str(file)]) == 2
        assert capsys.readouterr().err.startswith(f"ibbond: cannot read {file}: it is not a text file. ")


def test_the_place_of_a_picture_is_tried_before_the_sweep(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ibbond.sim.sweep.sweep", lambda *_, **__: pytest.fail("swept"))
    story = tmp_path / "story.toml"
    story.write_text(TWO_HOSTS)
    picture = tmp_path / "nowhere" / "x.svg"
    assert run(["sim", "sweep", str(story), "--over", "miimon=100", "--picture", str(picture)]) == 2
    assert capsys.readouterr().err.startswith(f"ibbond: cannot write {picture}: No such file or directory. ")


def command_line(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    code = "from ibbond.cli.entry import main; main()"
    return subprocess.run([sys.executable, "-c", code, *words], text=True, stderr=subprocess.PIPE, **options)


@pytest.mark.parametrize("words", [["lab", "topology"], ["lab", "topology", "--json"], ["options"]])
def test_output_that_cannot_be_written_is_one_clear_line(words: list[str]) -> None:
    fix = "Free some space, or write to another place.\n"
    with open("/dev/full", "w") as full:
        lost = command_line(*words, stdout=full)
    closed = command_line(*words, preexec_fn=lambda: os.close(1))
    assert [lost.returncode, closed.returncode] == [2, 2]
    assert lost.stderr == f"ibbond: cannot write the output: No space left on device. {fix}"
    assert closed.stderr == f"ibbond: cannot write the output: standard output is closed. {fix}"


def test_a_capture_from_a_directory_that_is_gone(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    done = command_line("lab", "capture", "h1/ib0", "x.pcap", cwd=gone, preexec_fn=gone.rmdir)
    assert done.returncode == 2
    assert (
        done.stderr
        == "ibbond: cannot find x.pcap: the working directory no longer exists. Change to another directory.\n"
    )


def test_no_one_goes_into_a_host_from_a_directory_that_is_gone() -> None:
    ask = "from ibbond.lab.exec import host_handle; host_handle(None, 'h1')"
    with tempfile.TemporaryDirectory() as gone:
        rmdir = Path(gone).rmdir
        done = subprocess.run([sys.executable, "-c", ask], cwd=gone, preexec_fn=rmdir, stderr=subprocess.PIPE)
        Path(gone).mkdir()
    assert done.stderr.endswith(
        b"cannot enter h1: the working directory no longer exists. Change to another directory.\n"
    )


def test_what_the_system_refuses_is_a_refusal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ibbond.cli.files.read_input_text", lambda *_: os.stat("/nowhere"))
    assert run(["lab", "topology", "x", "--json"]) == 2
    reported = capsys.readouterr()
    assert reported.err == "ibbond: cannot use /nowhere: No such file or directory. Check its path and permissions.\n"
    assert json.loads(reported.out)["error"]["why"] == "No such file or directory"


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_story_with_a_bad_bond_option_is_refused_before_workers_start(
    workers: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    story = tmp_path / "story.toml"
    option = 'arp_ip_target = "10.0.0.1,10.0.0.2"'
    story.write_text(
        TWO_HOSTS.replace("miimon = 100,", f"miimon = 100, {option},", 1) + "\n[story]\nlength_ms = 9000\n"
    )
    assert run(["sim", "explore", str(story), "--seeds", "0..64", "--workers", workers]) == 2
    assert "10.0.0.1,10.0.0.2" in capsys.readouterr().err
