"""What is better than the kernel in profile `default`: events, exact announcements, make before break, handover."""

from typing import Any

import pytest

from ibbond.bonding import events as e
from ibbond.bonding.bond import Bond
from ibbond.bonding.effects import FailedOver, NotifyPeers, Prepare, ResendReports
from ibbond.bonding.member import Link
from ibbond.machine import MS
from ibbond.netdev.device import NetdevEvent
from tests.bonding.bond_host import IB_ADDRESSES, Host


def bond_of(host: Host, *members: str, **options: Any) -> Bond:
    bond = host.bond(mode=1, members=members or ("ib1", "ib2"), up=True, **options)
    host.wait(2000)
    host.effects.clear()
    return bond


def announcements(host: Host, ms: int) -> list[int]:
    """When the bond reported its peers, in ms from now; what was sent already counts as 0."""
    began = host.now
    at = [0] * host.effects.count(NotifyPeers())
    while host.now < began + ms * MS:
        at += [(host.now - began) // MS + 1] * host.wait(1).count(NotifyPeers())
    host.effects.clear()
    return at


@pytest.mark.parametrize("miimon", [0, 100])
def test_a_lost_carrier_is_one_failover_at_once(miimon: int) -> None:
    host = Host()
    bond = bond_of(host, miimon=miimon)
    host.plug("ib1", False)
    assert bond.active == "ib2"
    assert bond.device.address == IB_ADDRESSES["ib2"]
    order = [effect for effect in host.effects if isinstance(effect, FailedOver | NotifyPeers)]
    assert order == [FailedOver("ib1", "ib2"), NotifyPeers()]


def test_without_link_events_the_poll_decides() -> None:
    host = Host()
    bond = bond_of(host, miimon=100, link_events="off")
    host.plug("ib1", False)
    assert bond.active == "ib1"
    host.wait(100)
    assert bond.active == "ib2"


def test_an_admin_down_member_fails_over_like_a_cut_cable() -> None:
    host = Host()
    bond = bond_of(host)
    host.device("ib1").close()
    host.do(bond, e.MemberChanged("ib1"))
    assert bond.active == "ib2"


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5])
@pytest.mark.parametrize("miimon", [0, 50])
def test_n_announcements_are_n_announcements(count: int, miimon: int) -> None:
    host = Host()
    bond = bond_of(host, num_grat_arp=count, miimon=miimon)
    host.plug("ib1", False)
    assert len(announcements(host, 2000)) == count
    host.plug("ib1", True)
    host.set(bond, "active_slave", "ib1")
    host.ready(bond, "ib1")
    assert bond.active == "ib1"
    assert len(announcements(host, 2000)) == count


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("miimon", [0, 100])
def test_also_after_a_total_outage(count: int, miimon: int) -> None:
    host = Host()
    bond = bond_of(host, num_grat_arp=count, miimon=miimon)
    host.plug("ib1", False)
    host.plug("ib2", False)
    host.wait(1000)
    assert bond.active is None
    assert not bond.device.carrier
    host.effects.clear()
    host.plug("ib1", True)
    assert bond.active == "ib1"
    assert len(announcements(host, 2000)) == count


def test_announcements_wait_for_the_carrier_and_go_on() -> None:
    host = Host()
    bond = bond_of(host, num_grat_arp=3, miimon=100, peer_notif_delay=300)
    host.plug("ib1", False)
    assert announcements(host, 350) == [0, 300]
    host.plug("ib2", False)
    assert announcements(host, 1000) == []
    host.plug("ib2", True)
    assert bond.active == "ib2"
    assert announcements(host, 2000) == [0, 300, 600]  # a new activation counts again


def test_the_spacing_is_peer_notif_delay() -> None:
    host = Host()
    bond_of(host, num_grat_arp=4, miimon=50, peer_notif_delay=150)
    host.plug("ib1", False)
    assert announcements(host, 2000) == [0, 150, 300, 450]


