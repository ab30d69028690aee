"""The traffic of a drill: the demo's programs at each end, and flows made from what both report at the end.

Read first: `demo.traffic` for the programs, `demo.players` for how they are started. UDP and multicast run both ways,
ICMP echo from each side, and a TCP stream each way; in a lab a block session over RDMA CM, too. One end may be another
machine (`drill.peer`): what it says goes through JSON, and its clock's offset is taken off here.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import NamedTuple

from ibbond.demo.generators import (
    GROUP,
    MULTICAST_PORT,
    TCP_PORT,
    TIMEOUT,
    UDP_PORT,
    WRITE_US,
    Endpoint,
    Generator,
    RdmaPair,
    integers,
)
from ibbond.demo.rdma_report import integer
from ibbond.drill.flows import Flow
from ibbond.drill.verdict import Silence

PING_EVERY = TCP_EVERY = 10  # spacings between two ICMP probes, and between two blocks of TCP
MULTICAST_EVERY = 5  # and between two multicast probes: what passes is captured, too
BORDER_SPACINGS = 3
EVERY = {"udp": 1, "multicast": MULTICAST_EVERY, "icmp": PING_EVERY, "tcp": TCP_EVERY}
RECEIVING = ("udp", "multicast", "icmp", "tcp-in")

Finals = Mapping[str, Mapping[str, object]]  # last words of the programs of one end, by name


class Stream(NamedTuple):
    """A TCP stream, or an RDMA session: its silences as (from, to), and when bytes or an answer last came."""

    source: str
    target: str
    spacing_ns: int
    silences: list[tuple[int, int]]
    last_at: int
    protocol: str = "tcp"

    def longest(self, start: int, end: int) -> Silence:
        """The longest silence that an event at `start` began, before the next one at `end`, less one spacing.

        The last bytes before an event arrived up to a few spacings earlier; those silences are the event's, too.
        """
        border = BORDER_SPACINGS * self.spacing_ns
        found = [(since, until) for since, until in self.silences if start <= since + border < end]
        if start <= self.last_at + border < end:
            found.append((self.last_at, end))
        longest = max((until - since - self.spacing_ns for since, until in found), default=0)
        return Silence(self.protocol, f"{self.source} > {self.target}", max(0, longest))


class End:
    """The programs at one end, which probe the address `peer`. The TCP stream out starts with `connect`."""

    def __init__(self, seat: Endpoint, peer: str, spacing_us: int) -> None:
        self.seat, self.peer, self.spacing_us = seat, peer, spacing_us
        own = seat.address
        self.players = {
            "udp": Generator(seat, ["datagrams", own, peer, str(UDP_PORT), self._every("udp")]),
            "multicast": Generator(seat, ["multicast", own, GROUP, str(MULTICAST_PORT), self._every("multicast")]),
            "icmp": Generator(seat, ["icmp", own, peer, self._every("icmp")]),
            "tcp-in": Generator(seat, ["tcp-receive", own, str(TCP_PORT)]),
        }

    def _every(self, protocol: str) -> str:
        return str(self.spacing_us * EVERY[protocol])

    @property
    def listens(self) -> bool:
        """Whether the other end may connect."""
        return "received" in self.players["tcp-in"].facts

    def connect(self) -> None:
        words = ["tcp-send", self.seat.address, self.peer, str(TCP_PORT), self._every("tcp")]
        self.players["tcp-out"] = Generator(self.seat, words)

    def silent(self) -> list[str]:
        """The protocols in which nothing has come yet."""
        return [name for name in RECEIVING if not self.players[name].facts.get("received")]

    def ask_to_end(self) -> None:
        """End all but the TCP receiver, which ends with its sender."""
        for name, player in self.players.items():
            if name != "tcp-in" or not player.facts.get("received"):
                player.ask_to_end()

    def finals(self) -> dict[str, dict[str, object]]:
        """Wait for the programs' ends; what each said last."""
        until = time.monotonic() + TIMEOUT
        for player in self.players.values():
            player.wait(until)
        return {name: player.final or {} for name, player in self.players.items()}

    def kill(self) -> None:
        for player in self.players.values():
            player.process.kill()
        for player in self.players.values():
            player.process.wait()


