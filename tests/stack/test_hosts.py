"""Hosts of every shape: gateways, partitions, unbonded devices, bonds made and unmade while packets run, refusals."""

import errno

import pytest

from ibbond.bonding.events import AddMember, RemoveMember, SetOption
from ibbond.errors import Refused
from ibbond.fabric.events import Cut, Mend
from ibbond.machine import SECOND
from ibbond.stack.events import (
    AddressesAre,
    AttributeChanged,
    CreateBond,
    CreateChild,
    DeleteBond,
    DeleteChild,
    Deliver,
    DeviceAppeared,
    DeviceChanged,
    DeviceVanished,
    GroupJoined,
    GroupLeft,
    OnHost,
    SetAdmin,
    SetDeviceMtu,
    ToBond,
)
from ibbond.topology.default import TWO_HOSTS
from ibbond.wire.group_address import group_address
from ibbond.wire.hardware_type import ETHERNET, INFINIBAND
from ibbond.wire.ip import Ipv4
from ibbond.wire.udp import UdpDatagram
from tests.stack.small_world import SmallWorld, ip, ping, world_of

GATEWAY = """
[switches]
s1 = {}
s2 = {}
[[links]]
between = ["s1", "s2"]

[hosts.h1]
ports = { ib0 = "s1", ib1 = "s2" }
routes = [{ to = "10.0.1.0/24", via = "10.0.0.3" }]
[hosts.h1.bonds.bond0]
members = ["ib0", "ib1"]
addresses = ["10.0.0.1/24"]

[hosts.h2]
ports = { ib0 = "s1", ib1 = "s2" }
routes = [{ to = "10.0.0.0/24", via = "10.0.1.3" }]
[hosts.h2.bonds.bond0]
members = ["ib0", "ib1"]
addresses = ["10.0.1.2/24"]

[hosts.h3]
ports = { ib0 = "s1", ib1 = "s2", ib2 = "s1", ib3 = "s2" }
forward = true
[hosts.h3.bonds.bond0]
members = ["ib0", "ib1"]
addresses = ["10.0.0.3/24"]
[hosts.h3.bonds.bond1]
members = ["ib2", "ib3"]
addresses = ["10.0.1.3/24"]
"""

PARTITIONS = """
[switches]
s1 = {}
s2 = {}
[[links]]
between = ["s1", "s2"]

[partitions.blue]
pkey = 0x8001
members = ["h1", "h2"]

[hosts.h1]
ports = { ib0 = "s1", ib1 = "s2" }
[hosts.h1.bonds.bond0]
members = ["ib0", "ib1"]
addresses = ["10.0.0.1/24"]
[hosts.h1.bonds.bond1]
members = ["ib0.8001", "ib1.8001"]
addresses = ["10.1.0.1/24"]

[hosts.h2]
ports = { ib0 = "s1", ib1 = "s2" }
[hosts.h2.bonds.bond0]
members = ["ib0", "ib1"]
addresses = ["10.0.0.2/24"]
[hosts.h2.bonds.bond1]
members = ["ib0.8001", "ib1.8001"]
addresses = ["10.1.0.2/24"]
"""

UNBONDED = """
[switches]
s1 = {}

[hosts.h1]
ports = { ib0 = "s1", ib1 = "s1" }
[hosts.h1.bonds.bond0]
members = ["ib0", "ib1"]
addresses = ["10.0.0.1/24"]

[hosts.h2]
ports = { ib0 = "s1" }
ethernet = ["eth0"]
[hosts.h2.devices.ib0]
addresses = ["10.0.0.2/24"]
"""


NO_BONDS = """
[switches]
s1 = {}
s2 = {}
[[links]]
between = ["s1", "s2"]

[hosts.h1]
ports = { ib0 = "s1", ib1 = "s2" }

[hosts.h2]
ports = { ib0 = "s1", ib1 = "s2" }
"""

CHAT = ip("239.1.2.3")


@pytest.fixture
def world() -> SmallWorld:
    return world_of(TWO_HOSTS)


def changed(world: SmallWorld, host: str, device: str) -> bool:
    return DeviceChanged(host, device) in world.effects


def forwarded(packet: bytes) -> bytes:
    """What the kernel of a gateway sends on."""
    got = Ipv4.parse(packet)
    return Ipv4(got.source, got.destination, got.protocol, got.payload, ttl=got.ttl - 1).pack()


def test_a_gateway_host_between_two_networks() -> None:
    world = world_of(GATEWAY)
    packet = UdpDatagram(ip("10.0.0.1"), ip("10.0.1.2"), 1, 2, b"far").pack()
    for cut in (None, "h3/1", "h1/1", "h2/1"):
        if cut:
            world.fabric(Cut(cut))
        world.send("h1", packet)
        assert world.got("h3", "bond0") == [packet], cut
        onward = forwarded(packet)
        world.send("h3", onward, device="bond1")
        assert world.got("h2") == [onward], cut


