"""What a session's failovers come to: one row per failover, the same for live and simulated runs.

Read first: docs/rdma.md. All times are milliseconds of one clock since the session (or the demo) began.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ibbond.machine import MS, SECOND
from ibbond.rdma.session import ACK_TIMEOUT, CM_RETRIES, NOP_AFTER, RESPONSE_TIMEOUT, RETRY_COUNT

Plain = dict[str, object]


def settings(*, heed_address_change: bool) -> Plain:
    """With which timeouts and retries the session runs; they decide how soon a dead path is noticed."""
    return {
        "ack_timeout_ms": round((4096 << ACK_TIMEOUT) / MS, 1),
        "retry_count": RETRY_COUNT,
        "response_timeout_ms": round((4096 << RESPONSE_TIMEOUT) / MS, 1),
        "cm_retries": CM_RETRIES,
        "nop_after_ms": NOP_AFTER // MS,
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
    """One failover and what the session did about it; `recoveries` are `rdma.initiator.Recovery` as dictionaries."""
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


MOVES = ("failover", "failback", "switch")
IN_FLIGHT = 20 * MS  # a break may be noticed this much before the time that the move was noted


def session_facts(
    happenings: Sequence[tuple[int, str, str, str]], began: int, ended: int, facts: Mapping[str, object]
) -> Plain:
    """What a demo says of the session that ran beside it: a row for each move (`what` says which kind)."""
    recoveries = facts["recoveries"]
    assert isinstance(recoveries, list)
    moves = [(at, what, where.partition("/")[0]) for at, what, where, _ in happenings if what in MOVES]
    ends = [*(at for at, _, _ in moves), ended + SECOND][1:]
    rows = [
        {"what": what, **failover_row(host, began, at - IN_FLIGHT, at, end - IN_FLIGHT, recoveries)}
        for (at, what, host), end in zip(moves, ends, strict=True)
    ]
    for row in rows:
        del row["cut_ms"]
    return {
        "settings": settings(heed_address_change=True),
        "failovers": rows,
        **{name: facts[name] for name in ("writes", "writes_lost", "writes_doubled", "verified")},
    }


def intact(facts: Mapping[str, object]) -> bool:
    """Whether the target was read back and every write is there, done once."""
    return facts["verified"] is True and (facts["writes_lost"], facts["writes_doubled"]) == (0, 0)


def integer(value: object) -> int:
    return value if isinstance(value, int) else 0


def outcome(session: Mapping[str, object]) -> str:
    """What a report says of the session's writes, in words; what could not be read back is unknown."""
    counts = (session["writes_lost"], session["writes_doubled"])
    lost, doubled = ("not known" if count is None else count for count in counts)
    rest = "" if session["verified"] else " (not verified: the session did not come back)"
    return f"{session['writes']} writes, {lost} lost, {doubled} done twice{rest}"


def came_back(session: Mapping[str, object]) -> bool:
    """No write was lost or done twice, and after every failover there was one."""
    rows = session["failovers"]
    assert isinstance(rows, list)
    return intact(session) and all(row["first_io_ms"] is not None for row in rows)
