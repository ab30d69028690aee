"""The second patch: members whose address cannot be set; the bond's address is the active member's."""

import errno

import pytest

from ibbond.errors import Refused
from ibbond.fabric.events import Cut
from ibbond.netdev.device import AddressOrigin
from ibbond.sim.world import World
from ibbond.stack.events import OnSubnet
from tests.promises.story import arrived, bond, two_hosts


def address(world: World, name: str) -> bytes:
    device = world.network.hosts["h1"].namespace.get(name)
    assert device is not None
    return device.address


def test_an_ipoib_device_refuses_another_address() -> None:
    world = two_hosts()
    device = world.network.hosts["h1"].namespace.get("ib0")
    assert device is not None
    with pytest.raises(Refused) as refusal:
        device.set_address(address(world, "ib1"), AddressOrigin.SET)
    assert refusal.value.code == errno.EOPNOTSUPP


def test_fail_over_mac_is_forced() -> None:
    world = two_hosts()
    assert bond(world).snapshot().options["fail_over_mac"] in (1, "active")


def test_the_bond_has_its_active_members_address() -> None:
    world = two_hosts()
    assert address(world, "bond0") == address(world, "ib0")
    world.feed(OnSubnet(Cut("h1/1")))
    assert bond(world).active == "ib1"
    assert address(world, "bond0") == address(world, "ib1")


def test_without_it_there_is_no_bond() -> None:
    assert arrived("set_mac_address") == {}
