"""From what was sent and what arrived to milliseconds of outage: the arithmetic of `ibbond demo`.

Pure: no clock and no I/O. All times are nanoseconds of one monotonic clock (the virtual one in a simulated run). An
outage of a probe stream is the number of lost probes times their spacing, as the issue of every failover tool should
be: it does not depend on when the receiver was scheduled. TCP loses nothing, so its outage is the longest time without
new bytes at the receiver, and TCP's own retransmission timeout is in it.
"""

from __future__ import annotations

import statistics
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import NamedTuple

from ibbond.machine import MS

PROTOCOLS = ("icmp", "udp", "tcp", "multicast")
RDMA = "rdma"  # a block session beside them, where one was asked for
STREAMS = ("tcp", RDMA)  # lose nothing: their outage is a silence
KINDS = ("failover", "failback")
IN_FLIGHT_NS = 50 * MS  # a probe may be this much older than the event that lost it
ALIVE_NS = 300 * MS  # a stream lives when something of the last moments before the next event arrived


class DemoEvent(NamedTuple):
    """One line of the time line. `what` is `failover` or `failback` where traffic had to move, else any other word."""

    at_ns: int
    what: str
    where: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ProbeStream:
    """Numbered probes in one direction; `arrived[n]` is when probe n arrived, 0 when it never did."""

    protocol: str
    direction: str
    spacing_ns: int
    sent: Sequence[int]
    arrived: Sequence[int]

    def lost_between(self, start: int, end: int) -> list[int]:
        """When the lost probes of [start, end) were sent."""
        first, last = bisect_left(self.sent, start), bisect_left(self.sent, end)
        return [self.sent[n] for n in range(first, last) if not self.arrived[n]]

    def outage_ns(self, start: int, end: int) -> int:
        return len(self.lost_between(start, end)) * self.spacing_ns

    def longest_outage(self, start: int, end: int) -> tuple[int, int]:
        """The longest run of lost probes among those sent in [start, end): (its nanoseconds, when it began)."""
        first, last = bisect_left(self.sent, start), bisect_left(self.sent, end)
        longest, began, run = 0, 0, 0
        for number in range(first, last):
            run = 0 if self.arrived[number] else run + 1
            if run > longest:
                longest, began = run, self.sent[number - run + 1]
        return longest * self.spacing_ns, began

    def silence_ns(self, start: int, end: int) -> int:
        """The longest time between two arrivals of what was sent in [start, end): losses, and delays besides."""
        first, last = bisect_left(self.sent, start), bisect_left(self.sent, end)
        came = sorted(at for at in self.arrived[first:last] if at)
        return max((b - a for a, b in pairwise(came)), default=end - start)

    def lives(self, start: int, end: int) -> bool:
        """Whether something that was sent in [start, end) arrived."""
        first, last = bisect_left(self.sent, start), bisect_left(self.sent, end)
        return any(self.arrived[first:last])

    @property
    def received(self) -> int:
        return sum(1 for at in self.arrived if at)


@dataclass(frozen=True, slots=True)
class ByteStream:
    """A TCP connection: bytes in and out, whether they were the same bytes, and the silences at the receiver.

    An RDMA session has the same shape: writes in place of bytes, and `intact` when none was lost or done twice.
    `silences` are (start, end) of the longer times without new bytes, in order; shorter ones are not recorded.
    """

    direction: str
    sent_bytes: int
    received_bytes: int
    intact: bool
    silences: Sequence[tuple[int, int]]
    last_at: int
    protocol: str = "tcp"

    def outage_ns(self, start: int, end: int) -> int:
        """The longest silence that touches [start, end); one that had not ended then counts to the end."""
        silences = [until - since for since, until in self.silences if until > start and since < end]
        return max([*silences, end - max(start, self.last_at)] if self.last_at < end else silences, default=0)

    def longest_outage(self, start: int, end: int) -> tuple[int, int]:
        """The longest silence that touches [start, end): (its nanoseconds, when it began)."""
        silences = [(until - since, since) for since, until in self.silences if until > start and since < end]
        if self.last_at < end:
            silences.append((end - max(start, self.last_at), max(start, self.last_at)))
        return max(silences, default=(0, 0))

    def silence_ns(self, start: int, end: int) -> int:
        return self.outage_ns(start, end)

    def lives(self, start: int, end: int) -> bool:
        """Whether bytes arrived in [start, end)."""
        return self.last_at >= start and not any(since <= start and until >= end for since, until in self.silences)


