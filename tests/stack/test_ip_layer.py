"""ARP, neighbor discovery, announcements and reports of one device; bytes are written out."""

from ipaddress import ip_address

import pytest

from ibbond.machine import SECOND
from ibbond.netdev.device import Device, Flags
from ibbond.stack.events import RouteEntry
from ibbond.stack.ip_layer import IpLayer
from ibbond.stack.local_addresses import Conflict
from ibbond.stack.neighbor_states import NudState
from ibbond.stack.next_hop import NextHops
from ibbond.stack.outgoing import Announced, Outgoing, ToHost
from ibbond.verbs.generation import Generation
from ibbond.wire import nd
from ibbond.wire.arp import Arp
from ibbond.wire.group_address import group_address
from ibbond.wire.group_reports import membership, overheard
from ibbond.wire.hardware_type import INFINIBAND
from ibbond.wire.hwaddr import parse_address_text
from ibbond.wire.icmp import Echo
from ibbond.wire.ipoib import ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6
from ibbond.wire.udp import UdpDatagram

BROADCAST = parse_address_text("00:ff:ff:ff:ff:12:40:1b:ff:ff:00:00:00:00:00:00:ff:ff:ff:ff")
HERE = parse_address_text("80:00:00:49:fe:80:00:00:00:00:00:00:00:02:c9:03:00:0a:00:01")
THERE = parse_address_text("80:00:00:4b:fe:80:00:00:00:00:00:00:00:02:c9:03:00:0a:00:03")
THERE_TOO = parse_address_text("80:00:00:4c:fe:80:00:00:00:00:00:00:00:02:c9:03:00:0a:00:04")
CHAT = bytes((239, 1, 2, 3))


class Link:
    kind = "ipoib"
    can_set_address = False
    vlan_challenged = True

    def open(self, device: Device) -> None: ...

    def close(self, device: Device) -> None: ...

    def check_mtu(self, device: Device, mtu: int) -> None: ...

    def check_address(self, device: Device, address: bytes) -> None: ...

    def speed(self, device: Device) -> int | None:
        return None

    def duplex(self, device: Device) -> str | None:
        return None


def ip(text: str) -> bytes:
    return ip_address(text).packed


def ping(source: str, destination: str) -> bytes:
    return Echo(ip(source), ip(destination), 1, 1, b"data").pack()


@pytest.fixture
def layer() -> IpLayer:
    device = Device("bond0", Link(), INFINIBAND, HERE, BROADCAST)
    device.flags |= Flags.UP
    layer = IpLayer(device, NextHops(), Generation())
    layer.set_addresses(0, ((ip("10.0.0.1"), 24), (ip("fd00::1"), 64), (ip("fe80::202:c903:a:1"), 64)))
    return layer


def arp(operation: int, sender: bytes, sender_ip: str, target: bytes, target_ip: str) -> Arp:
    return Arp(operation, sender, ip(sender_ip), target, ip(target_ip))


def test_the_question_of_the_recording(layer: IpLayer) -> None:
    [question] = layer.send(0, ping("10.0.0.1", "10.0.0.3"))
    wanted = "0020 0800 14 04 0001 80000049fe800000000000000002c903000a0001 0a000001" + "00" * 20 + "0a000003"
    assert question == Outgoing(BROADCAST, ETHERTYPE_ARP, bytes.fromhex(wanted))


def test_the_answer_of_the_recording_and_learning_from_the_question(layer: IpLayer) -> None:
    asked = arp(1, THERE, "10.0.0.3", bytes(20), "10.0.0.1")
    [answer] = layer.receive_arp(0, asked, unicast=False)
    assert isinstance(answer, Outgoing)
    assert answer.destination == THERE
    assert Arp.parse(answer.payload) == arp(2, HERE, "10.0.0.1", THERE, "10.0.0.3")
    packet = ping("10.0.0.1", "10.0.0.3")
    assert layer.send(1, packet) == [Outgoing(THERE, ETHERTYPE_IPV4, packet, next_hop=ip("10.0.0.3"))]


