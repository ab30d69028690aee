"""The tables that drive the state machines: complete, without dead ends, and drawn in docs/states.md."""

import importlib.util
import itertools
import subprocess
import sys
from enum import Enum
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest

from ibbond.rdma_cm.id_states import ID_VERBS, IdState, IdVerb

ROOT = Path(__file__).parents[1]


def states_script() -> ModuleType:
    loader = SourceFileLoader("states_script", str(ROOT / "scripts" / "states"))
    spec = importlib.util.spec_from_loader("states_script", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


MACHINES = states_script().MACHINES


@pytest.mark.parametrize("name", MACHINES)
def test_every_state_has_an_answer_to_every_event(name: str) -> None:
    _, table, _ = MACHINES[name]
    state, event = next(iter(table))
    states: type[Enum] = type(state)
    events: type[Enum] = type(event)
    assert list(table) == list(itertools.product(states, events))
    assert {type(after) for _, after in table.values()} == {states}


@pytest.mark.parametrize("name", MACHINES)
def test_no_state_is_out_of_reach(name: str) -> None:
    """Each is the first, or is entered; with CM the first ones are made by `connect` and by a peer's REQ."""
    _, table, verbs = MACHINES[name]
    moves = [(state, after) for (state, _), (_, after) in table.items()]
    moves += [(state, after) for (state, _), after in verbs.items() if after is not None]
    entered = {after for state, after in moves if after is not state}
    states: list[Enum] = list(dict.fromkeys(state for state, _ in table))
    first = {states[0].name, "REQ_RCVD"}
    assert {state.name for state in states} - {state.name for state in entered} <= first


def test_an_id_can_be_disconnected_in_every_state() -> None:
    """`gone` relies on it: a program may end at any time."""
    assert {state for state, verb in ID_VERBS if verb is IdVerb.DISCONNECT} == set(IdState)


def test_the_page_of_states_is_up_to_date() -> None:
    run = subprocess.run([sys.executable, ROOT / "scripts/states", "--check"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_every_table_is_drawn() -> None:
    drawn = {path for path, _, _ in MACHINES.values()} | {"src/ibbond/bonding/miimon.py"}
    tables = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "src").rglob("*.py")
        if "_TABLE: dict[tuple[" in path.read_text()
    }
    assert tables <= drawn
