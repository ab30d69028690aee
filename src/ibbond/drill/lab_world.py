"""Drills of a lab's bond: faults through its socket and InfiniBand tools, phases from its journal and captures.

Read first: `drill.runner`, `lab.control.requests`. The commands of a plan are those that a person would type; this
process makes the same requests over the socket, which says when each took effect. The undo is kept by `drill.undo` as
those commands, for a lab outlives the drill. Left out: labs whose daemon is killed meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from ipaddress import ip_interface
from pathlib import Path
from typing import NamedTuple

from ibbond.backend.control_socket import Control, LabBackend
from ibbond.backend.lock import alone
from ibbond.demo.generators import UDP_PORT
from ibbond.demo.probe import endpoints
from ibbond.drill import sightings as see
from ibbond.drill.classes import CLASSES, DrillClass
from ibbond.drill.flows import Flow
from ibbond.drill.guards import BondFacts, Member, is_noticed, why_way_is_unsafe
from ibbond.drill.phases import Phase, Sighting, Source
from ibbond.drill.runner import UNDO_WITHIN_SECONDS, Moments, Plan
from ibbond.drill.traffic import Programs, Stream
from ibbond.drill.undo import Command, Undo
from ibbond.errors import Refused
from ibbond.host.output_file import open_output
from ibbond.host.scratch import scratch
from ibbond.lab.exec import run
from ibbond.machine import MS
from ibbond.wire.pkey import DEFAULT_PKEY

FLOW_SECONDS = 10.0  # within which all protocols must get through at first
LOSS_PERCENT = 20
OTHER_PKEY = 0x8001  # all that a port has while its P_Key is taken
TOOL_CLASSES = ("port-disabled", "far-end-disabled")
EVENTS = (Phase.PORT, Phase.CARRIER, Phase.VERDICT, Phase.ACTIVE, Phase.ADDRESS)
SOURCES: Mapping[Phase, Sequence[Source]] = {
    Phase.CAUSE: (Source.DRILL,),
    **dict.fromkeys(EVENTS, (Source.EVENTS,)),
    Phase.ANNOUNCEMENT: (Source.CAPTURE,),
    Phase.NEIGHBOR: (Source.PEER,),
    Phase.FIRST_PACKET: (Source.CAPTURE,),
    Phase.REDUNDANCY: (Source.DRILL,),
}


class Step(NamedTuple):
    """One change: the command of a person, and the same as a request to the lab, or a tool to run in the host."""

    command: Command
    request: str = ""
    words: Mapping[str, object] = {}
    tool: tuple[str, ...] = ()
    port: str = ""  # by which the tool enters the subnet


class LabWorld:
    """A bond of a lab host, and the other host from which it is probed."""

    drilled: str
    sources = SOURCES
    makes_before_break = True

    def __init__(
        self, control: Control, host: str, bond: str, peer: str, spacing_us: int, errors: Sequence[str]
    ) -> None:
        self.control, self.drilled, self.bond, self.peer = control, host, bond, peer
        self.lab = control.path.stem
        self.title = f"lab {self.lab}"
        self.backend = LabBackend(control, host)
        self.spacing_us = spacing_us
        self.errors = tuple(errors)
        has_tools = shutil.which("ibportstate") or Path("/usr/sbin/ibportstate").exists()
        self.possible: Sequence[str] = [name for name in CLASSES if has_tools or name not in TOOL_CLASSES]
        self._stack = contextlib.ExitStack()
        self._programs: Programs | None = None
        self._undo: Undo | None = None
        self._steps: dict[bool, list[Step]] = {}
        self._began = time.monotonic_ns()
        self._missed = 0  # frames that captures had no room for
        self._own_ips: tuple[bytes, ...] = ()
        self._peer_ip = b""
        self._addresses: dict[str, bytes] = {}
        self._lids: dict[str, int] = {}

    # What is there

    def status(self) -> dict[str, object]:
        found = self.control.ask("status")
        assert isinstance(found, dict)
        return found

    def facts(self, row: DrillClass | None = None) -> BondFacts:
        found = self._facts()
        return self._with_way(found) if row is not None and row.name == "far-end-disabled" else found

    def _facts(self) -> BondFacts:
        status = self.status()
        snapshot = self.backend.snapshot(self.bond)
        hosts = status["hosts"]
        assert isinstance(hosts, dict)
        devices, cables = hosts[self.drilled]["devices"], status["cables"]
        assert isinstance(cables, list)
        options = self.backend.options(self.bond)
        members = []
        for member in snapshot.members:
            facts = devices[member.name]
            port = str(facts.get("port", ""))
            other, state = _cable_of(f"{self.drilled}/{member.name}", cables)
            address = bytes.fromhex(str(facts["hardware_address"]).replace(":", ""))
            self._addresses[member.name] = address
            self._lids[member.name] = int(facts.get("lid") or 0)
            members.append(
                Member(
                    member.name,
                    member.link == "up",
                    port,
                    port.partition("/")[0],
                    other.partition("/")[0],
                    state,
                    address,
                )
            )
        bond = hosts[self.drilled]["bonds"][self.bond]
        return BondFacts(
            f"{self.drilled}/{self.bond}",
            options.get("mode", "").split(" ")[0],
            bool(bond["up"]),
            bond["active"],
            tuple(members),
            errors=self.errors,
            has_arp_monitor=int(options.get("arp_interval", "0") or 0) > 0,
            primary=options.get("primary", "").strip() or None,
            primary_reselect=options.get("primary_reselect", "always").split(" ")[0],
        )

    def describe(self) -> Mapping[str, str]:
        status = self.status()
        options = self.backend.options(self.bond)
        manager = status["manager"]
        assert isinstance(manager, dict)
        shown = ("mode", "miimon", "arp_interval", "fail_over_mac", "primary", "num_grat_arp", "link_events")
        return {
            "bond": f"{self.drilled}/{self.bond}",
            "peer": self.peer,
            "driver": f"ibbond, profile {status['profile']}",
            "kernel": os.uname().release,
            "firmware": "none: the ports are software",
            "subnet manager": str(manager["kind"]),
            "options": ", ".join(f"{name} {options[name].strip()}" for name in shown if options.get(name, "").strip()),
        }

    # Plans

    def plan(self, row: DrillClass, facts: BondFacts) -> Plan:
        active, spare = facts.member(facts.active), facts.spare
        assert active is not None
        assert spare is not None
        do, undo = self._commands(row.name, active, spare)
        self._steps = {False: do, True: undo}
        return Plan(row, facts, active.name, spare.name, tuple(s.command for s in do), tuple(s.command for s in undo))

    def _commands(self, name: str, victim: Member, spare: Member) -> tuple[list[Step], list[Step]]:
        device = f"{self.drilled}/{victim.name}"
        match name:
            case "planned-switch":
                return [self._switch(spare.name)], [self._switch(victim.name)]
            case "admin-down":
                return [self._admin(victim.name, up=False)], [self._admin(victim.name, up=True)]
            case "port-disabled":
                return self._tool(spare.port, "-D", "0", victim.port.rpartition("/")[2])
            case "far-end-disabled":
                lid, number = self._far_end(victim)
                return self._tool(spare.port, str(lid), str(number))
            case "cut":
                return [self._lab("cut", cables=[device])], [self._lab("mend", cables=[device])]
            case "switch-death":
                return [self._lab("kill", nodes=[victim.switch])], [self._lab("revive", nodes=[victim.switch])]
            case "adapter-removed":
                return [self._lab("kill", nodes=[victim.adapter])], [self._lab("revive", nodes=[victim.adapter])]
            case "pkey-taken":
                return [self._pkeys(device, [OTHER_PKEY])], [self._pkeys(device, self._table(victim.name))]
            case "silent-death":
                return [self._lose(device, 100)], [self._lose(device, 0)]
            case "loss":
                return [self._lose(device, LOSS_PERCENT)], [self._lose(device, 0)]
            case _:
                return [self._lab("kill", nodes=["sm"])], [self._lab("revive", nodes=["sm"])]

    def _words(self, *words: str) -> Command:
        return (str(Path(sys.executable).with_name("ibbond")), *words)

    def _lab(self, do: str, **words: list[str]) -> Step:
        (names,) = words.values()
        return Step(self._words("lab", do, "--name", self.lab, *names), do, words)

    def _lose(self, device: str, percent: int) -> Step:
        command = self._words("lab", "lose", "--name", self.lab, device, "--percent", str(percent))
        return Step(command, "lose", {"cables": [device], "percent": percent})

    def _pkeys(self, device: str, pkeys: list[int]) -> Step:
        command = self._words("lab", "set-pkeys", "--name", self.lab, device, *(f"{pkey:#06x}" for pkey in pkeys))
        return Step(command, "pkeys", {"port": device, "pkeys": pkeys})

    def _table(self, member: str) -> list[int]:
        hosts = self.status()["hosts"]
        assert isinstance(hosts, dict)
        found = [int(key, 0) for key in hosts[self.drilled]["devices"][member].get("pkeys", [])]
        return [key for key in found if key] or [DEFAULT_PKEY]

    def _switch(self, member: str) -> Step:
        bond = f"{self.drilled}/{self.bond}"
        words = {"host": self.drilled, "path": f"{self.bond}/bonding/active_slave", "text": f"{member}\n"}
        return Step(self._words("bond", "set", "--name", self.lab, bond, f"active_slave={member}"), "write", words)

    def _admin(self, member: str, *, up: bool) -> Step:
        state = "up" if up else "down"
        command = self._words("lab", "exec", "--name", self.lab, self.drilled, "--", "ip", "link", "set", member, state)
        return Step(command, "set_admin", {"host": self.drilled, "device": member, "up": up})

    def _tool(self, port: str, *target: str) -> tuple[list[Step], list[Step]]:
        """ibportstate through a port of the host: `target` is what it is to disable."""
        steps = []
        for word in ("disable", "enable"):  # both through a port that stays
            tool = ("ibportstate", *target, word)
            place = f"SIM_HOST={port.replace('/', ':')}"
            command = ("env", place, *self._words("lab", "exec", "--name", self.lab, self.drilled, "--", *tool))
            steps.append(Step(command, tool=tool, port=port))
        return [steps[0]], [steps[1]]

    def _far_end(self, victim: Member) -> tuple[int, int]:
        """LID of the victim's switch, and the number of its port there."""
        cables = self.status()["cables"]
        assert isinstance(cables, list)
        other, _ = _cable_of(f"{self.drilled}/{victim.name}", cables)
        switch, _, number = other.partition("/")
        row = self._node(f"{switch}/0")
        return int(str(row["lid"])), int(number)

    def _node(self, port: str) -> dict[str, object]:
        table = self.control.ask("subnet", table="show")
        assert isinstance(table, list)
        return next(row for row in table if row["port"] == port)

    def _with_way(self, facts: BondFacts) -> BondFacts:
        """The facts with why the far end of the active member may not be disabled, as ibtracert shows the way."""
        active, spare = facts.member(facts.active), facts.spare
        if active is None or spare is None:
            return facts
        lid, number = self._far_end(active)
        row = self._node(f"{active.switch}/0")
        own = self._node(f"{self.drilled}/{spare.name}")
        with _environment(SIM_HOST=spare.port.replace("/", ":")):
            traced = run(self.control, self.drilled, ["ibtracert", str(own["lid"]), str(lid)])
        why = why_way_is_unsafe(traced.stdout.decode(), spare.name, int(str(row["guid"]), 0), number)
        return replace(facts, way_to_far_end=why)

    # A drill

    def begin(self) -> None:
        self._stack.enter_context(
            alone(str(self.control.path.with_suffix(".lock")), "the bonds of this lab by a drill")
        )
        one, two = self._stack.enter_context(endpoints(self.control, (self.drilled, self.peer)))
        self._own_ips = tuple(ip_interface(text).ip.packed for text in self.backend.addresses(self.bond))
        self._peer_ip = ip_interface(two.address).ip.packed
        self._programs = Programs(one, two, self.spacing_us)
        silent = self._programs.ready(FLOW_SECONDS)
        if silent:
            self.abandon()
            raise Refused(
                f"cannot drill {self.drilled}/{self.bond}",
                why=f"{' and '.join(silent)} did not get through to {self.peer} within {FLOW_SECONDS:.0f} s",
                fix=f"See whether {one.address} and {two.address} reach each other: ibbond lab status",
            )
        self._undo = Undo(with_timer=False)
        self._stack.callback(self._undo.close)

    def finish(self) -> tuple[list[Flow], list[Stream]]:
        assert self._programs is not None
        flows, streams = self._programs.end()
        self._programs = None
        self._stack.close()
        return flows, streams

    def abandon(self) -> None:
        if self._programs is not None:
            self._programs.kill()
            self._programs = None
        self._stack.close()

    def arm(self, plan: Plan) -> None:
        assert self._undo is not None
        self._undo.arm(plan.undo, UNDO_WITHIN_SECONDS)

    def disarm(self) -> None:
        assert self._undo is not None
        self._undo.disarm()

    def apply(self, plan: Plan, *, undo: bool) -> int:
        at = 0
        for step in self._steps[undo]:
            at = at or self._take(step)
        return at

    def _take(self, step: Step) -> int:
        began = time.monotonic_ns()
        if not step.tool:
            answer = self.control.ask(step.request, **step.words)
            return int(answer["at_ns"]) if isinstance(answer, dict) and "at_ns" in answer else began
        with _environment(SIM_HOST=step.port.replace("/", ":")):
            done = run(self.control, self.drilled, step.tool)
        if done.returncode != 0:
            why = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
            raise Refused(
                f"cannot run {' '.join(step.tool)}", why=why[-1] if why else "it failed", fix="Try it by hand"
            )
        return self._smp_at(began)

    def _smp_at(self, began: int) -> int:
        """When the subnet carried out what a tool asked for: its first event since then."""
        return next(
            (event.at for event in self._events() if event.at >= began and event.what in ("port", "subnet")), began
        )

    def watch(self, plan: Plan) -> None:
        """A capture of the port of each member."""
        self._epoch = time.time_ns() - time.monotonic_ns()
        self._captures = self._stack.enter_context(contextlib.ExitStack())
        folder = self._captures.enter_context(scratch("drill"))
        self._files = {member.name: folder / f"{member.name}.pcap" for member in plan.facts.members}
        self._capture_ids = {name: self._capture(name, file) for name, file in self._files.items()}

    def _capture(self, member: str, file: Path) -> str:
        control = self._captures.enter_context(Control(self.control.path))
        descriptor = open_output(file, flags=os.O_NONBLOCK, mode=0o600)
        try:
            device = f"{self.drilled}/{member}"
            answer = control.ask_with_descriptor(descriptor, "capture", device=device, file=str(file))
        finally:
            os.close(descriptor)
        assert isinstance(answer, dict)
        return str(answer["capture"])

    def _captured(self) -> list[see.Frame]:
        """The frames at all members, in the order of their times."""
        frames: list[see.Frame] = []
        with ThreadPoolExecutor() as pool:  # each runs until it is stopped, and stopping takes a while
            self._missed += sum(pool.map(self._end_capture, self._files))
        for member, file in self._files.items():
            lid = self._lids.get(member, 0)
            frames += see.read_port_capture(file.read_bytes(), self._epoch, self._addresses[member], lid)
        self._captures.close()
        return sorted(frames, key=lambda frame: frame.at)

    def _end_capture(self, member: str) -> int:
        """The frames that it had no room for."""
        with Control(self.control.path) as control:
            answer = control.ask("capture_end", capture=self._capture_ids[member], file=str(self._files[member]))
        assert isinstance(answer, dict)
        return int(answer["missed"])

    def sightings(self, plan: Plan, moments: Moments) -> tuple[list[Sighting], list[Sighting]]:
        frames = self._captured()
        failure = self._scene(plan, moments.caused_at, moments.undone_at, plan.spare, is_reversion=False)
        reversion = self._scene(plan, moments.undone_at, moments.ended_at, plan.victim, is_reversion=True)
        before, after = self._seen(frames, failure), self._seen(frames, reversion)
        if not is_noticed(plan.row, plan.facts):
            resumed = self._scene(plan, moments.undone_at, moments.ended_at, plan.victim, is_reversion=True)
            before = [each for each in before if each.phase is not Phase.FIRST_PACKET]
            before += [s for s in see.from_capture(frames, resumed, any_path=True) if s.phase is Phase.FIRST_PACKET]
        return before, after

    def _seen(self, frames: Sequence[see.Frame], scene: see.Scene) -> list[Sighting]:
        lines = self.control.ask("stamped_log", host=self.drilled)
        assert isinstance(lines, list)
        return [
            *see.from_events(self._events(), scene),
            *see.from_log([(int(at), str(line)) for at, line in lines], scene, Source.EVENTS),
            *see.from_capture(frames, scene),
        ]

    def _scene(self, plan: Plan, at: int, until: int, member: str, *, is_reversion: bool) -> see.Scene:
        """`member` has the traffic afterwards."""
        return see.Scene(
            self.drilled,
            self.bond,
            plan.victim,
            at,
            until,
            is_reversion,
            self._addresses[member],
            self._own_ips,
            self.peer,
            self._peer_ip,
            UDP_PORT,
        )

    def _events(self) -> list[see.Event]:
        items = self.control.ask("past_events")
        assert isinstance(items, list)
        return [see.Event(int(i["at_ns"]), str(i["what"]), str(i["where"]), str(i["detail"])) for i in items]

    def active(self) -> str | None:
        return self.backend.read(f"{self.bond}/bonding/active_slave").strip() or None

    def is_redundant(self, plan: Plan) -> bool:
        facts = self.facts()
        victim = facts.member(plan.victim)
        if victim is None or not victim.is_up or facts.spare is None:
            return False
        return facts.active == plan.victim if plan.returns else True

    def now(self) -> int:
        return time.monotonic_ns()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def notes(self) -> list[str]:
        found = []
        late = self.control.ask("late")
        assert isinstance(late, dict)
        spans = [(begin, end) for begin, end in late["spans"] if end > self._began]
        if spans:
            longest = max(end - begin for begin, end in spans) / MS
            often = "once" if len(spans) == 1 else f"{len(spans)} times"
            found.append(f"The machine was busy: the lab fell behind {often}, by {longest:.0f} ms at most.")
        if self._missed:
            found.append(f"The machine was busy: captures have no room for {self._missed} frames.")
        return found


def _cable_of(end: str, cables: Sequence[Mapping[str, object]]) -> tuple[str, str | None]:
    """The other end of a cable, and the state of its port as sysfs names it."""
    for cable in cables:
        ends = cable["ends"]
        assert isinstance(ends, list)
        if end in ends:
            state = str(cable["state"])
            return str(ends[1 - ends.index(end)]), {"up": "ACTIVE", "cut": "DOWN"}.get(state, state.upper())
    return "", None


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    """These variables, for a program that is started meanwhile."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
