"""Packets of one interface: paths, groups, queues, counters, and what it takes from the subnet."""

import pytest

from ibbond.ipoib.paths import WAITING_PACKETS, OldNeighbor
from ibbond.ipoib.transmit import SUPERSEDED, Path
from ibbond.machine import SECOND
from ibbond.verbs.verbs import Datagram, PortEventKind
from ibbond.wire import offload
from ibbond.wire.group_address import broadcast_address, ethernet_group_address, group_address
from ibbond.wire.hwaddr import HardwareAddress
from ibbond.wire.ip import TCP, Ipv4
from ibbond.wire.mad import Method
from ibbond.wire.sa import SaAttribute, SaStatus
from ibbond.wire.sa_records import JoinState, McMemberMask, McMemberRecord, PathMask, PathRecord
from tests.ipoib.bench import OTHER, OTHER_GID, PEER, PEER_GID, QPN, Bench

MC, PATH = SaAttribute.MC_MEMBER_RECORD, SaAttribute.PATH_RECORD
BROADCAST = broadcast_address(0xFFFF)
GROUP = group_address(bytes((239, 1, 2, 3)), BROADCAST)
MGID = GROUP[4:]
ARP, IPV4, IPV6 = 0x0806, 0x0800, 0x86DD


def test_a_unicast_packet_asks_for_its_path_and_waits() -> None:
    bench = Bench().up()
    bench.sa.silent = True
    for number in range(WAITING_PACKETS + 2):
        bench.send(PEER, payload=b"%d" % number)
    assert bench.sent == []
    assert bench.sa.count(PATH, Method.GET, PEER_GID) == 1
    assert bench.device.statistics.tx_dropped == 2
    bench.sa.silent = False
    bench.wait(ms=200)
    assert [each.payload for each in bench.sent] == [b"\x08\0\0\0%d" % number for number in range(WAITING_PACKETS)]
    first = bench.sent[0]
    assert (first.destination_lid, first.destination_qpn, first.qkey) == (7, 0x4B, 0x0B1B)
    assert (first.source_lid, first.source_qpn, first.pkey) == (5, QPN, 0xFFFF)
    assert first.destination_gid is None, "no GRH inside the subnet"
    bench.send(PEER)
    assert len(bench.sent) == WAITING_PACKETS + 1
    assert bench.sa.count(PATH, Method.GET, PEER_GID) == 2, "one repetition, no second question"
    assert bench.interface.path_to(PEER) == Path(dlid=7, qpn=0x4B, qkey=0x0B1B)


def test_the_path_question() -> None:
    bench = Bench().up()
    bench.send(PEER)
    request = bench.sa.asked[-1]
    assert request.component_mask & 0x3FFF == sum(
        (PathMask.DGID, PathMask.SGID, PathMask.REVERSIBLE, PathMask.NUMB_PATH, PathMask.PKEY, PathMask.TRAFFIC_CLASS)
    )
    record = PathRecord.parse(request.data)
    assert (record.dgid, record.sgid, record.pkey, record.numb_path) == (PEER_GID, bench.port.gid, 0xFFFF, 1)


def test_hops_to_go_mean_a_grh() -> None:
    bench = Bench()
    bench.sa.hop_limit = 64
    bench.up()
    bench.send(PEER)
    assert bench.sent[-1].destination_gid == PEER_GID
    assert bench.sent[-1].source_gid == bench.port.gid
    assert bench.sent[-1].hop_limit == 64


@pytest.mark.parametrize("silent", [False, True])
def test_no_path_drops_what_waits_and_the_next_packet_asks_again(silent: bool) -> None:
    bench = Bench().up()
    bench.sa.silent = silent
    bench.sa.statuses[PEER_GID] = SaStatus.NO_RECORDS
    bench.send(PEER)
    bench.send(PEER, ARP)
    bench.wait(ms=1000)
    assert bench.device.statistics.tx_dropped == 2
    asked = bench.sa.count(PATH, Method.GET, PEER_GID)
    bench.wait(ms=5000)
    assert bench.sa.count(PATH, Method.GET, PEER_GID) == asked, "only a packet asks"
    bench.sa.silent = False
    bench.sa.statuses.clear()
    bench.send(PEER)
    assert len(bench.sent) == 1


def test_unicast_arp_uses_the_path_and_makes_no_neighbor() -> None:
    bench = Bench().up()
    bench.send(PEER, ARP)
    assert bench.sent[-1].destination_qpn == 0x4B
    assert bench.interface.path_to(PEER) is None
    again = HardwareAddress(0x99, PEER_GID).pack()  # the peer's driver was loaded again
    bench.send(again, ARP)
    assert bench.sent[-1].destination_qpn == 0x99
    assert bench.sa.count(PATH, Method.GET, PEER_GID) == 1