def test_a_waiting_packet_goes_with_the_answer(layer: IpLayer) -> None:
    packet = ping("10.0.0.1", "10.0.0.3")
    layer.send(0, packet, b"train")
    answer = arp(2, THERE, "10.0.0.3", HERE, "10.0.0.1")
    assert layer.receive_arp(1, answer, unicast=True) == [
        Outgoing(THERE, ETHERTYPE_IPV4, packet, b"train", ip("10.0.0.3"))
    ]
    entry = layer.neighbors.get(ip("10.0.0.3"))
    assert entry is not None
    assert entry.state is NudState.REACHABLE


def test_a_gratuitous_arp_moves_a_known_neighbor_at_once(layer: IpLayer) -> None:
    layer.receive_arp(0, arp(1, THERE, "10.0.0.3", bytes(20), "10.0.0.1"), unicast=False)
    layer.receive_arp(1, arp(1, THERE_TOO, "10.0.0.3", bytes(20), "10.0.0.3"), unicast=False)
    layer.receive_arp(1, arp(1, THERE_TOO, "10.0.0.9", bytes(20), "10.0.0.9"), unicast=False)
    packet = ping("10.0.0.1", "10.0.0.3")
    assert layer.send(2, packet) == [Outgoing(THERE_TOO, ETHERTYPE_IPV4, packet, next_hop=ip("10.0.0.3"))]
    assert len(layer.neighbors) == 1, "strangers are not remembered"


@pytest.mark.parametrize(
    "message",
    [
        arp(1, BROADCAST, "10.0.0.3", bytes(20), "10.0.0.1"),  # no one lives at a group's address
        arp(1, bytes(20), "10.0.0.3", bytes(20), "10.0.0.1"),
        Arp(1, bytes.fromhex("020000000001"), ip("10.0.0.3"), bytes(6), ip("10.0.0.1"), hardware_type=1),
    ],
)
def test_arp_that_is_not_believed(layer: IpLayer, message: Arp) -> None:
    assert layer.receive_arp(0, message, unicast=False) == []
    assert len(layer.neighbors) == 0
    assert layer.counts.ignored == 1


def test_address_detection_by_arp_is_answered_without_learning(layer: IpLayer) -> None:
    [answer] = layer.receive_arp(0, arp(1, THERE, "0.0.0.0", bytes(20), "10.0.0.1"), unicast=False)
    assert isinstance(answer, Outgoing)
    assert len(layer.neighbors) == 0


def test_no_one_answers_and_the_sender_learns_of_it(layer: IpLayer) -> None:
    layer.send(0, ping("10.0.0.1", "10.0.0.77"))
    layer.send(0, ping("fd00::1", "fd00::77"))
    effects = [effect for second in (1, 2, 3) for effect in layer.tick(second * SECOND)]
    errors = [effect.packet for effect in effects if isinstance(effect, ToHost)]
    assert [packet[0] >> 4 for packet in errors] == [4, 6]
    assert errors[0][20] == 3
    assert errors[1][40] == 1


def test_neighbor_solicitation_round_trip(layer: IpLayer) -> None:
    packet = ping("fd00::1", "fd00::3")
    [question] = layer.send(0, packet)
    assert isinstance(question, Outgoing)
    group = nd.solicited_node(ip("fd00::3"))
    assert question.destination == group_address(group, BROADCAST)
    assert nd.parse(question.payload) == nd.NeighborSolicitation(ip("fd00::1"), group, ip("fd00::3"), HERE)
    answer = nd.NeighborAdvertisement(ip("fd00::3"), ip("fd00::1"), ip("fd00::3"), THERE, solicited=True, override=True)
    assert layer.receive_discovery(1, answer) == [Outgoing(THERE, ETHERTYPE_IPV6, packet, next_hop=ip("fd00::3"))]


def test_solicitations_are_answered(layer: IpLayer) -> None:
    asked = nd.NeighborSolicitation(ip("fd00::3"), nd.solicited_node(ip("fd00::1")), ip("fd00::1"), THERE)
    [answer] = layer.receive_discovery(0, asked)
    assert isinstance(answer, Outgoing)
    assert answer.destination == THERE
    said = nd.parse(answer.payload)
    assert isinstance(said, nd.NeighborAdvertisement)
    assert (said.solicited, said.override, said.link_address) == (True, True, HERE)
    assert layer.neighbors.get(ip("fd00::3")) is not None


