"""The 25 test vectors that were measured on the real driver or derived from its rules (profile kernel-6.1)."""

import errno
from typing import Any

import pytest

from ibbond.bonding import events as e
from ibbond.bonding.announcements import due
from ibbond.bonding.arp_monitor import is_within
from ibbond.bonding.bond import Bond
from ibbond.bonding.effects import NotifyPeers, ProbeArp
from ibbond.bonding.member import Link
from ibbond.bonding.option import Mode
from ibbond.machine import MS
from ibbond.netdev.device import AddressOrigin, NetdevEvent
from ibbond.wire.group_address import map_group
from ibbond.wire.hardware_type import ETHERNET, INFINIBAND
from tests.bonding.bond_host import IB_ADDRESSES, Host

ALL_HOSTS = bytes((224, 0, 0, 1))
ALL_NODES = bytes.fromhex("ff020000000000000000000000000001")
KERNEL = "kernel-6.1"


@pytest.fixture
def host() -> Host:
    return Host(KERNEL)


def mii(host: Host, *members: str, up: bool = True, **options: Any) -> Bond:
    """Mode 1, miimon 100, and the bond up first, as most of the vectors are."""
    bond = host.bond(mode=1, miimon=100, **options)
    if up:
        host.do(bond, e.Open())
    for member in members:
        host.do(bond, e.AddMember(member))
    return bond


def link(bond: Bond, member: str) -> str:
    return bond.members[member].link.word


def test_1_a_new_bond_has_the_kernels_defaults(host: Host) -> None:
    read = host.bond().snapshot().options
    expected = {"mode": 0, "miimon": 0, "num_grat_arp": 1, "fail_over_mac": 0, "resend_igmp": 1, "arp_missed_max": 2}
    assert {name: read[name] for name in expected} == expected
    assert read["slaves"] == ()


def test_2_an_infiniband_member_dresses_a_bond_that_is_up(host: Host) -> None:
    bond = mii(host, "ib1")
    device = bond.device
    assert (device.type, device.address, device.mtu) == (INFINIBAND, IB_ADDRESSES["ib1"], 1500)
    assert host.device("ib1").mtu == 1500
    assert bond.snapshot().options["fail_over_mac"] == 1
    assert device.up


def test_3_joined_groups_are_mapped_by_the_new_type(host: Host) -> None:
    """What the IP stack of the host does at PRE_TYPE_CHANGE and POST_TYPE_CHANGE, here by hand."""
    groups = (ALL_HOSTS, ALL_NODES, bytes.fromhex("ff0200000000000000000001ff0a0001"))

    def remap(notice: NetdevEvent, device: object) -> None:
        if device is not bond.device:
            return
        for group in groups:
            mapped = map_group(group, bond.device.type, bond.device.broadcast)
            if notice is NetdevEvent.PRE_TYPE_CHANGE:
                bond.device.remove_multicast(mapped)
            elif notice is NetdevEvent.POST_TYPE_CHANGE:
                bond.device.add_multicast(mapped)

    bond = host.bond(mode=1, miimon=100, up=True)
    for group in groups:
        bond.device.add_multicast(map_group(group, ETHERNET, bond.device.broadcast))
    host.namespace.subscribe(remap)
    host.do(bond, e.AddMember("ib1"))
    expected = {
        bytes.fromhex("00ffffffff12401bffff00000000000000000001"),
        bytes.fromhex("00ffffffff12601bffff00000000000000000001"),
        bytes.fromhex("00ffffffff12601bffff000000000001ff0a0001"),
    }
    assert set(bond.device.multicast) == expected
    assert set(host.device("ib1").multicast) == expected


def test_4_an_ethernet_device_is_refused_and_nothing_changed(host: Host) -> None:
    bond = mii(host, "ib1")
    before = bond.snapshot()
    assert host.refused(bond, e.AddMember("eth1")) == errno.EINVAL
    assert bond.snapshot() == before
    assert not host.device("eth1").up


@pytest.mark.parametrize("mode", [0, 2, 3, 5, 6])
def test_5_infiniband_in_another_mode_undresses_the_bond(host: Host, mode: int) -> None:
    bond = host.bond(mode=mode, up=True)
    assert host.refused(bond, e.AddMember("ib1")) == errno.EOPNOTSUPP
    assert bond.device.type == ETHERNET
    assert len(bond.device.address) == 6
    assert not bond.device.up


def test_6_infiniband_in_802_3ad(host: Host) -> None:
    bond = host.bond(mode=4, up=True)
    assert host.refused(bond, e.AddMember("ib1")) == errno.EINVAL
    assert bond.device.up
    assert bond.device.type == ETHERNET


