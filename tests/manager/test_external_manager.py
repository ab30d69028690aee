"""A subnet without a built-in manager: software at a port brings it up with nothing but MADs."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ibbond.fabric.events import Cut, MadArrived, SendMad, SetIsSm
from ibbond.manager.smp_client import SmpRequest, SmpResponses, directed
from ibbond.manager.subnet_config import SubnetConfig
from ibbond.manager.subnet_manager import SubnetManager
from ibbond.verbs.timing import Timing
from ibbond.verbs.verbs import ManagementDatagram, PortState
from ibbond.wire.mad import Method
from ibbond.wire.port_info import PortInfo
from ibbond.wire.smp import NodeDescription, NodeInfo, NodeType, Smp, SmpAttribute, SwitchInfo
from tests.fabric.subnets import Lab, pairs, two_switches


def test_nothing_moves_by_itself() -> None:
    lab = two_switches(Lab(built_in_manager=False)).start()
    assert set(lab.states().values()) == {PortState.ACTIVE, PortState.INIT}  # the switches' own ports are always up
    assert all(port.lid == 0 for port in lab.subnet.end_ports())
    lab.after(Cut("h1/1"), ms=5000)
    assert not [effect for effect in lab.seen if isinstance(effect, MadArrived)]
    assert lab.reachable() == set()


def test_ports_power_up_with_all_they_can() -> None:
    """A manager that wants other lanes or another MTU takes the link down for it first, as OpenSM does."""
    lab = two_switches(Lab(built_in_manager=False)).start()
    for port in (port for node in lab.subnet.nodes.values() for port in node.ports.values()):
        assert (port.info.operational_vls, port.info.neighbor_mtu) == (port.info.vl_cap, port.info.mtu_cap)


def test_nodes_answer_directed_routes_before_they_have_lids() -> None:
    lab = two_switches(Lab(built_in_manager=False)).start()
    smp = Smp(
        Method.GET, SmpAttribute.NODE_DESCRIPTION, transaction_id=5, directed=True, hop_count=2,
        initial_path=bytes((0, 1, 7)).ljust(64, b"\0"),
    )  # fmt: skip
    (effect,) = lab.do(SendMad("h1/1", directed(smp.pack())))
    assert isinstance(effect, MadArrived)
    assert NodeDescription.parse(Smp.parse(effect.mad.mad).data).text == "s2"


@pytest.mark.parametrize("place", ["h1/1", "s2/0"])
def test_a_manager_elsewhere_drives_the_subnet_through_the_same_interface(place: str) -> None:
    """Our own manager as if it were OpenSM: outside, with SendMad and MadArrived only."""
    lab = two_switches(Lab(built_in_manager=False)).start()
    guid = lab.subnet.port(place).guid
    manager = SubnetManager(guid, Timing(), SubnetConfig())
    lab.do(SetIsSm(place, True))

    def feed(effects: Sequence[object]) -> None:
        work = list(effects)
        while work:
            mad = work.pop(0)
            if isinstance(mad, ManagementDatagram):
                lab.do(SendMad(place, mad))
                arrived = [effect.mad for effect in lab.seen if isinstance(effect, MadArrived) and effect.port == place]
                lab.seen.clear()
                for one in arrived:
                    work += manager.handle(lab.now, one)

    feed(manager.start(lab.now))
    ports = ["h1/1", "h1/2", "h2/1", "h2/2"]
    assert set(lab.states().values()) == {PortState.ACTIVE}
    assert lab.reachable() == pairs(ports)
    lab.do(Cut("s1/7"))
    traps = [effect.mad for effect in lab.seen if isinstance(effect, MadArrived) and effect.port == place]
    assert traps
    for trap in traps:
        feed(manager.handle(lab.now, trap))
    lab.seen.clear()
    at = manager.deadline()
    assert at is not None
    lab.now = at
    port = lab.subnet.port(place)
    feed(manager.tick(at, port.lid, port.sm_lid))
    assert lab.reachable() == pairs(ports)


def test_conversation_sends_again_and_gives_up() -> None:
    from ibbond.manager.smp_client import SmpClient

    got: list[SmpResponses] = []

    def task() -> Generator[Sequence[SmpRequest], SmpResponses, None]:
        got.append((yield [SmpRequest((1,), SmpAttribute.NODE_INFO), SmpRequest((2,), SmpAttribute.NODE_INFO)]))
        got.append((yield []))

    conversation = SmpClient(timeout_ns=10, tries=3)
    sent = conversation.start(0, task())
    assert len(sent) == 2
    assert conversation.deadline() == 10
    answer = Smp.parse(sent[0])
    assert conversation.receive(1, answer) == []
    assert conversation.receive(2, answer) == []  # twice is once
    assert conversation.tick(9) == []
    assert conversation.tick(10) == [sent[1]]
    assert conversation.tick(20) == [sent[1]]
    assert conversation.tick(30) == []
    assert not conversation.busy
    assert conversation.deadline() is None
    assert got == [[answer, None], []]


class TestLyingAgents:
    """A manager whose agents answer anything: it may find nothing, but it never breaks and never hangs."""

    @settings(max_examples=150, deadline=None)
    @given(st.data())
    def test_any_answers(self, data: st.DataObject) -> None:
        manager = SubnetManager(0x11, Timing(light_sweep_ns=0), SubnetConfig())
        answers = data.draw(st.lists(st.one_of(st.none(), replies()), min_size=1, max_size=40))
        now, given_out = 0, 0
        work = manager.start(now)
        for _ in range(60):
            sent = [effect for effect in work if isinstance(effect, ManagementDatagram)]
            work = []
            for mad in sent[:40]:
                reply = answers[given_out % len(answers)]
                given_out += 1
                if reply is not None:
                    asked = Smp.parse(mad.mad)
                    status, fields = reply
                    answer = replace(
                        asked, method=Method.GET_RESP, returning=True, status=status, data=fields(asked.attribute)
                    )
                    work += manager.handle(now, ManagementDatagram(0xFFFF, 0xFFFF, 0, 0, answer.pack()))
            at = manager.deadline()
            if not work and at is not None:
                now = at
                work = manager.tick(now, 1, 1)


def replies() -> st.SearchStrategy[tuple[int, Callable[[int], bytes]]]:
    """A status and, for each attribute, data that are mostly of the right kind."""
    guid = st.sampled_from([0x11, 0x12, 0x20, 0x30])
    node = st.builds(
        NodeInfo, st.sampled_from(NodeType), st.integers(0, 3), guid, guid, guid, st.integers(0, 4), st.just(64)
    )
    port = st.builds(
        PortInfo().changed, lid=st.integers(0, 0xFFFF), state=st.integers(0, 15),
        physical_state=st.sampled_from([2, 5, 5]), capability_mask=st.sampled_from([0, 2]),
        neighbor_mtu=st.integers(0, 15), mtu_cap=st.integers(0, 15),
    )  # fmt: skip
    switch = st.builds(SwitchInfo, st.just(0xBFFF), st.just(64), st.integers(0, 0xFFFF), st.integers(0, 0xFFFF))
    noise = st.binary(min_size=64, max_size=64)

    def choose(parts: tuple[NodeInfo, PortInfo, SwitchInfo, bytes]) -> Callable[[int], bytes]:
        info, port_info, switch_info, other = parts
        known = {0x11: info.pack(), 0x15: port_info.pack(), 0x12: switch_info.pack()}
        return lambda attribute: known.get(attribute, other)

    fields = st.tuples(node, port, switch, noise).map(choose)
    return st.tuples(st.sampled_from([0, 0, 0, 0, 0x1C]), fields)
