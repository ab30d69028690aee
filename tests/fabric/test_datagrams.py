"""Datagrams: who gets them, who must not, what is counted, what a capture sees."""

from collections.abc import Callable

import pytest

from ibbond.fabric.events import Captured, Cut, DatagramArrived, MakeLossy, Mend, SendDatagram, SetPkeys
from ibbond.fabric.packet import datagram_packet
from ibbond.manager.partitions import Partition
from ibbond.verbs.timing import Timing
from ibbond.wire.ib import UdPacket
from ibbond.wire.offload import GSO_TCPV4, NEEDS_CHECKSUM, OffloadHeader
from tests.fabric.subnets import BROADCAST, QKEY, Lab, two_switches

STORAGE = bytes.fromhex("ff12401b8001000000000000ffffffff")


@pytest.fixture
def lab() -> Lab:
    lab = two_switches(Lab(), hosts=3)
    lab.subnet.add_partition(Partition("storage", 0x8001, full=("h1/1", "h2/1"), limited=("h1/2", "h2/2")))
    return lab.start()


def test_it_arrives_as_it_was_sent_at_the_queue_pair(lab: Lab) -> None:
    qpn = lab.listen("h2/1", None)
    datagram = lab.datagram("h1/1", lab.subnet.port("h2/1").lid, qpn, b"payload", service_level=0)
    assert lab.do(SendDatagram("h1/1", datagram)) == [DatagramArrived("h2/1", datagram, qpn)]


@pytest.mark.parametrize(
    ("sender", "receiver", "pkey", "passes"),
    [
        ("h1/1", "h2/1", 0xFFFF, True),
        ("h1/1", "h2/1", 0x8001, True),
        ("h1/1", "h2/2", 0x8001, True),  # full to limited
        ("h1/2", "h2/1", 0x0001, True),  # limited to full
        ("h1/2", "h2/1", 0x8001, True),  # the packet carries the form that is in the sender's table
        ("h1/2", "h2/2", 0x0001, False),  # both limited
        ("h1/2", "h2/2", 0x8001, False),  # a limited member cannot claim to be full
        ("h1/1", "h3/1", 0x8001, False),  # not a member
        ("h3/1", "h1/1", 0x8001, False),  # not in the sender's table
        ("h1/1", "h2/1", 0x7FFF, True),
        ("h1/1", "h2/1", 0x0000, False),
        ("h1/1", "h2/1", 0x8000, False),
    ],
)
def test_partitions(lab: Lab, sender: str, receiver: str, pkey: int, passes: bool) -> None:
    qpn = lab.listen(receiver, None)
    assert lab.send(sender, receiver, qpn, pkey=pkey) == ([receiver] if passes else [])


def test_pkey_violations_are_counted_where_they_arrive(lab: Lab) -> None:
    qpn = lab.listen("h2/2", None)
    lab.send("h1/2", "h2/2", qpn, pkey=0x0001)
    assert lab.subnet.port("h2/2").info.p_key_violations == 1
    lab.send("h3/1", "h1/1", qpn, pkey=0x8001)
    assert lab.subnet.counters("h3/1").transmit_discards == 1


@pytest.mark.parametrize(("qkey", "passes"), [(QKEY, True), (0, False), (QKEY + 1, False)])
def test_qkeys(lab: Lab, qkey: int, passes: bool) -> None:
    qpn = lab.listen("h2/1", None)
    assert lab.send("h1/1", "h2/1", qpn, qkey=qkey) == (["h2/1"] if passes else [])
    assert lab.subnet.port("h2/1").info.q_key_violations == (0 if passes else 1)
    assert lab.subnet.accepts("h2/1", 0xFFFF, qpn, qkey) is passes


def test_queue_pairs_belong_to_a_port(lab: Lab) -> None:
    first, second = lab.listen("h2/1", None), lab.listen("h2/2", None)
    assert (first, second) == (0x48, 0x49)
    assert lab.send("h1/1", "h2/1", first) == ["h2/1"]
    assert lab.send("h1/1", "h2/2", first) == []
    assert lab.send("h1/1", "h2/1", 0x123) == []
    lab.subnet.destroy_queue_pair("h2/1", first)
    assert lab.send("h1/1", "h2/1", first) == []
    assert lab.listen("h2/1", None) == 0x4A
    assert not lab.subnet.accepts("h2/1", 0xFFFF, first, QKEY)


