"""A block session over RDMA CM through failovers, and its report: under the virtual clock, with the programs of `rdma`.

Read first: `rdma.session`. Each failover pulls the cable of the member that carries the traffic, of the initiator's
host and the target's in turn, and plugs it again when the session has recovered. Left out: running the programs as
processes of a live lab (`demo.rdma_live`).
"""

from __future__ import annotations

from collections import deque
from dataclasses import asdict, dataclass, field
from typing import Protocol

from ibbond.demo.generators import WRITE_US, session_stream
from ibbond.demo.rdma_report import Plain, failover_row, session_facts, settings
from ibbond.errors import Refused
from ibbond.fabric.events import Cut, Mend
from ibbond.machine import MS, US
from ibbond.rdma.initiator import Initiator
from ibbond.rdma.program import facts
from ibbond.rdma.session import MEMORY_BYTES
from ibbond.rdma.target import Target
from ibbond.rdma_cm.events import RdmaCall, RdmaCmEvent, RdmaEvent, RdmaRequest, WorkCompleted
from ibbond.sim.story import Story
from ibbond.sim.world import World
from ibbond.stack.events import NetworkEffect, NetworkEvent, OnHost, OnSubnet
from ibbond.topology.load import parse

STARTING_MS = 1000
HEALTHY_MS = 300  # before each failover
TIMEOUT_MS = 20_000  # for one recovery
USERS = {"initiator": 1, "target": 2}


class End(Protocol):
    """A program that is a machine: one end of the session, or any other user of RDMA CM."""

    def start(self, now: int) -> list[RdmaRequest]: ...

    def on_event(self, now: int, event: RdmaCmEvent | WorkCompleted) -> list[RdmaRequest]: ...

    def tick(self, now: int) -> list[RdmaRequest]: ...

    def deadline(self) -> int | None: ...


@dataclass(slots=True)
class SimulatedProgram:
    """Runs such a program on a host of the virtual world."""

    host: str
    user: int
    end: End
    received: deque[RdmaCmEvent | WorkCompleted] = field(default_factory=deque)
    _now: int = 0
    _begun: bool = False

    def on_effect(self, now: int, effect: NetworkEffect) -> None:
        if isinstance(effect, RdmaEvent) and (effect.host, effect.user) == (self.host, self.user):
            self.received.append(effect.event)
            self._now = now

    def deadline(self) -> int | None:
        return self._now if self.received or not self._begun else self.end.deadline()

    def tick(self, now: int) -> list[NetworkEvent]:
        requests = []
        if not self._begun:
            self._begun = True
            requests += self.end.start(now)
        while self.received:
            requests += self.end.on_event(now, self.received.popleft())
        requests += self.end.tick(now)
        return [OnHost(self.host, RdmaCall(self.user, request)) for request in requests]


def simulate(
    text: str, source: str, target: str, *, failovers: int, seed: int = 0, heed_address_change: bool = True
) -> Plain:
    """The report of one session between two hosts of a topology. The same arguments give the same report."""
    topology = parse(text, name="rdma-session")
    for name in (source, target):
        if not any(bond.members[1:] and bond.addresses for bond in topology.host(name).bonds):
            why = "it has no bond of two members with an address"
            raise Refused(f"no failovers on {name}", why=why, fix="Choose a host that has one")
    world = World(Story("rdma-session", topology, pairs=((source, target),)), seed, checked=False)
    world.begin()
    world.run_until(STARTING_MS * MS)
    initiator, _serving = _begin(world, source, target, heed_address_change)
    began = world.now
    _wait(world, HEALTHY_MS)
    reports = [_fail_over(world, (source, target)[number % 2], initiator, began) for number in range(failovers)]
    _finish(world, initiator)
    return {
        "mode": "simulated",
        "settings": settings(heed_address_change=heed_address_change),
        "failovers": reports,
        "writes": initiator.completed,
        "writes_lost": initiator.lost,
        "writes_doubled": initiator.doubled,
        "verified": initiator.verified,
        "refused": [moment.detail for moment in world.moments if moment.what == "refused"],
    }


