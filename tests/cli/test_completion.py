"""What a shell offers: names of a lab's things, which a status answers; nothing where no lab runs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.shell_completion import ShellComplete

from ibbond.cli import completers
from ibbond.cli.completion import COMPLETE
from ibbond.cli.main import ibbond

IBBOND = str(Path(sys.executable).with_name("ibbond"))
DEVICES = {"ib0": {"port": "h1/1"}, "ib1": {"port": "h1/2"}}
STATUS: dict[str, Any] = {
    "hosts": {
        "h1": {"bonds": {"bond0": {}}, "devices": DEVICES},
        "h2": {"bonds": {}, "devices": {}},
    },
    "cables": [
        {"name": "h1/ib0", "ends": ["h1/ib0", "s1/1"], "state": "cut"},
        {"name": "h1/ib1", "ends": ["h1/ib1", "s2/1"], "state": "up"},
    ],
}


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completers, "_status", lambda ctx: STATUS)


def offered(line: str) -> list[str]:
    *words, incomplete = line.split(" ")
    found = ShellComplete(ibbond, {}, "ibbond", COMPLETE).get_completions(words, incomplete)
    return [item.value for item in found]


@pytest.mark.usefixtures("lab")
@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("lab exec ", ["h1", "h2"]),
        ("lab exec h2", ["h2"]),
        ("lab cut h1/", ["h1/ib1"]),
        ("lab mend h", ["h1/ib0"]),
        ("lab lose h1/ib0 h1/", ["h1/ib1"]),
        ("lab kill ", ["h1", "s1", "s2", "sm"]),
        ("lab capture h1/", ["h1/bond0", "h1/ib0", "h1/ib1"]),
        ("lab set-pkeys h1/", ["h1/ib0", "h1/ib1"]),
        ("bond show h1/", ["h1/bond0"]),
        ("bond remove h1/bond0 i", ["ib0", "ib1"]),
        ("bond set h1/bond0 miim", ["miimon"]),
        ("bond set h1/bond0 fail_over_mac a", ["active"]),
        ("bond set h1/bond0 primary ib", ["ib0", "ib1"]),
        ("options fail_over", ["fail_over_mac"]),
    ],
)
def test_names_are_offered(line: str, wanted: list[str]) -> None:
    assert sorted(offered(line)) == wanted


def test_labs_are_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ibbond.lab.state.names", lambda: ["lab", "left"])
    monkeypatch.setenv("IBBOND_LAB", "lab")
    assert offered("lab exec --name l") == ["lab", "left"]


def test_without_a_lab_nothing_is_offered_and_nothing_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("ibbond.backend.control_socket.runtime_directory", lambda: tmp_path)
    assert offered("lab exec ") == []


def test_bash_completes(tmp_path: Path) -> None:
    if shutil.which("bash") is None:
        pytest.skip("bash is not installed")
    script = tmp_path / "script"
    made = subprocess.run([IBBOND, "completion", "bash"], capture_output=True, text=True, check=True)
    script.write_text(made.stdout)
    asked = f". {script}; COMP_WORDS=(ibbond lab fla); COMP_CWORD=2; _ibbond_completion ibbond; echo ${{COMPREPLY[@]}}"
    path = {**os.environ, "PATH": f"{Path(IBBOND).parent}:{os.environ['PATH']}"}
    assert subprocess.run(["bash", "-c", asked], capture_output=True, text=True, env=path).stdout == "flap\n"
