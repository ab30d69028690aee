"""What the bond hands down to its members (groups, promiscuity) and up from them (counters, speed); other modes."""

import errno

import pytest

from ibbond.bonding import events as e
from ibbond.errors import Refused
from ibbond.netdev.device import Flags, Statistics
from tests.bonding.bond_host import Host

GROUP = bytes.fromhex("00ffffffff12401bffff00000000000000000009")
ETHERNET_GROUP = bytes.fromhex("01005e000009")
LACP = bytes.fromhex("0180c2000002")


@pytest.fixture(params=["default", "kernel-6.1"])
def host(request: pytest.FixtureRequest) -> Host:
    return Host(request.param)


def holders(host: Host, group: bytes) -> set[str]:
    return {device.name for device in host.namespace if group in device.multicast and device.name != "bond0"}


def test_only_the_active_member_has_the_bonds_groups(host: Host) -> None:
    bond = host.bond(mode=1, miimon=100, members=("ib1", "ib2"), up=True)
    bond.device.add_multicast(GROUP)
    assert holders(host, GROUP) == {"ib1"}
    host.plug("ib1", False)
    host.wait(100)
    assert holders(host, GROUP) == {"ib2"}
    bond.device.remove_multicast(GROUP)
    assert holders(host, GROUP) == set()


def test_groups_leave_with_the_bond_going_down_and_return(host: Host) -> None:
    bond = host.bond(mode=1, members=("ib1",))
    bond.device.add_multicast(GROUP)
    assert holders(host, GROUP) == set()
    host.do(bond, e.Open())
    assert holders(host, GROUP) == {"ib1"}
    host.do(bond, e.Close())
    assert holders(host, GROUP) == set()
    assert GROUP in bond.device.multicast


def test_a_members_own_groups_stay_its_own(host: Host) -> None:
    host.device("ib1").add_multicast(GROUP)
    bond = host.bond(mode=1, members=("ib1",), up=True)
    bond.device.add_multicast(GROUP)
    host.do(bond, e.RemoveMember("ib1"))
    assert host.device("ib1").multicast.users(GROUP) == 1


@pytest.mark.parametrize("mode", [0, 2, 3, 4])
def test_modes_without_a_primary_have_them_on_all_members(host: Host, mode: int) -> None:
    bond = host.bond(mode=mode, miimon=100, members=("eth1", "eth2"), up=True)
    bond.device.add_multicast(ETHERNET_GROUP)
    assert holders(host, ETHERNET_GROUP) == {"eth1", "eth2"}
    assert holders(host, LACP) == ({"eth1", "eth2"} if mode == 4 else set())
    host.do(bond, e.RemoveMember("eth2"))
    assert holders(host, ETHERNET_GROUP) == {"eth1"}
    host.do(bond, e.Close())
    assert holders(host, ETHERNET_GROUP) == holders(host, LACP) == set()


@pytest.mark.parametrize("flag", [Flags.PROMISC, Flags.ALLMULTI])
def test_promiscuity_follows_the_active_member(host: Host, flag: Flags) -> None:
    bond = host.bond(mode=1, miimon=100, members=("ib1", "ib2"), up=True)
    bond.device.ask(flag, True)
    host.plug("ib1", False)
    host.wait(100)
    assert bond.active == "ib2"
    assert (bool(host.device("ib1").flags & flag), bool(host.device("ib2").flags & flag)) == (False, True)
    host.do(bond, e.RemoveMember("ib2"))
    bond.device.ask(flag, False)
    assert not any(host.device(name).flags & flag for name in ("ib1", "ib2"))


def test_counters_are_those_of_the_time_of_membership(host: Host) -> None:
    eth1, eth2 = host.device("eth1"), host.device("eth2")
    eth1.statistics.rx_packets = 1000
    bond = host.bond(mode=1, members=("eth1", "eth2"), up=True)
    eth1.statistics.rx_packets += 5
    eth2.statistics.tx_bytes += 700
    assert bond.statistics() == Statistics(rx_packets=5, tx_bytes=700)
    eth1.statistics = Statistics()  # a driver that forgot: nothing is taken back
    host.do(bond, e.RemoveMember("eth2"))
    eth2.statistics.tx_bytes += 999
    eth1.statistics.rx_packets += 2
    assert bond.statistics() == Statistics(rx_packets=7, tx_bytes=700)


