"""The demonstration under the virtual clock: the same moves as the live one, for machines without namespaces or TUN.

Read first: `demo.demo`, whose plan this follows step by step, and `demo.measure`, which does the arithmetic for both.
`record` returns plain values (`demo.measure.recording_from` says their shape). TCP is `sim.stream`.
"""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

from ibbond.bonding.events import AddMember, SetOption
from ibbond.errors import Refused
from ibbond.fabric.events import Cut, Mend
from ibbond.machine import MS
from ibbond.sim.story import Story
from ibbond.sim.stream import StreamReceiver
from ibbond.sim.world import World
from ibbond.stack.events import NetworkEvent, OnHost, OnSubnet, SetAdmin, ToBond
from ibbond.topology.default import TWO_HOSTS
from ibbond.topology.load import parse

ONE, TWO = "h1", "h2"
BOND, MEMBERS = "bond0", ("ib0", "ib1")
LATE = "allow_not_up_enslave"  # shows where programs join groups before the bond has members
STARTING_MS = 1000
SETTLING_MS = 800
PROBES = {"icmp": 10, "udp": 1, "multicast": 1}  # ms between two
MIN_SILENCE = 5 * MS

Plain = dict[str, object]


@dataclass(slots=True)
class DemoRun:
    """The world, what has happened in it so far, and the programs that probe."""

    world: World
    happenings: list[tuple[int, str, str, str]] = field(default_factory=list)

    def wait(self, ms: int) -> None:
        """Let virtual time pass with all programs sending."""
        world = self.world
        for _ in range(ms):
            at_ms = world.now // MS
            for kind, spacing in PROBES.items():
                if at_ms % spacing == 0:
                    for source, target in ((ONE, TWO), (TWO, ONE)):
                        world.probe(kind, source, target)
            world.run_until(world.now + MS)

    def active(self, host: str) -> str | None:
        return self.world.network.hosts[host].registry.bonds[BOND].active

    def prefer(self, host: str, member: str) -> None:
        """The operator's choice; a planned switch when another member carries the traffic."""
        before = self.active(host)
        self.world.feed(OnHost(host, ToBond(BOND, SetOption("primary", f"{member}\n"))))
        if before not in (None, member):
            self.wait(SETTLING_MS // 2)
            moved_at = self._last_move(f"{host}/{BOND}")
            if moved_at is not None:
                self.happenings.append((moved_at, "switch", f"{host}/{BOND}", f"{before} -> {member}"))

    def step(self, host: str, do: str, member: str, event: NetworkEvent, move: str) -> None:
        """Cut or mend the cable, and see where the traffic goes."""
        before, at = self.active(host), self.world.now
        self.world.feed(event)
        self.happenings.append((at, do, f"{host}/{member}", ""))
        mark = len(self.happenings)
        self.wait(SETTLING_MS)
        moved_at = self._last_move(f"{host}/{BOND}", at)
        line = (moved_at or at, move, f"{host}/{BOND}", f"{before} -> {self.active(host)}")
        self.happenings.insert(mark, line)

    def _last_move(self, bond: str, since: int = 0) -> int | None:
        for moment in reversed(self.world.moments):
            if moment.what == "failover" and moment.where == bond:
                at = round(moment.at_ms * MS)
                return at if at >= since else None
        return None


class Guest(Protocol):
    """Other traffic that takes part: begins when the hosts are up, and ends by saying what it was."""

    def begin(self, world: World) -> None: ...

    def end(self, world: World) -> None: ...

    def add_to(self, recording: Plain) -> None: ...


def record(*, rounds: int, seed: int = 0, without: str | None = None, beside: Guest | None = None) -> Plain:
    """Perform `rounds` rounds; where the hosts cannot even be built (a patch left out), the notes say why."""
    text = TWO_HOSTS.replace('members = ["ib0", "ib1"]', "members = []") if without == LATE else TWO_HOSTS
    story = Story("demo", parse(text, name="demo"), pairs=((ONE, TWO),))
    world = World(story, seed, without=frozenset(filter(None, (without,))), checked=False)
    try:
        world.begin()
        if without == LATE:
            world.run_until(100 * MS)
            add_members(world)
    except Refused as refusal:
        return plain(DemoRun(world), rounds, 0, notes=[f"The hosts could not be built. {refusal}"])
    performance = DemoRun(world)
    world.run_until(STARTING_MS * MS)
    world.stream(ONE, TWO)
    world.stream(TWO, ONE)
    if beside is not None:
        beside.begin(world)
    started_at = world.now
    performance.wait(SETTLING_MS)
    for number in range(rounds):
        host = (ONE, TWO)[number % 2]
        devices = world.story.topology.host(host)
        for member in MEMBERS:
            device = devices.device(member)
            assert device is not None
            performance.prefer(host, member)
            performance.step(host, "cut", member, OnSubnet(Cut(device.port)), "failover")
            performance.step(host, "mend", member, OnSubnet(Mend(device.port)), "failback")
    recording = plain(performance, rounds, started_at, notes=[])
    if beside is not None:
        beside.end(world)
        beside.add_to(recording)
    return recording


def add_members(world: World) -> None:
    """Members join bonds that are up and whose programs have joined groups already."""
    for host in (ONE, TWO):
        for member in MEMBERS:
            world.feed(OnHost(host, SetAdmin(member, up=False)))
            world.feed(OnHost(host, ToBond(BOND, AddMember(member))))


def plain(performance: DemoRun, rounds: int, started_at: int, *, notes: list[str]) -> Plain:
    world = performance.world
    notes = [*notes, "Simulated: programs and IP stacks take no time; TCP is a stream with TCP's retransmission timer."]
    return {
        "mode": "simulated",
        "rounds": rounds,
        "started_at": started_at,
        "ended_at": world.now,
        "happenings": [list(line) for line in performance.happenings],
        "probes": probe_streams(world),
        "bytes": [
            {
                "direction": f"{stream.sender_host} -> {stream.receiver_host}",
                "sent_bytes": stream.sender.offered * 1000,
                "received_bytes": stream.receiver.bytes_delivered,
                "intact": True,
                "silences": silences(stream.receiver),
                "last_at": max(stream.receiver.progress, default=0),
            }
            for stream in world.streams
        ],
        "notes": notes,
    }


def probe_streams(world: World) -> list[Plain]:
    """One entry per protocol and direction; a multicast probe has arrived when the other host got it."""
    streams: dict[tuple[str, str, str], tuple[list[int], list[int]]] = {}
    for probe in world.probes:
        sent, arrived = streams.setdefault((probe.kind, probe.source, probe.target), ([], []))
        sent.append(probe.sent_at)
        if probe.kind == "icmp":
            arrived.append(probe.answered_at or 0)
        else:
            arrived.append(probe.arrived_at if probe.target in probe.copies else 0)
    return [
        {
            "protocol": kind,
            "direction": f"{source} -> {target}",
            "spacing_ns": PROBES[kind] * MS,
            "sent": sent,
            "arrived": arrived,
        }
        for (kind, source, target), (sent, arrived) in streams.items()
    ]


def silences(receiver: StreamReceiver) -> list[list[int]]:
    """The longer times without new bytes."""
    times = receiver.progress
    return [[a, b] for a, b in pairwise(times) if b - a > MIN_SILENCE]
