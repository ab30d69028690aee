"""A failing story becomes a small one that breaks the same promise."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ibbond.bonding import announcements
from ibbond.cli.sim import sim
from ibbond.errors import Refused
from ibbond.sim.shrink import faults_of, promise, shrink
from ibbond.sim.story import parse
from ibbond.sim.world import World
from ibbond.topology.reader import read_document

STORY: dict[str, Any] = {
    "switches": {"s1": {}, "s2": {}},
    "links": [{"between": ["s1", "s2"], "count": 2}],
    "hosts": {
        "h1": {
            "ports": {"ib0": "s1", "ib1": "s2"},
            "bonds": {
                "bond0": {
                    "members": ["ib0", "ib1"],
                    "addresses": ["10.0.0.1/24", "fd00::1/64"],
                    "options": {"miimon": 50, "updelay": 50, "num_grat_arp": 2},
                }
            },
        },
        "h2": {
            "ports": {"ib0": "s1", "ib1": "s2"},
            "bonds": {"bond0": {"members": ["ib0", "ib1"], "addresses": ["10.0.0.2/24", "fd00::2/64"]}},
        },
        "h3": {"ports": {"ib0": "s1"}, "devices": {"ib0": {"addresses": ["10.0.0.3/24"]}}},
    },
    "story": {
        "length_ms": 5000,
        "settle_ms": 1500,
        "probe_ms": 200,
        "pairs": [["h1", "h2"]],
        "random_faults": {
            "count": 4,
            "kinds": ["cut", "reregister", "group_left"],
            "between_ms": [1000, 2500],
            "for_ms": [20, 800],
        },
    },
}


def broken(document: dict[str, Any], seed: int) -> str | None:
    return World(parse(copy.deepcopy(document), name="story"), seed).run().broken


@pytest.fixture
def seed(monkeypatch: pytest.MonkeyPatch) -> int:
    """One that fails where bonds do not announce their addresses after a failover."""
    monkeypatch.setattr(announcements, "start", lambda state: None)
    return next(seed for seed in range(20) if broken(STORY, seed))


def test_what_is_left_is_small_and_breaks_the_same_promise(seed: int) -> None:
    before = copy.deepcopy(STORY)
    found = shrink(STORY, "story", seed)
    assert before == STORY, "the story of the caller is as it was"
    assert promise(found.broken) == promise(str(broken(STORY, seed)))
    assert len(faults_of(found.document)) == 1
    assert len(found.document["hosts"]) == 2
    assert not any(
        "options" in bond for host in found.document["hosts"].values() for bond in host.get("bonds", {}).values()
    )
    again = read_document(found.text(), "shrunk.toml")
    assert broken(again, found.seed) == found.broken, "the file alone repeats it"


def test_a_seed_that_breaks_nothing_is_refused() -> None:
    with pytest.raises(Refused, match="keeps every promise"):
        shrink(STORY, "story", 0)


def test_the_command_writes_the_file_and_says_what_breaks(seed: int, tmp_path: Path) -> None:
    import tomli_w

    story, small = tmp_path / "story.toml", tmp_path / "small.toml"
    story.write_text(tomli_w.dumps(STORY))
    words = ["shrink", str(story), "--seed", str(seed), "-o", str(small), "--json"]
    done = CliRunner().invoke(sim, words)
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert small.read_text() == answer["story"]
    assert answer["broken"] in answer["story"]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("h1/bond0 has ['ib0'] in state active", "h3/bond0 has ['ib1'] in state active", True),
        (
            "icmp probe 7 from h1 to h2, sent at 1.5 ms, is lost",
            "icmp probe 9 from h2 to h1, sent at 2 ms, is lost",
            True,
        ),
        ("ping 3 from h1 to h2 was not answered", "UDP probe 3 from h1 did not reach h2", False),
    ],
)
def test_names_and_numbers_do_not_tell_promises_apart(one: str, other: str, same: bool) -> None:
    assert (promise(one) == promise(other)) is same
