"""Drills of this host's own bonds (the kernel's driver), probed from a peer that runs `ibbond drill --serve`.

Read first: `drill.runner`, `drill.peer`, `drill.host_watch`; docs/drill.md on what each class changes. Faults are done
by rtnetlink and sysfs, or by the commands of the plan; the undo is kept outside as those commands. Left out: disabling
the far end of a cable, which needs the subnet's topology.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from ibbond.backend.kernel.bonds import KernelBackend
from ibbond.demo.generators import UDP_PORT
from ibbond.drill import sightings as see
from ibbond.drill.classes import DrillClass
from ibbond.drill.flows import Flow
from ibbond.drill.guards import BondFacts, Member, is_noticed
from ibbond.drill.host_watch import HostWatch
from ibbond.drill.peer import Peer, local_seat
from ibbond.drill.phases import Phase, Sighting, Source
from ibbond.drill.runner import UNDO_WITHIN_SECONDS, Moments, Plan
from ibbond.drill.traffic import End, Stream, flows_of
from ibbond.drill.undo import Command, Undo
from ibbond.errors import Refused
from ibbond.machine import MS
from ibbond.ops.check import check
from ibbond.ops.facts import HostFacts
from ibbond.ops.read_facts import kernel_facts
from ibbond.ops.rule import Severity

FLOW_SECONDS = 60.0
OWN = "this host"
UNSETTLED = ("connecting", "deactivating", "configuring", "pending")
SOURCES: Mapping[Phase, Sequence[Source]] = {
    Phase.CAUSE: (Source.DRILL,),
    Phase.CARRIER: (Source.NETLINK,),
    Phase.VERDICT: (Source.KERNEL_LOG,),
    Phase.ACTIVE: (Source.NETLINK, Source.KERNEL_LOG),
    Phase.ADDRESS: (Source.NETLINK,),
    Phase.ANNOUNCEMENT: (Source.CAPTURE,),
    Phase.NEIGHBOR: (Source.PEER,),
    Phase.FIRST_PACKET: (Source.CAPTURE,),
    Phase.REDUNDANCY: (Source.DRILL,),
}
REMOVED = (Phase.CARRIER, Phase.VERDICT)  # that a device which goes altogether does not show


class HostWorld:
    """A bond of this host and one peer."""

    drilled = OWN
    title = OWN
    makes_before_break = False

    def __init__(self, bond: str, peer: Peer, spacing_us: int) -> None:
        self.bond, self.peer, self.spacing_us = bond, peer, spacing_us
        self.backend = KernelBackend()
        self.sources: Mapping[Phase, Sequence[Source]] = SOURCES
        self.possible: Sequence[str] = [
            "planned-switch",
            "admin-down",
            *(["port-disabled"] if shutil.which("ibportstate") and Path("/dev/infiniband/umad0").exists() else []),
            "adapter-removed",
            *(["silent-death"] if shutil.which("tc") else []),
        ]
        self._stack = contextlib.ExitStack()
        self._end: End | None = None
        self._undo: Undo | None = None
        self._watch: HostWatch | None = None
        self._notes: list[str] = []
        self._offset = 0
        self._checked: tuple[str, ...] | None = None
        if bond not in self.backend.bonds():
            names = ", ".join(self.backend.bonds()) or "none"
            raise Refused(f"cannot drill {bond}", why="this host has no such bond", fix=f"Its bonds are: {names}")

    def facts(self, row: DrillClass | None = None) -> BondFacts:
        host = kernel_facts(self.backend, [self.bond])
        if self._checked is None:  # later it would find what the drill itself does
            self._checked = errors_of(host)
        bond = host.bonds[0]
        members = []
        for each in bond.members:
            port = each.device.port
            card = "" if port is None else port.card or port.adapter or ""
            state = port.state if port is not None and port.is_infiniband else None
            members.append(
                Member(
                    each.name,
                    each.link == "up",
                    f"{card}/{port.number}" if port is not None and card else "",
                    adapter=card,
                    switch=(port.neighbor or "") if port is not None else "",
                    port_state=state,
                    hardware_address=each.device.hardware_address or each.address,
                )
            )
        return BondFacts(
            self.bond,
            bond.mode.name.lower().replace("_", "-") if bond.mode is not None else "unknown",
            bool(bond.device.up),
            self.active(),
            tuple(members),
            errors=self._checked,
            session_over_bond=self._session(),
            busy=busy([self.bond, *(member.name for member in members)]),
            has_arp_monitor=bond.number("arp_interval") > 0,
            primary=self._option("primary") or None,
            primary_reselect=self._option("primary_reselect").split(" ")[0] or "always",
        )

    def _option(self, name: str) -> str:
        return self.backend.read(f"{self.bond}/bonding/{name}").strip()

    def _session(self) -> str | None:
        """The ssh session that runs over the bond."""
        words = os.environ.get("SSH_CONNECTION", "").split()
        own = {text.partition("/")[0] for text in self.backend.addresses(self.bond)}
        if len(words) == 4 and (words[2] in own or source_for(words[0]) in own):
            return f"ssh from {words[0]} to {words[2]}"
        return None

    def describe(self) -> Mapping[str, str]:
        shown = ("mode", "miimon", "arp_interval", "fail_over_mac", "primary", "num_grat_arp", "updelay", "downdelay")
        options = self.backend.options(self.bond)
        firmware = {path.read_text().strip() for path in Path("/sys/class/infiniband").glob("*/fw_ver")}
        return {
            "bond": self.bond,
            "host": socket.gethostname(),
            "peer": f"{self.peer.name} ({self.peer.address})",
            "kernel": self.backend.release,
            "firmware": ", ".join(sorted(firmware)) or "unknown",
            "options": ", ".join(f"{name} {options[name].strip()}" for name in shown if options.get(name, "").strip()),
        }

    # Plans

    def plan(self, row: DrillClass, facts: BondFacts) -> Plan:
        active, spare = facts.member(facts.active), facts.spare
        assert active is not None
        assert spare is not None
        gone = row.name == "adapter-removed"
        self.sources = {phase: by for phase, by in SOURCES.items() if not (gone and phase in REMOVED)}
        do, undo = self._commands(row.name, active, spare)
        return Plan(row, facts, active.name, spare.name, tuple(do), tuple(undo))

    def _commands(self, name: str, victim: Member, spare: Member) -> tuple[list[Command], list[Command]]:
        device = victim.name
        set_up: list[Command]
        match name:
            case "planned-switch":
                return [self._switch(spare.name)], [self._switch(device)]
            case "admin-down":
                return [("ip", "link", "set", device, "down")], [("ip", "link", "set", device, "up")]
            case "port-disabled":
                adapter, _, number = victim.port.partition("/")
                words = ("ibportstate", "-C", adapter, "-P", number, "-D", "0", number)
                return [(*words, "disable")], [(*words, "enable")]
            case "silent-death":
                drop = ("matchall", "action", "drop")
                tc = ("tc", "filter", "add", "dev", device)
                set_up = [
                    ("tc", "qdisc", "add", "dev", device, "clsact"),
                    (*tc, "egress", *drop),
                    (*tc, "ingress", *drop),
                ]
                clear = f"tc qdisc del dev {device} clsact || ! tc qdisc show dev {device} | grep -q clsact"
                return set_up, [("sh", "-c", clear)]
            case _:
                return self._removal(victim)

    def _switch(self, member: str) -> Command:
        return ("sh", "-c", f"echo {shlex.quote(member)} > /sys/class/net/{self.bond}/bonding/active_slave")

    def _removal(self, victim: Member) -> tuple[list[Command], list[Command]]:
        """A PCI device is taken from its driver; a device of software is deleted, and made again as it was."""
        device = victim.name
        back = f"echo +{device} > /sys/class/net/{self.bond}/bonding/slaves"
        join = ("sh", "-c", f"grep -qw {device} /sys/class/net/{self.bond}/bonding/slaves || {back}")
        pci = Path(f"/sys/class/net/{device}/device")
        if (pci / "driver").exists() and (pci / "subsystem").resolve().name == "pci":
            driver, address = (pci / "driver").resolve(), pci.resolve().name
            wait = f"for i in $(seq 100); do test -e /sys/class/net/{device} && exit 0; sleep 0.2; done; exit 1"
            bind = f"test -e {driver}/{address} || echo {address} > {driver}/bind"
            return [("sh", "-c", f"echo {address} > {driver}/unbind")], [("sh", "-c", bind), ("sh", "-c", wait), join]
        link = link_facts(device)
        address = victim.hardware_address.hex(":")
        make = f"ip link add {device} address {address} group {link['group']} type {link['kind']}"
        return [("ip", "link", "del", device)], [("sh", "-c", f"test -e /sys/class/net/{device} || {make}"), join]

    # A drill

    def begin(self) -> None:
        self._stack.enter_context(self.backend.alone())
        self._undo = Undo(with_timer=True)
        self._stack.callback(self._undo.close)
        self._offset, error = self.peer.clock()
        self._notes.append(f"The peer's clock is {self._offset / MS:.3f} ms behind, give or take {error / MS:.3f} ms.")
        self._end = End(local_seat(OWN, self.peer.own_address), self.peer.address, self.spacing_us)
        self.peer.ask("start", spacing_us=self.spacing_us)
        silent = self._ready(time.monotonic() + FLOW_SECONDS)
        if silent:
            self.abandon()
            fix = f"See what filters UDP, TCP, ICMP or multicast between here and {self.peer.address}"
            why = f"{' and '.join(silent)} did not get through within {FLOW_SECONDS:.0f} s"
            raise Refused(f"cannot drill {self.bond}", why=why, fix=fix)

    def _ready(self, until: float) -> list[str]:
        assert self._end is not None
        connected = False
        while True:
            there = self.peer.ask("progress")
            if not connected and there["listens"] and self._end.listens:
                connected = True
                self._end.connect()
                self.peer.ask("connect")
            silent = list(dict.fromkeys([*self._end.silent(), *there["silent"]]))
            if not silent or time.monotonic() > until:
                return silent
            time.sleep(0.1)

    def finish(self) -> tuple[list[Flow], list[Stream]]:
        assert self._end is not None
        self._end.ask_to_end()
        theirs = self.peer.ask("end")["finals"]
        ours = self._end.finals()
        self._end = None
        drift = self.peer.clock()[0] - self._offset
        self._notes.append(f"Its clock drifted by {drift / MS:.3f} ms meanwhile.")
        self._stack.close()
        return flows_of(OWN, ours, self.peer.name, theirs, self.spacing_us, self._offset)

    def abandon(self) -> None:
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        if self._end is not None:
            self._end.kill()
            self._end = None
        self._stack.close()

    def arm(self, plan: Plan) -> None:
        assert self._undo is not None
        self._undo.arm(plan.undo, UNDO_WITHIN_SECONDS)

    def disarm(self) -> None:
        assert self._undo is not None
        self._undo.disarm()

    def watch(self, plan: Plan) -> None:
        self._watch = HostWatch(self.bond, {member.name: member.hardware_address for member in plan.facts.members})

    def apply(self, plan: Plan, *, undo: bool) -> int:
        """In this process where that is possible, for a program takes its time to start."""
        at = time.monotonic_ns()
        name = plan.row.name
        if name == "planned-switch":
            self.backend.write(f"{self.bond}/bonding/active_slave", f"{plan.victim if undo else plan.spare}\n")
        elif name == "admin-down":
            self.backend.set_admin(plan.victim, undo)
        elif name == "adapter-removed" and not undo and plan.do[0][:3] == ("ip", "link", "del"):
            routes = self.backend.routes
            index = routes.link(plan.victim).index
            at = time.monotonic_ns()
            routes.delete_link(index)
        else:
            for command in plan.undo if undo else plan.do:
                execute(command)
            if name == "silent-death":
                at = self._filtered_at(at)
        return at

    def _filtered_at(self, since: int) -> int:
        """When the kernel reported the last filter that was set or removed."""
        assert self._watch is not None
        time.sleep(0.05)
        found = [at for at in self._watch.filters if at >= since]
        return found[-1] if found else since

    def sightings(self, plan: Plan, moments: Moments) -> tuple[list[Sighting], list[Sighting]]:
        assert self._watch is not None
        watch, self._watch = self._watch, None
        watch.close()
        answer = self.peer.ask("moves")["moves"]
        moves = [int(at) + self._offset for at, ip, _ in answer if ip == self.peer.own_address]
        failure = self._scene(plan, moments.caused_at, moments.undone_at, plan.spare, is_reversion=False)
        reversion = self._scene(plan, moments.undone_at, moments.ended_at, plan.victim, is_reversion=True)
        before, after = (self._seen(watch, moves, scene) for scene in (failure, reversion))
        if not is_noticed(plan.row, plan.facts):
            before = [each for each in before if each.phase is not Phase.FIRST_PACKET]
            resumed = see.from_capture(watch.frames, reversion, any_path=True)
            before += [each for each in resumed if each.phase is Phase.FIRST_PACKET]
        return before, after

    def _seen(self, watch: HostWatch, moves: list[int], scene: see.Scene) -> list[Sighting]:
        return [
            *see.from_events(watch.events, scene, Source.NETLINK),
            *see.from_log(watch.lines, scene, Source.KERNEL_LOG),
            *see.from_capture(watch.frames, scene),
            *(Sighting(Phase.NEIGHBOR, Source.PEER, at) for at in moves if scene.covers(at)),
        ]

    def _scene(self, plan: Plan, at: int, until: int, member: str, *, is_reversion: bool) -> see.Scene:
        found = plan.facts.member(member)
        return see.Scene(
            "",
            self.bond,
            plan.victim,
            at,
            until,
            is_reversion,
            found.hardware_address if found is not None else b"",
            (ipaddress.ip_address(self.peer.own_address).packed,),
            self.peer.name,
            ipaddress.ip_address(self.peer.address).packed,
            UDP_PORT,
        )

    def active(self) -> str | None:
        return self._option("active_slave") or None

    def is_redundant(self, plan: Plan) -> bool:
        snapshot = self.backend.snapshot(self.bond)
        links = {member.name: member.link for member in snapshot.members}
        if len(links) < len(plan.facts.members) or any(link != "up" for link in links.values()):
            return False
        return self.active() == plan.victim if plan.returns else True

    def now(self) -> int:
        return time.monotonic_ns()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def notes(self) -> list[str]:
        return self._notes


def errors_of(host: HostFacts) -> tuple[str, ...]:
    """What `ibbond check` finds wrong, its errors only."""
    return tuple(finding.found.what for finding in check(host) if finding.severity is Severity.ERROR)


def source_for(address: str) -> str:
    """The own address from which packets to that one leave."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.connect((address, 9))
        return str(sock.getsockname()[0])
    return ""


