"""What a subnet is made of, by name: nodes, ports, cables, queue pairs.

Names are `h1`, `s1` for nodes and `h1/1`, `s1/7` for ports; unknown ones raise `Refused`, which names those that there
are. GUIDs follow a plan, so that the same topology always has the same ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ibbond.errors import Refused
from ibbond.fabric.cable import Cable
from ibbond.fabric.hca import Hca, QueuePair
from ibbond.fabric.node import Node
from ibbond.fabric.port import Port
from ibbond.fabric.switch import Switch
from ibbond.topology.load import MAX_PORTS

FIRST_HCA_GUID, FIRST_SWITCH_GUID, GUID_STEP = 0x0002C90300100000, 0x0002C90300200000, 16
NAMES_SHOWN = 12


class Inventory:
    """Everything in the order in which it was added."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.cables: list[Cable] = []
        self._guids: set[int] = set()
        self._switch_count = self._hca_count = 0

    def add_switch(self, name: str, ports: int, guid: int | None, mtu_bytes: int, description: str) -> Switch:
        self._check_new(name, ports)
        if guid is None:
            guid = FIRST_SWITCH_GUID + self._switch_count * GUID_STEP
        self._take_guid(name, guid)
        self._switch_count += 1
        switch = Switch(name, guid, ports, mtu_bytes, description=description)
        self.nodes[name] = switch
        return switch

    def add_hca(
        self,
        name: str,
        ports: int,
        guid: int | None,
        mtu_bytes: int,
        description: str,
        port_guids: Mapping[int, int] | None,
    ) -> Hca:
        self._check_new(name, ports)
        if guid is None:
            guid = FIRST_HCA_GUID + self._hca_count * GUID_STEP
        self._take_guid(name, guid)
        self._hca_count += 1
        hca = Hca(name, guid, ports, mtu_bytes, description=description, port_guids=port_guids)
        self.nodes[name] = hca
        return hca

    def connect(self, a: str, b: str) -> Cable:
        """A cable between two free ports."""
        ends = (self.port(a), self.port(b))
        what = f"cannot connect {a} with {b}"
        for end in ends:
            if end.cable is not None:
                used = end.cable.other(end).name
                raise Refused(what, why=f"{end.name} is already connected to {used}", fix="Use another port")
            if end.number == 0:
                raise Refused(what, why=f"{end.name} is inside the switch", fix="Use port 1 or higher")
        if ends[0] is ends[1]:
            raise Refused(what, why="a cable has two ends", fix="Choose another port")
        cable = Cable(*ends)
        self.cables.append(cable)
        for end in ends:
            end.cable = cable
        return cable

    def switches(self) -> list[Switch]:
        return [node for node in self.nodes.values() if isinstance(node, Switch)]

    def hcas(self) -> list[Hca]:
        return [node for node in self.nodes.values() if isinstance(node, Hca)]

    def end_ports(self) -> Iterator[Port]:
        """The ports with a LID of their own, in the order of nodes and numbers."""
        for node in self.nodes.values():
            yield from (port for port in node.ports.values() if port.is_end_port)

    def node(self, name: str) -> Node:
        node = self.nodes.get(name)
        if node is None:
            why = f"its nodes are {_listed(list(self.nodes))}"
            raise Refused(f"no node {name} in the subnet", why=why, fix="Choose one of these")
        return node

    def port(self, name: str) -> Port:
        node_name, _, number = name.partition("/")
        node = self.node(node_name)
        port = node.ports.get(int(number)) if number.isascii() and number.isdigit() else None
        if port is None:
            numbers = f"{min(node.ports)} to {max(node.ports)}"
            raise Refused(f"no port {name}", why=f"{node_name} has ports {numbers}", fix="Choose one of these")
        return port

    def end_port(self, name: str) -> Port:
        """A port that has a LID of its own."""
        port = self.port(name)
        if not port.is_end_port:
            fix = f"Name {port.node.name}/0"
            raise Refused(f"cannot manage {name}", why="it has no LID of its own", fix=fix)
        return port

    def cable(self, end: str) -> Cable:
        port = self.port(end)
        if port.cable is None:
            raise Refused(f"no cable at {end}", why="nothing is connected there", fix="Name an end of a cable")
        return port.cable

    def switch(self, name: str) -> Switch:
        node = self.node(name)
        if not isinstance(node, Switch):
            known = _listed([switch.name for switch in self.switches()])
            raise Refused(f"{name} is not a switch", why=f"the switches are {known}", fix="Choose one of these")
        return node

    def hca(self, port: Port) -> Hca:
        if not isinstance(port.node, Hca):
            raise Refused(f"no queue pairs at {port.name}", why="it is a switch port", fix="Name a host's port")
        return port.node

    def adapter(self, name: str) -> Hca:
        node = self.node(name)
        if not isinstance(node, Hca):
            known = _listed([hca.name for hca in self.hcas()])
            raise Refused(f"{name} is not an adapter", why=f"the adapters are {known}", fix="Choose one of these")
        return node

    def queue_pair(self, port_name: str, qpn: int) -> QueuePair:
        port = self.port(port_name)
        pair = self.hca(port).queue_pairs.get(qpn)
        if pair is None or pair.port is not port:
            what = f"no queue pair {qpn:#x} at {port_name}"
            raise Refused(what, why="it was never created or has been destroyed", fix="Create it first")
        return pair

    def _check_new(self, name: str, ports: int) -> None:
        if name in self.nodes:
            raise Refused(
                f"cannot add {name}", why="the subnet already has a node of that name", fix="Choose another name"
            )
        if not name or "/" in name:
            raise Refused(f"cannot add {name!r}", why="a node needs a name without /", fix="Choose another name")
        if not 1 <= ports <= MAX_PORTS:
            raise Refused(f"cannot add {name}", why=f"{ports} is not 1 to {MAX_PORTS} ports", fix="Give it fewer")

    def _take_guid(self, name: str, guid: int) -> None:
        if guid in self._guids:
            raise Refused(f"cannot add {name}", why=f"GUID {guid:016x} is in use", fix="Choose another GUID")
        self._guids.add(guid)


def _listed(names: list[str]) -> str:
    return (", ".join(names[:NAMES_SHOWN]) + (" ..." if len(names) > NAMES_SHOWN else "")) or "none"