def test_duplicate_detection_is_answered_to_all(layer: IpLayer) -> None:
    asked = nd.NeighborSolicitation(nd.UNSPECIFIED, nd.solicited_node(ip("fd00::1")), ip("fd00::1"))
    [answer] = layer.receive_discovery(0, asked)
    assert isinstance(answer, Outgoing)
    assert answer.destination == group_address(nd.ALL_NODES, BROADCAST)
    said = nd.parse(answer.payload)
    assert isinstance(said, nd.NeighborAdvertisement)
    assert (said.solicited, said.destination) == (False, nd.ALL_NODES)
    assert layer.receive_discovery(0, nd.NeighborSolicitation(nd.UNSPECIFIED, nd.ALL_NODES, ip("fd00::9"))) == []


def test_a_solicitation_without_address_is_answered_after_asking_back(layer: IpLayer) -> None:
    asked = nd.NeighborSolicitation(ip("fd00::3"), ip("fd00::1"), ip("fd00::1"))
    [question] = layer.receive_discovery(0, asked)
    assert isinstance(question, Outgoing)
    assert nd.parse(question.payload).KIND == nd.NeighborSolicitation.KIND


def test_an_unsolicited_advertisement_overrides(layer: IpLayer) -> None:
    layer.receive_discovery(0, nd.NeighborSolicitation(ip("fd00::3"), ip("fd00::1"), ip("fd00::1"), THERE))
    for override, where in ((False, THERE), (True, THERE_TOO)):
        event = nd.NeighborAdvertisement(ip("fd00::3"), nd.ALL_NODES, ip("fd00::3"), THERE_TOO, override=override)
        layer.receive_discovery(1, event)
        packet = ping("fd00::1", "fd00::3")
        assert layer.send(2, packet)[0] == Outgoing(where, ETHERTYPE_IPV6, packet, next_hop=ip("fd00::3"))


def test_router_discovery_of_the_kernel_leaves_as_it_is(layer: IpLayer) -> None:
    routers = nd.RouterSolicitation(ip("fd00::1"), nd.ALL_ROUTERS).pack()
    assert layer.send(0, routers) == [Outgoing(group_address(nd.ALL_ROUTERS, BROADCAST), ETHERTYPE_IPV6, routers)]


def test_announcements_of_the_recording(layer: IpLayer) -> None:
    first, second, third = layer.announce()
    wanted = "0020 0800 14 04 0001 80000049fe800000000000000002c903000a0001 0a000001" + "00" * 20 + "0a000001"
    assert first == Outgoing(BROADCAST, ETHERTYPE_ARP, bytes.fromhex(wanted))
    assert second.payload.startswith(bytes.fromhex("6000000000303aff"))
    said = nd.parse(third.payload)
    assert isinstance(said, nd.NeighborAdvertisement)
    assert (said.target, said.override, said.solicited) == (ip("fe80::202:c903:a:1"), True, False)
    assert said.destination == nd.ALL_NODES


def test_groups_broadcasts_and_gateways(layer: IpLayer) -> None:
    layer._next_hops.set_routes([RouteEntry(bytes(4), 0, "bond0", ip("10.0.0.254"))])
    for destination, link in (
        ("239.1.2.3", group_address(CHAT, BROADCAST)),
        ("10.0.0.255", BROADCAST),
        ("255.255.255.255", BROADCAST),
    ):
        packet = UdpDatagram(ip("10.0.0.1"), ip(destination), 1, 2, b"").pack()
        assert layer.send(0, packet) == [Outgoing(link, ETHERTYPE_IPV4, packet)]
    [question] = layer.send(0, ping("10.0.0.1", "192.0.2.1"))
    assert isinstance(question, Outgoing)
    assert Arp.parse(question.payload).target_ip == ip("10.0.0.254")


