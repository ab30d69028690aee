"""Whatever happens in whatever order: what must always hold, and that everything heals."""

from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ibbond.ipoib.events import MadReceived, PortRaised
from ibbond.verbs.verbs import Datagram, PortEventKind, PortState
from ibbond.wire.group_address import broadcast_address, group_address
from ibbond.wire.mad import Method
from ibbond.wire.sa import SaAttribute, SaStatus
from ibbond.wire.sa_records import JoinState
from tests.ipoib.bench import OTHER, PEER, QPN, Bench

GROUPS = [bytes((239, 0, 0, number)) for number in range(4)]
KEYS = [(0xFFFF,), (0x8001,), (0x7FFF,), ()]


class InterfaceLife(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.bench = Bench()
        self.wanted: list[bytes] = []

    @rule()
    def up(self) -> None:
        if not self.bench.device.up:
            self.bench.up()

    @rule()
    def down(self) -> None:
        if self.bench.device.up:
            self.bench.down()

    @rule(silent=st.booleans(), status=st.sampled_from([SaStatus.OK, SaStatus.OK, SaStatus.INVALID]))
    def administrator(self, silent: bool, status: int) -> None:
        self.bench.sa.silent, self.bench.sa.status = silent, status

    @rule()
    def cut(self) -> None:
        self.bench.port.state = PortState.DOWN
        self.bench.sa.members.clear()  # a subnet manager lets go of ports that it cannot reach
        self.bench.raise_event(PortEventKind.PORT_ERR)

    @rule()
    def mend(self) -> None:
        self.bench.port.state = PortState.ACTIVE
        self.bench.raise_event(PortEventKind.PORT_ACTIVE)

    @rule(
        kind=st.sampled_from([PortEventKind.CLIENT_REREGISTER, PortEventKind.SM_CHANGE, PortEventKind.LID_CHANGE]),
        lid=st.integers(2, 9),
    )
    def event(self, kind: PortEventKind, lid: int) -> None:
        if kind is PortEventKind.LID_CHANGE:
            self.bench.port.lid = lid
        if kind is PortEventKind.CLIENT_REREGISTER:
            self.bench.sa.members.clear()
            self.bench.sa.mlids.clear()
        self.bench.raise_event(kind)

    @rule(pkeys=st.sampled_from(KEYS))
    def keys(self, pkeys: tuple[int, ...]) -> None:
        self.bench.port.pkeys = pkeys
        self.bench.raise_event(PortEventKind.PKEY_CHANGE)
        self.listen_again()

    @rule(groups=st.lists(st.sampled_from(GROUPS), unique=True))
    def listen(self, groups: list[bytes]) -> None:
        self.wanted = groups
        self.listen_again()

    def listen_again(self) -> None:
        self.bench.listen(*(group_address(group, self.bench.device.broadcast) for group in self.wanted))

    @rule(destination=st.sampled_from([PEER, OTHER, *GROUPS]))
    def send(self, destination: bytes) -> None:
        if len(destination) == 4:
            destination = group_address(destination, self.bench.device.broadcast)
        self.bench.send(destination)

    @rule(group=st.sampled_from(GROUPS))
    def prepare(self, group: bytes) -> None:
        address = group_address(group, self.bench.device.broadcast)
        self.bench.run(self.bench.interface.prepare(self.bench.now, [address], [PEER]))

    @rule(ms=st.sampled_from([0, 1, 150, 250, 1000, 5000, 40_000, 100_000]))
    def wait(self, ms: int) -> None:
        self.bench.wait(ms=ms)

    @invariant()
    def carrier_means_active_and_in_the_broadcast_group(self) -> None:
        bench = self.bench
        assert bench.interface.carrier == bench.device.carrier
        if bench.device.carrier:
            assert bench.device.up
            assert bench.port.state == PortState.ACTIVE
            assert bench.device.broadcast[4:] in bench.attached
        else:
            assert bench.attached == {}

    @invariant()
    def attached_where_the_interface_says_so(self) -> None:
        bench = self.bench
        assert {group.mgid for group in bench.interface.groups if group.attached} == bench.attached.keys()
        for group in bench.interface.groups:
            if group.attached:
                assert group.path is not None
                assert bench.attached[group.mgid] == group.path.dlid

    @invariant()
    def a_deadline_lies_ahead(self) -> None:
        deadline = self.bench.interface.deadline()
        assert deadline is None or deadline >= self.bench.now

    def teardown(self) -> None:
        """All is well again: within a minute so is the interface."""
        bench = self.bench
        bench.sa.silent, bench.sa.status = False, SaStatus.OK
        bench.port.pkeys = (0xFFFF,)
        bench.raise_event(PortEventKind.PKEY_CHANGE)
        bench.port.state = PortState.ACTIVE
        bench.raise_event(PortEventKind.PORT_ACTIVE)
        self.up()
        self.listen_again()
        bench.wait(ms=60_000)
        broadcast = broadcast_address(0xFFFF)
        expected = {broadcast[4:]} | {group_address(group, broadcast)[4:] for group in self.wanted}
        assert bench.device.carrier
        assert set(bench.attached) == expected
        full = {mgid for mgid, state in bench.sa.members.items() if state & JoinState.FULL}
        assert full >= expected, "more than that only where every repetition of a leave got lost"
        bench.sent.clear()
        bench.send(PEER)
        assert [datagram.destination_lid for datagram in bench.sent] == [7]


TestInterfaceLife = InterfaceLife.TestCase
TestInterfaceLife.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)

