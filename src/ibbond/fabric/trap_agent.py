"""Traps: how a node notifies the subnet manager, repeated until it is acknowledged.

Read first: InfiniBand Architecture volume 1, 14.3.4 and 13.4.9. A trap is repeated every SubnetTimeout of the port
until a TrapRepress comes. Left out: traps 129-131 (link integrity, overruns) and 257-259 (key violations).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ibbond.fabric.port import Port
from ibbond.verbs.verbs import ManagementDatagram
from ibbond.wire.mad import Method, Notice, capability_details, link_state_details
from ibbond.wire.smp import NodeType, Smp, SmpAttribute

LINK_STATE, CAPABILITIES = 128, 144
URGENT, INFORMATIONAL = 1, 4
SUBNET_TIMEOUT_UNIT_NS = 4096
MIN_TIMEOUT = 8  # a port with a shorter one repeats its traps every millisecond too


@dataclass(slots=True)
class _Pending:
    port: Port
    smp: Smp
    again_at: int


class TrapAgent:
    """Pending traps of all nodes, by (port, trap number)."""

    def __init__(self, send: Callable[[Port, ManagementDatagram], None]) -> None:
        self._send = send
        self._pending: dict[tuple[str, int], _Pending] = {}
        self._transaction = 0

    def deadline(self) -> int | None:
        return min([trap.again_at for trap in self._pending.values()]) if self._pending else None

    def tick(self, now: int) -> None:
        for trap in list(self._pending.values()):
            if trap.again_at <= now:
                self._emit(now, trap)

    def link_state(self, now: int, port: Port) -> None:
        """Trap 128 of the switch whose management port this is."""
        self._raise(now, port, LINK_STATE, URGENT, link_state_details(port.lid))

    def capabilities(self, now: int, port: Port) -> None:
        """Trap 144 of an end port whose CapabilityMask changed."""
        self._raise(now, port, CAPABILITIES, INFORMATIONAL, capability_details(port.lid, port.info.capability_mask))

    def repress(self, port: Port, smp: Smp) -> None:
        """The subnet manager has acknowledged a trap of this end port."""
        for key, trap in list(self._pending.items()):
            if key[0] == port.name and trap.smp.transaction_id == smp.transaction_id:
                del self._pending[key]

    def forget(self, port: Port) -> None:
        """The node of this end port lost its power."""
        for key in [key for key in self._pending if key[0] == port.name]:
            del self._pending[key]

    def _raise(self, now: int, port: Port, number: int, kind: int, details: bytes) -> None:
        if not port.lid or not port.sm_lid:
            return  # no subnet manager has ever been here
        self._transaction += 1
        producer = NodeType.SWITCH if port.node.node_type == NodeType.SWITCH else NodeType.CHANNEL_ADAPTER
        notice = Notice(number, port.lid, details, producer, kind).pack()[: Notice.TRAP_BYTES]
        smp = Smp(Method.TRAP, SmpAttribute.NOTICE, data=notice, transaction_id=self._transaction)
        trap = self._pending[port.name, number] = _Pending(port, smp, now)
        self._emit(now, trap)

    def _emit(self, now: int, trap: _Pending) -> None:
        port = trap.port
        trap.again_at = now + (SUBNET_TIMEOUT_UNIT_NS << max(port.info.subnet_timeout, MIN_TIMEOUT))
        self._send(port, ManagementDatagram(port.lid, port.sm_lid, 0, 0, trap.smp.pack()))
