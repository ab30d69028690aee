"""A switch: linear and multicast forwarding tables, and where they send a packet.

Read first: InfiniBand Architecture volume 1, 18.2.4 (relaying) and 14.2.5.10-12 (tables). Left out: random forwarding
tables, default multicast ports, adaptive routing, enforcement of partitions (SwitchInfo says so).
"""

from __future__ import annotations

from dataclasses import replace

from ibbond.fabric.node import Node
from ibbond.fabric.port import Port
from ibbond.verbs.verbs import FIRST_MLID
from ibbond.wire.smp import MLIDS_PER_BLOCK, MULTICAST_CAP, NO_PORT, PORTS_PER_POSITION, NodeType, SwitchInfo

LINEAR_CAP = 0xBFFF  # the highest unicast LID


class Switch(Node):
    """`linear[lid]` is the port to leave by (0 the switch itself, 255 none); `masks[mlid]` has bit n for port n."""

    def __init__(self, name: str, guid: int, ports: int, mtu_bytes: int, *, description: str = "") -> None:
        super().__init__(name, NodeType.SWITCH, guid, ports, mtu_bytes, description=description)
        self._clear_tables()

    def _clear_tables(self) -> None:
        self.info = SwitchInfo(linear_cap=LINEAR_CAP, multicast_cap=MULTICAST_CAP)
        self.linear = bytearray([NO_PORT]) * (LINEAR_CAP + 1)
        self.masks: dict[int, int] = {}

    def forget(self) -> None:
        """Lose everything that a subnet manager wrote, as a power cycle does."""
        super().forget()
        self._clear_tables()

    @property
    def management_port(self) -> Port:
        return self.ports[0]

    def set_port_state_change(self, changed: bool) -> None:
        self.info = replace(self.info, port_state_change=changed)

    def egress(self, lid: int) -> Port | None:
        """The port by which a packet to this LID leaves; port 0 is the switch itself, None drops it."""
        number = self.linear[lid] if lid <= self.info.linear_top else NO_PORT
        return self.ports.get(number)

    def linear_block(self, block: int) -> bytes:
        return bytes(self.linear[block * 64 : block * 64 + 64])

    def multicast_block(self, block: int, position: int) -> tuple[int, ...]:
        first = FIRST_MLID + block * MLIDS_PER_BLOCK
        shift = position * PORTS_PER_POSITION
        return tuple(self.masks.get(first + i, 0) >> shift & 0xFFFF for i in range(MLIDS_PER_BLOCK))

    def write_multicast_block(self, block: int, position: int, entries: tuple[int, ...]) -> None:
        first = FIRST_MLID + block * MLIDS_PER_BLOCK
        shift = position * PORTS_PER_POSITION
        for offset, entry in enumerate(entries):
            mask = self.masks.get(first + offset, 0) & ~(0xFFFF << shift) | entry << shift
            if mask:
                self.masks[first + offset] = mask
            else:
                self.masks.pop(first + offset, None)
