"""The demonstration: a lab, four kinds of traffic at once, cables pulled and plugged again, and what each of it cost.

Read first: `demo.measure` for what is measured, `demo.generators` for the traffic. One round pulls the cable that
carries the traffic, plugs it again, then does the same with the other one. The bond's `primary` is the cable that is
pulled, so that every plugging is a fail-back: the traffic returns by itself.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from ibbond.backend.control_socket import Control, LabBackend
from ibbond.demo.generators import Endpoint, TrafficGenerators
from ibbond.demo.live_view import SAMPLE_EVERY, View
from ibbond.demo.measure import STREAMS, DemoEvent, ProbeStream, Recording, Stream
from ibbond.demo.probe import lateness
from ibbond.demo.rdma_report import session_facts
from ibbond.errors import Refused
from ibbond.lab.exec import HostHandle, host_handle
from ibbond.lab.launch import DidNotStart, running_lab
from ibbond.lab.state import LabConfig
from ibbond.machine import MS
from ibbond.topology.default import TWO_HOSTS
from ibbond.topology.load import parse

BOND, MEMBERS = "bond0", ("ib0", "ib1")
FLOWING = 10.0  # seconds within which all protocols must get through at first
MOVING = 2.0  # seconds within which a bond must have moved
SETTLING = 0.8  # seconds of traffic after each move, in which its losses show
LATE = "allow_not_up_enslave"  # the patch whose lack shows where programs join groups before the bond has members
HEARD = 2.5  # seconds within which a lab learns of groups that no packet announced
BROKEN_FLOWING = 2.0  # the same, where a patch is left out and perhaps nothing will ever flow


@dataclass(slots=True)
class DemoLab:
    """The running lab, its traffic, and what has happened."""

    control: Control
    generators: TrafficGenerators
    view: View
    happenings: list[DemoEvent] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)

    def active(self, host: str) -> str | None:
        return LabBackend(self.control, host).read(f"{BOND}/bonding/active_slave").strip() or None

    def happened(self, at: int, what: str, where: str, detail: str = "") -> None:
        self.happenings.append(DemoEvent(at, what, where, detail))

    def show(self) -> None:
        hosts = (self.generators.one.host, self.generators.two.host)
        self.view.bonds_are({f"{host}/{BOND}": self.active(host) or "none" for host in hosts}, self.cut)

    def wait(self, seconds: float) -> None:
        """Let traffic flow, and the view draw it."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.view.sample(self.generators.progress())
            time.sleep(min(left, SAMPLE_EVERY))

    def lost(self) -> dict[str, int]:
        return {protocol: progress.lost for protocol, progress in self.generators.progress().items()}


def run_demo(rounds: int, view: View, without: str | None = None, *, rdma: bool = False) -> Recording:
    """The whole demonstration, live; `Refused` where this machine cannot.

    Where a patch is left out and the bonds cannot even be built, the recording holds that refusal and no traffic.
    """
    try:
        return run_with_traffic(rounds, view, without, rdma=rdma)
    except Refused as refusal:
        if without is None or isinstance(refusal, DidNotStart):
            raise
        now = time.monotonic_ns()
        view.say(f"the hosts cannot be built: {refusal}")
        return Recording("live", rounds, now, now, (), (), (f"The hosts could not be built. {refusal}",))


def run_with_traffic(rounds: int, view: View, without: str | None, *, rdma: bool) -> Recording:
    late = without == LATE
    topology = TWO_HOSTS.replace('members = ["ib0", "ib1"]', "members = []") if late else TWO_HOSTS
    config = LabConfig(
        f"demo{os.getpid()}",
        topology,
        "the default topology",
        without=(without,) if without else (),
        leased=True,
    )
    view.say("starting two hosts, two switches, one subnet manager")
    with running_lab(config) as (running, control), endpoints(control) as (one, two):
        took = running.status.get("ready_ms")
        view.say(f"the lab is up after {took:.0f} ms" if isinstance(took, float) else "the lab is up")
        view.say(f"to watch it in a browser: ibbond lab web --name {config.name}")
        generators = TrafficGenerators(one, two, rdma=rdma)
        try:
            if late:
                view.say("programs join their group on bonds that are up and have no members yet; then members join")
                time.sleep(HEARD)
                add_members(control)
            return play(DemoLab(control, generators, view), rounds, BROKEN_FLOWING if without else FLOWING)
        except BaseException:
            generators.kill()
            raise


def add_members(control: Control) -> None:
    """Members join bonds that have none, as `echo +ib0 > slaves` does it."""
    for host in parse(TWO_HOSTS).hosts:
        backend = LabBackend(control, host.name)
        for member in MEMBERS:
            backend.set_admin(member, False)
            backend.write(f"{BOND}/bonding/slaves", f"+{member}\n")


@contextlib.contextmanager
def endpoints(control: Control) -> Iterator[tuple[Endpoint, Endpoint]]:
    """The two hosts of the default topology."""
    hosts = parse(TWO_HOSTS).hosts
    handles: list[HostHandle] = []
    try:
        found = []
        for host in hosts:
            handles.append(host_handle(control, host.name))
            address = next(address for _, address in host.addresses() if address.version == 4)
            found.append(Endpoint(host.name, handles[-1], str(address.ip)))
        yield found[0], found[1]
    finally:
        for way in handles:
            way.close()