def test_a_report_that_leaves_joins_and_goes_on(layer: IpLayer) -> None:
    report = membership(ip("10.0.0.1"), (CHAT,)).pack()
    [sent] = layer.send(0, report)
    assert isinstance(sent, Outgoing)
    assert group_address(CHAT, BROADCAST) in layer.device.multicast
    reported = layer.report()
    assert overheard(reported[0].payload) == ((CHAT, True),)
    assert len(reported) == 2, "IGMP for the chat, MLD for the solicited-node groups"


def test_own_failover_keeps_traffic_going_and_asks(layer: IpLayer) -> None:
    layer.receive_arp(0, arp(1, THERE, "10.0.0.3", bytes(20), "10.0.0.1"), unicast=False)
    layer.device.address = THERE_TOO
    assert layer.readdressed(1) == []
    packet = ping("10.0.0.1", "10.0.0.3")
    data, question = layer.send(2, packet)
    assert data == Outgoing(THERE, ETHERTYPE_IPV4, packet, next_hop=ip("10.0.0.3"))
    assert isinstance(question, Outgoing)
    assert question.destination == BROADCAST
    assert Arp.parse(question.payload).sender_hardware == THERE_TOO


def test_probes_of_the_arp_monitor(layer: IpLayer) -> None:
    probe = layer.probe(ip("10.0.0.3"), THERE_TOO)
    question = Arp.parse(probe.payload)
    assert (question.sender_hardware, question.sender_ip) == (THERE_TOO, ip("10.0.0.1"))
    asked = nd.parse(layer.probe(ip("fd00::9"), THERE_TOO).payload)
    assert asked.source == ip("fd00::1")


@pytest.mark.parametrize("packet", [b"", b"\x45", bytes(60), b"\x60" + bytes(38)])
def test_rubbish_is_counted(layer: IpLayer, packet: bytes) -> None:
    assert layer.send(0, packet) == []
    assert layer.counts.malformed == 1


def test_another_host_that_claims_our_address_is_reported_once_and_not_believed(layer: IpLayer) -> None:
    claim = arp(1, THERE, "10.0.0.1", bytes(20), "10.0.0.1")
    assert layer.receive_arp(0, claim, unicast=False) == [Conflict(ip("10.0.0.1"), THERE, detected=False)]
    assert layer.receive_arp(0, claim, unicast=False) == []
    advertised = nd.NeighborAdvertisement(ip("fd00::1"), nd.ALL_NODES, ip("fd00::1"), THERE, override=True)
    assert layer.receive_discovery(0, advertised) == [Conflict(ip("fd00::1"), THERE, detected=False)]
    assert layer.neighbors.get(ip("10.0.0.1")) is None


def test_arp_of_a_program_leaves_as_it_is(layer: IpLayer) -> None:
    gratuitous = arp(1, HERE, "10.0.0.9", bytes(20), "10.0.0.9")
    assert layer.send(0, gratuitous.pack()) == [Outgoing(BROADCAST, ETHERTYPE_ARP, gratuitous.pack())]
    answer = arp(2, HERE, "10.0.0.9", THERE, "10.0.0.3")
    assert layer.send(0, answer.pack()) == [Outgoing(THERE, ETHERTYPE_ARP, answer.pack())]
    announced = arp(2, HERE, "10.0.0.9", HERE, "10.0.0.9")  # IPaddr2's send_arp announces by replies
    assert layer.send(0, announced.pack()) == [Outgoing(BROADCAST, ETHERTYPE_ARP, announced.pack())]


def test_a_program_that_knows_no_link_layer_address_gets_the_devices_own(layer: IpLayer) -> None:
    [sent] = layer.send(0, arp(1, bytes(20), "10.0.0.9", bytes(20), "10.0.0.9").pack())
    assert isinstance(sent, Outgoing)
    assert Arp.parse(sent.payload).sender_hardware == HERE
    advertised = nd.NeighborAdvertisement(ip("fd00::9"), nd.ALL_NODES, ip("fd00::9"), override=True)
    [sent] = layer.send(0, advertised.pack())
    assert isinstance(sent, Outgoing)
    assert nd.parse(sent.payload) == nd.NeighborAdvertisement(
        ip("fd00::9"), nd.ALL_NODES, ip("fd00::9"), HERE, override=True
    )


