"""Every row of the table of known defects: the profile that has it shows it, the default profile does not."""

import errno
from collections.abc import Callable
from typing import Any

import pytest

from ibbond.bonding import arp_monitor
from ibbond.bonding import events as e
from ibbond.bonding.bond import Bond
from ibbond.bonding.effects import FailedOver, NotifyPeers, Prepare
from ibbond.bonding.quirks import PATCHES, PROFILES, QUIRKS, Rules, nearest_profile
from ibbond.errors import Refused
from ibbond.machine import MS
from ibbond.netdev.device import AddressOrigin, Flags
from ibbond.wire.hardware_type import ETHERNET, INFINIBAND
from tests.bonding.bond_host import IB_ADDRESSES, IB_BROADCAST, FakeDriver, Host, ethernet, infiniband

Seen = Callable[[Host], bool]
SHOWS: dict[str, Seen] = {}
"""For each row: does the kernel's behavior show on this host?"""


def shows(name: str) -> Callable[[Seen], Seen]:
    def take(function: Seen) -> Seen:
        SHOWS[name] = function
        return function

    return take


def pair(host: Host, **options: Any) -> Bond:
    bond = host.bond(mode=1, miimon=100, members=("ib1", "ib2"), up=True, **options)
    host.wait(1000)
    return bond


def code_of(bond: Bond, host: Host, event: e.BondEvent) -> int:
    """The errno of a request, 0 when it was granted."""
    try:
        host.do(bond, event)
    except Refused as refused:
        return refused.code
    return 0


@shows("dev_setup")
def stays_ethernet(host: Host) -> bool:
    bond = host.bond(mode=1, up=True)
    host.do(bond, e.AddMember("ib1"))
    assert bond.active == "ib1"
    return (bond.device.type, len(bond.device.address), bond.device.broadcast) == (ETHERNET, 6, b"\xff" * 6)


@shows("set_mac_address")
def refuses_what_cannot_set_its_address(host: Host) -> bool:
    return code_of(host.bond(mode=1, up=True), host, e.AddMember("ib1")) == errno.EOPNOTSUPP


@shows("allow_not_up_enslave")
def keeps_groups_of_the_old_type(host: Host) -> bool:
    """Up first leaves the Ethernet address of 224.0.0.1, and down first is refused."""
    bond = host.bond(mode=1)
    if code_of(bond, host, e.AddMember("ib1")) != errno.EPERM:
        return False
    host.do(bond, e.Open())
    bond.device.add_multicast(bytes.fromhex("01005e000001"))
    host.do(bond, e.AddMember("ib1"))
    return bytes.fromhex("01005e000001") in bond.device.multicast


for row in (
    "ipoib_neighbour",
    "neighbors_flushed",
    "cold_standby",
    "late_answers",
):  # the stack honours these, and tests them
    SHOWS[row] = lambda host, row=row: host.registry.rules.kernel(row)  # type: ignore[misc]


@shows("polled_links")
def waits_for_the_poll(host: Host) -> bool:
    bond = pair(host)
    host.plug("ib1", False)
    return bond.active == "ib1"


@shows("announcements_burnt")
def burns_one(host: Host) -> bool:
    pair(host, num_grat_arp=3)
    host.plug("ib1", False)
    return host.wait(2000).count(NotifyPeers()) + host.effects.count(NotifyPeers()) == 2 * 2


@shows("announcements_lost_in_outage")
def loses_the_announcement(host: Host) -> bool:
    pair(host, num_grat_arp=1)
    host.plug("ib1", False)
    host.plug("ib2", False)
    host.wait(1000)
    host.effects.clear()
    host.plug("ib2", True)
    host.wait(1000)
    return NotifyPeers() not in host.effects


@shows("break_before_make")
def switches_unprepared(host: Host) -> bool:
    bond = pair(host)
    effects = host.set(bond, "active_slave", "ib2")
    assert (Prepare("ib2") in effects) is (bond.active == "ib1")
    return bond.active == "ib2"


@shows("no_handover")
def drops_what_is_in_flight(host: Host) -> bool:
    bond = pair(host)
    host.set(bond, "active_slave", "ib2")
    host.ready(bond, "ib2")
    assert bond.active == "ib2"
    return not bond.accepts("ib1", host.now)


