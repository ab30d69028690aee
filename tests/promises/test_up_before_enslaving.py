"""Tools that set the bond up before they enslave anything get a working bond."""

from ibbond.bonding.events import AddMember, RemoveMember
from ibbond.machine import MS
from ibbond.stack.events import SetAdmin
from tests.promises.story import ask, ask_bond, bond, reached, two_hosts


def test_rebuilt_while_up_it_works() -> None:
    world = two_hosts()
    for member in ("ib0", "ib1"):
        ask_bond(world, RemoveMember(member))
    assert bond(world).device.up
    for member in ("ib0", "ib1"):
        ask(world, SetAdmin(member, up=False))
        ask_bond(world, AddMember(member))
    world.run_until(world.now + 1000 * MS)
    for kind in ("icmp", "udp", "multicast"):
        assert reached(world, kind), kind
        if kind != "icmp":
            assert reached(world, kind, "h2", "h1"), kind
