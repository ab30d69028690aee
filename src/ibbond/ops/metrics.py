"""What `ibbond exporter` tells Prometheus: a table of metrics over one snapshot of a host. Pure.

Read first: ops/facts.py; "Metric and label naming" of Prometheus. Every finding of `check` is a metric too, so that an
alert can be about any rule. What is unknown has no sample; `ibbond_exporter_unknown` names it. Left out: traffic
counters of network devices, which node_exporter has.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from ibbond.ops.check import check, unknown
from ibbond.ops.facts import BondFacts, HostFacts, MemberFacts
from ibbond.ops.failovers import BondHistory
from ibbond.ops.rules_members import absent_members

Sample = tuple[tuple[str, ...], float]
RATE = re.compile(r"^([0-9.]+) Gb/sec")
COUNTERS = {  # of sysfs, and what they count
    "symbol_error": "symbol errors",
    "link_error_recovery": "link error recoveries",
    "link_downed": "failed link error recoveries, each of which took the link down",
    "port_rcv_errors": "packets received with an error",
    "local_link_integrity_errors": "times that local physical errors passed the threshold",
    "excessive_buffer_overrun_errors": "buffer overruns that lasted",
    "port_xmit_discards": "packets discarded because the port was down or congested",
    "VL15_dropped": "management packets dropped for want of buffers",
}


@dataclass(frozen=True, slots=True)
class Seen:
    """One snapshot. `counters` has those of each member's port; `named` are bonds that must be there."""

    host: HostFacts
    records: Mapping[str, BondHistory] = field(default_factory=dict)
    counters: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    named: tuple[str, ...] = ()
    watching: bool = False


@dataclass(frozen=True, slots=True)
class Metric:
    """One row: a name, what it means, its labels, and its samples in a snapshot."""

    name: str
    kind: Literal["gauge", "counter"]
    meaning: str
    labels: tuple[str, ...]
    samples: Callable[[Seen], Iterator[Sample]]


def of_bond(name: str, meaning: str, value: Callable[[Seen, BondFacts], float | None]) -> Metric:
    def samples(seen: Seen) -> Iterator[Sample]:
        for bond in seen.host.bonds:
            if (found := value(seen, bond)) is not None:
                yield (bond.name,), found

    return Metric(f"ibbond_bond_{name}", "gauge", meaning, ("bond",), samples)


def of_member(
    name: str, meaning: str, value: Callable[[BondFacts, MemberFacts], float | None], kind: Literal["gauge", "counter"]
) -> Metric:
    def samples(seen: Seen) -> Iterator[Sample]:
        for bond in seen.host.bonds:
            for member in bond.members:
                if (found := value(bond, member)) is not None:
                    yield (bond.name, member.name), found

    return Metric(f"ibbond_{name}", kind, meaning, ("bond", "member"), samples)


def of_record(name: str, meaning: str, value: Callable[[BondHistory], float | None], kind: str) -> Metric:
    def samples(seen: Seen) -> Iterator[Sample]:
        for bond in seen.host.bonds if seen.watching else ():
            if (found := value(seen.records.get(bond.name, BondHistory()))) is not None:
                yield (bond.name,), found

    return Metric(f"ibbond_bond_{name}", "counter" if kind == "counter" else "gauge", meaning, ("bond",), samples)


def present(seen: Seen) -> Iterator[Sample]:
    wanted = [bond.name for bond in seen.host.desired.bonds if bond.is_defined]
    for name in dict.fromkeys((*seen.named, *wanted, *(bond.name for bond in seen.host.bonds))):
        yield (name,), float(name in seen.host.bond_names)


def expected(seen: Seen, bond: BondFacts) -> float | None:
    """Members there and absent: an expectation that is met counts as what is there."""
    return len(bond.members) + len(absent_members(seen.host, bond)) if bond.expected else None


def usable(bond: BondFacts) -> int:
    return sum(member.link == "up" for member in bond.members)


def last_failover(seen: Seen) -> Iterator[Sample]:
    for name, record in seen.records.items():
        if record.last is not None:
            yield (name, record.last.old or "", record.last.new or "", record.last.why), 1


def port_information(seen: Seen) -> Iterator[Sample]:
    for bond in seen.host.bonds:
        for member in bond.members:
            if (port := member.device.port) is not None:
                facts = (port.adapter, str(port.number), port.state, port.phys_state, port.rate, port.neighbor)
                yield (bond.name, member.name, *(each or "" for each in facts)), 1


def port_errors(seen: Seen) -> Iterator[Sample]:
    for bond in seen.host.bonds:
        for member in bond.members:
            for counter, value in seen.counters.get(member.name, {}).items():
                yield (bond.name, member.name, counter), value


def findings(seen: Seen) -> Iterator[Sample]:
    """One sample for each rule and member; a rule may find several things about one."""
    for finding in check(seen.host):
        yield (finding.bond, finding.rule.id, finding.severity.value, finding.found.member), 1


