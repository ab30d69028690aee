"""One run of one story: the same network that the live lab runs, under a virtual clock and one seed.

Two runs of one seed give the same trace; the trace's hash says so. A run ends with an `Outcome`; when a promise broke,
it carries the sentence, the moment and the line that replays it.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from ipaddress import ip_address
from random import Random
from typing import Protocol

from ibbond.errors import Malformed, Refused
from ibbond.fabric.events import SendDatagram
from ibbond.machine import MS, US
from ibbond.sim.bond_promises import BondPromises, announced_by
from ibbond.sim.checkers import STATE_CHECKERS, Broken, DeliveryChecker, all_reached, arrives_once
from ibbond.sim.faults import KINDS, Fault, draw
from ibbond.sim.programs import Probe, SimulatedHost, make_probe
from ibbond.sim.story import Story
from ibbond.sim.stream import SEGMENT, STREAM_PORT, StreamReceiver, StreamSender
from ibbond.sim.traffic import TrafficChecker
from ibbond.stack.build import build
from ibbond.stack.events import Deliver, NetworkEffect, NetworkEvent, OnHost, TraceEvent, Transmit
from ibbond.stack.flows import Flow
from ibbond.stack.network import Network
from ibbond.verbs.timing import Timing
from ibbond.wire.udp import UdpDatagram


class Program(Protocol):
    """A program of some host: gets every effect, and acts when its time has come."""

    def on_effect(self, now: int, effect: NetworkEffect) -> None:
        """Look at an effect of the world, before what it causes happens."""
        ...

    def deadline(self) -> int | None:
        """The time (ns) at which the program wants to act, or None."""
        ...

    def tick(self, now: int) -> list[NetworkEvent]:
        """Act: the events that the program causes now."""
        ...


GROUP_SENDERS = 4  # every host receives from each of them


@dataclass(frozen=True, slots=True)
class TracedEvent:
    """A line of the time line."""

    at_ms: float
    what: str
    where: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run came to. `trace` is a SHA-256 over every effect in order."""

    seed: int
    broken: str | None
    at_ms: float
    trace: str
    steps: int
    faults: tuple[Fault, ...]
    moments: tuple[TracedEvent, ...]


@dataclass(frozen=True, slots=True)
class Sending:
    """A program that sends a probe every `probe_ms`."""

    kind: str
    source: str
    target: str


@dataclass(slots=True)
class _Stream:
    sender_host: str
    receiver_host: str
    sender: StreamSender
    receiver: StreamReceiver


