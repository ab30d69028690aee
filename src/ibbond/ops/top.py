"""What `top` shows: which member of each bond carries the traffic, how much, and how much each cable.

Pure: two samples of counters in, rates out. Where samples come from, a lab or this host's kernel, is the caller's
business. A counter that went back was reset: its rate is taken from zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ibbond.machine import SECOND


@dataclass(frozen=True, slots=True)
class Counts:
    """Counters of a device since it exists."""

    rx_packets: int = 0
    tx_packets: int = 0
    rx_bytes: int = 0
    tx_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Failover:
    """The last one of a bond: when, in the samples' time, and `ib0 -> ib1`."""

    at_ns: int
    detail: str


@dataclass(frozen=True, slots=True)
class BondSample:
    """`members` are name to (state, counters); `state` is `up`, `no carrier` or `down`."""

    active: str | None
    members: Mapping[str, tuple[str, Counts]]
    failover: Failover | None = None


@dataclass(frozen=True, slots=True)
class CableSample:
    ends: tuple[str, str]
    state: str
    packets: int  # received at both ends


@dataclass(frozen=True, slots=True)
class Sample:
    """One look. `late` are the last times in which the lab's loop was behind; None where that is not known."""

    at_ns: int
    bonds: Mapping[str, BondSample]
    cables: Mapping[str, CableSample] = field(default_factory=dict)
    late: Sequence[tuple[int, int]] | None = None


@dataclass(frozen=True, slots=True)
class MemberRow:
    """One member; rates are per second."""

    name: str
    state: str
    active: bool
    rx_packets: float
    tx_packets: float
    rx_bytes: float
    tx_bytes: float


@dataclass(frozen=True, slots=True)
class BondRow:
    name: str
    active: str | None
    members: tuple[MemberRow, ...]
    failover: str = ""
    failover_age_ms: float | None = None


@dataclass(frozen=True, slots=True)
class CableRow:
    name: str
    ends: tuple[str, str]
    state: str
    packets: float


@dataclass(frozen=True, slots=True)
class Picture:
    """What is shown of the time between two samples; `late_ms` is how far the lab was behind at most then."""

    seconds: float
    bonds: tuple[BondRow, ...]
    cables: tuple[CableRow, ...]
    late_ms: float | None


def picture(before: Sample, after: Sample) -> Picture:
    """The rates between two samples; what was not there before counts from zero."""
    seconds = max((after.at_ns - before.at_ns) / SECOND, 1e-9)
    bonds = tuple(_bond(name, before.bonds.get(name), bond, after.at_ns, seconds) for name, bond in after.bonds.items())
    cables = []
    for name, cable in after.cables.items():
        old = before.cables.get(name)
        rate = _grown(old.packets if old is not None else 0, cable.packets) / seconds
        cables.append(CableRow(name, cable.ends, cable.state, rate))
    return Picture(seconds, bonds, tuple(cables), _late_ms(before, after))


def _late_ms(before: Sample, after: Sample) -> float | None:
    if after.late is None:
        return None
    return max((until - since for since, until in after.late if until > before.at_ns), default=0) / 1e6


def _bond(name: str, before: BondSample | None, after: BondSample, now: int, seconds: float) -> BondRow:
    rows = []
    for member, (state, counts) in after.members.items():
        old = before.members.get(member, ("", Counts()))[1] if before is not None else counts
        rates = (
            _grown(getattr(old, counter), getattr(counts, counter)) / seconds
            for counter in ("rx_packets", "tx_packets", "rx_bytes", "tx_bytes")
        )
        rows.append(MemberRow(member, state, member == after.active, *rates))
    last = after.failover
    if last is None:
        return BondRow(name, after.active, tuple(rows))
    return BondRow(name, after.active, tuple(rows), last.detail, (now - last.at_ns) / 1e6)


def _grown(before: int, after: int) -> int:
    return after - before if after >= before else after
