"""What switches and channel adapters have in common: a name, GUIDs, ports, and whether they live.

Read first: InfiniBand Architecture volume 1, 14.2.5.3 (NodeInfo).
"""

from __future__ import annotations

from collections.abc import Mapping

from ibbond.fabric.port import PKEYS_PER_PORT, Port
from ibbond.wire.smp import NodeDescription, NodeInfo, NodeType

VENDOR_ID = 0x0002C9
DEVICE_ID = 0xB0B1


class Node:
    """A switch (ports 0..n, port 0 is its own management port) or a channel adapter (ports 1..n)."""

    def __init__(
        self,
        name: str,
        node_type: NodeType,
        guid: int,
        ports: int,
        mtu_bytes: int,
        *,
        description: str = "",
        port_guids: Mapping[int, int] | None = None,
    ) -> None:
        self.name = name
        self.node_type = node_type
        self.guid = guid
        self.alive = True
        self.description = NodeDescription(description or name)
        self.port_count = ports
        self._mtu_bytes = mtu_bytes
        self._port_guids = dict(port_guids or {})
        first = 0 if node_type == NodeType.SWITCH else 1
        self.ports = {
            number: Port(self, number, self.port_guid(number), mtu_bytes) for number in range(first, ports + 1)
        }

    def forget(self) -> None:
        """Lose everything that a subnet manager wrote and what was counted, as a power cycle does."""
        for port in self.ports.values():
            port.power_up(self._mtu_bytes)

    def port_guid(self, number: int) -> int:
        if self.node_type == NodeType.SWITCH:
            return self.guid
        return self._port_guids.get(number, self.guid + number)

    def info_through(self, port: Port) -> NodeInfo:
        """NodeInfo as a question that came in by `port` sees it."""
        return NodeInfo(
            node_type=self.node_type,
            port_count=self.port_count,
            system_guid=self.guid,
            node_guid=self.guid,
            port_guid=port.guid,
            local_port=port.number,
            partition_cap=PKEYS_PER_PORT,
            device_id=DEVICE_ID,
            revision=1,
            vendor_id=VENDOR_ID,
        )