def test_closing_the_bond_ends_announcements_and_reports() -> None:
    host = Host()
    bond = bond_of(host, num_grat_arp=5, resend_igmp=5)
    host.plug("ib1", False)
    host.do(bond, e.Close())
    host.effects.clear()
    host.wait(2000)
    assert not [effect for effect in host.effects if isinstance(effect, NotifyPeers | ResendReports)]
    assert bond.deadline() is None


@pytest.mark.parametrize("count", [0, 1, 3])
def test_group_reports_are_resent_as_often_as_asked(count: int) -> None:
    host = Host()
    bond_of(host, resend_igmp=count)
    host.plug("ib1", False)
    began, at = host.now, []
    while host.now < began + 1500 * MS:
        at += [(host.now - began) // MS + 1] * host.wait(1).count(ResendReports())
    assert at == [4 + 200 * number for number in range(count)]


def test_a_planned_switch_is_prepared_first() -> None:
    host = Host()
    bond = bond_of(host)
    assert host.set(bond, "active_slave", "ib2") == [Prepare("ib2")]
    assert bond.active == "ib1"
    assert bond.route() == "ib1"
    effects = host.ready(bond, "ib2")
    assert FailedOver("ib1", "ib2") in effects
    assert bond.route() == "ib2"


def test_preparation_is_not_waited_for_longer_than_100_ms() -> None:
    host = Host()
    bond = bond_of(host)
    host.set(bond, "active_slave", "ib2")
    host.wait(99)
    assert bond.active == "ib1"
    host.wait(1)
    assert bond.active == "ib2"


def test_a_cable_cut_meanwhile_does_not_wait() -> None:
    host = Host()
    bond = bond_of(host)
    host.set(bond, "active_slave", "ib2")
    host.plug("ib1", False)
    assert bond.active == "ib2"
    host.wait(200)
    assert host.effects.count(FailedOver("ib1", "ib2")) == 1


def test_a_target_cut_meanwhile_is_not_switched_to() -> None:
    host = Host()
    bond = bond_of(host)
    host.set(bond, "active_slave", "ib2")
    host.plug("ib2", False)
    host.ready(bond, "ib2")
    host.wait(200)
    assert bond.active == "ib1"
    assert not [effect for effect in host.effects if isinstance(effect, FailedOver)]


def test_a_target_released_meanwhile_is_forgotten() -> None:
    host = Host()
    bond = bond_of(host)
    host.set(bond, "active_slave", "ib2")
    host.set(bond, "slaves", "-ib2")
    host.device("ib2").open()  # it is up again, on its own
    host.ready(bond, "ib2")
    host.wait(200)
    assert bond.active == "ib1"


def test_a_failover_to_a_third_member_ends_a_preparation() -> None:
    host = Host()
    bond = bond_of(host, "ib1", "ib2", "ib3", primary_reselect="failure")
    host.do(bond, e.SetPriority("ib3", 10))
    host.set(bond, "active_slave", "ib2")
    host.plug("ib1", False)
    assert bond.active == "ib3"
    host.ready(bond, "ib2")
    host.wait(200)
    assert bond.active == "ib3"


def test_writing_the_present_member_takes_a_switch_back() -> None:
    host = Host()
    bond = bond_of(host)
    host.set(bond, "active_slave", "ib2")
    host.set(bond, "active_slave", "ib1")
    host.ready(bond, "ib2")
    host.wait(200)
    assert bond.active == "ib1"


def test_fail_back_to_the_primary_is_prepared() -> None:
    host = Host()
    bond = bond_of(host, primary="ib1")
    host.plug("ib1", False)
    host.wait(500)
    host.effects.clear()
    host.plug("ib1", True)
    assert Prepare("ib1") in host.effects
    assert bond.active == "ib2"
    host.ready(bond, "ib1")
    assert bond.active == "ib1"


def test_another_member_coming_up_does_not_upset_a_forced_switch() -> None:
    host = Host()
    bond = bond_of(host, "ib1", "ib2", "ib3", primary_reselect="failure")
    host.plug("ib3", False)
    host.set(bond, "primary", "ib2")
    host.plug("ib3", True)
    host.ready(bond, "ib2")
    assert bond.active == "ib2"


def test_a_first_member_needs_no_preparation() -> None:
    host = Host()
    bond = host.bond(mode=1, up=True)
    effects = host.do(bond, e.AddMember("ib1"))
    assert not [effect for effect in effects if isinstance(effect, Prepare)]
    assert bond.active == "ib1"


def test_updelay_is_counted_from_the_event() -> None:
    host = Host()
    bond = bond_of(host, miimon=100, updelay=300, primary="ib1")
    host.plug("ib1", False)
    host.wait(1030)
    host.plug("ib1", True)
    links = [bond.members["ib1"].link]
    for ms in (299, 1):
        host.wait(ms)
        links.append(bond.members["ib1"].link)
    assert links == [Link.BACK, Link.BACK, Link.UP]


def test_downdelay_is_counted_from_the_event_and_keeps_the_carrier() -> None:
    host = Host()
    bond = bond_of(host, miimon=100, downdelay=200)
    host.wait(37)
    host.plug("ib1", False)
    assert (bond.members["ib1"].link, bond.active, bond.device.carrier) == (Link.FAIL, "ib1", True)
    host.wait(199)
    assert bond.active == "ib1"
    host.wait(1)
    assert bond.active == "ib2"


def test_a_carrier_that_returns_within_downdelay_is_no_failure() -> None:
    host = Host()
    bond = bond_of(host, miimon=100, downdelay=200)
    host.plug("ib1", False)
    host.wait(150)
    host.plug("ib1", True)
    host.wait(500)
    assert bond.active == "ib1"
    assert bond.members["ib1"].failures == 0
    assert not [effect for effect in host.effects if isinstance(effect, FailedOver)]


def test_one_members_flapping_does_not_lengthen_anothers_delay() -> None:
    host = Host()
    bond = bond_of(host, "ib1", "ib2", "ib3", miimon=100, downdelay=200)
    host.plug("ib1", False)
    for on in (False, True, False, True, False, True):
        host.wait(30)
        host.plug("ib3", on)
    host.wait(20)
    assert bond.active == "ib2"


def test_a_cable_cut_while_the_bond_is_down_is_seen_when_it_opens() -> None:
    host = Host()
    bond = bond_of(host)
    host.do(bond, e.Close())
    host.plug("ib1", False)
    assert bond.active == "ib1"
    host.do(bond, e.Open())
    assert bond.active == "ib2"


def test_with_the_arp_monitor_a_lost_carrier_is_acted_on_and_a_return_is_not() -> None:
    host = Host()
    bond = host.bond(mode=1, arp_interval=100, arp_ip_target="+10.0.0.9", members=("ib3",), up=True)
    host.plug("ib3", False)
    assert bond.active is None
    assert not bond.device.carrier
    host.plug("ib3", True)
    assert bond.active is None  # the target decides


def test_the_address_is_in_place_before_peers_are_notified() -> None:
    host = Host()
    bond = bond_of(host)
    seen = []

    def listen(notice: NetdevEvent, device: object) -> None:
        if notice is NetdevEvent.NOTIFY_PEERS:
            seen.append((bond.device.address, bond.device.carrier, bond.active))

    host.namespace.subscribe(listen)
    host.plug("ib1", False)
    assert seen == [(IB_ADDRESSES["ib2"], True, "ib2")]


def test_a_delay_of_the_mii_monitor_ends_with_it() -> None:
    host = Host()
    bond = bond_of(host, miimon=100, downdelay=300)
    host.plug("ib1", False)
    assert bond.members["ib1"].link is Link.FAIL
    host.set(bond, "arp_interval", "1000")
    host.set(bond, "arp_ip_target", "+10.0.0.9")
    host.wait(400)
    assert bond.members["ib1"].link is Link.FAIL  # the ARP monitor has not looked since
