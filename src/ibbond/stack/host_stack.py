"""One host put together: its devices, IPoIB interfaces, bonds, and the IP side on top of them.

Read first: docs/architecture.md, walks 1 and 2. This is the one place that knows both bonding and IPoIB: frames go up
and down here (`frames`), carriers of interfaces become events for bonds, and the effects of a bond are carried out:
flows are invalid at once, announcements leave next, then come state, log and files. Left out: the kernel (live) or the
programs (simulated) behind the devices; they see `events`.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Hashable, Iterable
from dataclasses import dataclass
from functools import lru_cache, partial
from ipaddress import ip_address

from ibbond.bonding.bond import Bond
from ibbond.bonding.effects import BondEffect
from ibbond.bonding.events import AddressesChanged, BondEvent, Close, MemberChanged, Open, Ready, SetMtu
from ibbond.bonding.registry import Registry
from ibbond.cm.connection_manager import ConnectionManager
from ibbond.cm.events import CmEffect, Notify
from ibbond.errors import Malformed, Refused
from ibbond.fabric.events import SendMad
from ibbond.fabric.subnet import Subnet
from ibbond.ipoib.interface import Interface
from ibbond.ipoib.transmit import Path
from ibbond.machine import Deadlines
from ibbond.netdev.device import Device
from ibbond.netdev.namespace import Namespace
from ibbond.rdma_cm.events import RdmaCall, RdmaUserClosed
from ibbond.rdma_cm.users import RdmaUsers
from ibbond.stack.bond_effects import BondEffects
from ibbond.stack.ethernet import ethernet_device
from ibbond.stack.events import (
    AddressesAre,
    AttributeChanged,
    CreateBond,
    CreateChild,
    DeleteBond,
    DeleteChild,
    GroupJoined,
    GroupLeft,
    GroupsAre,
    HostEvent,
    RoutesAre,
    SetAdmin,
    SetDeviceMode,
    SetDeviceMtu,
    ToBond,
    TraceEvent,
    Transmit,
)
from ibbond.stack.frames import Frames, WayOut
from ibbond.stack.host_groups import GroupLimit
from ibbond.stack.ip_layer import IpLayer
from ibbond.stack.ipoib_interfaces import IpoibInterfaces
from ibbond.stack.netdev_events import NetdevEvents
from ibbond.stack.next_hop import NextHops
from ibbond.stack.outbox import HostEffect, Outbox
from ibbond.stack.rdma_host import HostForRdma
from ibbond.stack.standby import Standby
from ibbond.topology.model import listed
from ibbond.verbs.generation import Generation
from ibbond.verbs.reliable_verbs import Completion
from ibbond.verbs.verbs import Datagram, PortEventKind
from ibbond.wire.cm import CmMad
from ibbond.wire.mad import ManagementClass


@dataclass(frozen=True, eq=False, slots=True)
class _Bond:
    """A bond's key in the deadline queue; one for each name, so that keys differ by kind."""

    name: str


@dataclass(frozen=True, eq=False, slots=True)
class _Layer:
    """The key of a device's IP side, likewise."""

    name: str


