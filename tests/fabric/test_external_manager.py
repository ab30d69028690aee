"""A subnet without a built-in manager: software at a port brings it up with nothing but MADs."""

from collections.abc import Generator, Sequence

import pytest
from subnets import Lab, pairs, two_switches

from ibbond.fabric.conversation import Answers, Ask, directed
from ibbond.fabric.events import Cut, MadArrived, SendMad, SetIsSm
from ibbond.fabric.subnet_manager import Plan, SubnetManager
from ibbond.fabric.timing import Timing
from ibbond.fabric.verbs import ManagementDatagram, PortState
from ibbond.wire.mad import Method
from ibbond.wire.smp import NodeDescription, Smp, SmpAttribute


def test_nothing_moves_by_itself() -> None:
    lab = two_switches(Lab(built_in_manager=False)).start()
    assert set(lab.states().values()) == {PortState.ACTIVE, PortState.INIT}  # the switches' own ports are always up
    assert all(port.lid == 0 for port in lab.subnet.end_ports())
    lab.after(Cut("h1/1"), ms=5000)
    assert not [effect for effect in lab.seen if isinstance(effect, MadArrived)]
    assert lab.reachable() == set()


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
def test_a_manager_elsewhere_drives_the_subnet_through_the_same_door(place: str) -> None:
    """Our own manager as if it were OpenSM: outside, with SendMad and MadArrived only."""
    lab = two_switches(Lab(built_in_manager=False)).start()
    guid = lab.subnet.port(place).guid
    manager = SubnetManager(guid, Timing(), Plan())
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
    from ibbond.fabric.conversation import Conversation

    got: list[Answers] = []

    def task() -> Generator[Sequence[Ask], Answers, None]:
        got.append((yield [Ask((1,), SmpAttribute.NODE_INFO), Ask((2,), SmpAttribute.NODE_INFO)]))
        got.append((yield []))

    conversation = Conversation(timeout_ns=10, tries=3)
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
