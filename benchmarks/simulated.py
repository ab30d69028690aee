"""`./bench --sim`: what simulated worlds cost: events per second, memory per host, and one failover as worlds grow.

Read first: docs/simulator.md, ibbond.sim.world. Every world is built in a process of its own, so that its memory is
its own. One failover is all that a second of virtual time takes in which h1's first cable is cut; `calm` is such a
second without a cut. Times are on a CPU, and the minimum of five, so that other work on the machine counts little; a
run has one thread. Left out: labs, which `./bench` measures.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks import record

Row = dict[str, float]

HOSTS = (2, 16, 128, 1024)
QUICK = (2, 16)
STEADY_MS = 200  # virtual time over which events are counted
PROBES = 20  # of each host in that time
TIMES = 5  # each second is measured so often, the minimum counts: other work can only add
MAX_PROBING = 64  # hosts; each asks all for its neighbor once, and a thousand requests to a thousand hosts take long
SECOND_MS = 1000
ONE_ANNOUNCEMENT = {
    "num_grat_arp": "1"
}  # the driver's default: n hosts that come up are received by n hosts, each time
BASE = {"hosts": 64, "members": 2, "spines": 2, "known": 0, "groups": 0}
GROWING: dict[str, tuple[int, ...]] = {
    "members": (2, 3, 4, 6, 8),
    "hosts": (16, 32, 64, 128),
    "groups": (0, 32, 64, 128, 256),
    "known": (0, 16, 32, 63),
    "spines": (2, 4, 8, 16),
}
NAMES = {"known": "neighbors", "spines": "switches"}
SUBNETS = {  # name: hosts, leaves, spines
    "4 HCAs, 4 switches": (4, 2, 2),
    "16 HCAs, 6 switches": (16, 4, 2),
    "128 HCAs, 10 switches": (128, 8, 2),
}


def main(*, quick: bool, file: Path | None, keep: bool = False) -> int:
    hosts = [measured({**BASE, "hosts": each}) for each in (QUICK if quick else HOSTS)]
    print(hosts_table(hosts), flush=True)
    grown = {}
    for what, values in {} if quick else GROWING.items():
        shapes = [{**BASE, "hosts": 16 if what == "members" else BASE["hosts"], what: value} for value in values]
        grown[NAMES.get(what, what)] = [{what: shape[what], **measured(shape, alone=True)} for shape in shapes]
        print(grown_table(NAMES.get(what, what), what, grown[NAMES.get(what, what)]), flush=True)
    subnets = [{"subnet": name, **subnet_up(*shape)} for name, shape in SUBNETS.items()]
    print(subnets_table(subnets), flush=True)
    result = {
        "machine": record.machine(),
        "revision": record.revision(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "load": os.getloadavg()[0],
        "hosts": hosts,
        "grown": grown,
        "subnets": subnets,
    }
    if file:
        file.write_text(json.dumps(result, indent=1) + "\n")
    if keep:
        record.keep("sim", result, page(result))
    return 0


def measured(shape: Mapping[str, int], *, alone: bool = False) -> Row:
    words = [sys.executable, "-m", "benchmarks.simulated", json.dumps({**shape, "alone": alone})]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{shape}: {done.stderr}")
    found: Row = json.loads(done.stdout)
    return found


# ---- in a process of its own


def one_world(*, hosts: int, members: int, spines: int, known: int, groups: int, alone: bool) -> Row:
    """Build, start, count, fail over; with `alone` only a failover with `known` hosts that learn of it."""
    from ibbond.sim.story import parse
    from ibbond.sim.world import World

    leaves = max(members, -(-hosts * members // 100), 2)
    before = resident_kb()
    document: dict[str, object] = {
        "fat_tree": {"hosts": hosts, "leaves": leaves, "spines": spines, "members": members},
        "story": {"pairs": []},
    }
    clock = Clock()
    world = World(parse(document, name="benchmark"), checked=False, overrides=dict(ONE_ANNOUNCEMENT))
    world.begin()
    run(world, 2000)
    found: Row = {"hosts": hosts, "switches": leaves + spines, "start_s": clock.cpu()}
    found["kb_per_host"] = (resident_kb() - before) / hosts
    if not alone:
        found["events_per_s"] = events_per_second(world)
        found["failover_s"] = min(failover(world)[0] for _ in range(TIMES))
        known = hosts - 1
    if groups:
        join(world, groups)
    make_known(world, known)
    run(world, SECOND_MS)
    found["calm_s"] = min(calm(world) for _ in range(TIMES))
    took = [failover(world, known) for _ in range(TIMES)]
    found["failover_first_s"], found["failover_first_wall_s"] = took[0]
    found["failover_all_learn_s"] = min(cpu for cpu, _ in took)
    if alone:
        found["calm_calls"] = calls(lambda: calm(world))
        found["failover_calls"] = calls(lambda: failover(world, known)) - 2 * found["calm_calls"]
    return found


def calls(of: Callable[[], object]) -> int:
    """How many functions are called: a cost that does not depend on what else this machine does."""
    count = 0

    def on_effect(_frame: object, what: str, _argument: object) -> None:
        nonlocal count
        count += what in ("call", "c_call")

    sys.setprofile(on_effect)
    try:
        of()
    finally:
        sys.setprofile(None)
    return count


def calm(world) -> float:  # type: ignore[no-untyped-def]
    clock = Clock()
    run(world, SECOND_MS)
    return clock.cpu()


def events_per_second(world) -> float:  # type: ignore[no-untyped-def]
    """Packets over a cable (probes go round a ring of hosts that know each other) and steps of the clock."""
    probe_all(world)
    run(world, SECOND_MS)
    before, sent, clock = happened(world), len(world.probes), Clock()
    for _ in range(PROBES):
        probe_all(world)
        run(world, STEADY_MS / PROBES)
    took = clock.cpu()
    assert all(probe.arrived_at for probe in world.probes[sent:]), "a probe of a quiet world was lost"
    return (happened(world) - before) / took


def probe_all(world) -> None:  # type: ignore[no-untyped-def]
    names = list(world.hosts)[:MAX_PROBING]
    for name, other in zip(names, [*names[1:], names[0]], strict=True):
        world.probe("udp", name, other)


def happened(world) -> int:  # type: ignore[no-untyped-def]
    ports = [port for node in world.network.subnet.nodes.values() for port in node.ports.values()]
    return int(world.steps + sum(port.counters.transmit_packets for port in ports))


def make_known(world, known: int) -> None:  # type: ignore[no-untyped-def]
    """So many hosts have h1 as a neighbor, as if they had asked for it, and talk to it: they know its path too."""
    names = list(world.hosts)
    address = next(iter(world.hosts[names[0]].addresses))
    hardware = world.network.hosts[names[0]].device("bond0").address
    for name in names[1 : known + 1]:
        layer = world.network.hosts[name].ip["bond0"]
        layer.neighbors.learn(world.now, address, hardware, confirmed=True, create=True)
        world.probe("udp", name, names[0])
        run(world, 1)
    run(world, 300)
    assert all(probe.arrived_at for probe in world.probes[len(world.probes) - known :]), "h1 was not reached"


def join(world, groups: int) -> None:  # type: ignore[no-untyped-def]
    """Programs on h1 join so many groups; its standby member joins them too, ahead of need."""
    from ibbond.stack.events import GroupsAre, OnHost

    many = tuple(bytes((239, 1, number >> 8, number & 0xFF)) for number in range(groups))
    world.feed(OnHost("h1", GroupsAre("bond0", many)))
    run(world, 3000)


def failover(world, learners: int = 0) -> tuple[float, float]:  # type: ignore[no-untyped-def]
    """Cut h1's active cable, let a second pass, mend it: what the second took on a CPU, and by the wall's clock."""
    from ibbond.fabric.events import Cut, Mend
    from ibbond.stack.events import OnSubnet

    host = world.network.hosts["h1"]
    was, address = host.bond("bond0").active, host.device("bond0").address
    cable = f"h1/{int(was.removeprefix('ib')) + 1}"
    clock = Clock()
    world.feed(OnSubnet(Cut(cable)))
    run(world, SECOND_MS)
    took = clock.cpu(), clock.wall()
    assert host.bond("bond0").active != was, "the bond of h1 did not fail over"
    ours = next(iter(world.hosts["h1"].addresses))
    for name in list(world.hosts)[1 : learners + 1]:
        entry = world.network.hosts[name].ip["bond0"].neighbors.get(ours)
        assert entry is not None, f"{name} has forgotten h1"
        assert entry.hardware == host.device("bond0").address != address, f"{name} has not learnt where h1 is"
    world.feed(OnSubnet(Mend(cable)))
    run(world, SECOND_MS)
    return took


def run(world, ms: float) -> None:  # type: ignore[no-untyped-def]
    world.run_until(world.now + int(ms * 1e6))


class Clock:
    """Time since it was made, in seconds."""

    def __init__(self) -> None:
        self._cpu, self._wall = time.process_time(), time.perf_counter()

    def cpu(self) -> float:
        return time.process_time() - self._cpu

    def wall(self) -> float:
        return time.perf_counter() - self._wall


def resident_kb() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


# ---- the subnet alone, with the timing of a lab


def subnet_up(hosts: int, leaves: int, spines: int, times: int = 5) -> Row:
    """From power-on until the first sweep is over, and from a cut between switches until the routes are new.

    The minimum.

    In a lab the subnet's delays (an agent's, the hold-off before a sweep) pass by the wall's clock, as work does: the
    milliseconds are both together.
    """
    ups, cuts = [], []
    for _ in range(times):
        up, cut = one_subnet(hosts, leaves, spines)
        ups.append(up)
        cuts.append(cut)
    return {"up_ms": min(ups), "cut_to_routes_ms": min(cuts)}


def one_subnet(hosts: int, leaves: int, spines: int) -> tuple[float, float]:
    from ibbond.fabric.events import Cut
    from ibbond.stack.build import build
    from ibbond.topology.load import parse
    from ibbond.verbs.timing import Timing

    text = f"[fat_tree]\nhosts = {hosts}\nleaves = {leaves}\nspines = {spines}\nmembers = 2\n"
    subnet = build(parse(text), random=random.Random(1), timing=Timing.live()).subnet
    clock = Clock()
    subnet.start(0)
    now = swept(subnet, 1)
    up = clock.cpu() * 1e3 + now / 1e6
    assert all(port.state == 4 for port in subnet.end_ports() if port.number), "a port is not active after the sweep"
    switches = {node for node in subnet.nodes.values() if node.node_type == 2}
    cable = next(each for each in subnet.cables if {each.a.node, each.b.node} <= switches)
    before, clock = now, Clock()
    assert subnet.manager is not None
    sweeps = subnet.manager.sweeps
    subnet.handle(now, Cut(cable.a.name))
    now = swept(subnet, sweeps + 1)
    return up, clock.cpu() * 1e3 + (now - before) / 1e6


def swept(subnet, sweeps: int) -> int:  # type: ignore[no-untyped-def]
    """Let time pass until so many sweeps are over; that time."""
    now = 0
    while subnet.manager.sweeps < sweeps:
        now = subnet.deadline()
        subnet.tick(now)
    return now


# ---- tables


def hosts_table(rows: list[Row]) -> str:
    lines = ["| hosts | switches | start, s | memory of a host, KB | events/s | a calm second, s | failover, s |"]
    lines[0] += " that all learn, first time, s | (by the wall, s) | again, s |"
    lines.append("| ---: " * 10 + "|")
    for row in rows:
        lines.append(
            f"| {row['hosts']:,} | {row['switches']} | {row['start_s']:.2f} | {row['kb_per_host']:.0f} "
            f"| {row['events_per_s']:,.0f} | {row['calm_s']:.4f} | {row['failover_s']:.4f} "
            f"| {row['failover_first_s']:.4f} | {row['failover_first_wall_s']:.4f} "
            f"| {row['failover_all_learn_s']:.4f} |"
        )
    return "\n".join(lines) + "\n"


def grown_table(name: str, what: str, rows: list[Row]) -> str:
    """Calls of functions by a cut and its mending, less two calm seconds; and the straight line through them."""
    costs = [row["failover_calls"] / 1e3 for row in rows]
    counts = [row["switches"] if what == "spines" else row[what] for row in rows]
    slope, start = statistics.linear_regression(counts, costs)
    head = f"| {name} | failover, ms | calls by a cut and its mending, thousands | on the line, thousands |"
    lines = [head, "| ---: " * 4 + "|"]
    for row, count, cost in zip(rows, counts, costs, strict=True):
        line = start + slope * count
        lines.append(f"| {count:.0f} | {1e3 * row['failover_all_learn_s']:.1f} | {cost:.1f} | {line:.1f} |")
    return "\n".join(lines) + f"\n\n{start:.1f} + {slope:.3f} thousand calls for each of the {name}.\n"


def subnets_table(rows: list[dict[str, Any]]) -> str:
    lines = ["| subnet | up, ms | cut between switches to new routes, ms |", "| --- | ---: | ---: |"]
    for row in rows:
        lines.append(f"| {row['subnet']} | {row['up_ms']:.1f} | {row['cut_to_routes_ms']:.1f} |")
    return "\n".join(lines) + "\n"


def page(result: dict[str, object]) -> str:
    """The part of docs/benchmarks.md."""
    grown: dict[str, list[Row]] = result["grown"]  # type: ignore[assignment]
    hosts: list[Row] = result["hosts"]  # type: ignore[assignment]
    subnets: list[Row] = result["subnets"]  # type: ignore[assignment]
    parts = [f"{result['date']}, commit {result['revision']}, {result['machine']}; load {result['load']:.1f}.\n"]
    parts.append(hosts_table(hosts))
    back = {shown: what for what, shown in NAMES.items()}
    for name, rows in grown.items():
        parts.append(grown_table(name, back.get(name, name), rows))
    parts.append(subnets_table(subnets))
    return "\n".join(parts)


if __name__ == "__main__":
    print(json.dumps(one_world(**json.loads(sys.argv[1]))))
