"""What single failures do to a fabric, as one HTML file that needs nothing else: verdict, picture, tables.

Read first: `sim.whatif`. No scripts, and nothing is fetched. Names of nodes come from a file: they are escaped.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from ibbond.cli.whatif import GOOD
from ibbond.demo.report import STYLE
from ibbond.lab.graph import svg

if TYPE_CHECKING:
    from ibbond.sim.whatif import Consequence, Findings
    from ibbond.topology.model import Topology

MAX_DRAWN_NODES = 40
SHOWN = 300  # rows of a table; the JSON in the page has all
NAMED = 8  # hosts in a cell
BUCKETS_MS = (10, 20, 50, 100, 200, 500, 1000, 2000, 3000)
BAR, GAP, TALL = 84, 12, 150
KINDS = {"cable": "cables", "switch": "switches", "adapter": "adapters", "manager": "subnet manager"}
PAGE_STYLE = """
figure svg { max-height: 560px; } td.names { white-space: normal; text-align: left; }
.bars rect { fill: #0d9488; } .bars text { font-size: 13px; fill: currentColor; text-anchor: middle; }
details { margin: 18px 0; } summary { cursor: pointer; font-weight: 600; }
"""


def render(found: Findings, topology: Topology, source: str, facts: Mapping[str, object]) -> str:
    """The whole page; `facts` are the findings as JSON."""
    good = found.survives
    verdict = GOOD if good else "single failures can cut off hosts"
    numbers = json.dumps(facts).replace("<", "\\u003c")
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>What if one thing fails? {escape(source)}</title>
<style>{STYLE}{PAGE_STYLE}</style>
<body>
<div class="verdict {"yes" if good else "no"}">{verdict}</div>
<h1>What if one thing fails? {escape(source)}</h1>
<p class="lead">{found.hosts} hosts, {found.switches} switches, {found.cables} cables. Each cable, switch and adapter,
and the subnet manager, failed once, in virtual time, each in its own copy of the settled fabric:
{len(found.consequences)} failures.</p>
<div class="cards">{"".join(_card(kind, found) for kind in KINDS)}</div>
{_wiring(found)}
{_cutting(found)}
{_splitting(found)}
{_figure(found, topology)}
<h2>How long hosts were cut off before they were reached again</h2>
<p class="lead">Failures by their longest interruption of a host. Interruptions are sampled every 10 ms; an immediate
failover is shorter and does not count.</p>
<figure>{_bars(found.consequences)}</figure>
<h2>Interruptions, the longest first</h2>
{_interruptions(found.consequences)}
<details><summary>All failures</summary>{_all(found.consequences)}</details>
<footer>Made by <code>ibbond fabric whatif</code>.</footer>
<script type="application/json" id="numbers">{numbers}</script>
</body>
</html>
"""


def _card(kind: str, found: Findings) -> str:
    these = [each for each in found.consequences if each.kind == kind]
    worst = max((each.worst_ms for each in these), default=0)
    cutting = sum(each in found.cutting for each in these)
    words = f"{cutting} of {len(these)} cut off hosts" if kind in ("cable", "switch") else f"{len(these)} tried"
    less = sum(bool(each.redundancy_lost) for each in these)
    return f"""<div class="card"><div class="name">{KINDS[kind]}</div><div class="big">{worst} <small>ms</small></div>
<div class="sub">longest interruption; {words}; {less} leave hosts with fewer live ports</div></div>"""


def _wiring(found: Findings) -> str:
    lines = []
    if found.one_switch:
        lines.append(f"All ports are cabled to one switch: {escape(', '.join(found.one_switch))}.")
    if found.one_port:
        lines.append(f"Only one port has a cable: {escape(', '.join(found.one_port))}.")
    return f"<h2>Wiring</h2><ul>{''.join(f'<li>{line}</li>' for line in lines)}</ul>" if lines else ""


def _cutting(found: Findings) -> str:
    if not found.cutting:
        return ""
    rows = ([_name(each), _hosts(each.cut_off)] for each in found.cutting)
    return f"<h2>What cuts off hosts</h2>{_table(('failure', 'hosts without a path'), rows)}"


def _splitting(found: Findings) -> str:
    if not found.splitting:
        return ""
    rows = ([_name(each), _hosts(each.split)] for each in found.splitting)
    return f"""<h2>What splits the fabric</h2><p class="lead">The links of these hosts stay up, so that no
bond fails over; hosts whose active members are on different sides lose each other. An ARP monitor would move them.</p>
{_table(("failure", "hosts with ports on different sides"), rows)}"""


def _figure(found: Findings, topology: Topology) -> str:
    """The fabric, each cable in the color of what its failure does; nothing where it would be too large to read."""
    if found.hosts + found.switches > MAX_DRAWN_NODES:
        return ""
    cutting = {each.name for each in (*found.cutting, *found.splitting)}
    effects = {
        each.name: "cut" if each.name in cutting else "a failure interrupts hosts" if each.interrupted_ms else "up"
        for each in found.consequences
        if each.kind == "cable"
    }
    ends = [[topology.end_for_people(cable.a), topology.end_for_people(cable.b)] for cable in topology.cables]
    status: dict[str, Any] = {
        "name": topology.name,
        "hosts": {host.name: {"bonds": {}} for host in topology.hosts},
        "cables": [{"ends": pair, "state": effects[pair[0]]} for pair in ends],
    }
    return f"""<h2>The fabric</h2><figure>{svg(status)}<figcaption>Red, dashed: a cable whose failure cuts off a host
or splits the fabric.
Orange: it interrupts hosts for 10 ms or longer. Green: neither.</figcaption></figure>"""


def _bars(consequences: Sequence[Consequence]) -> str:
    worst = [each.worst_ms for each in consequences]
    counts = Counter(next((limit for limit in BUCKETS_MS if ms <= limit), BUCKETS_MS[-1]) for ms in worst if ms)
    bars = [("none", worst.count(0)), *((f"to {limit} ms", counts[limit]) for limit in BUCKETS_MS)]
    most = max(count for _, count in bars) or 1
    drawn = []
    for index, (label, count) in enumerate(bars):
        x, height = index * (BAR + GAP), max(TALL * count / most, 1.5 if count else 0)
        middle = x + BAR / 2
        drawn.append(
            f'<rect x="{x}" y="{TALL + 24 - height:.1f}" width="{BAR}" height="{height:.1f}" rx="3"/>'
            f'<text x="{middle}" y="{TALL + 16 - height:.1f}">{count or ""}</text>'
            f'<text x="{middle}" y="{TALL + 44}">{label}</text>'
        )
    width = len(bars) * (BAR + GAP) - GAP
    head = f'<svg class="bars" viewBox="0 0 {width} {TALL + 54}" role="img" aria-label="failures by interruption">'
    return f"{head}{''.join(drawn)}</svg>"


def _interruptions(consequences: Sequence[Consequence]) -> str:
    slow = sorted((each for each in consequences if each.interrupted_ms), key=lambda each: -each.worst_ms)
    if not slow:
        return "<p>No failure interrupts a host that is reached again.</p>"
    rows = ([_name(each), f"{each.worst_ms} ms", _hosts(tuple(each.interrupted_ms))] for each in slow[:SHOWN])
    return _table(("failure", "longest", "hosts"), rows) + _more(len(slow))


def _all(consequences: Sequence[Consequence]) -> str:
    rows = (
        [
            _name(each),
            f"{each.worst_ms} ms" if each.worst_ms else "-",
            str(len(each.cut_off) or "-"),
            str(len(each.interrupted_ms) or "-"),
            _hosts(each.redundancy_lost),
        ]
        for each in consequences[: 10 * SHOWN]
    )
    heads = ("failure", "longest interruption", "hosts cut off", "hosts interrupted", "hosts with fewer live ports")
    return _table(heads, rows) + _more(len(consequences), 10 * SHOWN)


def _more(count: int, shown: int = SHOWN) -> str:
    return f"<p class=lead>and {count - shown} more</p>" if count > shown else ""


def _name(each: Consequence) -> str:
    return escape(each.name if each.kind == "manager" else f"{each.kind} {each.name}")


def _hosts(hosts: tuple[str, ...]) -> str:
    more = f" and {len(hosts) - NAMED} more" if len(hosts) > NAMED else ""
    return escape(", ".join(hosts[:NAMED])) + more


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The last column has names, and its lines may break."""
    head = "".join(f"<th{' class=text' if head == heads[-1] else ''}>{head}</th>" for head in heads)
    body = "".join(
        f"<tr>{''.join(f'<td>{cell}</td>' for cell in row[:-1])}<td class=names>{row[-1]}</td></tr>" for row in rows
    )
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'
