"""Set-ups that are refused before anything is changed, and classes that are not safe on a bond."""

from dataclasses import replace

import pytest

from ibbond.drill.classes import CLASSES
from ibbond.drill.guards import BondFacts, Member, chosen, is_noticed, moves, refuse_unsafe, why_not, why_way_is_unsafe
from ibbond.errors import Refused

IB0 = Member("ib0", True, "h1/1", "h1", "s1", "ACTIVE")
IB1 = Member("ib1", True, "h1-2/1", "h1-2", "s2", "ACTIVE")
GOOD = BondFacts("bond0", "active-backup", True, "ib0", (IB0, IB1))

BAD = {
    "its mode is": {"mode": "balance-rr"},
    "it is down": {"is_up": False},
    "it has no members": {"members": (), "active": None},
    "only one member": {"members": (IB0,)},
    "none of its members is active": {"active": None},
    "ib1 is down": {"members": (IB0, replace(IB1, is_up=False))},
    "the port of ib1 is INIT": {"members": (IB0, replace(IB1, port_state="INIT"))},
    "ib1 is on the same port as ib0": {"members": (IB0, replace(IB1, port="h1/1"))},
    "ibbond check finds an error": {"errors": ("miimon is 0", "another")},
    "the session that controls": {"session_over_bond": "ssh from 10.0.0.9"},
    "NetworkManager is activating": {"busy": "NetworkManager is activating ib0"},
}


def test_a_good_bond_is_drilled() -> None:
    refuse_unsafe(GOOD)
    assert GOOD.spare is IB1


@pytest.mark.parametrize("why", BAD)
def test_refused(why: str) -> None:
    with pytest.raises(Refused, match=why):
        refuse_unsafe(replace(GOOD, **BAD[why]))  # type: ignore[arg-type]


def test_a_console_makes_the_session_harmless() -> None:
    refuse_unsafe(replace(GOOD, session_over_bond="ssh"), has_console=True)


def test_ports_that_do_not_say_their_state_are_believed_to_be_active() -> None:
    refuse_unsafe(replace(GOOD, members=(replace(IB0, port_state=None), replace(IB1, port_state=None, port=""))))


def test_a_third_member_can_take_over() -> None:
    third = replace(IB1, name="ib2")
    assert replace(GOOD, members=(IB0, replace(IB1, is_up=False), third)).spare is third


def test_classes_that_would_take_both_members() -> None:
    assert why_not(CLASSES["adapter-removed"], GOOD) is None
    one_adapter = replace(GOOD, members=(IB0, replace(IB1, adapter="h1")))
    assert "one adapter" in str(why_not(CLASSES["adapter-removed"], one_adapter))
    one_switch = replace(GOOD, members=(IB0, replace(IB1, switch="s1")))
    assert "one switch" in str(why_not(CLASSES["switch-death"], one_switch))
    assert why_not(CLASSES["cut"], one_switch) is None


TRACE = """From ca {0x0002c90300100000} portnum 2 lid 3-3 "h1"
[2] -> switch port {0x0002c90300200010}[1] lid 9-9 "s2"
[3] -> switch port {0x0002c90300200000}[3] lid 1-1 "s1"
To switch {0x0002c90300200000} portnum 0 lid 1-1 "s1"
"""
FAR_GUID = 0x0002C90300200000


def test_the_way_to_the_far_end_must_not_cross_the_victim() -> None:
    assert why_way_is_unsafe(TRACE, "ib1", FAR_GUID, 1) is None
    assert "crosses" in str(why_way_is_unsafe(TRACE, "ib1", FAR_GUID, 3))
    assert "no way" in str(why_way_is_unsafe("ibtracert: iberror: can't find a route", "ib1", FAR_GUID, 1))
    unsafe = replace(GOOD, way_to_far_end="the way crosses it")
    assert why_not(CLASSES["far-end-disabled"], unsafe) == "the way crosses it"
    assert why_not(CLASSES["cut"], unsafe) is None


def test_silent_death_is_seen_by_the_arp_monitor_only() -> None:
    silent = CLASSES["silent-death"]
    assert not is_noticed(silent, GOOD)
    assert not moves(silent, GOOD)
    assert moves(silent, replace(GOOD, has_arp_monitor=True))
    assert moves(CLASSES["cut"], GOOD)
    assert not moves(CLASSES["manager-away"], GOOD)


def test_classes_are_chosen_by_name() -> None:
    rows, left_out = chosen(["cut"], ["cut", "loss"], "lab x")
    assert [row.name for row in rows] == ["cut"]
    assert dict(left_out)["loss"] == "not asked for"
    assert dict(left_out)["admin-down"] == "lab x has no way to do it"
    with pytest.raises(Refused, match="no class melt"):
        chosen(["melt"], ["cut"], "lab x")
    with pytest.raises(Refused, match="cannot drill cut here"):
        chosen(["cut"], ["loss"], "lab x")


def test_every_class_says_what_it_tests_and_what_it_leaves_alone() -> None:
    assert all(row.tests and row.spares and row.title for row in CLASSES.values())
    assert "RDMA" in CLASSES["admin-down"].spares