Stream = ProbeStream | ByteStream
Spans = Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Recording:
    """Everything that a run of the demo saw; the simulator's has the same shape."""

    mode: str  # "live" or "simulated"
    rounds: int
    started_at: int
    ended_at: int
    happenings: tuple[DemoEvent, ...]
    streams: tuple[Stream, ...]
    notes: tuple[str, ...] = field(default=())
    session: Mapping[str, object] | None = None  # of the RDMA session: settings, each recovery, writes
    late: tuple[tuple[int, int], ...] = ()  # times in which the lab was behind (`host.lateness`)

    @property
    def protocols(self) -> tuple[str, ...]:
        """What ran: the four, and `rdma` where it was asked for."""
        return PROTOCOLS if self.session is None else (*PROTOCOLS, RDMA)

    @property
    def moves(self) -> tuple[DemoEvent, ...]:
        """The events at which traffic had to move."""
        return tuple(happening for happening in self.happenings if happening.what in KINDS)


def recording_from(raw: Mapping[str, object]) -> Recording:
    """A `Recording` from plain values, as the simulator hands it over.

    `{"mode", "rounds", "started_at", "ended_at", "happenings": [[at, what, where, detail]],
    "probes": [{"protocol", "direction", "spacing_ns", "sent": [...], "arrived": [...]}],
    "bytes": [{"direction", "sent_bytes", "received_bytes", "intact", "silences": [[since, until]], "last_at"}],
    "notes": [...], "session": {...}}`
    """
    import msgspec

    class Raw(msgspec.Struct, forbid_unknown_fields=True):
        mode: str
        rounds: int
        started_at: int
        ended_at: int
        happenings: list[DemoEvent]
        probes: list[ProbeStream]
        bytes: list[ByteStream]
        notes: list[str] = []
        session: dict[str, object] | None = None

    plain = msgspec.convert(raw, Raw)
    return Recording(
        mode=plain.mode,
        rounds=plain.rounds,
        started_at=plain.started_at,
        ended_at=plain.ended_at,
        happenings=tuple(plain.happenings),
        streams=(*plain.probes, *plain.bytes),
        notes=tuple(plain.notes),
        session=plain.session,
    )


@dataclass(frozen=True, slots=True)
class Outages:
    """What the events of one kind cost one protocol; the worse direction counts."""

    lost: tuple[int, ...] = ()
    outage_ms: tuple[float, ...] = ()
    silence_ms: tuple[float, ...] = ()  # what a listener noticed: the longest time between two arrivals

    def as_json(self) -> dict[str, object]:
        return {
            "lost_max": max(self.lost, default=0),
            "outage_ms_median": round(statistics.median(self.outage_ms), 3) if self.outage_ms else None,
            "outage_ms_max": round(max(self.outage_ms), 3) if self.outage_ms else None,
        }


@dataclass(frozen=True, slots=True)
class ProtocolSummary:
    """One row of the final table; `sent` and `received` are probes, for tcp bytes."""

    protocol: str
    sent: int
    received: int
    failover: Outages
    failback: Outages
    survived: bool
    elsewhere: int  # probes lost far from any event

    def as_json(self) -> dict[str, object]:
        return {
            "sent": self.sent,
            "received": self.received,
            "failover": self.failover.as_json(),
            "failback": self.failback.as_json(),
        }


@dataclass(frozen=True, slots=True)
class Summary:
    recording: Recording
    protocols: tuple[ProtocolSummary, ...]

    @property
    def survived(self) -> bool:
        return all(row.survived for row in self.protocols)

    def as_json(self, report: str | None) -> dict[str, object]:
        """The object that `ibbond demo --json` prints; with an RDMA session it has one key more."""
        start = self.recording.started_at
        return {
            "mode": self.recording.mode,
            "rounds": self.recording.rounds,
            "survived": self.survived,
            "events": [
                {"t_ms": round((happening.at_ns - start) / MS, 3), "what": happening.what, "where": happening.where}
                for happening in self.recording.happenings
            ],
            "protocols": {row.protocol: row.as_json() for row in self.protocols if row.protocol != RDMA},
            "late_ms": round(max((until - since for since, until in self.recording.late), default=0) / MS, 1),
            "report": report,
            **self._session_as_json(),
        }

    def _session_as_json(self) -> dict[str, object]:
        session = self.recording.session
        if session is None:
            return {}
        (row,) = (row for row in self.protocols if row.protocol == RDMA)
        return {RDMA: {**row.as_json(), **session}}


def judged(recording: Recording) -> Recording:
    """The recording without what the lab did in the times in which it was behind; see `judged_streams`."""
    streams, notes = judged_streams(recording.streams, recording.late)
    return replace(recording, streams=streams, notes=(*recording.notes, *notes)) if notes else recording


