"""examples/pytest, a project of its own: its CI file as it stands, with this tree's wheel, as root and as a user."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.ordinary_user import NOBODY, run_unprivileged

ROOT = Path(__file__).parents[2]
PASSED = "3 passed"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("wheel")
    words = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(place), str(ROOT)]
    subprocess.run(words, check=True, timeout=300)
    (wheel,) = place.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def project() -> Iterator[Path]:
    """A copy that everyone may read."""
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        place.chmod(0o755)
        shutil.copytree(ROOT / "examples/pytest", place / "project")
        yield place / "project"


@pytest.fixture(scope="module")
def ci(wheel: Path, project: Path) -> subprocess.CompletedProcess[str]:
    """The CI file, run as it stands."""
    lines = (project / "ci").read_text().splitlines()
    assert len(lines) == 3
    surroundings = {**os.environ, "IBBOND": str(wheel), "PATH": f"{sys.base_prefix}/bin:{os.environ['PATH']}"}
    return subprocess.run(
        ["sh", "-e", "ci"], cwd=project, env=surroundings, capture_output=True, text=True, timeout=600, check=False
    )


def test_its_ci_file(ci: subprocess.CompletedProcess[str]) -> None:
    assert ci.returncode == 0, ci.stdout + ci.stderr
    assert PASSED in ci.stdout, ci.stdout


def test_as_an_ordinary_user(ci: subprocess.CompletedProcess[str], project: Path) -> None:
    assert ci.returncode == 0
    home = project.parent / "home"
    home.mkdir()
    os.chown(home, NOBODY, NOBODY)
    script = f"cd {home} && {project}/.venv/bin/python -m pytest -rs -p no:cacheprovider {project}"
    done = run_unprivileged(["sh", "-c", script], home, timeout=300)
    if "labs cannot run here" in done.stdout:
        pytest.skip(f"an ordinary user may not run labs here: {done.stdout}")
    assert PASSED in done.stdout, done.stdout + done.stderr
