"""The ARP monitor: answers keep a member up, validation trusts who it should, rotation finds who still receives."""

from collections.abc import Iterable
from typing import Any

import pytest

from ibbond.bonding import events as e
from ibbond.bonding.bond import Bond
from ibbond.bonding.effects import ProbeArp, ProbeNeighbor
from ibbond.bonding.member import Link
from ibbond.machine import MS
from ibbond.wire.hardware_type import ETHERNET, INFINIBAND
from tests.bonding.bond_host import Host, infiniband

OWN, TARGET, OTHER = bytes((10, 0, 0, 1)), bytes((10, 0, 0, 254)), bytes((10, 0, 0, 253))
OWN6, TARGET6 = bytes.fromhex("fe80" + "00" * 13 + "01"), bytes.fromhex("fe80" + "00" * 13 + "fe")
T = 100


class Net:
    """A network behind the members: some targets answer, over some members."""

    def __init__(self, host: Host, bond: Bond, hardware_type: int, hardware_length: int) -> None:
        self.host, self.bond = host, bond
        self.hardware = (hardware_type, hardware_length)
        self.silent: set[bytes] = set()
        self.dead: set[str] = set()  # members that reach nothing, and leaves without a way to the targets
        self.leaves: dict[str, str] = {}
        self.probes: list[ProbeArp | ProbeNeighbor] = []
        host.do(bond, e.AddressesChanged((OWN, OWN6)))

    def run(self, ms: int) -> None:
        until = self.host.now + ms * MS
        self._answer([effect for effect in self.host.effects if isinstance(effect, ProbeArp | ProbeNeighbor)])
        self.host.effects.clear()
        while self.host.now < until:
            self._answer(self.host.wait(10))
            self.host.effects.clear()

    def leaf(self, member: str) -> str:
        """The switch of a member; by default all are at one."""
        return self.leaves.get(member, "leaf1")

    def _echo(self, member: str, probe: ProbeArp | ProbeNeighbor) -> e.BondEvent:
        if isinstance(probe, ProbeArp):
            return e.ArpSeen(member, *self.hardware, 1, OWN, probe.target, own=True)
        return e.NeighborDiscoverySeen(member, 135, OWN6, probe.target, probe.target, own=True)

    def _answer(self, effects: Iterable[object]) -> None:
        for probe in effects:
            if not isinstance(probe, ProbeArp | ProbeNeighbor):
                continue
            self.probes.append(probe)
            if probe.name in self.dead:
                continue
            for other in self.bond.members:  # a broadcast request reaches the other members
                if other != probe.name and other not in self.dead and self.leaf(other) == self.leaf(probe.name):
                    self.host.do(self.bond, self._echo(other, probe))
            if self.leaf(probe.name) in self.dead:
                continue
            if probe.target in self.silent:
                continue
            if isinstance(probe, ProbeArp):
                self.host.do(self.bond, e.ArpSeen(probe.name, *self.hardware, 2, probe.target, OWN))
            else:
                seen = e.NeighborDiscoverySeen(probe.name, 136, probe.target, OWN6, probe.target)
                self.host.do(self.bond, seen)


def net(kind: str = "ib", profile: str = "default", members: int = 2, **options: Any) -> tuple[Host, Bond, Net]:
    host = Host(profile)
    if members > 3:
        host.add(infiniband("ib4", bytes.fromhex("8000004cfe800000000000000002c903000a0004")))
    names = tuple(f"{kind}{number}" for number in range(1, members + 1))
    hardware = (INFINIBAND, 20) if kind == "ib" else (ETHERNET, 6)
    options = {"arp_interval": T, "arp_ip_target": "+10.0.0.254", **options}
    bond = host.bond(mode=1, members=names, **options)
    made = Net(host, bond, *hardware)
    host.do(bond, e.Open())
    return host, bond, made


@pytest.mark.parametrize("validate", ["none", "active", "backup", "all", "filter", "filter_active", "filter_backup"])
@pytest.mark.parametrize("kind", ["ib", "eth"])
def test_members_that_receive_the_target_stay_up(kind: str, validate: str) -> None:
    _, bond, lan = net(kind, arp_validate=validate)
    lan.run(3000)
    first = next(iter(bond.members))
    assert bond.active == first
    assert [member.link for member in bond.members.values()] == [Link.UP, Link.UP]
    assert [member.failures for member in bond.members.values()] == [0, 0]


@pytest.mark.parametrize("kind", ["ib", "eth"])
def test_a_dead_switch_behind_a_live_port_fails_over(kind: str) -> None:
    _, bond, lan = net(kind, arp_validate="all")
    lan.run(1000)
    first, second = bond.members
    lan.dead.add(first)
    lan.run(int(3.5 * T))
    assert bond.active == second
    assert bond.members[first].link is Link.DOWN
    assert bond.members[first].failures == 1
    lan.dead.clear()
    lan.run(500)
    assert bond.members[first].link is Link.UP
    assert bond.active == second


