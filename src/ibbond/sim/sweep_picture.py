"""A sweep as an SVG picture: one column per value of the first axis, one color per combination of the others.

A column shows the median as a thick line, the middle 80 % as a bar and the worst seed as a dot, on a logarithmic
scale of milliseconds. Left out: everything that a table says better.
"""

import math
from collections.abc import Callable, Sequence
from html import escape

from ibbond.sim.sweep import Axis, Cell

WIDTH, HEIGHT = 860, 420
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 50, 60
COLORS = ("#2563a8", "#c2571a", "#2a7f4f", "#7a4fa3", "#a3324f", "#5f6b2d")


def render(title: str, axes: Sequence[Axis], cells: Sequence[Cell]) -> str:
    """The picture; `cells` in any order."""
    first = axes[0]
    groups = list(dict.fromkeys(cell.settings[1:] for cell in cells))
    ceiling = max([10, *(cell.outages_ms[-1] for cell in cells if cell.outages_ms)])
    decades = max(1, math.ceil(math.log10(ceiling)))

    def y(ms: float) -> float:
        share = math.log10(max(ms, 1)) / decades
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    slot = (WIDTH - LEFT - RIGHT) / len(first.values)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text x="{LEFT}" y="24" font-size="15" fill="#222">{escape(title)}</text>',
    ]
    for power in range(decades + 1):
        at = y(10**power)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end" fill="#555">{10**power} ms</text>')
    for column, value in enumerate(first.values):
        center = LEFT + slot * (column + 0.5)
        parts.append(f'<text x="{center:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{escape(value)}</text>')
        for cell in cells:
            if cell.settings[0][1] != value or not cell.outages_ms:
                continue
            index = groups.index(cell.settings[1:])
            bar = slot * 0.7 / len(groups)
            x = center - slot * 0.35 + bar * (index + 0.5)
            parts += _column(cell, x, bar, COLORS[index % len(COLORS)], y)
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 22}" text-anchor="middle">{escape(first.option)}</text>')
    for index, group in enumerate(groups):
        if not group:
            continue
        words = ", ".join(f"{option}={value}" for option, value in group)
        x = LEFT + index * 150
        parts.append(f'<rect x="{x}" y="32" width="10" height="10" fill="{COLORS[index % len(COLORS)]}"/>')
        parts.append(f'<text x="{x + 15}" y="41">{escape(words)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _column(cell: Cell, x: float, bar: float, color: str, y: Callable[[float], float]) -> list[str]:
    low, middle, high = (y(cell.quantile(share)) for share in (0.1, 0.5, 0.9))
    half = bar * 0.35
    height = max(low - high, 1)
    return [
        f'<rect x="{x - half:.1f}" y="{high:.1f}" width="{2 * half:.1f}" height="{height:.1f}" '
        f'fill="{color}" opacity="0.35"/>',
        f'<line x1="{x - half:.1f}" x2="{x + half:.1f}" y1="{middle:.1f}" y2="{middle:.1f}" '
        f'stroke="{color}" stroke-width="3"/>',
        f'<circle cx="{x:.1f}" cy="{y(cell.outages_ms[-1]):.1f}" r="3" fill="{color}"/>',
    ]
