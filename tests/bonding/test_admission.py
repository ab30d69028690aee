"""Joining and leaving: the order of refusals, what is undone, what is given back."""

import errno

import pytest

from ibbond.bonding import events as e
from ibbond.errors import Refused
from ibbond.netdev.device import AddressOrigin, Device, Flags, NetdevEvent
from ibbond.wire.hardware_type import ETHERNET, INFINIBAND
from tests.bonding.bond_host import IB_ADDRESSES, IB_BROADCAST, FakeDriver, Host, ethernet, infiniband

PROFILES = ("default", "kernel-6.1")
ETH1 = bytes.fromhex("020000000001")


@pytest.fixture(params=PROFILES)
def host(request: pytest.FixtureRequest) -> Host:
    return Host(request.param)


def plain(name: str, kind: str = "tun", **fields: object) -> Device:
    driver = FakeDriver(kind, can_set_address=False, vlan_challenged=False, speed=None)
    device = Device(name, driver, 0xFFFE, b"", b"")
    for field, value in fields.items():
        setattr(device, field, value)
    return device


def test_a_can_device(host: Host) -> None:
    host.add(plain("can0", type=280))
    assert host.refused(host.bond(mode=1), e.AddMember("can0")) == errno.EPERM


def test_a_master_that_is_no_bond(host: Host) -> None:
    host.add(plain("team0", flags=Flags.MASTER))
    assert host.refused(host.bond(mode=1), e.AddMember("team0")) == errno.EPERM


def test_a_member_of_another_bond(host: Host) -> None:
    host.bond("bond1", mode=1, members=("ib1",))
    assert host.refused(host.bond(mode=1), e.AddMember("ib1")) == errno.EBUSY


def test_twice(host: Host) -> None:
    assert host.refused(host.bond(mode=1, members=("ib1",)), e.AddMember("ib1")) == errno.EBUSY


def test_itself(host: Host) -> None:
    assert host.refused(host.bond(mode=1), e.AddMember("bond0")) == errno.EPERM


def test_bonds_in_a_loop(host: Host) -> None:
    outer, inner = host.bond("outer", mode=1), host.bond("inner", mode=1)
    host.do(outer, e.AddMember("inner"))
    assert inner.device.master is outer.device
    assert host.refused(inner, e.AddMember("outer")) == errno.EBUSY


def test_a_device_that_is_up(host: Host) -> None:
    host.device("ib1").open()
    bond = host.bond(mode=1)
    assert host.refused(bond, e.AddMember("ib1")) == errno.EPERM
    assert bond.device.type == ETHERNET


def test_vlans_on_the_bond_exclude_infiniband(host: Host) -> None:
    bond = host.bond(mode=1)
    host.add(plain("bond0.5", kind="vlan", lowers=[bond.device]))
    assert host.refused(bond, e.AddMember("ib1")) == errno.EPERM


def test_an_unknown_device(host: Host) -> None:
    assert host.refused(host.bond(mode=1), e.AddMember("nosuch")) == errno.ENODEV


def test_a_veto_of_the_type_change(host: Host) -> None:
    bond = host.bond(mode=1)

    def veto(notice: NetdevEvent, device: Device) -> None:
        if notice is NetdevEvent.PRE_TYPE_CHANGE:
            raise Refused("no", why="routes", fix="Remove them", code=errno.EINVAL)

    host.namespace.subscribe(veto)
    assert host.refused(bond, e.AddMember("ib1")) == errno.EBUSY
    assert bond.device.type == ETHERNET
    assert not bond.members


def test_a_member_that_cannot_set_its_address_and_another_policy(host: Host) -> None:
    bond = host.bond(mode=1, members=("eth1",))
    driver = host.device("eth2").driver
    assert isinstance(driver, FakeDriver)
    driver.can_set_address = False
    assert host.refused(bond, e.AddMember("eth2")) == errno.EOPNOTSUPP
    assert list(bond.members) == ["eth1"]


def test_a_first_member_that_cannot_set_its_address_forces_the_policy(host: Host) -> None:
    host.device("eth1").driver.can_set_address = False  # type: ignore[misc]
    bond = host.bond(mode=1, members=("eth1",))
    assert bond.values.fail_over_mac == 1
    host.do(bond, e.RemoveMember("eth1"))
    assert bond.values.fail_over_mac == 1  # it stays forced


@pytest.mark.parametrize("mtu", [1500, 9000])
def test_an_mtu_that_the_member_refuses_is_undone(host: Host, mtu: int) -> None:
    bond = host.bond(mode=1)
    host.do(bond, e.SetMtu(mtu))
    driver = host.device("ib1").driver
    assert isinstance(driver, FakeDriver)
    driver.refuses_mtu_above = 1400
    before = bond.snapshot()
    host.refused(bond, e.AddMember("ib1"))
    ib1 = host.device("ib1")
    assert (ib1.mtu, ib1.up, ib1.master, ib1.flags & Flags.SLAVE) == (2044, False, None, 0)
    assert bond.device.type == ETHERNET
    assert bond.device.address[:6] != IB_ADDRESSES["ib1"][:6]
    assert not bond.members
    if host.registry.rules.profile.name == "default":
        assert bond.snapshot() == before  # the kernel leaves a new address, an MTU of 1500 and the forced policy


