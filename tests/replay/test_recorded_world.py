"""The parts of a recorded world: clock, segments, the kernel's IP side, ip commands."""

import pytest

from ibbond.abi.recording import DeviceSpec
from ibbond.machine import MS
from ibbond.netdev.device import AddressOrigin, Device
from ibbond.netdev.namespace import Namespace
from ibbond.replay.clock import VirtualClock
from ibbond.replay.devices import RecordedDriver, make_device
from ibbond.replay.ip_command import (
    AddAddress,
    AddBond,
    DeleteLink,
    FlushAddresses,
    RemoveAddress,
    SetLink,
    Unknown,
    parse_command,
)
from ibbond.replay.kernel_ip import KernelIp, mapped
from ibbond.replay.segment import Frame, Segment, group_of, is_group
from ibbond.replay.trace import frame_facts
from ibbond.wire import arp, nd
from ibbond.wire.group_reports import ALL_REPORTS_V4
from ibbond.wire.ipoib import ETHERTYPE_ARP, ETHERTYPE_IPV6

TARGET = bytes((10, 0, 0, 254))
OURS = bytes((10, 0, 0, 1))


class Ticker:
    """A machine that wants to be ticked every 10 ms."""

    def __init__(self) -> None:
        self.at: int | None = 10 * MS
        self.seen: list[int] = []

    def deadline(self) -> int | None:
        return self.at

    def tick(self, now: int) -> None:
        self.seen.append(now)
        self.at = now + 10 * MS


def test_time_jumps_from_deadline_to_deadline() -> None:
    ticker = Ticker()
    clock = VirtualClock(ticker.deadline, ticker.tick)
    calls: list[int] = []
    clock.later(15 * MS, lambda: calls.append(clock.now))
    clock.run(35 * MS)
    assert ticker.seen == [10 * MS, 20 * MS, 30 * MS]
    assert calls == [15 * MS]
    assert clock.now == 35 * MS


def test_without_a_span_only_what_is_due_now_happens() -> None:
    clock = VirtualClock(lambda: None, lambda now: None)
    calls: list[str] = []
    clock.later(0, lambda: (calls.append("first"), clock.later(0, lambda: calls.append("second")))[0])
    clock.later(1, lambda: calls.append("later"))
    clock.run()
    assert calls == ["first", "second"]


def test_a_machine_that_does_not_move_its_deadline_is_caught() -> None:
    clock = VirtualClock(lambda: 0, lambda now: None)
    with pytest.raises(AssertionError, match="does not move its deadline"):
        clock.run()


def plugged(kind: str, count: int) -> tuple[Segment, list[Device], list[tuple[str, Frame]]]:
    seen: list[tuple[str, Frame]] = []
    segment = Segment(
        bytes.fromhex("0200000001ff") if kind == "ether" else bytes(4) + bytes.fromhex("fe80") + bytes(14),
        lambda device, frame: seen.append((device.name, frame)),
    )
    devices = [make_device(f"d{number}", DeviceSpec(kind), number) for number in range(count)]
    for device in devices:
        segment.plug(device)
        device.open()
    return segment, devices, seen


@pytest.mark.parametrize("kind", ["ether", "infiniband"])
def test_a_request_reaches_all_others_and_the_peer_answers_the_asker(kind: str) -> None:
    segment, (a, b, c), seen = plugged(kind, 3)
    segment.peer_ips.append(TARGET)
    assert isinstance(c.driver, RecordedDriver)
    c.driver.plug(c, on=False)
    question = arp.request(a.address, OURS, TARGET, hardware_type=a.type)
    segment.send(a, Frame(ETHERTYPE_ARP, a.address, a.broadcast, question.pack()))
    assert [name for name, _ in seen] == [b.name, a.name]
    answer = arp.Arp.parse(seen[-1][1].payload)
    assert (answer.operation, answer.sender_ip, answer.sender_hardware) == (arp.REPLY, TARGET, segment.peer_address)
    assert answer.target_hardware == a.address


