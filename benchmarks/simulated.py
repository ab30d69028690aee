"""`./bench --sim`: what simulated worlds cost: events per second, memory per host, and one failover as worlds grow.

Read first: docs/simulator.md, ibbond.sim.world. Every world is built in a process of its own, so that its memory is
its own. One failover is the wall time from the cut of h1's first cable until all is quiet again, with all hosts that
it was told to having learned h1's address before. Left out: labs, which `./bench` measures.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

HOSTS = (2, 16, 128, 1024)
QUICK = (2, 16)
STEADY_MS = 200  # virtual time over which events are counted
PROBES = 20  # for each pair of neighbors in that time
CALM_MS = 1000  # virtual time after a cut
SWEEPS: dict[str, tuple[tuple[int, int, int, int], ...]] = {  # hosts, members, spines, hosts that h1 knows
    "members": ((16, 2, 2, 0), (16, 4, 2, 0), (16, 8, 2, 0)),
    "neighbors": ((64, 2, 2, 0), (64, 2, 2, 16), (64, 2, 2, 63)),
    "switches": ((64, 2, 2, 0), (64, 2, 8, 0), (64, 2, 16, 0)),
}


def main(*, quick: bool, file: Path | None) -> int:
    rows = []
    print(f"{'hosts':>6} {'events/s':>10} {'KB/host':>9} {'start s':>8} {'failover s':>11} {'that all learn':>15}")
    for hosts in QUICK if quick else HOSTS:
        quiet, learned = measured(hosts, 2, 2, 0), measured(hosts, 2, 2, hosts - 1)
        rows.append({"hosts": hosts, **quiet, "failover_all_learn_s": learned["failover_s"]})
        print(
            f"{hosts:6} {quiet['events_per_s']:10,.0f} {quiet['kb_per_host']:9,.0f} {quiet['start_s']:8.2f} "
            f"{quiet['failover_s']:11.4f} {learned['failover_s']:15.4f}",
            flush=True,
        )
    grown: dict[str, list[dict[str, float]]] = {}
    for what, worlds in {} if quick else SWEEPS.items():
        print(f"\none failover as {what} grow")
        for hosts, members, spines, known in worlds:
            found = measured(hosts, members, spines, known)
            shape = {"hosts": hosts, "members": members, "spines": spines, "neighbors": known}
            grown.setdefault(what, []).append({**shape, **found})
            words = ", ".join(f"{number} {name}" for name, number in shape.items())
            print(f"  {words}: {found['failover_s'] * 1000:.1f} ms", flush=True)
    if file:
        file.write_text(json.dumps({"hosts": rows, "grown": grown}, indent=1) + "\n")
    return 0


def measured(*shape: int) -> dict[str, float]:
    words = [sys.executable, "-m", "benchmarks.simulated", *map(str, shape)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def one_world(hosts: int, members: int, spines: int, known: int) -> dict[str, float]:
    """Build, start, count, fail over. In a process that has done nothing else."""
    from ibbond.fabric.events import Cut
    from ibbond.machine import MS
    from ibbond.sim.story import parse
    from ibbond.sim.world import World
    from ibbond.stack.events import OnSubnet

    leaves = max(members, -(-hosts * members // 100), 2)
    before = resident_kb()
    document: dict[str, object] = {
        "fat_tree": {"hosts": hosts, "leaves": leaves, "spines": spines, "members": members},
        "story": {"pairs": []},
    }
    began = time.perf_counter()
    world = World(parse(document, name="benchmark"), checked=False)
    world.begin()
    world.run_until(2000 * MS)
    start_s = time.perf_counter() - began
    names = list(world.hosts)
    for number in range(known):
        world.probe("udp", names[0], names[1 + number % (hosts - 1)])
        world.run_until(world.now + MS)
    world.run_until(world.now + 300 * MS)
    memory = resident_kb() - before

    steps, began = world.steps, time.perf_counter()
    sent = len(world.probes)
    for _ in range(PROBES):
        for number in range(min(hosts, 64)):
            world.probe("udp", names[number], names[(number + 1) % hosts])
        world.run_until(world.now + STEADY_MS * MS // PROBES)
    took = time.perf_counter() - began
    events = world.steps - steps + len(world.probes) - sent
    assert all(probe.arrived_at for probe in world.probes[sent:]), "a probe of a quiet world was lost"

    began = time.perf_counter()
    world.feed(OnSubnet(Cut("h1/1")))
    world.run_until(world.now + CALM_MS * MS)
    failover_s = time.perf_counter() - began
    assert any(
        moment.what == "failover" and moment.where == "h1/bond0" and "ib0 -> ib1" in moment.detail
        for moment in world.moments
    ), "the bond of h1 did not fail over"
    return {"events_per_s": events / took, "kb_per_host": memory / hosts, "start_s": start_s, "failover_s": failover_s}


def resident_kb() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


if __name__ == "__main__":
    print(json.dumps(one_world(*map(int, sys.argv[1:]))))
