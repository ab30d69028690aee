"""Drills in the simulator: a story's hosts under the virtual clock, with the same plan, phases and report as live ones.

Read first: `drill.runner`, `sim.world`. Probes are the simulator's programs, captures are taps on the ports of the
bond's members, and nothing has to be armed outside: the world ends with this process. The story's faults do not happen.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from ibbond.bonding.events import SetOption
from ibbond.bonding.option import Mode
from ibbond.drill import sightings as see
from ibbond.drill.classes import CLASSES, DrillClass
from ibbond.drill.flows import Flow
from ibbond.drill.guards import BondFacts, Member, is_noticed
from ibbond.drill.phases import Phase, Sighting, Source
from ibbond.drill.runner import Moments, Plan
from ibbond.drill.traffic import EVERY, Stream
from ibbond.errors import Malformed, Refused
from ibbond.fabric.events import (
    Cut,
    KillAdapter,
    KillSubnetManager,
    KillSwitch,
    MakeLossy,
    Mend,
    ReviveAdapter,
    ReviveSubnetManager,
    ReviveSwitch,
    SetPkeys,
)
from ibbond.machine import MS, SECOND
from ibbond.sim.programs import PROBE_PORT
from ibbond.sim.story import Story
from ibbond.sim.world import World
from ibbond.stack.events import (
    AddressChange,
    FrameCaptured,
    NetworkEffect,
    NetworkEvent,
    OnHost,
    OnSubnet,
    SetAdmin,
    ToBond,
)
from ibbond.verbs.verbs import PortState
from ibbond.wire.ib import UdPacket
from ibbond.wire.pkey import DEFAULT_PKEY

STARTING_MS = 1000
PROBES = ("udp", "multicast", "icmp")
EVENTS = (Phase.PORT, Phase.CARRIER, Phase.VERDICT, Phase.ACTIVE, Phase.ADDRESS)
SOURCES: Mapping[Phase, Sequence[Source]] = {
    Phase.CAUSE: (Source.DRILL,),
    **dict.fromkeys(EVENTS, (Source.EVENTS,)),
    Phase.ANNOUNCEMENT: (Source.CAPTURE,),
    Phase.NEIGHBOR: (Source.PEER,),
    Phase.FIRST_PACKET: (Source.CAPTURE,),
    Phase.REDUNDANCY: (Source.DRILL,),
}
LOSS, OTHER_PKEY = 0.2, 0x8001
TOOL_CLASSES = ("port-disabled", "far-end-disabled")  # need the tools of a live host


class Tap:
    """A program that receives everything: frames at the members' ports, and addresses of bonds."""

    def __init__(self, ports: Mapping[str, bytes]) -> None:
        self.ports = ports  # with the link-layer address of each
        self.frames: list[see.Frame] = []
        self.addresses: list[see.Event] = []

    def on_effect(self, now: int, effect: NetworkEffect) -> None:
        if isinstance(effect, AddressChange):
            self.addresses.append(see.Event(now, "address", f"{effect.host}/{effect.device}"))
        elif isinstance(effect, FrameCaptured) and effect.port in self.ports:
            own = self.ports[effect.port]
            try:
                packet = UdPacket.parse(effect.frame)
            except Malformed:
                return
            self.frames.append(see.frame_at_port(now, packet, own, sent=effect.sent))

    def deadline(self) -> int | None:
        return None

    def tick(self, now: int) -> list[NetworkEvent]:
        return []


