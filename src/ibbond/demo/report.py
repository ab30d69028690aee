"""A run of the demo as one HTML file that needs nothing else: verdict, timeline, each move in detail, the numbers.

Read first: `demo.measure` for what the numbers mean. Pictures are inline SVG (`demo.timeline`), without scripts and
without anything fetched; the file also contains the numbers as JSON.
"""

from __future__ import annotations

import html
import json
from pathlib import Path

from ibbond.demo.measure import KINDS, STREAMS, Outages, ProtocolSummary, Summary, windows
from ibbond.demo.rdma_page import rdma_section
from ibbond.demo.timeline import COLORS, lens, overview
from ibbond.errors import Refused
from ibbond.host.output_file import write_output
from ibbond.machine import SECOND

NAMES = {"icmp": "ICMP", "udp": "UDP", "tcp": "TCP", "multicast": "IP multicast", "rdma": "RDMA"}
PROBES = {
    "icmp": "ping every 10 ms",
    "udp": "1 ms both ways",
    "tcp": "one stream",
    "multicast": "1 ms both ways",
    "rdma": "numbered writes of a block session",
}
LENSES = 12

STYLE = """
:root { color-scheme: light dark; --page: #fbfcfd; --panel: #fff; --ink: #1f2933; --soft: #52606d; --faint: #7b8794;
  --line: #e4e9ee; --code: #eef2f5; --yes: #dff3e6; --yes-ink: #17603a; --no: #fde3e1; --no-ink: #8f1d14; }
@media (prefers-color-scheme: dark) { :root { --page: #14181d; --panel: #1c2229; --ink: #e6eaee; --soft: #aab4bf;
  --faint: #8792a0; --line: #323a44; --code: #262d36; --yes: #16402a; --yes-ink: #9be0b8; --no: #54201c;
  --no-ink: #ffb4ab; } svg text { filter: brightness(1.45); }
  svg .paper { fill: #1c2229; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1320px; padding: 40px 24px 64px; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 8px; letter-spacing: -.01em; }
h2 { font-size: 19px; margin: 44px 0 10px; }
p { margin: 6px 0; max-width: 74ch; }
.lead { color: var(--soft); }
.verdict { display: inline-block; padding: 3px 12px; border-radius: 999px; font-weight: 600; font-size: 14px;
  margin-bottom: 14px; }
.yes { background: var(--yes); color: var(--yes-ink); } .no { background: var(--no); color: var(--no-ink); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(210px, 1fr)); gap: 14px; margin: 24px 0 8px; }
.card { background: var(--panel); border: 1px solid var(--line); border-radius: 12px; padding: 14px 16px 12px; }
.card .name { font-weight: 600; } .card .probe { color: var(--faint); font-size: 13px; }
.card .big { font-size: 30px; font-weight: 650; letter-spacing: -.02em; margin-top: 6px; line-height: 1.15; }
.card .big small { font-size: 15px; font-weight: 500; color: var(--soft); letter-spacing: 0; }
.card .sub { color: var(--soft); font-size: 13.5px; }
figure { margin: 12px 0; background: var(--panel); border: 1px solid var(--line); border-radius: 12px; padding: 12px
14px; } figure svg { display: block; width: 100%; height: auto; } figcaption { color: var(--soft); font-size: 14px;
margin-top: 6px; } .lenses { display: grid; grid-template-columns: repeat(auto-fit, minmax(520px, 1fr)); gap: 12px; }
.lenses figure { margin: 0; } table { border-collapse: collapse; width: 100%; background: var(--panel);
font-variant-numeric: tabular-nums;
  border: 1px solid var(--line); font-size: 15px; }
th, td { padding: 7px 12px; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child, td.text, th.text { text-align: left; }
th { font-weight: 600; color: var(--soft); font-size: 13.5px; }
tr:last-child td { border-bottom: 0; }
.scroll { overflow-x: auto; }
code { font: 13.5px ui-monospace, "SF Mono", Menlo, Consolas, monospace; background: var(--code); padding: 1px 5px;
  border-radius: 4px; }
footer { margin-top: 48px; color: var(--faint); font-size: 13.5px; }
"""


