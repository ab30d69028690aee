"""What a drill cost one flow of numbered probes: the three numbers of RFC 6412, duplicates, reordering, disruptions.

Read first: RFC 6412 (loss-derived and rate-derived convergence time), RFC 3357 (loss periods), RFC 4737 (reordering).
Pure: records in, numbers out; all times are nanoseconds of one monotonic clock. Left out: who sends probes, and the
correction for a peer's clock, which has been made when a `Flow` is built.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median

from ibbond.machine import MS

IN_FLIGHT_NS = 50 * MS  # a probe may be this much older than the fault that lost it
LATE_NS = 1000 * MS  # a probe may arrive so much later than it was sent
QUIET_NS = 400 * MS  # before an event nothing else happens for so long
RATE_SAMPLE_PROBES = 20  # probes in one sample of the rate
FULL_RATE = 0.95  # of the probes of a sample; below, the flow is not converged
SETTLED_PROBES = 3  # so many arrivals in a row end a disruption


@dataclass(frozen=True, slots=True)
class Flow:
    """Numbered probes of one protocol in one direction.

    `sent[n]` is when probe n was sent; `arrivals` has (number, time) of each arrival in the order in which they came.
    """

    protocol: str
    source: str
    target: str
    spacing_ns: int
    sent: Sequence[int]
    arrivals: Sequence[tuple[int, int]]  # in the order of their times

    @property
    def direction(self) -> str:
        return f"{self.source} > {self.target}"

    def resolution_ns(self, start: int, end: int) -> int:
        """The longest time between two probes sent in [start, end]: what this flow can tell apart."""
        first, last = max(0, bisect_left(self.sent, start) - 1), bisect_right(self.sent, end) + 1
        return max((b - a for a, b in pairwise(self.sent[first:last])), default=self.spacing_ns)

    def around(self, start: int, end: int) -> Flow:
        """The part that an event in [start, end) is judged by, numbered again: a whole drill is much longer."""
        first = bisect_left(self.sent, start - QUIET_NS - IN_FLIGHT_NS)
        last = bisect_left(self.sent, end)
        times = [at for _, at in self.arrivals]
        low = bisect_left(times, start - QUIET_NS - IN_FLIGHT_NS)
        high = bisect_right(times, end + LATE_NS)
        if high < len(times) and (not high or times[high - 1] < end):
            high += 1  # the first after a long silence
        arrivals = [(number - first, at) for number, at in self.arrivals[low:high] if number >= first]
        # A probe that is not of this part ends a silence as well.
        return replace(self, sent=self.sent[first : max(last, first)], arrivals=arrivals)

    def quiet_gap_ns(self, before: int) -> int:
        """The longest gap in the quiet time before an event: what this machine shows when nothing happens."""
        times = sorted(at for _, at in self.arrivals)
        first, last = bisect_left(times, before - QUIET_NS), bisect_left(times, before - IN_FLIGHT_NS)
        return max((b - a - self.spacing_ns for a, b in pairwise(times[first:last])), default=0)


@dataclass(frozen=True, slots=True)
class Gap:
    """The longest time without an arrival: from `start`, the last arrival before it, to `end`, the first after it.

    `ns` is its length less one spacing, since two arrivals that follow each other are one spacing apart anyway.
    `is_open` means that nothing arrived until the end of the observation.
    """

    ns: int
    start: int
    end: int
    is_open: bool = False


@dataclass(frozen=True, slots=True)
class FlowCost:
    """What one event cost one flow; see the properties of RFC 6412 named in the module's docstring."""

    protocol: str
    direction: str
    sent: int
    lost: int
    loss_derived_ns: int  # lost probes times their spacing
    gap: Gap
    rate_derived_ns: int  # from the first to the last sample below 95 % of the rate
    duplicates: int
    reordered: int
    disruptions: int
    resolution_ns: int
    delay_ns: int  # the median time of a probe on its way

    def as_json(self) -> dict[str, object]:
        return {
            "protocol": self.protocol,
            "direction": self.direction,
            "sent": self.sent,
            "lost": self.lost,
            "loss_derived_ms": milliseconds(self.loss_derived_ns),
            "gap_ms": milliseconds(self.gap.ns),
            "rate_derived_ms": milliseconds(self.rate_derived_ns),
            "duplicates": self.duplicates,
            "reordered": self.reordered,
            "disruptions": self.disruptions,
            "resolution_ms": milliseconds(self.resolution_ns),
        }