class Programs:
    """Both ends of a drill in a lab."""

    def __init__(self, one: Endpoint, two: Endpoint, spacing_us: int) -> None:
        self.spacing_us = spacing_us
        self.rdma = RdmaPair(one, two)
        self.ends = (End(one, two.address, spacing_us), End(two, one.address, spacing_us))

    def ready(self, timeout: float) -> list[str]:
        """Wait until everything flows both ways; what does not in time."""
        until = time.monotonic() + timeout
        connected = False
        while True:
            if not connected and all(end.listens for end in self.ends):
                connected = True
                for end in self.ends:
                    end.connect()
            silent = list(dict.fromkeys(name for end in self.ends for name in end.silent()))
            if not self.rdma.asking.facts.get("received"):
                silent.append("rdma")
            if not silent or time.monotonic() > until:
                return silent
            time.sleep(0.02)

    def end(self) -> tuple[list[Flow], list[Stream]]:
        """End all programs; what they sent and saw."""
        for each in self.ends:
            each.ask_to_end()
        self.rdma.asking.ask_to_end()
        one, two = self.ends
        flows, streams = flows_of(one.seat.host, one.finals(), two.seat.host, two.finals(), self.spacing_us)
        self.rdma.end(time.monotonic() + TIMEOUT)
        return flows, [*streams, session_of(one.seat.host, two.seat.host, self.rdma.facts)]

    def kill(self) -> None:
        for end in self.ends:
            end.kill()
        self.rdma.kill()


def flows_of(
    one: str, finals: Finals, other: str, others: Finals, spacing_us: int, offset: int = 0
) -> tuple[list[Flow], list[Stream]]:
    """Flows and TCP streams both ways; `offset` (ns) is added to the other end's times to have this clock's."""
    ends = ((one, finals, 0), (other, others, offset))
    flows, streams = [], []
    for (source, sent, own), (target, received, theirs) in (ends, ends[::-1]):
        for protocol in ("udp", "multicast", "icmp"):
            spacing = spacing_us * EVERY[protocol] * 1000
            echo = protocol == "icmp"  # comes back to where it was sent
            seen, shift = (sent, own) if echo else (received, theirs)
            flows.append(flow_of(protocol, source, target, spacing, sent.get(protocol, {}), own, seen[protocol], shift))
        streams.append(stream_of(source, target, spacing_us * TCP_EVERY * 1000, received["tcp-in"], theirs))
    return flows, streams


def flow_of(
    protocol: str,
    source: str,
    target: str,
    spacing_ns: int,
    sender: Mapping[str, object],
    sender_shift: int,
    receiver: Mapping[str, object],
    receiver_shift: int,
) -> Flow:
    sent = [at + sender_shift for at in integers(sender.get("sent"))]
    numbers, times = integers(receiver.get("numbers")), integers(receiver.get("times"))
    arrivals = [(n, at + receiver_shift) for n, at in zip(numbers, times, strict=True) if n < len(sent)]
    arrivals.sort(key=lambda arrival: arrival[1])
    return Flow(protocol, source, target, spacing_ns, sent, arrivals)


def stream_of(
    source: str, target: str, spacing_ns: int, final: Mapping[str, object], shift: int, protocol: str = "tcp"
) -> Stream:
    pairs = final.get("silences")
    silences = [(integer(a) + shift, integer(b) + shift) for a, b in pairs] if isinstance(pairs, list) else []
    return Stream(source, target, spacing_ns, silences, integer(final.get("last_at")) + shift, protocol)


def session_of(source: str, target: str, facts: Mapping[str, object]) -> Stream:
    """The RDMA session; its programs read this machine's clock."""
    return stream_of(source, target, WRITE_US * 1000, facts, 0, "rdma")
