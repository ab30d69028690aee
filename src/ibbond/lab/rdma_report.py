"""What a session's failovers come to: one row per failover, the same for live and simulated runs.

Read first: docs/rdma.md. All times are milliseconds of one clock since the session (or the demo) began.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ibbond.machine import MS
from ibbond.rdma.session import ACK_TIMEOUT, CM_RETRIES, RESPONSE_TIMEOUT, RETRY_COUNT

Plain = dict[str, object]


def settings(*, heed_address_change: bool) -> Plain:
    """With which timeouts and retries the session runs; they decide how soon a dead path is noticed."""
    return {
        "ack_timeout_ms": round((4096 << ACK_TIMEOUT) / MS, 1),
        "retry_count": RETRY_COUNT,
        "response_timeout_ms": round((4096 << RESPONSE_TIMEOUT) / MS, 1),
        "cm_retries": CM_RETRIES,
        "heed_address_change": heed_address_change,
    }


def failover_row(
    host: str,
    began: int,
    cut_at: int,
    moved_at: int | None,
    until: int,
    recoveries: Sequence[Mapping[str, object]],
) -> Plain:
    """One failover and what the session did about it; `recoveries` are `rdma.session.Recovery` as dictionaries."""
    found = [each for each in recoveries if cut_at <= integer(each["seen_at"]) < until]
    first: Mapping[str, object] = found[0] if found else {}
    last: Mapping[str, object] = found[-1] if found else {}

    def at(when: object) -> float | None:
        return round((when - began) / MS, 3) if isinstance(when, int) else None

    return {
        "host": host,
        "cut_ms": at(cut_at),
        "failover_ms": at(moved_at),
        "sign": first.get("sign"),
        "error_seen_ms": at(first.get("error_at")),
        "addr_change_ms": at(first.get("addr_change_at")),
        "resolved_ms": at(last.get("resolved_at")),
        "reconnected_ms": at(last.get("reconnected_at")),
        "first_io_ms": at(last.get("first_io_at")),
        "attempts": sum(integer(each["attempts"]) for each in found),
    }


def integer(value: object) -> int:
    return value if isinstance(value, int) else 0