@pytest.mark.parametrize("target", ["arp_ip_target", "ns_ip6_target"])
@pytest.mark.parametrize("validate", ["none", "backup", "all", "filter"])
def test_a_leaf_without_an_uplink_is_left(validate: str, target: str) -> None:
    """The two members at it receive each other's probes, and that is not a sign of a way to the target."""
    host, bond, lan = net(members=4, arp_validate=validate)
    if target == "ns_ip6_target":
        host.set(bond, "ns_ip6_target", "+fe80::fe")
        host.set(bond, "arp_ip_target", "-10.0.0.254")
    lan.leaves = {"ib3": "leaf2", "ib4": "leaf2"}
    lan.run(1000)
    assert bond.active == "ib1"
    assert bond.members["ib2"].link is Link.UP, "its leaf is that of a member that is answered"
    lan.dead.add("leaf1")
    lan.run(10 * T)
    found = bond.active
    assert found in ("ib3", "ib4")
    for _ in range(20):
        lan.run(T)
        assert bond.active == found
    assert [name for name, member in bond.members.items() if member.link is Link.UP] == ["ib3", "ib4"]


def test_the_kernel_takes_own_probes_for_life() -> None:
    """Row `own_probes_count`: two members behind a dead uplink take turns."""
    _, bond, lan = net(members=4, profile="kernel-6.1")
    lan.leaves = {"ib3": "leaf2", "ib4": "leaf2"}
    lan.run(1000)
    lan.dead.add("leaf1")
    seen = set()
    for _ in range(100):
        lan.run(T)
        seen.add(bond.active)
    assert seen == {"ib1", "ib2"}


def test_a_primary_that_receives_again_takes_over() -> None:
    host, bond, lan = net(primary="ib1", arp_validate="all")
    lan.run(1000)
    lan.dead.add("ib1")
    lan.run(1000)
    assert bond.active == "ib2"
    lan.dead.clear()
    lan.run(1000)
    assert bond.active == "ib1"
    host.wait(0)


def test_while_no_target_answers_every_member_is_tried_in_turn() -> None:
    _, bond, lan = net(arp_validate="all")
    lan.run(500)
    lan.silent.add(TARGET)
    lan.run(1000)
    assert bond.active is None
    lan.probes.clear()
    lan.run(600)
    assert {probe.name for probe in lan.probes} == {"ib1", "ib2"}
    assert all(one.name != other.name for one, other in zip(lan.probes, lan.probes[1:], strict=False))
    lan.silent.clear()
    lan.run(500)
    assert bond.active is not None
    assert bond.device.carrier


@pytest.mark.parametrize(("wanted", "active"), [("any", True), ("all", False)])
def test_any_or_all_targets(wanted: str, active: bool) -> None:
    host, bond, lan = net(arp_validate="all", arp_all_targets=wanted)
    host.set(bond, "arp_ip_target", "+10.0.0.253")
    lan.run(1000)
    assert bond.active == "ib1"
    lan.silent.add(OTHER)
    lan.run(1500)
    assert (bond.active is not None) is active


@pytest.mark.parametrize("missed", [1, 2, 4])
def test_missed_max(missed: int) -> None:
    host, bond, lan = net(arp_validate="all", arp_missed_max=missed)
    lan.run(2000)
    lan.silent.add(TARGET)
    lan.dead.add("ib1")
    last = bond.members["ib1"].last_rx
    while bond.members["ib1"].link is Link.UP:
        lan.run(10)
    silence = (host.now - last) // MS
    assert (missed + 0.5) * T <= silence <= (missed + 2) * T


def test_ipv6_targets() -> None:
    host, bond, lan = net(arp_validate="all")
    host.set(bond, "arp_ip_target", "-10.0.0.254")
    host.set(bond, "ns_ip6_target", "+fe80::fe")
    lan.run(1500)
    assert bond.active == "ib1"
    assert {type(probe) for probe in lan.probes[5:]} == {ProbeNeighbor}
    lan.silent.add(TARGET6)
    lan.run(1500)
    assert bond.active is None


@pytest.mark.parametrize("profile", ["default", "kernel-6.1"])
def test_backups_listen_to_the_solicited_groups_of_ipv6_targets(profile: str) -> None:
    host, bond, _ = net(profile=profile, arp_validate="all")
    host.set(bond, "ns_ip6_target", "+fe80::fe")
    group = bytes.fromhex("00ffffffff12601bffff000000000001ff0000fe")
    assert group in host.device("ib2").multicast
    assert group not in host.device("ib1").multicast
    host.set(bond, "active_slave", "ib2")
    host.ready(bond, "ib2")
    assert group in host.device("ib1").multicast
    assert group not in host.device("ib2").multicast
    host.set(bond, "arp_validate", "none")
    assert (group in host.device("ib1").multicast) is (profile == "default")
    host.set(bond, "arp_validate", "backup")
    host.do(bond, e.RemoveMember("ib1"))
    assert group not in host.device("ib1").multicast


