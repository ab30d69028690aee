"""What dies comes back as from the factory: nothing that a manager wrote, nothing counted; meanwhile it is silent."""

import pytest

from ibbond.fabric.events import KillAdapter, KillSwitch, MadArrived, ReviveAdapter, ReviveSwitch, SendMad
from ibbond.fabric.port import Port, PortCounters
from ibbond.fabric.port_states import PortInput
from ibbond.verbs.verbs import ManagementDatagram, PortState
from ibbond.wire.mad import ManagementClass, Method
from ibbond.wire.perf import PerfAttribute, PerfMad, PortCountersAttribute, PortCountersExtendedAttribute
from ibbond.wire.smp import PERMISSIVE_LID, NodeInfo, Smp, SmpAttribute
from tests.fabric.subnets import Lab, two_switches


@pytest.fixture
def lab() -> Lab:
    return two_switches(Lab()).start()


def written(port: Port) -> tuple[object, ...]:
    return dict(port.sl_to_vl), dict(port.vl_arbitration), port.guids[1:], port.pkey_table[1:], port.m_key_expires_at


def scribble(port: Port) -> None:
    port.sl_to_vl[0] = port.vl_arbitration[1] = bytes(range(64))
    port.guids[1], port.m_key_expires_at = 7, 9
    port.pkey_table = [0xFFFF, 0x8001, *[0] * 62]


def test_a_switch_forgets(lab: Lab) -> None:
    port = lab.subnet.port("s2/1")
    blank = written(port)
    scribble(port)
    lab.do(KillSwitch("s2"))
    assert written(port) == blank
    assert port.counters == PortCounters(), "nor does it count its own death"
    lab.after(ReviveSwitch("s2"))
    assert lab.states()["h2/2"] == PortState.ACTIVE


def test_an_adapter_forgets_and_trains_again(lab: Lab) -> None:
    port = lab.subnet.port("h1/1")
    blank = written(port)
    scribble(port)
    port.step(PortInput.SET_DISABLED)
    lab.do(KillAdapter("h1"))
    assert (written(port), port.lid, port.sm_lid, port.counters) == (blank, 0, 0, PortCounters())
    lab.after(ReviveAdapter("h1"))
    assert (port.state, port.lid > 0) == (PortState.ACTIVE, True)


def test_a_dead_adapter_is_silent(lab: Lab) -> None:
    lab.do(KillAdapter("h1"))
    asks = Smp(Method.GET, SmpAttribute.NODE_INFO, directed=True).pack()
    assert lab.subnet.answer(lab.now, lab.subnet.port("h1/1"), asks) is None
    assert lab.do(SendMad("h1/1", ManagementDatagram(0xFFFF, 0xFFFF, 0, 0, asks))) == []


def perf(lab: Lab, attribute: int, method: int, data: bytes) -> bytes:
    lid = lab.subnet.port("s1/0").lid
    raw = PerfMad(method, attribute, data=data, transaction_id=5).pack()
    (effect,) = (
        effect
        for effect in lab.do(SendMad("h1/1", ManagementDatagram(lab.subnet.port("h1/1").lid, lid, 1, 1, raw)))
        if isinstance(effect, MadArrived)
    )
    return PerfMad.parse(effect.mad.mad).data


def test_unicast_is_a_counter_of_its_own(lab: Lab) -> None:
    """`perfquery -R` and then `perfquery -x`: packets are cleared, those of groups are not."""
    counters = lab.subnet.port("s1/1").counters
    counters.transmit_packets, counters.transmit_multicast = 30, 20
    perf(lab, PerfAttribute.PORT_COUNTERS, Method.SET, PortCountersAttribute(1).pack())
    read = PortCountersExtendedAttribute.parse(
        perf(lab, PerfAttribute.PORT_COUNTERS_EXTENDED, Method.GET, PortCountersExtendedAttribute(1).pack())
    )
    assert read.transmit_multicast == 20
    assert read.transmit_unicast >= 10
    assert read.transmit_packets <= 2, "only what asked and answered since"
    chosen = PortCountersExtendedAttribute(1, select=1 << 4, transmit_unicast=3)
    perf(lab, PerfAttribute.PORT_COUNTERS_EXTENDED, Method.SET, chosen.pack())
    assert 3 <= lab.subnet.counters("s1/1").transmit_unicast <= 5
    assert lab.subnet.counters("s1/1").transmit_multicast == 20


def test_only_queue_pairs_0_and_1_take_mads(lab: Lab) -> None:
    own, lid = lab.subnet.port("h1/1").lid, lab.subnet.port("s1/0").lid
    asks = PerfMad(Method.GET, PerfAttribute.PORT_COUNTERS, data=PortCountersAttribute(1).pack()).pack()
    for qpn in (0, 5, 0xFFFFFF):
        assert lab.do(SendMad("h1/1", ManagementDatagram(own, lid, 1, qpn, asks))) == []


def test_groups_take_no_mads(lab: Lab) -> None:
    own = lab.subnet.port("h1/1").lid
    before = lab.subnet.port("h2/1").sl_to_vl.copy()
    sets = Smp(Method.SET, SmpAttribute.SL_TO_VL, data=bytes([0x22] * 8).ljust(64, b"\0")).pack()
    for raw, qpn in ((sets, 0), (Smp(Method.GET, SmpAttribute.NODE_INFO).pack(), 0)):
        assert lab.do(SendMad("h1/1", ManagementDatagram(own, 0xC000, 0, qpn, raw))) == []
    assert lab.subnet.port("h2/1").sl_to_vl == before


@pytest.mark.parametrize("to", ["its LID", "the next one"])
def test_who_asks_by_lid_learns_of_the_port_of_entry(lab: Lab, to: str) -> None:
    """14.2.5.3: LocalPortNum is the port that the question came in by, however it was routed."""
    own, lid = lab.subnet.port("h1/1").lid, lab.subnet.port("s1/0").lid
    raw = Smp(Method.GET, SmpAttribute.NODE_INFO, transaction_id=3).pack()
    effects = lab.do(SendMad("h1/1", ManagementDatagram(own, lid if to == "its LID" else PERMISSIVE_LID, 0, 0, raw)))
    (arrived,) = (effect for effect in effects if isinstance(effect, MadArrived))
    assert arrived.mad.mad[1] == ManagementClass.SUBNET_LID_ROUTED
    info = NodeInfo.parse(Smp.parse(arrived.mad.mad).data)
    assert (info.local_port, info.node_guid) == (1, lab.subnet.node("s1").guid)


def test_a_link_trains_at_what_both_ends_enable(lab: Lab) -> None:
    one, other = lab.subnet.port("s1/1"), lab.subnet.port("h1/1")
    one.change(speed_enabled=1)
    other.change(width_enabled=1)
    lab.subnet.retrain(one)
    lab.run_until_quiescent()
    assert [(end.info.width_active, end.info.speed_active) for end in (one, other)] == [(1, 1)] * 2
    one.change(width_enabled=2)  # 4X only, and the other 1X only
    lab.subnet.retrain(one)
    lab.run_until_quiescent()
    assert [end.state for end in (one, other)] == [PortState.DOWN] * 2
    one.change(width_enabled=3, speed_enabled=7)
    lab.subnet.retrain(one)
    lab.run_until_quiescent()
    assert [(end.info.width_active, end.info.speed_active) for end in (one, other)] == [(1, 4)] * 2
