"""scripts/release: what it refuses, and one whole release in a clone."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.packaging.published import ROOT, one

CHANGES = "# Changelog\n\n## 0.2.0 (unreleased)\n\n- a change\n\n## 0.1.0 (2026-01-01)\n\n- the first\n"
AUTHOR = {f"GIT_{who}_{what}": "a@b.example" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with one release, 0.1.0, and the changes of 0.2.0."""
    place = tmp_path / "checkout"
    (place / "scripts").mkdir(parents=True)
    shutil.copy(ROOT / "scripts/release", place / "scripts/release")
    (place / "CHANGELOG.md").write_text(CHANGES)
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "all"], ["tag", "v0.1.0"]):
        git(place, *words)
    return place


def git(place: Path, *words: str) -> str:
    environment = {**os.environ, **AUTHOR}
    done = subprocess.run(["git", *words], cwd=place, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def release(place: Path, *words: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    command = [str(place / "scripts/release"), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


@pytest.mark.parametrize(
    ("version", "why"),
    [
        ("", "a version is X.Y.Z"),
        ("2", "a version is X.Y.Z"),
        ("0.1.0", "the tag v0.1.0 exists"),
        ("0.0.9", "0.1.0 is released already"),
        ("0.1.0rc1", "0.1.0 is released already"),
        ("0.3.0", "no section '## 0.3.0 (unreleased)'"),
    ],
)
def test_refused(checkout: Path, version: str, why: str) -> None:
    done = release(checkout, version)
    assert done.returncode == 2, done.stdout + done.stderr
    assert why in done.stderr
    assert git(checkout, "status", "--porcelain") == ""


def test_uncommitted_changes_are_refused(checkout: Path) -> None:
    (checkout / "CHANGELOG.md").write_text(CHANGES + "\n")
    done = release(checkout, "0.2.0")
    assert done.returncode == 2
    assert "not committed" in done.stderr


@pytest.mark.bare
@pytest.mark.skipif(not shutil.which("dh"), reason="no debhelper: scripts/setup full installs it")
def test_a_release_in_a_clone(tmp_path: Path) -> None:
    """The commit that is checked out, as release 99.0.0; its wheel is tested as a release tests all files."""
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", str(ROOT), str(clone))
    for name in ("user.name", "user.email"):
        git(clone, "config", name, "a@b.example")
    text = (clone / "CHANGELOG.md").read_text()
    begin = text.index("\n## ") + 1
    heading = text[begin : text.index("\n", begin)]
    (clone / "CHANGELOG.md").write_text(text.replace(heading, "## 99.0.0 (unreleased)", 1))
    git(clone, "commit", "--quiet", "--all", "-m", "the changes of 99.0.0")
    done = release(clone, "99.0.0", "--do", "--", "tests/packaging/test_wheel.py", timeout=3600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert git(clone, "log", "-1", "--format=%s") == "Release 99.0.0"
    assert git(clone, "rev-parse", "HEAD") == git(clone, "rev-parse", "v99.0.0^{commit}")
    assert git(clone, "status", "--porcelain") == ""
    assert one(clone / "dist", "ibbond_99.0.0_*.deb").exists()
    assert subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=clone / "dist", check=True)
