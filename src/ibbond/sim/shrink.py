"""A failing seed becomes a story of a few lines that breaks the same promise.

Read first: "Simplifying and Isolating Failure-Inducing Input", Zeller and Hildebrandt 2002, whose `ddmin` removes the
faults here. Everything else is a list of simpler documents, tried one after another until none of them fails.

The document stays a scenario file throughout (docs/simulator.md), so what comes out can be kept among the scenarios.
"""

import copy
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import tomli_w

from ibbond.errors import Refused
from ibbond.sim.faults import Fault
from ibbond.sim.story import Story, parse
from ibbond.sim.world import Outcome, World

Document = dict[str, Any]
SEEDS_TRIED = 8  # the faults of a seed, once they are fixed, meet other offsets of the probes
LENGTH_STEP_MS = 500
MAX_RUNS = 600


@dataclass(frozen=True, slots=True)
class Shrunk:
    """The story, the seed that breaks it, the sentence, and how many runs it took to find it."""

    document: Document
    seed: int
    broken: str
    runs: int

    def text(self, profile: str = "default") -> str:
        """The scenario file; its first lines say what breaks."""
        option = "" if profile == "default" else f" --profile {profile}"
        head = f"# Breaks with --seed {self.seed}{option}:\n# {self.broken}\n\n"
        return head + tomli_w.dumps(self.document)


def promise(broken: str) -> str:
    """The sentence of a broken promise without the names and numbers in it: what two failures have in common."""
    return re.sub(r"[\[(']*\S*\d\S*", "#", broken)


def shrink(
    document: Document,
    name: str,
    seed: int,
    *,
    profile: str = "default",
    on_run: Callable[[int, int], None] = lambda runs, faults: None,
) -> Shrunk:
    """The smallest story found in which one seed breaks the promise that `seed` breaks in this one.

    `on_run` gets the number of runs and of faults left after each run. `Refused` if the seed breaks nothing.
    """
    outcome = World(parse(copy.deepcopy(document), name=name), seed, profile).run()
    if outcome.broken is None:
        raise Refused(
            f"seed {seed} of {name} keeps every promise",
            why="only a story that breaks one can be made smaller",
            fix="Look for a failing seed with `ibbond sim explore`",
        )
    search = _Search(document, name, seed, profile, promise(outcome.broken), outcome.broken, on_run)
    search.pin(outcome)
    search.remove_faults()
    while search.improved(simpler(search.document, name)):
        pass
    search.remove_faults()  # in the smaller story fewer of them may be enough
    return Shrunk(search.document, search.seed, search.broken, search.runs)


