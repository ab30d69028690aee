"""The traffic of a demo: starts the programs in two hosts, reads their progress, and makes streams of their reports.

Read first: `demo.traffic` for the programs, `demo.measure` for the streams. Each program's output is read by a thread
of its own, so that none waits for us; a program that ends early is a stream that did not survive, not an error.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from bisect import bisect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ibbond.demo.measure import RDMA, ByteStream, ProbeStream, Stream
from ibbond.demo.rdma_report import intact, integer
from ibbond.lab.exec import HostHandle
from ibbond.machine import MS

PROBE_US, PING_US, TCP_US, WRITE_US = 1_000, 10_000, 1_000, 10_000
UDP_PORT, MULTICAST_PORT, TCP_PORT = 7001, 7002, 7003
GROUP = "239.1.2.3"
TIMEOUT = 14.0  # for the last words of programs, which wait 12 s at most
SILENT_TIMEOUT = 3.0  # when one has received nothing all the time
PRIORITY = -10  # the lab has -15
PROGRAMS = Path(__file__).with_name("traffic.py")
RDMA_PROGRAM = ("-m", "ibbond.rdma.program")
REPLY = re.compile(rb"\[(\d+)\.(\d+)\] .*icmp_seq=(\d+) .*time=([\d.]+) ms")
TRANSMITTED = re.compile(rb"(\d+) packets transmitted")


def shielded() -> dict[str, Any]:
    """How to start a program that Ctrl-C is not for: we end it. As root it is also run before others.

    An ordinary user's programs share one session, so that on a busy machine they leave the lab its part.
    """
    return {"priority": PRIORITY} if os.geteuid() == 0 else {"process_group": 0}


class Endpoint(NamedTuple):
    """A host that takes part: its name, the way in, its address on the bond."""

    host: str
    handle: HostHandle
    address: str


class Progress(NamedTuple):
    """How a protocol fares so far; for tcp in bytes."""

    sent: int
    received: int
    lost: int


class Generator:
    """One running program; `facts` is its last progress line, `final` its last words."""

    def __init__(self, seat: Endpoint, words: Sequence[str], program: Sequence[str] = ("-IS", str(PROGRAMS))) -> None:
        self.facts: dict[str, int] = {}
        self.final: dict[str, object] | None = None
        self.process = seat.handle.popen(
            [sys.executable, *program, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            **shielded(),
        )
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with contextlib.suppress(ValueError):
                facts = json.loads(line)
                if facts.pop("final", False):
                    self.final = facts
                else:
                    self.facts = facts

    def ask_to_end(self) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()

    def wait(self, until: float) -> None:
        end(self.process, until)
        self._thread.join(timeout=2)


class Ping:
    """The system's own ping, and its words read back into numbers and times."""

    def __init__(self, seat: Endpoint, peer: str) -> None:
        self.facts: dict[str, int] = {}
        self.numbers, self.times = array.array("Q"), array.array("Q")
        self.transmitted = 0
        self._offset = time.monotonic_ns() - time.time_ns()
        self._began = time.monotonic_ns()
        self.process = seat.handle.popen(
            ["ping", "-n", "-D", "-i", str(PING_US / 1e6), "-I", seat.address, peer],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            **shielded(),
        )
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if match := REPLY.match(line):
                seconds, fraction, number, took = match.groups()
                replied_at = int(seconds) * 10**9 + int(fraction.ljust(9, b"0")) + self._offset
                self.numbers.append(unwrapped(int(number), self.numbers[-1] if self.numbers else 0))
                self.times.append(replied_at - round(float(took) * MS))
                lost = self.numbers[-1] - self.numbers[0] + 1 - len(self.numbers)
                self.facts = {"sent": self.numbers[-1], "received": len(self.numbers), "lost": max(0, lost)}
            elif match := TRANSMITTED.match(line):
                self.transmitted = int(match[1])

    def ask_to_end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)

    def wait(self, until: float) -> None:
        end(self.process, until)
        self._thread.join(timeout=2)

    def stream(self, direction: str) -> ProbeStream:
        """Send times are those of the answered requests; between them they are evenly spaced."""
        count = max(self.transmitted, self.numbers[-1] if self.numbers else 0)
        sent_at = dict(zip(self.numbers, self.times, strict=True))
        known = sorted(sent_at)
        sent, arrived = [], []
        for number in range(1, count + 1):
            at = sent_at.get(number)
            sent.append(estimate(number, known, sent_at, self._began) if at is None else at)
            arrived.append(0 if at is None else at)
        for i in range(1, len(sent)):
            sent[i] = max(sent[i], sent[i - 1])
        return ProbeStream("icmp", direction, PING_US * 1000, sent, arrived)