def test_7_a_lost_carrier_fails_over_within_one_miimon(host: Host) -> None:
    bond = mii(host, "ib1", "ib2")
    host.wait(250)
    host.notices.clear()
    host.plug("ib1", False)
    assert bond.active == "ib1"
    host.wait(100)
    assert bond.active == "ib2"
    assert bond.device.address == IB_ADDRESSES["ib2"]
    assert ("bond0", NetdevEvent.CHANGEADDR) in host.notices  # which empties the neighbor cache
    assert bond.members["ib1"].failures == 1


def test_8_the_gratuitous_arp_carries_the_new_members_address(host: Host) -> None:
    """The frame is made by the stack from the bond's address, which is in place before the effect."""
    bond = mii(host, "ib1", "ib2")
    host.wait(250)
    host.effects.clear()
    host.plug("ib1", False)
    host.wait(100)
    assert host.effects.count(NotifyPeers()) == 1
    assert bond.device.address == IB_ADDRESSES["ib2"]


def test_9_a_member_that_returns_waits_for_a_new_choice(host: Host) -> None:
    bond = mii(host, "ib1", "ib2")
    host.plug("ib1", False)
    host.wait(200)
    host.plug("ib1", True)
    host.wait(500)
    assert bond.active == "ib2"
    host.set(bond, "primary_reselect", "always")
    assert bond.active == "ib1"


def test_10_a_third_member_moves_the_traffic_to_the_first(host: Host) -> None:
    bond = mii(host, "ib1", "ib2")
    host.set(bond, "active_slave", "ib2")
    host.do(bond, e.AddMember("ib3"))
    assert bond.active == "ib1"


def test_11_a_bond_without_members_keeps_its_type(host: Host) -> None:
    bond = mii(host, "ib1", "ib2")
    host.set(bond, "slaves", "-ib1")
    host.set(bond, "slaves", "-ib2")
    assert bond.device.type == INFINIBAND
    assert bond.device.address[6:] == IB_ADDRESSES["ib2"][6:]
    assert bond.device.address[:6] != IB_ADDRESSES["ib2"][:6]
    assert bond.device.address_origin is AddressOrigin.RANDOM
    for name in ("ib1", "ib2"):
        device = host.device(name)
        assert (device.up, device.address, device.mtu) == (False, IB_ADDRESSES[name], 2044)


def test_12_the_last_infiniband_device_takes_the_bond_along(host: Host) -> None:
    mii(host, "ib1")
    host.namespace.unregister(host.device("ib1"))
    assert host.registry.masters() == []
    assert "bond0" not in host.namespace


def test_13_with_updelay_the_first_member_is_active_at_the_first_run(host: Host) -> None:
    bond = mii(host, up=False, updelay=1000)
    host.do(bond, e.AddMember("ib1"))
    assert link(bond, "ib1") == "going back"
    assert bond.active is None
    host.do(bond, e.Open())
    host.wait(100)
    assert bond.active == "ib1"


def test_14_without_an_active_member_updelay_is_not_waited_for(host: Host) -> None:
    bond = mii(host, up=False, updelay=1000)
    host.do(bond, e.AddMember("ib1"))
    host.do(bond, e.Open())
    host.wait(100)
    host.do(bond, e.AddMember("ib2"))
    host.plug("ib1", False)
    host.wait(100)
    assert bond.active == "ib2"
    assert link(bond, "ib2") == "up"


def test_15_downdelay(host: Host) -> None:
    bond = mii(host, "ib1", "ib2", downdelay=500)
    host.wait(250)
    host.plug("ib1", False)
    host.wait(100)
    assert (link(bond, "ib1"), bond.active) == ("going down", "ib1")
    host.wait(400)
    assert (link(bond, "ib1"), bond.active) == ("going down", "ib1")
    host.wait(100)
    assert (link(bond, "ib1"), bond.active) == ("down", "ib2")


def test_16_delays_are_kept_in_ticks(host: Host) -> None:
    bond = mii(host, updelay=250)
    read = []
    for miimon in (None, 50, 0, 100):
        if miimon is not None:
            host.set(bond, "miimon", str(miimon))
        read.append(bond.snapshot().options["updelay"])
    assert read == [200, 100, 0, 200]