@dataclass(slots=True)
class Beside:
    """The session as a guest of the simulated demo (`sim.demo.Guest`)."""

    _initiator: Initiator | None = None
    _hosts: tuple[str, str] = ("h1", "h2")

    def begin(self, world: World) -> None:
        self._initiator, _ = _begin(world, *self._hosts, heed_address_change=True, spacing_ns=WRITE_US * US)

    def end(self, world: World) -> None:
        assert self._initiator is not None, "it has begun"
        _finish(world, self._initiator)

    def add_to(self, recording: Plain) -> None:
        """One stream more, and what the session says of itself."""
        assert self._initiator is not None, "it has begun"
        known = facts(self._initiator)
        stream = asdict(session_stream(" -> ".join(self._hosts), known))
        happenings, streams = recording["happenings"], recording["bytes"]
        assert isinstance(happenings, list)
        assert isinstance(streams, list)
        streams.append(stream)
        began, ended = recording["started_at"], recording["ended_at"]
        assert isinstance(began, int)
        assert isinstance(ended, int)
        recording["session"] = session_facts(happenings, began, ended, known)


def _finish(world: World, initiator: Initiator) -> None:
    """Until the target has been read back."""
    initiator.finish()
    for _ in range(TIMEOUT_MS):
        if initiator.verified:
            break
        _wait(world, 1)


def _begin(
    world: World, source: str, target: str, heed_address_change: bool, spacing_ns: int = MS
) -> tuple[Initiator, Target]:
    """The target listens, then the initiator connects to the first address of the target's bond."""
    memories = {name: memoryview(bytearray(MEMORY_BYTES)) for name in USERS}
    keys = {
        name: world.network.hosts[host].rdma.register(USERS[name], memories[name])
        for name, host in (("initiator", source), ("target", target))
    }
    bond = next(bond for bond in world.story.topology.host(target).bonds if bond.addresses)
    serving = Target(memories["target"], keys["target"])
    asking = Initiator(
        memories["initiator"],
        keys["initiator"],
        bond.addresses[0].ip.packed,
        name=1,
        spacing_ns=spacing_ns,
        heed_address_change=heed_address_change,
    )
    world.programs.append(SimulatedProgram(target, USERS["target"], serving, _now=world.now))
    world.programs.append(SimulatedProgram(source, USERS["initiator"], asking, _now=world.now))
    return asking, serving


def _fail_over(world: World, host: str, initiator: Initiator, began: int) -> Plain:
    """Pull the active member's cable of this host, and wait until the session writes again."""
    bond = next(bond for bond in world.story.topology.host(host).bonds if bond.members[1:])
    active = world.network.hosts[host].registry.bonds[bond.name].active
    device = world.story.topology.host(host).device(active or "")
    assert device is not None, "a bond that carries traffic has an active member"
    known = len(initiator.recoveries)
    cut_at = world.now
    world.feed(OnSubnet(Cut(device.port)))
    for _ in range(TIMEOUT_MS):
        _wait(world, 1)
        if initiator.recoveries[known:] and initiator.recoveries[-1].first_io_at is not None:
            break
    moved = [
        moment.at_ms
        for moment in world.moments
        if moment.what == "failover" and moment.where == f"{host}/{bond.name}" and moment.at_ms >= cut_at / MS
    ]
    report = failover_row(
        host,
        began,
        cut_at,
        round(moved[0] * MS) if moved else None,
        world.now + 1,
        [asdict(each) for each in initiator.recoveries[known:]],
    )
    world.feed(OnSubnet(Mend(device.port)))
    _wait(world, HEALTHY_MS)
    return report


def _wait(world: World, ms: int) -> None:
    world.run_until(world.now + ms * MS)