def test_the_peer_answers_for_its_own_addresses_only() -> None:
    segment, (a, _), seen = plugged("infiniband", 2)
    question = arp.request(a.address, bytes(4), TARGET, hardware_type=a.type)
    segment.send(a, Frame(ETHERTYPE_ARP, a.address, a.broadcast, question.pack()))
    assert [name for name, _ in seen] == ["d1"]


def test_the_peer_answers_solicitations() -> None:
    segment, (a, _), seen = plugged("infiniband", 2)
    target = bytes.fromhex("20010db8000000000000000000000001")
    segment.peer_ips.append(target)
    for source in (nd.UNSPECIFIED, bytes.fromhex("20010db8000000000000000000000002")):
        question = nd.NeighborSolicitation(source, nd.solicited_node(target), target, a.address)
        segment.send(a, Frame(ETHERTYPE_IPV6, a.address, group_of(a.address), question.pack()))
        answer = nd.parse(seen[-1][1].payload)
        assert isinstance(answer, nd.NeighborAdvertisement)
        assert answer.solicited == (source != nd.UNSPECIFIED)
        assert answer.destination == (source if any(source) else nd.ALL_NODES)


def test_a_bridge_learns_where_an_address_moved() -> None:
    segment, (a, b), seen = plugged("ether", 2)
    b.address = a.address
    for device in (a, b):
        segment.send(device, Frame(ETHERTYPE_ARP, a.address, b"\xff" * 6, arp.request(a.address, OURS, OURS).pack()))
    seen.clear()
    segment.send(a, Frame(0x0800, b"\x02" + bytes(5), a.address, b""))
    assert [name for name, _ in seen] == ["d1"]


def test_group_addresses() -> None:
    assert is_group(b"\xff" * 6)
    assert is_group(bytes.fromhex("00ffffffff12401bffff00000000000000000001"))
    assert not is_group(bytes.fromhex("80000208fe800000000000000002c90300001001"))
    assert not is_group(b"")


def stack(ipv6: bool = False) -> tuple[Namespace, KernelIp, VirtualClock, list[tuple[str, Frame]]]:
    sent: list[tuple[str, Frame]] = []
    clock = VirtualClock(lambda: None, lambda now: None)
    namespace = Namespace()
    ip = KernelIp(namespace, clock, lambda device, frame: sent.append((device.name, frame)), ipv6=ipv6)
    return namespace, ip, clock, sent


def maddr(device: Device) -> list[str]:
    return sorted(address.hex() for address in device.multicast)


def test_groups_follow_up_and_down() -> None:
    namespace, ip, _, _ = stack()
    device = make_device("ib0", DeviceSpec("infiniband"), 0)
    namespace.register(device)
    all_nodes = "00ffffffff12601bffff00000000000000000001"
    assert maddr(device) == [all_nodes]
    device.open()
    ip.add_address(device, OURS, 24)
    ip.join(device, bytes((239, 1, 2, 3)))
    assert len(maddr(device)) == 3
    assert "00ffffffff12401bffff0000000000000f010203" in maddr(device)
    device.close()
    assert maddr(device) == [all_nodes]
    device.open()
    assert len(maddr(device)) == 3


def test_kinds_of_devices_map_groups_differently() -> None:
    group = bytes((224, 0, 0, 1))
    maps = {kind: mapped(group, make_device("d", DeviceSpec(kind), 0)) for kind in ("ether", "none", "infiniband-tun")}
    assert maps == {"ether": bytes.fromhex("01005e000001"), "none": None, "infiniband-tun": b""}