def test_what_names_the_old_member_does_not_leave_after_the_failover() -> None:
    """Else it would be the last that the peer receives (seed 6787 of two_hosts)."""
    bench = Bench().up()
    bench.sa.silent = True
    advertisement = bytes(6) + b"\x3a\xff" + PEER_GID + PEER_GID + b"\x88\0"
    report = bytes(6) + b"\x3a\xff" + PEER_GID + PEER_GID + b"\x8f\0"
    for destination in (PEER, GROUP):
        bench.send(destination, ARP)
        bench.send(destination, IPV6, advertisement)
        bench.send(destination, IPV6, report)
        bench.send(destination)
    bench.run(bench.interface.superseded())
    assert bench.drops == [SUPERSEDED] * 4
    bench.sa.silent = False
    bench.wait(ms=2000)
    assert [each.payload[:2].hex() for each in bench.sent] == ["86dd", "0800"] * 2
    bench.send(PEER, ARP)
    assert bench.sent[-1].payload[:2] == b"\x08\x06", "what comes later is the caller's business"


def test_two_queue_pairs_behind_one_gid_share_the_path() -> None:
    bench = Bench().up()
    bench.send(PEER)
    child = HardwareAddress(0x77, PEER_GID).pack()
    bench.send(child)
    assert [datagram.destination_qpn for datagram in bench.sent] == [0x4B, 0x77]
    assert bench.sa.count(PATH, Method.GET, PEER_GID) == 1


def test_idle_neighbors_go() -> None:
    bench = Bench().up()
    bench.send(PEER)
    bench.send(OTHER)
    for _ in range(10):
        bench.wait(ms=10_000)
        bench.interface.touch(bench.now, OTHER)
    assert bench.interface.path_to(PEER) is None
    assert bench.interface.path_to(OTHER) is not None


def test_a_group_is_joined_and_attached() -> None:
    bench = Bench().up()
    bench.listen(GROUP, ethernet_group_address(bytes((224, 0, 0, 1))), group_address(b"\xe0\0\0\1", b"\0" * 20))
    assert set(bench.attached) == {BROADCAST[4:], MGID}, "entries of other partitions and mappings are passed over"
    request = bench.sa.asked[-1]
    record = McMemberRecord.parse(request.data)
    assert record.join_state == JoinState.FULL
    needed = (
        McMemberMask.QKEY | McMemberMask.TRAFFIC_CLASS | McMemberMask.PKEY | McMemberMask.FLOW_LABEL | McMemberMask.SL
    )
    assert request.component_mask & needed == needed, "so that the group is made if there is none"
    assert (record.qkey, record.mtu, record.rate) == (0x0B1B, 4, 3)
    bench.listen()
    assert set(bench.attached) == {BROADCAST[4:]}
    assert MGID not in bench.sa.members


def test_a_group_that_is_refused_does_not_hold_up_others() -> None:
    bench = Bench().up()
    bench.sa.statuses[MGID] = SaStatus.NO_RESOURCES
    other = group_address(bytes((239, 9, 9, 9)), BROADCAST)
    bench.listen(GROUP, other)
    assert other[4:] in bench.attached
    bench.sa.statuses.clear()
    bench.wait(ms=2000)
    assert MGID in bench.attached


def test_sending_to_an_unknown_group_joins_it_for_sending() -> None:
    bench = Bench().up()
    bench.sa.silent = True
    for _ in range(70):
        bench.send(GROUP)
    assert bench.device.statistics.tx_dropped == 6, "64 wait"
    bench.sa.silent = False
    bench.wait(ms=200)
    assert len(bench.sent) == 64
    assert bench.sa.members[MGID] == JoinState.SEND_ONLY_FULL
    assert MGID not in bench.attached
    sent = bench.sent[-1]
    assert (sent.destination_lid, sent.destination_qpn, sent.destination_gid) == (0xC001, 0xFFFFFF, MGID)
    assert bench.interface.path_to(GROUP) == Path(0xC001, 0xFFFFFF, 0x0B1B, gid=MGID)


