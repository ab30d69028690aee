"""A directed MAD that goes its whole way in one go comes out as one that goes hop by hop, whatever its bytes say."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from subnets import Lab, two_switches

from ibbond.fabric.events import Cut, KillSwitch, MadArrived, SendMad, SubnetEffect
from ibbond.fabric.port import Port
from ibbond.fabric.transit import Transit
from ibbond.fabric.verbs import ManagementDatagram
from ibbond.wire.mad import ManagementClass, Method
from ibbond.wire.smp import SmpAttribute

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
            patch.setattr(Transit, "straight", lambda *_: None)
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
def test_read_or_sent(faults: list[str], port: str, mad: bytes) -> None:
    """A Get that is answered at once brings and counts what sending it does."""
    lab = two_switches(Lab()).start()
    for fault in faults:
        lab.do(KillSwitch("s2") if fault == "s2" else Cut(fault))
    answer = lab.subnet.read(lab.subnet.port(port), mad)
    if answer is not None:
        arrived, counted, malformed = outcome(faults, [(port, 0xFFFF, mad)], by_hops=False)
        assert [MadArrived(port, ManagementDatagram(0xFFFF, 0xFFFF, 0, 0, answer))] == arrived
        assert ({name: lab.subnet.counters(name) for name in all_ports(lab)}, 0) == (counted, malformed)


def test_most_of_them_do_go_straight() -> None:
    """Or else the comparisons above compare nothing."""
    lab = two_switches(Lab()).start()
    taken: list[str] = []
    straight = Transit.straight

    def noted(transit: Transit, port: Port, lid: int, mad: bytearray) -> object:
        way = straight(transit, port, lid, mad)
        taken.append(way[0].name if way is not None else "")
        return way

    mad = bytearray(256)
    mad[0:4], mad[7], mad[16:18] = bytes([1, 0x81, 1, Method.GET]), 3, SmpAttribute.NODE_INFO.to_bytes(2)
    mad[32:36], mad[128:132] = b"\xff" * 4, bytes([0, 1, 7, 2])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Transit, "straight", noted)
        (effect,) = lab.do(SendMad("h1/1", ManagementDatagram(0xFFFF, 0xFFFF, 0, 0, bytes(mad))))
        answer = lab.subnet.read(lab.subnet.port("h1/1"), bytes(mad))
    assert taken == ["h2/2", "h1/1"] * 2
    assert isinstance(effect, MadArrived)
    assert effect.mad.mad == answer
    assert answer[193:196] == bytes([1, 7, 2]), "the ports that it came in by"
