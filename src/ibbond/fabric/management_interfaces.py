"""Queue pairs 0 and 1 of every port, the SMI and the GSI: MADs leave through them, and arriving ones are dispatched.

Read first: InfiniBand Architecture volume 1, 13.5 (which agent gets a MAD) and 13.4.7 (status). Subnet and performance
management are answered by the node itself, SMInfo and the rest by the built-in manager at the port or by software.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ibbond.errors import Malformed
from ibbond.fabric import management_agent, performance_agent
from ibbond.fabric.events import MadArrived, SubnetEffect
from ibbond.fabric.inventory import Inventory
from ibbond.fabric.managers import SUBNET_CLASSES, Managers
from ibbond.fabric.packet import mad_packet
from ibbond.fabric.port import Port
from ibbond.fabric.switch import Switch
from ibbond.fabric.transit import DR_SLID, HOP_POINTER, Transit, count
from ibbond.fabric.trap_agent import TrapAgent
from ibbond.machine import EventQueue
from ibbond.verbs.timing import Timing
from ibbond.verbs.verbs import GSI_QPN, SMI_QPN, ManagementDatagram
from ibbond.wire.mad import (
    BASE_VERSION,
    CLASS_VERSION,
    MAD_BYTES,
    ManagementClass,
    Method,
    is_answer,
    version_refused,
)
from ibbond.wire.perf import PerfMad
from ibbond.wire.port_info import Capability
from ibbond.wire.smp import PERMISSIVE_LID, Smp, SmpAttribute

# Classes whose requests are answered even in another version; other classes may have versions unknown here.
VERSIONED = (*SUBNET_CLASSES, ManagementClass.PERFORMANCE, ManagementClass.SUBNET_ADMINISTRATION)
REQUESTS = tuple(  # how those by directed routes begin
    bytes((BASE_VERSION, ManagementClass.SUBNET_DIRECTED_ROUTE, 1, method, 0)) for method in (Method.GET, Method.SET)
)
ALL_DIRECTED = PERMISSIVE_LID.to_bytes(2) * 2  # DrSLID and DrDLID of a route without LID routed parts
LOST = b""  # what `answer` says of an answer that did not find its way back at once
UNANSWERED = (Method.SEND, Method.TRAP, Method.REPORT)


class ManagementInterfaces:
    """Those of all ports of a subnet, with the agents behind them.

    `tell` is called with MADs for software at a port.
    """

    def __init__(
        self,
        schedule: EventQueue,
        timing: Timing,
        transit: Transit,
        inventory: Inventory,
        listener: management_agent.Listener,
        tell: Callable[[SubnetEffect], None],
    ) -> None:
        self.malformed = 0  # MADs that could not be read
        self.traps = TrapAgent(self.send)
        self.managers = Managers(inventory, timing, self.send, tell)
        self._schedule = schedule
        self._timing = timing
        self._transit = transit
        self._listener = listener
        self._tell = tell

    def send(self, port: Port, mad: ManagementDatagram) -> None:
        """A MAD leaves from a port; counted and dropped when it has not 256 bytes."""
        if len(mad.mad) != MAD_BYTES:
            self.malformed += 1
            return
        if not port.node.alive:
            return
        kind = mad.mad[1]
        if kind != ManagementClass.SUBNET_DIRECTED_ROUTE:
            self._transit.send(port, mad_packet(mad, management=kind in SUBNET_CLASSES))
            return
        directed = bytearray(mad.mad)
        way = self._transit.route_directed(port, mad.destination_lid, directed)
        if way is not None:
            count(way[1], 1, MAD_BYTES)
            self.arrived(way[0], mad, directed)
        else:
            packet = mad_packet(mad, management=True)
            packet.directed = bytearray(mad.mad)
            self._transit.send(port, packet)

    def answer(self, port: Port, mad: bytes) -> bytes | None:
        """The answer to a Get or Set by a directed route where neither way nor agent takes time; None: it must be sent.

        A manager outside brings a subnet up with hundreds of these. What comes back, and what is counted, is what
        sending it would bring. `LOST` when a Set has closed the way back: it is carried out anyway.
        """
        if mad[:5] not in REQUESTS or mad[DR_SLID : DR_SLID + 4] != ALL_DIRECTED:
            return None
        if self._timing.agent_ns or mad[17] == SmpAttribute.SM_INFO or not port.node.alive:
            return None
        asked = bytearray(mad)
        way = self._transit.route_directed(port, PERMISSIVE_LID, asked)
        if way is None or end_port(way[0]).info.m_key:
            return None
        there, links = way
        answer = management_agent.answer(self._schedule.now, there.node, there, bytes(asked), self._listener)
        assert answer is not None, "only an M_Key forbids an answer"
        count(links, 1, MAD_BYTES)
        if any(sender.peer is not receiver for sender, receiver in links):
            self._reply(there, ManagementDatagram(PERMISSIVE_LID, PERMISSIVE_LID, SMI_QPN, SMI_QPN, mad), answer)
            return LOST
        count([(receiver, sender) for sender, receiver in links], 1, MAD_BYTES)
        return b"%b\0%b" % (answer[:HOP_POINTER], answer[HOP_POINTER + 1 :])

    def arrived(self, port: Port, content: ManagementDatagram, directed: bytearray | None) -> None:
        """A MAD has reached the port; what cannot be read is counted and dropped.

        `directed` is the MAD as it is at the end of a directed route.
        """
        raw = bytes(directed) if directed is not None else content.mad
        if content.destination_qpn != (SMI_QPN if raw[1] in SUBNET_CLASSES else GSI_QPN):
            return  # 13.5: queue pair 0 takes subnet management, 1 everything else
        try:
            if raw[0] != BASE_VERSION or (raw[1] in VERSIONED and raw[2] != CLASS_VERSION.get(raw[1], 1)):
                self._other_version(port, content, raw)
            elif raw[1] in SUBNET_CLASSES:
                self._subnet_management(port, content, raw, directed is None)
            elif raw[1] == ManagementClass.PERFORMANCE and not is_answer(raw):
                self._reply(port, content, performance_agent.answer(port.node, PerfMad.parse(raw)).pack())
            else:
                self._to_software(port, content, raw)
        except Malformed:
            self.malformed += 1

    def _other_version(self, port: Port, content: ManagementDatagram, raw: bytes) -> None:
        if raw[1] not in VERSIONED or is_answer(raw) or raw[3] in UNANSWERED:
            raise Malformed(f"MAD base version {raw[0]}, class version {raw[2]} of class {raw[1]:#04x}")
        self._reply(port, content, version_refused(raw))

    def _subnet_management(self, port: Port, content: ManagementDatagram, raw: bytes, lid_routed: bool) -> None:
        if raw[3] == Method.TRAP_REPRESS:
            self.traps.repress(end_port(port), Smp.parse(raw))
        elif is_answer(raw) or raw[3] == Method.TRAP:
            self._to_software(port, content, raw)
        elif lid_routed and raw[1] == ManagementClass.SUBNET_DIRECTED_ROUTE:
            self._transit.start_directed(port, mad_packet(content, management=True), bytearray(raw))
        elif self._asks_manager(port, raw):
            self._to_software(port, content, raw)
        else:
            answer = management_agent.answer(self._schedule.now, port.node, port, raw, self._listener)
            if answer is not None:
                self._reply(port, content, answer)

    def _asks_manager(self, port: Port, raw: bytes) -> bool:
        """SMInfo is answered by the manager at the port; without one, the agent answers that it has none."""
        attribute = raw[16] << 8 | raw[17]
        return attribute == SmpAttribute.SM_INFO and bool(end_port(port).info.capability_mask & Capability.IS_SM)

    def _reply(self, port: Port, request: ManagementDatagram, mad: bytes) -> None:
        reply = ManagementDatagram(
            request.destination_lid, request.source_lid, request.destination_qpn, request.source_qpn, mad
        )
        self._schedule.call_after(self._timing.agent_ns, self.send, port, reply)

    def _to_software(self, port: Port, content: ManagementDatagram, raw: bytes) -> None:
        """A MAD that no agent answers: for the built-in manager here, else for programs at the port."""
        end = end_port(port)
        mad = content if content.mad is raw else replace(content, mad=raw)
        if not self.managers.take(self._schedule.now, end, mad):
            self._tell(MadArrived(end.name, mad))


def end_port(port: Port) -> Port:
    """The port whose LID reaches this one: of a switch its port 0."""
    return port.node.ports[0] if isinstance(port.node, Switch) else port