@dataclass(slots=True)
class World:
    """Builds the network of a story and runs it. `now` is virtual nanoseconds."""

    story: Story
    seed: int = 0
    profile: str = "default"
    without: frozenset[str] = frozenset()
    overrides: dict[str, str] = field(default_factory=dict)  # bond options that win over the story's
    checked: bool = True

    now: int = 0
    began: int = 0
    steps: int = 0
    last_fault_ms: int = 0
    probes: list[Probe] = field(default_factory=list)
    streams: list[_Stream] = field(default_factory=list)
    programs: list[Program] = field(default_factory=list)
    moments: list[TracedEvent] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    network: Network = field(init=False)
    hosts: dict[str, SimulatedHost] = field(init=False)
    random: Random = field(init=False)
    _agenda: list[tuple[int, int, NetworkEvent | Sending]] = field(init=False, default_factory=list)
    _order: int = field(init=False, default=0)
    _hash: "hashlib._Hash" = field(init=False)
    _delivery: DeliveryChecker = field(init=False, default_factory=DeliveryChecker)
    _traffic: TrafficChecker = field(init=False, default_factory=TrafficChecker)
    _promises: BondPromises = field(init=False, default_factory=BondPromises)
    _flows: dict[tuple[str, str, bytes], Flow] = field(init=False, default_factory=dict)
    _state_changed: bool = field(
        init=False, default=False
    )  # something other than packets came out since the last check

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        self._hash = hashlib.sha256()
        group = ip_address(self.story.group).packed
        self.hosts = {host.name: SimulatedHost(host, group) for host in self.story.topology.hosts}
        self.network = build(
            self.story.topology,
            random=Random(self.random.getrandbits(64)),
            timing=replace(Timing.simulated(), hop_ns=0) if self.story.flows else Timing.simulated(),
            profile=self.profile,
            without=self.without,
            overrides=self.overrides,
        )
        if self.checked:
            self.network.on_send = self._sent
        self.faults = list(self.story.faults)
        if self.story.random_faults is not None:
            self.faults += draw(self.story.random_faults, self.story.topology, self.random)
        for fault in self.faults:
            for after_ms, event in KINDS[fault.kind].course(fault):
                self._plan((fault.at_ms + after_ms) * MS, event)
                self.last_fault_ms = max(self.last_fault_ms, fault.at_ms + after_ms)

    @property
    def listeners(self) -> list[str]:
        """The hosts whose programs have joined the story's group."""
        return list(self.hosts)

    def run(self) -> Outcome:
        """The whole story; never raises for a broken promise, the outcome says it."""
        broken = None
        try:
            self.begin()
            self.probe_regularly(from_ms=self.story.quiet_ms // 2)
            self.run_until(self.story.length_ms * MS)
            if self.checked:
                all_reached(self)
                self._promises.check_end(self)
        except Broken as error:
            broken = str(error)
        return Outcome(
            self.seed,
            broken,
            self.now / MS,
            self._hash.hexdigest(),
            self.steps,
            tuple(self.faults),
            tuple(self.moments),
        )

    def begin(self) -> None:
        """Power on: cables, the first sweep, addresses, bonds up."""
        self._take(self.network.start(self.now))
        for name, host in self.hosts.items():
            for event in host.configuration():
                self._feed(OnHost(name, event))

    def run_until(self, end: int) -> None:
        """Let virtual time pass; every event, deadline and probe in the order of its time."""
        while True:
            at = min(self._next_times(), default=end)
            if at > end:
                break
            self.now = max(self.now, at)
            self._step()
        self.now = end

    def probe(self, kind: str, source: str, target: str) -> Probe:
        """One probe leaves now."""
        host = self.hosts[source]
        if kind == "multicast":
            destination = host.group
        else:
            mine = {len(a) for a in host.addresses}
            destination = next(a for a in self.hosts[target].addresses if len(a) in mine)
        probe = Probe(len(self.probes), kind, source, target, self.now)
        self.probes.append(probe)
        packet = make_probe(kind, probe.number, self.now, host.source_for(destination), destination)
        leaving = host.send_to_group(packet) if kind == "multicast" else host.send(packet)
        if self.checked:
            self._traffic.sent(self, probe, destination)
        if not self._send_by_flow(source, leaving, destination):
            self._feed(OnHost(source, leaving))
        return probe

    def _send_by_flow(self, source: str, leaving: Transmit, destination: bytes) -> bool:
        """As the live pump does: a remembered flow of this generation delivers at once; a new one is remembered."""
        if not self.story.flows:
            return False
        key, generation = (source, leaving.device, destination), self.network.generation.value
        flow = self._flows.get(key)
        if flow is None or flow.generation != generation:
            found = self.network.flow_for(self.now, source, leaving.device, leaving.packet)
            if found is not None and found.generation == self.network.generation.value:
                self._flows[key] = found
            return False
        flow.packets += 1
        flow.bytes += len(leaving.packet)
        self._take([Deliver(*flow.target, leaving.packet)])
        return True

    def stream(self, source: str, target: str) -> _Stream:
        """A byte stream from now on."""
        mine = {len(a) for a in self.hosts[source].addresses}
        destination = next(a for a in self.hosts[target].addresses if len(a) in mine)
        address = self.hosts[source].source_for(destination)
        stream = _Stream(
            source,
            target,
            StreamSender(address, destination, next_offer=self.now),
            StreamReceiver(destination, address),
        )
        self.streams.append(stream)
        return stream

    @property
    def manager_dead(self) -> bool:
        """Whether a fault took the subnet manager away and nothing brought it back."""
        return self._traffic.manager_dead

    def feed(self, event: NetworkEvent) -> None:
        """An event of the caller, now: like a fault of the story."""
        self._begin_fault(event)
        if self.checked:
            self._promises.follow(self)

    # --- inside one run

    def _plan(self, at: int, event: NetworkEvent | Sending) -> None:
        heappush(self._agenda, (at, self._order, event))
        self._order += 1

    def _next_times(self) -> Iterable[int]:
        if self._agenda:
            yield self._agenda[0][0]
        deadline = self.network.deadline()
        if deadline is not None:
            yield deadline
        for stream in self.streams:
            yield stream.sender.deadline()
        for program in self.programs:
            at = program.deadline()
            if at is not None:
                yield at

    def probe_regularly(self, *, from_ms: int) -> None:
        """Programs start: each pair pings and sends UDP both ways, the first few hosts send to the group."""
        for number, (a, b) in enumerate(self.story.pairs):
            programs = [("icmp", a, b), ("udp", a, b), ("udp", b, a)]
            if number < GROUP_SENDERS:
                programs.append(("multicast", a, b))
            for kind, source, target in programs:
                offset = self.random.randrange(self.story.probe_ms * 1000) * US
                self._plan(from_ms * MS + offset, Sending(kind, source, target))

    def _step(self) -> None:
        self.steps += 1
        while self._agenda and self._agenda[0][0] <= self.now:
            at, _, item = heappop(self._agenda)
            if isinstance(item, Sending):
                self._plan(at + self.story.probe_ms * MS, item)
                self.probe(item.kind, item.source, item.target)
            else:
                self._begin_fault(item)
        deadline = self.network.deadline()
        if deadline is not None and deadline <= self.now:
            self._take(self.network.tick(self.now))
        for program in self.programs:
            wanted = program.deadline()
            if wanted is not None and wanted <= self.now:
                for event in program.tick(self.now):
                    self._feed(event)
        for stream in self.streams:
            if stream.sender.deadline() <= self.now:
                for packet in stream.sender.tick(self.now):
                    self._feed(OnHost(stream.sender_host, self.hosts[stream.sender_host].send(packet)))
        if self.checked and self._state_changed:
            self._state_changed = False
            for check in STATE_CHECKERS:
                check(self)
            self._promises.follow(self)
            self._traffic.follow(self)
        if self.checked:
            self._traffic.check(self)

    def _begin_fault(self, event: NetworkEvent) -> None:
        """The checkers learn of it before the network does."""
        self._traffic.on_fault(self.now, event)
        self._promises.on_fault(event)
        self._feed(event)

    def _sent(self, effect: SendDatagram) -> None:
        """A host gives a datagram to the subnet: the checkers count announcements."""
        found = announced_by(effect.datagram.payload)
        if found:
            self._promises.announced(self.now, effect.port, found)

    def _feed(self, event: NetworkEvent) -> None:
        try:
            effects = self.network.handle(self.now, event)
        except Refused as refusal:
            self.moments.append(TracedEvent(self.now / MS, "refused", "", str(refusal)))
            return
        self._take(effects)

    def _take(self, effects: list[NetworkEffect]) -> None:
        if not effects:
            return
        changed = not all(isinstance(effect, Deliver) for effect in effects)
        self._state_changed = self._state_changed or changed
        if self.checked and changed:
            self._delivery.follow(self)
        self._hash.update(repr((self.now, effects)).encode())
        for effect in effects:
            for program in self.programs:
                program.on_effect(self.now, effect)
            if isinstance(effect, Deliver):
                if self.checked:
                    self._delivery.delivered(self, effect)
                self._deliver(effect)
            elif isinstance(effect, TraceEvent):
                self.moments.append(TracedEvent(self.now / MS, effect.what, effect.where, effect.detail))

    def _deliver(self, effect: Deliver) -> None:
        if self._stream_segment(effect):
            return
        host = self.hosts[effect.host]
        answers, number = host.receive(effect)
        if number is not None and number < len(self.probes):
            probe = self.probes[number]
            probe.arrived_at = probe.arrived_at or self.now
            probe.copies[effect.host] = probe.copies.get(effect.host, 0) + 1
            if self.checked:
                arrives_once(probe, effect.host)
            if probe.kind == "icmp" and probe.answered_at is None:
                probe.answered_at = self.now
        for answer in answers:
            self._feed(OnHost(effect.host, answer))

    def _stream_segment(self, effect: Deliver) -> bool:
        if not self.streams:
            return False
        try:
            datagram = UdpDatagram.parse(effect.packet)
        except Malformed:
            return False
        if datagram.destination_port != STREAM_PORT:
            return False
        is_answer, number = SEGMENT.unpack_from(datagram.data)
        for stream in self.streams:
            if is_answer and effect.host == stream.sender_host and datagram.destination == stream.sender.source:
                for packet in stream.sender.acknowledge(self.now, number):
                    self._feed(OnHost(effect.host, self.hosts[effect.host].send(packet)))
            elif not is_answer and datagram.destination == stream.receiver.address:
                answer = stream.receiver.take(self.now, number)
                self._feed(OnHost(effect.host, self.hosts[effect.host].send(answer)))
        return True
