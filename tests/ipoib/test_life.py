"""From "set up" to carrier, and what every port event does to it."""

import math
from dataclasses import replace

import pytest

from ibbond.ipoib.events import Attach, CarrierIs, EmitMad, MadReceived, MtuChanged, MtuIs, SetQkey
from ibbond.verbs.verbs import PortEventKind, PortState
from ibbond.wire.group_address import broadcast_address, broadcast_mgid, group_address
from ibbond.wire.hwaddr import HardwareAddress
from ibbond.wire.mad import Method
from ibbond.wire.sa import SaAttribute, SaStatus
from ibbond.wire.sa_records import McMemberMask, McMemberRecord
from tests.ipoib.bench import GUID, OTHER, PEER, PEER_GID, QPN, Bench, Port

MC, PATH = SaAttribute.MC_MEMBER_RECORD, SaAttribute.PATH_RECORD
BROADCAST = broadcast_address(0xFFFF)
BROADCAST_MGID = BROADCAST[4:]
ALL_HOSTS = group_address(bytes((224, 0, 0, 1)), BROADCAST)


def test_carrier_comes_with_the_broadcast_group() -> None:
    bench = Bench()
    assert bench.device.address == HardwareAddress(QPN, bench.port.gid, 0x80).pack()
    assert bench.device.broadcast == BROADCAST
    assert bench.device.mtu == 4092
    bench.up()
    assert bench.carriers == [True]
    assert bench.attached == {BROADCAST_MGID: 0xC000}
    assert bench.qkey == 0x0B1B
    assert bench.device.mtu == 2044, "the group's MTU"
    order = [type(effect) for effect in bench.log if not isinstance(effect, EmitMad)]
    assert order.index(Attach) < order.index(CarrierIs)
    assert order.index(SetQkey) < order.index(CarrierIs)
    assert order.index(MtuIs) < order.index(CarrierIs)


def test_the_broadcast_join_names_no_parameters() -> None:
    bench = Bench().up()
    request = bench.sa.asked[0]
    assert request.component_mask == 0x10003 | McMemberMask.PKEY
    record = McMemberRecord.parse(request.data)
    assert (record.mgid, record.port_gid, record.pkey, record.join_state) == (
        BROADCAST_MGID,
        bench.port.gid,
        0xFFFF,
        1,
    )


def test_no_join_before_the_port_is_active() -> None:
    bench = Bench(Port(state=PortState.INIT)).up()
    bench.wait(ms=60_000)
    assert bench.sa.asked == []
    assert (bench.interface.deadline() or math.inf) > bench.now
    bench.port.state = PortState.ACTIVE
    bench.raise_event(PortEventKind.PORT_ACTIVE)
    assert bench.carriers == [True]


def test_a_lost_request_is_repeated_soon() -> None:
    bench = Bench()
    bench.sa.silent = True
    bench.up()
    bench.wait(ms=199)
    assert len(bench.sa.asked) == 1
    bench.sa.silent = False
    bench.wait(ms=2)
    assert len({mad.transaction_id for mad in bench.sa.asked}) == 1, "the same request"
    assert bench.carriers == [True]


def test_a_path_asked_of_a_dead_manager_is_asked_again_at_the_reregistration_with_the_next() -> None:
    """Without waiting for the timeout of the request, half a second at most."""
    bench = Bench().up()
    bench.sa.silent = True
    bench.send(PEER)
    bench.wait(ms=10)
    bench.sa.silent = False
    bench.raise_event(PortEventKind.CLIENT_REREGISTER)
    bench.wait(ms=1)
    assert bench.sa.count(PATH, Method.GET, PEER_GID) == 2
    assert len(bench.sent) == 1, "the packet that waited for the path"


@pytest.mark.parametrize("silent", [False, True])
def test_a_failed_join_is_retried_after_2_4_8_16_16_seconds(silent: bool) -> None:
    bench = Bench()
    bench.sa.status, bench.sa.silent = SaStatus.INVALID, silent
    bench.up()
    tries_take_ms = 1600 if silent else 0
    seen = 0
    for seconds in (2, 4, 8, 16, 16, 16):
        bench.wait(ms=tries_take_ms)
        seen = len(bench.sa.asked)
        bench.wait(ms=seconds * 1000 - 1)
        assert len(bench.sa.asked) == seen
        bench.wait(ms=1)
        assert len(bench.sa.asked) == seen + 1
    assert bench.carriers == []
    bench.sa.status, bench.sa.silent = SaStatus.OK, False
    bench.wait(ms=20_000)
    assert bench.carriers == [True]