@shows("arp_of_ethernet_only")
def ignores_infinibands_arp(host: Host) -> bool:
    bond = host.bond(mode=1, arp_validate="all", arp_interval=100, arp_ip_target="+10.0.0.2", members=("ib1",), up=True)
    host.do(bond, e.AddressesChanged((bytes((10, 0, 0, 1)),)))
    before = bond.members["ib1"].last_rx
    host.wait(10)
    host.do(bond, e.ArpSeen("ib1", INFINIBAND, 20, 2, bytes((10, 0, 0, 2)), bytes((10, 0, 0, 1))))
    return bond.members["ib1"].last_rx == before


@shows("ages_in_jiffies")
def two_and_a_half_intervals_are_shorter(host: Host) -> bool:
    state = host.bond(mode=1, arp_interval=92, arp_ip_target="+10.0.0.2", members=("ib1",))._state
    state.now = 232 * MS
    return not arp_monitor.is_within(state, 3 * MS, 2)


@shows("own_probes_count")
def a_probe_of_its_own_is_life(host: Host) -> bool:
    bond = host.bond(mode=1, arp_interval=100, arp_ip_target="+10.0.0.2", members=("ib1", "ib2"), up=True)
    before = bond.members["ib2"].last_rx
    host.wait(10)
    host.do(bond, e.ArpSeen("ib2", INFINIBAND, 20, 1, bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2)), own=True))
    return bond.members["ib2"].last_rx > before


@shows("equal_priority_moves")
def a_new_member_moves_the_traffic(host: Host) -> bool:
    bond = pair(host)
    host.set(bond, "active_slave", "ib2")
    host.wait(200)
    assert bond.active == "ib2"
    host.do(bond, e.AddMember("ib3"))
    host.wait(200)
    return bond.active == "ib1"


@shows("cleared_active_drops")
def fails_over_to_itself(host: Host) -> bool:
    bond = pair(host)
    effects = host.set(bond, "active_slave", "\n")
    assert bond.active == "ib1"
    return FailedOver(None, "ib1") in effects


@shows("promiscuity_forgotten")
def forgets_promiscuity(host: Host) -> bool:
    bond = host.bond(mode=1, members=("ib1",))
    bond.device.ask(Flags.PROMISC, True)
    host.set(bond, "slaves", "-ib1")
    host.do(bond, e.AddMember("eth1"))
    assert bond.device.promiscuity == 1
    return not bond.device.flags & Flags.PROMISC


@shows("carrier_lost_in_downdelay")
def loses_carrier_at_once(host: Host) -> bool:
    bond = pair(host, downdelay=500)
    host.plug("ib2", False)
    host.wait(1000)
    host.plug("ib1", False)
    host.wait(200)
    assert bond.members["ib1"].link.word == "going down"
    return not bond.device.carrier


@shows("refusal_undresses_bond")
def closes_the_bond(host: Host) -> bool:
    bond = host.bond(mode=0, up=True)
    address = bond.device.address
    assert host.refused(bond, e.AddMember("ib1")) == errno.EOPNOTSUPP
    assert bond.device.type == ETHERNET
    assert bond.device.address == address
    return not bond.device.up


@shows("mtu_limit_lost")
def loses_the_limit(host: Host) -> bool:
    bond = host.bond(mode=1, members=("ib1",))
    host.set(bond, "slaves", "-ib1")
    host.do(bond, e.AddMember("eth1"))
    assert bond.device.mtu == 1500
    return bond.device.max_mtu == 1500


@shows("last_member_takes_bond")
def is_destroyed(host: Host) -> bool:
    bond = host.bond(mode=1, members=("ib1",))
    host.namespace.unregister(host.device("ib1"))
    assert bond.gone is ("bond0" not in host.namespace)
    assert not bond.members
    return bond.gone


@shows("random_address_of_six")
def keeps_the_old_gid(host: Host) -> bool:
    bond = host.bond(mode=1, members=("ib1",))
    host.set(bond, "slaves", "-ib1")
    assert bond.device.address_origin is AddressOrigin.RANDOM
    return bond.device.address[6:] == IB_ADDRESSES["ib1"][6:]


@shows("member_address_ignored")
def ignores_a_new_address(host: Host) -> bool:
    bond = pair(host)
    ib1 = host.device("ib1")
    ib1.driver = FakeDriver("ipoib", can_set_address=True, vlan_challenged=True, speed=None)
    restarted = bytes.fromhex("80000099") + ib1.address[4:]
    host.effects.clear()
    ib1.set_address(restarted, AddressOrigin.SET)
    host.wait(10)
    followed = bond.device.address == restarted
    assert followed is (NotifyPeers() in host.effects)
    return not followed


