"""A host channel adapter: queue pairs, and which of them an arriving datagram is for.

Read first: InfiniBand Architecture volume 1, 10.2.5 (Q_Keys), 10.5.2 (multicast attach), 9.6.1.4 (checks on receive).
A queue pair belongs to one port. What those of kind RC do is in `reliable`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ibbond.fabric.node import Node
from ibbond.fabric.port import Port
from ibbond.verbs.verbs import FIRST_MLID, MULTICAST_QPN, Datagram
from ibbond.wire.smp import NodeType

FIRST_QPN = 0x48  # what a freshly started adapter hands out first
LAST_QPN = 0xFFFFFE


@dataclass(eq=False, slots=True)
class QueuePair:
    """A queue pair of kind "UD" (or "RC"); `groups` are the (MGID, MLID) it is attached to."""

    qpn: int
    port: Port
    kind: str
    qkey: int
    groups: dict[bytes, int] = field(default_factory=dict)


class Hca(Node):
    def __init__(
        self,
        name: str,
        guid: int,
        ports: int,
        mtu_bytes: int,
        *,
        description: str = "",
        port_guids: Mapping[int, int] | None = None,
    ) -> None:
        super().__init__(
            name, NodeType.CHANNEL_ADAPTER, guid, ports, mtu_bytes, description=description, port_guids=port_guids
        )
        self.queue_pairs: dict[int, QueuePair] = {}
        self._next_qpn = FIRST_QPN

    def create(self, port: Port, kind: str, qkey: int) -> QueuePair:
        """A new queue pair; numbers are not used again before all others were, so that stale ones miss."""
        while self._next_qpn in self.queue_pairs:
            self._next_qpn += 1
        pair = QueuePair(self._next_qpn, port, kind, qkey)
        self._next_qpn = FIRST_QPN if pair.qpn >= LAST_QPN else pair.qpn + 1
        self.queue_pairs[pair.qpn] = pair
        return pair

    def receivers(self, port: Port, datagram: Datagram) -> list[int]:
        """The queue pairs that take this datagram, after P_Key and Q_Key checks; violations are counted."""
        if not port.admits(datagram.pkey):
            port.change(p_key_violations=min(port.info.p_key_violations + 1, 0xFFFF))
            return []
        if datagram.destination_lid >= FIRST_MLID:
            return [pair.qpn for pair in self._attached(port, datagram) if self._qkey_fits(pair, datagram)]
        pair = self.queue_pairs.get(datagram.destination_qpn)
        if pair is None or pair.port is not port or pair.kind != "UD":
            return []
        return [pair.qpn] if self._qkey_fits(pair, datagram) else []

    def _attached(self, port: Port, datagram: Datagram) -> list[QueuePair]:
        """Everyone attached to the group, but for the queue pair that sent it."""
        if datagram.destination_gid is None or datagram.destination_qpn != MULTICAST_QPN:
            return []
        own = datagram.source_qpn if datagram.source_lid == port.lid else None
        return [
            pair
            for pair in self.queue_pairs.values()
            if pair.port is port and pair.qpn != own and datagram.destination_gid in pair.groups
        ]

    def _qkey_fits(self, pair: QueuePair, datagram: Datagram) -> bool:
        if pair.qkey == datagram.qkey:
            return True
        violations = min(pair.port.info.q_key_violations + 1, 0xFFFF)
        pair.port.change(q_key_violations=violations)
        return False