def test_a_datagram_to_oneself_does_not_need_a_cable(lab: Lab) -> None:
    qpn = lab.listen("h1/1", None)
    before = lab.subnet.counters("h1/1")
    assert lab.send("h1/1", "h1/1", qpn) == ["h1/1"]
    assert lab.subnet.counters("h1/1") == before


def test_members_get_one_copy_and_others_none(lab: Lab) -> None:
    members = ["h1/1", "h2/1", "h2/2", "h3/2"]
    for port in members:
        lab.join(port)
    qpns = {port: lab.listen(port) for port in [*members, "h1/2"]}
    for port in members:
        assert sorted(lab.multicast(port, source_qpn=qpns[port])) == [other for other in members if other != port]
    assert lab.multicast("h1/1", mlid=0xC007, source_qpn=qpns["h1/1"]) == []


def test_only_those_attached_get_a_copy(lab: Lab) -> None:
    for port in ("h1/1", "h2/1"):
        lab.join(port)
    mine, yours = lab.listen("h1/1"), lab.listen("h2/1")
    assert lab.multicast("h1/1", source_qpn=mine) == ["h2/1"]
    another = lab.listen("h2/1")
    assert lab.multicast("h1/1", source_qpn=mine) == ["h2/1", "h2/1"]
    assert [effect.qpn for effect in lab.seen if isinstance(effect, DatagramArrived)] == [yours, another]
    lab.subnet.detach("h2/1", yours, BROADCAST)
    lab.subnet.detach("h2/1", another, BROADCAST)
    assert lab.multicast("h1/1", source_qpn=mine) == []


def test_other_queue_pairs_of_the_sending_port_get_a_copy(lab: Lab) -> None:
    lab.join("h1/1")
    mine, other = lab.listen("h1/1"), lab.listen("h1/1")
    assert lab.multicast("h1/1", source_qpn=mine) == ["h1/1"]
    assert [effect.qpn for effect in lab.seen if isinstance(effect, DatagramArrived)] == [other]


def test_send_only_members_send_only(lab: Lab) -> None:
    for port, state in (("h1/1", 1), ("h3/2", 4), ("h2/2", 8)):
        lab.join(port, state=state)
    qpns = {port: lab.listen(port) for port in ("h1/1", "h3/2", "h2/2")}
    assert lab.multicast("h3/2", source_qpn=qpns["h3/2"]) == ["h1/1"]
    assert lab.multicast("h2/2", source_qpn=qpns["h2/2"]) == ["h1/1"]
    assert lab.multicast("h1/1", source_qpn=qpns["h1/1"]) == []


def test_a_group_of_a_partition_stays_in_it(lab: Lab) -> None:
    for port in ("h1/1", "h2/1", "h2/2"):
        lab.join(port, STORAGE)
    qpns = {port: lab.listen(port, STORAGE) for port in ("h1/1", "h2/1", "h2/2")}
    sent = {"source_qpn": qpns["h1/1"], "pkey": 0x8001}
    assert sorted(lab.multicast("h1/1", 0xC001, STORAGE, **sent)) == ["h2/1", "h2/2"]
    lab.after(SetPkeys("h2/1", (0xFFFF,)))
    assert sorted(lab.multicast("h1/1", 0xC001, STORAGE, **sent)) == ["h2/2"]


@pytest.mark.parametrize(("mtu", "size", "passes"), [(2048, 2048, True), (2048, 2049, False), (4096, 4096, True)])
def test_too_long_for_the_link(mtu: int, size: int, passes: bool) -> None:
    lab = Lab()
    lab.subnet.add_switch("s1", 2, mtu_bytes=mtu)
    for number in (1, 2):
        lab.subnet.add_hca(f"h{number}", 1)
        lab.subnet.connect(f"h{number}/1", f"s1/{number}")
    lab.start()
    qpn = lab.listen("h2/1", None)
    assert lab.send("h1/1", "h2/1", qpn, payload=bytes(size)) == (["h2/1"] if passes else [])
    assert lab.subnet.counters("h1/1").transmit_discards == (not passes)


def test_counters_tell_words_and_packets_of_every_hop(lab: Lab) -> None:
    qpn = lab.listen("h2/1", None)
    names = ["h1/1", "s1/1", "s1/2", "h2/1"]
    before = {name: lab.subnet.counters(name) for name in names}
    lab.send("h1/1", "h2/1", qpn, payload=bytes(100))
    lab.send("h1/1", "h2/1", qpn, payload=bytes(101))
    words = (100 + 32) // 4 + (104 + 32) // 4
    for name in names:
        after, then = lab.subnet.counters(name), before[name]
        sends = name in ("h1/1", "s1/2")
        assert after.transmit_packets - then.transmit_packets == (2 if sends else 0)
        assert after.transmit_words - then.transmit_words == (words if sends else 0)
        assert after.receive_packets - then.receive_packets == (0 if sends else 2)
        assert after.receive_words - then.receive_words == (0 if sends else words)


