"""Hosts, switches, cables and addresses as frozen values: what a lab or a simulated world is built from.

Read first: docs/topology.md, the same words for people. Names are checked by `topology.load`; a value of this file that
was made by hand can be checked by `topology.check.check`. Left out: anything that changes while a world runs.

Ports are named `NODE/NUMBER` (`h1/1`, `s1/7`), devices `HOST/DEVICE` (`h1/ib0`); a cable is known by either end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network

from ibbond.errors import Refused
from ibbond.wire.pkey import DEFAULT_PKEY, FULL_MEMBER

Interface = IPv4Interface | IPv6Interface
Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address

DATAGRAM_MTU = 2044
DATAGRAM_MTUS = (DATAGRAM_MTU, 4092)  # IP MTU of an InfiniBand MTU of 2048 and 4096 (RFC 4391 section 7)


DATAGRAM, CONNECTED, DATAGRAM_ONLY = "datagram", "connected", "datagram-only"
MODES = (DATAGRAM, CONNECTED, DATAGRAM_ONLY)  # the last is a driver without connected mode, as its address says

LAB_BOND_OPTIONS = (("mode", "active-backup"), ("miimon", "100"), ("num_grat_arp", "3"))


@dataclass(frozen=True, slots=True)
class Identity:
    """What a node answers when it is asked who it is; what is not given follows a plan (see docs/topology.md)."""

    guid: int | None = None
    description: str = ""
    port_guids: tuple[tuple[int, int], ...] = ()  # of an adapter: (port number, GUID)


@dataclass(frozen=True, slots=True)
class Switch:
    """A switch and its number of ports (1 to 254), without port 0."""

    name: str
    ports: int = 36
    identity: Identity = Identity()


@dataclass(frozen=True, slots=True)
class Cable:
    """A cable between two ports, in the order in which the file names them."""

    a: str
    b: str

    def __contains__(self, port: object) -> bool:
        return port in (self.a, self.b)

    def __str__(self) -> str:
        return f"{self.a} - {self.b}"


@dataclass(frozen=True, slots=True)
class Hca:
    """A host channel adapter; its name is the node name of the subnet (`h1`, the second one of a host `h1-2`)."""

    name: str
    ports: int
    identity: Identity = Identity()


@dataclass(frozen=True, slots=True)
class IpoibDevice:
    """One `ibN`, or a partition child (`ib0.8001`, then `parent` is `ib0`)."""

    name: str
    port: str
    pkey: int = DEFAULT_PKEY
    parent: str | None = None
    mtu: int = DATAGRAM_MTU
    addresses: tuple[Interface, ...] = ()
    up: bool = True
    mode: str = DATAGRAM


@dataclass(frozen=True, slots=True)
class EthernetDevice:
    """A device of another link-layer type, to show what a bond refuses."""

    name: str
    addresses: tuple[Interface, ...] = ()


@dataclass(frozen=True, slots=True)
class Bond:
    """A bond that exists when the world starts; `options` are written in this order, before the members join."""

    name: str
    members: tuple[str, ...]
    options: tuple[tuple[str, str], ...] = LAB_BOND_OPTIONS
    mtu: int = DATAGRAM_MTU
    addresses: tuple[Interface, ...] = ()
    up: bool = True


@dataclass(frozen=True, slots=True)
class Route:
    """`destination` by way of `gateway`; the device follows from the addresses of the host."""

    destination: Network
    gateway: Address


@dataclass(frozen=True, slots=True, order=True)
class HostFile:
    """A file that programs of one host find at this absolute path, instead of the machine's."""

    path: str
    text: str
    mode: int = 0o644


@dataclass(frozen=True, slots=True)
class Host:
    """A host: adapters, devices, bonds, routes, and what a lab runs in it."""

    name: str
    hcas: tuple[Hca, ...]
    devices: tuple[IpoibDevice, ...]
    ethernet: tuple[EthernetDevice, ...] = ()
    bonds: tuple[Bond, ...] = ()
    routes: tuple[Route, ...] = ()
    forward: bool = False
    files: tuple[HostFile, ...] = ()  # by path
    exec: tuple[tuple[str, ...], ...] = ()  # commands that a lab runs here, in this order, once its bonds are up

    def device(self, name: str) -> IpoibDevice | None:
        """The IPoIB device of this name, or None."""
        return next((device for device in self.devices if device.name == name), None)

    def bond(self, name: str) -> Bond | None:
        """The bond of this name, or None."""
        return next((bond for bond in self.bonds if bond.name == name), None)

    def addresses(self) -> Iterator[tuple[str, Interface]]:
        """(device, address) of every configured address, bonds first."""
        for holder in self._holders():
            for address in holder.addresses:
                yield holder.name, address

    @property
    def names(self) -> tuple[str, ...]:
        """Every device of the host, bonds first."""
        return tuple(holder.name for holder in self._holders())

    def _holders(self) -> Iterator[Bond | IpoibDevice | EthernetDevice]:
        yield from self.bonds
        yield from self.devices
        yield from self.ethernet


