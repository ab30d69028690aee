"""A small driver for tests: a network without delays, its clock, and kernels that only remember what they got."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import ip_address
from random import Random

from ibbond.machine import MS
from ibbond.stack.build import build
from ibbond.stack.events import (
    AddressesAre,
    Deliver,
    HostEvent,
    NetworkEffect,
    NetworkEvent,
    OnHost,
    OnSubnet,
    RouteEntry,
    RoutesAre,
    TraceEvent,
    Transmit,
)
from ibbond.stack.network import Network
from ibbond.topology.load import parse
from ibbond.verbs.timing import Timing
from ibbond.wire.icmp import Echo


def ip(text: str) -> bytes:
    return ip_address(text).packed


def ping(source: str, destination: str, sequence: int = 1) -> bytes:
    return Echo(ip(source), ip(destination), 7, sequence, b"x" * 56).pack()


@dataclass
class SmallWorld:
    """`inboxes` has what each (host, device) was given; `lines` the time line."""

    network: Network
    now: int = 0
    inboxes: dict[tuple[str, str], list[bytes]] = field(default_factory=dict)
    effects: list[NetworkEffect] = field(default_factory=list)

    def start(self) -> None:
        self.take(self.network.start(self.now))
        self.run_until_quiescent()

    def take(self, effects: Iterable[NetworkEffect]) -> None:
        for effect in effects:
            self.effects.append(effect)
            if isinstance(effect, Deliver):
                self.inboxes.setdefault((effect.host, effect.device), []).append(effect.packet)

    def run_until_quiescent(self) -> None:
        """Do what is due now."""
        for _ in range(1000):
            deadline = self.network.deadline()
            if deadline is None or deadline > self.now:
                return
            self.take(self.network.tick(self.now))
        raise AssertionError("the network does not come to rest")

    def feed(self, event: NetworkEvent) -> None:
        self.take(self.network.handle(self.now, event))
        self.run_until_quiescent()

    def on(self, host: str, event: HostEvent) -> None:
        self.feed(OnHost(host, event))

    def fabric(self, event: object) -> None:
        self.feed(OnSubnet(event))  # type: ignore[arg-type]

    def send(self, host: str, packet: bytes, *, device: str = "bond0", offload: bytes = b"") -> None:
        self.on(host, Transmit(device, packet, offload))

    def run(self, ms: float) -> None:
        """Let time pass."""
        end = self.now + int(ms * MS)
        while (deadline := self.network.deadline()) is not None and deadline <= end:
            self.now = max(self.now, deadline)
            self.take(self.network.tick(self.now))
        self.now = end

    def got(self, host: str, device: str = "bond0") -> list[bytes]:
        """What the host was given since the last look."""
        return self.inboxes.pop((host, device), [])

    def happened(self, what: str) -> list[TraceEvent]:
        return [effect for effect in self.effects if isinstance(effect, TraceEvent) and effect.what == what]


def world_of(
    text: str, *, timing: Timing | None = None, profile: str = "default", without: tuple[str, ...] = ()
) -> SmallWorld:
    """The world of a topology's TOML, started, with the addresses and routes that it names."""
    topology = parse(text)
    network = build(topology, random=Random(1), timing=timing, profile=profile, without=without)
    world = SmallWorld(network)
    world.start()
    for host in topology.hosts:
        by_device: dict[str, list[tuple[bytes, int]]] = {}
        for device, address in host.addresses():
            by_device.setdefault(device, []).append((address.ip.packed, address.network.prefixlen))
        for device, pairs in by_device.items():
            world.on(host.name, AddressesAre(device, tuple(pairs)))
        routes = []
        for route in host.routes:
            device = next(d for d, address in host.addresses() if route.gateway in address.network)
            network_address = route.destination.network_address.packed
            routes.append(RouteEntry(network_address, route.destination.prefixlen, device, route.gateway.packed))
        if routes:
            world.on(host.name, RoutesAre(tuple(routes)))
    return world