def test_a_member_that_cannot_be_opened_gets_everything_back(host: Host) -> None:
    class Broken(FakeDriver):
        def open(self, device: Device) -> None:
            raise Refused("cannot open", why="broken", fix="Repair it", code=errno.EIO)

    eth1 = host.device("eth1")
    eth1.driver = Broken("ethernet", can_set_address=True, vlan_challenged=False, speed=None)
    bond = host.bond(mode=1, members=("eth2",))
    host.do(bond, e.SetMtu(1400))
    assert host.refused(bond, e.AddMember("eth1")) == errno.EIO
    assert (eth1.address, eth1.mtu, eth1.master, eth1.flags & Flags.SLAVE) == (ETH1, 1500, None, 0)
    assert list(bond.members) == ["eth2"]


def test_ethernet_members_take_the_bonds_address_and_get_theirs_back(host: Host) -> None:
    bond = host.bond(mode=1, members=("eth1", "eth2"))
    assert bond.device.address == ETH1 == host.device("eth2").address
    host.do(bond, e.RemoveMember("eth2"))
    assert host.device("eth2").address == bytes.fromhex("020000000002")
    assert not host.device("eth2").up


def test_a_point_to_point_member_makes_the_bond_one(host: Host) -> None:
    host.add(plain("tun0", flags=Flags.POINTOPOINT | Flags.NOARP | Flags.MULTICAST))
    bond = host.bond(mode=1, members=("tun0",))
    assert bond.device.flags & Flags.POINTOPOINT
    assert not bond.device.flags & Flags.BROADCAST
    assert bond.device.address == b""
    host.do(bond, e.RemoveMember("tun0"))
    host.do(bond, e.AddMember("eth1"))
    assert len(bond.device.address) == 6
    assert bond.device.flags & Flags.BROADCAST
    assert not bond.device.flags & Flags.POINTOPOINT


def test_a_bond_that_was_up_stays_up_through_the_type_change(host: Host) -> None:
    bond = host.bond(mode=1, up=True)
    host.notices.clear()
    host.do(bond, e.AddMember("ib1"))
    seen = [notice for name, notice in host.notices if name == "bond0"]
    pre, post = seen.index(NetdevEvent.PRE_TYPE_CHANGE), seen.index(NetdevEvent.POST_TYPE_CHANGE)
    assert pre < seen.index(NetdevEvent.DOWN) < seen.index(NetdevEvent.UP) < post
    assert bond.device.up


def test_not_a_member(host: Host) -> None:
    bond = host.bond(mode=1, members=("ib1",))
    assert host.refused(bond, e.RemoveMember("ib2")) == errno.EINVAL
    assert host.refused(bond, e.RemoveMember("nosuch")) == errno.ENODEV


def test_releasing_the_active_member_fails_over(host: Host) -> None:
    bond = host.bond(mode=1, members=("ib1", "ib2"), up=True)
    host.do(bond, e.RemoveMember("ib1"))
    assert bond.active == "ib2"
    assert bond.device.address == IB_ADDRESSES["ib2"]
    assert bond.device.carrier


def test_releasing_the_primary_keeps_its_name(host: Host) -> None:
    bond = host.bond(mode=1, members=("ib1", "ib2"), primary="ib2", up=True)
    assert bond.active == "ib2"
    host.do(bond, e.RemoveMember("ib2"))
    assert bond.snapshot().primary is None
    host.do(bond, e.AddMember("ib2"))
    host.wait(200)
    assert bond.snapshot().primary == "ib2"
    assert bond.active == "ib2"


def test_the_last_member_leaves_a_bond_without_carrier(host: Host) -> None:
    bond = host.bond(mode=1, members=("ib1",), up=True)
    host.notices.clear()
    host.do(bond, e.RemoveMember("ib1"))
    assert (bond.active, bond.device.carrier, bond.device.type) == (None, False, INFINIBAND)
    assert bond.device.address_origin is AddressOrigin.RANDOM
    reported = [notice for name, notice in host.notices if name == "bond0"]
    assert reported.index(NetdevEvent.CHANGEADDR) < reported.index(NetdevEvent.RELEASE)


def test_the_next_member_decides_the_type(host: Host) -> None:
    bond = host.bond(mode=1, members=("ib1",), up=True)
    host.do(bond, e.RemoveMember("ib1"))
    host.do(bond, e.AddMember("eth1"))
    assert (bond.device.type, bond.device.address) == (ETHERNET, ETH1)
    assert bond.device.up
    assert bond.device.broadcast == b"\xff" * 6


def test_a_member_unregistered_with_others_left(host: Host) -> None:
    bond = host.bond(mode=1, members=("ib1", "ib2"), up=True)
    host.namespace.unregister(host.device("ib1"))
    assert list(bond.members) == ["ib2"]
    assert bond.active == "ib2"
    assert "bond0" in host.registry.bonds


