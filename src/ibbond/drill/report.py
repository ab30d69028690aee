"""A drill as one HTML file that needs nothing else: a page for the manager, then every run with a picture.

Read first: `drill.verdict`. Beside the page stand `drill.json`, `junit.xml` and `ibbond_drill.prom`. No scripts, and
nothing is fetched.
"""

from __future__ import annotations

import html
import json
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from ibbond.demo.report import STYLE, write
from ibbond.drill import formats
from ibbond.drill.classes import CLASSES, DrillClass
from ibbond.drill.picture import picture
from ibbond.drill.verdict import Certificate, Run, Verdict
from ibbond.machine import MS

METRICS = "ibbond_drill.prom"
COLOR = {Verdict.PASS: "yes", Verdict.FAIL: "no", Verdict.UNCLEAR: "unclear"}
MORE_STYLE = """
.unclear { background: #fdf0d0; color: #7a5200; }
.loud { background: #8f1d14; color: #fff; padding: 14px 18px; border-radius: 12px; font-weight: 650; font-size: 18px; }
.big-number { font-size: 44px; font-weight: 680; letter-spacing: -.02em; line-height: 1.1; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 18px; } dt { opacity: .72; } dd { margin: 0; }
details { margin: 10px 0; } summary { cursor: pointer; }
@media print { details { display: none; } }
"""


def write_report(found: Certificate, directory: Path, drilled: str) -> Path:
    """Write the page and the files beside it; the page's path. `Refused` where the directory cannot be written."""
    now = int(time.time())
    page = directory / "report.html"
    metrics = directory / METRICS
    older = metrics.read_text(errors="replace") if metrics.is_file() else ""
    write(page, render(found, drilled, now))
    write(directory / "drill.json", json.dumps(found.details(), indent=1) + "\n")
    write(directory / "junit.xml", formats.junit(found))
    write(metrics, formats.prometheus(found, now, formats.last_success(older)))
    return page


