"""The first patch: type, address length, broadcast address and header length come from the first member."""

from ibbond.bonding.events import AddMember, RemoveMember, SetOption
from ibbond.stack.events import CreateBond, SetAdmin
from ibbond.wire.hardware_type import ETHERNET, INFINIBAND
from tests.promises.story import arrived, ask, ask_bond, bond, two_hosts


def test_a_new_bond_is_ethernet_until_its_first_member_joins() -> None:
    world = two_hosts()
    ask_bond(world, RemoveMember("ib1"))
    ask(world, CreateBond("bond1"))
    ask_bond(world, SetOption("mode", "active-backup\n"), name="bond1")
    device = bond(world, name="bond1").device
    assert (device.type, device.addr_len, device.hard_header_len) == (ETHERNET, 6, 14)
    ask(world, SetAdmin("ib1", up=False))
    ask_bond(world, AddMember("ib1"), name="bond1")
    member = world.network.hosts["h1"].namespace.get("ib1")
    assert member is not None
    assert device.type == INFINIBAND
    assert device.addr_len == 20
    assert device.broadcast == member.broadcast
    assert device.hard_header_len == member.hard_header_len


def test_an_ethernet_member_makes_it_ethernet_again() -> None:
    world = two_hosts()
    ask_bond(world, RemoveMember("ib0"))
    ask_bond(world, RemoveMember("ib1"))
    assert bond(world).device.type == INFINIBAND, "it keeps its type until another member decides"
    ask_bond(world, AddMember("eth0"))
    device = bond(world).device
    assert (device.type, device.addr_len, device.broadcast) == (ETHERNET, 6, b"\xff" * 6)


def test_without_it_nothing_gets_through() -> None:
    assert max(arrived("dev_setup").values()) == 0
