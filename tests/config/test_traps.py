"""Each trap is found in a wrong file with its line, and not in its right twin; the rules know every one of them."""

from pathlib import Path

import pytest

from ibbond.config.sources import load
from ibbond.config.traps import traps
from ibbond.ops.check import RULES
from tests.config.traps import CASES, Case

EVERY = [(kind, case) for kind, cases in CASES.items() for case in cases]


def kinds(root: Path, files: dict[str, str], as_format: str) -> dict[str, list[str]]:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    found: dict[str, list[str]] = {}
    for problem in traps(load([root], as_format).desired):
        found.setdefault(problem.kind, []).append(str(problem.source))
    return found


@pytest.mark.parametrize(("kind", "case"), EVERY, ids=lambda each: each if isinstance(each, str) else "")
def test_a_wrong_file_and_its_right_twin(tmp_path: Path, kind: str, case: Case) -> None:
    wrong = kinds(tmp_path / "wrong", case.files, case.format)
    assert kind in wrong
    assert all(source.rpartition(":")[2].isdigit() for source in wrong[kind]), wrong
    assert kinds(tmp_path / "right", case.right, case.format) == {}


def test_every_trap_is_a_rule() -> None:
    assert set(CASES) <= set(RULES)