@shows("unlike_members_accepted")
def accepts_another_partition(host: Host) -> bool:
    other = IB_BROADCAST[:8] + b"\x80\x01" + IB_BROADCAST[10:]
    host.add(infiniband("ib9", bytes(19) + b"\x09", other))
    bond = host.bond(mode=1, members=("ib1",))
    code = code_of(bond, host, e.AddMember("ib9"))
    assert code in (0, errno.EINVAL)
    return "ib9" in bond.members


@shows("follow_gives_duplicates")
def two_members_have_one_address(host: Host) -> bool:
    twin = host.add(ethernet("eth9", host.device("eth1").address))
    bond = host.bond(mode=1, fail_over_mac="follow", members=("eth1",))
    host.do(bond, e.AddMember("eth9"))
    return twin.address == host.device("eth1").address


@shows("first_run_locked_out")
def first_run_is_late(host: Host) -> bool:
    bond = host.bond(mode=1, miimon=100, updelay=1000, members=("ib1",), up=True)
    now = bond.active
    host.wait(4)
    assert bond.active == "ib1"
    return now is None


@shows("pending_run_kept")
def keeps_the_old_interval(host: Host) -> bool:
    bond = host.bond(mode=1, miimon=10_000, members=("ib1", "ib2"), up=True, link_events="off")
    host.plug("ib1", False)
    host.set(bond, "miimon", "10")
    host.wait(100)
    return bond.active == "ib1"


@pytest.mark.parametrize("row", QUIRKS)
def test_the_kernels_profile_shows_the_row(row: str) -> None:
    host = Host("default", without={row}) if row in PATCHES else Host("kernel-6.1")
    assert SHOWS[row](host)


@pytest.mark.parametrize("row", QUIRKS)
def test_the_default_profile_does_not(row: str) -> None:
    assert not SHOWS[row](Host("default"))


def test_every_row_says_what_and_why() -> None:
    assert set(SHOWS) == set(QUIRKS)
    assert all(row.kernel and row.ours and row.why for row in QUIRKS.values())


def test_profiles() -> None:
    assert set(PROFILES) == {"default", "kernel-6.1", "kernel-6.12", "linux-2.6.19"}
    assert not PROFILES["default"].defects
    assert not PROFILES["kernel-6.1"].defects & PATCHES
    assert PROFILES["linux-2.6.19"].defects >= PATCHES


def test_versions_decide_what_a_kernel_has() -> None:
    assert QUIRKS["announcements_burnt"].in_kernel((6, 1))
    assert not QUIRKS["announcements_burnt"].in_kernel((7, 3))
    assert not QUIRKS["dev_setup"].in_kernel((2, 6, 24))
    assert QUIRKS["dev_setup"].in_kernel((2, 6, 19))
    follow = QUIRKS["follow_gives_duplicates"]
    assert all(follow.in_kernel(version) for version in ((6, 1, 192), (6, 6), (6, 12, 1)))
    assert not any(follow.in_kernel(version) for version in ((6, 12, 117), (6, 12), (7, 1)))


@pytest.mark.parametrize(
    ("version", "name"),
    [((5, 14), "kernel-6.1"), ((6, 8), "kernel-6.1"), ((6, 12, 90), "kernel-6.12"), ((7, 3), "kernel-6.12")],
)
def test_the_nearest_recorded_kernel(version: tuple[int, ...], name: str) -> None:
    assert nearest_profile(version).name == name


@pytest.mark.parametrize(("profile", "without"), [("kernel-9.9", ()), ("default", ("no_such_row",))])
def test_unknown_names_are_refused(profile: str, without: tuple[str, ...]) -> None:
    with pytest.raises(Refused):
        Rules.of(profile, without)


def test_the_kernels_before_2007_refuse_infiniband_altogether() -> None:
    host = Host("linux-2.6.19")
    bond = host.bond(mode=1, up=True)
    assert host.refused(bond, e.AddMember("ib1")) == errno.EOPNOTSUPP


def test_handover_ends() -> None:
    host = Host()
    bond = pair(host)
    host.set(bond, "active_slave", "ib2")
    host.ready(bond, "ib2")
    assert bond.accepts("ib1", host.now + 49 * MS)
    assert not bond.accepts("ib1", host.now + 49 * MS, unicast=False)
    assert not bond.accepts("ib1", host.now + 50 * MS)