def play(lab: DemoLab, rounds: int, timeout: float) -> Recording:
    """Start the traffic, pull and plug, end the traffic."""
    silent = lab.generators.ready(timeout)
    if silent:
        lab.notes.append(f"{' and '.join(silent)} did not get through within {timeout:.0f} s of the start")
        lab.view.say(lab.notes[-1])
    else:
        beside = ", and a block session over RDMA beside them" if lab.generators.rdma is not None else ""
        lab.view.say(f"TCP, UDP, IP multicast and ICMP flow both ways{beside}")
    if not lab.generators.system_ping:
        lab.notes.append("This system has no iputils ping; ICMP echo was sent by a program of ibbond.")
    lab.show()
    started_at = time.monotonic_ns()
    lab.wait(SETTLING)
    for number in range(rounds):
        host = (lab.generators.one if number % 2 == 0 else lab.generators.two).host
        lab.view.say(f"round {number + 1} of {rounds}: the cables of {host}")
        for member in MEMBERS:
            prefer(lab, host, member)
            pull(lab, host, member)
            plug(lab, host, member)
    ended_at = time.monotonic_ns()
    lab.generators.end()
    streams = lab.generators.streams(started_at, ended_at)
    spans, busy = lateness(lab.control, started_at)
    return Recording(
        mode="live",
        rounds=rounds,
        started_at=started_at,
        ended_at=ended_at,
        happenings=tuple(lab.happenings),
        streams=streams,
        notes=(*lab.notes, *busy, *too_slow(streams, ended_at - started_at)),
        late=spans,
        session=None
        if lab.generators.rdma is None
        else session_facts(lab.happenings, started_at, ended_at, lab.generators.rdma.facts),
    )


def too_slow(streams: tuple[Stream, ...], length: int) -> Iterator[str]:
    """A machine that was too busy to probe as often as the arithmetic assumes: people must know."""
    for stream in streams:
        if isinstance(stream, ProbeStream) and stream.sent and length / len(stream.sent) > 2 * stream.spacing_ns:
            every, wanted = length / len(stream.sent) / MS, stream.spacing_ns / MS
            yield (
                f"This machine was busy: {stream.protocol} {stream.direction} was probed every {every:.1f} ms "
                f"instead of every {wanted:.0f}, so its outages are rather {every / wanted:.1f} times as long."
            )


def prefer(lab: DemoLab, host: str, member: str) -> None:
    """Have the bond carry its traffic by this member, as long as it is up; a planned switch when another one does."""
    before = lab.active(host)
    LabBackend(lab.control, host).write(f"{BOND}/bonding/primary", f"{member}\n")
    if before and before != member:
        at = moved(lab, host, before)
        if at:
            lab.happened(at, "switch", f"{host}/{BOND}", f"{before} -> {member}")
            lab.view.say(f"  moved {host}/{BOND} to {member} by hand")
            lab.show()
        lab.wait(SETTLING / 2)


def pull(lab: DemoLab, host: str, member: str) -> None:
    """Pull the cable that carries the traffic."""
    step(lab, host, "cut", f"{host}/{member}", "failover")


def plug(lab: DemoLab, host: str, member: str) -> None:
    """Plug it again: the traffic returns to it."""
    step(lab, host, "mend", f"{host}/{member}", "failback")


def step(lab: DemoLab, host: str, do: str, cable: str, move: str) -> None:
    before, lost = lab.active(host), lab.lost()
    answer = lab.control.ask(do, cables=[cable])
    assert isinstance(answer, dict)
    at = int(answer["at_ns"])
    lab.cut = [cable] if do == "cut" else []
    lab.happened(at, do, cable)
    moved_at = moved(lab, host, before)
    now = lab.active(host)
    detail = f"{before} -> {now}"
    lab.happened(moved_at or at, move, f"{host}/{BOND}", detail)
    lab.show()
    lab.wait(SETTLING)
    verb = "pulled" if do == "cut" else "plugged"
    cost = ", ".join(
        f"{name} {each.lost - lost[name] if each.received else 'all'}"
        for name, each in lab.generators.progress().items()
        if name not in STREAMS
    )
    took = f" after {(moved_at - at) / MS:.1f} ms" if moved_at else ", and did not move"
    lab.view.say(f"  {verb} {cable}: {detail}{took}; probes lost: {cost}")


def moved(lab: DemoLab, host: str, before: str | None) -> int:
    """Wait until the bond has another active member; when that was, 0 when it does not happen in time."""
    until = time.monotonic() + MOVING
    while time.monotonic() < until:
        if lab.active(host) != before:
            return last_move(lab.control, f"{host}/{BOND}")
        time.sleep(0.005)
    return 0


def last_move(control: Control, bond: str) -> int:
    """When a bond last changed its active member."""
    items = control.ask("past_events")
    assert isinstance(items, list)
    for item in reversed(items):
        if item["where"] == bond and item["what"] == "failover":
            return int(item["at_ns"])
    return time.monotonic_ns()
