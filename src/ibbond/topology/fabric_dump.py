"""A fabric as a tool of its own network wrote it down: nodes with GUIDs, descriptions and cables.

`topology.ibnetdiscover` and `topology.opensm_subnet` read the two formats into this value; `topology.imported` makes a
topology of it. Left out: what a subnet manager assigns (LIDs) and what the lab does not model (link width and speed).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from ibbond.errors import Refused
from ibbond.topology.load import MAX_PORTS

SWITCH, ADAPTER, ROUTER = "switch", "channel adapter", "router"


@dataclass(slots=True)
class DumpNode:
    """One node. `key` is how the file refers to it; `line` is where it is defined, for messages."""

    key: str
    kind: str
    ports: int
    line: int
    guid: int | None = None
    description: str = ""
    port_guids: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DumpEnd:
    """One end of a cable: the node's key and its port number."""

    node: str
    port: int


@dataclass(slots=True)
class FabricDump:
    """Nodes by key, and the far end of each cabled port, as far as the file names them.

    `has_both_ends`: the tool writes every cable at both of its ends, so that one without the other is a truncated file.
    """

    source: str
    has_both_ends: bool = False
    nodes: dict[str, DumpNode] = field(default_factory=dict)
    peers: dict[DumpEnd, tuple[DumpEnd, int]] = field(default_factory=dict)

    def add_node(self, node: DumpNode) -> None:
        if node.key in self.nodes:
            raise self.refused(node.line, f"defines {node.key} again", f"line {self.nodes[node.key].line} defines it")
        if not 1 <= node.ports <= MAX_PORTS:
            raise self.refused(node.line, f"gives {node.key} {node.ports} ports", f"a node has 1 to {MAX_PORTS}")
        self.nodes[node.key] = node

    def add_cable(self, near: DumpEnd, far: DumpEnd, line: int) -> None:
        """A cable as seen from `near`; the file may name it again from the other end."""
        known = self.peers.get(near)
        if known is not None and known[0] != far:
            raise self.refused(line, f"cables {near.node} port {near.port} again", f"line {known[1]} cables it too")
        self.peers[near] = (far, line)

    def cables(self) -> Iterator[tuple[DumpEnd, DumpEnd]]:
        """Each cable once, in the order of the file; a cable whose ends disagree or lead nowhere is refused."""
        seen: set[DumpEnd] = set()
        for near, (far, line) in list(self.peers.items()):
            self._check_end(near, line)
            self._check_end(far, line)
            if near == far:
                raise self.refused(line, f"cables {near.node} port {near.port} to itself", "a cable has two ends")
            back = self.peers.get(far)
            if back is None and self.has_both_ends:
                raise self.refused(
                    line,
                    f"cables {near.node} port {near.port} to {far.node} port {far.port}",
                    f"no line cables that port of {far.node}, so the file is truncated",
                    "Save it again",
                )
            if back is not None and back[0] != near:
                raise self.refused(
                    line,
                    f"cables {near.node} port {near.port} to {far.node} port {far.port}",
                    f"line {back[1]} cables that port to {back[0].node} port {back[0].port}",
                )
            if far not in seen:
                seen.add(near)
                yield near, far

    def _check_end(self, end: DumpEnd, line: int) -> None:
        node = self.nodes.get(end.node)
        if node is None:
            raise self.refused(line, f"has a cable to {end.node}", "no line defines that node")
        if not 1 <= end.port <= node.ports:
            raise self.refused(line, f"has a cable at port {end.port} of {end.node}", f"it has {node.ports} ports")

    def check_guids(self) -> None:
        """Two nodes or two ports with one GUID are a copied line or a broken adapter: refused."""
        seen: dict[int, DumpNode] = {}
        for node in self.nodes.values():
            if node.guid is None:
                continue
            if node.guid in seen:
                raise self.refused(
                    node.line,
                    f"gives {node.key} the GUID {node.guid:#018x}",
                    f"line {seen[node.guid].line} gives it to {seen[node.guid].key}",
                )
            seen[node.guid] = node
        ports: dict[int, DumpEnd] = {}
        for node in self.nodes.values():
            for number, guid in node.port_guids.items():
                end = DumpEnd(node.key, number)
                other = ports.setdefault(guid, end)
                if other != end:
                    raise self.refused(
                        self.peers[end][1] if end in self.peers else node.line,
                        f"gives port {number} of {node.key} the GUID {guid:#018x}",
                        f"port {other.port} of {other.node} has it",
                    )

    def refused(self, line: int, what: str, why: str, fix: str = "Correct the file, or save it again") -> Refused:
        return Refused(f"{self.source}, line {line}: it {what}", why=why, fix=fix)
