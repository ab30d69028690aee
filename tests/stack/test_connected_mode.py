"""Connected mode between whole hosts: large packets, peers of every kind, failover, the mode file, mixed bonds."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ibbond.bonding.events import AddMember, RemoveMember, SetMtu
from ibbond.errors import Refused
from ibbond.fabric.events import Cut, MakeLossy, Mend, SendMad, SetPkeys
from ibbond.ipoib.connected import IDLE_NS
from ibbond.ipoib.interface import Interface
from ibbond.machine import MS
from ibbond.netdev.device import Device
from ibbond.stack.events import CreateChild, FrameCaptured, SetAdmin, SetDeviceMode, SetDeviceMtu, ToBond
from ibbond.verbs.timing import Timing
from ibbond.wire.cm import CmMad, Message, Rep, Req, Rtu
from ibbond.wire.icmp import Echo
from ibbond.wire.ipoib import ETHERTYPE_ARP
from ibbond.wire.mad import ManagementClass
from ibbond.wire.offload import GSO_TCPV4, NEEDS_CHECKSUM, OffloadHeader
from ibbond.wire.udp import UdpDatagram
from tests.stack.small_world import SmallWorld, ip, ping, world_of

LAB = """
[switches]
s1 = {}
s2 = {}

[[links]]
between = ["s1", "s2"]

[hosts.h1]
mode = "connected"
ports = { ib0 = "s1", ib1 = "s2" }
bonds.bond0 = { members = ["ib0", "ib1"], addresses = ["10.0.0.1/24", "fd00::1/64"] }

[hosts.h2]
mode = "connected"
ports = { ib0 = "s1", ib1 = "s2" }
bonds.bond0 = { members = ["ib0", "ib1"], addresses = ["10.0.0.2/24", "fd00::2/64"] }

[hosts.h3]                                  # a driver built without connected mode
mode = "datagram-only"
ports = { ib0 = "s1" }
devices.ib0 = { addresses = ["10.0.0.3/24", "fd00::3/64"] }

[hosts.h4]                                  # one that has it, and is in datagram mode
ports = { ib0 = "s1" }
devices.ib0 = { addresses = ["10.0.0.4/24"] }
"""


@pytest.fixture
def world() -> SmallWorld:
    return world_of(LAB)


def large(source: str, destination: str, size: int = 65520) -> bytes:
    """An echo request of so many bytes, IP header included."""
    return Echo(ip(source), ip(destination), 7, 1, bytes(size - 28)).pack()


def interface(world: SmallWorld, host: str, name: str) -> Interface:
    found = world.network.hosts[host].links.get(name)
    assert found is not None
    return found


def device(world: SmallWorld, host: str, name: str) -> Device:
    return world.network.hosts[host].device(name)


def pairs(world: SmallWorld, host: str) -> int:
    """The reliable queue pairs of a host's adapter."""
    node = world.network.subnet.node(host)
    return sum(pair.kind == "RC" for pair in node.queue_pairs.values())  # type: ignore[attr-defined]


def messages(world: SmallWorld, port: str) -> list[Message]:
    """Watch the CM messages that a port sends."""
    received: list[Message] = []
    handle = world.network.subnet.handle

    def listening(now: int, event: object) -> object:
        if isinstance(event, SendMad) and event.port == port and event.mad.mad[1] == ManagementClass.COMMUNICATION:
            received.append(CmMad.parse(event.mad.mad).message)
        return handle(now, event)  # type: ignore[arg-type]

    world.network.subnet.handle = listening  # type: ignore[assignment,method-assign]
    return received


def test_mtu_and_flag_of_every_kind_of_host(world: SmallWorld) -> None:
    assert [device(world, "h1", name).mtu for name in ("ib0", "ib1", "bond0")] == [65520] * 3
    assert [device(world, host, "ib0").mtu for host in ("h3", "h4")] == [2044, 2044]
    flags = {host: device(world, host, "ib0").address[0] for host in ("h1", "h3", "h4")}
    assert flags == {"h1": 0x80, "h3": 0, "h4": 0x80}, "a driver that has the mode says so in either mode"