def test_a_group_that_cannot_be_joined_for_sending_is_given_up() -> None:
    bench = Bench().up()
    bench.sa.statuses[MGID] = SaStatus.DENIED
    bench.send(GROUP)
    assert bench.device.statistics.tx_dropped == 0
    bench.wait(ms=2000)
    assert bench.device.statistics.tx_dropped == 1
    states = [McMemberRecord.parse(mad.data).join_state for mad in bench.sa.asked if mad.data[:16] == MGID]
    assert states == [JoinState.SEND_ONLY_FULL, JoinState.FULL], "an old administrator knows only the latter"
    bench.wait(ms=30_000)
    assert bench.sa.count(MC, Method.SET, MGID) == 2
    bench.sa.statuses.clear()
    bench.send(GROUP)
    assert len(bench.sent) == 1


def test_a_group_sent_to_becomes_a_full_one_without_a_gap() -> None:
    bench = Bench().up()
    bench.send(GROUP)
    bench.sa.silent = True
    bench.listen(GROUP)
    bench.send(GROUP)
    assert len(bench.sent) == 2
    bench.sa.silent = False
    bench.wait(ms=300)
    assert MGID in bench.attached
    assert bench.sa.members[MGID] == JoinState.FULL | JoinState.SEND_ONLY_FULL
    bench.listen()
    assert MGID not in bench.sa.members


def test_a_group_only_sent_to_is_left_when_idle() -> None:
    bench = Bench().up()
    bench.send(GROUP)
    bench.wait(ms=50_000)
    assert MGID in bench.sa.members
    forgotten = bench.forgotten
    bench.wait(ms=60_000)
    assert MGID not in bench.sa.members
    assert bench.forgotten > forgotten


def test_the_own_key_is_written_into_every_group() -> None:
    bench = Bench(pkey=0x8001)
    bench.port.pkeys = (0xFFFF, 0x8001)
    bench.up()
    bench.send(GROUP)
    assert bench.sent[-1].destination_gid == group_address(bytes((239, 1, 2, 3)), broadcast_address(0x8001))[4:]


def test_unknown_ethertypes_and_foreign_addresses_are_dropped() -> None:
    bench = Bench().up()
    bench.send(PEER, 0x88B5)
    bench.send(b"\x02\0\0\0\0\1")
    assert bench.device.statistics.tx_dropped == 2
    assert bench.sent == []


def test_what_is_too_long_is_dropped_and_reported() -> None:
    bench = Bench().up()
    bench.send(PEER)
    bench.send(PEER, payload=bytes(2044))
    assert bench.too_long == []
    bench.send(PEER, payload=bytes(2045))
    assert bench.too_long == [2044]
    assert bench.device.statistics.tx_errors == 1
    bench.send(BROADCAST, payload=bytes(2045))
    assert bench.too_long == [2044, 2044]


def test_a_gso_packet_counts_as_its_packets_and_fits_by_its_largest() -> None:
    packet = Ipv4(bytes(4), bytes(4), TCP, bytes(12) + b"\x50" + bytes(7) + bytes(10_000)).pack()
    fits = offload.OffloadHeader(1, offload.GSO_TCPV4, 40, 2000, 20, 16).pack()
    bench = Bench().up()
    bench.send(PEER, payload=packet, offload=fits)
    assert bench.device.statistics.tx_packets == 5
    assert bench.sent[-1].offload == fits
    bench.send(PEER, payload=packet, offload=offload.OffloadHeader(1, offload.GSO_TCPV4, 40, 2010, 20, 16).pack())
    assert bench.too_long == [2044]
    frame = bench.interface.decapsulate(arriving(bench.sent[-1].payload, offload=fits))
    assert frame is not None
    assert frame.offload == fits
    assert bench.device.statistics.rx_packets == 5


def arriving(
    payload: bytes,
    *,
    group: bytes | None = None,
    qpn: int = QPN,
    source: tuple[int, int, bytes] = (7, 0x4B, PEER_GID),
    offload: bytes = b"",
) -> Datagram:
    lid, source_qpn, gid = source
    return Datagram(
        source_lid=lid,
        destination_lid=0xC000 if group else 5,
        pkey=0xFFFF,
        source_qpn=source_qpn,
        destination_qpn=0xFFFFFF if group else qpn,
        qkey=0x0B1B,
        payload=payload,
        source_gid=gid if group else None,
        destination_gid=group,
        offload=offload,
    )


def test_what_arrives() -> None:
    bench = Bench().up()
    bench.listen(GROUP)
    host = bench.interface.decapsulate(arriving(b"\x08\0\xab\xcdpacket"))
    assert host is not None
    assert (host.ethertype, host.payload, host.kind, host.source_qpn) == (IPV4, b"packet", "host", 0x4B)
    broadcast = bench.interface.decapsulate(arriving(b"\x08\x06\0\0arp", group=BROADCAST[4:]))
    assert broadcast is not None
    assert (broadcast.ethertype, broadcast.kind) == (ARP, "broadcast")
    multicast = bench.interface.decapsulate(arriving(b"\x08\0\0\0data", group=MGID))
    assert multicast is not None
    assert multicast.kind == "multicast"
    statistics = bench.device.statistics
    assert (statistics.rx_packets, statistics.rx_bytes, statistics.multicast) == (3, 6 + 3 + 4, 1)


