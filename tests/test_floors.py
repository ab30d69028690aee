"""Imports point down: a file imports from lower floors and its own folder, never upward, never across its floor."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "src" / "ibbond"
FLOORS = (
    {"machine", "errors"},
    {"wire"},
    {"verbs", "netdev", "topology"},
    {"manager", "bonding"},
    {"fabric"},
    {"cm"},
    {"ipoib", "abi", "rdma_cm", "verbs_objects"},
    {"stack"},
    {"host", "sim", "replay", "rdma", "config"},
    {"backend", "tools"},
    {"sysfs", "ops"},
    {"lab"},
    {"demo", "web"},
    {"drill"},
    {"cli", "testing"},
)
FLOOR = {room: height for height, rooms in enumerate(FLOORS) for room in rooms}
FORBIDDEN_NAMES = {"utils", "util", "common", "helpers", "misc"}


def imported_rooms(source: Path) -> set[str]:
    names = []
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names += [node.module] if node.module != "ibbond" else [f"ibbond.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return {name.split(".")[1] for name in names if name.startswith("ibbond.")}


def test_every_room_has_a_floor() -> None:
    rooms = {path.name.removesuffix(".py") for path in PACKAGE.iterdir() if not path.name.startswith(("_", "py.typed"))}
    assert rooms <= FLOOR.keys()


def test_imports_point_down() -> None:
    upward = []
    for source in sorted(PACKAGE.rglob("*.py")):
        room = source.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room.startswith("_"):
            continue
        upward += [
            f"{source.relative_to(PACKAGE)} imports {other}"
            for other in sorted(imported_rooms(source))
            if other != room and other in FLOOR and FLOOR[other] >= FLOOR[room]
        ]
    assert not upward, "\n".join(upward)


def test_the_subnet_manager_knows_the_subnet_through_mads_only() -> None:
    """It imports what a MAD and a port event are, never the ports, cables and switches that the MADs go to."""
    rooms = {room for source in (PACKAGE / "manager").glob("*.py") for room in imported_rooms(source)}
    assert rooms <= {"manager", "verbs", "wire", "machine", "errors"}


def test_no_room_without_a_subject() -> None:
    assert not [path for path in PACKAGE.rglob("*") if path.stem in FORBIDDEN_NAMES]


def test_every_file_says_what_it_is() -> None:
    silent = [path for path in sorted(PACKAGE.rglob("*.py")) if not ast.get_docstring(ast.parse(path.read_text()))]
    assert not silent, "\n".join(map(str, silent))
