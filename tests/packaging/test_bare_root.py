"""The steps of action.yml and of the Containerfile, run in a bare Debian: afterwards labs run there."""

import json
import shlex
import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.packaging.bare_root import copy_of_base, run_in, why_not

ROOT = Path(__file__).parents[2]
SOURCES = (
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "src",
    "examples",
    "scenarios",
    "packaging",
    "Containerfile",
    "action.yml",
)
FIRST_TEST = """
def test_a_cut_cable_is_survived(ib_lab):
    ib_lab["h1"].run(["ping", "-c1", "10.0.0.2"])
    ib_lab.cut("h1/ib0")
    ib_lab.wait_active("h1/bond0", "ib1", within=5)
    ib_lab["h1"].run(["ping", "-c1", "10.0.0.2"])
"""

pytestmark = [pytest.mark.bare, pytest.mark.skipif(why_not() is not None, reason=str(why_not()))]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return copy_of_base(tmp_path / "root")


def copy_sources(place: Path) -> None:
    place.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, place / name)


def test_the_action(root: Path) -> None:
    copy_sources(root / "action")
    action = YAML(typ="safe").load(ROOT / "action.yml")
    (root / "temp").mkdir()
    (root / "path").touch()
    surroundings = {"GITHUB_ACTION_PATH": "/action", "RUNNER_TEMP": "/temp", "GITHUB_PATH": "/path"}
    for step in action["runs"]["steps"]:
        assert step["shell"] == "bash"
        inputs = dict.fromkeys(step.get("env", {}), action["inputs"]["packages"]["default"])
        run_in(root, step["run"], {**surroundings, **inputs})
    (root / "work").mkdir()
    (root / "work/test_first.py").write_text(FIRST_TEST)
    path = (root / "path").read_text().strip()
    done = run_in(root, f"export PATH={path}:$PATH; cd /work; pip install --quiet pytest; pytest -rs", {})
    assert "1 passed" in done.stdout, done.stdout


def test_the_containerfile(root: Path) -> None:
    copy_sources(root.parent / "context")
    environment: dict[str, str] = {}
    entry: list[str] = []
    for instruction, words in instructions((ROOT / "Containerfile").read_text()):
        match instruction:
            case "FROM":
                assert words == "debian:bookworm-slim"
            case "RUN":
                run_in(root, words, environment)
            case "COPY":
                copy(root.parent / "context", root, *shlex.split(words))
            case "ENV":
                name, _, value = words.partition("=")
                environment[name] = value
            case "ENTRYPOINT":
                entry = json.loads(words)
            case "CMD":
                assert run_in(root, shlex.join([*entry, *json.loads(words)]), environment).stdout
            case _:
                pytest.fail(f"unknown instruction {instruction}")
    lab = "ibbond lab up && ibbond lab exec h1 -- ping -c1 10.0.0.2 && ibbond lab exec h1 -- ibnetdiscover"
    assert "Ca\t" in run_in(root, f"{lab} && ibbond lab down", environment).stdout


def instructions(text: str) -> list[tuple[str, str]]:
    """Each instruction with its words; lines that end in a backslash go on."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    whole = "\n".join(lines).replace("\\\n", " ").splitlines()
    return [(line.partition(" ")[0], line.partition(" ")[2].strip()) for line in whole if line.strip()]


def copy(context: Path, root: Path, *words: str) -> None:
    """As COPY does it: a directory's contents, or files into a directory that ends in a slash."""
    *sources, target = words
    for source in sources:
        place = root / target.lstrip("/")
        if (context / source).is_dir():
            shutil.copytree(context / source, place)
        else:
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy(context / source, place)
