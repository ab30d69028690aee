"""Names in strings do not follow a rename, and mypy does not see them: they are looked up here.

These are the targets of `monkeypatch.setattr`, the imports of programs that tests hand to another process as text, and
the words after `-k` in `./test`.
"""

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(path for folder in ("tests", "benchmarks") for path in (ROOT / folder).rglob("*.py"))
IMPORT = re.compile(r"^\s*(?:from (ibbond[\w.]*) import ([\w, ]+)|import (ibbond[\w.]*))", re.MULTILINE)


def exists(dotted: str) -> bool:
    """Whether a module, or what is in one, has this name."""
    words = dotted.split(".")
    for length in range(len(words), 0, -1):
        try:
            found: object = importlib.import_module(".".join(words[:length]))
        except ModuleNotFoundError:
            continue
        for word in words[length:]:
            if not hasattr(found, word):
                return False
            found = getattr(found, word)
        return True
    return False


def imported(tree: ast.Module) -> dict[str, str]:
    """What a file calls the things of ibbond and of the standard library that it imports."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and not node.module.startswith("tests"):
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.asname or alias.name: alias.name for alias in node.names}
    return names


def targets(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of what is replaced, for the objects that are imported by name."""
    names = imported(tree)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or node.func.attr != "setattr":
            continue
        if len(node.args) < 2 or any(each.arg == "raising" for each in node.keywords):
            continue
        place, name = node.args[0], node.args[1]
        if isinstance(place, ast.Constant):
            yield node.lineno, str(place.value)
        elif isinstance(name, ast.Constant):
            first, _, rest = ast.unparse(place).partition(".")
            if first in names and re.fullmatch(r"[\w.]*", rest):
                yield node.lineno, ".".join(filter(None, (names[first], rest, str(name.value))))


def strings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "import" in node.value:
            yield node.lineno, node.value


def test_what_strings_name_exists() -> None:
    missing = []
    for path in FILES:
        tree = ast.parse(path.read_text())
        named = list(targets(tree))
        for line, program in strings(tree):
            for module, names, whole in IMPORT.findall(program):
                named += [(line, f"{module}.{name.split()[0]}") for name in names.split(",") if name.strip()]
                named += [(line, whole)] if whole else []
        missing += [f"{path.relative_to(ROOT)}:{line}: {name}" for line, name in named if not exists(name)]
    assert missing == []


def test_lookup_finds_and_misses() -> None:
    assert exists("ibbond.sim.whatif.consequence")
    assert exists("ibbond.stack.local_addresses.LocalAddresses.take_due")
    assert not exists("ibbond.stack.local_addresses.LocalAddresses.take_all")
    assert not exists("ibbond.nowhere")
    tree = ast.parse("from ibbond.lab import state\nmonkeypatch.setattr(state.os, 'opens', 1)")
    assert list(targets(tree)) == [(2, "ibbond.lab.state.os.opens")]


def test_words_that_select_tests_select_some() -> None:
    script = (ROOT / "test").read_text()
    chosen = re.findall(r"(tests/\S+\.py) -k (?:'([^']*)'|(\S+))", script)
    assert chosen
    for path, quoted, word in chosen:
        for each in re.findall(r"\w+", quoted or word):
            names = re.findall(r"^\s*def (test_\w+)", (ROOT / path).read_text(), re.MULTILINE)
            assert each == "or" or any(each in name for name in names), f"{path} -k {each}"