def test_nothing_else_is_joined_before_the_broadcast_group() -> None:
    bench = Bench()
    bench.sa.statuses[BROADCAST_MGID] = SaStatus.INVALID
    bench.up()
    bench.listen(ALL_HOSTS)
    assert bench.sa.count(MC, Method.SET, ALL_HOSTS[4:]) == 0
    bench.send(ALL_HOSTS)
    assert bench.device.statistics.tx_dropped == 1
    bench.sa.statuses.clear()
    bench.wait(ms=2000)
    assert bench.sa.count(MC, Method.SET, ALL_HOSTS[4:]) == 1
    assert set(bench.attached) == {BROADCAST_MGID, ALL_HOSTS[4:]}


def test_admin_down_leaves_everything() -> None:
    bench = Bench().up()
    bench.listen(ALL_HOSTS)
    bench.down()
    assert bench.carriers == [True, False]
    assert bench.attached == {}
    assert bench.sa.members == {}
    bench.raise_event(PortEventKind.PORT_ACTIVE)
    assert bench.carriers == [True, False]
    bench.up()
    assert bench.carriers == [True, False, True]
    assert len(bench.attached) == 2


def test_a_lost_leave_is_repeated_but_never_after_the_next_join() -> None:
    bench = Bench().up()
    bench.listen(ALL_HOSTS)
    bench.sa.silent = True
    bench.listen()
    bench.wait(ms=201)
    assert bench.sa.count(MC, Method.DELETE, ALL_HOSTS[4:]) == 2
    bench.sa.silent = False
    bench.listen(ALL_HOSTS)
    bench.wait(ms=5000)
    assert bench.sa.count(MC, Method.DELETE, ALL_HOSTS[4:]) == 2
    assert ALL_HOSTS[4:] in bench.sa.members


def test_cut_and_mend() -> None:
    bench = Bench().up()
    bench.send(PEER)
    bench.listen(ALL_HOSTS)
    asked = len(bench.sa.asked)
    bench.port.state = PortState.DOWN
    bench.raise_event(PortEventKind.PORT_ERR)
    assert bench.carriers == [True, False]
    assert bench.attached == {}
    assert len(bench.sa.asked) == asked, "a dead port says nothing"
    bench.send(PEER)
    assert bench.drops[-1] == "no carrier"
    assert bench.interface.path_to(PEER) is None
    bench.wait(ms=60_000)
    assert len(bench.sa.asked) == asked
    bench.port.state = PortState.ACTIVE
    bench.raise_event(PortEventKind.PORT_ACTIVE)
    assert bench.carriers == [True, False, True]
    assert set(bench.attached) == {BROADCAST_MGID, ALL_HOSTS[4:]}
    bench.send(PEER)
    assert bench.sa.count(PATH, Method.GET, PEER_GID) == 2, "paths were forgotten"


def test_reregister_joins_again_without_a_blink() -> None:
    bench = Bench().up()
    bench.listen(ALL_HOSTS)
    bench.send(PEER)
    bench.sa.members.clear()  # another subnet manager, which knows no one
    bench.raise_event(PortEventKind.CLIENT_REREGISTER)
    assert bench.carriers == [True]
    assert set(bench.sa.members) == {BROADCAST_MGID, ALL_HOSTS[4:]}
    assert set(bench.attached) == {BROADCAST_MGID, ALL_HOSTS[4:]}
    assert bench.sa.count(MC, Method.DELETE, ALL_HOSTS[4:]) == 0
    bench.send(PEER)
    assert bench.sa.count(PATH, Method.GET, PEER_GID) == 2, "the path was asked for again"


def test_during_a_silent_reregister_traffic_goes_on() -> None:
    bench = Bench().up()
    bench.send(PEER)
    bench.send(ALL_HOSTS)
    bench.sa.silent = True
    bench.raise_event(PortEventKind.CLIENT_REREGISTER)
    bench.sent.clear()
    bench.send(PEER)
    bench.send(ALL_HOSTS)
    bench.send(BROADCAST, 0x0806)
    assert [datagram.destination_lid for datagram in bench.sent] == [7, 0xC001, 0xC000]
    bench.sa.silent = False
    bench.sa.lids[PEER_GID] = 17
    forgotten = bench.forgotten
    bench.wait(ms=300)
    assert bench.forgotten > forgotten, "the path has changed, and its users are notified"
    bench.send(PEER)
    assert bench.sent[-1].destination_lid == 17
    assert bench.carriers == [True]