def test_a_bond_that_is_deleted_releases_its_members(host: Host) -> None:
    bond = host.bond(mode=1, members=("ib1", "ib2"), up=True)
    host.registry.delete(host.now, "bond0")
    assert bond.gone
    assert "bond0" not in host.namespace
    assert all(host.device(name).master is None and not host.device(name).up for name in ("ib1", "ib2"))
    assert host.device("ib1").mtu == 2044


def test_a_bonds_device_that_is_unregistered_releases_its_members(host: Host) -> None:
    bond = host.bond(mode=1, members=("ib1",), up=True)
    host.namespace.unregister(bond.device)
    assert host.registry.masters() == []
    assert host.device("ib1").master is None


def test_renaming_the_primary(host: Host) -> None:
    bond = host.bond(mode=1, members=("ib1", "ib2"), primary="ib2", up=True)
    with pytest.raises(Refused, match="it is up"):
        host.namespace.rename(host.device("ib2"), "zz2")
    host.device("ib2").close()
    host.namespace.rename(host.device("ib2"), "zz2")
    assert list(bond.members) == ["ib1", "zz2"]
    assert bond.snapshot().primary is None
    host.namespace.rename(host.device("zz2"), "ib2")
    assert bond.snapshot().primary == "ib2"


def test_a_forced_address_length_comes_from_the_member(host: Host) -> None:
    host.add(infiniband("ibx", bytes(range(20)), IB_BROADCAST))
    bond = host.bond(mode=1, members=("ibx",))
    assert bond.device.broadcast == IB_BROADCAST
    assert bond.device.hard_header_len == 24
    assert bond.snapshot().members[0].permanent_address == bytes(range(20))


def test_follow_swaps_addresses(host: Host) -> None:
    bond = host.bond(mode=1, fail_over_mac="follow", members=("eth1", "eth2"), up=True)
    assert (host.device("eth1").address, bond.device.address) == (ETH1, ETH1)
    second = host.device("eth2").address
    host.set(bond, "active_slave", "eth2")
    host.wait(200)
    assert bond.active == "eth2"
    assert (host.device("eth2").address, host.device("eth1").address) == (ETH1, second)


def test_the_bonds_address_by_hand(host: Host) -> None:
    bond = host.bond(mode=1, members=("eth1", "eth2"))
    new = bytes.fromhex("02aabbccddee")
    host.do(bond, e.SetAddress(new))
    assert {bond.device.address, host.device("eth1").address, host.device("eth2").address} == {new}
    assert host.refused(bond, e.SetAddress(bytes(6))) == errno.EADDRNOTAVAIL
    assert host.refused(bond, e.SetAddress(b"\x01" * 6)) == errno.EADDRNOTAVAIL


def test_with_fail_over_mac_it_is_accepted_and_ignored(host: Host) -> None:
    bond = host.bond(mode=1, members=("ib1",))
    host.do(bond, e.SetAddress(bytes.fromhex("02aabbccddee")))
    assert bond.device.address == IB_ADDRESSES["ib1"]


def test_a_member_that_refuses_the_address_undoes_it(host: Host) -> None:
    class Stubborn(FakeDriver):
        def check_address(self, device: Device, address: bytes) -> None:
            if address[1] == 0xAA:
                raise Refused("no", why="stubborn", fix="None", code=errno.EBUSY)

    host.add(ethernet("eth9", bytes.fromhex("020000000009")))
    host.device("eth9").driver = Stubborn("ethernet", can_set_address=True, vlan_challenged=False, speed=None)
    bond = host.bond(mode=1, members=("eth1", "eth9"))
    assert host.refused(bond, e.SetAddress(bytes.fromhex("02aabbccddee"))) == errno.EBUSY
    assert {bond.device.address, host.device("eth1").address, host.device("eth9").address} == {ETH1}


def test_the_mtu_of_all_or_none(host: Host) -> None:
    bond = host.bond(mode=1, members=("ib1", "ib2"))
    driver = host.device("ib2").driver
    assert isinstance(driver, FakeDriver)
    driver.refuses_mtu_above = 2044
    host.do(bond, e.SetMtu(2044))
    assert host.device("ib1").mtu == host.device("ib2").mtu == 2044
    assert host.refused(bond, e.SetMtu(4092)) == errno.EINVAL
    assert bond.device.mtu == host.device("ib1").mtu == host.device("ib2").mtu == 2044


def test_a_refusal_changes_nothing_in_our_profile() -> None:
    host = Host("default")
    bond = host.bond(mode=0, up=True)
    before = (bond.snapshot(), tuple(bond.device.multicast), host.device("ib1").mtu)
    assert host.refused(bond, e.AddMember("ib1")) == errno.EOPNOTSUPP
    assert (bond.snapshot(), tuple(bond.device.multicast), host.device("ib1").mtu) == before


def test_what_was_logged_before_a_refusal_comes_with_the_next_call(host: Host) -> None:
    bond = host.bond(mode=1, members=("ib1",))
    host.refused(bond, e.AddMember("eth1"))
    assert bond.deadline() == host.now
    text = [getattr(effect, "text", "") for effect in bond.tick(host.now)]
    assert "Error: Device type is different from other slaves" in text
    assert bond.deadline() is None or bond.deadline() != host.now
