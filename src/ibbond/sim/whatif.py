"""What if this cable, switch, adapter or manager fails? Every single failure of a fabric, each in a fork of one world.

Read first: `sim.world`. The world runs until every port and bond is up, once; then each failure has a child process of
its own (fork(2)), all cores at a time. A host is connected while its bonds' active members reach most of a few other
hosts over live cables by the switches' forwarding tables, and back. Left out: two failures at once, load.
"""

from __future__ import annotations

import gc
import json
import os
import selectors
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from ibbond.errors import Refused
from ibbond.fabric.events import Cut, KillAdapter, KillSubnetManager, KillSwitch, SubnetEvent
from ibbond.fabric.port import Port
from ibbond.fabric.switch import Switch
from ibbond.machine import MS
from ibbond.sim.story import Story
from ibbond.sim.world import World
from ibbond.stack.events import OnSubnet
from ibbond.topology.model import Topology, listed
from ibbond.verbs.verbs import PortState

SAMPLE_MS = 10
WATCHED_MS = 3000  # virtual time after a failure
SETTLING_MS, MAX_SETTLING_MS = 500, 120_000
WITNESSES = 5
MAX_HOPS = 64  # of a path; longer ones are loops
MANAGER = "subnet manager"


@dataclass(frozen=True, slots=True)
class Failure:
    """One thing that fails, and how: `kind` is cable, switch, adapter or manager."""

    kind: str
    name: str
    event: SubnetEvent


@dataclass(frozen=True, slots=True)
class Consequence:
    """What a failure does to hosts: cut off at the end, connected again after some milliseconds, fewer live ports.

    `split` are the hosts of which a port is still up and no longer reaches all ports that are up: no bond fails over
    there, and two hosts whose active members are on different sides lose each other.
    """

    kind: str
    name: str
    cut_off: tuple[str, ...]
    interrupted_ms: dict[str, int]
    redundancy_lost: tuple[str, ...]
    split: tuple[str, ...] = ()

    @property
    def worst_ms(self) -> int:
        return max(self.interrupted_ms.values(), default=0)


@dataclass(slots=True)
class Findings:
    """All failures of a fabric; `one_switch` are hosts with several ports that are all cabled to the same switch."""

    hosts: int
    switches: int
    cables: int
    one_port: tuple[str, ...]
    one_switch: tuple[str, ...]
    consequences: list[Consequence] = field(default_factory=list)

    @property
    def survives(self) -> bool:
        """Whether no failure cuts off a host but that of the host's own only adapter or cable, and none splits."""
        return not self.cutting and not self.splitting

    @property
    def splitting(self) -> list[Consequence]:
        """The failures that leave the fabric in parts while the links of hosts stay up."""
        return [found for found in self.consequences if found.split]

    @property
    def cutting(self) -> list[Consequence]:
        """The failures that cut off hosts, without those that no wiring of the fabric could help."""
        own = set(self.one_port)
        return [
            found
            for found in self.consequences
            if found.kind != "adapter" and set(found.cut_off) - (own if found.kind == "cable" else set())
        ]


def failures(topology: Topology) -> list[Failure]:
    """Every single failure, in the order of the topology."""
    found = [Failure("cable", topology.end_for_people(cable.a), Cut(cable.a)) for cable in topology.cables]
    found += [Failure("switch", switch.name, KillSwitch(switch.name)) for switch in topology.switches]
    found += [Failure("adapter", hca.name, KillAdapter(hca.name)) for host in topology.hosts for hca in host.hcas]
    return [*found, Failure("manager", MANAGER, KillSubnetManager())]


class Connections:
    """Which hosts of a world are connected now."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.names = [host.name for host in world.story.topology.hosts if host.devices]
        step = max(1, len(self.names) // WITNESSES)
        self.witnesses = self.names[::step][:WITNESSES]

    def live_ports(self) -> dict[str, int]:
        """The ports with a link of each host."""
        return {name: sum(port.state is PortState.ACTIVE for port in self.ports(name)) for name in self.names}

    def connected(self) -> set[str]:
        active = {name: self._active_ports(name) for name in self.names}
        witnesses = [name for name in self.witnesses if active[name]]
        return {name for name in self.names if active[name] and self._reaches_most(name, active, witnesses)}

    def split(self) -> set[str]:
        """Hosts with a live port that does not reach every live port of the witnesses."""
        live = {name: [port for port in self.ports(name) if port.state is PortState.ACTIVE] for name in self.names}
        there = [port for name in self.witnesses for port in live[name]]
        return {
            name
            for name, ports in live.items()
            if not all(leads(port, other.lid) for port in ports for other in there if other not in ports)
        }

    def ports(self, host: str) -> list[Port]:
        links = self.world.network.hosts[host].links
        return [self.world.network.subnet.port(name) for name in dict.fromkeys(link.port.name for link in links)]

    def _active_ports(self, host: str) -> list[Port]:
        """The port of each bond's active member, and of each device in no bond."""
        stack = self.world.network.hosts[host]
        used = [bond.active for bond in stack.registry.bonds.values()]
        used += [link.device.name for link in stack.links if link.device.master is None]
        names = [link.port.name for name in used if name is not None and (link := stack.links.get(name)) is not None]
        ports = map(self.world.network.subnet.port, names)
        return [port for port in ports if port.state is PortState.ACTIVE]

    def _reaches_most(self, host: str, active: dict[str, list[Port]], witnesses: list[str]) -> bool:
        others = [name for name in witnesses if name != host]
        reached = sum(
            any(
                leads(mine, theirs.lid) and leads(theirs, mine.lid) for mine in active[host] for theirs in active[other]
            )
            for other in others
        )
        return 2 * reached > len(others) or not others