def test_a_bond_in_a_partition_beside_one_in_the_default() -> None:
    world = world_of(PARTITIONS)
    for cut in (None, "h1/1", "h2/1"):
        if cut:
            world.fabric(Cut(cut))
        for device, packet in (("bond0", ping("10.0.0.1", "10.0.0.2")), ("bond1", ping("10.1.0.1", "10.1.0.2"))):
            world.send("h1", packet, device=device)
            assert world.got("h2", device) == [packet], cut
        everyone = UdpDatagram(ip("10.1.0.1"), ip("10.1.0.255"), 1, 2, b"blue").pack()
        world.send("h1", everyone, device="bond1")
        assert world.got("h2", "bond1") == [everyone]
        assert world.got("h2", "bond0") == [], "the partitions do not receive each other"


def test_an_unbonded_device_has_its_own_address() -> None:
    world = world_of(UNBONDED)
    packet = ping("10.0.0.1", "10.0.0.2")
    for cut in (None, "h1/1"):
        if cut:
            world.fabric(Cut(cut))
        world.send("h1", packet)
        assert world.got("h2", "ib0") == [packet]
        answer = ping("10.0.0.2", "10.0.0.1")
        world.send("h2", answer, device="ib0")
        assert world.got("h1") == [answer]


def test_ip_link_set_down_fails_over_like_a_pulled_cable(world: SmallWorld) -> None:
    packet = ping("10.0.0.1", "10.0.0.2")
    for host in ("h1", "h2"):
        world.on(host, SetAdmin("ib0", up=False))
        assert world.network.hosts[host].bond("bond0").active == "ib1"
        world.send("h1", packet)
        assert world.got("h2") == [packet]
    assert changed(world, "h1", "ib0")


def test_bonds_are_made_and_unmade_while_the_world_runs() -> None:
    world = world_of(UNBONDED)
    world.on("h1", DeleteBond("bond0"))
    assert DeviceVanished("h1", "bond0") in world.effects
    stack = world.network.hosts["h1"]
    assert not stack.device("ib0").up
    world.on("h1", CreateBond("bond7"))
    assert DeviceAppeared("h1", "bond7") in world.effects
    for option, text in (("mode", "1"), ("miimon", "100")):
        world.on("h1", ToBond("bond7", SetOption(option, text)))
    assert AttributeChanged("h1", "bond7/bonding/mode") in world.effects
    assert stack.device("bond7").type == ETHERNET
    for member in ("ib1", "ib0"):
        world.on("h1", ToBond("bond7", AddMember(member)))
    assert stack.device("bond7").type == INFINIBAND
    world.on("h1", AddressesAre("bond7", ((ip("10.0.0.1"), 24),)))
    world.on("h1", SetAdmin("bond7", up=True))
    world.run(ms=200)
    packet = ping("10.0.0.1", "10.0.0.2")
    world.send("h1", packet, device="bond7")
    assert world.got("h2", "ib0") == [packet]
    world.on("h1", ToBond("bond7", RemoveMember("ib1")))
    world.send("h1", packet, device="bond7")
    assert world.got("h2", "ib0") == [packet]


def test_an_ethernet_device_is_refused_and_nothing_changes(world: SmallWorld) -> None:
    with pytest.raises(Refused) as refusal:
        world.on("h1", ToBond("bond0", AddMember("eth0")))
    assert refusal.value.code == errno.EINVAL
    world.run_until_quiescent()
    assert list(world.network.hosts["h1"].bond("bond0").members) == ["ib0", "ib1"]
    assert [line for line in world.happened("log") if "eth0" in line.detail], "the log says why"


@pytest.mark.parametrize(
    ("event", "code"),
    [
        (SetAdmin("ib7", up=True), errno.ENODEV),
        (ToBond("bond7", AddMember("ib0")), errno.ENODEV),
        (CreateBond("ib0"), errno.EEXIST),
        (CreateChild("bond0", 0x8001), errno.ENODEV),
        (CreateChild("ib0", 0x8000), errno.EINVAL),
        (CreateChild("ib0", 0x7FFF), errno.ENOTUNIQ),
        (DeleteChild("ib0", 0x8001), errno.ENODEV),
        (SetDeviceMtu("ib0", 70000), errno.EINVAL),
    ],
)
def test_refusals_carry_the_errno_and_leave_a_world_that_works(world: SmallWorld, event: object, code: int) -> None:
    with pytest.raises(Refused) as refusal:
        world.on("h1", event)  # type: ignore[arg-type]
    assert refusal.value.code == code
    packet = ping("10.0.0.1", "10.0.0.2")
    world.send("h1", packet)
    assert world.got("h2") == [packet]


