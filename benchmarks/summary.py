"""From the values of all rounds to medians, spread, ratios, a table and a picture. Pure.

Read first: docs/benchmarks.md, which explains every figure and ratio. Left out: measuring.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from html import escape

Values = Mapping[str, Mapping[str, Sequence[float]]]  # path, figure, one value for each round (or cut)

FIGURES = {
    "tcp1_gbps": "TCP, 1 stream, Gbit/s",
    "tcp8_gbps": "TCP, 8 streams, Gbit/s",
    "pps64": "64-byte packets/s that arrive",
    "rtt_us": "UDP round trip, median, us",
    "rtt_p99_us": "UDP round trip, 99 %, us",
    "cpu_us_per_packet": "own CPU per packet at 20,000/s, us",
    "memory_mb": "resident memory, MB",
    "memory32_mb": "resident memory, lab of 32 hosts, MB",
}
BREAK_FIGURES = {
    "control_lost": "no event: lost",
    "control_gap_ms": "no event: longest gap, ms",
    "cut_lost": "cut: lost",
    "cut_outage_ms": "cut: outage, ms",
    "cut_gap_ms": "cut: longest gap, ms",
    "return_lost": "return: lost",
    "return_gap_ms": "return: longest gap, ms",
    "cut_to_decision_ms": "cut to decision, ms",
    "decision_to_packet_ms": "decision to first packet, ms",
}
LABELS = FIGURES | {
    f"{kind} {figure}": (f"{label} ({kind})" if kind != "cut" else label)
    for kind in ("cut", "link down")
    for figure, label in BREAK_FIGURES.items()
}
RATIOS = {  # name: (path, figure, path that it is divided by)
    "tcp_2044_vs_raw": ("ours", "tcp1_gbps", "veth-bridge"),
    "tcp_65520_vs_raw": ("ours-65520", "tcp1_gbps", "veth-bridge"),
    "tcp_vs_ovs_tso": ("ours", "tcp1_gbps", "ovs-tso"),
    "tcp_vs_ovs": ("ours", "tcp1_gbps", "ovs"),
    "tcp_vs_dpdk": ("ours", "tcp1_gbps", "dpdk"),
    "pps64_vs_ovs": ("ours", "pps64", "ovs"),
    "pps64_vs_raw": ("ours", "pps64", "veth-bridge"),
    "rtt_vs_ovs": ("ours", "rtt_us", "ovs"),
    "cpu_vs_ovs": ("ours", "cpu_us_per_packet", "ovs"),
    "gap_at_cut_vs_ovs": ("ours", "cut cut_gap_ms", "ovs"),  # what waits is not lost: outage alone would flatter us
}
GOALS = {  # name: (must, aim); "<" where less is better
    "tcp_2044_vs_raw": (">", 0.60, 0.75),
    "tcp_65520_vs_raw": (">", 0.75, 0.90),
    "tcp_vs_ovs_tso": (">", 0.9, 1.1),
    "tcp_vs_ovs": (">", 8.0, 12.0),
    "tcp_vs_dpdk": (">", 8.0, 10.0),
    "pps64_vs_ovs": (">", 1.1, 1.4),
    "rtt_vs_ovs": ("<", 0.4, 0.2),
    "cpu_vs_ovs": ("<", 0.5, 0.25),
    "outage_ms_median": ("<", 1.0, 0.4),
    "outage_ms_max": ("<", 10.0, 2.0),
    "bond_vs_no_bond": (">", 0.95, 0.99),
}
BOND_COST = {"tcp1_gbps": 1, "pps64": 1, "rtt_us": -1}  # figure: whether more is better


def medians(values: Values) -> dict[str, dict[str, dict[str, float]]]:
    """Median, minimum and maximum of every figure of every path."""
    return {
        path: {
            figure: {"median": statistics.median(each), "min": min(each), "max": max(each), "n": len(each)}
            for figure, each in figures.items()
        }
        for path, figures in values.items()
    }


def ratios(values: Values, pairs: Sequence[float] = ()) -> dict[str, float | None]:
    """Ratios of medians of this run, and the median of `pairs`; None where one of the two was not measured."""
    found = {name: divided(values, *words) for name, words in RATIOS.items()}
    outages = values.get("ours", {}).get("cut cut_outage_ms")
    found["outage_ms_median"] = statistics.median(outages) if outages else None
    found["outage_ms_max"] = max(outages) if outages else None
    found["bond_vs_no_bond"] = statistics.median(pairs) if pairs else None
    return found


def bond_cost(bonded: Mapping[str, float], plain: Mapping[str, float]) -> float:
    """What a bond in the path leaves, of two paths measured one after the other: a geometric mean."""
    return math.prod((bonded[name] / plain[name]) ** power for name, power in BOND_COST.items()) ** (1 / len(BOND_COST))


def round_by_round(values: Values, pairs: Sequence[float] = ()) -> dict[str, dict[str, float]]:
    """Median, minimum and maximum of the ratios of single rounds; not those of cuts, which rounds share out."""
    count = len(values.get("ours", {}).get("tcp1_gbps", ()))
    rounds = [
        {
            path: {figure: [each[number]] for figure, each in figures.items() if len(each) == count}
            for path, figures in values.items()
        }
        for number in range(count)
    ]
    each_round = [ratios(one) for one in rounds]
    known = {name: [value for one in each_round if (value := one[name]) is not None] for name in RATIOS}
    known["bond_vs_no_bond"] = list(pairs)
    return {
        name: {"median": statistics.median(each), "min": min(each), "max": max(each), "n": len(each)}
        for name, each in known.items()
        if each
    }


def divided(values: Values, path: str, figure: str, by: str) -> float | None:
    above, below = (values.get(each, {}).get(figure) for each in (path, by))
    if not above or not below or not statistics.median(below):
        return None
    return statistics.median(above) / statistics.median(below)


def verdict(name: str, value: float | None) -> str:
    """How a ratio stands to its goal, in a word."""
    if value is None or name not in GOALS:
        return ""
    better, must, aim = GOALS[name]
    sign = 1 if better == ">" else -1
    if sign * (value - aim) >= 0:
        return "aim"
    return "must" if sign * (value - must) >= 0 else "MISSED"


def table(result: Mapping[str, object]) -> str:
    """Markdown: paths by figures with spread, then the ratios with their goals, then what is missing."""
    variants: dict[str, dict[str, dict[str, float]]] = result["variants"]  # type: ignore[assignment]
    names = list(variants)
    lines = ["| figure | " + " | ".join(names) + " |", "| --- |" + " ---: |" * len(names)]
    for figure, label in LABELS.items():
        cells = [spread(variants[name].get(figure)) for name in names]
        if any(cells):
            lines.append(f"| {label} | " + " | ".join(cells) + " |")
    lines += ["", "| ratio | value | round by round | must | aim | |", "| --- | ---: | ---: | ---: | ---: | --- |"]
    single: dict[str, dict[str, float]] = result["ratios_by_round"]  # type: ignore[assignment]
    found: dict[str, float | None] = result["ratios"]  # type: ignore[assignment]
    for name, value in found.items():
        better, must, aim = GOALS.get(name, ("", "", ""))
        goal = [f"{better} {limit}" if limit != "" else "" for limit in (must, aim)]
        shown = "-" if value is None else f"{value:.3g}"
        lines.append(
            f"| {name} | {shown} | {spread(single.get(name))} | {goal[0]} | {goal[1]} | {verdict(name, value)} |"
        )
    missing: dict[str, str] = result["missing"]  # type: ignore[assignment]
    lines += ["", *(f"Missing: {path}: {reason}" for path, reason in missing.items())]
    return "\n".join(lines).rstrip() + "\n"


def spread(figure: Mapping[str, float] | None) -> str:
    if figure is None:
        return ""
    words = [short(figure[key]) for key in ("median", "min", "max")]
    return words[0] if words[1] == words[2] else f"{words[0]} [{words[1]}..{words[2]}]"


def short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


WIDTH, ROW, LEFT, PANEL = 860, 18, 120, 300
PANELS = ("tcp1_gbps", "pps64", "rtt_us", "cut cut_outage_ms")
COLORS = {"ours": "#2563a8", "ours-no-bond": "#7aa5d6", "ours-65520": "#7aa5d6"}


def picture(result: Mapping[str, object]) -> str:
    """An SVG: four panels of bars, the spread as a thin line; outages on a logarithmic scale."""
    variants: dict[str, dict[str, dict[str, float]]] = result["variants"]  # type: ignore[assignment]
    height = 70 + 2 * (len(variants) * ROW + 50)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        'font-size="11">',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="16" y="24" font-size="15" fill="#222">Median of {result["rounds"]} interleaved rounds, '
        f"{escape(str(result['date']))[:10]}; the thin line is the spread</text>",
    ]
    for number, figure in enumerate(PANELS):
        left = LEFT + (number % 2) * (PANEL + LEFT)
        top = 60 + (number // 2) * (len(variants) * ROW + 50)
        parts += panel(variants, figure, left, top)
    return "\n".join([*parts, "</svg>", ""])


def panel(variants: Mapping[str, Mapping[str, Mapping[str, float]]], figure: str, left: int, top: int) -> list[str]:
    known = {name: figures[figure] for name, figures in variants.items() if figure in figures}
    parts = [f'<text x="{left}" y="{top - 8}" font-weight="bold" fill="#222">{escape(LABELS[figure])}</text>']
    if not known:
        return parts
    logarithmic = "outage" in figure
    maximum = max(each["max"] for each in known.values()) or 1

    def x(value: float) -> float:
        share = math.log10(1 + value * 10) / math.log10(1 + maximum * 10) if logarithmic else value / maximum
        return share * (PANEL - 60)

    for row, (name, each) in enumerate(known.items()):
        y = top + row * ROW
        color = COLORS.get(name, "#9aa3ad")
        parts += [
            f'<text x="{left - 6}" y="{y + 12}" text-anchor="end" fill="#222">{escape(name)}</text>',
            f'<rect x="{left}" y="{y + 2}" width="{max(x(each["median"]), 1):.1f}" height="{ROW - 5}" fill="{color}"/>',
            f'<line x1="{left + x(each["min"]):.1f}" x2="{left + x(each["max"]):.1f}" y1="{y + 8.5}" y2="{y + 8.5}" '
            'stroke="#222"/>',
            f'<text x="{left + x(each["max"]) + 5:.1f}" y="{y + 12}" fill="#555">{short(each["median"])}</text>',
        ]
    return parts