def leads(start: Port, lid: int) -> bool:
    """Whether packets for a LID that leave by this port arrive at its owner."""
    port: Port | None = start
    for _ in range(MAX_HOPS):
        if port is None or port.state is not PortState.ACTIVE or port.peer is None:
            return False
        here = port.peer
        if not isinstance(here.node, Switch):
            return here.lid == lid
        port = here.node.egress(lid)
    return False


def settled_world(topology: Topology, seed: int = 0) -> World:
    """A world in which every cabled port is active and every bond up; `Refused` when it does not come to that."""
    world = World(Story("what if", topology), seed, checked=False)
    world.begin()
    connections = Connections(world)
    while world.now < MAX_SETTLING_MS * MS:
        world.run_until(world.now + SETTLING_MS * MS)
        if len(connections.connected()) == len(connections.names):
            world.run_until(world.now + SETTLING_MS * MS)
            return world
    missing = [name for name in connections.names if name not in connections.connected()]
    raise Refused(
        "the fabric does not come up",
        why=f"{listed(missing)} cannot reach most of the others after {MAX_SETTLING_MS // 1000} s of virtual time",
        fix="See the bonds of these hosts in the file: ibbond lab topology FILE",
    )


def what_if(topology: Topology, progress: Callable[[str], None] = lambda _: None, workers: int = 0) -> Findings:
    """Try every single failure on `workers` processes (all cores where 0)."""
    world = settled_world(topology)
    connections = Connections(world)
    wiring = {
        name: [port.peer.node.name for port in connections.ports(name) if port.peer] for name in connections.names
    }
    findings = Findings(
        len(topology.hosts),
        len(topology.switches),
        len(topology.cables),
        tuple(name for name, peers in wiring.items() if len(peers) == 1),
        tuple(name for name, peers in wiring.items() if len(peers) > 1 and len(set(peers)) == 1),
    )
    gc.collect()
    gc.freeze()  # so that the children share these objects
    try:
        wanted = failures(topology)
        done: dict[str, Consequence] = {}
        for failure, found in forked(world, wanted, workers or len(os.sched_getaffinity(0))):
            done[f"{failure.kind} {failure.name}"] = found
            progress(f"{failure.kind} {failure.name}")
    finally:
        gc.unfreeze()
    findings.consequences = [done[f"{failure.kind} {failure.name}"] for failure in wanted]
    return findings


def forked(world: World, wanted: list[Failure], workers: int) -> Iterator[tuple[Failure, Consequence]]:
    """Each failure in a child process, so many at a time; in the order in which they are done."""
    waiting = list(reversed(wanted))
    with selectors.DefaultSelector() as running:
        try:
            while waiting or running.get_map():
                while waiting and len(running.get_map()) < workers:
                    failure = waiting.pop()
                    child, reading = fork(world, failure)
                    running.register(reading, selectors.EVENT_READ, (failure, child, bytearray()))
                for key, _ in running.select():
                    failure, child, said = key.data
                    if piece := os.read(key.fd, 1 << 16):
                        said += piece
                        continue
                    running.unregister(key.fd)
                    os.close(key.fd)
                    os.waitpid(child, 0)
                    yield failure, read_consequence(failure, bytes(said))
        finally:
            for key in list(running.get_map().values()):
                os.kill(key.data[1], signal.SIGKILL)
                os.waitpid(key.data[1], 0)
                os.close(key.fd)


def fork(world: World, failure: Failure) -> tuple[int, int]:
    """A child that lets something fail in its copy of the world: its pid, and where it says what came of it."""
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        return child, reading
    try:
        os.close(reading)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        said = json.dumps(consequence(world, failure)).encode()
        with os.fdopen(writing, "wb") as file:
            file.write(said)
    except BaseException as problem:
        os.write(2, f"{failure.kind} {failure.name}: {problem!r}\n".encode())
        os._exit(1)
    os._exit(0)


def read_consequence(failure: Failure, said: bytes) -> Consequence:
    if not said:
        raise RuntimeError(f"the process that tried the failure of {failure.name} ended without a result")
    plain = json.loads(said)
    hosts = {name: tuple(plain[name]) for name in ("cut_off", "redundancy_lost", "split")}
    return Consequence(failure.kind, failure.name, interrupted_ms=plain["interrupted_ms"], **hosts)


def consequence(world: World, failure: Failure) -> dict[str, object]:
    """Let it fail, and watch; changes the world."""
    connections = Connections(world)
    before, split_before = connections.live_ports(), connections.split()
    world.feed(OnSubnet(failure.event))
    away = dict.fromkeys(connections.names, 0)
    connected: set[str] = set()
    seen = -1
    for _ in range(0, WATCHED_MS, SAMPLE_MS):
        if len(world.moments) != seen or len(connected) < len(away):  # else nothing has changed
            seen = len(world.moments)
            connected = connections.connected()
        for name in away.keys() - connected:
            away[name] += SAMPLE_MS
        world.run_until(world.now + SAMPLE_MS * MS)
    after, split = connections.live_ports(), connections.split() - split_before
    return {
        "cut_off": [name for name in connections.names if name not in connected],
        "interrupted_ms": {name: ms for name, ms in away.items() if ms and name in connected},
        "redundancy_lost": [name for name in connections.names if name in connected and after[name] < before[name]],
        "split": [name for name in connections.names if name in split],
    }