@dataclass(slots=True)
class _Search:
    document: Document
    name: str
    seed: int
    profile: str
    promise: str
    broken: str
    on_run: Callable[[int, int], None]
    runs: int = field(default=0)

    def breaks(self, document: Document, seeds: Iterator[int] | None = None) -> bool:
        """Whether a seed breaks the same promise; if so, this document is the one to go on with."""
        try:
            story = parse(copy.deepcopy(document), name=self.name)
        except Refused:
            return False
        for seed in seeds or (self.seed,):
            if self.runs >= MAX_RUNS:
                return False
            self.runs += 1
            broken = self._run(story, seed)
            if broken is not None and promise(broken) == self.promise:
                self.document, self.seed, self.broken = document, seed, broken
                self.on_run(self.runs, len(faults_of(document)))
                return True
            self.on_run(self.runs, len(faults_of(self.document)))
        return False

    def _run(self, story: Story, seed: int) -> str | None:
        try:
            return World(story, seed, self.profile).run().broken
        except Refused:
            return None  # options that do not go with what is left of the topology

    def pin(self, outcome: Outcome) -> None:
        """Replace drawn faults by the ones that this seed drew, if some seed then still fails."""
        story = dict(self.document.get("story", {}))
        if "random_faults" not in story:
            return
        del story["random_faults"]
        story["faults"] = [written(fault) for fault in outcome.faults]
        self.breaks(self.document | {"story": story}, iter((self.seed, *range(SEEDS_TRIED))))

    def remove_faults(self) -> None:
        """ddmin: drop ever smaller parts of the faults while the rest still fails."""
        parts = 2
        while len(faults := faults_of(self.document)) > 1 and parts <= len(faults):
            size = -(-len(faults) // parts)
            for at in range(0, len(faults), size):
                if self.breaks(with_story(self.document, faults=faults[:at] + faults[at + size :])):
                    parts = max(parts - 1, 2)
                    break
            else:
                parts *= 2

    def improved(self, candidates: Iterator[Document]) -> bool:
        return any(self.breaks(candidate) for candidate in candidates)


def written(fault: Fault) -> Document:
    """A fault as a scenario file says it."""
    table: Document = {"what": fault.kind, "at_ms": fault.at_ms}
    if fault.where:
        table["where"] = fault.where
    if fault.lasting_ms:
        table["for_ms"] = fault.lasting_ms
    if fault.kind == "lossy":
        table["loss_percent"] = round(fault.share * 100)
    return table


def faults_of(document: Document) -> list[Document]:
    found: list[Document] = document.get("story", {}).get("faults", [])
    return found


def with_story(document: Document, **changed: object) -> Document:
    return document | {"story": document.get("story", {}) | changed}


def simpler(document: Document, name: str) -> Iterator[Document]:
    """Documents that say a little less, the largest steps first."""
    yield from _shorter(document, name)
    yield from _fewer_hosts(document)
    yield from _fewer_options(document)
    yield from _fewer_members(document)
    yield from _fewer_switches(document)
    for number, fault in enumerate(faults_of(document)):
        yield from (_with_fault(document, number, other) for other in _milder(fault))


def _with_fault(document: Document, number: int, fault: Document) -> Document:
    faults = list(faults_of(document))
    faults[number] = fault
    return with_story(document, faults=faults)


def _milder(fault: Document) -> Iterator[Document]:
    """Shorter, earlier, and at round times."""
    lasting = fault.get("for_ms", 0)
    for shorter in (lasting // 2, lasting // 100 * 100, lasting // 10 * 10):
        if 0 < shorter < lasting:
            yield fault | {"for_ms": shorter}
    at = fault["at_ms"]
    for earlier in (at // 1000 * 1000, at // 100 * 100, at // 10 * 10):
        if 0 < earlier < at:
            yield fault | {"at_ms": earlier}


def _shorter(document: Document, name: str) -> Iterator[Document]:
    story = document.get("story", {})
    length = story.get("length_ms", parse(copy.deepcopy(document), name=name).length_ms)
    for shorter in (length // 2, length - LENGTH_STEP_MS):
        if shorter > 0:
            yield with_story(document, length_ms=shorter // LENGTH_STEP_MS * LENGTH_STEP_MS)
    if len(story.get("pairs", [])) > 1:
        for pair in story["pairs"]:
            yield with_story(document, pairs=[other for other in story["pairs"] if other is not pair])


def _fewer_hosts(document: Document) -> Iterator[Document]:
    hosts = document.get("hosts", {})
    for dropped in hosts if len(hosts) > 2 else ():
        pairs = [pair for pair in document.get("story", {}).get("pairs", []) if dropped not in pair]
        smaller = document | {"hosts": {host: table for host, table in hosts.items() if host != dropped}}
        if "pairs" in document.get("story", {}):
            smaller = with_story(smaller, pairs=pairs)
        yield smaller


def _with_bond(document: Document, host: str, bond: str, table: Document) -> Document:
    hosts = document["hosts"]
    bonds = hosts[host]["bonds"] | {bond: table}
    return document | {"hosts": hosts | {host: hosts[host] | {"bonds": bonds}}}


def _bonds(document: Document) -> Iterator[tuple[str, str, Document]]:
    for host, table in document.get("hosts", {}).items():
        for bond, settings in table.get("bonds", {}).items():
            yield host, bond, settings


def _fewer_options(document: Document) -> Iterator[Document]:
    for host, bond, table in _bonds(document):
        options = table.get("options", {})
        for dropped in options:
            rest = {name: value for name, value in options.items() if name != dropped}
            smaller = {key: value for key, value in table.items() if key != "options"} | (
                {"options": rest} if rest else {}
            )
            yield _with_bond(document, host, bond, smaller)
        for dropped in table.get("addresses", [])[1:]:
            yield _with_bond(
                document, host, bond, table | {"addresses": [a for a in table["addresses"] if a != dropped]}
            )


def _fewer_members(document: Document) -> Iterator[Document]:
    for host, bond, table in _bonds(document):
        for dropped in table["members"] if len(table["members"]) > 1 else ():
            smaller = _with_bond(
                document, host, bond, table | {"members": [m for m in table["members"] if m != dropped]}
            )
            settings = smaller["hosts"][host]
            ports = {name: switch for name, switch in settings.get("ports", {}).items() if name != dropped}
            yield smaller | {"hosts": smaller["hosts"] | {host: settings | {"ports": ports}}}
            yield smaller


def _fewer_switches(document: Document) -> Iterator[Document]:
    links = document.get("links", [])
    for number, link in enumerate(links):
        if link.get("count", 1) > 1:
            yield document | {"links": [*links[:number], link | {"count": 1}, *links[number + 1 :]]}
    for dropped in document.get("switches", {}):
        rest = [link for link in links if all(end.partition("/")[0] != dropped for end in link["between"])]
        switches = {name: table for name, table in document["switches"].items() if name != dropped}
        yield document | {"switches": switches, "links": rest}