@pytest.mark.parametrize(
    "packet",
    [
        bytes.fromhex("00200800"),
        bytes.fromhex("00200800 14 04 0001") + bytes(40),
        bytes.fromhex("00200800 06 04 0001") + bytes(20),
        bytes.fromhex("333300000001000000000000 86dd"),
    ],
)
def test_unreadable_frames_of_programs_are_counted(layer: IpLayer, packet: bytes) -> None:
    assert layer.send(0, packet) == []
    assert layer.counts.malformed + layer.counts.ignored == 1


def test_new_addresses_are_announced_twice_while_there_is_a_carrier(layer: IpLayer) -> None:
    mine = layer.addresses
    layer.set_addresses(0, (*mine, (ip("10.0.0.8"), 24)))
    assert layer.deadline() is None  # a host that starts announces nothing
    layer.device.set_carrier(True)
    layer.set_addresses(1, (*mine, (ip("10.0.0.9"), 24), (ip("fd00::9"), 64)))
    assert layer.deadline() == 1
    reported, *frames = layer.tick(1)
    assert reported == Announced((ip("10.0.0.9"), ip("fd00::9")))
    assert [frame.ethertype for frame in frames if isinstance(frame, Outgoing)] == [ETHERTYPE_ARP, ETHERTYPE_IPV6]
    layer.device.set_carrier(False)
    assert layer.deadline() is None
    layer.device.set_carrier(True)
    again = layer.deadline()
    assert again == 1 + 2 * SECOND
    assert layer.tick(again)[0] == reported
    assert layer.deadline() is None


def test_an_address_that_is_gone_is_not_announced(layer: IpLayer) -> None:
    layer.device.set_carrier(True)
    mine = layer.addresses
    layer.set_addresses(0, (*mine, (ip("10.0.0.9"), 24)))
    layer.set_addresses(0, mine)
    assert layer.deadline() is None
    assert layer.tick(0) == []


def test_duplicate_detection_of_the_kernel_passes_and_gets_its_answer(layer: IpLayer) -> None:
    wanted = ip("fd00::9")
    question = nd.NeighborSolicitation(nd.UNSPECIFIED, nd.solicited_node(wanted), wanted)
    [sent] = layer.send(0, question.pack())
    assert isinstance(sent, Outgoing)
    assert nd.parse(sent.payload) == question
    answer = nd.NeighborAdvertisement(wanted, nd.ALL_NODES, wanted, THERE, override=True)
    assert layer.receive_discovery(0, answer) == [Conflict(wanted, THERE, detected=True)]
    shown = layer.wanted_by_kernel(answer)
    assert isinstance(shown, nd.NeighborAdvertisement)
    assert not shown.link_address
    other = nd.NeighborAdvertisement(ip("fd00::8"), nd.ALL_NODES, ip("fd00::8"), THERE)
    assert layer.wanted_by_kernel(other) is None


def test_two_hosts_that_want_the_same_address_at_once(layer: IpLayer) -> None:
    wanted = ip("fd00::9")
    question = nd.NeighborSolicitation(nd.UNSPECIFIED, nd.solicited_node(wanted), wanted)
    assert layer.wanted_by_kernel(question) is None
    layer.send(0, question.pack())
    assert layer.receive_discovery(0, question) == [Conflict(wanted, b"", detected=True)]
    assert layer.wanted_by_kernel(question) is question


def test_a_programs_solicitation_is_answered_to_it_whole(layer: IpLayer) -> None:
    asked = ip("fd00::3")
    [sent] = layer.send(0, nd.NeighborSolicitation(ip("fd00::1"), nd.solicited_node(asked), asked).pack())
    assert isinstance(sent, Outgoing)
    reported = nd.parse(sent.payload)
    assert isinstance(reported, nd.NeighborSolicitation)
    assert reported.link_address == HERE
    answer = nd.NeighborAdvertisement(asked, ip("fd00::1"), asked, THERE, solicited=True)
    assert layer.wanted_by_kernel(answer) is answer