def render(found: Certificate, drilled: str, at_seconds: int) -> str:
    """The whole page."""
    good, total = formats.runs_in_budget(found)
    date = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(at_seconds))
    verdict = found.verdict
    loud = "".join(f'<p class="loud">{html.escape(failure)}</p>' for failure in found.failures)
    numbers = json.dumps(found.details()).replace("<", "\\u003c")
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Failover drill of {html.escape(found.bond)}: {verdict.value}</title>
<style>{STYLE}{MORE_STYLE}</style>
<body>
{loud}
<div class="verdict {COLOR[verdict]}">{verdict.value}</div>
<h1>Failover drill of {html.escape(found.bond)}</h1>
<p class="lead">{date}, in {html.escape(found.world)}. The bond was made to fail on purpose while a peer measured what
was lost. {good} of {total} runs passed.</p>
<div class="cards">
<div class="card"><div class="name">worst outage</div><div class="big-number">{_worst(found)}</div>
<div class="sub">{_worst_where(found)}</div></div>
<div class="card"><div class="name">budget</div><div class="big-number">{found.budget_ns / MS:g} ms</div>
<div class="sub">the longest outage allowed</div></div>
<div class="card"><div class="name">runs</div><div class="big-number">{good} of {total}</div>
<div class="sub">within the budget, with phases that add up</div></div>
</div>
{_list("Why it did not pass", found.reasons()) if verdict is not Verdict.PASS else ""}
<h2>What was tested</h2>
<div class="scroll">{_classes(found)}</div>
<h2>What was not tested</h2>
{_not_tested(found)}
<h2>Where</h2>
<dl>{"".join(f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in _facts(found))}</dl>
{_list("Notes", found.notes)}
<h2>Every run</h2>
<p>Phases are timed by independent sources and compared with the gap that the peer's probes show. A probe was sent every
{found.spacing_ns / MS:g} ms (multicast: at a fifth, ICMP and TCP at a tenth of that rate).</p>
{"".join(_run(found, run, drilled) for run in found.runs)}
<footer>Made by <code>ibbond drill</code>. Times are relative to the cause.</footer>
<script type="application/json" id="numbers">{numbers}</script>
</body>
</html>
"""


def _worst(found: Certificate) -> str:
    worst = found.worst
    if worst is None:
        return "-"
    return "no end" if worst.gap.is_open else f"{worst.gap.ns / MS:.1f} ms"


def _worst_where(found: Certificate) -> str:
    return html.escape(found.worst.title) if found.worst is not None else "nothing was tested"


def _facts(found: Certificate) -> Iterable[tuple[str, str]]:
    yield from found.facts.items()


def _list(title: str, sentences: Sequence[str]) -> str:
    if not sentences:
        return ""
    return f"<h2>{title}</h2><ul>{''.join(f'<li>{html.escape(each)}</li>' for each in sentences)}</ul>"


def _not_tested(found: Certificate) -> str:
    if not found.not_tested:
        return "<p>Nothing: every class was tested.</p>"
    rows = (f"<dt>{html.escape(each.name)}</dt><dd>{html.escape(each.why)}</dd>" for each in found.not_tested)
    return f"<dl>{''.join(rows)}</dl>"


def _tests(row: DrillClass) -> str:
    return f"{row.tests}." if row.spares == "nothing" else f"{row.tests}. Not tested: {row.spares}."


def _classes(found: Certificate) -> str:
    rows = []
    for name in dict.fromkeys(run.name for run in found.runs):
        runs = [run for run in found.runs if run.name == name]
        row = CLASSES[runs[0].observation.row.name]
        worst = max(run.gap.ns for run in runs) / MS
        good = sum(1 for run in runs if not found.failures_of(run) and formats.is_clear(run))
        what = "" if runs[0].observation.is_reversion else _tests(row)
        protocols = {p: max(run.worst.get(p, 0) for run in runs) / MS for p in runs[0].worst}
        each = ", ".join(f"{p} {ms:.1f}" for p, ms in protocols.items())
        rows.append(
            f"<tr><td>{html.escape(name)}</td><td>{good} of {len(runs)}</td><td>{worst:.1f}</td>"
            f'<td class="text">{each}</td>'
            f'<td class="text" style="white-space:normal">{html.escape(what)}</td></tr>'
        )
    head = (
        '<th>class</th><th>good</th><th>worst ms</th><th class="text">by protocol, ms</th><th class="text">tests</th>'
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _run(found: Certificate, run: Run, drilled: str) -> str:
    wrong = [*found.failures_of(run), *run.sum.disagreements, *run.observation.notes]
    mark = "the phases add up" if run.sum.agrees else "the phases do not add up"
    rows = "".join(
        f'<tr><td>{html.escape(f.protocol)}</td><td class="text">{html.escape(f.direction)}</td><td>{f.sent}</td>'
        f"<td>{f.lost}</td><td>{f.loss_derived_ns / MS:.1f}</td><td>{f.gap.ns / MS:.1f}</td>"
        f"<td>{f.rate_derived_ns / MS:.1f}</td>"
        f"<td>{f.duplicates}</td><td>{f.reordered}</td><td>{f.disruptions}</td><td>{f.resolution_ns / MS:.1f}</td></tr>"
        for f in run.flows
    )
    rows += "".join(
        f'<tr><td>{html.escape(s.protocol)}</td><td class="text">{html.escape(s.direction)}</td><td>-</td><td>-</td>'
        f"<td>-</td><td>{s.ns / MS:.1f}</td><td>-</td><td>-</td><td>-</td><td>-</td><td>-</td></tr>"
        for s in run.observation.silences
    )
    head = "".join(
        f"<th>{word}</th>"
        for word in (
            "flow",
            "",
            "sent",
            "lost",
            "by loss ms",
            "gap ms",
            "by rate ms",
            "dup",
            "reord",
            "holes",
            "res ms",
        )
    )
    return f"""<h2>{html.escape(run.title)}: {html.escape(run.observation.victim)}, {run.gap.ns / MS:.1f} ms</h2>
<figure>{picture(run, drilled)}<figcaption>{mark}{html.escape("; ".join(["", *wrong]))}</figcaption></figure>
<details><summary>flows</summary>
<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div></details>
"""