def test_discards_are_counted_where_they_happen(lab: Lab) -> None:
    qpn = lab.listen("h2/1", None)
    lab.do(Cut("h2/1"))
    assert lab.send("h1/1", "h2/1", qpn) == []
    assert lab.subnet.counters("s1/2").transmit_discards == 1
    lab.run_until_quiescent()
    assert lab.send("h1/1", "h2/1", qpn) == []
    assert lab.subnet.counters("s1/1").receive_switch_relay_errors == 1
    lab.do(Cut("h1/1"))
    lab.send("h1/1", "h2/2", qpn)
    assert lab.subnet.counters("h1/1").transmit_discards == 1


class TestWalk:
    """What the fast path remembers."""

    def test_it_is_what_a_datagram_does(self, lab: Lab) -> None:
        qpn = lab.listen("h2/2", None)
        lid = lab.subnet.port("h2/2").lid
        names = [f"s{switch}/{port}" for switch in (1, 2) for port in range(9)] + ["h1/1", "h2/2"]
        before = {name: lab.subnet.counters(name) for name in names}
        lab.send("h1/1", "h2/2", qpn, payload=bytes(100))
        sent = {name: lab.subnet.counters(name) for name in names}
        walk = lab.subnet.trace_path("h1/1", lid)
        assert walk is not None
        assert walk.destination == "h2/2"
        walk.count(1, 100)
        for name in names:
            after = lab.subnet.counters(name)
            first = (sent[name].transmit_words - before[name].transmit_words, sent[name].receive_packets)
            second = (after.transmit_words - sent[name].transmit_words, after.receive_packets)
            assert first[0] == second[0]
            assert second[1] - first[1] == first[1] - before[name].receive_packets

    def test_whatever_changes_it_bumps_the_generation(self, lab: Lab) -> None:
        lid, generation = lab.subnet.port("h2/2").lid, lab.subnet._generation
        steps: list[tuple[Callable[[], object], bool]] = [
            (lambda: lab.after(Cut("s1/7")), True),
            (lambda: lab.after(Mend("s1/7")), True),
            (lambda: lab.after(MakeLossy("h2/2", 0.1)), False),
            (lambda: lab.after(MakeLossy("h2/2", 0)), True),
            (lambda: lab.subnet.mirror("s2/2", True), False),
            (lambda: lab.subnet.mirror("s2/2", False), True),
            (lambda: lab.after(Cut("h2/2")), False),
            (lambda: lab.after(Mend("h2/2")), True),
        ]
        for step, walks in steps:
            before = generation.value
            step()
            assert generation.value > before
            assert (lab.subnet.trace_path("h1/1", lid) is not None) is walks

    def test_there_is_none_to_no_one_or_with_delays(self, lab: Lab) -> None:
        assert lab.subnet.trace_path("h1/1", 0x1000) is None
        assert lab.subnet.trace_path("h1/1", lab.subnet.port("s2/0").lid) is None
        own = lab.subnet.trace_path("h1/1", lab.subnet.port("h1/1").lid)
        assert own is not None
        assert own.destination == "h1/1"
        slow = two_switches(Lab(timing=Timing.simulated())).start()
        assert slow.subnet.trace_path("h1/1", slow.subnet.port("h2/1").lid) is None


def train(segments: int, size: int = 1000) -> tuple[bytes, bytes]:
    """A TCP GSO packet over IPv4 as a TUN device gives it: (offload header, encapsulation and packet)."""
    tcp = bytes.fromhex("1f90c350000000010000000050180200") + bytes(4)
    data = b"".join(bytes([number]) * size for number in range(segments))
    total = (20 + 20 + len(data)).to_bytes(2, "big")
    ip = bytes.fromhex("4500") + total + bytes.fromhex("0001000040060000") + bytes((10, 0, 0, 1, 10, 0, 0, 2))
    offload = OffloadHeader(NEEDS_CHECKSUM, GSO_TCPV4, 40, size, 20, 16).pack()
    return offload, bytes.fromhex("08000000") + ip + tcp + data