@pytest.mark.parametrize(
    "event",
    [
        e.ArpSeen("ib1", INFINIBAND, 6, 2, TARGET, OWN),  # hardware length
        e.ArpSeen("ib1", ETHERNET, 20, 2, TARGET, OWN),  # hardware type
        e.ArpSeen("ib1", INFINIBAND, 20, 2, OTHER, OWN),  # not a target
        e.ArpSeen("ib1", INFINIBAND, 20, 2, TARGET, OTHER),  # not for us
        e.ArpSeen("ib1", INFINIBAND, 20, 2, bytes(4), OWN),  # no one
        e.NeighborDiscoverySeen("ib1", 136, bytes(16), OWN6, TARGET6),
        e.NeighborDiscoverySeen("ib1", 135, TARGET6, TARGET6, TARGET6),
        e.NeighborDiscoverySeen("ib1", 134, TARGET6, OWN6, TARGET6),
        e.FrameSeen("ib1"),
        e.FrameSeen("ib1", ipv6=True),
        e.FrameSeen("nosuch"),
    ],
)
def test_what_does_not_count_under_validation(event: e.BondEvent) -> None:
    host, bond, _ = net(arp_validate="all")
    host.set(bond, "ns_ip6_target", "+fe80::fe")
    before = bond.members["ib1"].last_rx
    host.wait(10)
    host.do(bond, event)
    assert bond.members["ib1"].last_rx == before


@pytest.mark.parametrize(
    ("validate", "event", "counts"),
    [
        ("none", e.FrameSeen("ib1"), True),
        ("filter", e.FrameSeen("ib1"), False),
        ("filter", e.FrameSeen("ib1", ipv6=True), True),
        ("filter", e.ArpSeen("ib1", INFINIBAND, 20, 1, OTHER, OTHER), True),
        ("filter_backup", e.FrameSeen("ib1"), False),
        ("backup", e.FrameSeen("ib1"), True),
    ],
)
def test_filter(validate: str, event: e.BondEvent, counts: bool) -> None:
    host, bond, _ = net(arp_validate=validate)
    host.wait(10)
    host.do(bond, event)
    assert (bond.members["ib1"].last_rx == host.now) is counts


def test_a_backup_is_trusted_only_while_the_active_one_receives_its_target() -> None:
    host, bond, lan = net(arp_validate="all")
    lan.run(1000)
    lan.silent.add(TARGET)
    lan.run(600)
    before = bond.members["ib2"].last_rx
    if bond.active is None:
        return
    host.do(bond, e.ArpSeen("ib2", INFINIBAND, 20, 1, OWN, TARGET))
    assert bond.members["ib2"].last_rx >= before


def test_a_frame_counts_only_while_the_monitor_runs() -> None:
    host = Host()
    bond = host.bond(mode=1, miimon=100, members=("ib1",), up=True)
    before = bond.members["ib1"].last_rx
    host.wait(10)
    host.do(bond, e.FrameSeen("ib1"))
    assert bond.members["ib1"].last_rx == before


def test_stopping_the_monitor_stops_the_probes() -> None:
    host, bond, lan = net()
    lan.run(500)
    host.set(bond, "arp_interval", "0")
    lan.probes.clear()
    lan.run(500)
    assert lan.probes == []
    assert bond.active == "ib1"


def test_the_first_run_comes_with_opening_and_the_next_after_exactly_one_interval() -> None:
    host, bond, _ = net()
    assert ProbeArp("ib1", TARGET) in host.effects
    assert bond.deadline() == host.now + T * MS


@pytest.mark.parametrize("mode", [0, 2, 3])
def test_balanced_modes_are_monitored_too(mode: int) -> None:
    host = Host("kernel-6.1")
    bond = host.bond(mode=mode, arp_interval=T, arp_ip_target="+10.0.0.254", members=("eth1", "eth2"))
    lan = Net(host, bond, ETHERNET, 6)
    host.do(bond, e.Open())
    lan.run(1000)
    assert [member.link for member in bond.members.values()] == [Link.UP, Link.UP]
    lan.dead |= {"eth1", "eth2"}
    lan.run(1000)
    assert next(member.link for member in bond.members.values()) is Link.DOWN
    assert bond.snapshot().members[0].state == "backup"
    lan.dead.clear()
    lan.run(500)
    assert bond.members["eth1"].link is Link.UP
    assert bond.snapshot().members[0].state == "active"


@pytest.mark.parametrize(("file", "value"), [("arp_interval", "0"), ("miimon", "100")])
def test_without_the_monitor_carriers_count_again(file: str, value: str) -> None:
    """No target answers, then no one asks any more: the bond carries traffic, and no one is on trial."""
    host, bond, lan = net()
    lan.dead = {"ib1", "ib2"}
    lan.run(10 * T)
    assert bond.active is None
    host.set(bond, file, value)
    assert bond.active is not None
    assert [name for name, member in bond.members.items() if not member.backup] == [bond.active]
    assert bond.device.carrier