def test_unknown_hosts_are_refused(world: SmallWorld) -> None:
    with pytest.raises(Refused, match="h1 and h2"):
        world.feed(OnHost("h9", SetAdmin("ib0", up=True)))


def test_children_come_and_go() -> None:
    world = world_of(PARTITIONS)
    world.on("h1", DeleteBond("bond1"))
    world.on("h1", DeleteChild("ib0", 0x8001))
    assert DeviceVanished("h1", "ib0.8001") in world.effects
    world.on("h1", CreateChild("ib0", 0x8001))
    world.on("h1", AddressesAre("ib0.8001", ((ip("10.1.0.1"), 24),)))
    world.on("h1", SetAdmin("ib0.8001", up=True))
    packet = ping("10.1.0.1", "10.1.0.2")
    world.send("h1", packet, device="ib0.8001")
    assert world.got("h2", "bond1") == [packet]


def test_no_one_there_is_reported_to_the_sender(world: SmallWorld) -> None:
    world.send("h1", ping("10.0.0.1", "10.0.0.77"))
    world.run(ms=4000)
    [error] = world.got("h1")
    assert Ipv4.parse(error).payload[:2] == b"\x03\x01"


def test_a_packet_that_does_not_fit_is_reported_to_the_sender(world: SmallWorld) -> None:
    world.send("h1", ping("10.0.0.1", "10.0.0.2"))
    world.got("h2")
    long = UdpDatagram(ip("10.0.0.1"), ip("10.0.0.2"), 1, 2, bytes(3000)).pack()
    world.send("h1", long)
    assert world.got("h2") == []
    [error] = world.got("h1")
    message = Ipv4.parse(error).payload
    assert message[:2] == b"\x03\x04"
    assert int.from_bytes(message[6:8]) == 2044


def test_the_bond_takes_the_mtu_of_its_members_only_as_far_as_they_go(world: SmallWorld) -> None:
    with pytest.raises(Refused):
        world.on("h1", SetDeviceMtu("bond0", 65000))
    world.on("h1", SetDeviceMtu("bond0", 1500))
    assert [world.network.hosts["h1"].device(name).mtu for name in ("bond0", "ib0", "ib1")] == [1500] * 3


def test_a_released_member_keeps_the_mtu_of_its_link(world: SmallWorld) -> None:
    """`ipoib_change_mtu`: what the bond gives back from before it joined is more than the broadcast group carries."""
    host = world.network.hosts["h1"]
    world.on("h1", ToBond("bond0", RemoveMember("ib0")))
    assert not host.device("ib0").up
    assert host.device("ib0").mtu == 2044


def test_a_wrong_option_in_a_topology_is_refused_when_it_is_built() -> None:
    with pytest.raises(Refused):
        world_of(TWO_HOSTS.replace("miimon = 100", 'miimon = "never"'))


def test_group_lists_are_right_in_both_orders(world: SmallWorld) -> None:
    """Vector 3 of the bonding specification: up first here, then the members."""
    device = world.network.hosts["h1"].device("bond0")
    groups = [address.hex(":") for address in device.multicast]
    assert "00:ff:ff:ff:ff:12:40:1b:ff:ff:00:00:00:00:00:00:00:00:00:01" in groups
    assert "00:ff:ff:ff:ff:12:60:1b:ff:ff:00:00:00:00:00:00:00:00:00:01" in groups
    assert all(len(address) == 20 for address in device.multicast)


def test_fail_back_of_a_preferred_member_is_prepared(world: SmallWorld) -> None:
    bond = world.network.hosts["h1"].bond("bond0")
    world.on("h1", ToBond("bond0", SetOption("primary", "ib0")))
    packet = ping("10.0.0.1", "10.0.0.2")
    world.fabric(Cut("h1/1"))
    world.run(ms=1000)
    assert bond.active == "ib1"
    world.fabric(Mend("h1/1"))
    world.run(ms=1000)
    assert bond.active == "ib0"
    assert [line.detail for line in world.happened("prepare")] == ["ib0"]
    world.send("h1", packet)
    assert world.got("h2") == [packet]


