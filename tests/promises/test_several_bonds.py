"""Several bonds on a host, more than two members, children of partitions."""

import pytest

from ibbond.errors import Refused
from ibbond.fabric.events import Cut
from ibbond.machine import MS
from ibbond.stack.events import OnSubnet
from ibbond.topology.load import parse
from tests.promises.story import bond, reached, two_hosts

PARTITIONED = """
[switches]
s1 = {}
s2 = {}
[[links]]
between = ["s1", "s2"]
[partitions.storage]
pkey = 0x8001
members = ["h1", "h2"]
[hosts.h1]
ports = { ib0 = "s1", ib1 = "s2" }
bonds.bond0 = { members = ["ib0", "ib1"], addresses = ["10.0.0.1/24"] }
bonds.bond1 = { members = ["ib0.8001", "ib1.8001"], addresses = ["10.1.0.1/24"] }
[hosts.h2]
ports = { ib0 = "s1", ib1 = "s2" }
bonds.bond0 = { members = ["ib0", "ib1"], addresses = ["10.0.0.2/24"] }
bonds.bond1 = { members = ["ib0.8001", "ib1.8001"], addresses = ["10.1.0.2/24"] }
"""
THREE = """
[switches]
s1 = {}
[hosts.h1]
ports = { ib0 = "s1", ib1 = "s1", ib2 = "s1" }
bonds.bond0 = { members = ["ib0", "ib1", "ib2"], addresses = ["10.0.0.1/24"] }
[hosts.h2]
ports = { ib0 = "s1", ib1 = "s1" }
bonds.bond0 = { members = ["ib0", "ib1"], addresses = ["10.0.0.2/24"] }
"""


def test_a_bond_over_partition_children_beside_another_one() -> None:
    world = two_hosts(PARTITIONED)
    assert bond(world, name="bond1").active == "ib0.8001"
    assert bond(world, name="bond1").device.broadcast[8:10] == bytes.fromhex("8001")
    assert reached(world, "icmp")
    world.feed(OnSubnet(Cut("h1/1")))
    assert (bond(world).active, bond(world, name="bond1").active) == ("ib1", "ib1.8001")


def test_three_members_outlive_two_cables() -> None:
    world = two_hosts(THREE)
    for cable in ("h1/1", "h1/2"):
        world.feed(OnSubnet(Cut(cable)))
        world.run_until(world.now + 300 * MS)
        assert reached(world, "icmp")
    assert bond(world).active == "ib2"


def test_members_of_different_partitions_are_refused() -> None:
    mixed = PARTITIONED.replace('members = ["ib0", "ib1"]', 'members = ["ib0"]', 1)
    with pytest.raises(Refused, match="P_Key"):
        parse(mixed.replace('["ib0.8001", "ib1.8001"]', '["ib0.8001", "ib1"]', 1))
