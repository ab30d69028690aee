"""What a lab writes down of itself while it runs, to go on where it was killed: bonds, children, cut cables.

Bonds are remembered as the topology would write them, so that resuming is building: options as texts, members in their
order. What the kernel remembers by itself (addresses, routes, groups, programs) is not in here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import TYPE_CHECKING

from ibbond.bonding.option import Kind, Option
from ibbond.bonding.options import OPTIONS
from ibbond.topology.model import CONNECTED, DATAGRAM, DATAGRAM_ONLY, Host, IpoibDevice, Topology
from ibbond.topology.model import Bond as BondPlan

if TYPE_CHECKING:
    from ibbond.bonding.bond import Bond
    from ibbond.stack.network import Network


@dataclass(frozen=True, slots=True)
class SavedBond:
    """One bond; `options` are (name, text) in the order in which they can be written."""

    name: str
    members: tuple[str, ...]
    options: tuple[tuple[str, str], ...]
    mtu: int
    up: bool
    active: str | None
    queues: tuple[str, ...] = ()  # what is written to queue_id once the members are there
    counted: tuple[tuple[str, int, int], ...] = ()  # member, its link failures, its priority


@dataclass(frozen=True, slots=True)
class SavedDevice:
    """An IPoIB device that is in no bond."""

    name: str
    up: bool
    mtu: int


@dataclass(frozen=True, slots=True)
class SavedHost:
    bonds: tuple[SavedBond, ...] = ()
    children: tuple[tuple[str, str, int], ...] = ()  # name, parent, P_Key
    devices: tuple[SavedDevice, ...] = ()
    connected: tuple[str, ...] | None = None  # IPoIB devices in connected mode


@dataclass(frozen=True, slots=True)
class SavedState:
    """A lab at one moment; `cut` are the cables that are out, by a port each."""

    hosts: dict[str, SavedHost] = field(default_factory=dict)
    cut: tuple[str, ...] = ()


def capture_state(network: Network, cut: Iterable[str]) -> SavedState:
    """The running lab as a value."""
    hosts = {}
    for name, host in network.hosts.items():
        children = tuple(
            (interface.device.name, parent, interface.pkey)
            for interface in host.links
            if (parent := host.links.parent(interface.device.name)) is not None
        )
        free = [interface.device for interface in host.links if interface.device.master is None]
        hosts[name] = SavedHost(
            tuple(saved_bond(bond) for bond in host.registry.bonds.values()),
            children,
            tuple(SavedDevice(device.name, device.up, device.mtu) for device in free),
            tuple(interface.device.name for interface in host.links if interface.connected),
        )
    return SavedState(hosts, tuple(cut))


def saved_bond(bond: Bond) -> SavedBond:
    found = bond.snapshot()
    written = [
        (option.name, text)
        for option in OPTIONS.values()
        if not (option.read_only or option.of_member)
        for text in texts(option, found.options.get(option.name))
    ]
    return SavedBond(
        found.name,
        tuple(member.name for member in found.members),
        tuple(written),
        found.mtu,
        found.up,
        found.active,
        tuple(f"{member.name}:{member.queue_id}" for member in found.members if member.queue_id),
        tuple((member.name, member.failures, member.priority) for member in bond.members.values()),
    )


def texts(option: Option, value: object) -> list[str]:
    """What must be written to give an option its value; nothing where it has its default."""
    match option.kind:
        case Kind.VALUE if isinstance(value, int) and (value != option.default or option.ours):
            return [str(value)]
        case Kind.NAME if option.name == "primary" and value:
            return [str(value)]
        case Kind.TARGETS | Kind.TARGETS6 if isinstance(value, tuple):
            return [f"+{ip_address(target)}" for target in value]
        case Kind.ADDRESS if isinstance(value, bytes) and any(value):
            return [value.hex(":")]
        case _:
            return []


def restored(topology: Topology, saved: SavedState) -> Topology:
    """The topology with the bonds and children that the lab had; addresses stay with the kernel, which has them."""
    return replace(topology, hosts=tuple(restored_host(host, saved.hosts.get(host.name)) for host in topology.hosts))


def restored_host(host: Host, saved: SavedHost | None) -> Host:
    if saved is None:
        return host
    ports = {device.name: device.port for device in host.devices}
    known = {device.name: device for device in host.devices}
    parents = [device for device in host.devices if device.parent is None]
    children = [
        known.get(name) or IpoibDevice(name, ports[parent], pkey, parent) for name, parent, pkey in saved.children
    ]
    if saved.connected is not None:
        parents, children = (
            [replace(device, mode=restored_mode(device, saved.connected)) for device in devices]
            for devices in (parents, children)
        )
    states = {device.name: device for device in saved.devices}
    devices = [
        replace(device, up=state.up, mtu=state.mtu) if (state := states.get(device.name)) else device
        for device in (*parents, *children)
    ]
    bonds = tuple(BondPlan(bond.name, bond.members, bond.options, bond.mtu, up=bond.up) for bond in saved.bonds)
    return replace(host, devices=tuple(devices), bonds=bonds)


def restored_mode(device: IpoibDevice, connected: Collection[str]) -> str:
    """The mode of a device that its file had set; what the driver can do stays."""
    if device.mode == DATAGRAM_ONLY:
        return device.mode
    return CONNECTED if device.name in connected else DATAGRAM
