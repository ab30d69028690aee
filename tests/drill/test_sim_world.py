"""Drills in the simulator: the whole course with phases that add up, and the undo of a round that is interrupted."""

from pathlib import Path

import pytest

from ibbond.cli.sim import read_text
from ibbond.drill.phases import Phase
from ibbond.drill.runner import drill, dry_run
from ibbond.drill.sim_world import SimWorld, peer_of
from ibbond.drill.verdict import Certificate, Verdict
from ibbond.errors import Refused
from ibbond.machine import MS
from ibbond.sim.explore import read_story

SCENARIOS = Path(__file__).parents[2] / "scenarios"

SPACING_MS = 4


def world(bond: str = "bond0", peer: str = "") -> SimWorld:
    story = read_story(read_text(SCENARIOS / "one_cut.toml"), "one_cut")
    return SimWorld(story, 0, "h1", bond, peer_of(story, "h1", peer), SPACING_MS)


def run(*names: str, rounds: int = 1, budget_ms: int = 1000) -> Certificate:
    return drill(world(), names, rounds, budget_ms * MS, lambda _: None, spacing_ns=SPACING_MS * MS)


def test_a_cut_passes_and_its_phases_add_up() -> None:
    found = run("cut", "planned-switch", rounds=2)
    assert found.verdict is Verdict.PASS, found.reasons()
    assert len(found.runs) == 8
    cut = next(run for run in found.runs if run.name == "cut")
    assert [phase for phase, _ in cut.sum.phases][-1] is Phase.FIRST_PACKET
    assert cut.gap.ns < 30 * MS


def test_silent_death_lasts_as_long_as_it_is_not_undone() -> None:
    found = run("silent-death")
    assert found.verdict is Verdict.FAIL
    silent = found.runs[0]
    assert silent.gap.ns >= 1490 * MS
    assert silent.sum.agrees, silent.sum.disagreements


def test_two_drills_of_one_seed_are_the_same() -> None:
    assert run("cut").details() == run("cut").details()


def test_classes_that_take_both_members_are_left_out() -> None:
    found = run("adapter-removed")
    assert {each.name: each.why for each in found.not_tested}["adapter-removed"].startswith(
        "ib0 and ib1 are ports of one"
    )
    assert found.verdict is Verdict.UNCLEAR


def test_an_interrupted_round_is_undone() -> None:
    here = world()
    fault: list[bool] = []
    sleep = here.sleep

    def interrupted(seconds: float) -> None:
        if fault:
            raise KeyboardInterrupt
        sleep(seconds)

    apply = here.apply

    def applied(plan: object, *, undo: bool) -> int:
        fault.append(True) if not undo else fault.clear()
        return apply(plan, undo=undo)  # type: ignore[arg-type]

    here.sleep, here.apply = interrupted, applied  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        drill(here, ["cut"], 1, MS, lambda _: None, spacing_ns=MS)
    sleep(2)
    assert all(member.is_up for member in here.facts().members)


def test_an_undo_that_fails_is_the_verdict() -> None:
    here = world()
    apply = here.apply

    def failing(plan: object, *, undo: bool) -> int:
        if undo:
            raise Refused("cannot mend", why="no hands", fix="Do it")
        return apply(plan, undo=undo)  # type: ignore[arg-type]

    here.apply = failing  # type: ignore[method-assign]
    found = drill(here, ["cut", "loss"], 3, 1000 * MS, lambda _: None, spacing_ns=MS)
    assert found.verdict is Verdict.FAIL
    assert found.reasons()[0].startswith("THE UNDO OF CUT FAILED: cannot mend: no hands. Do it. Undo it by hand: ")
    assert [run.name for run in found.runs] == ["cut", "cut reversion"], "nothing goes on after it"


def test_what_is_refused() -> None:
    with pytest.raises(Refused, match="no such bond"):
        world("bond7")
    with pytest.raises(Refused, match="no peer h9"):
        world(peer="h9")


def test_a_dry_run_changes_nothing() -> None:
    here = world()
    before = len(here.world.moments)
    plans = {row.name: plan for row, plan in dry_run(here, [], has_console=False)}
    assert len(plans) == len(here.possible)
    assert len(here.world.moments) == before