u16, u24, u32 = (st.integers(0, 2**bits - 1) for bits in (16, 24, 32))
gid = st.one_of(st.none(), st.binary(min_size=16, max_size=16), st.just(broadcast_address(0xFFFF)[4:]))
datagrams = st.builds(
    Datagram,
    source_lid=u16,
    destination_lid=st.sampled_from([5, 0xC000]),
    pkey=u16,
    source_qpn=u24,
    destination_qpn=st.sampled_from([QPN, 0xFFFFFF]),
    qkey=u32,
    payload=st.binary(max_size=80),
    source_gid=gid,
    destination_gid=gid,
    offload=st.binary(max_size=12),
)


@given(datagrams)
@settings(deadline=None)
def test_any_datagram_is_taken_or_counted(datagram: Datagram) -> None:
    bench = Bench().up()
    bench.interface.decapsulate(datagram)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_any_mad_is_understood_or_counted(data: Any) -> None:
    """Answers to real questions with any status and any content, bent answers, and noise."""
    bench = Bench()
    bench.sa.silent = data.draw(st.booleans())
    bench.up()
    bench.sa.silent = True
    bench.send(PEER)
    bench.raise_event(PortEventKind.CLIENT_REREGISTER)
    for question in bench.sa.asked[-3:]:
        answer = replace(
            question,
            method=data.draw(st.sampled_from([Method.GET_RESP, Method.DELETE_RESP, Method.GET_TABLE_RESP])),
            status=data.draw(st.sampled_from([0, 0, 0x0600, 0xFFFF])),
            attribute=data.draw(st.sampled_from([question.attribute, SaAttribute.PATH_RECORD])),
            data=data.draw(st.binary(min_size=200, max_size=200)),
        ).pack()
        at = data.draw(st.integers(0, 255))
        if data.draw(st.booleans()):
            answer = answer[:at] + data.draw(st.binary(max_size=2)) + answer[at + 1 :]
        bench.tell(MadReceived(answer))
    bench.tell(MadReceived(data.draw(st.binary(max_size=256))))
    bench.wait(ms=5000)


def test_every_event_finds_the_interface_in_any_state() -> None:
    for kind in PortEventKind:
        for state in PortState:
            bench = Bench()
            bench.port.state = state
            bench.tell(PortRaised(kind))
            bench.up()
            bench.tell(PortRaised(kind))
            bench.down()
            bench.tell(PortRaised(kind))
            assert not bench.device.carrier
