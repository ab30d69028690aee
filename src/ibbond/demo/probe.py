"""`ibbond lab probe`, `Lab.probe`: the demo's meter between two hosts of a lab, as long as something is done to it.

Read first: `demo.generators` for the traffic, `demo.measure` for the arithmetic. What is done is the caller's business:
a command, or a person at another terminal. The events of the lab in that time stand beside the outages.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_interface
from pathlib import Path

from ibbond.backend.control_socket import Control
from ibbond.demo.generators import Endpoint, TrafficGenerators
from ibbond.demo.live_view import SAMPLE_EVERY, View
from ibbond.demo.measure import PROTOCOLS, ByteStream, Stream, judged_streams
from ibbond.errors import Refused
from ibbond.lab.exec import HostHandle, host_handle
from ibbond.machine import MS, SECOND

FLOWING = 10.0  # seconds within which all protocols must get through at first
SETTLING = 1.0  # seconds of traffic before and after the command, in which its losses show
ALIVE_NS = 300 * MS  # a protocol works at the end when something of this last time arrived


@dataclass(frozen=True, slots=True)
class ProtocolOutage:
    """What one protocol lost; of its two directions the worse one counts. `sent` and `received` are bytes for tcp."""

    protocol: str
    sent: int
    received: int
    lost: int
    outage_ms: float  # the longest
    outage_at_ms: float | None  # when it began, from the start of the measurement
    works: bool  # at the end

    def as_json(self) -> dict[str, object]:
        """The figures under the keys of `--json`; times are in ms."""
        return {
            "sent": self.sent,
            "received": self.received,
            "lost": self.lost,
            "outage_ms": self.outage_ms,
            "outage_at_ms": self.outage_at_ms,
            "works": self.works,
        }


@dataclass(slots=True)
class Measurement:
    """A whole measurement; `events` are the lab's, with `t_ms` from its start."""

    hosts: tuple[str, str]
    seconds: float
    protocols: list[ProtocolOutage]
    events: list[dict[str, object]] = field(default_factory=list)
    exit_code: int | None = None  # of the command, where there was one
    late_ms: float = 0.0  # how far the lab was behind at most, in that time; what was lost then is not counted
    notes: list[str] = field(default_factory=list)

    def __getitem__(self, protocol: str) -> ProtocolOutage:
        """The row of `icmp`, `udp`, `tcp` or `multicast`."""
        return next(row for row in self.protocols if row.protocol == protocol)

    @property
    def works(self) -> bool:
        """Whether every protocol got through in the last 300 ms."""
        return all(row.works for row in self.protocols)

    @property
    def lost(self) -> int:
        """The probes that were lost, of all protocols and both directions."""
        return sum(row.lost for row in self.protocols)

    @property
    def outage_ms(self) -> float:
        """The longest outage of the protocol that fared worst."""
        return max(row.outage_ms for row in self.protocols)

    def as_json(self) -> dict[str, object]:
        """The figures under the keys of `--json`; times are in ms."""
        return {
            "hosts": list(self.hosts),
            "seconds": round(self.seconds, 3),
            "works": self.works,
            "protocols": {row.protocol: row.as_json() for row in self.protocols},
            "events": self.events,
            "exit": self.exit_code,
            "late_ms": self.late_ms,
            "notes": self.notes,
        }


class Probing:
    """Traffic that flows between two hosts while something is done to the lab; `result` is there once it has ended."""

    def __init__(self, control: Control, generators: TrafficGenerators, hosts: tuple[str, str]) -> None:
        self.control, self.generators, self.hosts = control, generators, hosts
        self.result: Measurement | None = None
        self._started_at = time.monotonic_ns()

    def end(self) -> Measurement:
        """End the traffic and measure; losses of its last moments have not shown yet (see `SETTLING`)."""
        started_at, ended_at = self._started_at, time.monotonic_ns()
        self.generators.end()
        spans, notes = lateness(self.control, started_at)
        streams, more = judged_streams(self.generators.streams(started_at, ended_at), spans)
        rows = [
            summarize(protocol, [stream for stream in streams if stream.protocol == protocol], started_at, ended_at)
            for protocol in PROTOCOLS
        ]
        events = events_between(self.control, started_at, ended_at)
        late_ms = round(max((until - since for since, until in spans), default=0) / MS, 1)
        seconds = (ended_at - started_at) / SECOND
        self.result = Measurement(self.hosts, seconds, rows, events, late_ms=late_ms, notes=[*notes, *more])
        return self.result