@dataclass(frozen=True, slots=True)
class Partition:
    """A P_Key beside the default one, and the ports that have it in their tables, as full or limited members."""

    name: str
    pkey: int  # with the full-member bit
    full: tuple[str, ...]
    limited: tuple[str, ...] = ()
    mtu: int = DATAGRAM_MTU


@dataclass(frozen=True)
class Topology:
    """A whole idle world; `mtu` is the IP MTU (2044 or 4092) of the default partition's broadcast group."""

    switches: tuple[Switch, ...]
    cables: tuple[Cable, ...]
    hosts: tuple[Host, ...]
    partitions: tuple[Partition, ...] = ()
    mtu: int = DATAGRAM_MTU
    name: str = "lab"

    @cached_property
    def _hosts(self) -> dict[str, Host]:
        return {host.name: host for host in self.hosts}

    def host(self, name: str) -> Host:
        """The host of this name; `Refused` names the ones that there are."""
        if name not in self._hosts:
            raise Refused(
                f"no host {name}",
                why=f"this lab's hosts are {listed(self._hosts)}",
                fix="Choose one of these",
            )
        return self._hosts[name]

    def port_of(self, name: str) -> str:
        """The port that a person means by `h1/ib0`, `h1/1` or `s1/7`; `Refused` when there is no such port."""
        node, slash, end = name.partition("/")
        if not slash or not end:
            raise Refused(
                f"{name} is not the name of a cable's end",
                why="a cable is named HOST/DEVICE or SWITCH/PORT",
                fix=f"For example: {self._example_end()}",
            )
        if node in self._hosts:
            device = self._hosts[node].device(end)
            if device is not None:
                return device.port
        if any(name in cable for cable in self.cables):
            return name
        raise self._no_cable(name, node)

    def cable_at(self, port: str) -> Cable:
        """The cable at a port (see `port_of`)."""
        return next(cable for cable in self.cables if port in cable)

    def end_for_people(self, port: str) -> str:
        """`h1/ib0` for `h1/1`; the name of a switch port stays."""
        for host in self.hosts:
            for device in host.devices:
                if device.port == port and device.parent is None:
                    return f"{host.name}/{device.name}"
        return port

    def pkeys_of(self, port: str) -> tuple[int, ...]:
        """The P_Key table of a port, the default partition first."""
        own = [partition.pkey for partition in self.partitions if port in partition.full]
        own += [partition.pkey & ~FULL_MEMBER for partition in self.partitions if port in partition.limited]
        return (DEFAULT_PKEY, *own)

    def mtu_of(self, pkey: int) -> int:
        """The IP MTU that the broadcast group of this partition carries."""
        mtus = (p.mtu for p in self.partitions if p.pkey & ~FULL_MEMBER == pkey & ~FULL_MEMBER)
        return self.mtu if pkey & ~FULL_MEMBER == DEFAULT_PKEY & ~FULL_MEMBER else next(mtus, self.mtu)

    def _example_end(self) -> str:
        host = self.hosts[0]
        return f"{host.name}/{host.devices[0].name}" if host.devices else self.cables[0].a

    def _no_cable(self, name: str, node: str) -> Refused:
        ends = [self.end_for_people(end) for cable in self.cables for end in (cable.a, cable.b)]
        here = [end for end in ends if end.partition("/")[0] == node]
        nodes = [*self._hosts, *(switch.name for switch in self.switches)]
        return Refused(
            f"no cable at {name}",
            why=f"the cables of {node} end at {listed(here)}" if here else f"the nodes are {listed(nodes)}",
            fix="Choose one of these",
        )


def listed(names: Iterable[object], limit: int = 12) -> str:
    """`a, b and c` of an iterable of names, for sentences; long lists are cut."""
    words = [str(name) for name in names]
    if len(words) > limit:
        return ", ".join(words[:limit]) + f" and {len(words) - limit} more"
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:]))) or "none"
