"""The reference pages name everything that they are about: commands and groups, keys of topology files, public API."""

import ast
import re
from pathlib import Path

import pytest

from ibbond.cli.main import COMMANDS
from ibbond.topology import load, schema
from ibbond.topology.reader import Reader

ROOT = Path(__file__).parents[1]
COMMAND_PAGES = ROOT / "docs" / "reference" / "commands"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_page_and_so_a_man_page(command: str) -> None:
    pages = {page.stem: page.read_text() for page in COMMAND_PAGES.glob("*.md")}
    [name] = [name for name, text in pages.items() if f":prog: ibbond {command}\n" in text]
    assert f'"reference/commands/{name}"' in (ROOT / "docs" / "conf.py").read_text()
    assert re.search(rf"^{name}$", pages["index"], re.MULTILINE)


EVERY_KEY = """
[switches.s1]
[[links]]
between = ["s1", "s2"]
[switches.s2]
[partitions.blue]
pkey = 0x8001
members = ["h1"]
[hosts.h1]
ports = { ib0 = "s1", ib1 = { to = "s2" } }
hcas = [{}]
ethernet = ["eth0"]
routes = [{ to = "default", via = "10.0.0.2" }]
bonds.bond0 = { members = ["ib1"], addresses = ["10.0.0.1/24"] }
devices.ib0 = {}
devices.eth0 = {}
files."/etc/x.conf" = { text = "" }
"""


def pattern(path: str) -> str:
    """`hosts.h1.routes, number 1.to` as `hosts.NAME.routes[].to`."""
    path = re.sub(r"\.files\.'[^']*'", ".files.PATH", re.sub(r", number \d+", "[]", path))
    path = path.replace(".hcas.", ".hcas[].")  # of an adapter that the file does not describe
    path = re.sub(r"^(hosts|switches|partitions)\.[^.\[]+", r"\1.NAME", path)
    path = re.sub(r"^(hosts\.NAME\.(bonds|devices))\.[^.\[]+", r"\1.NAME", path)
    return re.sub(r"^(hosts\.NAME\.ports)\.[^.]+", r"\1.DEVICE", path)


def test_the_table_of_topology_keys_is_what_the_reader_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys, types and fixed defaults; what the table says in words depends on other keys."""
    taken: dict[str, tuple[str, object]] = {}
    take, require = Reader.take, Reader.require

    def spy(self: Reader, key: str, kind: type, default: object) -> object:
        path = pattern(self.path(key))
        taken.setdefault(path, (schema.KINDS[kind], default))
        return take(self, key, kind, default)

    def spy_required(self: Reader, key: str, kind: type, why: str) -> object:
        taken[pattern(self.path(key))] = (schema.KINDS[kind], schema.REQUIRED)
        return require(self, key, kind, why)

    monkeypatch.setattr(Reader, "take", spy)
    monkeypatch.setattr(Reader, "require", spy_required)
    load.parse(EVERY_KEY)
    load.parse("fat_tree = {}")
    table = {key.path: key for key in schema.KEYS}
    assert sorted(taken) == sorted(table)
    assert {path: kind for path, (kind, _) in taken.items()} == {path: key.kind for path, key in table.items()}
    written = {True: "true", False: "false"}
    for path, (_, default) in taken.items():
        says = table[path].default
        if says == schema.REQUIRED or default == schema.REQUIRED:
            assert says == default, path
        elif not says[:1].isalpha() or isinstance(default, bool):
            shown = (
                written.get(default, repr(default)) if isinstance(default, bool) else repr(default).replace("'", '"')
            )
            assert says in (shown, oct(default) if isinstance(default, int) else shown), path


def test_the_pages_of_events_have_every_module_of_events_and_effects() -> None:
    pages = "".join((ROOT / "docs" / "reference" / name).read_text() for name in ("machines.md", "python.md"))
    for name in ("events", "effects"):
        for path in sorted((ROOT / "src" / "ibbond").glob(f"*/{name}.py")):
            assert f".. automodule:: ibbond.{path.parent.name}.{name}\n" in pages


CONTRACTS = (  # what programs import, and what the rooms promise each other
    *("ibbond/testing/lab.py", "ibbond/testing/event_log.py", "ibbond/topology/builder.py", "ibbond/rdma/client.py"),
    *("ibbond/rdma_cm/events.py", "ibbond/errors.py", "ibbond/machine.py", "ibbond/backend/contract.py"),
    *("ibbond/bonding/events.py", "ibbond/bonding/effects.py", "ibbond/ipoib/events.py", "ibbond/cm/events.py"),
    *("ibbond/fabric/events.py", "ibbond/stack/events.py", "ibbond/verbs/verbs.py"),
    *("ibbond/topology/model.py", "ibbond/bonding/bond.py", "ibbond/sim/world.py", "ibbond/demo/probe.py"),
    *("ibbond/netdev/device.py", "ibbond/netdev/namespace.py", "ibbond/stack/network.py", "ibbond/ipoib/interface.py"),
    *("ibbond/manager/subnet_manager.py", "ibbond/fabric/subnet.py", "ibbond/cm/connection_manager.py"),
)


VERBS = ("handle", "tick", "deadline")  # of every machine; `ibbond.machine.Machine` documents them


def undocumented(path: str) -> list[str]:
    """Public classes and functions of a file without a docstring."""
    missing = []
    tree = ast.parse((ROOT / "src" / path).read_text())
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name[0] != "_"]
    for node in (*tree.body, *(node for owner in classes for node in owner.body)):
        if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name[0] == "_" or ast.get_docstring(node):
            continue
        if node.name not in VERBS or path == "ibbond/machine.py":
            missing.append(f"{path}:{node.lineno} {node.name}")
    return missing


@pytest.mark.parametrize("path", CONTRACTS)
def test_the_public_api_and_the_contracts_of_rooms_have_docstrings(path: str) -> None:
    assert not undocumented(path)