def test_a_gso_packet_travels_whole_and_counts_as_its_packets(lab: Lab) -> None:
    qpn = lab.listen("h2/1", None)
    offload, payload = train(10)
    before = lab.subnet.counters("h1/1")
    assert lab.send("h1/1", "h2/1", qpn, payload=payload, offload=offload) == ["h2/1"]
    after = lab.subnet.counters("h1/1")
    assert after.transmit_packets - before.transmit_packets == 10
    assert after.transmit_words - before.transmit_words == 10 * (4 + 40 + 1000 + 32) // 4


def test_a_lossy_cable_takes_a_gso_packet_apart(lab: Lab) -> None:
    qpn = lab.listen("h2/1", None)
    lab.do(MakeLossy("h2/1", 0.3))
    offload, payload = train(20)
    arrived = lab.send("h1/1", "h2/1", qpn, payload=payload, offload=offload)
    assert 5 < len(arrived) < 20
    singles = [effect.datagram for effect in lab.seen if isinstance(effect, DatagramArrived)]
    assert all(single.offload == b"" and len(single.payload) == 1044 for single in singles)
    assert lab.subnet.counters("h2/1").symbol_errors == 20 - len(arrived)
    assert datagram_packet(singles[0]).words == (4 + 40 + 1000 + 32) // 4


def test_a_capture_shows_frames_of_the_wire(lab: Lab) -> None:
    qpn = lab.listen("h2/1", None)
    lab.subnet.mirror("h1/1", True)
    lab.subnet.mirror("s1/1", True)
    lab.send("h1/1", "h2/1", qpn, payload=b"hello")
    seen = [effect for effect in lab.seen if isinstance(effect, Captured)]
    assert [(effect.port, effect.sent) for effect in seen] == [("h1/1", True), ("s1/1", False)]
    packet = UdPacket.parse(seen[0].frame)
    assert (packet.payload, packet.destination_qpn, packet.qkey) == (b"hello", qpn, QKEY)
    assert seen[1].frame == seen[0].frame


def test_a_capture_splits_trains_and_sees_management(lab: Lab) -> None:
    qpn = lab.listen("h2/1", None)
    lab.subnet.mirror("h1/1", True)
    offload, payload = train(3)
    lab.send("h1/1", "h2/1", qpn, payload=payload, offload=offload)
    frames = [UdPacket.parse(effect.frame) for effect in lab.seen if isinstance(effect, Captured)]
    assert [frame.payload[44] for frame in frames] == [0, 1, 2]
    lab.join("h1/1")
    frames = [UdPacket.parse(effect.frame) for effect in lab.seen if isinstance(effect, Captured)]
    assert [(frame.destination_qpn, frame.qkey, frame.virtual_lane) for frame in frames] == [(1, 0x80010000, 0)] * 2
    lab.after(Cut("h1/1"))
    lab.after(Mend("h1/1"))
    frames = [UdPacket.parse(effect.frame) for effect in lab.seen if isinstance(effect, Captured)]
    assert frames
    assert {(frame.destination_qpn, frame.virtual_lane, frame.destination_lid) for frame in frames} == {(0, 15, 0xFFFF)}
    lab.subnet.mirror("h1/1", False)
    lab.join("h1/1")
    assert not [effect for effect in lab.seen if isinstance(effect, Captured)]


def test_a_group_packet_has_its_global_route_in_a_capture(lab: Lab) -> None:
    lab.join("h1/1")
    lab.subnet.mirror("h1/1", True)
    qpn = lab.listen("h1/1")
    lab.multicast("h1/1", source_qpn=qpn, hop_limit=1, traffic_class=3)
    (captured,) = [effect for effect in lab.seen if isinstance(effect, Captured)]
    packet = UdPacket.parse(captured.frame)
    assert (packet.destination_gid, packet.hop_limit, packet.traffic_class) == (BROADCAST, 1, 3)
    assert packet.source_gid == lab.subnet.port("h1/1").gid


def test_capture_points_everywhere_see_the_same_frame(lab: Lab) -> None:
    """But for a directed route, whose hop pointer moves on."""
    qpn = lab.listen("h2/2", None)
    ports = [port.name for node in lab.subnet.nodes.values() for port in node.ports.values() if port.number]
    for port in ports:
        lab.subnet.mirror(port, True)
    lab.send("h1/1", "h2/2", qpn)
    frames = [effect.frame for effect in lab.seen if isinstance(effect, Captured)]
    assert len(frames) == 6
    assert len(set(frames)) == 1
    lab.after(Cut("h3/2"))
    pointers = {UdPacket.parse(effect.frame).payload[6] for effect in lab.seen if isinstance(effect, Captured)}
    assert 1 in pointers
