"""The line of `check --nagios`: its state is that of the worst finding, and its numbers can be read by a machine."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ibbond.cli.main import run as run_command
from ibbond.ops.nagios import MAX_TEXT, ServiceState, sentence
from tests.ops.host_tree import two_ports

PERFORMANCE = re.compile(r"('[^'=]+'|[^ '=]+)=(\d+);(\d*);(\d*);(\d*)(;\d+)?")


def check(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    code = run_command(["check", "--nagios", *words])
    out = capsys.readouterr().out
    assert out.count("\n") == 1, "one line"
    return code, out.strip()


def test_a_healthy_bond_is_ok(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two_ports(tmp_path)
    code, out = check(capsys, "--root", str(tmp_path))
    assert (code, out.partition(":")[0]) == (0, "IBBOND OK"), out
    text, _, data = out.partition(" | ")
    assert "bond0: 2 of 2 members up" in text
    rows = {found[1].strip("'"): found for found in PERFORMANCE.finditer(data)}
    assert rows["bond0 members up"][2] == "2"
    assert rows["errors"][2] == rows["warnings"][2] == "0"
    assert PERFORMANCE.sub("", data).strip() == "", "nothing else"


def test_the_worst_finding_decides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two_ports(tmp_path, miimon=0)
    code, out = check(capsys, "--root", str(tmp_path))
    assert (code, out.partition(":")[0]) == (2, "IBBOND CRITICAL"), out
    assert re.search(r"\[[a-z-]+\]", out)
    assert re.search(r"errors=[1-9]", out)


def test_what_cannot_be_judged_is_unknown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = check(capsys, "--root", str(tmp_path / "none"))
    assert (code, out.partition(":")[0]) == (3, "IBBOND UNKNOWN"), out
    two_ports(tmp_path)
    code, out = check(capsys, "--root", str(tmp_path), "bond7")
    assert (code, out.partition(":")[0]) == (3, "IBBOND UNKNOWN"), out


def test_a_line_stays_one_line_without_a_bar() -> None:
    text = sentence(ServiceState.WARNING, "a|b\nc " + "d" * 500, "x=1")
    assert text.startswith("IBBOND WARNING: a/b c ddd")
    assert text.endswith("... | x=1")
    assert len(text) < MAX_TEXT + 40
