"""Two hosts, two switches, a bond on each: traffic of every kind through cuts and returns of cables."""

import pytest

from ibbond.fabric.events import Cut, Mend
from ibbond.stack.events import AddressChange, Deliver, GroupJoined
from ibbond.topology.default import TWO_HOSTS
from ibbond.wire.icmp import Echo
from ibbond.wire.udp import UdpDatagram
from tests.stack.small_world import SmallWorld, ip, ping, world_of

CHAT = ip("239.1.2.3")
V4, V6 = ("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")


@pytest.fixture
def world() -> SmallWorld:
    return world_of(TWO_HOSTS)


def there_and_back(world: SmallWorld, pair: tuple[str, str], sequence: int = 1) -> bool:
    one, two = pair
    asked = ping(one, two, sequence)
    world.send("h1", asked)
    if world.got("h2") != [asked]:
        return False
    answer = Echo.parse(asked).answer().pack()
    world.send("h2", answer)
    return world.got("h1") == [answer]


def active(world: SmallWorld, host: str) -> str | None:
    return world.network.hosts[host].bond("bond0").active


def test_bonds_come_up(world: SmallWorld) -> None:
    for host in ("h1", "h2"):
        stack = world.network.hosts[host]
        assert active(world, host) == "ib0"
        bond = stack.device("bond0")
        assert bond.carrier
        assert bond.address == stack.device("ib0").address
        assert bond.mtu == 2044
        assert stack.device("ib1").carrier


@pytest.mark.parametrize("pair", [V4, V6])
def test_ping(world: SmallWorld, pair: tuple[str, str]) -> None:
    assert there_and_back(world, pair)
    assert there_and_back(world, pair, 2)


@pytest.mark.parametrize("pair", [V4, V6])
@pytest.mark.parametrize("cut", ["h1/1", "h2/1", "s1/1"])
def test_a_cut_cable_is_survived_at_once(world: SmallWorld, pair: tuple[str, str], cut: str) -> None:
    assert there_and_back(world, pair)
    world.fabric(Cut(cut))
    for sequence in range(2, 5):
        assert there_and_back(world, pair, sequence)
    world.run(ms=5000)
    assert there_and_back(world, pair, 9)


def test_a_failover_is_reported(world: SmallWorld) -> None:
    there_and_back(world, V4)
    world.run(ms=3000)  # the announcements of the start are over
    world.effects.clear()
    world.fabric(Cut("h1/1"))
    assert active(world, "h1") == "ib1"
    assert [line.detail for line in world.happened("failover")] == ["ib0 -> ib1"]
    assert [(line.where, line.detail) for line in world.happened("carrier")] == [("h1/ib0", "off")]
    assert len(world.happened("announce")) == 1
    stack = world.network.hosts["h1"]
    [change] = [effect for effect in world.effects if isinstance(effect, AddressChange)]
    assert (change.old, change.new) == (stack.device("ib0").address, stack.device("ib1").address)
    entry = world.network.hosts["h2"].ip["bond0"].neighbors.get(ip("10.0.0.1"))
    assert entry is not None
    assert entry.hardware == stack.device("ib1").address, "the peer received the announcement"
    world.run(ms=1000)
    assert len(world.happened("announce")) == 3


def test_both_hosts_fail_over_together(world: SmallWorld) -> None:
    assert there_and_back(world, V4)
    assert there_and_back(world, V6)
    world.fabric(Cut("h1/1"))
    world.fabric(Cut("h2/1"))
    assert there_and_back(world, V4)
    assert there_and_back(world, V6)


def test_cut_and_return_round_after_round(world: SmallWorld) -> None:
    sequence = 0
    for _ in range(5):
        for port in ("h1/1", "h1/2"):
            for event in (Cut(port), Mend(port)):
                world.fabric(event)
                for _ in range(20):
                    sequence += 1
                    assert there_and_back(world, V4, sequence)
                    world.run(ms=10)


def test_multicast_reaches_members_once_before_and_after_a_failover(world: SmallWorld) -> None:
    world.on("h2", GroupJoined("bond0", CHAT))
    packet = UdpDatagram(ip("10.0.0.1"), CHAT, 5000, 5000, b"hello").pack()
    world.send("h1", packet)
    assert world.got("h2") == [packet]
    for cut in ("h2/1", "h1/1"):
        world.fabric(Cut(cut))
        world.send("h1", packet)
        assert world.got("h2") == [packet], cut
        assert world.got("h1") == [], "no one receives its own frames"


def test_broadcast_reaches_all_once(world: SmallWorld) -> None:
    packet = UdpDatagram(ip("10.0.0.1"), ip("10.0.0.255"), 5000, 5000, b"hello").pack()
    world.send("h1", packet)
    assert world.got("h2") == [packet]
    assert world.got("h1") == []


def test_deliveries_name_the_member(world: SmallWorld) -> None:
    there_and_back(world, V4)
    world.fabric(Cut("h2/1"))
    there_and_back(world, V4)
    members = [effect.member for effect in world.effects if isinstance(effect, Deliver) and effect.host == "h2"]
    assert members == ["ib0", "ib1"]


def test_a_total_outage_and_the_return(world: SmallWorld) -> None:
    assert there_and_back(world, V4)
    world.fabric(Cut("h1/1"))
    world.fabric(Cut("h1/2"))
    assert not world.network.hosts["h1"].device("bond0").carrier
    assert not there_and_back(world, V4)
    world.run(ms=5000)
    world.fabric(Mend("h1/2"))
    world.run(ms=1000)
    world.got("h2")
    assert active(world, "h1") == "ib1"
    assert there_and_back(world, V4)