def test_announcements_and_reports() -> None:
    namespace, ip, _, sent = stack()
    device = make_device("ib0", DeviceSpec("infiniband"), 0)
    namespace.register(device)
    device.open()
    ip.add_address(device, OURS, 24)
    ip.add_address(device, TARGET, 24)
    for last in (3, 4):
        ip.join(device, bytes((239, 1, 2, last)))
    sent.clear()
    ip.announce(device)
    ip.report(device)
    facts = [frame_facts(frame) for _, frame in sent]
    assert [fact["tpa"] for fact in facts[:2] if fact] == ["10.0.0.1", "10.0.0.254"]
    assert [str(fact["body"])[-8:] for fact in facts[2:] if fact] == ["ef010204", "ef010203"]
    assert all(fact["dst"] == "224.0.0.22" for fact in facts[2:] if fact)
    assert bytes((224, 0, 0, 22)) == ALL_REPORTS_V4


def test_ipv6_addresses_are_tentative_until_no_one_objected() -> None:
    namespace, ip, clock, sent = stack(ipv6=True)
    device = make_device("ib0", DeviceSpec("infiniband"), 0)
    namespace.register(device)
    device.open()
    ip.link_ready(device)
    address = bytes.fromhex("20010db8000000000000000000000001")
    ip.add_address(device, address, 64, check=False)
    assert ip.addresses(device) == [address]
    clock.run(2000 * MS)
    assert ip.addresses(device) == [address, bytes.fromhex("fe800000000000000202c90300001001")]
    assert [fact["icmp6"] for _, frame in sent if (fact := frame_facts(frame))] == ["NS"]
    sent.clear()
    ip.announce(device)
    assert [fact["target"] for _, frame in sent if (fact := frame_facts(frame))] == [
        "2001:db8::1",
        "fe80::202:c903:0:1001",
    ]
    device.close()
    assert ip.addresses(device) == []


def test_routes_are_the_links_of_devices_that_are_up() -> None:
    namespace, ip, _, _ = stack()
    device = make_device("ib0", DeviceSpec("infiniband"), 0)
    namespace.register(device)
    ip.add_address(device, OURS, 24)
    assert ip.route(TARGET) is None
    device.open()
    assert ip.route(TARGET) == (device, OURS)
    assert ip.route(bytes((10, 0, 1, 1))) is None
    assert device.address_origin is AddressOrigin.SET


@pytest.mark.parametrize(
    ("words", "command"),
    [
        ("addr add 10.0.0.1/24 dev bond0", AddAddress("bond0", OURS, 24, check=False)),
        ("addr del 10.0.0.1/24 dev bond0", RemoveAddress("bond0", OURS)),
        ("addr flush dev bond0", FlushAddresses("bond0")),
        ("-6 addr flush bond0", FlushAddresses("bond0", 16)),
        ("link del ib0", DeleteLink("ib0")),
        ("link del dev bond3 type bond", DeleteLink("bond3")),
        ("link add type bond", AddBond("bond%d")),
        ("link add name bond2 mtu 2000 up type bond", AddBond("bond2", mtu=2000, up=True)),
        ("link set ib0 qlen 0x10 arp off multicast on", SetLink("ib0", tx_queue_len=16, arp=False, multicast=True)),
        ("link set ib0 type bond clear_active_slave", SetLink("ib0", options=(("active_slave", ""),))),
        ("link set dev ib0 type bond_slave prio 5", SetLink("ib0", member_options=(("prio", "5"),))),
        ("link set ib1 down", SetLink("ib1", up=False)),
        ("link set ib1 nomaster", SetLink("ib1", master="")),
        ("link set bond0 mtu 2044 promisc on", SetLink("bond0", mtu=2044, promisc=True)),
        (
            "link add bond3 type bond miimon 100 mode active-backup",
            AddBond("bond3", (("mode", "1"), ("miimon", "100"))),
        ),
    ],
)
def test_ip_commands(words: str, command: object) -> None:
    assert parse_command(words) == command


@pytest.mark.parametrize(
    "words",
    ["", "route add default", "link add x type vlan", "link set ib0 speed 5", "addr add 10.0.0.1/24", "link set"],
)
def test_other_ip_commands_are_not_known(words: str) -> None:
    with pytest.raises(Unknown):
        parse_command(words)
