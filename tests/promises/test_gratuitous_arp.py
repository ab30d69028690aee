"""Peers are notified at each failover: as many announcements as configured, also after a total outage."""

import pytest

from ibbond.bonding.events import SetOption
from ibbond.fabric.events import Cut, Mend
from ibbond.machine import MS
from ibbond.sim.world import World
from ibbond.stack.events import OnSubnet
from ibbond.wire.hwaddr import HardwareAddress
from tests.promises.story import announcements, ask_bond, bond, reached, two_hosts


def announced(world: World, since: float) -> list[str]:
    return [m.detail for m in world.moments if m.what == "announce" and m.where == "h1/bond0" and m.at_ms >= since]


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_n_means_n(count: int) -> None:
    world = two_hosts()
    ask_bond(world, SetOption("num_grat_arp", f"{count}\n"))
    since = world.now / MS
    world.feed(OnSubnet(Cut("h1/1")))
    world.run_until(world.now + 1000 * MS)
    reported = announced(world, since)
    assert len(reported) == count
    assert all("10.0.0.1" in line and "fd00::1" in line and "ib1" in line for line in reported)


@pytest.mark.parametrize("count", [1, 3])
def test_n_means_n_after_a_total_outage_too(count: int) -> None:
    world = two_hosts()
    ask_bond(world, SetOption("num_grat_arp", f"{count}\n"))
    world.feed(OnSubnet(Cut("h1/1")))
    world.feed(OnSubnet(Cut("h1/2")))
    world.run_until(world.now + 1000 * MS)
    assert bond(world).active is None
    since = world.now / MS
    world.feed(OnSubnet(Mend("h1/2")))
    world.run_until(world.now + 1000 * MS)
    assert len(announced(world, since)) == count


def test_the_peer_learns_the_new_twenty_bytes() -> None:
    world = two_hosts()
    assert reached(world, "icmp")
    world.feed(OnSubnet(Cut("h1/1")))
    world.run_until(world.now + 10 * MS)
    assert reached(world, "icmp", "h2", "h1")
    new = world.network.hosts["h1"].namespace.get("ib1")
    assert new is not None
    assert HardwareAddress.parse(bond(world).device.address) == HardwareAddress.parse(new.address)


def test_a_switch_by_hand_is_announced_too() -> None:
    world = two_hosts()
    effects = ask_bond(world, SetOption("active_slave", "ib1\n"))
    since = world.now / MS
    world.run_until(world.now + 500 * MS)
    assert bond(world).active == "ib1"
    assert announcements(effects) or announced(world, since)