def write_report(summary: Summary, directory: Path) -> Path:
    """Write `report.html` into a directory, and its first picture as `timeline.svg`; the page's path."""
    path = directory / "report.html"
    write(path, render(summary, str(path)))
    write(directory / "timeline.svg", overview(summary.recording))
    return path


def make_directory(directory: Path) -> None:
    """Before a long run: see that its report can be written; `Refused` where it cannot."""
    write(directory / "report.html", "")


def write(path: Path, text: str) -> None:
    directory = path.parent
    try:
        directory.mkdir(parents=True, exist_ok=True)
        write_output(path, text.encode())
    except OSError as error:
        raise Refused(
            f"cannot write a report to {directory}",
            why=error.strerror or str(error),
            fix="Choose a directory that you can write to",
            code=error.errno or 0,
        ) from None


def render(summary: Summary, path: str) -> str:
    """The whole page."""
    recording = summary.recording
    seconds = (recording.ended_at - recording.started_at) / SECOND
    moves = len(recording.moves)
    verdict = "every protocol survived" if summary.survived else "not every protocol survived"
    numbers = json.dumps(summary.as_json(path)).replace("<", "\\u003c")
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>ibbond: {moves} moves of one address</title>
<style>{STYLE}</style>
<body>
<div class="verdict {"yes" if summary.survived else "no"}">{verdict}</div>
<h1>One IPoIB address, {moves} moves between two cables</h1>
<p><b>{_longest(summary)}</b></p>
<p class="lead">{_how(summary)} {seconds:.1f} s, {recording.rounds} {_plural(recording.rounds, "round")}. Cables were
unplugged and plugged in again while {_what_ran(summary)} ran between two hosts at the same time.</p>
{"".join(f"<p class=lead>{html.escape(note)}</p>" for note in recording.notes)}
<div class="cards">{"".join(_card(row) for row in summary.protocols)}</div>
<h2>The whole run</h2>
<figure>{overview(recording)}
<figcaption>Top: which member carried each bond. Below: one lane per protocol; every red stroke is a lost probe, or for
TCP a silence of the receiver longer than 20 ms.</figcaption></figure>
<h2>Each move in detail</h2>
<div class="lenses">{_lenses(summary)}</div>
<h2>Numbers</h2>
<div class="scroll">{_table(summary)}</div>
<p class="lead">Outage is lost probes times their spacing (1 ms for UDP and multicast, 10 ms for ping); where a protocol
runs both ways, the worse direction counts. TCP loses nothing: its outage is the receiver's longest time without new
bytes, and TCP's own retransmission timeout (about 200 ms) is in it where the last packets before a cut were lost.
Silence is the longest time between two arrivals around a move: what was delayed but not lost is in it, and what this
machine's own scheduling adds.</p>
<h2>Move by move</h2>
<div class="scroll">{_moves_table(summary)}</div>
{rdma_section(recording.session) if recording.session is not None else ""}
<footer>Made by <code>ibbond demo --rounds {recording.rounds} --report DIR</code>.</footer>
<script type="application/json" id="numbers">{numbers}</script>
</body>
</html>
"""


def _longest(summary: Summary) -> str:
    """The answer to "how long was I down", over all protocols and moves."""
    worst, name = max(
        (max((*row.failover.outage_ms, *row.failback.outage_ms), default=0.0), NAMES[row.protocol])
        for row in summary.protocols
    )
    return f"The longest interruption of any protocol was {_ms(round(worst, 1))} ms ({name})."


def _how(summary: Summary) -> str:
    if summary.recording.mode == "live":
        return "Live, in network namespaces of this machine with ordinary programs and sockets:"
    return "Simulated, under a virtual clock, with the same bonding, IPoIB and subnet code that runs live:"


def _what_ran(summary: Summary) -> str:
    if summary.recording.session is None:
        return "TCP, UDP, IP multicast and ICMP"
    return "TCP, UDP, IP multicast, ICMP and a block session over RDMA"


def _card(row: ProtocolSummary) -> str:
    cut = row.failover
    median = _ms(cut.as_json()["outage_ms_median"])
    word = "longest stall" if row.protocol in STREAMS else "outage"
    lost = "nothing lost" if row.protocol in STREAMS and row.sent == row.received else f"worst lost {_worst(row)}"
    return (
        f'<div class="card"><div class="name" style="color:{COLORS[row.protocol]}">{NAMES[row.protocol]}</div>'
        f'<div class="probe">{PROBES[row.protocol]}</div>'
        f'<div class="big">{median} <small>ms</small></div>'
        f'<div class="sub">median {word} when a cable is cut<br>{lost}; '
        f"{'survived' if row.survived else '<b>did not survive</b>'}</div></div>"
    )


def _worst(row: ProtocolSummary) -> int:
    return max((*row.failover.lost, *row.failback.lost), default=0)


def _lenses(summary: Summary) -> str:
    found = windows(summary.recording)
    figures = [
        f"<figure>{lens(summary.recording, move, end)}<figcaption>{_caption(summary, move.at_ns)}: "
        f"<b>{move.what}</b> of {html.escape(move.where)} {html.escape(move.detail)}</figcaption></figure>"
        for move, _, end in found[:LENSES]
    ]
    if len(found) > LENSES:
        figures.append(f"<figure><figcaption>{len(found) - LENSES} more moves are in the table.</figcaption></figure>")
    return "".join(figures)


def _caption(summary: Summary, at_ns: int) -> str:
    return f"{(at_ns - summary.recording.started_at) / SECOND:.2f} s"


def _table(summary: Summary) -> str:
    rows = "".join(
        f"<tr><td>{NAMES[row.protocol]}</td><td>{_amount(row, row.sent)}</td><td>{_amount(row, row.received)}</td>"
        f"{_outage_cells(row.failover)}{_outage_cells(row.failback)}"
        f'<td class="text">{"yes" if row.survived else "no"}</td></tr>'
        for row in summary.protocols
    )
    return (
        '<table><thead><tr><th></th><th colspan="2"></th><th colspan="4">fail-over (cable cut)</th>'
        '<th colspan="4">fail-back (cable plugged again)</th><th></th></tr>'
        "<tr><th>protocol</th><th>sent</th><th>received</th>"
        + "<th>most lost</th><th>median ms</th><th>max ms</th><th>silence ms</th>" * 2
        + f'<th class="text">survived</th></tr></thead><tbody>{rows}</tbody></table>'
    )


def _outage_cells(outages: Outages) -> str:
    numbers = outages.as_json()
    return (
        f"<td>{numbers['lost_max']}</td><td>{_ms(numbers['outage_ms_median'])}</td>"
        f"<td>{_ms(numbers['outage_ms_max'])}</td><td>{_ms(max(outages.silence_ms, default=None))}</td>"
    )


def _moves_table(summary: Summary) -> str:
    counters = dict.fromkeys(KINDS, 0)
    rows = []
    for move in summary.recording.moves:
        index = counters[move.what]
        counters[move.what] += 1
        cells = ""
        for row in summary.protocols:
            outages = row.failover if move.what == "failover" else row.failback
            cells += f"<td>{_ms(outages.outage_ms[index])}</td>"
        rows.append(
            f"<tr><td>{_caption(summary, move.at_ns)}</td><td class=text>{move.what}</td>"
            f"<td class=text>{html.escape(move.where)} {html.escape(move.detail)}</td>{cells}</tr>"
        )
    heads = "".join(f"<th>{NAMES[row.protocol]} ms</th>" for row in summary.protocols)
    return (
        f'<table><thead><tr><th>at</th><th class="text">what</th><th class="text">where</th>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _amount(row: ProtocolSummary, count: int) -> str:
    return f"{count / 1e6:.1f} MB" if row.protocol == "tcp" else f"{count:,}"


def _ms(value: object) -> str:
    if not isinstance(value, int | float):
        return "-"
    return f"{value:.0f}" if value == int(value) else f"{value:.1f}"


def _plural(count: int, word: str) -> str:
    return word if count == 1 else word + "s"