def test_a_packet_of_65520_bytes_arrives_whole(world: SmallWorld) -> None:
    packet = large("10.0.0.1", "10.0.0.2")
    world.send("h1", packet)
    assert world.got("h2") == [packet]
    world.send("h2", large("10.0.0.2", "10.0.0.1"))
    assert len(world.got("h1")) == 1
    assert (pairs(world, "h1"), pairs(world, "h2")) == (2, 2), "one connection for each direction"


def test_only_req_rep_and_rtu_make_the_connection(world: SmallWorld) -> None:
    asked, answered = messages(world, "h1/1"), messages(world, "h2/1")
    world.send("h1", ping("10.0.0.1", "10.0.0.2"))
    world.send("h1", ping("10.0.0.1", "10.0.0.2", 2))
    assert [type(each) for each in asked] == [Req, Rtu]
    assert [type(each) for each in answered] == [Rep]
    request = asked[0]
    assert isinstance(request, Req)
    assert request.service_id == 0x10 << 56 | interface(world, "h2", "ib0").qpn
    assert request.ca_guid == 0x0002C90300100000
    assert len(world.got("h2")) == 2


def test_arp_groups_and_discovery_are_datagrams(world: SmallWorld) -> None:
    kinds: list[int] = []
    links = world.network.hosts["h2"].links
    receive = links.receive

    def watched(port: str, qpn: int, datagram: object) -> object:
        if port == "h2/1":  # the other member receives groups too
            kinds.append(int.from_bytes(datagram.payload[:2]))  # type: ignore[attr-defined]
        return receive(port, qpn, datagram)  # type: ignore[arg-type]

    links.receive = watched  # type: ignore[assignment,method-assign]
    world.send("h1", ping("10.0.0.1", "10.0.0.2"))
    world.send("h1", UdpDatagram(ip("10.0.0.1"), ip("10.0.0.255"), 1, 2, b"all").pack())
    world.send("h1", ping("fd00::1", "fd00::2"))
    assert set(kinds) == {ETHERTYPE_ARP, 0x0800, 0x86DD}
    assert kinds.count(0x0800) == 1, "the broadcast; the ping came by connection"
    assert kinds.count(0x86DD) == 1, "the solicitation"


@pytest.mark.parametrize(("source", "target"), [("10.0.0.1", "10.0.0.3"), ("fd00::1", "fd00::3")])
def test_a_peer_without_the_mode_is_sent_datagrams_and_we_are_reported_what_fits(
    world: SmallWorld, source: str, target: str
) -> None:
    world.send("h1", ping(source, target))
    assert len(world.got("h3", "ib0")) == 1
    world.send("h1", large(source, target, 2045))
    assert world.got("h3", "ib0") == []
    (reported,) = world.got("h1")
    at = 20 if reported[0] >> 4 == 4 else 40
    assert (reported[at], reported[at + 1]) == ((3, 4) if at == 20 else (2, 0)), "fragmentation needed, packet too big"
    assert int.from_bytes(reported[at + 4 : at + 8]) == 2044
    assert pairs(world, "h3") == 0
    statistics = device(world, "h1", "ib0").statistics
    assert (statistics.tx_errors, statistics.tx_dropped) == (1, 1)


def test_no_one_is_notified_of_a_group_packet_that_is_too_long(world: SmallWorld) -> None:
    before = device(world, "h1", "ib0").statistics.tx_dropped
    world.send("h1", UdpDatagram(ip("10.0.0.1"), ip("239.1.2.3"), 1, 2, bytes(3000)).pack())
    world.run(100)
    assert world.got("h1") == []
    assert device(world, "h1", "ib0").statistics.tx_dropped == before + 1


def test_a_peer_in_datagram_mode_takes_connections_and_answers_with_datagrams(world: SmallWorld) -> None:
    world.send("h1", large("10.0.0.1", "10.0.0.4", 60_000))
    assert [len(packet) for packet in world.got("h4", "ib0")] == [60_000]
    world.send("h4", ping("10.0.0.4", "10.0.0.1"), device="ib0")
    assert len(world.got("h1")) == 1
    assert pairs(world, "h4") == 1


