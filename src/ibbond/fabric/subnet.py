"""The subnet as one machine: events and time go in, what ports see comes out.

Read first: docs/architecture.md, walks 1 and 2, then `transit` (packets), `management_agent` (SMPs), `subnet_manager`.
With `Timing()` everything that follows from an event has happened when `handle` returns; with delays it is spread
over the ticks that `deadline` asks for. Left out: routers between subnets.
"""

from __future__ import annotations

import functools
import random as randomness
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from ibbond.errors import Refused
from ibbond.fabric.cable import Cable
from ibbond.fabric.capture import frames_of
from ibbond.fabric.events import (
    Captured,
    ChangeLid,
    Cut,
    DatagramArrived,
    FailQueuePair,
    KillAdapter,
    KillSubnetManager,
    KillSwitch,
    MakeLossy,
    Mend,
    MessageArrived,
    PortEvent,
    Post,
    Reregister,
    ReviveAdapter,
    ReviveSubnetManager,
    ReviveSwitch,
    SendDatagram,
    SendMad,
    SetIsSm,
    SetPkeys,
    SubnetEffect,
    SubnetEvent,
    WorkDone,
)
from ibbond.fabric.hca import Hca
from ibbond.fabric.inventory import Inventory
from ibbond.fabric.link_trainer import LinkTrainer
from ibbond.fabric.management_interfaces import ManagementInterfaces, end_port
from ibbond.fabric.managers import set_is_sm
from ibbond.fabric.node import Node
from ibbond.fabric.packet import Packet, datagram_packet
from ibbond.fabric.port import Port, PortCounters
from ibbond.fabric.reliable import Reliable
from ibbond.fabric.reliable_verbs import ReliableVerbs
from ibbond.fabric.switch import Switch
from ibbond.fabric.transit import PathTrace, Transit
from ibbond.machine import EventQueue, earliest
from ibbond.manager.partitions import Partition
from ibbond.manager.subnet_config import SubnetConfig
from ibbond.manager.subnet_manager import SubnetManager
from ibbond.verbs.generation import Generation
from ibbond.verbs.memory import ProtectionDomain
from ibbond.verbs.reliable_verbs import Completion, Peer, Queues, ReliableMessage
from ibbond.verbs.timing import Timing
from ibbond.verbs.verbs import Datagram, PortEventKind, SubnetLog