def busy(devices: Sequence[str]) -> str | None:
    """The network manager that is changing one of these devices now."""
    for name, words in (
        ("NetworkManager", ("nmcli", "-t", "-f", "DEVICE,STATE", "device")),
        ("systemd-networkd", ("networkctl", "--no-legend", "--no-pager", "list")),
    ):
        if shutil.which(words[0]) is None:
            continue
        done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=20, check=False)
        if device := unsettled(done.stdout if done.returncode == 0 else "", devices):
            return f"{name} is changing {device}"
    return None


def unsettled(listed: str, devices: Sequence[str]) -> str | None:
    """The first of the devices that a manager's list shows in a state that will not last."""
    for line in listed.splitlines():
        words = line.replace(":", " ", 1).split()
        device = next((word for word in words if word in devices), None)
        if device is not None and any(word.startswith(UNSETTLED) for word in words):
            return device
    return None


def link_facts(device: str) -> dict[str, str]:
    """Kind and group of a device of software; `Refused` where it has no kind: then it cannot be made again."""
    done = subprocess.run(("ip", "-d", "-j", "link", "show", device), capture_output=True, text=True, check=False)
    found = json.loads(done.stdout or "[{}]")[0]
    kind = found.get("linkinfo", {}).get("info_kind")
    if not kind:
        why = "its driver cannot be taken away, and it is not a device of software"
        raise Refused(f"cannot remove {device}", why=why, fix="Choose another class")
    return {"kind": str(kind), "group": str(found.get("group", "default"))}


def execute(command: Command) -> None:
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60, check=False)
    if done.returncode != 0:
        why = (done.stderr or done.stdout).strip().splitlines()
        raise Refused(f"cannot run {shlex.join(command)}", why=why[-1] if why else "it failed", fix="Try it by hand")
