"""`ibbond config` with good and bad input: exit codes, places, nothing written when something is refused."""

import json
import os
from pathlib import Path

import pytest

from ibbond.cli.main import run

TOML = """version = 1
[bond.bond0]
members = ["ib0", "ib1"]
addresses = ["10.0.0.1/24"]
options = {mode = "active-backup", miimon = 100}
"""
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [*{old}, *{old}, *{old}, *{old}, *{old}, *{old}, *{old}, *{old}, *{old}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "bonds.toml"
    path.write_text(TOML)
    return path


def test_lint_says_where_and_why(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "lint", str(file)]) == 0
    file.write_text(TOML.replace("miimon", "mimon"))
    assert run(["config", "lint", str(file), "--json"]) == 2
    (finding,) = json.loads(capsys.readouterr().out.splitlines()[-1])["findings"]
    assert (finding["line"], finding["fix"]) == (5, "Write miimon")


def test_a_loss_is_named_and_nothing_is_written(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(TOML + '[device.ib0]\ntransport = "connected"\n')
    out = tmp_path / "out"
    assert run(["config", "render", str(file), "--to", "networkd", "-o", str(out)]) == 1
    assert "networkd never reads [IPoIB]" in capsys.readouterr().err
    assert not out.exists()
    assert run(["config", "render", str(file), "--to", "networkd", "-o", str(out), "--lossy"]) == 0
    assert (out / "etc/systemd/network/10-bond0.netdev").exists()
    assert run(["config", "diff", str(file), str(out)]) == 1
    assert run(["config", "render", str(file), "--to", "networkd", "-o", str(out), "--lossy"]) == 2, "they exist"


def test_from_format_to_format_and_back(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for to in ("ifupdown", "ifupdown2", "suse-ifcfg"):
        folder = tmp_path / to
        assert run(["config", "convert", str(file), "--to", to, "-o", str(folder)]) == 0
        assert run(["config", "lint", str(folder)]) == 0
        capsys.readouterr()
        assert run(["config", "import", str(folder)]) == 0
        (folder / "back.toml").write_text(capsys.readouterr().out)
        assert run(["config", "diff", str(file), str(folder / "back.toml")]) == 0


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("half.toml", TOML[:-9].encode()),
        ("half.yaml", b"network: {bonds: {bond0: {interfaces: [ib0"),
        ("bomb.yaml", ("network:\n  version: 2\n" + BOMB).encode() * 3),
        ("bytes.nmconnection", b"[connection]\ntype=bond\nid=\xff\xfe\n"),
        ("nul.netdev", b"[NetDev]\nName=bond0\0\n"),
        ("large.network", b"[Match]\n" * 200_000),
        ("deep.toml", b"x = " + b"[" * 3000 + b"]" * 3000),
    ],
)
def test_hostile_files_are_refused_with_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, data: bytes
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    for command in (["lint", str(path)], ["lint", str(tmp_path)], ["import", str(path)]):
        assert run(["config", *command]) == 2
        captured = capsys.readouterr()
        assert name in captured.out + captured.err
        assert "Traceback" not in captured.err
    assert run(["apply", str(path)]) == 2


def test_links_devices_and_names_with_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "loop.toml").symlink_to(tmp_path / "loop.toml")
    (tmp_path / "zero.toml").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe.toml")
    for name in ("loop.toml", "zero.toml", "pipe.toml", "missing.toml"):
        assert run(["config", "lint", str(tmp_path / name)]) == 2
    strange = tmp_path / "\x1b[2J<b>.toml"
    strange.write_text("x = \n")
    assert run(["config", "lint", str(strange)]) == 2
    captured = capsys.readouterr()
    assert "\x1b" not in captured.out + captured.err


def test_what_is_no_path_or_format_is_refused(file: Path) -> None:
    assert run(["config", "lint"]) == 2
    assert run(["config", "render", str(file), "--to", "networkdd"]) == 2
    assert run(["config", "render", str(file), "--to", "networkd", "--for", "new"]) == 2
    assert run(["config", "lint", str(file), "--format", "tomml"]) == 2
    assert run(["config", "render", str(file)]) == 0
