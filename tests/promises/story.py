"""What the tests of promises share: the demo's two hosts in the virtual world, started and ready to be asked."""

from functools import lru_cache

from ibbond.bonding.bond import Bond
from ibbond.bonding.events import BondEvent
from ibbond.machine import MS
from ibbond.sim.demo import record
from ibbond.sim.story import Story
from ibbond.sim.world import World
from ibbond.stack.events import HostEvent, NetworkEffect, OnHost, ToBond, TraceEvent
from ibbond.topology.default import TWO_HOSTS
from ibbond.topology.load import parse

PROTOCOLS = ("icmp", "udp", "multicast")


def two_hosts(text: str = TWO_HOSTS, **how: object) -> World:
    """A world that has run for a second: the subnet is up, the bonds are up, announcements are over."""
    world = World(Story("promise", parse(text, name="promise"), pairs=(("h1", "h2"),)), **how)  # type: ignore[arg-type]
    world.begin()
    world.run_until(1000 * MS)
    return world


def bond(world: World, host: str = "h1", name: str = "bond0") -> Bond:
    return world.network.hosts[host].registry.bonds[name]


def ask(world: World, event: HostEvent, host: str = "h1") -> list[NetworkEffect]:
    """A request to a host; `Refused` comes through."""
    return world.network.handle(world.now, OnHost(host, event))


def ask_bond(world: World, event: BondEvent, host: str = "h1", name: str = "bond0") -> list[NetworkEffect]:
    return ask(world, ToBond(name, event), host)


def announcements(effects: list[NetworkEffect]) -> list[str]:
    return [effect.detail for effect in effects if isinstance(effect, TraceEvent) and effect.what == "announce"]


def reached(world: World, kind: str, source: str = "h1", target: str = "h2", *, within_ms: int = 1000) -> bool:
    """One probe: has it arrived (a ping: been answered) in time?"""
    probe = world.probe(kind, source, target)
    world.run_until(world.now + within_ms * MS)
    return probe.answered_at is not None if kind == "icmp" else target in probe.copies


@lru_cache
def arrived(without: str) -> dict[str, float]:
    """The share of probes that arrived in a demo without one of the patches, by protocol; empty: nothing was built."""
    recording = record(rounds=1, without=without)
    shares: dict[str, list[int]] = {}
    probes = recording["probes"]
    assert isinstance(probes, list)
    for stream in probes:
        shares.setdefault(stream["protocol"], []).extend(1 if at else 0 for at in stream["arrived"])
    return {protocol: sum(hits) / len(hits) for protocol, hits in shares.items()}
