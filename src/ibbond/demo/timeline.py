"""The pictures of a report, as SVG text: the whole run, and one move in detail.

Colors keep their meaning everywhere: one per protocol, one per member, red only for what was lost.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator

from ibbond.demo.measure import ByteStream, DemoEvent, ProbeStream, Recording
from ibbond.machine import MS, SECOND

COLORS = {"icmp": "#7a5195", "udp": "#1f77b4", "tcp": "#1b8a5a", "multicast": "#b8690f", "rdma": "#a83262"}
MEMBER_COLORS = ("#8fb8de", "#f0c987", "#b5d99c", "#d9a5c7", "#a9d6d6", "#d8c3a5")
LOST = "#d5281b"
INK, FAINT, GRID = "#52606d", "#9aa5b1", "#e4e9ee"
SHOWN_SILENCE_NS = 20 * MS

X = Callable[[int], float]  # from a time to a horizontal place

WIDTH, LEFT, RIGHT = 980, 104, 14
LANE = 34
FONT = 'font-family="system-ui, sans-serif" font-size="12.5"'


def overview(recording: Recording) -> str:
    """Bonds and protocols against time, with a mark for every event."""
    bonds = list(dict.fromkeys(h.where for h in recording.happenings if " -> " in h.detail))
    top = 34
    lanes = [*bonds, *recording.protocols]
    bottom = top + LANE * len(lanes)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + 30}" role="img" {FONT}>']
    parts.append(
        f'<title>Time line of the run</title><rect width="{WIDTH}" height="{bottom + 30}" fill="#fff" class="paper"/>'
    )
    span = max(1, recording.ended_at - recording.started_at)

    def x(at: int) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (at - recording.started_at) / span

    parts += _time_axis(span, x, recording.started_at, top, bottom)
    parts += _marks(recording, x, top, bottom)
    for row, bond in enumerate(bonds):
        parts += _bond_lane(recording, bond, x, top + LANE * row)
    for row, protocol in enumerate(recording.protocols, len(bonds)):
        parts += _protocol_lane(recording, protocol, x, top + LANE * row)
    parts.append("</svg>")
    return "".join(parts)


def _time_axis(span: int, x: X, start: int, top: int, bottom: int) -> Iterator[str]:
    step = next(s for s in (1, 2, 5, 10, 20, 60, 120, 300, 600, 3600) if span / (s * SECOND) <= 16 or s == 3600)
    for second in range(0, int(span / SECOND) + 1, step):
        at = x(start + second * SECOND)
        yield f'<line x1="{at:.1f}" y1="{top}" x2="{at:.1f}" y2="{bottom}" stroke="{GRID}"/>'
        yield f'<text x="{at:.1f}" y="{bottom + 18}" text-anchor="middle" fill="{FAINT}">{second} s</text>'


def _marks(recording: Recording, x: X, top: int, bottom: int) -> Iterator[str]:
    """Cuts and returns of cables; names only while they do not run into each other."""
    free_from = 0.0
    for happening in recording.happenings:
        if happening.what not in ("cut", "mend"):
            continue
        at = x(happening.at_ns)
        cut = happening.what == "cut"
        yield (
            f'<line x1="{at:.1f}" y1="{top - 6}" x2="{at:.1f}" y2="{bottom}" stroke="{LOST if cut else INK}" '
            f'stroke-opacity=".55" stroke-dasharray="{"none" if cut else "2 3"}"/>'
        )
        if at >= free_from:
            words = html.escape(f"{happening.what} {happening.where}")
            yield f'<text x="{at + 3:.1f}" y="{top - 12}" fill="{LOST if cut else INK}" font-size="11">{words}</text>'
            free_from = at + 6.4 * len(words) + 8


def _bond_lane(recording: Recording, bond: str, x: X, y: int) -> Iterator[str]:
    yield f'<text x="{LEFT - 10}" y="{y + 21}" text-anchor="end" fill="{INK}">{html.escape(bond)}</text>'
    spans = list(active_spans(recording, bond))
    members = sorted({member for _, _, member in spans})
    for start, end, member in spans:
        left, right = x(start), x(end)
        color = MEMBER_COLORS[members.index(member) % len(MEMBER_COLORS)]
        yield (
            f'<rect x="{left:.1f}" y="{y + 7}" width="{max(right - left, 1):.1f}" height="{LANE - 14}" rx="4" '
            f'fill="{color}"/>'
        )
        if right - left > 26:
            yield (
                f'<text x="{(left + right) / 2:.1f}" y="{y + 21}" text-anchor="middle" fill="#34414d" '
                f'font-size="11.5">{html.escape(member)}</text>'
            )


def active_spans(recording: Recording, bond: str) -> Iterator[tuple[int, int, str]]:
    """(start, end, member) of a bond's active members, from the details (`ib0 -> ib1`) of its events."""
    since, member = recording.started_at, ""
    for happening in recording.happenings:
        old, arrow, new = happening.detail.partition(" -> ")
        if happening.where == bond and arrow:
            yield since, happening.at_ns, member or old
            since, member = happening.at_ns, new.split(" ")[0]
    yield since, recording.ended_at, member


