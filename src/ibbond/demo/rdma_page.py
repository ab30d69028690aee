"""The part of a demo's report that an RDMA session adds: what it noticed at each move, and when it wrote again.

Read first: `demo.rdma_report` for the rows, docs/rdma.md for what the words mean.
"""

from __future__ import annotations

import html
from collections.abc import Mapping

from ibbond.demo.rdma_report import outcome

STEPS = ("error_seen", "addr_change", "resolved", "reconnected", "first_io")
HEADS = ("break seen", "ADDR_CHANGE", "resolved", "reconnected", "first write")


def rdma_section(session: Mapping[str, object]) -> str:
    """A heading, the table of the session's breaks, and what its timeouts were."""
    settings, rows = session["settings"], session["failovers"]
    assert isinstance(settings, dict)
    assert isinstance(rows, list)
    heads = "".join(f"<th>{head} ms</th>" for head in HEADS)
    lines = "".join(f"<tr>{_words(row)}{''.join(_cell(row, step) for step in STEPS)}</tr>" for row in rows)
    return (
        "<h2>The RDMA session</h2>"
        '<div class="scroll"><table><thead><tr><th class="text">move</th><th class="text">host</th>'
        f'<th class="text">first sign</th>{heads}</tr></thead><tbody>{lines}</tbody></table></div>'
        "<p class=lead>Milliseconds after each move. At a move the connection breaks; the session resolves the same IP "
        "address again, connects over the member that is active now, logs in and replays: "
        f"{outcome(session)}. "
        f"ACK timeout {settings['ack_timeout_ms']} ms, {settings['retry_count']} retries.</p>"
    )


def _words(row: Mapping[str, object]) -> str:
    words = (row["what"], row["host"], row["sign"] or "none")
    return "".join(f"<td class=text>{html.escape(str(word))}</td>" for word in words)


def _cell(row: Mapping[str, object], step: str) -> str:
    at, began = row[f"{step}_ms"], row["failover_ms"]
    if not isinstance(at, int | float) or not isinstance(began, int | float):
        return "<td>-</td>"
    return f"<td>{at - began:.1f}</td>"