def test_speed_is_the_sum_of_those_that_transmit(host: Host) -> None:
    bond = host.bond(mode=0, miimon=100, members=("eth1", "eth2"), up=True)
    driver = bond.device.driver
    assert (driver.speed(bond.device), driver.duplex(bond.device)) == (20000, "full")
    host.plug("eth2", False)
    host.wait(100)
    assert driver.speed(bond.device) == 10000


@pytest.mark.parametrize("mode", [0, 2, 3, 4, 5, 6])
def test_other_modes_come_up_and_carry_no_traffic(host: Host, mode: int) -> None:
    bond = host.bond(mode=mode, miimon=100, members=("eth1", "eth2"), up=True)
    host.wait(300)
    assert bond.device.carrier
    assert bond.route() is None
    assert not bond.accepts("eth1", host.now)
    states = {member.state for member in bond.snapshot().members}
    assert states == ({"backup"} if mode == 4 else {"active"})
    assert (bond.snapshot().active is not None) is (mode in (5, 6))
    assert any("carries no traffic" in line for line in host.logged)
    host.plug("eth1", False)
    host.plug("eth2", False)
    host.wait(100)
    assert not bond.device.carrier


@pytest.mark.parametrize("mode", [5, 6])
def test_the_active_member_of_the_adaptive_modes_has_the_bonds_address(host: Host, mode: int) -> None:
    bond = host.bond(mode=mode, miimon=100, members=("eth1", "eth2"), up=True)
    first, second = host.device("eth1").address, host.device("eth2").address
    assert (first, second) == (bytes.fromhex("020000000001"), bytes.fromhex("020000000002"))
    host.plug("eth1", False)
    host.wait(100)
    assert bond.active == "eth2"
    assert (host.device("eth1").address, host.device("eth2").address) == (second, first)
    host.do(bond, e.RemoveMember("eth1"))
    assert host.device("eth1").address == first
    if mode == 6:
        host.do(bond, e.SetAddress(bytes.fromhex("020000000077")))
        assert host.device("eth2").address == bond.device.address == bytes.fromhex("020000000077")


def test_min_links_of_802_3ad(host: Host) -> None:
    bond = host.bond(mode=4, miimon=100, members=("eth1",), up=True)
    host.wait(300)
    assert bond.device.carrier
    host.set(bond, "min_links", "2")
    assert not bond.device.carrier


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("bond1", errno.EPERM),
        ("+", errno.EPERM),
        ("+.", errno.EPERM),
        ("+eth1", errno.EEXIST),
        ("-no", errno.ENODEV),
        ("-bond%d", errno.ENODEV),
        ("+%", errno.EINVAL),
        ("+%s", errno.EINVAL),
        ("+%d%d", errno.EINVAL),
        ("+b%dc%d", errno.EINVAL),
        ("+b%dc%", errno.EINVAL),
        ("+b%%d", errno.EINVAL),
        ("+bond%d12345678%d", errno.EINVAL),  # the end of it that remains is one % too many
    ],
)
def test_bonding_masters_refuses(host: Host, text: str, code: int) -> None:
    with pytest.raises(Refused) as refused:
        host.registry.write_masters(host.now, text)
    assert refused.value.code == code
    assert host.registry.masters() == []


def test_a_number_needs_room_in_a_name(host: Host) -> None:
    names = [host.registry.create(host.now, "abcdefghijklm%d").name for _ in range(100)]
    assert names == [f"abcdefghijklm{number}" for number in range(100)]
    with pytest.raises(Refused) as refused:
        host.registry.create(host.now, "abcdefghijklm%d")
    assert refused.value.code == errno.ENFILE


def test_bonding_masters(host: Host) -> None:
    for text in ("+bond0", "+averyveryverylongname", "+bond%d", "+a b\n"):
        host.registry.write_masters(host.now, text)
    assert host.registry.masters() == ["bond0", "averyveryverylo", "bond1", "a"]
    host.registry.write_masters(host.now, "-bond0\n")
    assert host.registry.masters() == ["averyveryverylo", "bond1", "a"]
    host.namespace.rename(host.device("a"), "b")
    assert host.registry.masters() == ["averyveryverylo", "bond1", "b"]
    addresses = {host.device(name).address for name in host.registry.masters()}
    assert len(addresses) == 3
    assert all(address[0] & 3 == 2 for address in addresses)
