"""sdist and wheel: what they contain, and what works after `pip install` into a fresh environment."""

import email
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from pathlib import Path

import pytest

from ibbond.cli.main import COMMANDS
from tests.packaging.published import ROOT, build, given, one

TEST = "def test_the_plugin(request):\n    assert request.config.pluginmanager.has_plugin('ibbond')\n"
RELATIVE = re.compile(r"\]\((?!https://)[^)#]")


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return given() or build(tmp_path_factory.mktemp("dist"), "--wheel")


@pytest.fixture(scope="module")
def fresh(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel and what it needs; its programs run outside of the checkout."""
    place = tmp_path_factory.mktemp("fresh") / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    pip = [sys.executable, "-m", "pip", "--python", str(place / "bin/python"), "install", "--quiet", "--no-compile"]
    pins = ("-c", str(ROOT / "requirements.txt"))
    subprocess.run([*pip, *pins, str(one(dist, "*.whl")), "pytest"], check=True, timeout=300)
    return place


def run(place: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    surroundings = {"PATH": f"{place}/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/nonexistent", **environment}
    return subprocess.run(
        words,
        cwd="/",
        env=surroundings,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def names(dist: Path) -> tuple[set[str], set[str]]:
    """Of the files in the sdist, below its folder, and in the wheel."""
    with tarfile.open(one(dist, "*.tar.gz")) as sdist, zipfile.ZipFile(one(dist, "*.whl")) as wheel:
        return {name.partition("/")[2] for name in sdist.getnames()}, set(wheel.namelist())


def metadata(dist: Path) -> Message:
    with zipfile.ZipFile(one(dist, "*.whl")) as wheel:
        name = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(wheel.read(name))


def test_both_contain_stories_examples_man_pages_and_completions(dist: Path) -> None:
    sdist, wheel = names(dist)
    for folder in ("scenarios", "examples"):
        files = {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*") if path.is_file()}
        files = {name for name in files if "__pycache__" not in name}
        assert files <= sdist
        assert {f"ibbond/{name}" for name in files} <= wheel
    pages = {f"share/man/man1/ibbond-{name}.1" for name in COMMANDS} | {"share/man/man1/ibbond.1"}
    completions = {
        "bash-completion/completions/ibbond",
        "zsh/site-functions/_ibbond",
        "fish/vendor_completions.d/ibbond.fish",
    }
    generated = pages | {f"share/{name}" for name in completions}
    assert generated <= sdist
    assert generated <= {name.partition(".data/data/")[2] for name in wheel}


def test_only_what_is_tracked_is_published(dist: Path) -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    sdist, wheel = names(dist)
    folders = {str(parent) for name in tracked for parent in Path(name).parents}
    assert {name for name in sdist if not name.startswith("share")} - folders <= {*tracked, "PKG-INFO", ""}
    assert not [name for name in wheel if name.endswith((".pyc", ".orig", ".rej"))]


def test_a_package_index_can_show_it(dist: Path) -> None:
    fields = metadata(dist)
    text = fields.get_payload()
    assert isinstance(text, str)
    assert fields["Description-Content-Type"] == "text/markdown"
    assert not RELATIVE.findall(text), "an index shows the page elsewhere: links must be absolute"
    for target in re.findall(r"\]\(https://[^)]*/(?:blob/)?main/([^)#]+)[^)]*\)", text):
        assert (ROOT / target).exists(), target
    assert {each.partition(",")[0] for each in fields.get_all("Project-URL", [])} >= {"Homepage", "Changelog", "Source"}
    assert "Operating System :: POSIX :: Linux" in fields.get_all("Classifier", [])


def test_the_commands_from_another_working_directory(fresh: Path) -> None:
    version = run(fresh, "ibbond", "--version")
    assert version.returncode == 0, version.stderr
    story = run(fresh, "ibbond", "sim", "run", "two_hosts", "--json")
    assert story.returncode == 0, story.stderr
    assert json.loads(story.stdout)["broken"] is None
    assert run(fresh, "ibbond", "apply", "--dry-run", "/nonexistent").returncode == 2
    assert "extcap {version=" in run(fresh, "ibbond-extcap", "--extcap-interfaces").stdout
    assert os.access(next(fresh.glob("lib/python3*/site-packages/ibbond/examples/ifenslave")), os.X_OK)


def test_its_pytest_plugin(fresh: Path, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(TEST)
    done = run(fresh, "pytest", "-p", "no:cacheprovider", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ib_lab" in run(fresh, "pytest", "-p", "no:cacheprovider", "--fixtures", str(tmp_path)).stdout


def test_man_pages_are_found_beside_the_command(fresh: Path) -> None:
    for name in COMMANDS:
        page = fresh / f"share/man/man1/ibbond-{name}.1"
        text = page.read_text()
        if text.startswith(".so "):
            text = (fresh / "share/man" / text.split()[1]).read_text()
        assert f"ibbond {name}" in text.replace("\\-", "-"), f"man ibbond-{name} does not show that command"