def test_what_is_not_for_us() -> None:
    bench = Bench().up()
    assert bench.interface.decapsulate(arriving(b"\x08\0\0\0", qpn=0x49)) is None
    assert bench.interface.decapsulate(arriving(b"\x08\0\0\0", group=MGID)) is None
    assert bench.device.statistics.rx_packets == 0
    assert bench.interface.decapsulate(arriving(b"\x08\0\0")) is None
    assert bench.device.statistics.rx_errors == 1
    bench.down()
    assert bench.interface.decapsulate(arriving(b"\x08\0\0\0")) is None
    assert bench.device.statistics.rx_dropped == 1


def test_our_own_multicast_reflected_is_dropped() -> None:
    bench = Bench().up()
    own = (5, QPN, bench.port.gid)
    assert bench.interface.decapsulate(arriving(b"\x08\x06\0\0", group=BROADCAST[4:], source=own)) is None
    alike = (5, QPN, PEER_GID)  # same numbers in another subnet
    assert bench.interface.decapsulate(arriving(b"\x08\x06\0\0", group=BROADCAST[4:], source=alike)) is not None


def test_prepared_before_the_switch() -> None:
    bench = Bench().up()
    bench.sa.silent = True
    bench.run(bench.interface.prepare(bench.now, [BROADCAST, GROUP], [PEER, OTHER, b"\0" * 6]))
    assert not bench.interface.ready()
    bench.sa.silent = False
    bench.wait(ms=200)
    assert bench.interface.ready()
    assert MGID in bench.attached
    assert bench.interface.path_to(PEER) is not None
    bench.listen(GROUP)
    bench.wait(ms=20_000)
    assert MGID in bench.attached, "the device's own list has it"


def test_what_was_prepared_for_nothing_is_left() -> None:
    bench = Bench().up()
    bench.run(bench.interface.prepare(bench.now, [GROUP], []))
    assert MGID in bench.attached
    bench.listen()
    assert MGID in bench.attached
    bench.wait(ms=10_000)
    assert MGID not in bench.attached
    assert MGID not in bench.sa.members


def test_preparation_ends_also_where_nothing_can_be_had() -> None:
    bench = Bench().up()
    bench.sa.statuses |= {MGID: SaStatus.DENIED, PEER_GID: SaStatus.NO_RECORDS}
    bench.run(bench.interface.prepare(bench.now, [GROUP], [PEER]))
    assert bench.interface.ready()
    bench.port.state = type(bench.port.state).DOWN
    bench.raise_event(PortEventKind.PORT_ERR)
    assert not bench.interface.ready()


def test_without_the_companion_patch_a_neighbor_keeps_its_old_path() -> None:
    """2007: the peer has failed over, its gratuitous ARP has announced the other address,
    and the old path is used."""
    bench = Bench(old_neighbors={}).up()
    hop = bytes((10, 0, 0, 3))
    bench.send(PEER, next_hop=hop)
    bench.send(PEER, next_hop=hop)
    bench.send(OTHER, next_hop=hop)
    assert bench.sent[-1].destination_lid == 7, "the LID of the dead port"
    assert bench.sent[-1].destination_qpn == 0x4C
    assert bench.interface.path_to(OTHER, next_hop=hop) == Path(7, 0x4C, 0x0B1B)
    today = Bench().up()
    today.send(PEER, next_hop=hop)
    today.send(OTHER, next_hop=hop)
    assert today.sent[-1].destination_lid == 8
    assert today.sa.count(PATH, Method.GET, OTHER_GID) == 1


def test_an_old_neighbor_goes_with_its_interface() -> None:
    hung: dict[bytes, OldNeighbor] = {}
    bench = Bench(old_neighbors=hung).up()
    bench.send(PEER, next_hop=b"hop")
    bench.send(PEER, next_hop=b"hop")
    assert list(hung) == [b"hop"]
    bench.raise_event(PortEventKind.LID_CHANGE)
    assert not hung


def test_time_is_only_asked_for_when_needed() -> None:
    bench = Bench()
    assert bench.interface.deadline() is None
    bench.up()
    deadline = bench.interface.deadline()
    assert deadline is not None
    assert deadline >= 30 * SECOND, "only the collector waits"