def judged_streams(streams: Sequence[Stream], late: Spans) -> tuple[tuple[Stream, ...], list[str]]:
    """Streams without the probes that were lost and the silences while the lab was behind; and sentences about that.

    Probes waited for it in vain then, and a connection too. No other probe is left out, and those of such a time that
    arrived stay; of a silence only the part that lies outside counts.
    """
    found: list[Stream] = []
    left_out = silent_ns = 0
    for stream in streams if late else ():
        if isinstance(stream, ByteStream):
            silences = [part for silence in stream.silences for part in outside(silence, late)]
            silent_ns += sum(b - a for a, b in stream.silences) - sum(b - a for a, b in silences)
            found.append(replace(stream, silences=silences))
            continue
        kept = [
            (sent, arrived)
            for sent, arrived in zip(stream.sent, stream.arrived, strict=True)
            if arrived or not any(since <= sent <= until for since, until in late)
        ]
        left_out += len(stream.sent) - len(kept)
        found.append(replace(stream, sent=[sent for sent, _ in kept], arrived=[arrived for _, arrived in kept]))
    notes = [f"{left_out} probes were lost while the lab was late; they are not counted as lost."] if left_out else []
    if silent_ns:
        notes.append(
            f"TCP was silent for {silent_ns / MS:.0f} ms while the lab was late; that is not counted as outage."
        )
    return tuple(found) if late else tuple(streams), notes


def outside(silence: tuple[int, int], late: Spans) -> list[tuple[int, int]]:
    """The parts of a time that lie outside all of these."""
    parts, (since, until) = [], silence
    for begin, end in sorted(late):
        if end <= since or begin >= until:
            continue
        if begin > since:
            parts.append((since, begin))
        since = max(since, end)
    return [*parts, (since, until)] if since < until else parts


def summarize(recording: Recording) -> Summary:
    """The table: per protocol what each failover and each fail-back cost."""
    recording = judged(recording)
    rows = [
        _row(protocol, [stream for stream in recording.streams if stream.protocol == protocol], recording)
        for protocol in recording.protocols
    ]
    return Summary(recording, tuple(rows))


def windows(recording: Recording) -> list[tuple[DemoEvent, int, int]]:
    """Each move with the time that it is answerable for: until the next one, and the packets in flight before it."""
    moves = recording.moves
    ends = [*(move.at_ns for move in moves), recording.ended_at][1:]
    return [
        (move, move.at_ns - IN_FLIGHT_NS, end - IN_FLIGHT_NS if end != recording.ended_at else end)
        for move, end in zip(moves, ends, strict=True)
    ]


def _row(protocol: str, streams: Sequence[Stream], recording: Recording) -> ProtocolSummary:
    lost: dict[str, list[int]] = {kind: [] for kind in KINDS}
    outage: dict[str, list[float]] = {kind: [] for kind in KINDS}
    silence: dict[str, list[float]] = {kind: [] for kind in KINDS}
    survived = bool(streams) and bool(recording.moves)
    explained = 0
    for move, start, end in windows(recording):
        losses = [_lost(stream, start, end) for stream in streams]
        lost[move.what].append(max(losses, default=0))
        explained += sum(losses)
        outage[move.what].append(max((stream.outage_ns(start, end) for stream in streams), default=end - start) / MS)
        soon = min(end, move.at_ns + ALIVE_NS)
        silence[move.what].append(max((stream.silence_ns(start, soon) for stream in streams), default=0) / MS)
        last = max(move.at_ns, end - ALIVE_NS)
        if any(since < end and until > last for since, until in recording.late):
            last = move.at_ns  # the lab was late then: alive is what was so at any time since the move
        survived &= all(stream.lives(last, end) for stream in streams)
    sent = sum(_count(stream)[0] for stream in streams)
    received = sum(_count(stream)[1] for stream in streams)
    broken = any(isinstance(stream, ByteStream) and not stream.intact for stream in streams)
    return ProtocolSummary(
        protocol,
        sent,
        received,
        Outages(tuple(lost["failover"]), tuple(outage["failover"]), tuple(silence["failover"])),
        Outages(tuple(lost["failback"]), tuple(outage["failback"]), tuple(silence["failback"])),
        survived=survived and not broken,
        elsewhere=0 if protocol in STREAMS else sent - received - explained,
    )


def _lost(stream: Stream, start: int, end: int) -> int:
    return len(stream.lost_between(start, end)) if isinstance(stream, ProbeStream) else 0


def _count(stream: Stream) -> tuple[int, int]:
    if isinstance(stream, ByteStream):
        return stream.sent_bytes, stream.received_bytes
    return len(stream.sent), stream.received