def announced(host: Host, ms: int) -> list[int]:
    """When announcements were made, in ms from now."""
    began, at = host.now, []
    while host.now < began + ms * MS:
        at += [(host.now - began) // MS + 1 for effect in host.wait(1) if effect == NotifyPeers()]
    return at


def test_17_spacing_of_announcements(host: Host) -> None:
    mii(host, "ib1", "ib2", num_grat_arp=3, peer_notif_delay=300)
    host.wait(1000)
    host.plug("ib1", False)
    first, second, third = announced(host, 1000)
    assert (second - first, third - first) == (200, 500)


@pytest.mark.parametrize(("count", "sent"), [(1, 0), (2, 1), (3, 2)])
def test_18_a_total_outage_costs_an_announcement(host: Host, count: int, sent: int) -> None:
    bond = mii(host, "ib1", "ib2", num_grat_arp=count)
    host.wait(1000)
    host.plug("ib1", False)
    host.plug("ib2", False)
    host.wait(300)
    assert bond.active is None
    host.plug("ib1", True)
    assert len(announced(host, 1000)) == sent


@pytest.mark.parametrize(("count", "sent"), [(1, 1), (2, 1), (3, 2), (5, 4)])
def test_18b_the_run_that_fails_over_burns_one(host: Host, count: int, sent: int) -> None:
    mii(host, "ib1", "ib2", num_grat_arp=count)
    host.wait(1000)
    host.plug("ib1", False)
    assert len(announced(host, 1500)) == sent


@pytest.mark.parametrize("count", [0, 1, 3])
def test_18c_a_switch_by_hand_burns_none(host: Host, count: int) -> None:
    bond = mii(host, "ib1", "ib2", num_grat_arp=count)
    host.wait(1000)
    effects = host.set(bond, "active_slave", "ib2")
    assert effects.count(NotifyPeers()) + len(announced(host, 1500)) == count


def test_19_a_silent_target_is_noticed_after_two_and_a_half_intervals(host: Host) -> None:
    bond = host.bond(mode=1, arp_interval=200, arp_ip_target="+10.0.0.254", members=("ib1", "ib2"), up=True)
    answer_until(host, bond, 1000)
    last = host.now
    while bond.members["ib1"].link is Link.UP:
        host.wait(1)
    assert 500 <= (host.now - last) // MS <= 700  # 2.5 intervals, seen at the next run


def answer_until(host: Host, bond: Bond, ms: int) -> None:
    """The target answers each probe of the active member at once."""
    until = host.now + ms * MS
    while host.now < until:
        for effect in host.wait(10):
            if isinstance(effect, ProbeArp):
                seen = e.ArpSeen(effect.name, 32, 20, 2, effect.target, bytes((10, 0, 0, 1)))
                host.do(bond, seen)


def test_20_arp_validation_never_succeeds_on_infiniband(host: Host) -> None:
    bond = host.bond(
        mode=1, arp_validate="all", arp_interval=200, arp_ip_target="+10.0.0.254", members=("ib1", "ib2"), up=True
    )
    host.do(bond, e.AddressesChanged((bytes((10, 0, 0, 1)),)))
    answer_until(host, bond, 2000)
    assert bond.active is None
    seen = set()
    for _ in range(20):
        answer_until(host, bond, 100)
        seen.add(tuple(sorted(link(bond, name) for name in bond.members)))
    assert seen == {("going back", "going down")}


def test_21_no_switch_by_hand_without_an_active_member(host: Host) -> None:
    bond = mii(host, "ib1", "ib2")
    host.plug("ib1", False)
    host.plug("ib2", False)
    host.wait(200)
    assert host.refused(bond, e.SetOption("active_slave", "ib1")) == errno.EINVAL


def test_22_reselect_failure(host: Host) -> None:
    bond = mii(host, "ib1", "ib2", primary_reselect="failure")
    host.set(bond, "primary", "ib2")
    assert bond.active == "ib2"
    host.plug("ib2", False)
    host.wait(200)
    host.plug("ib2", True)
    host.wait(500)
    assert bond.active == "ib1"
    host.set(bond, "primary", "ib2")
    assert bond.active == "ib2"


def test_23_the_interval_of_the_arp_monitor(host: Host) -> None:
    bond = host.bond(mode=1, arp_interval=200)
    state = bond._state
    began = host.now
    for ms, expected in ((500, True), (503, True), (504, False)):  # ticks of 4 ms
        state.now = began + ms * MS
        assert is_within(state, began, 2) is expected


def test_24_the_kernels_carrier_goes_off_before_downdelay_is_over(host: Host) -> None:
    bond = mii(host, "ib1", downdelay=500)
    host.wait(250)
    host.plug("ib1", False)
    host.wait(100)
    assert (bond.device.carrier, link(bond, "ib1"), bond.active) == (False, "going down", "ib1")
    host.wait(500)
    assert bond.active is None


def test_25_when_the_counter_is_due() -> None:
    assert [left for left in range(12, -1, -1) if due(left, 3)] == [12, 9, 6, 3]


def test_modes_have_the_kernels_words() -> None:
    words = "balance-rr active-backup balance-xor broadcast 802.3ad balance-tlb balance-alb"
    assert [mode.word for mode in Mode] == words.split()
