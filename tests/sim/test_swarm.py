"""Stories drawn whole from their seeds."""

import copy
import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from ibbond.bonding import announcements
from ibbond.cli.sim import sim
from ibbond.machine import MS, SECOND
from ibbond.sim.explore import explore_swarm, run_one, run_swarm
from ibbond.sim.faults import KINDS
from ibbond.sim.story import parse
from ibbond.sim.swarm import document
from ibbond.sim.world import World
from ibbond.stack.ip_layer import IpLayer
from ibbond.stack.outgoing import IpEffect
from ibbond.wire.arp import Arp

FRESH = 6  # seeds
STORIES = Path(__file__).parent / "stories"


@pytest.mark.parametrize("first", [0, 4, 8])
def test_every_promise_is_kept(first: int) -> None:
    found = [(verdict.seed, verdict.broken) for verdict in run_swarm(list(range(first, first + 4)), "default")]
    assert [each for each in found if each[1]] == [], "replay: ibbond sim swarm --seeds SEED..SEED+1"


@pytest.mark.parametrize("seed", [1194, 1343, 1351, 1381])
def test_a_member_that_comes_back_within_its_downdelay_is_up_at_once(seed: int) -> None:
    """The checker once asked it to wait for its updelay."""
    assert [verdict.broken for verdict in run_swarm([seed], "default")] == [None]


@pytest.mark.parametrize("seed", [195, 1007, 1246])
def test_a_port_registers_when_the_manager_can_be_reached(seed: int) -> None:
    """An Active port was asked before the tables led to the manager again: its joins were lost, and announcements."""
    assert [verdict.broken for verdict in run_swarm([seed], "default")] == [None]


def test_fresh_seeds() -> None:
    first = int(os.environ.get("IBBOND_FRESH_SEEDS", "1000000"))
    found = [(verdict.seed, verdict.broken) for verdict in run_swarm(list(range(first, first + FRESH)), "default")]
    assert [each for each in found if each[1]] == [], "replay: ibbond sim swarm --seeds SEED..SEED+1"


def test_after_a_short_outage_neighbors_are_asked_where_they_are() -> None:
    """A switch is away for 20 ms, and a host behind it, whose downdelay is longer, misses all announcements of h1."""
    hosts = {
        "h1": {
            "ports": {"ib0": "s2", "ib1": "s1"},
            "bonds": {
                "bond0": {"members": ["ib0", "ib1"], "addresses": ["10.0.0.1/24"], "options": {"miimon": 10}},
            },
        },
        "h2": {
            "ports": {"ib0": "s2"},
            "bonds": {"bond0": {"members": ["ib0"], "addresses": ["10.0.0.2/24"], "options": {"downdelay": 100}}},
        },
    }
    faults = [
        {"what": "manual_switch", "where": "h1/bond0=ib0", "at_ms": 1500},
        {"what": "switch_death", "where": "s2", "at_ms": 2000, "for_ms": 20},
    ]
    story = {"length_ms": 4000, "probe_ms": 20, "pairs": [["h2", "h1"]], "faults": faults}
    links = [{"between": ["s1", "s2"]}]
    world = World(parse({"switches": {"s1": {}, "s2": {}}, "links": links, "hosts": hosts, "story": story}, name="76"))
    world.run()
    later = [
        probe
        for probe in world.probes
        if (probe.kind, probe.source) == ("udp", "h2") and 2100 * MS < probe.sent_at < 3500 * MS
    ]
    assert later
    assert [probe.sent_at / MS for probe in later if "h1" not in probe.copies] == []


def test_a_path_is_not_asked_for_before_the_downdelay_has_passed() -> None:
    """259: for 300 ms the bond kept a member whose cable was cut."""
    assert [verdict.broken for verdict in run_swarm([259], "default")] == [None]


def test_a_host_that_is_in_no_group_reports_none() -> None:
    """Its programs had left their group at the moment of the failover."""
    assert [verdict.broken for verdict in run_swarm([187], "default")] == [None]


def test_announcements_that_are_received_and_not_believed_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host receives again before the last announcement is sent."""
    receive = IpLayer.receive_arp
    switches: dict[str, object] = {"s1": {}, "s2": {}}
    hosts = {
        "h1": {
            "ports": {"ib0": "s2", "ib1": "s1"},
            "bonds": {
                "bond0": {"members": ["ib0", "ib1"], "addresses": ["10.0.0.1/24"], "options": {"primary": "ib0"}}
            },
        },
        "h2": {
            "ports": {"ib0": "s2"},
            "bonds": {"bond0": {"members": ["ib0"], "addresses": ["10.0.0.2/24"], "options": {"downdelay": 300}}},
        },
    }
    faults = [{"what": "switch_death", "where": "s2", "at_ms": 2000, "for_ms": 30}]
    story = {"length_ms": 5600, "settle_ms": 3000, "probe_ms": 20, "faults": faults}
    drawn: dict[str, object] = {
        "switches": switches,
        "links": [{"between": ["s1", "s2"]}],
        "hosts": hosts,
        "story": story,
    }
    assert World(parse(copy.deepcopy(drawn), name="late")).run().broken is None

    def doubting(layer: IpLayer, now: int, message: Arp, *, unicast: bool) -> list[IpEffect]:
        return [] if now > 2 * SECOND else receive(layer, now, message, unicast=unicast)

    monkeypatch.setattr(IpLayer, "receive_arp", doubting)
    assert "is lost, and a path exists" in (World(parse(drawn, name="late")).run().broken or "")


@pytest.mark.parametrize("seed", [76, 187, 195, 1007, 1246])
def test_stories_that_were_made_of_failing_seeds(seed: int) -> None:
    """A seed draws another story once the swarm draws something more; its shrunk story stays the same."""
    name = f"swarm-{seed}"
    assert run_one((STORIES / f"{name}.toml").read_text(), name, seed).broken is None


def test_a_seed_is_one_story() -> None:
    assert document(7) == document(7) != document(8)
    first, second = (next(explore_swarm(range(3, 4))).trace for _ in range(2))
    assert first == second


def test_five_hundred_seeds_draw_everything() -> None:
    stories = [parse(copy.deepcopy(document(seed)), name=str(seed)) for seed in range(500)]
    kinds = {kind for story in stories if story.random_faults for kind in story.random_faults.kinds}
    assert kinds == set(KINDS)
    assert {len(story.topology.hosts) for story in stories} == {2, 3, 4}
    assert {len(bond.members) for story in stories for host in story.topology.hosts for bond in host.bonds} == {2, 3}
    options = {
        name for story in stories for host in story.topology.hosts for bond in host.bonds for name, _ in bond.options
    }
    assert {"miimon", "arp_interval", "updelay", "downdelay", "primary", "primary_reselect", "num_grat_arp"} <= options
    assert {story.flows for story in stories} == {False, True}


def test_a_wrong_program_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bond that announces nothing after a failover."""
    monkeypatch.setattr(announcements, "start", lambda state: None)
    found = [verdict.broken for verdict in run_swarm(list(range(4)), "default") if verdict.broken]
    assert any("announced" in broken for broken in found)


def test_the_command_says_how_many_kept_their_promises() -> None:
    done = CliRunner().invoke(sim, ["swarm", "--seeds", "1..2", "--workers", "0", "--json"])
    assert (done.exit_code, json.loads(done.stdout)) == (0, {"seeds": 1, "profile": "default", "broken": []})
    assert CliRunner().invoke(sim, ["swarm", "--seeds", "2..1"]).exit_code != 0
