"""Pass, fail, unclear; the printed object; JUnit and Prometheus; the page."""

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from ibbond.drill import formats
from ibbond.drill.classes import CLASSES
from ibbond.drill.flows import Flow
from ibbond.drill.phases import Phase, Sighting
from ibbond.drill.report import METRICS, render, write_report
from ibbond.drill.verdict import Certificate, NotTested, Observation, Run, Silence, Verdict, judge
from ibbond.machine import MS, SECOND
from tests.drill.test_phases import EXPECTED, PHASES, SOURCES, START

FAR = 12 * SECOND


def flow(out_ms: float, target: str = "h1", protocol: str = "udp") -> Flow:
    """Probes each ms that are lost for so long from the cause on."""
    source = "h2" if target == "h1" else "h1"
    sent = list(range(4_000 * MS, 7_000 * MS, MS))
    arrivals = [(n, at) for n, at in enumerate(sent) if not START <= at < START + out_ms * MS]
    return Flow(protocol, source, target, MS, sent, arrivals)


def observation(polled_ms: float, *, is_reversion: bool = False) -> Observation:
    at, seen = START, []
    for phase in PHASES:
        if phase is Phase.VERDICT:
            at += round(polled_ms * MS)
        seen += [Sighting(phase, source, at) for source in SOURCES[phase]]
        at += MS // 10
    return Observation(
        CLASSES["cut"],
        1,
        is_reversion,
        "ib0",
        START,
        START + 1500 * MS,
        tuple(seen),
        EXPECTED,
        Phase.CAUSE,
        silences=(Silence("tcp", "h1 > h2", 205 * MS),),
    )


def run(out_ms: float = 21, polled_ms: float = 20) -> Run:
    return judge(observation(polled_ms), [flow(out_ms), flow(out_ms, "h2"), flow(0, "h2", "icmp")], "h1")


def certificate(*runs: Run, budget_ms: int = 1000, **fields: object) -> Certificate:
    left_out = (NotTested("adapter-removed", "ib0 and ib1 are ports of one adapter"),)
    facts = {"kernel": "6.1.0", "firmware": "20.31", "options": "miimon 100"}
    return replace(Certificate("h1/bond0", "lab x", budget_ms * MS, runs, left_out, facts), **fields)  # type: ignore[arg-type]


def test_pass() -> None:
    assert certificate(run()).verdict is Verdict.PASS
    assert certificate(run()).reasons() == []


@pytest.mark.parametrize("source", dict.fromkeys(s for sources in SOURCES.values() for s in sources))
def test_a_shifted_source_is_never_a_pass(source: object) -> None:
    seen = observation(20)
    moved = tuple(s._replace(at=s.at + 20 * MS) if s.source is source else s for s in seen.sightings)
    if {s.source for s in seen.sightings} == {source}:
        return
    judged = judge(replace(seen, sightings=moved), [flow(21)], "h1")
    assert certificate(judged).verdict is Verdict.UNCLEAR


@pytest.mark.parametrize("withheld", EXPECTED)
def test_a_withheld_event_is_never_a_pass(withheld: object) -> None:
    seen = observation(20)
    rest = tuple(s for s in seen.sightings if (s.phase, s.source) != withheld)
    assert certificate(judge(replace(seen, sightings=rest), [flow(21)], "h1")).verdict is Verdict.UNCLEAR


def test_over_the_budget_is_a_failure_whatever_the_phases_say() -> None:
    assert certificate(run(), budget_ms=20).verdict is Verdict.FAIL
    assert certificate(run(out_ms=500), budget_ms=100).verdict is Verdict.FAIL


def test_probes_and_phases_that_differ_are_unclear() -> None:
    found = certificate(run(out_ms=45))
    assert found.verdict is Verdict.UNCLEAR
    assert any("the gap is 45.0 ms" in reason for reason in found.reasons())


def test_no_probes_of_the_peer_are_unclear() -> None:
    assert certificate(judge(observation(20), [flow(21, "h2")], "h1")).verdict is Verdict.UNCLEAR


def test_nothing_tested_is_unclear() -> None:
    assert certificate().verdict is Verdict.UNCLEAR


