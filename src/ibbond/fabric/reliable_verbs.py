"""Reliable queue pairs of one adapter as verbs make them: created without a port, moved from state to state.

Read first: InfiniBand Architecture volume 1, 11.2.5 (Modify QP). What is asked for here happens at once; what follows
from it is in the subnet's schedule (`Subnet.has_pending`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ibbond.fabric.hca import Hca
from ibbond.fabric.port import Port
from ibbond.fabric.reliable import Reliable
from ibbond.fabric.reliable_pair import PairState
from ibbond.machine import EventQueue
from ibbond.verbs.memory import ProtectionDomain
from ibbond.verbs.reliable_verbs import Peer, Queues

if TYPE_CHECKING:
    from ibbond.fabric.subnet import Subnet


class ReliableVerbs:
    """The queue pairs of one adapter, by number."""

    def __init__(self, subnet: Subnet, hca: Hca, reliable: Reliable, schedule: EventQueue) -> None:
        self.hca = hca
        self._subnet = subnet
        self._reliable = reliable
        self._schedule = schedule
        self._any_port = hca.ports[min(hca.ports)]

    def new_domain(self) -> ProtectionDomain:
        return self._subnet.new_domain()

    def create(self, domain: ProtectionDomain, queues: Queues) -> int:
        """A queue pair in RESET; its number."""
        return self._subnet.create_reliable(self._any_port.name, domain, queues)

    def destroy(self, qpn: int) -> None:
        self._subnet.destroy_queue_pair(self.hca.queue_pairs[qpn].port.name, qpn)

    def reset(self, qpn: int) -> None:
        """To INIT from any state; nothing is flushed."""
        pair = self._reliable.get(self._any_port, qpn)
        assert pair is not None
        self._reliable.remove(pair.port, qpn)
        self._reliable.add(self._any_port, qpn, pair.domain, pair.queues)

    def listen(self, qpn: int, port: Port, peer: Peer) -> None:
        """INIT to RTR, at this port."""
        self.hca.queue_pairs[qpn].port = port
        self._reliable.listen(port, qpn, peer)

    def speak(self, qpn: int, peer: Peer) -> None:
        """RTR to RTS, or in RTS other timeouts."""
        self._reliable.speak(self._any_port, qpn, peer)

    def fail(self, qpn: int) -> None:
        self._reliable.fail(self._any_port, qpn)

    def failed(self, qpn: int) -> bool:
        """Whether the transport has brought it into the error state."""
        pair = self._reliable.get(self._any_port, qpn)
        return pair is not None and pair.state is PairState.ERROR

    def numbers(self, qpn: int) -> tuple[int, int]:
        """The next PSNs: of its own requests, of its peer's."""
        pair = self._reliable.get(self._any_port, qpn)
        return (pair.send_psn, pair.receive_psn) if pair is not None else (0, 0)

    def ring(self, now: int, qpn: int) -> None:
        """The doorbell: there are new requests in its queues, to be sent, or flushed where it is in error."""
        self._schedule.run(now)
        self._reliable.ring(self._any_port, qpn)