@contextlib.contextmanager
def probing(control: Control, hosts: tuple[str, str]) -> Iterator[Probing]:
    """Traffic of all protocols flows in this block. `Refused` where the hosts cannot talk.

    It is measured by `Probing.end`, at the end of the block at the latest; a block that fails measures nothing.
    """
    with endpoints(control, hosts) as (one, two):
        generators = TrafficGenerators(one, two)
        try:
            silent = generators.ready(FLOWING)
            if silent:
                raise Refused(
                    f"cannot measure between {hosts[0]} and {hosts[1]}",
                    why=f"{' and '.join(silent)} did not get through within {FLOWING:.0f} s",
                    fix=f"Check that {one.address} and {two.address} can reach each other: ibbond lab status",
                )
            running = Probing(control, generators, hosts)
            yield running
            if running.result is None:
                running.end()
        except BaseException:
            generators.kill()
            raise


def measure(
    control: Control, hosts: tuple[str, str], view: View, *, command: Sequence[str] = (), seconds: float | None = None
) -> Measurement:
    """Measure until `command` has ended, `seconds` are over, or Ctrl-C. `Refused` where the hosts cannot talk."""
    with probing(control, hosts) as running:
        view.say(f"TCP, UDP, IP multicast and ICMP flow between {hosts[0]} and {hosts[1]}")
        exit_code = None
        with contextlib.suppress(KeyboardInterrupt):
            exit_code = watch(control, running.generators, view, command, seconds)
        result = running.end()
    result.exit_code = exit_code
    return result


def watch(
    control: Control, generators: TrafficGenerators, view: View, command: Sequence[str], seconds: float | None
) -> int | None:
    """Let traffic flow for the time of the measurement; the command's exit code."""
    show_bonds(control, view)
    if not command:
        flow(control, generators, view, seconds)
        return None
    flow(control, generators, view, SETTLING)
    process = start(control, command)
    try:
        while process.poll() is None:
            flow(control, generators, view, SAMPLE_EVERY)
    finally:
        if process.poll() is None:
            process.terminate()
        code = process.wait()
    flow(control, generators, view, SETTLING if seconds is None else seconds)
    return code if code >= 0 else 128 - code


def start(control: Control, command: Sequence[str]) -> subprocess.Popen[bytes]:
    """A program of this machine, for which this lab is the one that `ibbond` means; what it prints goes to stderr."""
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)))
    inherited = {**os.environ, "PATH": path, "IBBOND_LAB": control.path.stem}
    try:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr.fileno(), env=inherited)
    except OSError as error:
        raise Refused(
            f"cannot run {command[0]}",
            why=error.strerror or str(error),
            fix="It runs on this machine, not in a host: ibbond lab probe h1 h2 -- ibbond lab cut h1/ib0",
        ) from None


def flow(control: Control, generators: TrafficGenerators, view: View, seconds: float | None) -> None:
    """Let traffic flow, forever without `seconds`, and show it."""
    until = time.monotonic() + seconds if seconds is not None else float("inf")
    shown_at = time.monotonic()
    while (left := until - time.monotonic()) > 0:
        view.sample(generators.progress())
        if time.monotonic() - shown_at > 1:
            show_bonds(control, view)
            shown_at = time.monotonic()
        time.sleep(min(left, SAMPLE_EVERY))


