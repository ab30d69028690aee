"""A lab as a picture: its status as SVG, Mermaid or dot. Hosts below, switches above them by their distance to hosts.

A cable that is cut is red and dashed, one that is not active otherwise is orange; the active member of a bond is thick.
Pure: status in, text out. Left out: counters, changes while one looks (`ibbond lab top`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

COLORS = {"up": "#2e7d32", "cut": "#d32f2f"}
OTHER_COLOR = "#ef6c00"
WIDTH, HEIGHT, GAP_X, GAP_Y, MARGIN = 110, 36, 24, 90, 20


class Link(NamedTuple):
    """One cable: its nodes, the names of its ends, its state, and whether a bond sends by it."""

    a: str
    b: str
    ends: tuple[str, str]
    state: str
    active: bool

    @property
    def color(self) -> str:
        return COLORS.get(self.state, OTHER_COLOR)


def links_of(status: Mapping[str, Any]) -> list[Link]:
    active = {f"{host}/{bond['active']}" for host, facts in status["hosts"].items() for bond in facts["bonds"].values()}
    links = []
    for cable in status["cables"]:
        one, two = cable["ends"]
        node, other = (end.partition("/")[0] for end in (one, two))
        links.append(Link(node, other, (one, two), cable["state"], not active.isdisjoint((one, two))))
    return links


def dot(status: Mapping[str, Any]) -> str:
    """For Graphviz."""
    hosts = status["hosts"]
    lines = ["graph lab {", "  node [shape=box]"]
    links = links_of(status)
    for node in nodes_of(hosts, links):
        lines.append(f'  "{node}" [style=rounded]' if node in hosts else f'  "{node}"')
    for link in links:
        style = "dashed" if link.state == "cut" else "bold" if link.active else "solid"
        label = f'taillabel="{link.ends[0].partition("/")[2]}" headlabel="{link.ends[1].partition("/")[2]}"'
        lines.append(f'  "{link.a}" -- "{link.b}" [color="{link.color}" style={style} {label}]')
    return "\n".join([*lines, "}"]) + "\n"


def mermaid(status: Mapping[str, Any]) -> str:
    """For Markdown on GitHub and GitLab."""
    hosts = status["hosts"]
    links = links_of(status)
    nodes = nodes_of(hosts, links)
    ids = {node: f"n{number}" for number, node in enumerate(nodes)}
    lines = ["graph BT"]
    lines += [f"  {ids[node]}({node})" if node in hosts else f"  {ids[node]}[{node}]" for node in nodes]
    for link in links:
        arrow = "-.-" if link.state == "cut" else "===" if link.active else "---"
        lines.append(f"  {ids[link.a]} {arrow}|{link.ends[0].partition('/')[2]}| {ids[link.b]}")
    lines += [f"  linkStyle {number} stroke:{link.color}" for number, link in enumerate(links)]
    return "\n".join(lines) + "\n"


def svg(status: Mapping[str, Any]) -> str:
    """A drawing without other programs."""
    hosts = status["hosts"]
    links = links_of(status)
    rows = layers(hosts, links)
    columns = max(len(row) for row in rows)
    width = 2 * MARGIN + columns * (WIDTH + GAP_X) - GAP_X
    height = 2 * MARGIN + len(rows) * HEIGHT + (len(rows) - 1) * GAP_Y
    places = {
        node: (
            width / 2 + (index - (len(row) - 1) / 2) * (WIDTH + GAP_X),
            height - MARGIN - HEIGHT / 2 - level * (HEIGHT + GAP_Y),
        )
        for level, row in enumerate(rows)
        for index, node in enumerate(row)
    }
    body = [*draw_links(links, places), *(draw_node(node, places[node], hosts.get(node)) for node in places)]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif">'
    return "\n".join([head, f"<title>lab {escape(status['name'])}</title>", *body, "</svg>"]) + "\n"


def draw_links(links: Sequence[Link], places: Mapping[str, tuple[float, float]]) -> list[str]:
    """Several cables between the same nodes lie side by side."""
    drawn: dict[tuple[str, str], int] = {}
    lines = []
    for link in links:
        pair = (min(link.a, link.b), max(link.a, link.b))
        beside = drawn[pair] = drawn.get(pair, -1) + 1
        (x1, y1), (x2, y2) = places[link.a], places[link.b]
        shift = 14 * ((beside + 1) // 2) * (1 if beside % 2 else -1)
        dx, dy = (0, shift) if y1 == y2 else (shift, 0)
        dashes = ' stroke-dasharray="6 4"' if link.state == "cut" else ""
        lines.append(
            f'<line x1="{x1 + dx:g}" y1="{y1 + dy:g}" x2="{x2 + dx:g}" y2="{y2 + dy:g}" stroke="{link.color}" '
            f'stroke-width="{4 if link.active and link.state == "up" else 2}"{dashes}>'
            f"<title>{escape(' - '.join(link.ends))}: {escape(link.state)}</title></line>"
        )
    return lines


def draw_node(node: str, place: tuple[float, float], host: Mapping[str, Any] | None) -> str:
    x, y = place
    bonds = host["bonds"].items() if host is not None else ()
    below = escape(", ".join(f"{name}: {bond['active'] or 'no member'}" for name, bond in bonds))
    fill, corner = ("#e3f2fd", 10) if host is not None else ("#eceff1", 2)
    box = f'x="{x - WIDTH / 2:g}" y="{y - HEIGHT / 2:g}" width="{WIDTH}" height="{HEIGHT}" rx="{corner}"'
    texts = [(escape(node), 14, y if below else y + 5), *([(below, 10, y + 13)] if below else [])]
    return f'<rect {box} fill="{fill}" stroke="#546e7a"/>' + "".join(
        f'<text x="{x:g}" y="{at:g}" font-size="{size}" text-anchor="middle">{text}</text>' for text, size, at in texts
    )


def nodes_of(hosts: Mapping[str, Any], links: Sequence[Link]) -> list[str]:
    return list(dict.fromkeys([*hosts, *(end for link in links for end in (link.a, link.b))]))


def layers(hosts: Mapping[str, Any], links: Sequence[Link]) -> list[list[str]]:
    """Hosts, then switches by the number of cables to the nearest host."""
    level = dict.fromkeys(hosts, 0)
    nodes = nodes_of(hosts, links)
    while len(level) < len(nodes):
        found = {
            end: level[other] + 1
            for link in links
            for end, other in ((link.a, link.b), (link.b, link.a))
            if end not in level and other in level
        }
        level |= found or {node: 1 for node in nodes if node not in level}
    return [[node for node in nodes if level[node] == row] for row in range(max(level.values()) + 1)]


FORMATS = {"svg": svg, "mermaid": mermaid, "dot": dot}