def test_flows_by_connection_and_none_where_the_device_lets_more_pass(world: SmallWorld) -> None:
    for target in ("10.0.0.2", "10.0.0.3", "10.0.0.4"):
        world.send("h1", ping("10.0.0.1", target))
    maximum = {}
    for target in ("10.0.0.2", "10.0.0.3", "10.0.0.4"):
        flow = world.network.flow_for(world.now, "h1", "bond0", ping("10.0.0.1", target))
        assert flow is not None
        maximum[target] = flow.mtu
    assert maximum == {"10.0.0.2": 65520, "10.0.0.3": 2044, "10.0.0.4": 65520}, "who drives us compares with the device"


def test_a_flow_counts_messages_packets_and_acknowledgments(world: SmallWorld) -> None:
    world.send("h1", ping("10.0.0.1", "10.0.0.2"))
    flow = world.network.flow_for(world.now, "h1", "bond0", ping("10.0.0.1", "10.0.0.2"))
    assert flow is not None
    before, sent = world.network.subnet.counters("h1/1"), device(world, "h1", "ib0").statistics.tx_packets
    flow.packets += 2
    flow.bytes += 2 * 65520
    world.network.flush_counters(world.now)
    after = world.network.subnet.counters("h1/1")
    world.send("h1", large("10.0.0.1", "10.0.0.2"))
    world.send("h1", large("10.0.0.1", "10.0.0.2"))
    slow = world.network.subnet.counters("h1/1")
    assert after.transmit_packets - before.transmit_packets == 2 * 16, "of 4096 bytes"
    assert slow.transmit_packets - after.transmit_packets == 2 * 16
    assert after.receive_packets - before.receive_packets == slow.receive_packets - after.receive_packets == 2
    assert after.receive_words - before.receive_words == slow.receive_words - after.receive_words
    assert device(world, "h1", "ib0").statistics.tx_packets == sent + 4