def test_a_silent_administrator_takes_no_path_away() -> None:
    """Everything is asked for again, and then no one answers: what was known carries traffic."""
    bench = Bench().up()
    bench.send(PEER)
    bench.send(ALL_HOSTS)  # a group that is only sent to
    bench.sa.silent = True
    bench.raise_event(PortEventKind.CLIENT_REREGISTER)
    for _ in range(100):
        bench.sent.clear()
        bench.send(PEER)
        bench.send(PEER, 0x0806)
        bench.send(ALL_HOSTS)
        assert [datagram.destination_lid for datagram in bench.sent] == [7, 7, 0xC001]
        bench.wait(ms=100)
    assert bench.drops == []
    bench.sa.silent = False
    bench.sa.lids[PEER_GID] = 17
    bench.wait(ms=1000)
    for _ in range(2):  # the first one asks
        bench.send(PEER)
    assert bench.sent[-1].destination_lid == 17


@pytest.mark.parametrize("field", ["service_level", "hop_limit"])
def test_another_way_to_the_same_lid_is_taken(field: str) -> None:
    bench = Bench().up()
    bench.send(PEER)
    setattr(bench.sa, field, 5)
    forgotten = bench.forgotten
    bench.raise_event(PortEventKind.CLIENT_REREGISTER)
    bench.send(PEER)
    bench.send(PEER)
    assert bench.forgotten == forgotten + 2, "when asked to register, and with the answer"
    assert getattr(bench.sent[-1], field) == 5


def test_a_doubtful_path_is_asked_for_and_used_meanwhile() -> None:
    bench = Bench().up()
    bench.send(PEER)
    bench.sa.lids[PEER_GID] = 17
    bench.sa.silent = True
    bench.run(bench.interface.doubt(bench.now, PEER))
    bench.send(PEER)
    assert bench.sent[-1].destination_lid == 7
    bench.sa.silent = False
    bench.wait(ms=200)
    bench.send(PEER)
    assert bench.sent[-1].destination_lid == 17
    asked = len(bench.sa.asked)
    bench.run(bench.interface.doubt(bench.now, OTHER))
    assert len(bench.sa.asked) == asked, "there is nothing to doubt"


def test_another_mlid_after_reregister_is_attached() -> None:
    bench = Bench().up()
    bench.listen(ALL_HOSTS)
    bench.sa.mlids[ALL_HOSTS[4:]] = 0xC123
    bench.raise_event(PortEventKind.CLIENT_REREGISTER)
    assert bench.attached[ALL_HOSTS[4:]] == 0xC123
    bench.send(ALL_HOSTS)
    assert bench.sent[-1].destination_lid == 0xC123


def test_another_lid_blinks() -> None:
    bench = Bench().up()
    bench.port.lid = 55
    bench.raise_event(PortEventKind.LID_CHANGE)
    assert bench.carriers == [True, False, True]
    bench.send(PEER)
    assert bench.sent[-1].source_lid == 55


def test_a_moved_subnet_manager_receives_open_questions_at_once() -> None:
    bench = Bench()
    bench.sa.silent = True
    bench.up()
    bench.sa.silent = False
    bench.port.sm_lid = 3
    bench.raise_event(PortEventKind.SM_CHANGE)
    assert bench.carriers == [True]
    bench.raise_event(PortEventKind.SM_CHANGE)
    assert bench.carriers == [True]


def test_another_key_at_index_0() -> None:
    bench = Bench().up()
    bench.raise_event(PortEventKind.PKEY_CHANGE)
    assert bench.carriers == [True], "unchanged: nothing happens"
    bench.port.pkeys = (0x8001,)
    bench.raise_event(PortEventKind.PKEY_CHANGE)
    assert bench.carriers == [True, False, True]
    assert bench.device.broadcast == broadcast_address(0x8001)
    assert set(bench.attached) == {broadcast_mgid(0x8001)}
    deletes = [McMemberRecord.parse(mad.data) for mad in bench.sa.asked if mad.method == Method.DELETE]
    assert [(record.mgid, record.pkey) for record in deletes] == [(BROADCAST_MGID, 0xFFFF)]
    bench.send(PEER)
    assert bench.sent[-1].pkey == 0x8001