def show_bonds(control: Control, view: View) -> None:
    """Show the active member of each bond in the live view."""
    status = control.ask("status")
    assert isinstance(status, dict)
    active = {
        f"{host}/{bond}": each["active"] or "none"
        for host, facts in status["hosts"].items()
        for bond, each in facts["bonds"].items()
    }
    view.bonds_are(active, [cable["name"] for cable in status["cables"] if cable["state"] == "cut"])


@contextlib.contextmanager
def endpoints(control: Control, hosts: tuple[str, str]) -> Iterator[tuple[Endpoint, Endpoint]]:
    """The two hosts with the IPv4 addresses by which they reach each other."""
    status = control.ask("status")
    assert isinstance(status, dict)
    if hosts[0] == hosts[1]:
        raise Refused(
            f"cannot measure from {hosts[0]} to itself",
            why="two different hosts are needed",
            fix="Give two different hosts",
        )
    handles: list[HostHandle] = []
    try:
        for host in hosts:
            handles.append(host_handle(control, host))  # refused where there is no such host
        addresses = common_addresses(*(addresses_of(status["hosts"][host]) for host in hosts))
        if addresses is None:
            raise Refused(
                f"cannot measure between {hosts[0]} and {hosts[1]}",
                why="they do not both have an IPv4 address",
                fix="Give both a bond or device an address: ibbond lab exec HOST -- ip address add ...",
            )
        yield Endpoint(hosts[0], handles[0], addresses[0]), Endpoint(hosts[1], handles[1], addresses[1])
    finally:
        for way in handles:
            way.close()


def addresses_of(host: Mapping[str, Mapping[str, Mapping[str, list[str]]]]) -> list[str]:
    """IPv4 addresses with their lengths, bonds first."""
    devices = [*host["bonds"].values(), *host["devices"].values()]
    return [address for device in devices for address in device["addresses"] if ":" not in address]


def common_addresses(ones: Sequence[str], twos: Sequence[str]) -> tuple[str, str] | None:
    """Two addresses of one network; of hosts behind a router the first of each."""
    pairs = [(ip_interface(one), ip_interface(two)) for one in ones for two in twos]
    best = next((pair for pair in pairs if pair[0].network == pair[1].network), pairs[0] if pairs else None)
    return (str(best[0].ip), str(best[1].ip)) if best is not None else None


def summarize(protocol: str, streams: Sequence[Stream], start: int, end: int) -> ProtocolOutage:
    """One row; pure."""
    longest, at = max((stream.longest_outage(start, end) for stream in streams), default=(end - start, start))
    lost, sent, received = 0, 0, 0
    for stream in streams:
        if isinstance(stream, ByteStream):
            sent, received = sent + stream.sent_bytes, received + stream.received_bytes
        else:
            sent, received = sent + len(stream.sent), received + stream.received
            lost += len(stream.lost_between(start, end))
    works = all(stream.lives(end - ALIVE_NS, end) for stream in streams)
    works &= all(stream.intact for stream in streams if isinstance(stream, ByteStream))
    when = round((at - start) / MS, 1) if longest else None
    return ProtocolOutage(protocol, sent, received, lost, round(longest / MS, 1), when, works)


def lateness(control: Control, since: int) -> tuple[tuple[tuple[int, int], ...], list[str]]:
    """The times since then in which the lab was behind, and a sentence about it where there were any."""
    late = control.ask("late")
    assert isinstance(late, dict)
    spans = tuple((begin, end) for begin, end in late["spans"] if end > since)
    if not spans:
        return (), []
    because = f", because {late['why']}" if late["why"] else ""
    return spans, [f"The machine was busy: the lab ran up to {late['worst_ms']:g} ms late{because}."]


def events_between(control: Control, start: int, end: int) -> list[dict[str, object]]:
    """The lab's events of that time, as in its journal."""
    items = control.ask("past_events")
    assert isinstance(items, list)
    return [
        {"t_ms": round((item["at_ns"] - start) / MS, 3), **{key: item[key] for key in ("what", "where", "detail")}}
        for item in items
        if start <= item["at_ns"] < end
    ]
