"""The table of neighbor states is complete, and agrees with `neigh_update` on what an answer is worth."""

import itertools

from ibbond.stack.neighbor_states import LASTS, NUD_TABLE, NudInput, NudReaction, NudState


def test_every_state_has_an_answer_to_every_event() -> None:
    assert list(NUD_TABLE) == list(itertools.product(NudState, NudInput))


def test_every_state_ends_by_itself_but_none() -> None:
    assert LASTS.keys() == set(NudState) - {NudState.NONE}
    for state in LASTS:
        after = NUD_TABLE[state, NudInput.TIMEOUT][1]
        assert after is not state or NUD_TABLE[state, NudInput.UNANSWERED] == (NudReaction.FORGET, NudState.NONE)


def test_an_answer_confirms_in_every_state() -> None:
    assert {NUD_TABLE[state, NudInput.CONFIRMED] for state in NudState} == {(NudReaction.LEARN, NudState.REACHABLE)}


def test_what_was_not_asked_for_never_confirms() -> None:
    received = (NudInput.MOVED, NudInput.SEEN, NudInput.CONTRADICTED)
    entered = [(state, NUD_TABLE[state, event][1]) for state in NudState for event in received]
    assert all(after in (state, NudState.STALE) for state, after in entered)
