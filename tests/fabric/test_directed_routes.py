"""A directed MAD that goes its whole way in one go comes out as one that goes hop by hop, whatever its bytes say."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ibbond.fabric.events import Cut, KillSwitch, MadArrived, SendMad, SubnetEffect
from ibbond.fabric.port import Port
from ibbond.fabric.port_states import LinkState
from ibbond.fabric.transit import Transit
from ibbond.verbs.verbs import ManagementDatagram, PortState
from ibbond.wire.mad import ManagementClass, Method
from ibbond.wire.port_info import PhysicalState, PortInfo
from ibbond.wire.smp import SmpAttribute
from tests.fabric.subnets import Lab, two_switches

PORTS = st.integers(0, 9)
LIDS = st.sampled_from([0xFFFF, 0xFFFF, 0xFFFF, 0, 1, 2, 3, 0x00FF, 0xFF00])


@st.composite
def mads(draw: st.DrawFn) -> bytes:
    """SMPs by directed routes of a few hops: requests and answers, to and fro, with any pointers and LIDs."""
    mad = bytearray(256)
    mad[0:4] = 1, ManagementClass.SUBNET_DIRECTED_ROUTE, 1, draw(st.sampled_from([Method.GET, Method.GET_RESP]))
    mad[4] = draw(st.sampled_from([0, 0, 0x80]))
    mad[6] = draw(st.integers(0, 5))
    mad[7] = draw(st.one_of(st.integers(0, 4), st.just(64)))
    mad[16:18] = draw(st.sampled_from([SmpAttribute.NODE_INFO, SmpAttribute.SM_INFO])).to_bytes(2)
    mad[32:34], mad[34:36] = draw(LIDS).to_bytes(2), draw(LIDS).to_bytes(2)
    good = draw(st.booleans())
    mad[128:133] = bytes([0, 1, 7, 2, 1]) if good else bytes(draw(PORTS) for _ in range(5))
    mad[192:197] = bytes([0, 1, 7, 2, 1]) if good else bytes(draw(PORTS) for _ in range(5))
    return bytes(mad)


def outcome(faults: list[str], sent: list[tuple[str, int, bytes]], *, by_hops: bool) -> tuple[object, ...]:
    """What arrived and what every port has counted."""
    lab = two_switches(Lab()).start()
    with pytest.MonkeyPatch.context() as patch:
        if by_hops:
            patch.setattr(Transit, "route_directed", lambda *_: None)
        for fault in faults:
            lab.do(KillSwitch("s2") if fault == "s2" else Cut(fault))
        arrived: list[SubnetEffect] = []
        for port, lid, mad in sent:
            arrived += lab.do(SendMad(port, ManagementDatagram(0xFFFF, lid, 0, 0, mad)))
        counted = {name: lab.subnet.counters(name) for name in all_ports(lab)}
        return arrived, counted, lab.subnet.malformed


def all_ports(lab: Lab) -> list[str]:
    return [port.name for node in lab.subnet.nodes.values() for port in node.ports.values()]


@settings(max_examples=300, deadline=None)
@given(
    faults=st.lists(st.sampled_from(["s1/7", "h2/2", "s2"]), max_size=1),
    sent=st.lists(st.tuples(st.sampled_from(["h1/1", "h2/2", "s1/0"]), LIDS, mads()), min_size=1, max_size=6),
)
def test_straight_or_hop_by_hop(faults: list[str], sent: list[tuple[str, int, bytes]]) -> None:
    assert outcome(faults, sent, by_hops=False) == outcome(faults, sent, by_hops=True)


@settings(max_examples=300, deadline=None)
@given(
    faults=st.lists(st.sampled_from(["s1/7", "h2/2", "s2"]), max_size=1),
    port=st.sampled_from(["h1/1", "h2/2", "s1/0"]),
    mad=mads(),
)
def test_answered_or_sent(faults: list[str], port: str, mad: bytes) -> None:
    """A Get that is answered at once brings and counts what sending it does."""
    lab = two_switches(Lab()).start()
    for fault in faults:
        lab.do(KillSwitch("s2") if fault == "s2" else Cut(fault))
    answer = lab.subnet.answer(lab.now, lab.subnet.port(port), mad)
    if answer:
        arrived, counted, malformed = outcome(faults, [(port, 0xFFFF, mad)], by_hops=False)
        assert [MadArrived(port, ManagementDatagram(0xFFFF, 0xFFFF, 0, 0, answer))] == arrived
        assert ({name: lab.subnet.counters(name) for name in all_ports(lab)}, 0) == (counted, malformed)


@st.composite
def port_writes(draw: st.DrawFn) -> bytes:
    """PortInfo Sets that change the state of a link, also of one on their own way, and whose port it is."""
    mad = bytearray(256)
    mad[0:4], mad[16:18] = (1, ManagementClass.SUBNET_DIRECTED_ROUTE, 1, Method.SET), SmpAttribute.PORT_INFO.to_bytes(2)
    mad[7], mad[32:36] = draw(st.integers(0, 3)), b"\xff" * 4
    mad[128:132] = bytes([0, 1, draw(st.sampled_from([2, 7])), 2])
    mad[23] = draw(st.sampled_from([0, 0, 1, 2, 7, 8]))
    info = PortInfo(
        gid_prefix=0xFE80 << 48,
        lid=draw(st.sampled_from([1, 2, 9, 77])),
        sm_lid=draw(st.sampled_from([1, 2])),
        state=draw(st.integers(0, 4)),
        physical_state=draw(st.sampled_from([0, 0, 0, 2, 3])),
        width_enabled=3,
        client_reregister=draw(st.booleans()),
    )
    mad[64:128] = info.pack()
    return bytes(mad)


def after_writes(port: str, writes: list[bytes], *, at_once: bool) -> tuple[object, ...]:
    """What arrived, what ports reported, and what the subnet is like then."""
    lab = two_switches(Lab(built_in_manager=False)).start()
    arrived: list[bytes] = []
    reported: list[SubnetEffect] = []
    for mad in writes:
        answer = lab.subnet.answer(lab.now, lab.subnet.port(port), mad) if at_once else None
        if answer is None:
            sent = ManagementDatagram(0xFFFF, 0xFFFF, 0, 0, mad)
            effects = lab.do(SendMad(port, sent))
        else:
            arrived += [answer] if answer else []
            effects = lab.subnet.tick(lab.now)
        arrived += [effect.mad.mad for effect in effects if isinstance(effect, MadArrived)]
        reported += [effect for effect in effects if not isinstance(effect, MadArrived)]
    lab.run_until_quiescent()
    counted = {name: lab.subnet.counters(name) for name in all_ports(lab)}
    return sorted(arrived), reported, counted, {name: lab.subnet.port(name).info for name in all_ports(lab)}


@settings(max_examples=300, deadline=None)
@given(port=st.sampled_from(["h1/1", "s1/0"]), writes=st.lists(port_writes(), min_size=1, max_size=6))
def test_written_at_once_or_sent(port: str, writes: list[bytes]) -> None:
    """So does a Set, even one that closes the way back; hosts learn of it with the next tick."""
    assert after_writes(port, writes, at_once=True) == after_writes(port, writes, at_once=False)


def test_a_set_that_closes_the_way_back() -> None:
    """It is carried out, and the answer is lost, as on a cable."""
    lab = two_switches(Lab()).start()
    info = lab.subnet.port("s1/1").info.changed(physical_state=PhysicalState.DISABLED, state=0)
    mad = bytearray(256)
    mad[0:4], mad[16:18] = (1, ManagementClass.SUBNET_DIRECTED_ROUTE, 1, Method.SET), SmpAttribute.PORT_INFO.to_bytes(2)
    mad[7], mad[23], mad[32:36], mad[129], mad[64:128] = 1, 1, b"\xff" * 4, 1, info.pack()
    assert lab.subnet.answer(lab.now, lab.subnet.port("h1/1"), bytes(mad)) == b""
    assert lab.subnet.port("s1/1").link_state is LinkState.DISABLED
    lab.run_until_quiescent()
    assert lab.subnet.port("h1/1").state == PortState.DOWN


def test_most_of_them_do_go_straight() -> None:
    """Or else the comparisons above compare nothing."""
    lab = two_switches(Lab()).start()
    taken: list[str] = []
    route_directed = Transit.route_directed

    def noted(transit: Transit, port: Port, lid: int, mad: bytearray) -> object:
        way = route_directed(transit, port, lid, mad)
        taken.append(way[0].name if way is not None else "")
        return way

    mad = bytearray(256)
    mad[0:4], mad[7], mad[16:18] = bytes([1, 0x81, 1, Method.GET]), 3, SmpAttribute.NODE_INFO.to_bytes(2)
    mad[32:36], mad[128:132] = b"\xff" * 4, bytes([0, 1, 7, 2])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Transit, "route_directed", noted)
        (effect,) = lab.do(SendMad("h1/1", ManagementDatagram(0xFFFF, 0xFFFF, 0, 0, bytes(mad))))
        answer = lab.subnet.answer(lab.now, lab.subnet.port("h1/1"), bytes(mad))
    assert taken == ["h2/2", "h1/1", "h2/2"], "the way back is the way there"
    assert isinstance(effect, MadArrived)
    assert effect.mad.mad == answer
    assert answer[193:196] == bytes([1, 7, 2]), "the ports that it came in by"
