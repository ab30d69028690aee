"""The IPoIB interfaces of one host on the ports of its HCAs: created, driven by events, and their effects carried out.

Read first: `ipoib/events` for what an interface asks for, `verbs/verbs` for what a port offers. Queue pairs are
changed at once (verbs are calls); packets and MADs leave through the outbox. What lies above an interface, a bond or
its own IP side, is not known here.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Hashable, Iterable, Iterator
from functools import partial

from ibbond.cm.connection_manager import ConnectionManager
from ibbond.cm.events import CmEvent
from ibbond.errors import Refused
from ibbond.fabric.events import Post, SendDatagram, SendMad
from ibbond.fabric.port import Port
from ibbond.fabric.subnet import Subnet
from ibbond.ipoib.connected import ConnectedMode
from ibbond.ipoib.driver import CONNECTED, DATAGRAM, ipoib_device
from ibbond.ipoib.events import (
    AddressIs,
    AdminDown,
    AdminUp,
    Attach,
    CarrierIs,
    CloseQueuePair,
    ConnectionEvent,
    ConnectQueuePair,
    Detach,
    Dropped,
    EmitDatagram,
    EmitMad,
    EmitMessage,
    Frame,
    GroupsChanged,
    InterfaceEffect,
    InterfaceEvent,
    MadReceived,
    MtuChanged,
    MtuIs,
    PathsChanged,
    PortRaised,
    SendFailed,
    SetMode,
    SetQkey,
    TooLong,
)
from ibbond.ipoib.interface import Interface
from ibbond.ipoib.paths import StackNeighbors
from ibbond.machine import Deadlines
from ibbond.netdev.device import Device, NetdevEvent
from ibbond.netdev.namespace import Namespace
from ibbond.stack.outbox import Outbox
from ibbond.stack.outgoing import Outgoing
from ibbond.verbs.generation import Generation
from ibbond.verbs.reliable_verbs import Completion, Operation, Peer, Status, Work
from ibbond.verbs.verbs import Datagram, PortEventKind
from ibbond.wire.hwaddr import RC_SUPPORTED
from ibbond.wire.pkey import FULL_MEMBER
from ibbond.wire.port_info import MTU_BYTES

NAME_BYTES = 10  # how much of the parent's name is in a child's

EVENTS: dict[NetdevEvent, type[AdminUp | AdminDown | GroupsChanged | MtuChanged]] = {
    NetdevEvent.UP: AdminUp,
    NetdevEvent.DOWN: AdminDown,
    NetdevEvent.RX_MODE: GroupsChanged,
    NetdevEvent.CHANGEMTU: MtuChanged,
}


class IpoibInterfaces:
    """The interfaces of one host by device name. Their deadlines are in the host's deadline queue, by interface.

    `too_long` is called with packets that exceed a link's MTU.
    """

    def __init__(
        self,
        subnet: Subnet,
        namespace: Namespace,
        generation: Generation,
        outbox: Outbox,
        agenda: Deadlines[Hashable],
        connection_manager: ConnectionManager,
        too_long: Callable[[Device, bytes, int], None],
        *,
        old_neighbors: StackNeighbors | None = None,
    ) -> None:
        self._subnet = subnet
        self._namespace = namespace
        self._generation = generation
        self._outbox = outbox
        self._agenda = agenda
        self._connection_manager = connection_manager
        self._too_long = too_long
        self._old_neighbors = old_neighbors
        self._interfaces: dict[str, Interface] = {}
        self._by_port: dict[str, list[Interface]] = {}
        self._by_queue_pair: dict[tuple[str, int], Interface] = {}  # port, QPN; those of connections too
        self._parents: dict[str, str] = {}  # child -> parent
        self.lost = 0  # datagrams that no interface took: reflected, for groups just left, of devices that are down

    def __iter__(self) -> Iterator[Interface]:
        return iter(tuple(self._interfaces.values()))

    def get(self, name: str) -> Interface | None:
        return self._interfaces.get(name)

    @property
    def ports(self) -> tuple[str, ...]:
        return tuple(self._by_port)

    def children(self, parent: str) -> list[str]:
        return [child for child, its in self._parents.items() if its == parent]

    def parent(self, name: str) -> str | None:
        """The device that a partition child was made of; None for a parent."""
        return self._parents.get(name)

    def add(self, name: str, port_name: str, *, pkey: int | None = None, connected_mode: bool = True) -> Device:
        """A new interface on a port, down; `pkey` None follows the first key of the port's table.

        Without `connected_mode` its driver has none, and its address says so.
        """
        port = self._subnet.port(port_name)
        qpn = self._subnet.create_queue_pair(port_name)
        device = ipoib_device(name, port, qpn, pkey=pkey, flags=RC_SUPPORTED if connected_mode else 0)
        interface = Interface(
            device,
            port,
            qpn=qpn,
            pkey=pkey,
            old_neighbors=self._old_neighbors,
            connected_mode=self._connected_mode(name, port) if connected_mode else None,
        )
        self._interfaces[name] = interface
        self._by_port.setdefault(port_name, []).append(interface)
        self._by_queue_pair[port_name, qpn] = interface
        self._namespace.register(device)
        return device

    def _connected_mode(self, name: str, port: Port) -> ConnectedMode:
        return ConnectedMode(
            self._connection_manager,
            partial(self._connection_event, name),
            port.node.guid,
            partial(self._subnet.create_reliable, port.name, None),
        )

    def _connection_event(self, name: str, now: int, event: CmEvent) -> None:
        interface = self._interfaces.get(name)
        if interface is not None:
            self._handle(now, interface, ConnectionEvent(event))

    def add_child(self, parent: str, pkey: int) -> Device:
        """`create_child`: a second interface on the parent's port, for another partition."""
        what = f"cannot create a child of {parent} for P_Key 0x{pkey:04x}"
        above = self._parent_interface(parent, what)
        if not 0 < pkey <= 0xFFFF or pkey == FULL_MEMBER:
            raise Refused(what, why="a P_Key is 0x0001 to 0xffff and not 0x8000", fix="Choose another P_Key")
        name = f"{parent[:NAME_BYTES]}.{pkey:04x}"
        siblings = [self._interfaces[child] for child in self.children(parent)]
        if any(each.pkey == pkey | FULL_MEMBER for each in (above, *siblings)) or name in self._namespace:
            raise Refused(
                what,
                why=f"{parent} or a child of it has this P_Key already",
                fix="Use the existing device",
                code=errno.ENOTUNIQ,
            )
        connected_mode = bool(above.device.address[0] & RC_SUPPORTED)
        device = self.add(name, above.port.name, pkey=pkey, connected_mode=connected_mode)
        self._parents[name] = parent
        return device

    def child_of(self, parent: str, pkey: int) -> str:
        """The name of the child that has this P_Key; refused when there is none."""
        what = f"cannot delete the child of {parent} for P_Key 0x{pkey:04x}"
        self._parent_interface(parent, what)
        for name in self.children(parent):
            if self._interfaces[name].pkey == pkey | FULL_MEMBER:
                return name
        raise Refused(what, why="it does not exist", fix=f"See the children of {parent}", code=errno.ENODEV)

    def remove(self, now: int, name: str) -> None:
        """The device goes, and its queue pair with it."""
        interface = self._interfaces[name]
        self._namespace.unregister(interface.device)  # closes it: groups are left
        del self._interfaces[name]
        self._parents.pop(name, None)
        self._by_port[interface.port.name].remove(interface)
        del self._by_queue_pair[interface.port.name, interface.qpn]
        self._agenda.report(interface, None)
        self._subnet.destroy_queue_pair(interface.port.name, interface.qpn)
        self._generation.bump()

    def set_mode(self, now: int, name: str, *, connected: bool) -> None:
        """`/sys/class/net/NAME/mode`: may be refused."""
        interface = self._interfaces.get(name)
        if interface is None:
            why, fix = "it is not an IPoIB device", "Choose one such as ib0"
            raise Refused(f"cannot set the mode of {name}", why=why, fix=fix)
        self._handle(now, interface, SetMode(connected))

    def mode(self, name: str) -> str:
        """What the `mode` file says."""
        return CONNECTED if self._interfaces[name].connected else DATAGRAM

    def noticed(self, now: int, notice: NetdevEvent, device: Device) -> None:
        """A device of the host changed; IPoIB devices are notified."""
        event = EVENTS.get(notice)
        interface = self._interfaces.get(device.name)
        if event is not None and interface is not None and interface.device is device:
            self._handle(now, interface, event())

    def port_raised(self, now: int, port: str, kind: PortEventKind) -> None:
        for interface in tuple(self._by_port.get(port, ())):
            self._handle(now, interface, PortRaised(kind))

    def mad_arrived(self, now: int, port: str, mad: bytes) -> None:
        """Each interface knows its own questions."""
        for interface in tuple(self._by_port.get(port, ())):
            self._handle(now, interface, MadReceived(mad))

    def send(self, now: int, name: str, frame: Outgoing) -> None:
        """Through this interface; it waits or drops where it must."""
        interface = self._interfaces[name]
        effects = interface.encapsulate(
            now, frame.destination, frame.ethertype, frame.payload, frame.offload, frame.next_hop
        )
        if len(effects) == 1 and isinstance(effects[0], EmitDatagram):  # the usual case changes nothing else
            self._outbox.send(SendDatagram(interface.port.name, effects[0].datagram))
        elif len(effects) == 1 and isinstance(effects[0], EmitMessage):
            self._post(interface, effects[0])
        else:
            self._run(now, interface, effects)

    def receive(self, port: str, qpn: int, datagram: Datagram) -> tuple[Device, Frame] | None:
        """What a datagram for this queue pair brings, and to which device; None when it is dropped."""
        interface = self._by_queue_pair.get((port, qpn))
        frame = interface.decapsulate(datagram) if interface is not None else None
        if interface is None or frame is None:
            self.lost += 1
            return None
        return interface.device, frame

    def receive_message(
        self, now: int, port: str, qpn: int, payload: bytes, offload: bytes
    ) -> tuple[Device, Frame] | None:
        """The same for a message of a reliable connection."""
        interface = self._by_queue_pair.get((port, qpn))
        frame = interface.decapsulate_message(now, qpn, payload, offload) if interface is not None else None
        if interface is None or frame is None:
            self.lost += 1
            return None
        return interface.device, frame

    def work_done(self, now: int, port: str, qpn: int, completion: Completion) -> bool:
        """A work request completed; returns whether it belongs to IPoIB, as a failed one."""
        interface = self._by_queue_pair.get((port, qpn))
        if interface is None:
            return False
        if completion.status is not Status.SUCCESS:
            interface.device.statistics.tx_errors += 1
            self._handle(now, interface, SendFailed(qpn))
        return True

    def at(self, port: str, qpn: int) -> Interface | None:
        """The interface of a queue pair."""
        return self._by_queue_pair.get((port, qpn))

    def prepare(self, now: int, name: str, groups: Iterable[bytes], neighbors: Iterable[bytes]) -> None:
        """Have the interface join groups and find paths ahead of a switch; see `ready`."""
        interface = self._interfaces[name]
        self._run(now, interface, interface.prepare(now, groups, neighbors))

    def doubt(self, now: int, name: str, destination: bytes) -> None:
        """The path by which this interface sends to a 20-byte address may lead elsewhere."""
        interface = self._interfaces[name]
        self._run(now, interface, interface.doubt(now, destination))

    def prepare_more(self, now: int, name: str, groups: Iterable[tuple[bytes, bool]]) -> None:
        """Groups (20-byte addresses) that are now wanted ahead of a switch, or no longer."""
        interface = self._interfaces[name]
        self._run(now, interface, interface.prepare_more(now, groups))

    def ready(self, name: str) -> bool:
        interface = self._interfaces.get(name)
        return interface is None or interface.ready()

    def superseded(self, now: int, name: str) -> None:
        """Another member carries the bond's traffic from now on."""
        interface = self._interfaces.get(name)
        if interface is not None:
            self._run(now, interface, interface.superseded())

    def tick(self, now: int, interface: Interface) -> None:
        """The deadline of this interface has come."""
        self._run(now, interface, interface.tick(now))

    def _parent_interface(self, name: str, what: str) -> Interface:
        interface = self._interfaces.get(name)
        if interface is None or name in self._parents:
            raise Refused(
                what,
                why=f"{name} is not a parent interface",
                fix="Choose an IPoIB device such as ib0",
                code=errno.ENODEV,
            )
        return interface

    def _handle(self, now: int, interface: Interface, event: InterfaceEvent) -> None:
        self._run(now, interface, interface.handle(now, event))

    def _post(self, interface: Interface, message: EmitMessage) -> None:
        """Through a connection; unless its send queue is full, when a kernel would stop its transmit queue."""
        port, qpn = interface.port.name, message.qpn
        if not self._subnet.has_room(port, qpn):
            interface.device.statistics.tx_dropped += 1
            return
        work = Work(0, Operation.SEND, inline=message.payload, offload=message.offload, signaled=False)
        self._outbox.send(Post(port, qpn, work))

    def _connect(self, interface: Interface, request: ConnectQueuePair) -> None:
        peer = Peer(
            request.dlid,
            request.peer_qpn,
            send_psn=request.psn,
            receive_psn=request.peer_psn,
            mtu_bytes=min(MTU_BYTES.get(request.mtu, 2048), interface.port.mtu_bytes),
            timeout=request.ack_timeout,
            retry_count=request.retries,
            pkey=interface.table_key,
            service_level=request.sl,
        )
        self._by_queue_pair[interface.port.name, request.qpn] = interface
        self._subnet.connect_reliable(interface.port.name, request.qpn, peer)

    def _run(self, now: int, interface: Interface, effects: Iterable[InterfaceEffect]) -> None:
        """Carry out what an interface asks for."""
        device, port, qpn = interface.device, interface.port.name, interface.qpn
        for effect in effects:
            match effect:
                case EmitDatagram(datagram):
                    self._outbox.send(SendDatagram(port, datagram))
                case EmitMad(mad):
                    self._outbox.send(SendMad(port, mad))
                case CarrierIs(up):
                    self._generation.bump()
                    device.set_carrier(up)
                case Attach(mgid, mlid):
                    self._subnet.attach(port, qpn, mgid, mlid)
                    self._generation.bump()
                case Detach(mgid):
                    self._subnet.detach(port, qpn, mgid)
                    self._generation.bump()
                case SetQkey(qkey):
                    self._subnet.set_qkey(port, qpn, qkey)
                    self._generation.bump()
                case PathsChanged():
                    self._generation.bump()
                case MtuIs(mtu):
                    device.set_mtu(mtu)
                case AddressIs(address):
                    self._generation.bump()
                    device.address = device.permanent_address = address
                    device.notify(NetdevEvent.CHANGEADDR)
                case EmitMessage():
                    self._post(interface, effect)
                case ConnectQueuePair():
                    self._connect(interface, effect)
                case CloseQueuePair(closed):
                    self._by_queue_pair.pop((port, closed), None)
                    self._subnet.destroy_queue_pair(port, closed)
                case TooLong(packet, mtu):
                    self._too_long(device, packet, mtu)
                case Dropped():
                    pass  # counted in the device's statistics
        self._agenda.report(interface, interface.deadline())
