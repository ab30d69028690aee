"""Where packets should go: shortest routes for unicast, one tree for each multicast group. Pure functions.

Read first: OpenSM's min-hop engine (`osm_ucast_mgr.c`) for the idea. Routes depend on the graph alone, never on what
was before, so that a subnet that is whole again routes as it did. Left out: deadlock-free orders, weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

Graph = Mapping[int, tuple[tuple[int, int, int], ...]]  # switch -> (own port, neighbor switch, its port)...
FAR = 1 << 30


def distances(graph: Graph, root: int) -> dict[int, int]:
    """Hops from every switch that can reach `root`."""
    found = {root: 0}
    queue = [root]
    for here in queue:
        for _, there, _ in graph[here]:
            if there not in found:
                found[there] = found[here] + 1
                queue.append(there)
    return found


def linear_tables(graph: Graph, homes: Mapping[int, tuple[int, int]]) -> dict[int, dict[int, int]]:
    """For every switch, LID -> port. `homes` says at which (switch, port) each LID lives; port 0 is the switch.

    The LIDs of one switch share the equally short ways to it by the ports at which they live, so that a host that
    joins or leaves does not move the others.
    """
    living: dict[int, list[tuple[int, int]]] = {}  # home switch -> (LID, port)...
    for lid, (home, port) in homes.items():
        living.setdefault(home, []).append((lid, port))
    tables: dict[int, dict[int, int]] = {switch: {} for switch in graph}
    for home, lids in living.items():
        hops = distances(graph, home)
        for switch, links in graph.items():
            if switch == home:
                tables[switch].update(lids)
                continue
            nearer = hops.get(switch, FAR) - 1
            ways = [own for own, peer, _ in links if hops.get(peer, FAR) == nearer]
            if ways:
                tables[switch].update([(lid, ways[port % len(ways)]) for lid, port in lids])
    return tables


@dataclass(frozen=True, slots=True)
class Tree:
    """A spanning tree: each switch but the root -> (parent, own port towards it, the parent's port)."""

    root: int
    up: Mapping[int, tuple[int, int, int]] = field(default_factory=dict)

    def holds(self, graph: Graph, switches: Iterable[int]) -> bool:
        """All edges still exist and all these switches are on it."""
        return all(
            parent in graph and (own, parent, theirs) in graph.get(switch, ())
            for switch, (parent, own, theirs) in self.up.items()
        ) and all(switch == self.root or switch in self.up for switch in switches)


def spanning_tree(graph: Graph, root: int) -> Tree:
    up: dict[int, tuple[int, int, int]] = {}
    queue = [root]
    for here in queue:
        for port, there, theirs in graph[here]:
            if there != root and there not in up:
                up[there] = (here, theirs, port)
                queue.append(there)
    return Tree(root, up)


def choose_root(graph: Graph, switches: Iterable[int], turn: int) -> int | None:
    """The switch from which the members are nearest in all; `turn` spreads groups over equally good ones."""
    wanted = list(dict.fromkeys(switches))
    totals: dict[int, int] = {}
    for switch in wanted:
        for other, hops in distances(graph, switch).items():
            totals[other] = totals.get(other, 0) + hops - FAR  # reaching one member more beats any distance
    if not totals:
        return None
    best = min(totals.values())
    roots = sorted(switch for switch, total in totals.items() if total == best)
    return roots[turn % len(roots)]


def multicast_masks(tree: Tree, receivers: Iterable[tuple[int, int]], senders: Iterable[int]) -> dict[int, int]:
    """Port masks of the switches on the part of the tree that joins receivers (switch, port) and senders' switches."""
    masks: dict[int, int] = {}
    ends: dict[int, bool] = {}  # switches that must be joined, in order
    for switch, port in receivers:
        masks[switch] = masks.get(switch, 0) | 1 << port
        ends[switch] = True
    ends.update(dict.fromkeys(senders, True))
    ends = {switch: True for switch in ends if switch == tree.root or switch in tree.up}
    below: dict[int, int] = {}  # how many of the ends hang at or under a switch
    for switch in ends:
        here = switch
        below[here] = below.get(here, 0) + 1
        while here in tree.up:
            here = tree.up[here][0]
            below[here] = below.get(here, 0) + 1
    for switch, count in below.items():
        if switch in tree.up and count < len(ends):  # an edge that separates ends from other ends
            parent, own, theirs = tree.up[switch]
            masks[switch] = masks.get(switch, 0) | 1 << own
            masks[parent] = masks.get(parent, 0) | 1 << theirs
    return masks