def test_the_key_vanishes_and_comes_back() -> None:
    bench = Bench().up()
    bench.port.pkeys = ()
    bench.raise_event(PortEventKind.PKEY_CHANGE)
    assert bench.carriers == [True, False]
    bench.raise_event(PortEventKind.PORT_ACTIVE)
    bench.wait(ms=60_000)
    assert bench.carriers == [True, False]
    bench.port.pkeys = (0xFFFF,)
    bench.raise_event(PortEventKind.PKEY_CHANGE)
    assert bench.carriers == [True, False, True]


def test_a_child_waits_for_its_key() -> None:
    bench = Bench(pkey=0x0001)
    assert bench.device.broadcast == broadcast_address(0x8001)
    bench.up()
    assert bench.sa.asked == []
    bench.port.pkeys = (0xFFFF, 0x8001)
    bench.raise_event(PortEventKind.PKEY_CHANGE)
    assert bench.carriers == [True]
    assert set(bench.attached) == {broadcast_mgid(0x8001)}
    bench.port.pkeys = (0x8002, 0x8001)
    bench.raise_event(PortEventKind.PKEY_CHANGE)
    assert bench.carriers == [True], "index 0 is the parent's"


def test_a_limited_member_sends_its_limited_key_and_names_the_full_one() -> None:
    bench = Bench(Port(pkeys=(0x7FFF,))).up()
    assert McMemberRecord.parse(bench.sa.asked[0].data).pkey == 0xFFFF
    bench.send(PEER)
    assert bench.sent[-1].pkey == 0x7FFF
    assert bench.interface.pkey == 0xFFFF


def test_the_key_is_looked_up_while_down() -> None:
    bench = Bench()
    bench.port.pkeys = (0x8005,)
    bench.raise_event(PortEventKind.PKEY_CHANGE)
    assert bench.device.broadcast == broadcast_address(0x8005)
    assert bench.sa.asked == []


def test_another_gid_is_another_address() -> None:
    bench = Bench().up()
    bench.port.gid = bytes.fromhex("fec0000000000001") + GUID.to_bytes(8)
    bench.raise_event(PortEventKind.GID_CHANGE)
    assert bench.device.address[4:] == bench.port.gid
    assert bench.carriers == [True]


def test_an_mtu_below_the_links_stays() -> None:
    bench = Bench().up()
    bench.device.set_mtu(1500)
    bench.tell(MtuChanged())
    assert bench.device.mtu == 1500
    bench.raise_event(PortEventKind.PORT_ACTIVE)
    assert bench.device.mtu == 1500
    bench.device.set_mtu(4092)
    bench.tell(MtuChanged())
    assert bench.device.mtu == 2044, "the port carries 4092, the group does not"


def test_a_group_of_4096_gives_4092() -> None:
    bench = Bench()
    bench.sa.mtu = 5
    bench.up()
    assert bench.device.mtu == 4092


def test_another_qkey_after_a_reregister_reaches_every_path() -> None:
    bench = Bench().up()
    bench.send(PEER)
    bench.sa.qkey = 0x80001234
    bench.raise_event(PortEventKind.CLIENT_REREGISTER)
    assert bench.qkey == 0x80001234
    bench.send(PEER)
    bench.send(BROADCAST, 0x0806)
    assert [datagram.qkey for datagram in bench.sent[-2:]] == [0x80001234, 0x80001234]


def test_foreign_mads_change_nothing() -> None:
    bench = Bench()
    bench.sa.silent = True
    bench.up()
    request = bench.sa.asked[0]
    good = replace(request, method=Method.GET_RESP, data=McMemberRecord(mgid=BROADCAST_MGID, mlid=0xC000, mtu=4).pack())
    bench.tell(MadReceived(b"short"))
    bench.tell(MadReceived(bytes(256)))
    assert bench.interface.malformed == 2
    bench.tell(MadReceived(replace(good, transaction_id=1).pack()))
    bench.tell(MadReceived(replace(good, attribute=PATH).pack()))
    bench.tell(MadReceived(request.pack()))
    bench.tell(MadReceived(good.pack()[:1] + b"\x04\x01" + good.pack()[3:]))
    assert bench.carriers == []
    bench.tell(MadReceived(good.pack()))
    assert bench.carriers == [True]
    bench.tell(MadReceived(good.pack()))
    assert bench.carriers == [True]


def test_an_answer_without_an_mlid_is_no_membership() -> None:
    bench = Bench()
    bench.sa.mlids[BROADCAST_MGID] = 0
    bench.up()
    assert bench.carriers == []


def test_other_addresses_are_not_ours() -> None:
    bench = Bench().up()
    assert bench.interface.path_to(OTHER) is None
    assert bench.interface.path_to(b"\0" * 6) is None
