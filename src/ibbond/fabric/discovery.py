"""What a subnet manager knows of its subnet, and how it finds out: breadth first, by directed routes.

Read first: InfiniBand Architecture volume 1, 14.4.4 (discovery). The map holds only what agents have answered.
Left out: routers.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

from ibbond.errors import Malformed
from ibbond.fabric.conversation import Answers, Ask
from ibbond.wire.mad import Status
from ibbond.wire.port_info import PhysicalState, PortInfo
from ibbond.wire.smp import Block16, NodeDescription, NodeInfo, NodeType, Smp, SmpAttribute, SwitchInfo

PortKey = tuple[int, int]  # (node GUID, port number)


@dataclass(slots=True)
class SeenPort:
    """A port as its agent described it; `path` is how to ask about it."""

    number: int
    guid: int
    path: tuple[int, ...]
    info: PortInfo
    pkeys: tuple[int, ...] = ()


@dataclass(slots=True)
class SeenNode:
    info: NodeInfo
    path: tuple[int, ...]
    description: str = ""
    switch: SwitchInfo | None = None
    ports: dict[int, SeenPort] = field(default_factory=dict)

    @property
    def guid(self) -> int:
        return self.info.node_guid

    @property
    def is_switch(self) -> bool:
        return self.info.node_type == NodeType.SWITCH


@dataclass(slots=True)
class SubnetMap:
    """Nodes by GUID in the order of discovery, links by either end."""

    own: PortKey = (0, 0)
    nodes: dict[int, SeenNode] = field(default_factory=dict)
    links: dict[PortKey, PortKey] = field(default_factory=dict)

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
    """A port that might lead to a node: `by` leaves it, `path` leads over it."""

    by: PortKey
    path: tuple[int, ...]


def discover() -> Generator[Sequence[Ask], Answers, SubnetMap]:
    """Find every node that directed routes reach from here; a task that gives the map."""
    found = SubnetMap()
    frontier = [_Step((0, 0), ())]
    while frontier:
        answers = yield [Ask(step.path, SmpAttribute.NODE_INFO) for step in frontier]
        fresh: list[tuple[SeenNode, NodeInfo, _Step]] = []
        for step, answer in zip(frontier, answers, strict=True):
            data = asked(answer)
            if data is not None and (met := _meet(found, step, data)) is not None:
                fresh.append(met)
        frontier = yield from _describe(found, fresh)
    return found


def _meet(found: SubnetMap, step: _Step, data: bytes) -> tuple[SeenNode, NodeInfo, _Step] | None:
    """Enter who answered; None when there is nothing more to ask him."""
    try:
        info = NodeInfo.parse(data)
    except Malformed:
        return None
    here = (info.node_guid, info.local_port)
    if step.by != (0, 0):
        found.links[step.by] = here
        found.links[here] = step.by
    else:
        found.own = here
    node = found.nodes.get(info.node_guid)
    if node is None:
        node = found.nodes[info.node_guid] = SeenNode(info, step.path)
    elif node.is_switch or info.local_port in node.ports:
        return None
    if not node.is_switch:  # a place in the order of discovery; `_describe` fills it in
        node.ports[info.local_port] = SeenPort(info.local_port, info.port_guid, step.path, PortInfo())
    return node, info, step


def _describe(
    found: SubnetMap, fresh: Sequence[tuple[SeenNode, NodeInfo, _Step]]
) -> Generator[Sequence[Ask], Answers, list[_Step]]:
    """Ask what the new nodes and ports are; the ports that may lead on are returned."""
    asks: list[Ask] = []
    for node, info, step in fresh:
        asks.append(Ask(step.path, SmpAttribute.NODE_DESCRIPTION))
        if node.is_switch:
            asks.append(Ask(step.path, SmpAttribute.SWITCH_INFO))
            asks += [Ask(step.path, SmpAttribute.PORT_INFO, number) for number in range(info.port_count + 1)]
        else:
            asks.append(Ask(step.path, SmpAttribute.PORT_INFO, info.local_port))
            asks.append(Ask(step.path, SmpAttribute.PKEY_TABLE))
    answers = iter((yield asks))
    onward: list[_Step] = []
    for node, info, step in fresh:
        description = asked(next(answers))
        if description is not None:
            node.description = NodeDescription.parse(description).text
        if node.is_switch:
            switch = asked(next(answers))
            node.switch = SwitchInfo.parse(switch) if switch is not None else None
            for number in range(info.port_count + 1):
                data = asked(next(answers))
                if data is not None:
                    _enter(node, number, info.port_guid, step.path, data)
        else:
            data, pkeys = asked(next(answers)), asked(next(answers))
            if data is None:
                del node.ports[info.local_port]
                continue
            port = _enter(node, info.local_port, info.port_guid, step.path, data)
            port.pkeys = Block16.parse(pkeys).entries if pkeys is not None else ()
        onward += _onward(found, node, info.local_port)
    return onward


def _enter(node: SeenNode, number: int, guid: int, path: tuple[int, ...], data: bytes) -> SeenPort:
    port = node.ports[number] = SeenPort(number, guid, path, PortInfo.parse(data))
    return port


def _onward(found: SubnetMap, node: SeenNode, entered_by: int) -> list[_Step]:
    """The ports of a new node that have light and lead somewhere unknown. Adapters lead on only from here."""
    if not node.is_switch and found.own != (node.guid, entered_by):
        return []
    return [
        _Step((node.guid, port.number), (*port.path, port.number))
        for port in node.ports.values()
        if port.number
        and port.info.physical_state == PhysicalState.LINK_UP
        and (node.guid, port.number) not in found.links
    ]