def milliseconds(ns: int) -> float:
    return round(ns / MS, 3)


def cost(flow: Flow, start: int, end: int, *, in_flight_ns: int = IN_FLIGHT_NS) -> FlowCost:
    """What the event at `start` cost the flow until `end`, when the next event happens or the observation ends."""
    first, last = bisect_left(flow.sent, start - in_flight_ns), bisect_left(flow.sent, end)
    came: dict[int, int] = {}
    duplicates = reordered = 0
    newest = -1
    for number, at in flow.arrivals:
        if not first <= number < last:
            continue
        if number in came:
            duplicates += 1
            continue
        came[number] = at
        reordered += number < newest
        newest = max(newest, number)
    lost = [number for number in range(first, last) if number not in came]
    gap = longest_gap(flow, start, end)
    around = flow.resolution_ns(gap.start - flow.spacing_ns, gap.end + flow.spacing_ns)
    around = max(around, flow.spacing_ns + flow.quiet_gap_ns(start))
    return FlowCost(
        flow.protocol,
        flow.direction,
        last - first,
        len(lost),
        len(lost) * flow.spacing_ns,
        gap,
        rate_derived(flow, first, last, came),
        duplicates,
        reordered,
        loss_periods(lost),
        around,
        max(0, round(median(at - flow.sent[number] for number, at in came.items()))) if came else 0,
    )


def longest_gap(flow: Flow, start: int, end: int) -> Gap:
    """The longest silence that begins in [start, end), or that the event at `start` began.

    A silence over the border of two events is the earlier one's, unless it had hardly begun when the later one came.
    One that lasts beyond `end` counts up to the first arrival after it.
    """
    times = sorted(at for _, at in flow.arrivals)
    if not times:
        return Gap(end - start, start, end, is_open=True)
    if times[0] > start:
        times.insert(0, start)  # nothing arrived before it
    first = bisect_right(times, start) - 1
    if times[first] < start - _border(flow, start):
        first += 1
    best = Gap(0, start, start)
    for index in range(first, bisect_left(times, end)):
        is_last = index + 1 == len(times)
        until = max(end, times[index]) if is_last else times[index + 1]
        if index > first and until >= end and times[index] >= end - _border(flow, end):
            break
        length = until - times[index] - flow.spacing_ns
        if length > best.ns:
            best = Gap(length, times[index], until, is_open=is_last)
    return best


def _border(flow: Flow, at: int) -> int:
    """How long before an event a silence may have begun that is the event's: no arrival was due in between."""
    return 3 * flow.resolution_ns(at - IN_FLIGHT_NS, at)


def rate_derived(flow: Flow, first: int, last: int, came: dict[int, int]) -> int:
    """From the first to the last sample of which less than 95 % arrived, in nanoseconds; samples are of sent probes."""
    low = [
        index
        for index in range(first, last, RATE_SAMPLE_PROBES)
        if _share(range(index, min(index + RATE_SAMPLE_PROBES, last)), came) < FULL_RATE
    ]
    if not low:
        return 0
    until = min(low[-1] + RATE_SAMPLE_PROBES, last) - 1
    return flow.sent[until] - flow.sent[low[0]] + flow.spacing_ns


def loss_periods(lost: Sequence[int]) -> int:
    """Separate holes in ascending numbers of lost probes; fewer than `SETTLED_PROBES` arrivals do not separate two."""
    return sum(1 for a, b in pairwise([-SETTLED_PROBES - 1, *lost]) if b - a > SETTLED_PROBES)


def _share(numbers: range, came: dict[int, int]) -> float:
    return sum(1 for number in numbers if number in came) / len(numbers)
