"""What a subnet manager knows of its subnet, and how it finds out: breadth first, by directed routes.

Read first: InfiniBand Architecture volume 1, 14.4.4 (discovery). The map holds only what agents have answered. A
switch whose PortStateChange is clear has no port that went up or down since it was last read, so what is known of its
links still holds: only changed switches are read again. Left out: routers.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace

from ibbond.errors import Malformed
from ibbond.manager.smp_client import SmpRequest, SmpResponses
from ibbond.verbs.verbs import PortState
from ibbond.wire.mad import Status
from ibbond.wire.port_info import PhysicalState, PortInfo
from ibbond.wire.smp import MAX_HOPS, Block16, NodeDescription, NodeInfo, NodeType, Smp, SmpAttribute, SwitchInfo

PortKey = tuple[int, int]  # (node GUID, port number)


@dataclass(slots=True)
class SeenPort:
    """A port as its agent described it; `path` is how to ask about it, `fresh` whether it was read in this sweep."""

    number: int
    guid: int
    path: tuple[int, ...]
    info: PortInfo
    pkeys: tuple[int, ...] = ()
    fresh: bool = True


@dataclass(slots=True)
class SeenNode:
    info: NodeInfo
    path: tuple[int, ...]
    description: str = ""
    switch: SwitchInfo | None = None
    ports: dict[int, SeenPort] = field(default_factory=dict)
    is_switch: bool = field(init=False)

    def __post_init__(self) -> None:
        self.is_switch = self.info.node_type == NodeType.SWITCH

    @property
    def guid(self) -> int:
        return self.info.node_guid


@dataclass(slots=True)
class SubnetMap:
    """Nodes by GUID in the order of discovery, links by either end."""

    own: PortKey = (0, 0)
    nodes: dict[int, SeenNode] = field(default_factory=dict)
    links: dict[PortKey, PortKey] = field(default_factory=dict)
    incomplete: bool = False  # a node behind a link that is up did not answer

    def end_ports(self) -> list[tuple[SeenNode, SeenPort]]:
        """Every port with a LID of its own: port 0 of switches, the ports of adapters."""
        return [
            (node, port)
            for node in self.nodes.values()
            for port in node.ports.values()
            if port.number == 0 or not node.is_switch
        ]

    def switches(self) -> list[SeenNode]:
        return [node for node in self.nodes.values() if node.is_switch]


def asked(answer: Smp | None) -> bytes | None:
    """The data of an answer that says yes; None for silence and refusals."""
    return answer.data if answer is not None and answer.status == Status.OK else None


@dataclass(frozen=True, slots=True)
class _Step:
    """A port that might lead to a node: `by` leaves it, `path` leads over it; `expected` is what was there."""

    by: PortKey
    path: tuple[int, ...]
    expected: PortKey | None = None


NOWHERE: PortKey = (0, 0)
Asking = Generator[Sequence[SmpRequest], SmpResponses, None]


def discover(known: SubnetMap) -> Generator[Sequence[SmpRequest], SmpResponses, SubnetMap]:
    """Find every node that directed routes reach from here, trusting `known` where nothing changed; gives the map.

    The new map takes over nodes of `known`, which must not be used afterwards.
    """
    search = _Search(known)
    root = known.nodes.get(known.own[0])
    frontier = [_Step(NOWHERE, (), known.own if root is not None and root.is_switch else None)]
    while frontier:
        yield from search.level(frontier)
        frontier = search.onward
    return search.found


class _Search:
    """One search; a level is all that is equally far away."""

    def __init__(self, known: SubnetMap) -> None:
        self.known = known
        self.found = SubnetMap()
        self.onward: list[_Step] = []

    def level(self, steps: Sequence[_Step]) -> Asking:
        self.onward = []
        seen = len(self.found.nodes)
        yield from self._visit([step for step in steps if step.expected is not None])
        ports = yield from self._meet([step for step in steps if step.expected is None])
        yield from self._describe(ports)
        arrived = list(self.found.nodes.values())[seen:]
        yield from self._read([node for node in arrived if node.is_switch])
        for node in arrived:
            self._lead_on(node)

    def _visit(self, steps: Sequence[_Step]) -> Asking:
        """Known switches are asked whether they changed; adapters behind an unchanged link are as they were."""
        first: dict[int, _Step] = {}
        for step in steps:
            guid, number = step.expected or NOWHERE
            node = self.known.nodes[guid]
            if not node.is_switch:
                here = self.found.nodes.setdefault(guid, SeenNode(node.info, step.path, node.description))
                port = here.ports[number] = node.ports[number]
                port.path, port.fresh = step.path, False
            elif guid not in self.found.nodes:
                first.setdefault(guid, step)
        answers = yield [SmpRequest(step.path, SmpAttribute.SWITCH_INFO) for step in first.values()]
        for (guid, step), answer in zip(first.items(), answers, strict=True):
            data = asked(answer)
            if data is None:
                self.found.incomplete = True
            else:
                node = self.found.nodes[guid] = self.known.nodes[guid]
                node.switch = SwitchInfo.parse(data)
                node.path = step.path
                for port in node.ports.values():
                    port.path, port.fresh = step.path, False
        for step in steps:
            self._link(step, step.expected or NOWHERE)

    def _meet(
        self, steps: Sequence[_Step]
    ) -> Generator[Sequence[SmpRequest], SmpResponses, list[tuple[SeenNode, SeenPort]]]:
        """Ask the unknown who they are; the adapter ports among them must be described."""
        answers = yield [SmpRequest(step.path, SmpAttribute.NODE_INFO) for step in steps]
        ports: list[tuple[SeenNode, SeenPort]] = []
        for step, answer in zip(steps, answers, strict=True):
            info = _node_info(asked(answer))
            if info is None:
                self.found.incomplete = True
                continue
            node = self.found.nodes.setdefault(info.node_guid, SeenNode(info, step.path))
            self._link(step, (info.node_guid, info.local_port))
            if not node.is_switch and info.local_port not in node.ports:
                port = node.ports[info.local_port] = SeenPort(info.local_port, info.port_guid, step.path, PortInfo())
                ports.append((node, port))
        return ports

    def _describe(self, ports: Sequence[tuple[SeenNode, SeenPort]]) -> Asking:
        """Read the adapter ports; one that falls silent now is left out."""
        asks: list[SmpRequest] = []
        for _, port in ports:
            asks.append(SmpRequest(port.path, SmpAttribute.NODE_DESCRIPTION))
            asks.append(SmpRequest(port.path, SmpAttribute.PORT_INFO, port.number))
            asks.append(SmpRequest(port.path, SmpAttribute.PKEY_TABLE))
        answers = iter((yield asks))
        for node, port in ports:
            description, info, pkeys = asked(next(answers)), asked(next(answers)), asked(next(answers))
            if description is not None:
                node.description = _text(description)
            if info is None:
                del node.ports[port.number]
                self.found.incomplete = True
                continue
            port.info = PortInfo.parse(info)
            port.pkeys = Block16.parse(pkeys).entries if pkeys is not None else ()

    def _read(self, switches: Sequence[SeenNode]) -> Asking:
        """Read those switches that are new or have changed: clear PortStateChange first, so that no change hides."""
        new = [node for node in switches if node.switch is None]
        attributes = (SmpAttribute.NODE_DESCRIPTION, SmpAttribute.SWITCH_INFO)
        answers = yield [SmpRequest(node.path, attribute) for node in new for attribute in attributes]
        for node, description, info in zip(new, answers[::2], answers[1::2], strict=True):
            text, data = asked(description), asked(info)
            node.description = _text(text) if text is not None else ""
            node.switch = SwitchInfo.parse(data) if data is not None else None
            self.found.incomplete = self.found.incomplete or data is None
        changed = [node for node in switches if node.switch is not None and node.switch.port_state_change]
        yield [
            SmpRequest(node.path, SmpAttribute.SWITCH_INFO, 0, node.switch.pack()) for node in changed if node.switch
        ]
        for node in changed:
            assert node.switch is not None
            node.switch = replace(node.switch, port_state_change=False)
        stale = list({node.guid: node for node in [*new, *changed]}.values())
        answers = yield [
            SmpRequest(node.path, SmpAttribute.PORT_INFO, number)
            for node in stale
            for number in range(node.info.port_count + 1)
        ]
        infos = iter(answers)
        for node in stale:
            node.ports = {}
            for number in range(node.info.port_count + 1):
                data = asked(next(infos))
                if data is None:
                    self.found.incomplete = True
                else:
                    node.ports[number] = SeenPort(number, node.info.port_guid, node.path, PortInfo.parse(data))

    def _link(self, step: _Step, here: PortKey) -> None:
        if step.by == NOWHERE:
            self.found.own = here
        elif here[0] in self.found.nodes:
            self.found.links[step.by] = here
            self.found.links[here] = step.by

    def _lead_on(self, node: SeenNode) -> None:
        """The ports of a new node that have light and are not linked yet. Adapters lead on only from here."""
        if not node.is_switch and node.guid != self.found.own[0]:
            return
        for port in node.ports.values():
            key = (node.guid, port.number)
            lit = port.info.physical_state == PhysicalState.LINK_UP and port.number
            if len(port.path) == MAX_HOPS:
                self.found.incomplete = True
            elif lit and key not in self.found.links and (node.is_switch or key == self.found.own):
                there = self.known.links.get(key) if port.info.state == PortState.ACTIVE else None
                self.onward.append(_Step(key, (*port.path, port.number), there))


def _node_info(data: bytes | None) -> NodeInfo | None:
    try:
        return NodeInfo.parse(data) if data is not None else None
    except Malformed:
        return None


def _text(data: bytes) -> str:
    try:
        return NodeDescription.parse(data).text
    except Malformed:
        return ""
