"""Traps: how a node tells the subnet manager, again and again until it is heard.

Read first: InfiniBand Architecture volume 1, 14.3.4 and 13.4.9. A trap is repeated every SubnetTimeout of the port
until a TrapRepress comes. Left out: traps 129-131 (link integrity, overruns) and 257-259 (key violations).
"""

from __future__ import annotations

from collections.abc import Callable

from ibbond.fabric.port import Port
from ibbond.fabric.schedule import Schedule
from ibbond.fabric.verbs import ManagementDatagram
from ibbond.wire.mad import Method, Notice, capability_details, link_state_details
from ibbond.wire.smp import NodeType, Smp, SmpAttribute

LINK_STATE, CAPABILITIES, M_KEY = 128, 144, 256
SUBNET_TIMEOUT_UNIT_NS = 4096


class TrapAgent:
    """Pending traps of all nodes, by (port, trap number)."""

    def __init__(self, schedule: Schedule, send: Callable[[Port, ManagementDatagram], None]) -> None:
        self._schedule = schedule
        self._send = send
        self._pending: dict[tuple[str, int], int] = {}  # -> transaction id
        self._transaction = 0

    def raise_link_state(self, port: Port) -> None:
        """Trap 128 of the switch whose management port this is."""
        self._raise(port, LINK_STATE, link_state_details(port.lid))

    def raise_capabilities(self, port: Port) -> None:
        """Trap 144 of an end port whose CapabilityMask changed."""
        self._raise(port, CAPABILITIES, capability_details(port.lid, port.info.capability_mask))

    def repress(self, port: Port, smp: Smp) -> None:
        """The subnet manager has heard it."""
        for key, transaction in list(self._pending.items()):
            if key[0] == port.name and transaction == smp.transaction_id:
                del self._pending[key]

    def forget(self, port: Port) -> None:
        for key in [key for key in self._pending if key[0] == port.name]:
            del self._pending[key]

    def _raise(self, port: Port, trap: int, details: bytes) -> None:
        if not port.lid or not port.sm_lid:
            return  # no subnet manager has ever been here
        self._transaction += 1
        self._pending[port.name, trap] = self._transaction
        producer = 2 if port.node.node_type == NodeType.SWITCH else 1
        notice = Notice(trap, port.lid, details, producer, kind=1 if trap == LINK_STATE else 4)
        self._repeat(port, trap, self._transaction, notice)

    def _repeat(self, port: Port, trap: int, transaction: int, notice: Notice) -> None:
        if self._pending.get((port.name, trap)) != transaction or not port.node.alive:
            return
        smp = Smp(Method.TRAP, SmpAttribute.NOTICE, 0, notice.pack()[: Notice.TRAP_BYTES], transaction)
        self._send(port, ManagementDatagram(port.lid, port.sm_lid, 0, 0, smp.pack()))
        delay = SUBNET_TIMEOUT_UNIT_NS << max(port.info.subnet_timeout, 8)
        self._schedule.after(delay, self._repeat, port, trap, transaction, notice)