def _protocol_lane(recording: Recording, protocol: str, x: X, y: int) -> Iterator[str]:
    color = COLORS[protocol]
    middle = y + LANE / 2
    yield f'<text x="{LEFT - 10}" y="{y + 21}" text-anchor="end" fill="{color}" font-weight="600">{protocol}</text>'
    yield (
        f'<line x1="{LEFT}" y1="{middle}" x2="{WIDTH - RIGHT}" y2="{middle}" stroke="{color}" stroke-width="7" '
        f'stroke-opacity=".35" stroke-linecap="round"/>'
    )
    strokes: dict[int, None] = {}
    for stream in recording.streams:
        if stream.protocol != protocol:
            continue
        if isinstance(stream, ProbeStream):
            lost = stream.lost_between(recording.started_at, recording.ended_at)
            strokes.update(dict.fromkeys(round(x(at) * 2) for at in lost))
        else:
            for since, until in stream.silences:
                if until - since >= SHOWN_SILENCE_NS:
                    left, right = x(since), x(until)
                    yield (
                        f'<rect x="{left:.1f}" y="{y + 6}" width="{max(right - left, 1.5):.1f}" height="{LANE - 12}" '
                        f'rx="1.5" fill="{LOST}"/>'
                    )
    for half in strokes:
        yield f'<rect x="{half / 2:.1f}" y="{y + 6}" width="1.5" height="{LANE - 12}" fill="{LOST}"/>'


def lens(recording: Recording, move: DemoEvent, end: int) -> str:
    """Some milliseconds around one move: a dot per probe, filled where it arrived, red where it was lost."""
    width, left, lane = 560, 128, 26
    before, after = 8 * MS, _shown_after(recording, move, end)
    streams = sorted(recording.streams, key=lambda stream: recording.protocols.index(stream.protocol))
    bottom = 20 + lane * len(streams)
    start, stop = move.at_ns - before, move.at_ns + after

    def x(at: int) -> float:
        return left + (width - left - 12) * (at - start) / (stop - start)

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {bottom + 26}" role="img" {FONT}>']
    parts.append(f"<title>{html.escape(move.what)} of {html.escape(move.where)}</title>")
    parts.append(
        f'<line x1="{x(move.at_ns):.1f}" y1="12" x2="{x(move.at_ns):.1f}" y2="{bottom}" stroke="{LOST}" '
        f'stroke-opacity=".6"/>'
    )
    step = next(s for s in (5, 10, 20, 50, 100, 200, 500, 1000, 5000) if after / (s * MS) <= 6 or s == 5000)
    for ms in range(0, after // MS + 1, step):
        parts.append(
            f'<text x="{x(move.at_ns + ms * MS):.1f}" y="{bottom + 17}" text-anchor="middle" fill="{FAINT}" '
            f'font-size="12.5">{ms} ms</text>'
        )
    for row, stream in enumerate(streams):
        y = 20 + lane * row + lane / 2
        name = stream.protocol if stream.direction == "" else f"{stream.protocol} {stream.direction}"
        parts.append(
            f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end" fill="{COLORS[stream.protocol]}" '
            f'font-size="13">{html.escape(name)}</text>'
        )
        parts += (
            _dots(stream, x, start, stop, y) if isinstance(stream, ProbeStream) else _bar(stream, x, start, stop, y)
        )
    parts.append("</svg>")
    return "".join(parts)


def _shown_after(recording: Recording, move: DemoEvent, end: int) -> int:
    """Nanoseconds after the move that the picture shows: enough for the longest outage, 32 ms at least, 2 s at most."""
    longest = max((stream.outage_ns(move.at_ns - 8 * MS, end) for stream in recording.streams), default=0)
    return int(min(max(32 * MS, longest * 1.3), 2 * SECOND))


def _dots(stream: ProbeStream, x: X, start: int, stop: int, y: float) -> Iterator[str]:
    color = COLORS[stream.protocol]
    radius = 2.6 if stream.spacing_ns < 5 * MS else 3.6
    shown = [(sent, bool(at)) for sent, at in zip(stream.sent, stream.arrived, strict=True) if start <= sent < stop]
    if len(shown) > 400:  # dots would be one blot
        yield f'<line x1="{x(start):.1f}" y1="{y}" x2="{x(stop):.1f}" y2="{y}" stroke="{color}" stroke-width="4"/>'
        shown = [(sent, arrived) for sent, arrived in shown if not arrived]
    for sent, arrived in shown:
        yield f'<circle cx="{x(sent):.1f}" cy="{y:.1f}" r="{radius}" fill="{color if arrived else LOST}"/>'


def _bar(stream: ByteStream, x: X, start: int, stop: int, y: float) -> Iterator[str]:
    color = COLORS[stream.protocol]
    yield (
        f'<line x1="{x(start):.1f}" y1="{y}" x2="{x(stop):.1f}" y2="{y}" stroke="{color}" stroke-width="5" '
        f'stroke-opacity=".8"/>'
    )
    for since, until in stream.silences:
        if until > start and since < stop:
            a, b = max(since, start), min(until, stop)
            yield f'<line x1="{x(a):.1f}" y1="{y}" x2="{x(b):.1f}" y2="{y}" stroke="{LOST}" stroke-width="5"/>'
