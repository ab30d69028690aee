"""The bond works with IPoIB: its members are RFC 4391 interfaces of a subnet, and carrier means port and group."""

from ibbond.fabric.events import Cut, KillSubnetManager, Mend, ReviveSubnetManager
from ibbond.machine import MS
from ibbond.sim.world import World
from ibbond.stack.events import OnSubnet
from tests.promises.story import bond, two_hosts


def carrier(world: World, device: str) -> bool:
    found = world.network.hosts["h1"].namespace.get(device)
    assert found is not None
    return found.carrier


def test_carrier_needs_the_port_and_the_subnet_manager() -> None:
    world = two_hosts()
    assert carrier(world, "ib0")
    world.feed(OnSubnet(KillSubnetManager()))
    world.feed(OnSubnet(Cut("h1/1")))
    assert not carrier(world, "ib0")
    world.feed(OnSubnet(Mend("h1/1")))
    world.run_until(world.now + 500 * MS)
    assert not carrier(world, "ib0"), "the light is on, but no one has made the port Active and answered the join"
    world.feed(OnSubnet(ReviveSubnetManager()))
    world.run_until(world.now + 500 * MS)
    assert carrier(world, "ib0")


def test_the_bond_fails_over_between_ports() -> None:
    world = two_hosts()
    world.feed(OnSubnet(Cut("h1/1")))
    assert bond(world).active == "ib1"