def test_a_failed_undo_is_the_first_thing_that_is_said() -> None:
    found = certificate(run(), failures=("THE UNDO OF CUT FAILED: no way. Undo it by hand: ip link set ib0 up",))
    assert found.verdict is Verdict.FAIL
    assert found.reasons()[0].startswith("THE UNDO")
    page = render(found, "h1", 1_790_000_000)
    assert page.index("THE UNDO") < page.index("<h1>")


def test_the_printed_object() -> None:
    printed = json.loads(json.dumps(certificate(run()).as_json()))
    assert set(printed) == {"verdict", "budget_ms", "runs", "not_tested"}
    assert (printed["verdict"], printed["budget_ms"]) == ("pass", 1000)
    (only,) = printed["runs"]
    assert set(only) == {"class", "round", "gap_ms", "lost", "phases", "sum_agrees"}
    assert (only["class"], only["round"], only["gap_ms"], only["lost"], only["sum_agrees"]) == ("cut", 1, 21, 42, True)
    assert [set(phase) for phase in only["phases"]] == [{"name", "t_ms"}] * len(PHASES)
    assert only["phases"][0] == {"name": "cause", "t_ms": 0}
    assert printed["not_tested"][0]["class"] == "adapter-removed"


def test_a_reversion_has_a_name_of_its_own() -> None:
    judged = judge(observation(20, is_reversion=True), [flow(21)], "h1")
    assert judged.as_json()["class"] == "cut reversion"


def test_junit() -> None:
    found = certificate(run(), run(out_ms=45), run(out_ms=1200), failures=("undo failed \x1b",))
    suite = ElementTree.fromstring(formats.junit(found).encode())
    counts = {key: suite.get(key) for key in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": "5", "failures": "2", "errors": "1", "skipped": "1"}
    assert [child.tag for case in suite for child in case] == ["error", "failure", "failure", "skipped"]


def test_prometheus_text() -> None:
    text = formats.prometheus(certificate(run(), run()), 1_790_000_000, None)
    assert 'ibbond_drill_last_success_timestamp_seconds{bond="h1/bond0"} 1790000000\n' in text
    assert 'ibbond_drill_outage_seconds{bond="h1/bond0",class="cut",protocol="udp"} 0.021000\n' in text
    assert 'protocol="tcp"} 0.205000\n' in text
    names = [line.split("{")[0] for line in text.splitlines() if not line.startswith("#")]
    assert set(names) == {"ibbond_drill_last_success_timestamp_seconds", "ibbond_drill_outage_seconds"}
    assert formats.last_success(text) == 1_790_000_000


def test_a_failed_drill_keeps_the_time_of_the_last_success() -> None:
    failed = certificate(run(), budget_ms=1)
    assert "timestamp" not in formats.prometheus(failed, 2, None)
    assert formats.last_success(formats.prometheus(failed, 1_790_000_002, 1_790_000_000)) == 1_790_000_000


class Page(HTMLParser):
    """Counts elements, and fails on one that is closed out of turn or fetched from somewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: dict[str, int] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen[tag] = self.seen.get(tag, 0) + 1
        assert not {"src", "href"} & {name for name, _ in attrs}, "nothing is fetched"
        if tag not in ("meta", "rect", "line", "circle", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("rect", "line", "circle"):
            return
        assert self.open.pop() == tag


def test_the_page_stands_alone(tmp_path: Path) -> None:
    found = certificate(run(), run(out_ms=45), bond="<b>&")
    page = write_report(found, tmp_path, "h1").read_text()
    parser = Page()
    parser.feed(page)
    assert parser.seen["svg"] == 2, "a picture for each run"
    assert parser.open == ["html", "body"] or not parser.open
    for words in ("worst outage", "What was not tested", "firmware", "20.31", "miimon 100", "1 of 2", "&lt;b&gt;&amp;"):
        assert words in page, words
    assert "<b>&" not in page
    saved = json.loads((tmp_path / "drill.json").read_text())
    assert saved["runs"][0]["flows"][0]["gap_ms"] == 21
    assert (tmp_path / METRICS).is_file()
    assert (tmp_path / "junit.xml").is_file()
