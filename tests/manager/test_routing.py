"""Routes and trees on graphs of every shape: shortest, balanced, without rings, the same every time."""

from hypothesis import given, settings
from hypothesis import strategies as st

from ibbond.manager.attachments import Attachments
from ibbond.manager.directory import EndPort
from ibbond.manager.routing import (
    choose_root,
    distances,
    linear_tables,
    multicast_masks,
    spanning_tree,
)

Edges = dict[int, list[tuple[int, int, int]]]


@st.composite
def graphs(draw: st.DrawFn) -> dict[int, tuple[tuple[int, int, int], ...]]:
    """Up to eight switches with any cables between them, parallel ones too, connected or not."""
    count = draw(st.integers(1, 8))
    wires = draw(st.lists(st.tuples(st.integers(1, count), st.integers(1, count)), max_size=16))
    edges: Edges = {switch: [] for switch in range(1, count + 1)}
    for a, b in wires:
        if a != b:
            port_a, port_b = len(edges[a]) + 1, len(edges[b]) + 1
            edges[a].append((port_a, b, port_b))
            edges[b].append((port_b, a, port_a))
    return {switch: tuple(found) for switch, found in edges.items()}


HOST_PORT = 100


def homes(graph: dict[int, tuple[tuple[int, int, int], ...]]) -> dict[int, tuple[int, int]]:
    """LID n is switch n itself, LID 100 + n a host at port 100 of it."""
    own = {switch: (switch, 0) for switch in graph}
    return own | {100 + switch: (switch, HOST_PORT) for switch in graph}


def neighbor(graph: dict[int, tuple[tuple[int, int, int], ...]], switch: int, port: int) -> tuple[int, int]:
    return next((there, theirs) for own, there, theirs in graph[switch] if own == port)


@settings(max_examples=200, deadline=None)
@given(graphs())
def test_routes_are_shortest_and_end(graph: dict[int, tuple[tuple[int, int, int], ...]]) -> None:
    tables = linear_tables(graph, homes(graph))
    for lid, (home, port) in homes(graph).items():
        hops = distances(graph, home)
        for start in graph:
            if start not in hops:
                assert lid not in tables[start]
                continue
            here, taken = start, 0
            while here != home:
                here, _ = neighbor(graph, here, tables[here][lid])
                taken += 1
            assert taken == hops[start]
            assert tables[home][lid] == port


@settings(max_examples=200, deadline=None)
@given(graphs(), st.data())
def test_a_group_packet_reaches_every_member_once(
    graph: dict[int, tuple[tuple[int, int, int], ...]], data: st.DataObject
) -> None:
    """Whichever member sends; over a tree, so that nothing comes twice or goes round."""
    members = data.draw(st.lists(st.sampled_from(sorted(graph)), min_size=1, unique=True))
    root = choose_root(graph, members, data.draw(st.integers(0, 5)))
    assert root is not None
    tree = spanning_tree(graph, root)
    masks = multicast_masks(tree, [(switch, HOST_PORT) for switch in members], members)
    together = [switch for switch in members if switch == root or switch in tree.up]
    for sender in together:
        received: list[int] = []
        flight = [(sender, HOST_PORT)]
        for switch, ingress in flight:
            assert len(flight) <= 4 * len(graph), "a packet goes round"
            for port in range(HOST_PORT + 1):
                if masks.get(switch, 0) >> port & 1 and port != ingress:
                    if port == HOST_PORT:
                        received.append(switch)
                    else:
                        flight.append(neighbor(graph, switch, port))
        assert sorted(received) == sorted(other for other in together if other != sender)


@settings(max_examples=100, deadline=None)
@given(graphs())
def test_no_switch_is_in_a_tree_for_nothing(graph: dict[int, tuple[tuple[int, int, int], ...]]) -> None:
    """A switch without members forwards only where at least two parts of the tree need it."""
    members = sorted(graph)[:2]
    root = choose_root(graph, members, 0)
    assert root is not None
    masks = multicast_masks(spanning_tree(graph, root), [(switch, HOST_PORT) for switch in members], members)
    for switch, mask in masks.items():
        assert switch in members or mask.bit_count() >= 2


def line(count: int, parallel: int = 1) -> dict[int, tuple[tuple[int, int, int], ...]]:
    edges: Edges = {switch: [] for switch in range(1, count + 1)}
    for switch in range(1, count):
        for _ in range(parallel):
            a, b = len(edges[switch]) + 1, len(edges[switch + 1]) + 1
            edges[switch].append((a, switch + 1, b))
            edges[switch + 1].append((b, switch, a))
    return {switch: tuple(found) for switch, found in edges.items()}


def test_parallel_cables_share_the_lids() -> None:
    graph = line(2, parallel=2)
    places = {lid: (2, 10 + lid) for lid in range(1, 11)}
    table = linear_tables(graph, places)[1]
    assert sorted(table.values()).count(1) == sorted(table.values()).count(2) == 5


def test_routes_do_not_depend_on_the_past() -> None:
    graph = line(4, parallel=3)
    assert linear_tables(graph, homes(graph)) == linear_tables(dict(reversed(graph.items())), homes(graph))


def test_the_root_is_in_the_middle() -> None:
    assert choose_root(line(5), [1, 5], 0) in (1, 2, 3, 4, 5)
    assert choose_root(line(5), [1, 3, 5], 0) == 3
    assert choose_root(line(3), [], 0) is None
    assert {choose_root(line(2), [1, 2], turn) for turn in range(2)} == {1, 2}


def test_a_tree_holds_as_long_as_its_cables() -> None:
    graph = line(3, parallel=2)
    tree = spanning_tree(graph, 2)
    assert tree.holds(graph, [1, 2, 3])
    assert not tree.holds(graph, [1, 4])
    used = tree.up[1]
    without = {switch: tuple(edge for edge in found if edge[:2] != (used[1], 2)) for switch, found in graph.items()}
    assert not tree.holds(without, [1])
    del without[2]
    assert not tree.holds(without, [1])


def test_a_host_that_goes_moves_no_one_else() -> None:
    graph = line(3, parallel=3)
    places = {lid: (3, 10 + lid) for lid in range(1, 20)}
    before = linear_tables(graph, places)
    after = linear_tables(graph, {lid: home for lid, home in places.items() if lid != 5})
    for switch, table in before.items():
        assert after[switch] == {lid: port for lid, port in table.items() if lid != 5}


PORTS = {guid: EndPort(guid, b"", guid, (guid, 1), (), 5, (1 + guid % 3, guid)) for guid in range(1, 9)}


@given(st.lists(st.dictionaries(st.integers(1, 10), st.sampled_from([1, 2, 4, 5]), max_size=8), min_size=1))
def test_attachments_are_kept_as_if_counted_again(histories: list[dict[int, int]]) -> None:
    """Members come, go and change how they joined; unknown ones (9, 10) and ones at dead switches (3) do not count."""
    switches = {1: (), 2: ()}
    kept, fresh = Attachments(), Attachments()
    for members in histories:
        kept.update(members, PORTS, switches)
    fresh.update(histories[-1], PORTS, switches)
    assert kept.counts == fresh.counts
    assert {switch: mask for switch, mask in kept.masks.items() if mask} == fresh.masks
    expected: dict[int, int] = {}
    for guid, state in histories[-1].items():
        home = PORTS[guid].home if guid in PORTS else None
        if home is not None and home[0] != 3 and state & (1 | 2):  # full members and non-members receive
            expected[home[0]] = expected.get(home[0], 0) | 1 << home[1]
    assert fresh.masks == expected
