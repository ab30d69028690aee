"""Form: no circle of files, file names that are unique on their floor, short functions, names with one owner, no dead
reference.
"""

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
# Public names of several classes. Most are said with their module (`uverbs.Path`, `cm.Rejected`); a new class gets a
# name of its own, and one that is renamed leaves this list.
SHARED_CLASSES = {
    *("Accept", "Bind", "Connect", "Disconnect", "Listen", "Reject", "ResolveRoute"),  # a verb; its bytes on the ABI
    *(
        "Attribute",
        "Context",
        "Envelope",
        "Query",
        "ReceiveRequest",
        "SendRequest",
        "SetOption",
        "Unknown",
    ),  # and so on
    *("Bond", "Cable", "Hca", "Partition", "Route", "Switch"),  # in a topology; the machine that is built from it
    *("Group", "Member", "Neighbor", "Notify", "Peer", "QueuePair", "Status"),  # of each side of one protocol
    *("Event", "Frame", "Packet", "Path", "Flow"),  # of each layer: docs/architecture.md has the table of packets
    *("Address", "Capability", "Directory", "Interface", "Link", "Option", "Preparation", "Rejected", "SetAdmin"),
    *("BondFacts", "Caller", "Captured", "Client", "Connections", "Control", "Endpoint", "End", "Entry", "Expected"),
    *("Failover", "Files", "Finding", "Gap", "Kind", "Listener", "Plan", "PortFacts", "Probe", "RdmaHost", "Reader"),
    *("Answer", "Recording", "Run", "Silent", "Source", "Step", "Verdict", "View", "World"),
}
SHARED_CONSTANTS = {
    *("E", "W", "M", "T"),  # abbreviations of a file
    *(
        "BOND",
        "MEMBERS",
        "RIGHT",
        "LATE",
        "FLOWING",
        "STARTING_MS",
        "ALIVE_NS",
        "IN_FLIGHT_NS",
    ),  # of a demo
    *("EVENTS", "SOURCES", "TOOL_CLASSES", "OTHER_PKEY"),  # of each world of a drill
    *("FINDINGS", "UNREADABLE", "SYSTEMD", "NO_KEY", "VERSION"),  # of each command, format
    *("MAX_BYTES", "MAX_FILE_BYTES", "MAX_HOPS", "MAX_TARGETS", "WAITING_PACKETS", "FOREVER", "REQUEST"),  # by chance
    *("HEADER", "HELLO", "PROBE", "_ADDRESS", "PAGE", "GID"),  # layouts of different protocols
    *("DATAGRAM", "CONNECTED", "MASTERS", "MONITORS"),  # words that users write, as both layers read them
    *("ETHERNET_MTU", "ETHERNET_FLAGS"),  # of the driver; of the checks and recordings that judge it
}
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


def test_class_names_stand_for_one_thing() -> None:
    seen: dict[str, list[str]] = {}
    for name, (_, tree) in sources().items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                seen.setdefault(node.name, []).append(name)
    shared = {name: places for name, places in seen.items() if len(places) > 1}
    assert {name: places for name, places in shared.items() if name not in SHARED_CLASSES} == {}
    assert shared.keys() >= SHARED_CLASSES, "these are unique now: shorten the list"


def constants(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """The names in capitals that a file gives a value, and the value as it is written."""
    for node in tree.body:
        if isinstance(node, ast.Assign):
            target, value = node.targets[0], node.value
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            target, value = node.target, node.value
        else:
            continue
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            pairs = list(zip(target.elts, value.elts, strict=True))
        else:
            pairs = [(target, value)]
        for name, given in pairs:
            if isinstance(name, ast.Name) and name.id.isupper():
                yield name.id, ast.unparse(given)


def test_constants_have_one_owner() -> None:
    seen: dict[tuple[str, str], list[str]] = {}
    for name, (_, tree) in sources().items():
        for constant in constants(tree):
            seen.setdefault(constant, []).append(name)
    shared = {name: places for (name, _), places in seen.items() if len(places) > 1}
    assert {name: places for name, places in shared.items() if name not in SHARED_CONSTANTS} == {}
    assert shared.keys() >= SHARED_CONSTANTS, "these have one owner now: shorten the list"