def test_a_flow_in_use_keeps_both_ends_from_being_idle(world: SmallWorld) -> None:
    world.send("h1", ping("10.0.0.1", "10.0.0.2"))
    seconds = IDLE_NS // (1000 * MS) + 60
    for _ in range(seconds // 10):
        world.run(10_000)
        packet = ping("10.0.0.1", "10.0.0.2")
        flow = world.network.flow_for(world.now, "h1", "bond0", packet)
        if flow is None:  # a neighbor that has to be asked for again
            world.send("h1", packet)
            continue
        flow.packets += 1
        flow.bytes += len(packet)
        world.network.flush_counters(world.now)
    assert pairs(world, "h2") == 1
    world.run(IDLE_NS // MS + 60_000)
    assert pairs(world, "h1") == pairs(world, "h2") == 0, "and left alone they go"


def failed_over(world: SmallWorld) -> None:
    world.fabric(Cut("h1/1"))
    world.run(200)


def test_the_new_active_member_makes_connections_of_its_own(world: SmallWorld) -> None:
    world.send("h1", ping("10.0.0.1", "10.0.0.2"))
    world.send("h2", ping("10.0.0.2", "10.0.0.1"))
    world.got("h2")
    failed_over(world)
    assert world.network.hosts["h1"].bond("bond0").active == "ib1"
    packet = large("10.0.0.1", "10.0.0.2")
    world.send("h1", packet)
    assert world.got("h2") == [packet]
    world.got("h1")
    world.send("h2", large("10.0.0.2", "10.0.0.1"))
    assert len(world.got("h1")) == 1, "the peer has learnt the new address"
    world.run(200_000)
    assert pairs(world, "h1") <= 3, "those of the dead member are gone, but for what peers asked of it"
    world.run(IDLE_NS // MS + 100_000)
    assert (pairs(world, "h1"), pairs(world, "h2")) == (0, 0)


def test_and_back_again(world: SmallWorld) -> None:
    failed_over(world)
    world.fabric(Mend("h1/1"))
    world.run(500)
    world.fabric(Cut("h1/2"))
    world.run(200)
    assert world.network.hosts["h1"].bond("bond0").active == "ib0"
    for source, target in (("10.0.0.1", "10.0.0.2"), ("10.0.0.2", "10.0.0.1")):
        host, peer = ("h1", "h2") if target.endswith("2") else ("h2", "h1")
        world.send(host, large(source, target))
        assert len(world.got(peer)) == 1


def test_datagrams_after_the_mode_file_says_datagram(world: SmallWorld) -> None:
    world.send("h1", ping("10.0.0.1", "10.0.0.2"))
    for name in ("ib0", "ib1"):
        world.on("h1", SetDeviceMode(name, connected=False))
        assert device(world, "h1", name).mtu == 2044
    assert pairs(world, "h1") == 0
    assert pairs(world, "h2") == 0, "the peer is notified"
    world.got("h2")
    world.send("h1", ping("10.0.0.1", "10.0.0.2"))
    assert len(world.got("h2")) == 1
    world.send("h1", large("10.0.0.1", "10.0.0.2"))  # the bond's MTU stays until someone sets it, as in Linux
    assert [(packet[20], packet[21]) for packet in world.got("h1")] == [(3, 4)]


def test_mtu_limits_of_the_two_modes(world: SmallWorld) -> None:
    world.on("h4", SetDeviceMode("ib0", connected=True))
    assert device(world, "h4", "ib0").mtu == 65520
    with pytest.raises(Refused):
        world.on("h4", SetDeviceMtu("ib0", 65521))
    world.on("h4", SetDeviceMtu("ib0", 1800))
    world.on("h4", SetDeviceMode("ib0", connected=False))
    assert device(world, "h4", "ib0").mtu == 1800, "less than the group's: it stays"
    with pytest.raises(Refused, match="datagram mode"):
        world.on("h4", SetDeviceMtu("ib0", 4093))


def test_a_driver_without_the_mode_refuses_it(world: SmallWorld) -> None:
    with pytest.raises(Refused, match="without connected mode"):
        world.on("h3", SetDeviceMode("ib0", connected=True))
    with pytest.raises(Refused, match="not an IPoIB device"):
        world.on("h1", SetDeviceMode("bond0", connected=True))


def test_a_bond_of_both_modes_is_warned_about(world: SmallWorld) -> None:
    def warnings() -> list[str]:
        return [line.where for line in world.happened("log") if line.detail.startswith("warning: members differ")]

    assert warnings() == []
    world.on("h1", SetDeviceMode("ib1", connected=False))
    assert warnings() == ["h1/bond0"]
    world.on("h1", ToBond("bond0", RemoveMember("ib1")))
    assert len(warnings()) == 1
    world.on("h1", SetAdmin("ib1", up=False))
    world.on("h1", ToBond("bond0", SetMtu(2044)))
    world.on("h1", ToBond("bond0", AddMember("ib1")))
    assert len(warnings()) == 2


ENDINGS: dict[str, Callable[[SmallWorld], None]] = {
    "down": lambda world: world.on("h2", SetAdmin("bond0", up=False)),
    "member down": lambda world: world.on("h2", SetAdmin("ib0", up=False)),
    "P_Key": lambda world: world.fabric(SetPkeys("h2/1", (0x8001,))),
    "mode": lambda world: world.on("h2", SetDeviceMode("ib0", connected=False)),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_end_of_it_leaves_nothing_behind(world: SmallWorld, ending: str) -> None:
    """A lost passive end is found by the time-out of idle ones; numbers of closed ones never come back wrong."""
    world.send("h1", ping("10.0.0.1", "10.0.0.2"))
    world.send("h2", ping("10.0.0.2", "10.0.0.1"))
    ENDINGS[ending](world)
    world.run(2 * IDLE_NS // MS)
    assert (pairs(world, "h1"), pairs(world, "h2")) == (0, 0)
    at_port = world.network.hosts["h1"].links._by_queue_pair
    assert all(qpn == each.qpn for (_, qpn), each in at_port.items())


def test_a_gso_packet_travels_whole_and_is_taken_apart_by_a_capture_point(world: SmallWorld) -> None:
    """h4 offers TCP segments of 1992 bytes although connections to it carry more."""
    world.send("h1", ping("10.0.0.1", "10.0.0.4"))
    world.got("h4", "ib0")
    header = bytearray(40)
    header[0], header[8], header[9] = 0x45, 64, 6
    header[12:16], header[16:20] = ip("10.0.0.1"), ip("10.0.0.4")
    header[32] = 5 << 4
    train = bytes(header) + bytes(5 * 1992)
    train = train[:2] + len(train).to_bytes(2) + train[4:]
    offload = OffloadHeader(NEEDS_CHECKSUM, GSO_TCPV4, 40, 1992, 20, 16).pack()
    sent = device(world, "h1", "ib0").statistics.tx_packets
    before = world.network.subnet.counters("h1/1").transmit_packets
    world.send("h1", train, offload=offload)
    assert world.got("h4", "ib0") == [train]
    assert device(world, "h1", "ib0").statistics.tx_packets == sent + 5
    assert world.network.subnet.counters("h1/1").transmit_packets == before + 5
    world.network.subnet.mirror("h1/1", True)
    world.effects.clear()
    world.send("h1", train, offload=offload)
    frames = [each.frame for each in world.effects if isinstance(each, FrameCaptured) and each.sent]
    assert [frame[8] for frame in frames] == [0x04] * 5, "SEND Only, five times"
    assert {len(frame) for frame in frames} == {8 + 12 + 4 + 40 + 1992 + 4 + 2}


def test_children_are_in_a_mode_of_their_own() -> None:
    world = world_of(LAB + '\n[partitions.blue]\npkey = 0x8001\nmembers = ["h1", "h3"]\n')
    world.on("h1", CreateChild("ib0", 0x8001))
    child = interface(world, "h1", "ib0.8001")
    assert not child.connected
    world.on("h1", SetDeviceMode("ib0.8001", connected=True))
    assert child.connected
    world.on("h3", CreateChild("ib0", 0x8001))
    assert device(world, "h3", "ib0.8001").address[0] == 0, "both use the same driver"


def test_lost_messages_are_repeated_and_never_doubled() -> None:
    world = world_of(LAB, timing=Timing.simulated())
    world.run(2000)
    world.send("h1", ping("10.0.0.1", "10.0.0.2"))
    world.run(100)
    assert len(world.got("h2")) == 1
    world.fabric(MakeLossy("h1/1", 0.2))
    for number in range(200):
        world.send("h1", ping("10.0.0.1", "10.0.0.2", number))
        world.run(5)
    world.fabric(MakeLossy("h1/1", 0.0))
    world.run(3000)
    packets = world.got("h2")
    assert len(packets) == len(set(packets)), "a message came twice"
    assert len(packets) > 150, "by datagrams it would be no more"
    world.send("h1", ping("10.0.0.1", "10.0.0.2", 999))
    world.run(100)
    assert len(world.got("h2")) == 1


def test_a_full_send_queue_drops_and_counts() -> None:
    """The peer is gone without a word: no one acknowledges, until the retries are used up."""
    world = world_of(LAB, timing=Timing.simulated())
    world.run(2000)
    world.send("h1", ping("10.0.0.1", "10.0.0.2"))
    world.run(100)
    world.fabric(Cut("h2/1"))
    before = device(world, "h1", "ib0").statistics.tx_dropped
    for number in range(300):
        world.send("h1", ping("10.0.0.1", "10.0.0.2", number))
    assert device(world, "h1", "ib0").statistics.tx_dropped == before + 300 - 128
    world.run(1000)
    world.send("h1", ping("10.0.0.1", "10.0.0.2", 999))
    world.run(100)
    assert len(world.got("h2")) >= 1