def test_the_arp_monitor_finds_a_silent_target() -> None:
    text = TWO_HOSTS.replace("miimon = 100", 'arp_interval = 100, arp_ip_target = "+10.0.0.2", arp_validate = "all"', 1)
    world = world_of(text)
    bond = world.network.hosts["h1"].bond("bond0")
    world.run(ms=2000)
    assert bond.active == "ib0"
    assert bond.device.carrier
    world.on("h2", SetAdmin("bond0", up=False))
    world.run(ms=2000)
    assert not bond.device.carrier
    world.on("h2", SetAdmin("bond0", up=True))
    world.run(ms=2000)
    assert bond.device.carrier
    packet = ping("10.0.0.1", "10.0.0.2")
    world.send("h1", packet)
    assert world.got("h2") == [packet]


@pytest.mark.parametrize("patch", ["dev_setup", "set_mac_address", "allow_not_up_enslave", "ipoib_neighbour"])
def test_without_a_patch_of_2007_something_breaks(patch: str) -> None:
    """The bond is up, and a program has joined a group, before the first member comes."""
    packet = ping("10.0.0.1", "10.0.0.2")
    chat = UdpDatagram(ip("10.0.0.1"), CHAT, 1, 2, b"all").pack()

    def works(without: tuple[str, ...]) -> bool:
        world = world_of(NO_BONDS, without=without)
        try:
            for number in (1, 2):
                make_bond(world, f"h{number}", ip(f"10.0.0.{number}"))
        except Refused:
            return False
        for cut in (None, "h2/1", "h1/1"):
            if cut:
                world.fabric(Cut(cut))
                world.run(ms=1000)
            for each in (packet, packet, chat):
                world.send("h1", each)
                if world.got("h2") != [each]:
                    return False
        return True

    assert works(())
    assert not works((patch,))


def make_bond(world: SmallWorld, host: str, address: bytes) -> None:
    world.on(host, CreateBond("bond0"))
    for option, text in (("mode", "active-backup"), ("miimon", "100")):
        world.on(host, ToBond("bond0", SetOption(option, text)))
    world.on(host, SetAdmin("bond0", up=True))
    world.on(host, GroupJoined("bond0", CHAT))
    for member in ("ib0", "ib1"):
        world.on(host, SetAdmin(member, up=False))
        world.on(host, ToBond("bond0", AddMember(member)))
    world.on(host, AddressesAre("bond0", ((address, 24),)))
    world.run(ms=1000)


def test_time_passes_without_wearing_the_world_out(world: SmallWorld) -> None:
    packet = ping("10.0.0.1", "10.0.0.2")
    world.send("h1", packet)
    world.run(ms=300_000)
    assert world.now >= 300 * SECOND
    world.got("h2")
    world.send("h1", packet)
    assert world.got("h2") == [packet]
    assert not [effect for effect in world.effects if isinstance(effect, Deliver) and effect.host == "h1"]


@pytest.mark.parametrize("profile", ["default", "kernel-6.1"])
def test_rows_of_the_table_that_the_stack_honours(profile: str) -> None:
    """`neighbors_flushed` and `cold_standby`: in the kernel's profile, not in ours."""
    world = world_of(TWO_HOSTS, profile=profile)
    world.run(ms=500)
    world.on("h1", GroupJoined("bond0", CHAT))
    world.send("h1", ping("10.0.0.1", "10.0.0.2"))
    world.run(ms=500)
    host = world.network.hosts["h1"]
    backup = host.links.get("ib1")
    assert backup is not None
    chat = group_address(CHAT, host.device("bond0").broadcast)[4:]
    neighbor = host.ip["bond0"].neighbors.get(ip("10.0.0.2"))
    assert neighbor is not None
    ready = backup.groups.receives(chat), backup.path_to(neighbor.hardware) is not None
    world.fabric(Cut("h1/1"))
    world.run(ms=100)
    kept = host.ip["bond0"].neighbors.get(ip("10.0.0.2")) is not None
    assert (ready, kept) == (((True, True), True) if profile == "default" else ((False, False), False))
    assert backup.groups.receives(chat)
    world.on("h1", GroupLeft("bond0", CHAT))
    assert not backup.groups.receives(chat)


def test_a_backup_leaves_what_the_bond_leaves() -> None:
    world = world_of(TWO_HOSTS)
    world.on("h1", GroupJoined("bond0", CHAT))
    members = [world.network.hosts["h1"].links.get(name) for name in ("ib0", "ib1")]
    chat = group_address(CHAT, world.network.hosts["h1"].device("bond0").broadcast)[4:]
    assert [each is not None and each.groups.receives(chat) for each in members] == [True, True]
    world.on("h1", GroupLeft("bond0", CHAT))
    assert [each is not None and each.groups.receives(chat) for each in members] == [False, False]
    world.on("h1", GroupJoined("bond0", CHAT))
    world.on("h1", ToBond("bond0", RemoveMember("ib1")))
    world.run(ms=20_000)
    assert [each is not None and each.groups.receives(chat) for each in members] == [True, False]
