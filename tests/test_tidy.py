"""Form: no circle of files, file names that are unique on their floor, functions under 50 lines, no dead reference."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.test_floors import FLOOR, PACKAGE

ROOT = PACKAGE.parents[1]
MAX_LINES = 50
REFERENCE = re.compile(r"(?<![\w./*-])((?:docs|tests|scripts|[a-z_]+)/[\w/]*\w\.(?:md|py|toml))\b|(spec/\w+)")
LONG = {  # each is one match, one closure, one generator or one value
    "ibbond.abi.pyroute2_addresses.teach_pyroute2",
    "ibbond.drill.runner.perform",
    "ibbond.host.pump._made_drain",
    "ibbond.ops.read_facts.lab_facts",
    "ibbond.rdma_cm.users.handle",
    "ibbond.stack.network._carry",
    "ibbond.topology.fat_tree.expand",
    "ibbond.wire.port_info.parse",
}
TWICE = {"world", "lab"}  # of sim and replay; of the Python API and the commands
FOREIGN = {"netlink", "cloudinit", "addons"}  # roots of files of other projects


@cache
def sources() -> dict[str, tuple[Path, ast.Module]]:
    """By dotted name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = (path, ast.parse(path.read_text()))
    return found


def imports(node: ast.AST) -> Iterator[str]:
    """What is imported when the file is: not in functions, not for types only."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.ImportFrom) and child.module:
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
            yield child.module
        elif isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        else:
            yield from imports(child)


def test_no_circle_of_files() -> None:
    left = {name: {other for other in imports(tree) if other in sources()} for name, (_, tree) in sources().items()}
    while leaves := {name for name, others in left.items() if not others & left.keys() - {name}}:
        left = {name: others for name, others in left.items() if name not in leaves}
    assert not left


def test_file_names_are_unique_on_their_floor() -> None:
    seen: dict[tuple[int, str], str] = {}
    twice = []
    for path, _ in sources().values():
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if path.stem in ("__init__", "__main__", "events", *TWICE) or room not in FLOOR:  # each room has its events
            continue
        other = seen.setdefault((FLOOR[room], path.stem), str(path.relative_to(PACKAGE)))
        if other != str(path.relative_to(PACKAGE)):
            twice.append(f"{path.relative_to(PACKAGE)} and {other}")
    assert not twice, "\n".join(twice)


def test_functions_are_short() -> None:
    long = {}
    for name, (_, tree) in sources().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines >= MAX_LINES and f"{name}.{node.name}" not in LONG:
                    long[f"{name}.{node.name}"] = lines
    assert long == {}


def test_docstrings_name_files_that_exist() -> None:
    dead = []
    for name, (path, tree) in sources().items():
        text = ast.get_docstring(tree) or ""
        for reference in ("".join(found) for found in REFERENCE.findall(text)):
            bases = (ROOT, PACKAGE, path.parent, ROOT / "docs")
            if reference.split("/")[0] not in FOREIGN and not any((base / reference).exists() for base in bases):
                dead.append(f"{name}: {reference}")
    assert not dead, "\n".join(dead)
