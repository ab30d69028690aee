"""Groups have the right link-layer address whichever came first: the join or the member."""

import pytest

from ibbond.bonding.events import AddMember, RemoveMember, SetOption
from ibbond.stack.events import CreateBond, GroupJoined, SetAdmin
from tests.promises.story import ask, ask_bond, bond, two_hosts

ALL_HOSTS = bytes.fromhex("00ffffffff12401bffff00000000000000000001")
ALL_NODES = bytes.fromhex("00ffffffff12601bffff00000000000000000001")
CHAT = bytes([239, 1, 2, 3])
CHAT_ON_IB = bytes.fromhex("00ffffffff12401bffff0000000000000f010203")
CHAT_ON_ETHERNET = bytes.fromhex("01005e010203")


@pytest.mark.parametrize("up_first", [True, False])
@pytest.mark.parametrize("join_first", [True, False])
def test_every_order(up_first: bool, join_first: bool) -> None:
    world = two_hosts()
    ask_bond(world, RemoveMember("ib1"))
    ask(world, CreateBond("bond1"))
    ask_bond(world, SetOption("mode", "active-backup\n"), name="bond1")
    groups = bond(world, name="bond1").device.multicast
    if up_first:
        ask(world, SetAdmin("bond1", up=True))
    if join_first:
        ask(world, GroupJoined("bond1", CHAT))
        assert (CHAT_ON_ETHERNET in groups) == up_first, "an empty bond is Ethernet still"
    ask(world, SetAdmin("ib1", up=False))
    ask_bond(world, AddMember("ib1"), name="bond1")
    if not up_first:
        ask(world, SetAdmin("bond1", up=True))
    if not join_first:
        ask(world, GroupJoined("bond1", CHAT))
    assert {ALL_HOSTS, ALL_NODES, CHAT_ON_IB} <= set(groups)
    assert {len(address) for address in groups} == {20}
