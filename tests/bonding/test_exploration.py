"""The bonding core with two members, explored until no new state appears; and defects that the explorer must find.

`IBBOND_EXPLORE=all` also explores members, administrative states and devices, which takes minutes.
"""

import os
import pickle
from typing import Any

import pytest

from ibbond.bonding.events import SetOption
from ibbond.bonding.quirks import QUIRKS
from tests.bonding.exploration import World, events, explore, key, start, successors

DELAYS = [{}, {"updelay": 100, "downdelay": 100}, {"updelay": 200}, {"updelay": 100, "primary": "ib2"}]
ARRIVALS = ("add ", "remove ", "unregister ", "readdress ")
CABLES = {name: act for name, act in events(wide=False).items() if name.split()[0] in ("wait", "plug", "unplug")}
NARROW, WIDE = events(wide=False), events(wide=True)
SOME = NARROW | {name: act for name, act in WIDE.items() if name.startswith(ARRIVALS)}


@pytest.mark.parametrize("options", DELAYS, ids=str)
def test_every_state_keeps_every_promise(options: dict[str, Any]) -> None:
    outcome = explore(start(**options), NARROW)
    assert outcome.broken is None, outcome
    assert outcome.states > 150


@pytest.mark.skipif(os.environ.get("IBBOND_EXPLORE") != "all", reason="takes minutes; IBBOND_EXPLORE=all")
@pytest.mark.parametrize("options", [*DELAYS, {"downdelay": 200}], ids=str)
def test_every_state_of_the_wide_world_keeps_every_promise(options: dict[str, Any]) -> None:
    outcome = explore(start(**options), WIDE)
    print(options, outcome)
    assert outcome.broken is None, outcome


FOUND: dict[str, tuple[dict[str, object], str]] = {
    "polled_links": ({"link_events": "off"}, "not noticed at once"),
    "cleared_active_drops": ({}, "the member that was active before"),
    "carrier_lost_in_downdelay": ({"downdelay": 100}, "carrier is False"),
    "break_before_make": ({}, "before the new one was prepared"),
    "no_handover": ({"handover_ms": 0}, "are dropped"),
    "announcements_burnt": ({"num_grat_arp": 2, "link_events": "off", "downdelay": 100}, "less often than"),
    "equal_priority_moves": ({}, "without a request"),
    "last_member_takes_bond": ({}, "the bond is gone"),
    "member_address_ignored": ({}, "has not the address"),
    "random_address_of_six": ({}, "a part of an address"),
}
"""Rows of the table of defects, how the bond is set, and what the explorer says by itself."""


@pytest.mark.parametrize("row", FOUND)
def test_a_known_defect_is_found_with_its_shortest_story(row: str) -> None:
    assert row in QUIRKS
    options, says = FOUND[row]
    outcome = explore(start(row, **options), CABLES if row == "announcements_burnt" else SOME, most=1_500)
    assert says in (outcome.broken or ""), outcome
    assert 1 <= len(outcome.story) <= 6


def test_states_that_hash_alike_have_like_successors() -> None:
    """Two ways to one state: in a state reached later, by more failures, the same events lead to the same states."""
    first = start()
    second: World = pickle.loads(pickle.dumps(first))
    for _ in range(3):
        second.plug("ib1", False)
        second.plug("ib1", True)
        second.wait()
        second.bond.handle(second.now, SetOption("active_slave", "ib1\n"))
        for _ in range(20):
            second.wait()
    if key(first) != key(second):
        second.wait()  # the monitor runs every second half interval
    assert second.bond.members["ib1"].failures > first.bond.members["ib1"].failures
    assert key(first) == key(second)
    alike = [
        {name: key(after) for name, after, _ in successors(pickle.dumps(world), SOME)} for world in (first, second)
    ]
    assert alike[0] == alike[1]