def estimate(number: int, known: Sequence[int], sent_at: Mapping[int, int], began: int) -> int:
    """When an unanswered request was sent: at ping's interval from an answered one, or from `began`."""
    near, at = 1, began
    if known:
        near = known[max(0, bisect(known, number) - 1)]
        at = sent_at[near]
    return at + (number - near) * PING_US * 1000


def unwrapped(number: int, last: int) -> int:
    """ping's sequence numbers have 16 bits."""
    number += last & ~0xFFFF
    if number < last - 0x8000:
        number += 0x10000
    return number


def end(process: subprocess.Popen[bytes], until: float) -> None:
    try:
        process.wait(max(0.1, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def has_usable_ping() -> bool:
    """iputils' ping; others cannot send every 10 ms or do not say when."""
    if shutil.which("ping") is None:
        return False
    said = subprocess.run(["ping", "-V"], capture_output=True, stdin=subprocess.DEVNULL, check=False)
    return b"iputils" in said.stdout + said.stderr


class RdmaPair:
    """A block session of one host with the other: `rdma.program` at both ends."""

    def __init__(self, one: Endpoint, two: Endpoint) -> None:
        self.serving = Generator(two, ["target"], RDMA_PROGRAM)
        self.asking = Generator(
            one, ["initiator", two.address, "--progress", "--spacing-us", str(WRITE_US)], RDMA_PROGRAM
        )

    @property
    def facts(self) -> dict[str, object]:
        """What the initiator knows in the end; that nothing is verified where it did not say."""
        return self.asking.final or {
            **dict.fromkeys(("writes", "writes_sent", "last_at"), 0),
            **dict.fromkeys(("writes_lost", "writes_doubled")),
            "verified": False,
            "recoveries": [],
            "silences": [],
        }

    def stream(self, direction: str) -> ByteStream:
        return session_stream(direction, self.facts)

    def end(self, until: float) -> None:
        """The initiator first; the target has nothing to say."""
        self.asking.ask_to_end()
        self.asking.wait(until)
        self.serving.ask_to_end()
        self.serving.wait(until)

    def kill(self) -> None:
        for each in (self.asking, self.serving):
            each.process.kill()
            each.process.wait()


class TrafficGenerators:
    """All programs of one demo between two hosts: UDP and multicast both ways, a TCP stream, ping; RDMA on request."""

    def __init__(self, one: Endpoint, two: Endpoint, *, rdma: bool = False) -> None:
        self.one, self.two = one, two
        self.rdma = RdmaPair(one, two) if rdma else None
        port, spacing = str(UDP_PORT), str(PROBE_US)
        self.udp = (
            Generator(one, ["datagrams", one.address, two.address, port, spacing]),
            Generator(two, ["datagrams", two.address, one.address, port, spacing]),
        )
        self.multicast = (
            Generator(one, ["multicast", one.address, GROUP, str(MULTICAST_PORT), spacing]),
            Generator(two, ["multicast", two.address, GROUP, str(MULTICAST_PORT), spacing]),
        )
        self.tcp_out: Generator | None = None
        self.tcp_in = Generator(two, ["tcp-receive", two.address, str(TCP_PORT)])
        self.system_ping = has_usable_ping()
        self.icmp: Generator | Ping = (
            Ping(one, two.address)
            if self.system_ping
            else Generator(one, ["icmp", one.address, two.address, str(PING_US)])
        )

    def ready(self, timeout: float) -> list[str]:
        """Wait until every protocol gets through; the protocols that do not in time."""
        until = time.monotonic() + timeout
        while silent := self.silent():
            if time.monotonic() > until:
                return silent
            if self.tcp_out is None and "received" in self.tcp_in.facts:  # the receiver listens
                words = ["tcp-send", self.one.address, self.two.address, str(TCP_PORT), str(TCP_US)]
                self.tcp_out = Generator(self.one, words)
            time.sleep(0.02)
        return []

    def silent(self) -> list[str]:
        received = {
            "icmp": self.icmp.facts.get("received", 0) > 0,
            "udp": all(player.facts.get("received", 0) > 0 for player in self.udp),
            "tcp": self.tcp_in.facts.get("received", 0) > 0,
            "multicast": all(player.facts.get("received", 0) > 0 for player in self.multicast),
            "rdma": self.rdma is None or self.rdma.asking.facts.get("received", 0) > 0,
        }
        return [protocol for protocol, receiver in received.items() if not receiver]

    def progress(self) -> dict[str, Progress]:
        """How every protocol fares now."""
        return {
            "icmp": total(self.icmp),
            "udp": total(*self.udp),
            "tcp": Progress(
                self.tcp_out.facts.get("sent", 0) if self.tcp_out else 0, self.tcp_in.facts.get("received", 0), 0
            ),
            "multicast": total(*self.multicast),
            **({"rdma": total(self.rdma.asking)} if self.rdma is not None else {}),
        }

    def end(self) -> None:
        """End all programs and wait for what they say."""
        players = self._all()
        last = [self.rdma.serving] if self.rdma is not None else []
        for player in players:
            if player is not self.tcp_in and player not in last:  # they end when their senders do
                player.ask_to_end()
        until = time.monotonic() + (SILENT_TIMEOUT if self.silent() else TIMEOUT)
        if not self.tcp_in.facts.get("received"):
            self.tcp_in.ask_to_end()
        for player in players:
            if player in last:
                player.ask_to_end()
            player.wait(until)

    def kill(self) -> None:
        """End all programs at once, after an error or an interruption."""
        for player in self._all():
            player.process.kill()
        for player in self._all():
            player.process.wait()

    def streams(self, start: int, stop: int) -> tuple[Stream, ...]:
        """What was sent in [start, stop), and what became of it."""
        there, back = f"{self.one.host} > {self.two.host}", f"{self.two.host} > {self.one.host}"
        found: list[Stream] = [
            self.icmp.stream(there) if isinstance(self.icmp, Ping) else echo_stream(self.icmp, there),
            probe_stream("udp", there, self.udp[0], self.udp[1]),
            probe_stream("udp", back, self.udp[1], self.udp[0]),
            byte_stream(there, self.tcp_out, self.tcp_in),
            probe_stream("multicast", there, self.multicast[0], self.multicast[1]),
            probe_stream("multicast", back, self.multicast[1], self.multicast[0]),
        ]
        if self.rdma is not None:
            found.append(self.rdma.stream(there))
        return tuple(cut_to(stream, start, stop) if isinstance(stream, ProbeStream) else stream for stream in found)

    def _all(self) -> list[Generator | Ping]:
        rdma = [self.rdma.asking, self.rdma.serving] if self.rdma is not None else []
        return [*self.udp, *self.multicast, self.icmp, *([self.tcp_out] if self.tcp_out else []), self.tcp_in, *rdma]


def total(*players: Generator | Ping) -> Progress:
    return Progress(*(sum(player.facts.get(key, 0) for player in players) for key in Progress._fields))


def probe_stream(protocol: str, direction: str, sender: Generator, receiver: Generator) -> ProbeStream:
    """The sender's probes and which of them the receiver saw."""
    return matched(protocol, direction, PROBE_US, sender.final or {}, receiver.final or {})


def echo_stream(player: Generator, direction: str) -> ProbeStream:
    return matched("icmp", direction, PING_US, player.final or {}, player.final or {})


def matched(
    protocol: str, direction: str, spacing_us: int, sender: dict[str, object], receiver: dict[str, object]
) -> ProbeStream:
    sent = integers(sender.get("sent"))
    arrived = [0] * len(sent)
    for number, at in zip(integers(receiver.get("numbers")), integers(receiver.get("times")), strict=True):
        if number < len(sent):
            arrived[number] = at
    return ProbeStream(protocol, direction, spacing_us * 1000, sent, arrived)


def byte_stream(direction: str, sender: Generator | None, receiver: Generator) -> ByteStream:
    out = (sender.final if sender else None) or {}
    came = receiver.final or {}
    pairs = came.get("silences")
    return ByteStream(
        direction,
        sent_bytes=integer(out.get("sent")),
        received_bytes=integer(came.get("received")),
        intact=bool(out) and out.get("sha256") == came.get("sha256"),
        silences=[(pair[0], pair[1]) for pair in pairs] if isinstance(pairs, list) else [],
        last_at=integer(came.get("last_at")),
    )


def session_stream(direction: str, facts: Mapping[str, object]) -> ByteStream:
    """The writes of an RDMA session as a stream."""
    pairs = facts["silences"]
    return ByteStream(
        direction,
        sent_bytes=integer(facts["writes_sent"]),
        received_bytes=integer(facts["writes"]),
        intact=intact(facts),
        silences=[(pair[0], pair[1]) for pair in pairs] if isinstance(pairs, list) else [],
        last_at=integer(facts["last_at"]),
        protocol=RDMA,
    )


def cut_to(stream: ProbeStream, start: int, stop: int) -> ProbeStream:
    kept = [(sent, at) for sent, at in zip(stream.sent, stream.arrived, strict=True) if start <= sent < stop]
    return ProbeStream(
        stream.protocol, stream.direction, stream.spacing_ns, [sent for sent, _ in kept], [at for _, at in kept]
    )


def integers(value: object) -> list[int]:
    return [integer(item) for item in value] if isinstance(value, list) else []