class HostStack:
    """A host of the network. Every verb returns the effects in their order; a refused request raises `Refused`."""

    def __init__(
        self,
        name: str,
        subnet: Subnet,
        generation: Generation,
        *,
        profile: str = "default",
        without: Collection[str] = (),
    ) -> None:
        self.name = name
        self.now = 0
        self.malformed = 0  # connection MADs that could not be read
        self.namespace = Namespace()
        self.registry = Registry(self.namespace, profile=profile, without=without)
        self.next_hops = NextHops()
        self.group_limit = GroupLimit()
        self.ip: dict[str, IpLayer] = {}
        self.generation = generation
        self.outbox = Outbox()
        self._agenda: Deadlines[Hashable] = Deadlines()  # by interface, bond (_Bond) and IP side of a device (_Layer)
        self.connections = ConnectionManager()
        rules = self.registry.rules
        self.links = IpoibInterfaces(
            subnet,
            self.namespace,
            generation,
            self.outbox,
            self._agenda,
            self.connections,
            self._too_long,
            old_neighbors={} if rules.kernel("ipoib_neighbour") else None,
        )
        self.frames = Frames(self)
        self.rdma = RdmaUsers(self._for_rdma(), subnet, self.connections)
        self.standby = None if rules.kernel("cold_standby") else Standby(self)
        self._bond_effects = BondEffects(self, self.frames, generation)
        self._forwarding = False
        self._later: list[Callable[[], None]] = []  # follow-up work of a notification, done after its cause
        self._changed_bonds: dict[str, None] = {}  # bonds with new events
        self._preparing: dict[str, str] = {}  # member -> bond that waits for it
        self._bond_key = lru_cache(maxsize=None)(_Bond)
        self._layer_key = lru_cache(maxsize=None)(_Layer)
        self._touched_layers: dict[str, None] = {}  # their deadline may be another one
        self._touched_bonds: dict[str, None] = {}
        self._on_start: list[Callable[[], None]] = []
        NetdevEvents(self)

    # Building

    def add_interface(self, name: str, port: str, *, connected_mode: bool = True) -> Device:
        """An IPoIB device on a port of one of the host's HCAs; see `IpoibInterfaces.add`."""
        return self.links.add(name, port, connected_mode=connected_mode)

    def add_ethernet(self, name: str, number: int) -> Device:
        device = ethernet_device(name, number)
        self.namespace.register(device)
        return device

    def at_start(self, event: HostEvent) -> None:
        """Handle this when the network starts, in the order of asking."""
        self._on_start.append(partial(self._dispatch, event))

    @property
    def ports(self) -> tuple[str, ...]:
        return self.links.ports

    @property
    def forwarding(self) -> bool:
        """Whether the host is a router, as its neighbor advertisements say."""
        return self._forwarding

    @forwarding.setter
    def forwarding(self, on: bool) -> None:
        self._forwarding = on
        for layer in self.ip.values():
            layer.forwarding = on

    # The verbs

    def start(self, now: int) -> list[HostEffect]:
        self.now = now
        for step in self._on_start:
            step()
            self._run_pending()
        self._on_start.clear()
        return self.outbox.take()

    def handle(self, now: int, event: HostEvent) -> list[HostEffect]:
        """A fact of the kernel or a program, or a request. What happened before a refusal is in `take_effects`."""
        self.now = now
        try:
            self._dispatch(event)
        finally:
            self._run_pending()
        return self.outbox.take()

    def receive(self, now: int, port: str, qpn: int, datagram: Datagram) -> list[HostEffect]:
        """A datagram has come in at a queue pair of a port."""
        self.now = now
        self.frames.receive(now, port, qpn, datagram)
        self._run_pending()
        return self.outbox.take()

    def receive_message(self, now: int, port: str, qpn: int, payload: bytes, offload: bytes) -> list[HostEffect]:
        """A message has come in at a reliable queue pair of IPoIB."""
        self.now = now
        self.frames.receive_message(now, port, qpn, payload, offload)
        self._run_pending()
        return self.outbox.take()

    def mad_arrived(self, now: int, port: str, mad: bytes) -> list[HostEffect]:
        self.now = now
        if mad[1] == ManagementClass.COMMUNICATION:
            self._connection_mad(now, port, mad)
        else:
            self.links.mad_arrived(now, port, mad)
            self.rdma.mad_arrived(mad)
        self._run_pending()
        return self.outbox.take()

    def work_done(self, now: int, port: str, qpn: int, completion: Completion) -> list[HostEffect]:
        """A work request of a reliable queue pair has completed."""
        self.now = now
        if not self.links.work_done(now, port, qpn, completion):
            self.rdma.work_done(now, port, qpn, completion)
        self._run_pending()
        return self.outbox.take()

    def port_raised(self, now: int, port: str, kind: PortEventKind) -> list[HostEffect]:
        self.now = now
        self.generation.bump()
        if kind is PortEventKind.DEVICE_FATAL:
            self.rdma.device_removed(port)
        else:
            self.links.port_raised(now, port, kind)
        self._run_pending()
        return self.outbox.take()

    def tick(self, now: int) -> list[HostEffect]:
        self.now = now
        for key in self._agenda.due(now):
            match key:
                case Interface():
                    self.links.tick(now, key)
                case _Bond(name) if name in self.registry.bonds:
                    bond = self.registry.bonds[name]
                    self._execute(bond, bond.tick(now))
                case Standby() | RdmaUsers():
                    key.tick(now)
                case ConnectionManager():
                    self._run_connections(key.tick(now))
                case _Layer(name) if name in self.ip:
                    layer = self.ip[name]
                    self.frames.send_all(now, layer, layer.tick(now))
        self._run_pending()
        return self.outbox.take()

    def deadline(self) -> int | None:
        return self._agenda.earliest()

    def take_effects(self) -> list[HostEffect]:
        return self.outbox.take()

    # For others

    def device(self, name: str) -> Device:
        """The device of this name; `Refused` names the ones that there are."""
        device = self.namespace.get(name)
        if device is None:
            names = listed(known.name for known in self.namespace)
            raise Refused(
                f"no device {name} on {self.name}",
                why=f"there are {names}",
                fix="Choose one of these",
                code=errno.ENODEV,
            )
        return device

    def bond(self, name: str) -> Bond:
        bond = self.registry.bonds.get(name)
        if bond is None:
            raise Refused(
                f"no bond {name} on {self.name}",
                why=f"there are {listed(self.registry.bonds)}",
                fix="Choose one of these, or create it",
                code=errno.ENODEV,
            )
        return bond

    def bond_above(self, device: Device) -> Bond | None:
        """The bond that a device is a member of."""
        return self.registry.bonds.get(device.master.name) if device.master is not None else None

    def way_out(self, device: str, packet: bytes) -> WayOut | None:
        """For flows: how a packet like this one leaves now; None if that is not final."""
        return self.frames.way_out(device, packet)

    def way_in(self, port: str, path: Path, pkey: int) -> tuple[Device, Device] | None:
        """For flows: the devices (upper, lower) at which a packet on this path comes out; None if not final."""
        return self.frames.way_in(port, path, pkey)

    def receive_toucher(self, port: str, qpn: int) -> Callable[[], None]:
        """For flows: to be called while messages come to this end of a connection by one."""
        return self.frames.receive_toucher(port, qpn)

    def flush_statistics(self) -> None:
        """Bring the counters of bonds up to date."""
        for bond in self.registry.bonds.values():
            bond.statistics()

    # For the other files of this room

    def warn_of_mixed_modes(self, bond: Bond) -> None:
        """Members in connected and in datagram mode do not carry the same packets: the bond's log says so."""
        modes = {name: self.links.mode(name) for name in bond.members if self.links.get(name) is not None}
        if len(set(modes.values())) > 1:
            text = ", ".join(f"{name} in {mode} mode" for name, mode in modes.items())
            self.happened("log", bond.name, f"warning: members differ ({text}): large packets vanish after a failover")

    def later(self, step: Callable[[], None]) -> None:
        """Do this after the current event has been handled."""
        self._later.append(step)

    def bond_changed(self, bond: str) -> None:
        """The bond has handled an event: its effects are taken once the current event is done."""
        self._changed_bonds[bond] = None

    def touched(self, layer: IpLayer) -> None:
        """The IP side of a device was used: its deadline may be another one."""
        self._touched_layers[layer.device.name] = None

    def notify_bond(self, bond: Bond, event: BondEvent) -> None:
        """Hand an event to a bond and carry out what it asks for; the bond may refuse a request."""
        try:
            effects = bond.handle(self.now, event)
        except Refused:
            self._changed_bonds[bond.name] = None  # what it said before comes with the next call
            raise
        self._execute(bond, effects)

    def prepare(self, bond: Bond, member: str) -> None:
        """Make before break: the member joins the bond's groups and learns paths to its neighbors; then `Ready`."""
        neighbors = [entry.hardware for entry in self.ip[bond.name].neighbors if entry.hardware]
        if self.links.get(member) is not None:
            self.links.prepare(self.now, member, bond.device.multicast, neighbors)
        self._preparing[member] = bond.name

    def happened(self, what: str, where: str, detail: str = "") -> None:
        """A line for the time line; `where` is the name of a device."""
        self.outbox.notify(TraceEvent(what, f"{self.name}/{where}", detail))

    def forget(self, device: Device) -> None:
        """The device has left the namespace."""
        layer = self.ip.pop(device.name)
        layer.groups.forget()
        self.touched(layer)
        self._touched_bonds[device.name] = None
        self.next_hops.forget(device.name)
        self._preparing.pop(device.name, None)
        self.generation.bump()

    # Inside

    def _for_rdma(self) -> HostForRdma:
        return HostForRdma(
            self.name,
            self.namespace,
            self.next_hops,
            self.ip,
            self.links,
            self.outbox,
            self.device,
            self.frames.send_all,
        )

    def _connection_mad(self, now: int, port: str, raw: bytes) -> None:
        try:
            mad = CmMad.parse(raw)
        except Malformed:
            self.malformed += 1
            return
        self._run_connections(self.connections.handle(now, port, mad))

    def _run_connections(self, effects: Iterable[CmEffect]) -> None:
        for effect in effects:
            match effect:
                case SendMad():
                    self.outbox.send(effect)
                case Notify(user, event):
                    user(self.now, event)

    def _dispatch(self, event: HostEvent) -> None:
        match event:
            case Transmit(name, packet, offload):
                self.frames.transmit(self.now, name, packet, offload)
            case ToBond(name, inner):
                self.notify_bond(self.bond(name), inner)
            case AddressesAre(name, addresses):
                self._addresses_are(self.device(name), addresses)
            case RoutesAre(routes):
                if self.next_hops.set_routes(routes):
                    self.generation.bump()
            case GroupsAre(name, groups):
                self._layer(name).groups.set(groups)
            case GroupJoined(name, group):
                self._layer(name).groups.join(group)
            case GroupLeft(name, group):
                self._layer(name).groups.leave(group)
            case SetAdmin(name, up):
                self._set_admin(self.device(name), up)
            case SetDeviceMtu(name, mtu):
                self._set_mtu(self.device(name), mtu)
            case SetDeviceMode(name, connected):
                self._set_mode(self.device(name), connected)
            case CreateBond(name):
                self._changed_bonds[self.registry.create(self.now, name).name] = None
            case DeleteBond(name):
                bond = self.bond(name)
                self._execute(bond, self.registry.delete(self.now, name))
            case RdmaCall(user, request):
                self.rdma.handle(self.now, user, request)
            case RdmaUserClosed(user):
                self.rdma.gone(self.now, user)
            case CreateChild(parent, pkey):
                self.links.add_child(parent, pkey)
            case DeleteChild(parent, pkey):
                self.links.remove(self.now, self.links.child_of(parent, pkey))

    def _execute(self, bond: Bond, effects: Iterable[BondEffect]) -> None:
        self._touched_bonds[bond.name] = None
        self._bond_effects.execute(bond, effects)

    def _set_admin(self, device: Device, up: bool) -> None:
        bond = self.registry.bonds.get(device.name)
        if bond is not None:
            self.notify_bond(bond, Open() if up else Close())
        elif up:
            device.open()
        else:
            device.close()

    def _set_mtu(self, device: Device, mtu: int) -> None:
        bond = self.registry.bonds.get(device.name)
        if bond is not None:
            self.notify_bond(bond, SetMtu(mtu))
        else:
            device.set_mtu(mtu)

    def _set_mode(self, device: Device, connected: bool) -> None:
        self.links.set_mode(self.now, device.name, connected=connected)
        self.outbox.notify(AttributeChanged(self.name, f"{device.name}/mode"))
        bond = self.bond_above(device)
        if bond is not None:
            self.warn_of_mixed_modes(bond)

    def _addresses_are(self, device: Device, addresses: tuple[tuple[bytes, int], ...]) -> None:
        layer = self.ip[device.name]
        layer.set_addresses(self.now, addresses)
        self.touched(layer)
        self.generation.bump()
        bond = self.registry.bonds.get(device.name)
        if bond is not None:
            self.notify_bond(bond, AddressesChanged(tuple(address for address, _ in addresses)))

    def _layer(self, name: str) -> IpLayer:
        return self.ip[self.device(name).name]

    def _run_pending(self) -> None:
        """Handle the consequences of an event: events for bonds, members that are ready, new deadlines."""
        while self._later or self._changed_bonds or self._preparing:
            later, self._later = self._later, []
            for step in later:
                step()
            changed, self._changed_bonds = self._changed_bonds, {}
            for name in changed:
                bond = self.registry.bonds.get(name)
                if bond is not None:
                    self._execute(bond, bond.handle(self.now, MemberChanged("")))
            ready = [member for member in self._preparing if self.links.ready(member)]
            for member in ready:
                bond = self.registry.bonds.get(self._preparing.pop(member))
                if bond is not None:
                    self.notify_bond(bond, Ready(member))
            if not ready and not self._later and not self._changed_bonds:
                break
        self.rdma.run_due(self.now)
        self._report_deadlines()

    def _report_deadlines(self) -> None:
        if self._touched_bonds or self._touched_layers:
            self._report_touched()
        self._agenda.report(self.rdma, self.rdma.deadline())
        self._agenda.report(self.connections, self.connections.deadline())
        if self.standby is not None:
            self._agenda.report(self.standby, self.standby.deadline())

    def _report_touched(self) -> None:
        touched, self._touched_bonds = self._touched_bonds, {}
        for name in touched:
            bond = self.registry.bonds.get(name)
            self._agenda.report(self._bond_key(name), bond.deadline() if bond is not None else None)
        touched, self._touched_layers = self._touched_layers, {}
        for name in touched:
            layer = self.ip.get(name)
            self._agenda.report(self._layer_key(name), layer.deadline() if layer is not None else None)
            for entry in layer.neighbors.take_moved() if layer is not None else ():
                self.happened("neighbor", name, f"{ip_address(entry.ip)} is at {entry.hardware.hex(':')}")
            if self.standby is not None and layer is not None:
                self.standby.neighbors_changed(name, layer.neighbors.changes)

    def _too_long(self, device: Device, packet: bytes, mtu: int) -> None:
        self.frames.too_long(device, packet, mtu)
