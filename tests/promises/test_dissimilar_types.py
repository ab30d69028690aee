"""Members of dissimilar types exclude each other; bonds of different types live side by side."""

import errno

import pytest

from ibbond.bonding.events import AddMember, SetOption
from ibbond.errors import Refused
from ibbond.stack.events import CreateBond
from ibbond.wire.hardware_type import ETHERNET, INFINIBAND
from tests.promises.story import ask, ask_bond, bond, two_hosts


def test_ethernet_is_refused_and_nothing_has_changed() -> None:
    world = two_hosts()
    before = bond(world).snapshot()
    with pytest.raises(Refused) as refusal:
        ask_bond(world, AddMember("eth0"))
    assert refusal.value.code == errno.EINVAL
    assert "InfiniBand" in str(refusal.value)
    assert bond(world).snapshot() == before


def test_an_ethernet_bond_beside_an_infiniband_bond() -> None:
    world = two_hosts()
    ask(world, CreateBond("bond1"))
    ask_bond(world, SetOption("mode", "active-backup\n"), name="bond1")
    ask_bond(world, AddMember("eth0"), name="bond1")
    assert bond(world, name="bond1").device.type == ETHERNET
    assert bond(world).device.type == INFINIBAND
