"""A fabric that a tool wrote down becomes a topology file (docs/topology.md), with its GUIDs and node descriptions.

Hosts are the adapters whose descriptions begin with the same word (`node7 mlx5_0`, `node7 HCA-2`). A host with several
cabled ports gets one bond over them, `bond0`, with an address; a host with one port has the address on `ib0`. Left
out, with a note: routers, and nodes without a cable.
"""

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from ipaddress import ip_address

from ibbond.errors import Refused
from ibbond.topology import ibnetdiscover, opensm_subnet
from ibbond.topology.fabric_dump import ADAPTER, ROUTER, SWITCH, DumpEnd, DumpNode, FabricDump

FORMATS: dict[str, tuple[Callable[[str], bool], Callable[[str, str], FabricDump]]] = {
    "ibnetdiscover": (ibnetdiscover.looks_like, ibnetdiscover.parse),
    "opensm-subnet.lst": (opensm_subnet.looks_like, opensm_subnet.parse),
}
MAX_NODES = 10_000
FIRST_ADDRESSES = int(ip_address("10.0.0.1")), int(ip_address("fd00::1"))


@dataclass(slots=True)
class Imported:
    """The text of a topology file, and what of the fabric is not in it."""

    text: str
    notes: list[str] = field(default_factory=list)


def import_fabric(text: str, source: str) -> Imported:
    """The topology file for a fabric in any known format; `Refused` names file and line."""
    for looks_like, parse in FORMATS.values():
        if looks_like(text):
            return Import(parse(text, source)).topology()
    raise Refused(
        f"cannot read {source}",
        why=f"its format is not that of {' or '.join(FORMATS)}",
        fix="Save the fabric with: ibnetdiscover > FILE",
    )


class Import:
    """One import: names for nodes, then the tables of the topology file."""

    def __init__(self, dump: FabricDump) -> None:
        self.dump = dump
        self.notes: list[str] = []
        if len(dump.nodes) > MAX_NODES:
            raise Refused(
                f"{dump.source} has {len(dump.nodes)} nodes",
                why=f"a lab or simulation takes up to {MAX_NODES}",
                fix="Reduce the file to the part of the fabric that matters",
            )
        dump.check_guids()
        self.cables = [cable for cable in dump.cables() if self._is_wanted(*cable)]
        cabled = {end.node for cable in self.cables for end in cable}
        left_out = [node.key for node in dump.nodes.values() if node.kind != ROUTER and node.key not in cabled]
        if left_out:
            self.notes.append(f"left out, because no cable leads to them: {', '.join(left_out[:12])}")
        self.names: dict[str, str] = {}
        self._used: set[str] = set()
        self.hosts: dict[str, list[DumpNode]] = {}
        for node in dump.nodes.values():
            if node.key in cabled and node.kind == SWITCH:
                self.names[node.key] = self._unique(name_of(node.description, "s"))
        for node in dump.nodes.values():
            if node.key in cabled and node.kind == ADAPTER:
                self.hosts.setdefault(host_word(node), []).append(node)
        self.host_names = {word: self._unique(name_of(word, "h")) for word in self.hosts}
        if not self.hosts:
            raise Refused(f"{dump.source} has no hosts", why="no adapter is cabled to a switch", fix="Save it again")

    def topology(self) -> Imported:
        return Imported(
            "\n".join([*self._head(), *self._switches(), *self._links(), *self._hosts()]) + "\n", self.notes
        )

    def _is_wanted(self, a: DumpEnd, b: DumpEnd) -> bool:
        kinds = {self.dump.nodes[end.node].kind for end in (a, b)}
        if ROUTER in kinds:
            self.notes.append(f"left out, a router: the cable between {a.node} and {b.node}")
            return False
        if kinds == {ADAPTER}:
            line = self.dump.peers.get(a, self.dump.peers.get(b, (b, 0)))[1]
            raise self.dump.refused(line, "cables two adapters back to back", "a lab has switches between its hosts")
        return True

    def _unique(self, name: str) -> str:
        chosen, number = name, 2
        while chosen in self._used:
            chosen, number = f"{name[:26]}-{number}", number + 1
        self._used.add(chosen)
        return chosen

    def _head(self) -> list[str]:
        return [f"# Imported from {json.dumps(self.dump.source)}; docs/topology.md explains every word.", ""]

    def _switches(self) -> list[str]:
        rows = [
            f"{name} = {{ ports = {node.ports}{identity(node)} }}"
            for key, name in self.names.items()
            for node in (self.dump.nodes[key],)
        ]
        return ["[switches]", *rows, ""]

    def _links(self) -> list[str]:
        rows = []
        for a, b in self.cables:
            if a.node in self.names and b.node in self.names:
                rows += ["[[links]]", f'between = ["{self._switch_port(a)}", "{self._switch_port(b)}"]', ""]
        return rows

    def _switch_port(self, end: DumpEnd) -> str:
        return f"{self.names[end.node]}/{end.port}"

    def _hosts(self) -> list[str]:
        far = {end: other for a, b in self.cables for end, other in ((a, b), (b, a))}
        rows: list[str] = []
        for index, (word, adapters) in enumerate(self.hosts.items()):
            host = self.host_names[word]
            ports = [
                (number, port, self._switch_port(far[DumpEnd(node.key, port)]))
                for number, node in enumerate(adapters, 1)
                for port in range(1, node.ports + 1)
                if DumpEnd(node.key, port) in far
            ]
            rows += [f"[hosts.{host}]"]
            rows += [f"hcas = [{', '.join(adapter_row(node) for node in adapters)}]"]
            devices = [
                f'ib{i} = {{ to = "{to}", hca = {number}, port = {port} }}'
                for i, (number, port, to) in enumerate(ports)
            ]
            rows += [f"[hosts.{host}.ports]", *devices]
            rows += bond_rows(host, len(ports), index)
        return rows


def bond_rows(host: str, ports: int, index: int) -> list[str]:
    """The bond of a host with several ports, or the device of a host with one, and its addresses."""
    v4, v6 = (ip_address(first + index) for first in FIRST_ADDRESSES)
    addresses = f'addresses = ["{v4}/16", "{v6}/64"]'
    if ports == 1:
        return [f"[hosts.{host}.devices.ib0]", addresses, ""]
    members = ", ".join(f'"ib{i}"' for i in range(ports))
    return [f"[hosts.{host}.bonds.bond0]", f"members = [{members}]", addresses, ""]


def adapter_row(node: DumpNode) -> str:
    guids = "".join(f', "{port}" = "{guid:#018x}"' for port, guid in sorted(node.port_guids.items()))
    port_guids = f", port_guids = {{ {guids[2:]} }}" if guids else ""
    return f"{{ ports = {node.ports}{identity(node)}{port_guids} }}"


def identity(node: DumpNode) -> str:
    guid = f', guid = "{node.guid:#018x}"' if node.guid is not None else ""
    return guid + (f", description = {json.dumps(node.description)}" if node.description else "")


def host_word(node: DumpNode) -> str:
    """What the adapters of one host have in common: the first word of their descriptions."""
    words = node.description.replace("'", " ").split()
    return words[0] if words else node.key


def name_of(description: str, fallback: str) -> str:
    """A node name (docs/topology.md) for a description: its first word in lower case, other characters as `-`."""
    words: Iterable[str] = re.split(r"[\s;:/]+", description.strip().lower())
    word = next((w for w in words if re.match(r"[a-z]", w) and w not in ("mf0", "sw")), "")
    return re.sub(r"[^a-z0-9_-]", "-", word)[:31].strip("-") or f"{fallback}1"
