"""The subnet as one machine: events and time go in, what ports see comes out.

Read first: docs/architecture.md, walks 1 and 2, then `transit` (packets), `management_agent` (SMPs), `subnet_manager`.
With `Timing()` everything that follows from an event has happened when `handle` returns; with delays it is spread
over the ticks that `deadline` asks for. Left out: routers between subnets.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

from ibbond.errors import Malformed, Refused
from ibbond.fabric import management_agent, performance_agent
from ibbond.fabric.cable import Cable
from ibbond.fabric.capture import frame_of
from ibbond.fabric.events import (
    Captured,
    ChangeLid,
    Cut,
    DatagramArrived,
    KillSubnetManager,
    KillSwitch,
    MadArrived,
    MakeLossy,
    Mend,
    PortEvent,
    Reregister,
    ReviveSubnetManager,
    ReviveSwitch,
    SendDatagram,
    SendMad,
    SetIsSm,
    SetPkeys,
    SubnetEffect,
    SubnetEvent,
    SubnetLog,
)
from ibbond.fabric.generation import Generation
from ibbond.fabric.hca import Hca, QueuePair
from ibbond.fabric.node import Node
from ibbond.fabric.packet import Packet, datagram_packet, mad_packet
from ibbond.fabric.partitions import DEFAULT_PARTITION, Partition
from ibbond.fabric.port import PKEYS_PER_PORT, Port, PortCounters
from ibbond.fabric.schedule import Schedule
from ibbond.fabric.subnet_manager import Plan, SmEffect, SubnetManager
from ibbond.fabric.switch import Switch
from ibbond.fabric.timing import Timing
from ibbond.fabric.transit import Transit, Walk
from ibbond.fabric.trap_agent import TrapAgent
from ibbond.fabric.verbs import FIRST_MLID, Datagram, ManagementDatagram, PortEventKind, PortState
from ibbond.machine import Waiting, earliest
from ibbond.wire.mad import MadHeader, ManagementClass, Method
from ibbond.wire.perf import PerfMad
from ibbond.wire.port_info import Capability, PhysicalState
from ibbond.wire.sa import is_rmpp_control
from ibbond.wire.smp import Smp, SmpAttribute

FIRST_HCA_GUID, FIRST_SWITCH_GUID, GUID_STEP = 0x0002C90300100000, 0x0002C90300200000, 16
MANAGERS = 3  # a master and two standbys, each at port 0 of a switch
SUBNET_CLASSES = (ManagementClass.SUBNET_LID_ROUTED, ManagementClass.SUBNET_DIRECTED_ROUTE)


class Subnet:
    """Nodes, cables and their managers. Names are `h1/1` and `s1/7`; unknown ones raise `Refused`.

    Build it (`add_switch`, `add_hca`, `connect`, `add_partition`), then `start`. With `built_in_manager` off
    nothing manages it until software at some port does, by `SendMad` and `MadArrived`.
    """

    def __init__(
        self,
        *,
        generation: Generation,
        random: random.Random,
        timing: Timing | None = None,
        built_in_manager: bool = True,
    ) -> None:
        self.timing = timing if timing is not None else Timing()
        self.nodes: dict[str, Node] = {}
        self.cables: list[Cable] = []
        self.plan = Plan()
        self.managers: dict[str, SubnetManager] = {}  # by the name of their port
        self.malformed = 0  # MADs that could not be read
        self._managers_wanted = built_in_manager  # killed ones do not start with their switch
        self._generation = generation
        self._built_in = built_in_manager
        self._schedule = Schedule()
        self._effects: list[SubnetEffect] = []
        self._transit = Transit(self._schedule, random, self.timing.hop_ns, self._deliver, self._captured)
        self._traps = TrapAgent(self._send_mad)
        self._partitions: list[Partition] = [DEFAULT_PARTITION]
        self._places: list[str] = []
        self._started = False

    # ---- building

    def add_switch(self, name: str, ports: int = 36, *, mtu_bytes: int = 4096) -> Switch:
        count = sum(isinstance(node, Switch) for node in self.nodes.values())
        switch = Switch(name, FIRST_SWITCH_GUID + count * GUID_STEP, ports, mtu_bytes)
        self._add(switch, ports)
        return switch

    def add_hca(self, name: str, ports: int = 2, node_guid: int | None = None, *, mtu_bytes: int = 4096) -> Hca:
        count = sum(isinstance(node, Hca) for node in self.nodes.values())
        hca = Hca(name, FIRST_HCA_GUID + count * GUID_STEP if node_guid is None else node_guid, ports, mtu_bytes)
        self._add(hca, ports)
        return hca

    def connect(self, a: str, b: str) -> None:
        """Plug a cable in; it trains to Init at once."""
        ends = [self.port(a), self.port(b)]
        for end in ends:
            if end.cable is not None:
                used = end.cable.other(end).name
                raise Refused(f"cannot connect {a} with {b}", why=f"{end.name} leads to {used}", fix="Use another port")
            if end.number == 0:
                raise Refused(f"cannot connect {a} with {b}", why=f"{end.name} is inside the switch", fix="Use 1 or up")
        if ends[0] is ends[1]:
            raise Refused(f"cannot connect {a} with itself", why="a cable has two ends", fix="Name another port")
        cable = Cable(*ends)
        self.cables.append(cable)
        for end in ends:
            end.cable = cable
        self._light(cable)

    def add_partition(self, partition: Partition) -> None:
        """Before `start`: a P_Key with its members and broadcast group; one with the default's key replaces it."""
        for name in (*(partition.full or ()), *partition.limited):
            self.port(name)
        key = partition.full_pkey
        self._partitions = [
            own for own in self._partitions if own.full_pkey != key or own.pkey != DEFAULT_PARTITION.pkey
        ]
        if any(own.full_pkey == key for own in self._partitions):
            raise Refused(
                f"cannot add partition {partition.name}", why=f"{key:#06x} is in use", fix="Choose another key"
            )
        at = 0 if key == DEFAULT_PARTITION.pkey else len(self._partitions)
        self._partitions.insert(at, partition)

    def place_manager(self, port: str) -> None:
        """Before `start`: the one port at which a built-in manager sits; else port 0 of the first switches."""
        chosen = self.port(port)
        if not chosen.is_end_port:
            raise Refused(f"no subnet manager at {port}", why="it has no LID", fix=f"Choose {chosen.node.name}/0")
        self._places = [chosen.name]

    def start(self, now: int) -> list[SubnetEffect]:
        """The first sweep. With `Timing()` the subnet is up when this returns."""
        self._schedule.run(now)
        self._started = True
        self.plan.partitions = self._partitions
        self.plan.pkeys = {port.guid: self._planned_pkeys(port) for port in self.end_ports()}
        if self._built_in:
            for rank, name in enumerate(self._places or self._default_places()):
                self.managers[name] = SubnetManager(self.port(name).guid, self.timing, self.plan, max(rank - 1, 0))
            self._revive_managers(now)
        self._schedule.run(now)
        return self._take()

    # ---- the three verbs

    def handle(self, now: int, event: SubnetEvent) -> list[SubnetEffect]:
        """Take an event in; an impossible one raises `Refused` and has changed nothing."""
        self._run(now)
        match event:
            case SendDatagram(port, datagram):
                self._send_datagram(self.port(port), datagram)
            case SendMad(port, mad):
                self._send_mad(self.port(port), mad)
            case Cut(port):
                self._plug(port, False)
            case Mend(port):
                self._plug(port, True)
            case MakeLossy(port, loss):
                self._make_lossy(port, loss)
            case KillSwitch(node):
                self._kill_switch(node)
            case ReviveSwitch(node):
                self._revive_switch(now, node)
            case KillSubnetManager():
                self._kill_managers()
            case ReviveSubnetManager():
                if not self.managers:
                    why = "the subnet has none built in"
                    raise Refused("cannot revive the subnet manager", why=why, fix="Start OpenSM at a port")
                self._revive_managers(now)
            case SetPkeys(port, pkeys):
                self._set_pkeys(now, self._managed(port), pkeys)
            case ChangeLid(port, lid):
                self._change_lid(now, self._managed(port), lid)
            case Reregister(port):
                chosen = self._managed(port)
                place, manager = self._master(f"cannot have {port} register anew")
                self._manage(place, manager.reregister(now, chosen.guid))
            case SetIsSm(port, on):
                self._set_is_sm(self.port(port), on)
        self._run(now)
        return self._take()

    def tick(self, now: int) -> list[SubnetEffect]:
        self._run(now)
        return self._take()

    def deadline(self) -> int | None:
        waiting: list[Waiting] = [self._schedule, self._traps, *self.managers.values()]
        return earliest(waiting)

    # ---- facts

    def port(self, name: str) -> Port:
        """The live port of this name."""
        node_name, _, number = name.partition("/")
        node = self.node(node_name)
        port = node.ports.get(int(number)) if number.isascii() and number.isdigit() else None
        if port is None:
            numbers = f"{min(node.ports)} to {max(node.ports)}"
            raise Refused(f"no port {name}", why=f"{node_name} has ports {numbers}", fix="Name one of these")
        return port

    def node(self, name: str) -> Node:
        node = self.nodes.get(name)
        if node is None:
            known = ", ".join(list(self.nodes)[:12]) or "none"
            raise Refused(f"no node {name} in the subnet", why=f"its nodes are {known}", fix="Name one of these")
        return node

    def end_ports(self) -> Iterator[Port]:
        for node in self.nodes.values():
            yield from (port for port in node.ports.values() if port.is_end_port)

    def counters(self, port: str) -> PortCounters:
        """A copy of what the port has counted."""
        return replace(self.port(port).counters)

    @property
    def manager(self) -> SubnetManager | None:
        """The built-in manager that is master now."""
        return next((manager for manager in self.managers.values() if manager.is_master), None)

    # ---- verbs of a host

    def create_queue_pair(self, port: str, *, qkey: int = 0, kind: str = "UD") -> int:
        own = self.port(port)
        return self._hca(own).create(own, kind, qkey).qpn

    def set_qkey(self, port: str, qpn: int, qkey: int) -> None:
        self._queue_pair(port, qpn).qkey = qkey
        self._generation.bump()

    def attach(self, port: str, qpn: int, mgid: bytes, mlid: int) -> None:
        """Have the queue pair receive what is sent to the group."""
        self._queue_pair(port, qpn).groups[mgid] = mlid

    def detach(self, port: str, qpn: int, mgid: bytes) -> None:
        self._queue_pair(port, qpn).groups.pop(mgid, None)

    def destroy_queue_pair(self, port: str, qpn: int) -> None:
        pair = self._queue_pair(port, qpn)
        del self._hca(pair.port).queue_pairs[qpn]
        self._generation.bump()

    def walk(self, port: str, dlid: int) -> Walk | None:
        """For the fast path: the way of unicast packets now; None when they must go by `SendDatagram`."""
        return self._transit.walk(self.port(port), dlid)

    def accepts(self, port: str, pkey: int, qpn: int, qkey: int) -> bool:
        """A datagram that arrives at this port would pass the checks of `DatagramArrived` (nothing is counted)."""
        own = self.port(port)
        pair = self._hca(own).queue_pairs.get(qpn)
        return pair is not None and pair.port is own and pair.qkey == qkey and own.admits(pkey)

    def tap(self, port: str, on: bool) -> None:
        """Begin or end to hand out `Captured` for every frame at the port."""
        self.port(port).tapped = on
        self._generation.bump()

    # ---- what agents report (management_agent.Listener)

    def port_event(self, port: Port, kind: PortEventKind) -> None:
        if isinstance(port.node, Hca):
            self._effects.append(PortEvent(port.name, kind))
        manager = self.managers.get(port.name)
        if manager is not None and kind is PortEventKind.SM_CHANGE and port.sm_lid != port.lid:
            manager.overruled(self._schedule.now)

    def routes_changed(self) -> None:
        self._generation.bump()

    def retrain(self, port: Port) -> None:
        if port.cable is not None:
            self._darken(port.cable)
            port.change(physical_state=PhysicalState.POLLING)
            self._light(port.cable)

    def disable(self, port: Port) -> None:
        if port.cable is not None:
            self._darken(port.cable)
        port.change(physical_state=PhysicalState.DISABLED)

    def m_key_violated(self, port: Port, smp: Smp) -> None:
        self._effects.append(SubnetLog("SMP with a wrong M_Key", port.name))

    # ---- time

    def _run(self, now: int) -> None:
        """Do what is due, managers included, until nothing is."""
        self._schedule.run(now)
        self._traps.tick(now)
        self._schedule.run(now)
        for name, manager in self.managers.items():
            while (at := manager.deadline()) is not None and at <= now:
                port = self.port(name)
                self._manage(name, manager.tick(now, port.lid, port.sm_lid))
                self._schedule.run(now)

    def _take(self) -> list[SubnetEffect]:
        effects, self._effects = self._effects, []
        return effects

    # ---- packets

    def _send_datagram(self, port: Port, datagram: Datagram) -> None:
        key = next((key for key in port.pkeys if not (key ^ datagram.pkey) & 0x7FFF and key & 0x7FFF), None)
        if datagram.pkey not in port.pkeys:
            if key is None:
                port.counters.transmit_discards += 1
                return
            datagram = replace(datagram, pkey=key)  # the packet carries the table's own form of the key
        self._transit.send(port, datagram_packet(datagram))

    def _send_mad(self, port: Port, mad: ManagementDatagram) -> None:
        if len(mad.mad) != 256:
            self.malformed += 1
            return
        packet = mad_packet(mad, management=mad.mad[1] in SUBNET_CLASSES)
        if mad.mad[1] == ManagementClass.SUBNET_DIRECTED_ROUTE:
            packet.directed = bytearray(mad.mad)
        self._transit.send(port, packet)

    def _deliver(self, port: Port, packet: Packet) -> None:
        """A packet has reached an end port."""
        content = packet.content
        if isinstance(content, Datagram):
            if isinstance(port.node, Hca):
                for qpn in port.node.receivers(port, content):
                    self._effects.append(DatagramArrived(port.name, content, qpn))
            return
        raw = bytes(packet.directed) if packet.directed is not None else content.mad
        try:
            header = MadHeader.parse(raw)
            if header.management_class in SUBNET_CLASSES:
                self._deliver_smp(port, packet, content, Smp.parse(raw), raw)
            elif header.management_class == ManagementClass.PERFORMANCE and not header.is_response:
                reply = performance_agent.answer(port.node, PerfMad.parse(raw))
                self._reply(port, content, reply.pack())
            else:
                self._to_software(port, replace(content, mad=raw), header)
        except Malformed:
            self.malformed += 1

    def _deliver_smp(self, port: Port, packet: Packet, content: ManagementDatagram, smp: Smp, raw: bytes) -> None:
        if smp.directed and packet.directed is None and not smp.returning:
            self._transit.start_directed(port, packet, bytearray(raw))
        elif smp.method == Method.TRAP_REPRESS:
            self._traps.repress(port, smp)
        elif smp.returning or smp.method in (Method.GET_RESP, Method.TRAP) or self._asks_manager(port, smp):
            self._to_software(port, replace(content, mad=raw), MadHeader.parse(raw))
        else:
            answer = management_agent.answer(self._schedule.now, port.node, port, smp, self)
            if answer is not None:
                self._reply(port, content, answer.pack())

    def _asks_manager(self, port: Port, smp: Smp) -> bool:
        """SMInfo is answered by the manager at the port; where there is none, the agent says that it knows none."""
        managed = bool(self._end_port(port).info.capability_mask & Capability.IS_SM)
        return smp.attribute == SmpAttribute.SM_INFO and managed

    def _reply(self, port: Port, request: ManagementDatagram, mad: bytes) -> None:
        reply = ManagementDatagram(
            request.destination_lid, request.source_lid, request.destination_qpn, request.source_qpn, mad
        )
        self._schedule.after(self.timing.agent_ns, self._send_mad, port, reply)

    def _to_software(self, port: Port, mad: ManagementDatagram, header: MadHeader) -> None:
        """A MAD that no agent answers: for the built-in manager here, else for programs at the port."""
        end = self._end_port(port)
        manager = self.managers.get(end.name)
        if manager is not None and manager.alive and _is_for_manager(header, mad.mad, manager):
            self._manage(end.name, manager.handle(self._schedule.now, mad))
        else:
            self._effects.append(MadArrived(end.name, mad))

    def _captured(self, port: Port, packet: Packet, sent: bool) -> None:
        self._effects += [Captured(port.name, frame, sent) for frame in frame_of(packet)]

    def _end_port(self, port: Port) -> Port:
        return port.node.ports[0] if isinstance(port.node, Switch) else port

    # ---- links

    def _light(self, cable: Cable) -> None:
        """Train the link if nothing stands in the way: both ports go to Init."""
        ends = (cable.a, cable.b)
        dark = any(not end.node.alive or end.physical_state == PhysicalState.DISABLED for end in ends)
        if dark or not cable.plugged or cable.a.peer is not None:
            return
        for end in ends:
            end.peer = cable.other(end)
            end.change(state=PortState.INIT, physical_state=PhysicalState.LINK_UP)
        self._generation.bump()
        self._tell_of_link(ends)

    def _darken(self, cable: Cable, failed: bool = False) -> None:
        """Both ports leave the link in one step; `failed` counts it as a fault."""
        if cable.a.peer is None:
            return
        ends = (cable.a, cable.b)
        cable.epoch += 1
        active = [end for end in ends if end.state == PortState.ACTIVE]
        for end in ends:
            end.peer = None
            end.counters.link_downed += failed
            end.change(state=PortState.DOWN, physical_state=PhysicalState.POLLING)
        self._generation.bump()
        for end in active:
            if end.is_end_port:
                self.port_event(end, PortEventKind.PORT_ERR)
        self._tell_of_link(ends)

    def _tell_of_link(self, ends: tuple[Port, Port]) -> None:
        for end in ends:
            own = self._end_port(end)
            if isinstance(end.node, Switch) and end.node.alive:
                end.node.set_port_state_change(True)
                self._traps.link_state(self._schedule.now, own)
            manager = self.managers.get(own.name)
            if manager is not None and manager.alive:
                self._manage(own.name, manager.changed_nearby(self._schedule.now))

    def _plug(self, name: str, plugged: bool) -> None:
        port = self.port(name)
        if port.cable is None:
            raise Refused(f"no cable at {name}", why="nothing is connected there", fix="Name an end of a cable")
        cable = port.cable
        if cable.plugged == plugged:
            return
        cable.plugged = plugged
        what = "link mended" if plugged else "link cut"
        self._effects.append(SubnetLog(what, f"{cable.a.name} - {cable.b.name}"))
        if plugged:
            self._light(cable)
        else:
            self._darken(cable, failed=True)

    def _make_lossy(self, name: str, loss: float) -> None:
        port = self.port(name)
        if port.cable is None or not 0 <= loss <= 1:
            why = "nothing is connected there" if port.cable is None else f"{loss} is not between 0 and 1"
            raise Refused(f"cannot make {name} lossy", why=why, fix="Name an end of a cable and a share of packets")
        port.cable.loss = loss
        self._generation.bump()

    def _kill_switch(self, name: str) -> None:
        switch = self._switch(name)
        if not switch.alive:
            return
        switch.alive = False
        self._effects.append(SubnetLog("switch died", name))
        manager = self.managers.get(switch.management_port.name)
        if manager is not None:
            manager.stop()
        self._traps.forget(switch.management_port)
        for cable in self._cables_of(switch):
            self._darken(cable, failed=True)
        switch.forget()

    def _revive_switch(self, now: int, name: str) -> None:
        """It boots: links train, and the manager embedded in it starts again."""
        switch = self._switch(name)
        if switch.alive:
            return
        switch.alive = True
        self._effects.append(SubnetLog("switch revived", name))
        for cable in self._cables_of(switch):
            self._light(cable)
        if self._managers_wanted:
            self._revive_managers(now)

    def _cables_of(self, node: Node) -> list[Cable]:
        return [port.cable for port in node.ports.values() if port.cable is not None]

    # ---- managers

    def _default_places(self) -> list[str]:
        """Managed switches, as many as are worth it; without any the first host."""
        switches = [node.management_port.name for node in self.nodes.values() if isinstance(node, Switch)]
        hosts = [node.ports[1].name for node in self.nodes.values() if isinstance(node, Hca)]
        return switches[:MANAGERS] or hosts[:1]

    def _kill_managers(self) -> None:
        self._managers_wanted = False
        for name, manager in self.managers.items():
            if manager.alive:
                manager.stop()
                self._capability(self.port(name), False)
                self._effects.append(SubnetLog("subnet manager died", name))

    def _revive_managers(self, now: int) -> None:
        """The first whose node lives becomes master if there is none, the others stand by."""
        self._managers_wanted = True
        for name, manager in self.managers.items():
            if not manager.alive and self.port(name).node.alive:
                self._capability(self.port(name), True)
                self._manage(name, manager.start(now) if self.manager is None else manager.stand_by(now))

    def _manage(self, name: str, effects: list[SmEffect]) -> None:
        port = self.nodes[name.partition("/")[0]].ports[int(name.partition("/")[2])]
        for effect in effects:
            if isinstance(effect, SubnetLog):
                self._effects.append(effect)
            else:
                self._send_mad(port, effect)

    def _master(self, what: str) -> tuple[str, SubnetManager]:
        for name, manager in self.managers.items():
            if manager.is_master:
                return name, manager
        raise Refused(what, why="no built-in subnet manager is alive", fix="Revive it, or ask the one that runs")

    def _managed(self, name: str) -> Port:
        port = self.port(name)
        if not port.is_end_port:
            raise Refused(f"cannot manage {name}", why="it has no LID of its own", fix=f"Name {port.node.name}/0")
        return port

    def _planned_pkeys(self, port: Port) -> tuple[int, ...]:
        keys = (partition.key_of(port.name) for partition in self._partitions)
        return tuple(key for key in keys if key is not None)

    def _set_pkeys(self, now: int, port: Port, pkeys: tuple[int, ...]) -> None:
        what = f"cannot set the P_Keys of {port.name}"
        place, manager = self._master(what)
        if len(pkeys) > PKEYS_PER_PORT // 2 or any(not 0 <= key <= 0xFFFF for key in pkeys):
            raise Refused(what, why="a table has at most 32 keys of 16 bits here", fix="Name fewer, or smaller ones")
        if isinstance(port.node, Switch):
            raise Refused(what, why="switches do not enforce partitions here", fix="Name a host's port")
        self.plan.pkeys[port.guid] = pkeys
        self._manage(place, manager.sweep_now(now))

    def _change_lid(self, now: int, port: Port, lid: int) -> None:
        what = f"cannot give {port.name} LID {lid}"
        place, manager = self._master(what)
        if not 0 < lid < FIRST_MLID:
            raise Refused(what, why="a unicast LID is 1 to 49151", fix="Choose one of these")
        holder = next((other for other in self.end_ports() if other.lid == lid and other is not port), None)
        if holder is not None:
            raise Refused(what, why=f"{holder.name} has it", fix="Choose a free one")
        self.plan.lids[port.guid] = lid
        self._manage(place, manager.sweep_now(now))

    def _set_is_sm(self, port: Port, on: bool) -> None:
        self._capability(port, on)
        self._traps.capabilities(self._schedule.now, self._end_port(port))

    def _capability(self, port: Port, on: bool) -> None:
        mask = port.info.capability_mask
        port.change(capability_mask=mask | Capability.IS_SM if on else mask & ~Capability.IS_SM)

    # ---- names

    def _add(self, node: Node, ports: int) -> None:
        if node.name in self.nodes:
            raise Refused(f"cannot add {node.name}", why="the subnet has a node of that name", fix="Choose another")
        if not 1 <= ports <= 254 or "/" in node.name or not node.name:
            raise Refused(
                f"cannot add {node.name!r}", why="1 to 254 ports and a name without / are needed", fix="Choose"
            )
        if any(node.guid == other.guid for other in self.nodes.values()):
            raise Refused(f"cannot add {node.name}", why=f"GUID {node.guid:016x} is in use", fix="Choose another")
        self.nodes[node.name] = node

    def _switch(self, name: str) -> Switch:
        node = self.node(name)
        if not isinstance(node, Switch):
            switches = ", ".join(other.name for other in self.nodes.values() if isinstance(other, Switch)) or "none"
            raise Refused(f"{name} is no switch", why=f"the switches are {switches}", fix="Name one of these")
        return node

    def _hca(self, port: Port) -> Hca:
        if not isinstance(port.node, Hca):
            raise Refused(f"no queue pairs at {port.name}", why="it is a switch port", fix="Name a host's port")
        return port.node

    def _queue_pair(self, port: str, qpn: int) -> QueuePair:
        own = self.port(port)
        pair = self._hca(own).queue_pairs.get(qpn)
        if pair is None or pair.port is not own:
            raise Refused(
                f"no queue pair {qpn:#x} at {port}", why="it was never made or is gone", fix="Create it first"
            )
        return pair


def _is_for_manager(header: MadHeader, mad: bytes, manager: SubnetManager) -> bool:
    if header.is_response or header.status & 0x8000:
        return manager.owns(header.transaction_id) or is_rmpp_control(mad)
    return header.management_class in (*SUBNET_CLASSES, ManagementClass.SUBNET_ADMINISTRATION)