class Subnet:
    """Nodes, cables and their managers. Names are `h1/1` and `s1/7`; unknown ones raise `Refused`.

    Build it (`add_switch`, `add_hca`, `connect`, `add_partition`), then `start`. With `built_in_manager` off
    nothing manages it until software at some port does, by `SendMad` and `MadArrived`.
    """

    def __init__(
        self,
        *,
        generation: Generation,
        random: randomness.Random,
        timing: Timing | None = None,
        built_in_manager: bool = True,
        draw_key: Callable[[], int] | None = None,
    ) -> None:
        """`draw_key` gives 32 random bits for each key of registered memory; without it they follow from nothing."""
        self.timing = timing if timing is not None else Timing()
        self._generation = generation
        self._draw_key = draw_key or functools.partial(randomness.Random(0).getrandbits, 32)
        self._built_in = built_in_manager
        self._effects: list[SubnetEffect] = []
        self._schedule = EventQueue()
        self._inventory = Inventory()
        self._links = LinkTrainer(generation, self)
        self._transit = Transit(self._schedule, random, self.timing.hop_ns, self._deliver, self._captured)
        self._reliable = Reliable(self._schedule, self._transit, generation, self._work_done, self._delivered)
        self._management = ManagementInterfaces(
            self._schedule, self.timing, self._transit, self._inventory, self, self._effect
        )
        self._traps = self._management.traps
        self._managers = self._management.managers

    # ---- building

    def add_switch(
        self, name: str, ports: int = 36, node_guid: int | None = None, *, mtu_bytes: int = 4096, description: str = ""
    ) -> Switch:
        """A switch with ports 1 to `ports`; `mtu_bytes` (2048 or 4096) is the largest its ports carry."""
        return self._inventory.add_switch(name, ports, node_guid, mtu_bytes, description)

    def add_hca(
        self,
        name: str,
        ports: int = 2,
        node_guid: int | None = None,
        *,
        mtu_bytes: int = 4096,
        description: str = "",
        port_guids: Mapping[int, int] | None = None,
    ) -> Hca:
        """A host channel adapter. Its default GUID is the next of the plan; a port's is the node's plus its number."""
        return self._inventory.add_hca(name, ports, node_guid, mtu_bytes, description, port_guids)

    def connect(self, a: str, b: str) -> None:
        """Plug a cable in; it trains to Init at once."""
        self._links.light(self._inventory.connect(a, b))

    def add_partition(self, partition: Partition) -> None:
        """Before `start`: a P_Key with its members and broadcast group; one with the default's key replaces it."""
        self._managers.add_partition(partition)

    def place_manager(self, port: str) -> None:
        """Before `start`: the one port at which a built-in manager sits; else port 0 of the first switches."""
        self._managers.place(self.port(port))

    def start(self, now: int) -> list[SubnetEffect]:
        """The first sweep. With `Timing()` the subnet is up when this returns."""
        self._schedule.run(now)
        self._managers.plan_partitions()
        if self._built_in and self.nodes:
            self._managers.install(now)
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
                self._management.send(self.port(port), mad)
            case Post(port, qpn, request):
                self._reliable.post(self.port(port), qpn, request)
            case FailQueuePair(port, qpn):
                self._reliable.fail(self.port(port), qpn)
            case Cut(port):
                self._plug(self._inventory.cable(port), False)
            case Mend(port):
                self._plug(self._inventory.cable(port), True)
            case MakeLossy(port, loss):
                self._make_lossy(port, loss)
            case KillSwitch(node):
                self._kill_switch(self._inventory.switch(node))
            case ReviveSwitch(node):
                self._revive_switch(self._inventory.switch(node))
            case KillAdapter(node):
                self._power_adapter(self._inventory.adapter(node), False)
            case ReviveAdapter(node):
                self._power_adapter(self._inventory.adapter(node), True)
            case KillSubnetManager():
                self._managers.kill()
            case ReviveSubnetManager():
                self._managers.revive(now)
            case SetPkeys(port, pkeys):
                self._managers.set_pkeys(now, self._inventory.end_port(port), pkeys)
            case ChangeLid(port, lid):
                self._managers.change_lid(now, self._inventory.end_port(port), lid)
            case Reregister(port):
                self._managers.reregister(now, self._inventory.end_port(port))
            case SetIsSm(port, on):
                own = self._inventory.end_port(port)
                set_is_sm(own, on)
                self._traps.capabilities(now, own)
        self._run(now)
        return self._take()

    def tick(self, now: int) -> list[SubnetEffect]:
        self._run(now)
        return self._take()

    def deadline(self) -> int | None:
        return earliest(
            self._schedule.deadline(),
            self._traps.deadline(),
            *[manager.deadline() for manager in self.managers.values()],
        )

    def answer(self, now: int, port: Port, mad: bytes) -> bytes | None:
        """The answer to a Get or Set by a directed route, where `SendMad` would bring it at once; None where not.

        Empty when there is none. What a Set causes comes with the next event or tick.
        """
        self._schedule.run(now)
        if self._schedule.deadline() is not None:
            return None
        return self._management.answer(port, mad)

    # ---- facts

    @property
    def malformed(self) -> int:
        """MADs that could not be read."""
        return self._management.malformed

    @property
    def nodes(self) -> dict[str, Node]:
        """Switches and adapters by name."""
        return self._inventory.nodes

    @property
    def cables(self) -> list[Cable]:
        """All cables, also those that are cut."""
        return self._inventory.cables

    @property
    def managers(self) -> dict[str, SubnetManager]:
        """The built-in managers by the name of their port, in the order of precedence."""
        return self._managers.all

    @property
    def manager(self) -> SubnetManager | None:
        """The built-in manager that is master now."""
        return self._managers.master

    @property
    def config(self) -> SubnetConfig:
        """What the built-in managers configure: LIDs, P_Keys and partitions."""
        return self._managers.config

    def port(self, name: str) -> Port:
        """The live port of this name."""
        return self._inventory.port(name)

    def node(self, name: str) -> Node:
        """The switch or adapter of this name; `Refused` if no node has it."""
        return self._inventory.node(name)

    def adapter(self, name: str) -> Hca:
        """The channel adapter of this name; `Refused` when there is none."""
        return self._inventory.adapter(name)

    def end_ports(self) -> Iterator[Port]:
        """The ports with a LID of their own: those of hosts, and port 0 of every switch."""
        return self._inventory.end_ports()

    def counters(self, port: str) -> PortCounters:
        """A copy of what the port has counted."""
        self.flush_counters()
        return replace(self.port(port).counters)

    # ---- verbs of a host

    def create_queue_pair(self, port: str, *, qkey: int = 0, kind: str = "UD") -> int:
        """Create a queue pair (kind UD or RC) at a port and return its number."""
        own = self.port(port)
        return self._inventory.hca(own).create(own, kind, qkey).qpn

    def set_qkey(self, port: str, qpn: int, qkey: int) -> None:
        """Set the Q_Key that the queue pair sends and accepts."""
        self._inventory.queue_pair(port, qpn).qkey = qkey
        self._generation.bump()

    def attach(self, port: str, qpn: int, mgid: bytes, mlid: int) -> None:
        """Have the queue pair receive what is sent to the group."""
        self._inventory.queue_pair(port, qpn).groups[mgid] = mlid

    def detach(self, port: str, qpn: int, mgid: bytes) -> None:
        """Undo `attach`; without effect if it was not attached."""
        self._inventory.queue_pair(port, qpn).groups.pop(mgid, None)

    def destroy_queue_pair(self, port: str, qpn: int) -> None:
        """Destroy it; requests in flight complete as flushed."""
        pair = self._inventory.queue_pair(port, qpn)
        self._reliable.remove(pair.port, qpn)
        del self._inventory.hca(pair.port).queue_pairs[qpn]
        self._generation.bump()

    def new_domain(self) -> ProtectionDomain:
        """A protection domain, of any adapter."""
        return ProtectionDomain(self._draw_key)

    def create_reliable(self, port: str, domain: ProtectionDomain | None, queues: Queues | None = None) -> int:
        """A reliable queue pair that may touch the memory of the domain; not connected.

        Without `queues` its work is posted by `Post`, and comes back as `WorkDone`. Without a domain it is a driver's,
        whose messages come as `MessageArrived` and which posts `SEND`s only.
        """
        qpn = self.create_queue_pair(port, kind="RC")
        self._reliable.add(self.port(port), qpn, domain, queues)
        return qpn

    def connect_reliable(self, port: str, qpn: int, peer: Peer) -> None:
        """INIT to RTS; what was posted goes with the next event or tick."""
        self._reliable.connect(self.port(port), qpn, peer)

    def verbs(self, hca: Hca) -> ReliableVerbs:
        """The reliable queue pairs of an adapter, for programs that move them state by state."""
        return ReliableVerbs(self, hca, self._reliable, self._schedule)

    def advance(self, now: int) -> None:
        """Do what is due, before verbs are called; what follows is taken by the next event or tick."""
        self._schedule.run(now)

    @property
    def has_pending(self) -> bool:
        """Whether there is work to do before time advances: effects to be taken, or a schedule that is due."""
        due = self._schedule.deadline()
        return bool(self._effects) or (due is not None and due <= self._schedule.now)

    def flush_counters(self) -> None:
        """Bring counters of ports up to date with what queue pairs carried by the short way."""
        self._reliable.flush_counters()

    def has_room(self, port: str, qpn: int) -> bool:
        """Whether a driver may post one message more to its reliable queue pair."""
        return self._reliable.has_room(self.port(port), qpn)

    def carries(self, port: str, qpn: int, destination: str, peer_qpn: int) -> bool:
        """For the fast path: a message would go at once, with nothing before it, between these drivers' queue pairs."""
        return self._reliable.carries(self.port(port), qpn, self.port(destination), peer_qpn)

    def peer_of(self, port: str, qpn: int) -> int | None:
        """The queue pair that a reliable one is connected with."""
        pair = self._reliable.get(self.port(port), qpn)
        return pair.peer.qpn if pair is not None and pair.peer is not None else None

    def message_mtu(self, port: str, qpn: int) -> int:
        """Bytes in one packet of a message of this queue pair, at most; 0 before it is connected."""
        pair = self._reliable.get(self.port(port), qpn)
        return pair.peer.mtu_bytes if pair is not None and pair.peer is not None else 0

    def trace_path(self, port: str, dlid: int, *, mirrored: bool = False) -> PathTrace | None:
        """For the fast path: the way of unicast packets now; None when they must go by `SendDatagram`.

        If `mirrored`, capture points on the path do not disqualify it; the caller mirrors packets to them.
        """
        return self._transit.trace_path(self.port(port), dlid, mirrored=mirrored)

    def accepts(self, port: str, pkey: int, qpn: int, qkey: int) -> bool:
        """A datagram that arrives at this port would pass the checks of `DatagramArrived` (nothing is counted)."""
        own = self.port(port)
        pair = self._inventory.hca(own).queue_pairs.get(qpn)
        return pair is not None and pair.port is own and pair.qkey == qkey and own.admits(pkey)

    def mirror(self, port: str, on: bool) -> None:
        """Begin or end to hand out `Captured` for every frame at the port."""
        self.port(port).mirrored = on
        self._generation.bump()

    # ---- what agents and links report (management_agent.Listener, links.LinkListener)

    def port_event(self, port: Port, kind: PortEventKind) -> None:
        """Report an asynchronous event of an adapter port to its host."""
        if isinstance(port.node, Hca):
            self._effects.append(PortEvent(port.name, kind))
        if kind is PortEventKind.SM_CHANGE:
            self._managers.sm_lid_changed(self._schedule.now, port)

    def link_changed(self, port: Port) -> None:
        """React to a link that came up or went down: trap 128, and the managers are notified."""
        own = end_port(port)
        if isinstance(port.node, Switch) and port.node.alive:
            port.node.set_port_state_change(True)
            self._traps.link_state(self._schedule.now, own)
        self._managers.link_changed(self._schedule.now, own)

    def routes_changed(self) -> None:
        """A forwarding table has changed: flows take the slow path once."""
        self._generation.bump()

    def retrain(self, port: Port) -> None:
        """Have the link of the port train again."""
        self._links.retrain(port)

    def disable(self, port: Port) -> None:
        """Set the port's physical state to Disabled."""
        self._links.disable(port)

    def m_key_violated(self, port: Port) -> None:
        """Log an SMP with a wrong M_Key (IBTA 14.2.4)."""
        self._effects.append(SubnetLog("SMP with a wrong M_Key", port.name))

    # ---- time

    def _run(self, now: int) -> None:
        """Do what is due, managers included, until nothing is."""
        self._schedule.run(now)
        self._traps.tick(now)
        self._schedule.run(now)
        for name, manager in self.managers.items():
            while (at := manager.deadline()) is not None and at <= now:
                self._managers.tick(now, name, manager)
                self._schedule.run(now)

    def _take(self) -> list[SubnetEffect]:
        effects, self._effects = self._effects, []
        return effects

    def _effect(self, effect: SubnetEffect) -> None:
        self._effects.append(effect)

    # ---- faults

    def _plug(self, cable: Cable, plugged: bool) -> None:
        if cable.plugged != plugged:
            what = "link mended" if plugged else "link cut"
            self._effects.append(SubnetLog(what, f"{cable.a.name} - {cable.b.name}"))
            self._links.plug(cable, plugged)

    def _make_lossy(self, end: str, loss: float) -> None:
        cable = self._inventory.cable(end)
        if not 0 <= loss <= 1:
            why = f"{loss} is not between 0 and 1"
            raise Refused(f"cannot make {end} lossy", why=why, fix="Give the fraction of packets to lose")
        self._links.make_lossy(cable, loss)

    def _kill_switch(self, switch: Switch) -> None:
        if switch.alive:
            self._effects.append(SubnetLog("switch died", switch.name))
            self._managers.switch_died(switch)
            self._traps.forget(switch.management_port)
            self._links.power(switch, False)
            switch.forget()

    def _revive_switch(self, switch: Switch) -> None:
        """It boots: links train, and a manager embedded in it starts again."""
        if not switch.alive:
            self._effects.append(SubnetLog("switch revived", switch.name))
            self._links.power(switch, True)
            self._managers.switch_booted(self._schedule.now)

    def _power_adapter(self, hca: Hca, on: bool) -> None:
        """A manager on the adapter has no port then; it continues when the port is back, as OpenSM does."""
        if hca.alive is on:
            return
        self._effects.append(SubnetLog("adapter is back" if on else "adapter removed", hca.name))
        for port in hca.ports.values() if not on else ():
            self.port_event(port, PortEventKind.DEVICE_FATAL)
        self._links.power(hca, on)
        if not on:
            for port in hca.ports.values():
                self._traps.forget(port)
            hca.forget()

    # ---- packets

    def _send_datagram(self, port: Port, datagram: Datagram) -> None:
        if datagram.pkey not in port.pkeys:
            keys = [key for key in port.pkeys if not (key ^ datagram.pkey) & 0x7FFF and key & 0x7FFF]
            if not keys:
                port.counters.transmit_discards += 1
                return
            datagram = replace(datagram, pkey=keys[0])  # the packet carries the table's own form of the key
        self._transit.send(port, datagram_packet(datagram))

    def _deliver(self, port: Port, packet: Packet) -> None:
        """A packet has reached an end port."""
        content = packet.content
        if isinstance(content, ReliableMessage):
            self._reliable.arrived(port, content)
            return
        if isinstance(content, Datagram):
            if isinstance(port.node, Hca):
                for qpn in port.node.receivers(port, content):
                    self._effects.append(DatagramArrived(port.name, content, qpn))
            return
        if not packet.multicast:  # 9.6.1: which is for queue pair 0xffffff, and no MAD's
            self._management.arrived(port, content, packet.directed)

    def _work_done(self, port: Port, qpn: int, completion: Completion) -> None:
        self._effects.append(WorkDone(port.name, qpn, completion))

    def _delivered(self, port: Port, qpn: int, payload: bytes, offload: bytes) -> None:
        self._effects.append(MessageArrived(port.name, qpn, payload, offload))

    def _captured(self, port: Port, packet: Packet, sent: bool) -> None:
        self._effects += [Captured(port.name, frame, sent) for frame in frames_of(packet)]