class SimWorld:
    """A bond of a story's host."""

    drilled: str
    sources = SOURCES
    makes_before_break = True
    title: str

    def __init__(self, story: Story, seed: int, host: str, bond: str, peer: str, spacing_ms: int) -> None:
        self.drilled, self.bond, self.peer, self.spacing_ms = host, bond, peer, spacing_ms
        self.title = f"the simulator, story {story.title}, seed {seed}"
        self.possible: Sequence[str] = [name for name in CLASSES if name not in TOOL_CLASSES]
        self.topology = story.topology
        quiet = replace(story, faults=(), random_faults=None, pairs=((host, peer),))
        self.world = World(quiet, seed, checked=False)
        self._events: dict[bool, list[NetworkEvent]] = {}
        self._started = False
        if bond not in [each.name for each in self.topology.host(host).bonds]:
            raise Refused(
                f"cannot drill {host}/{bond}", why="the story has no such bond", fix="Choose one of its bonds"
            )
        self.world.begin()
        self.world.run_until(STARTING_MS * MS)

    def facts(self, row: DrillClass | None = None) -> BondFacts:
        stack = self.world.network.hosts[self.drilled]
        bond = stack.registry.bonds.get(self.bond)
        if bond is None:
            raise Refused(
                f"cannot drill {self.drilled}/{self.bond}", why="there is no such bond", fix="Choose another bond"
            )
        options = bond.snapshot().options
        members = []
        for name, member in bond.members.items():
            port = stack.links.get(name)
            state = None if port is None else port.port.state.name if port.port.state is PortState.ACTIVE else "DOWN"
            far = self.topology.cable_at(port.port.name) if port is not None else None
            switch = (far.b if far.a == port.port.name else far.a).partition("/")[0] if far and port else ""
            own = "" if port is None else port.port.name
            members.append(
                Member(
                    name,
                    member.link.name.lower() == "up",
                    own,
                    adapter=own.partition("/")[0],
                    switch=switch,
                    port_state=state,
                    hardware_address=member.permanent_address,
                )
            )
        return BondFacts(
            f"{self.drilled}/{self.bond}",
            Mode(int(str(options["mode"]))).name.lower().replace("_", "-"),
            bond.device.up,
            bond.active,
            tuple(members),
            has_arp_monitor=bool(options.get("arp_interval")),
            primary=str(options.get("primary") or "") or None,
        )

    def describe(self) -> Mapping[str, str]:
        return {
            "bond": f"{self.drilled}/{self.bond}",
            "peer": self.peer,
            "driver": "ibbond",
            "kernel": f"none: simulated, on {os.uname().release}",
            "firmware": "none: the ports are software",
            "story": self.world.story.title,
        }

    def plan(self, row: DrillClass, facts: BondFacts) -> Plan:
        active, spare = facts.member(facts.active), facts.spare
        assert active is not None
        assert spare is not None
        do, undo = self._pair(row.name, active, spare)
        self._events = {False: [do], True: [undo]}
        return Plan(row, facts, active.name, spare.name, ((shown(do),),), ((shown(undo),),))

    def _pair(self, name: str, victim: Member, spare: Member) -> tuple[NetworkEvent, NetworkEvent]:
        host, port = self.drilled, victim.port
        match name:
            case "planned-switch":
                return self._switch(spare.name), self._switch(victim.name)
            case "admin-down":
                return OnHost(host, SetAdmin(victim.name, up=False)), OnHost(host, SetAdmin(victim.name, up=True))
            case "cut":
                return OnSubnet(Cut(port)), OnSubnet(Mend(port))
            case "switch-death":
                return OnSubnet(KillSwitch(victim.switch)), OnSubnet(ReviveSwitch(victim.switch))
            case "adapter-removed":
                return OnSubnet(KillAdapter(victim.adapter)), OnSubnet(ReviveAdapter(victim.adapter))
            case "pkey-taken":
                return OnSubnet(SetPkeys(port, (OTHER_PKEY,))), OnSubnet(SetPkeys(port, (DEFAULT_PKEY,)))
            case "silent-death":
                return OnSubnet(MakeLossy(port, 1.0)), OnSubnet(MakeLossy(port, 0.0))
            case "loss":
                return OnSubnet(MakeLossy(port, LOSS)), OnSubnet(MakeLossy(port, 0.0))
            case _:
                return OnSubnet(KillSubnetManager()), OnSubnet(ReviveSubnetManager())

    def _switch(self, member: str) -> NetworkEvent:
        return OnHost(self.drilled, ToBond(self.bond, SetOption("active_slave", f"{member}\n")))

    def begin(self) -> None:
        for source, target in ((self.drilled, self.peer), (self.peer, self.drilled)):
            self.world.stream(source, target)
        self._started = True
        self.sleep(0.5)

    def finish(self) -> tuple[list[Flow], list[Stream]]:
        streams: dict[tuple[str, str, str], Flow] = {}
        for probe in self.world.probes:
            key = (probe.kind, probe.source, probe.target)
            spacing = self.spacing_ms * MS * EVERY[probe.kind]
            flow = streams.setdefault(key, Flow(*key, spacing, [], []))
            number = len(flow.sent)
            assert isinstance(flow.sent, list)
            assert isinstance(flow.arrivals, list)
            flow.sent.append(probe.sent_at)
            at = probe.answered_at if probe.kind == "icmp" else probe.arrived_at
            copies = 1 if probe.kind == "icmp" else probe.copies.get(probe.target, 0)
            flow.arrivals.extend([(number, at)] * copies if at else [])
        for flow in streams.values():
            assert isinstance(flow.arrivals, list)
            flow.arrivals.sort(key=lambda arrival: arrival[1])
        tcp = [
            Stream(
                each.sender_host,
                each.receiver_host,
                self.spacing_ms * MS,
                list(pairwise(times)),
                times[-1] if times else 0,
            )
            for each in self.world.streams
            for times in [list(each.receiver.progress)]
        ]
        return list(streams.values()), tcp

    def abandon(self) -> None:
        pass

    def arm(self, plan: Plan) -> None:
        pass

    def disarm(self) -> None:
        pass

    def watch(self, plan: Plan) -> None:
        ports = {member.port: member.hardware_address for member in plan.facts.members}
        self._tap = Tap(ports)
        self.world.programs.append(self._tap)
        for port in ports:
            self.world.network.subnet.mirror(port, True)

    def sightings(self, plan: Plan, moments: Moments) -> tuple[list[Sighting], list[Sighting]]:
        self.world.programs.remove(self._tap)
        for port in self._tap.ports:
            self.world.network.subnet.mirror(port, False)
        addresses = {member.name: member.hardware_address for member in plan.facts.members}
        own = tuple(self.world.hosts[self.drilled].addresses)
        peer_ip = next(a for a in self.world.hosts[self.peer].addresses if len(a) == 4)

        def scene(at: int, until: int, member: str, *, is_reversion: bool) -> see.Scene:
            return see.Scene(
                self.drilled,
                self.bond,
                plan.victim,
                at,
                until,
                is_reversion,
                addresses[member],
                own,
                self.peer,
                peer_ip,
                PROBE_PORT,
            )

        failure = scene(moments.caused_at, moments.undone_at, plan.spare, is_reversion=False)
        reversion = scene(moments.undone_at, moments.ended_at, plan.victim, is_reversion=True)
        before, after = self._seen(failure), self._seen(reversion)
        if not is_noticed(plan.row, plan.facts):
            before = [each for each in before if each.phase is not Phase.FIRST_PACKET]
            resumed = see.from_capture(self._tap.frames, reversion, any_path=True)
            before += [each for each in resumed if each.phase is Phase.FIRST_PACKET]
        return before, after

    def _seen(self, scene: see.Scene) -> list[Sighting]:
        people = self.topology.end_for_people
        events, lines = list(self._tap.addresses), []
        for moment in self.world.moments:
            at = round(moment.at_ms * MS)
            if moment.what == "log":
                lines.append((at, f"{moment.where}: {moment.detail}"))
            else:
                events.append(see.Event(at, moment.what, people(moment.where), moment.detail))
        return [
            *see.from_events(events, scene),
            *see.from_log(lines, scene, Source.EVENTS),
            *see.from_capture(self._tap.frames, scene),
        ]

    def apply(self, plan: Plan, *, undo: bool) -> int:
        at = self.world.now
        for event in self._events[undo]:
            self.world.feed(event)
        return at

    def active(self) -> str | None:
        return self.world.network.hosts[self.drilled].registry.bonds[self.bond].active

    def is_redundant(self, plan: Plan) -> bool:
        facts = self.facts()
        victim = facts.member(plan.victim)
        if victim is None or not victim.is_up or facts.spare is None:
            return False
        return facts.active == plan.victim if plan.returns else True

    def now(self) -> int:
        return self.world.now

    def sleep(self, seconds: float) -> None:
        """Virtual time passes with all programs sending."""
        until = self.world.now + round(seconds * SECOND)
        while self.world.now < until:
            at_ms = self.world.now // MS
            if self._started and at_ms % self.spacing_ms == 0:
                for kind in PROBES:
                    if at_ms % (self.spacing_ms * EVERY[kind]):
                        continue
                    for source, target in ((self.drilled, self.peer), (self.peer, self.drilled)):
                        self.world.probe(kind, source, target)
            self.world.run_until(min((at_ms + 1) * MS, until))

    def notes(self) -> list[str]:
        return ["Simulated: programs and IP stacks take no time; TCP is a stream with TCP's retransmission timer."]


def shown(event: NetworkEvent) -> str:
    """What a plan of the simulator shows in place of a command."""
    return str(event)


def peer_of(story: Story, host: str, wanted: str) -> str:
    """The host to probe from: the wanted one, or the first other host that has an IPv4 address."""
    names = [each.name for each in story.topology.hosts if each.name != host and any(True for _ in each.addresses())]
    if wanted and wanted not in names:
        raise Refused(f"no peer {wanted}", why="the story has no such host with an address", fix="Give another --peer")
    if not names:
        raise Refused(
            f"cannot drill a bond of {host}", why="the story has no other host to probe from", fix="Add a host"
        )
    return wanted or names[0]
