"""Many failovers in one life: none interrupts traffic for long, and nothing piles up.

`IBBOND_SOAK=10000` has ten thousand of them, which takes minutes; otherwise they are few.
"""

import gc
import os
from dataclasses import replace
from pathlib import Path

from ibbond.fabric.events import Cut, Mend
from ibbond.machine import MS, SECOND
from ibbond.sim.explore import read_story
from ibbond.sim.world import World
from ibbond.stack.events import OnSubnet

SCENARIO = Path(__file__).parents[2] / "scenarios" / "two_hosts.toml"
FAILOVERS = int(os.environ.get("IBBOND_SOAK", "150"))
WARM = FAILOVERS // 3  # by then every cache has met all that it will meet
ALLOWED_OBJECTS = 500  # more than at WARM: rings and caches breathe
REACHED_MS = 10  # after a cut; a cable takes 1 us, the answers of the subnet administrator 1 ms each


def world() -> World:
    story = read_story(SCENARIO.read_text(), "two_hosts")
    return World(replace(story, random_faults=None, faults=()), seed=1)


def fail_over(world: World) -> None:
    """Pull the cable that carries the traffic, look whether both sides are reached, and plug it again."""
    bond = world.network.hosts["h1"].registry.bonds["bond0"]
    before = bond.active
    cable = world.story.topology.port_of(f"h1/{before}")
    world.feed(OnSubnet(Cut(cable)))
    world.run_until(world.now + REACHED_MS * MS)
    assert bond.active not in (before, None)
    probes = [world.probe("icmp", "h1", "h2"), world.probe("udp", "h1", "h2"), world.probe("udp", "h2", "h1")]
    world.run_until(world.now + REACHED_MS * MS)
    assert probes[0].answered_at is not None
    assert all(probe.copies == {probe.target: 1} for probe in probes[1:])
    world.feed(OnSubnet(Mend(cable)))
    world.run_until(world.now + 500 * MS)
    member = bond.members[str(before)]
    assert member.device.carrier
    world.moments.clear()


def objects() -> int:
    gc.collect()
    return len(gc.get_objects())


def test_failovers_without_end() -> None:
    living = world()
    living.begin()
    living.run_until(2 * SECOND)
    warm = 0
    for number in range(FAILOVERS):
        if number == WARM:
            warm = objects() - len(living.probes)
        fail_over(living)
    bond = living.network.hosts["h1"].registry.bonds["bond0"]
    assert sum(member.failures for member in bond.members.values()) >= FAILOVERS
    assert objects() - len(living.probes) - warm < ALLOWED_OBJECTS
