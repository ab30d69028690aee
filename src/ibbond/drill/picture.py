"""One run as a picture (inline SVG): its phases along a time line, below it the gap of the peer's probes."""

from __future__ import annotations

import html
from itertools import pairwise

from ibbond.demo.timeline import FONT, LOST
from ibbond.drill.phases import Phase
from ibbond.drill.verdict import PEERS_PROBES, Run
from ibbond.machine import MS

WIDTH, LEFT, RIGHT, TOP, LANE, ROW = 940, 20, 20, 8, 26, 17
COLORS = ("#5b8def", "#7bb8f0", "#8ecfc0", "#9bd17b", "#cfd26a", "#f0c05a", "#ef9d5b", "#d98fd0", "#a49be0", "#b6c2cd")


def picture(run: Run, drilled: str) -> str:
    """The phases as a bar from the cause on, each with its time; then the gap of the probes towards the bond."""
    phases = [(phase, at) for phase, at in run.sum.phases if phase is not Phase.REDUNDANCY]
    start = run.observation.at
    peers = next(
        (f for f in run.flows if f.protocol == PEERS_PROBES and f.direction.endswith(f"> {drilled}")), run.flows[0]
    )
    gap = peers.gap
    last = max([at for _, at in phases] + [gap.end if gap.ns > MS else start])
    first = min(start, gap.start if gap.ns > MS else start)
    length = max(last - first, 2 * MS)

    def x(at: int) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (at - first) / length

    height = TOP + 2 * LANE + ROW * (len(phases) + 1) + 8
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" {FONT}>']
    parts.append(f"<title>{html.escape(run.title)}</title>")
    bar = TOP + 2
    for number, ((_, since), (_, until)) in enumerate(pairwise(phases)):
        parts.append(
            f'<rect x="{x(min(since, until)):.1f}" y="{bar}" width="{max(abs(x(until) - x(since)), 1):.1f}" '
            f'height="{LANE - 6}" fill="{COLORS[(number + 1) % len(COLORS)]}"/>'
        )
    if gap.ns >= MS / 20:  # what the text below rounds to 0.1 ms
        parts.append(
            f'<rect x="{x(gap.start):.1f}" y="{bar + LANE}" width="{max(x(gap.end) - x(gap.start), 1.5):.1f}" '
            f'height="{LANE - 10}" fill="{LOST}" fill-opacity=".55"/>'
        )
    y = TOP + 2 * LANE + 12
    gap_words = f"gap of the peer's probes: {gap.ns / MS:.1f} ms" + (
        ", and nothing arrived after that" if gap.is_open else ""
    )
    parts.append(f'<text x="{LEFT}" y="{y}" font-size="11.5" fill="{LOST}">{html.escape(gap_words)}</text>')
    before = None
    for number, (phase, at) in enumerate(phases):
        y += ROW
        took = "" if before is None else f"  (+{(at - before) / MS:.1f} ms)"
        text = f"{phase.value}: {(at - start) / MS:.1f} ms{took}"
        parts.append(f'<rect x="{LEFT}" y="{y - 9}" width="10" height="10" fill="{COLORS[number % len(COLORS)]}"/>')
        parts.append(f'<text x="{LEFT + 16}" y="{y}" font-size="11.5" fill="#34414d">{html.escape(text)}</text>')
        before = at
    parts.append("</svg>")
    return "".join(parts)