def unknown_facts(seen: Seen) -> Iterator[Sample]:
    for bond in seen.host.bonds:
        for fact in unknown(seen.host, bond).facts:
            yield (bond.name, fact), 1
    for name, sentence in seen.host.unreadable.items():
        yield (name, sentence), 1


def port_active(bond: BondFacts, member: MemberFacts) -> float | None:
    port = member.device.port
    return None if port is None or port.state is None else float(port.state == "ACTIVE")


def port_rate(bond: BondFacts, member: MemberFacts) -> float | None:
    port = member.device.port
    found = RATE.match(port.rate or "") if port is not None else None
    return float(found[1]) * 1e9 if found else None


def port_manager(bond: BondFacts, member: MemberFacts) -> float | None:
    port = member.device.port
    return None if port is None or port.sm_lid is None else port.sm_lid


def _truth(value: bool | None) -> float | None:
    return None if value is None else float(value)


METRICS = (
    Metric(
        "ibbond_exporter_watching",
        "gauge",
        "1 while every change of bonds is received, so that failovers are counted.",
        (),
        lambda seen: iter([((), float(seen.watching))]),
    ),
    Metric(
        "ibbond_exporter_unknown",
        "gauge",
        "A fact that could not be read; rules of check that need it are silent.",
        ("bond", "fact"),
        unknown_facts,
    ),
    Metric("ibbond_bond_present", "gauge", "1 if the bond exists, 0 if it only should.", ("bond",), present),
    of_bond(
        "up", "1 if the bond is set up.", lambda _, bond: None if "up" in bond.snapshot.unknown else bond.snapshot.up
    ),
    of_bond(
        "carrier",
        "1 if the bond has carrier.",
        lambda _, bond: None if "carrier" in bond.snapshot.unknown else bond.snapshot.carrier,
    ),
    of_bond("members", "Members that the bond has.", lambda _, bond: len(bond.members)),
    of_bond("members_expected", "Members that files or --expect ask for.", expected),
    of_bond("members_usable", "Members whose link is up.", lambda _, bond: usable(bond)),
    of_record("failovers", "Changes of the active member.", lambda record: record.failovers, "counter"),
    of_record("announcements", "Announcements of addresses.", lambda record: record.announcements, "counter"),
    of_record(
        "active_since_timestamp_seconds",
        "When the active member last changed; no sample if it has not since the exporter started.",
        lambda record: record.last.at if record.last else None,
        "gauge",
    ),
    Metric(
        "ibbond_bond_last_failover_info",
        "gauge",
        "The last change of the active member: from, to, and why.",
        ("bond", "old", "new", "why"),
        last_failover,
    ),
    of_member(
        "member_active",
        "1 if the bond sends through this member (active-backup).",
        lambda bond, member: (
            float(member.name == bond.snapshot.active) if bond.mode and bond.mode.uses_primary else None
        ),
        "gauge",
    ),
    of_member(
        "member_primary",
        "1 if the operator prefers this member.",
        lambda bond, member: float(member.name == bond.snapshot.primary),
        "gauge",
    ),
    of_member(
        "member_link_up",
        "1 if the link monitor holds the member's link to be up.",
        lambda _, member: None if member.link is None else float(member.link == "up"),
        "gauge",
    ),
    of_member("member_device_up", "1 if the device is set up.", lambda _, member: _truth(member.device.up), "gauge"),
    of_member("member_carrier", "1 if the device has carrier.", lambda _, m: _truth(m.device.carrier), "gauge"),
    of_member(
        "member_link_failures",
        "Link failures that the bonding driver has counted.",
        lambda _, m: None if "link_failure_count" in m.bonding.unknown else m.bonding.link_failure_count,
        "counter",
    ),
    of_member(
        "member_carrier_changes", "Changes of the carrier.", lambda _, member: member.device.carrier_changes, "counter"
    ),
    Metric(
        "ibbond_port_info",
        "gauge",
        "The InfiniBand port below a member.",
        ("bond", "member", "adapter", "port", "state", "phys_state", "rate", "switch"),
        port_information,
    ),
    of_member("port_active", "1 if the port's state is Active.", port_active, "gauge"),
    of_member("port_rate_bits_per_second", "The port's rate.", port_rate, "gauge"),
    of_member("port_subnet_manager_lid", "LID of the port's subnet manager; 0 if none.", port_manager, "gauge"),
    Metric(
        "ibbond_port_errors",
        "counter",
        "Error counters of the port, by their name in sysfs.",
        ("bond", "member", "counter"),
        port_errors,
    ),
    Metric(
        "ibbond_check_finding",
        "gauge",
        "What ibbond check finds, by rule; see docs/checks.md.",
        ("bond", "rule", "severity", "member"),
        findings,
    ),
)
