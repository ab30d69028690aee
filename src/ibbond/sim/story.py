"""A story: a topology, what programs do on it, and what goes wrong when. Read from TOML, checked before it runs.

Read first: docs/simulator.md, the same words for people. A scenario file is a topology (docs/topology.md) with a table
`[story]` beside it; a file without that table gets the default story.
"""

from dataclasses import dataclass
from ipaddress import ip_address

from ibbond.errors import Refused
from ibbond.sim.faults import DEFAULT_GROUP, KINDS, Fault, RandomFaults
from ibbond.topology.load import default, from_document
from ibbond.topology.model import Topology, listed
from ibbond.topology.reader import Reader, unknown


@dataclass(frozen=True, slots=True)
class Story:
    """What one run does; times are virtual milliseconds from the moment the subnet manager first sweeps."""

    title: str
    topology: Topology
    length_ms: int = 6000
    quiet_ms: int = 1000  # before the first fault: subnet up, bonds up, neighbors known
    settle_ms: int = 1500  # this long after the last fault all hosts must reach each other again
    probe_ms: int = 10
    pairs: tuple[tuple[str, str], ...] = ()
    group: str = DEFAULT_GROUP
    flows: bool = False  # packets go by remembered flows where there are any, and cables take no time
    faults: tuple[Fault, ...] = ()
    random_faults: RandomFaults | None = None


def parse(document: dict[str, object], *, name: str) -> Story:
    """A story from the parsed TOML document of a scenario file; `Refused` says what is wrong where."""
    document = dict(document)
    table = Reader(document.pop("story", {}), "story")
    topology = from_document(document, name=name) if document else default()
    fixed = tuple(
        read_fault(Reader(item, f"story.faults, number {number}"), topology)
        for number, item in enumerate(table.take("faults", list, []), 1)
    )
    drawn = table.take("random_faults", dict, {})
    story = Story(
        title=table.take("title", str, name),
        topology=topology,
        length_ms=table.take("length_ms", int, 6000),
        quiet_ms=table.take("quiet_ms", int, 1000),
        settle_ms=table.take("settle_ms", int, 1500),
        probe_ms=table.take("probe_ms", int, 10),
        pairs=read_pairs(table, topology),
        group=table.take("group", str, DEFAULT_GROUP),
        flows=table.take("flows", bool, False),
        faults=fixed,
        random_faults=read_random(Reader(drawn, "story.random_faults"), topology) if drawn else None,
    )
    table.done()
    check(story)
    return story


def read_fault(table: Reader, topology: Topology) -> Fault:
    kind = table.require("what", str, "a fault needs a kind")
    if kind not in KINDS:
        raise unknown(f"{table.where} is of kind {kind}", kind, KINDS)
    where = table.take("where", str, "")
    fault = Fault(
        kind,
        at_ms=table.require("at_ms", int, "a fault needs a time"),
        where=KINDS[kind].resolve(topology, where),
        lasting_ms=table.take("for_ms", int, 0),
        share=table.take("loss_percent", int, 20) / 100,
    )
    table.done()
    return fault


def read_random(table: Reader, topology: Topology) -> RandomFaults:
    kinds = table.texts("kinds") or ("cut",)
    for kind in kinds:
        if kind not in KINDS:
            raise unknown(f"{table.where}.kinds names {kind}", kind, KINDS)
    lasting = table.take("for_ms", list, [50, 800])
    window = table.take("between_ms", list, [1000, 4000])
    for name, pair in (("for_ms", lasting), ("between_ms", window)):
        if len(pair) != 2 or not all(isinstance(value, int) and value >= 0 for value in pair) or pair[0] > pair[1]:
            raise Refused(
                f"{table.where}.{name} is {pair}", why="it is the minimum and the maximum, in ms", fix="Write [50, 800]"
            )
    drawn = RandomFaults(
        count=table.take("count", int, 3),
        kinds=tuple(kinds),
        lasting_ms=(lasting[0], lasting[1]),
        between_ms=(window[0], window[1]),
        where=table.texts("where"),
    )
    table.done()
    for kind in drawn.kinds:
        for name in drawn.where:
            KINDS[kind].resolve(topology, name)
    return drawn


def read_pairs(table: Reader, topology: Topology) -> tuple[tuple[str, str], ...]:
    """Who talks to whom; when the file is silent, each host to the next one."""
    given = table.take("pairs", list, [])
    names = [host.name for host in topology.hosts]
    for pair in given:
        if not isinstance(pair, list) or len(pair) != 2:
            raise Refused("story.pairs", why=f"{pair!r} is not two hosts", fix='Write pairs = [["h1", "h2"]]')
        for name in pair:
            topology.host(str(name))
    if given:
        return tuple((str(a), str(b)) for a, b in given)
    return tuple(zip(names, names[1:] + names[:1], strict=True)) if len(names) > 2 else (tuple(names[:2]),)  # type: ignore[return-value]


def check(story: Story) -> None:
    """Times that fit each other, a group that is one, hosts that can be addressed."""
    latest = max((fault.at_ms + fault.lasting_ms for fault in story.faults), default=0)
    if story.random_faults is not None:
        latest = max(latest, story.random_faults.between_ms[1] + story.random_faults.lasting_ms[1])
    if story.length_ms < latest + story.settle_ms:
        raise Refused(
            f"the story is {story.length_ms} ms long",
            why=f"its last fault may end at {latest} ms and settle_ms is {story.settle_ms}",
            fix=f"Set length_ms to {latest + story.settle_ms + 500} or more",
        )
    if story.probe_ms < 1:
        raise Refused("story.probe_ms", why="probes are 1 ms or more apart", fix="Write probe_ms = 10")
    try:
        is_group = ip_address(story.group).is_multicast
    except ValueError:
        is_group = False
    if not is_group:
        raise Refused(f"story.group is {story.group}", why="it is not a multicast group", fix="Write 239.1.2.3")
    silent = [host for pair in story.pairs for host in pair if not any(story.topology.host(host).addresses())]
    if silent:
        raise Refused(
            f"hosts {listed(dict.fromkeys(silent))} take part in the story",
            why="they have no address",
            fix="Give a bond or a device of each an address",
        )
