"""Connected mode between two interfaces: REQ, REP, RTU, messages of 65520 bytes, and every way in which it ends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import count
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ibbond.cm.connection_manager import ConnectionManager
from ibbond.cm.events import CmEffect, CmEvent, Notify
from ibbond.errors import Malformed, Refused
from ibbond.fabric.events import SendMad
from ibbond.ipoib.connected import IDLE_NS, REJECTED_NS, REPEAT_NS, WAITING_PACKETS, ConnectedMode
from ibbond.ipoib.driver import ipoib_device
from ibbond.ipoib.events import (
    AdminDown,
    AdminUp,
    CarrierIs,
    CloseQueuePair,
    ConnectionEvent,
    ConnectQueuePair,
    Dropped,
    EmitDatagram,
    EmitMad,
    EmitMessage,
    InterfaceEffect,
    MadReceived,
    MtuIs,
    PortRaised,
    SendFailed,
    SetMode,
    TooLong,
)
from ibbond.ipoib.interface import Interface
from ibbond.machine import MS
from ibbond.verbs.verbs import ManagementDatagram, PortEventKind, PortState
from ibbond.wire import nd
from ibbond.wire.cm import CmAttribute, CmMad, Dreq, Rej, RejectReason, Rep, Req, Rtu
from ibbond.wire.group_address import broadcast_address
from ibbond.wire.hwaddr import HardwareAddress
from ibbond.wire.mad import ManagementClass
from ibbond.wire.service_id import connected_mode_standard
from tests.ipoib.bench import Administrator, Port

GUIDS = {"a": 0x0002C90300100001, "b": 0x0002C90300100011}
LIDS = {"a": 5, "b": 7}
QPNS = {"a": 0x48, "b": 0x4B}


def gid(name: str) -> bytes:
    return bytes.fromhex("fe80000000000000") + GUIDS[name].to_bytes(8)


class Wire:
    """Two interfaces, an administrator, and reliable queue pairs that carry messages when both ends are connected."""

    def __init__(self, *connected: str) -> None:
        self.now = 0
        self.sa = Administrator(lids={gid(name): lid for name, lid in LIDS.items()})
        self.numbers: Iterator[int] = count(0x100)
        self.managers: dict[str, ConnectionManager] = {}
        self.interfaces: dict[str, Interface] = {}
        self.pairs: dict[str, dict[int, ConnectQueuePair]] = {"a": {}, "b": {}}
        self.messages: list[CmMad] = []
        self.stray: list[CmMad] = []  # to a LID that is not the other side's
        self.lost: set[int] = set()  # attributes of CM messages that the wire eats
        self.received: dict[str, list[tuple[int, bytes]]] = {"a": [], "b": []}
        self.datagrams: list[str] = []
        self.too_long: list[int] = []
        self.drops: list[str] = []
        for name in ("a", "b"):
            port = Port(name=name, lid=LIDS[name], gid=gid(name))
            device = ipoib_device(f"ib{name}", port, QPNS[name])
            manager = self.managers[name] = ConnectionManager()
            mode = ConnectedMode(manager, partial(self.report, name), GUIDS[name], lambda: next(self.numbers))
            self.interfaces[name] = Interface(device, port, qpn=QPNS[name], connected_mode=mode)
            device.open()
            self.run(name, self.interfaces[name].handle(self.now, AdminUp()))
            if name in connected:
                self.run(name, self.interfaces[name].handle(self.now, SetMode(connected=True)))

    def run(self, name: str, effects: list[InterfaceEffect]) -> None:
        interface, other = self.interfaces[name], "b" if name == "a" else "a"
        for effect in effects:
            match effect:
                case EmitMad(mad) if mad.mad[1] == ManagementClass.COMMUNICATION:
                    self.carry(name, mad)
                case EmitMad(mad):
                    answer = self.sa.answer(mad.mad)
                    if answer is not None:
                        self.run(name, interface.handle(self.now, MadReceived(answer)))
                case ConnectQueuePair():
                    self.pairs[name][effect.qpn] = effect
                case CloseQueuePair(qpn):
                    self.pairs[name].pop(qpn, None)
                case EmitMessage(qpn, payload):
                    own = self.pairs[name][qpn]
                    theirs = self.pairs[other][own.peer_qpn]
                    assert theirs.peer_qpn == qpn
                    assert (own.psn, own.dlid, own.gid) == (theirs.peer_psn, LIDS[other], gid(other))
                    frame = self.interfaces[other].decapsulate_message(self.now, own.peer_qpn, payload)
                    assert frame is not None
                    self.received[other].append((frame.ethertype, frame.payload))
                case EmitDatagram(datagram):
                    self.datagrams.append(name)
                    frame = self.interfaces[other].decapsulate(datagram)
                    if frame is not None:
                        self.received[other].append((frame.ethertype, frame.payload))
                case CarrierIs(up):
                    interface.device.set_carrier(up)
                case MtuIs(mtu):
                    interface.device.set_mtu(mtu)
                case TooLong(_, mtu):
                    self.too_long.append(mtu)
                case Dropped(reason, packets):
                    self.drops += [reason] * packets

    def carry(self, name: str, mad: ManagementDatagram) -> None:
        """A message of this side's connection manager to the other's."""
        other = "b" if name == "a" else "a"
        message = CmMad.parse(mad.mad)
        self.messages.append(message)
        if mad.destination_lid != LIDS[other]:
            self.stray.append(message)
        elif message.message.ATTRIBUTE not in self.lost:
            self.arrive(other, message)

    def arrive(self, name: str, message: CmMad) -> None:
        self.run_manager(name, self.managers[name].handle(self.now, name, message))

    def run_manager(self, name: str, effects: list[CmEffect]) -> None:
        for effect in effects:
            match effect:
                case SendMad(_, mad):
                    self.carry(name, mad)
                case Notify(user, event):
                    user(self.now, event)

    def report(self, name: str, now: int, event: CmEvent) -> None:
        self.run(name, self.interfaces[name].handle(now, ConnectionEvent(event)))

    def tell(self, name: str, event: SetMode | SendFailed | PortRaised | AdminDown | MadReceived) -> None:
        self.run(name, self.interfaces[name].handle(self.now, event))

    def send(self, name: str, payload: bytes = b"packet", ethertype: int = 0x0800) -> None:
        address = self.interfaces["b" if name == "a" else "a"].device.address
        self.run(name, self.interfaces[name].encapsulate(self.now, address, ethertype, payload))

    def wait(self, ns: int) -> None:
        end = self.now + ns
        while True:
            due = [(at, name, 0) for name, each in self.managers.items() if (at := each.deadline()) is not None]
            due += [(at, name, 1) for name, each in self.interfaces.items() if (at := each.deadline()) is not None]
            if not due or min(due)[0] > end:
                break
            at, name, kind = min(due)
            self.now = max(self.now, at)
            if kind:
                self.run(name, self.interfaces[name].tick(self.now))
            else:
                self.run_manager(name, self.managers[name].tick(self.now))
        self.now = end

    def said(self, kind: type) -> int:
        return sum(isinstance(each.message, kind) for each in self.messages)


def test_a_connection_is_made_and_carries_what_no_datagram_does() -> None:
    wire = Wire("a", "b")
    assert wire.interfaces["a"].device.mtu == 65520
    wire.send("a", bytes(65520))
    assert wire.received["b"] == [(0x0800, bytes(65520))]
    assert [type(each.message) for each in wire.messages] == [Req, Rep, Rtu]
    request = wire.messages[0].message
    assert isinstance(request, Req)
    assert request.service_id == 0x1000000000000000 | QPNS["b"]
    assert request.private[:8] == bytes.fromhex("00000048 0000fff4")
    assert (request.retry_count, request.rnr_retry_count, request.remote_timeout, request.max_cm_retries) == (
        0,
        0,
        20,
        15,
    )
    assert request.primary.remote_gid == gid("b")
    assert not wire.datagrams
    assert not wire.stray
    statistics = wire.interfaces["b"].device.statistics
    assert (statistics.rx_packets, statistics.rx_bytes) == (1, 65520)
    path = wire.interfaces["a"].path_to(wire.interfaces["b"].device.address)
    assert path is not None
    assert (path.own_qpn, path.dlid, path.max_bytes) == (request.qpn, LIDS["b"], 65520)


def test_each_direction_has_its_own_connection() -> None:
    wire = Wire("a", "b")
    wire.send("a")
    wire.send("b")
    wire.send("a")
    assert wire.said(Req) == 2
    assert len(wire.pairs["a"]) == len(wire.pairs["b"]) == 2
    assert len(wire.received["b"]) == 2


def test_datagram_mode_accepts_connections_and_answers_with_datagrams() -> None:
    wire = Wire("a")
    wire.send("a", bytes(60_000))
    assert len(wire.received["b"][0][1]) == 60_000
    wire.send("b")
    assert wire.datagrams == ["b"]


def test_arp_discovery_and_groups_stay_datagrams() -> None:
    wire = Wire("a", "b")
    wire.send("a", b"arp", 0x0806)
    me, you = (HardwareAddress(1, gid(name)).link_local for name in ("a", "b"))
    wire.send("a", nd.NeighborAdvertisement(me, you, me, bytes(20), solicited=True).pack(), 0x86DD)
    broadcast = broadcast_address(0xFFFF)
    wire.run("a", wire.interfaces["a"].encapsulate(wire.now, broadcast, 0x0800, b"all"))
    assert wire.datagrams == ["a", "a", "a"]
    assert wire.messages == []


def test_a_peer_without_connected_mode_gets_datagrams_that_fit() -> None:
    wire = Wire("a")
    plain = b"\0" + wire.interfaces["b"].device.address[1:]
    interface = wire.interfaces["a"]
    wire.run("a", interface.encapsulate(wire.now, plain, 0x0800, b"packet"))
    wire.run("a", interface.encapsulate(wire.now, plain, 0x0800, bytes(2045)))
    assert wire.datagrams == ["a"]
    assert wire.too_long == [2044], "reported to the sender, who sends less"
    assert wire.messages == []


def test_packets_wait_for_the_connection() -> None:
    wire = Wire("a", "b")
    wire.lost = {CmAttribute.REP}
    for number in range(WAITING_PACKETS + 2):
        wire.send("a", b"%d" % number)
    assert wire.drops == ["too many packets wait for the connection"] * 2
    wire.lost = set()
    wire.wait(REPEAT_NS)
    assert [payload for _, payload in wire.received["b"]] == [b"%d" % number for number in range(WAITING_PACKETS)]
    assert len(wire.pairs["b"]) == 1, "the repeated request got the same reply"


@pytest.mark.parametrize("lost", [CmAttribute.REQ, CmAttribute.REP])
def test_a_lost_message_is_repeated_after_half_a_second(lost: CmAttribute) -> None:
    wire = Wire("a", "b")
    wire.lost = {lost}
    wire.send("a")
    wire.wait(REPEAT_NS - 1)
    wire.lost = set()
    assert wire.received["b"] == []
    wire.wait(1)
    assert len(wire.received["b"]) == 1


def test_without_an_rtu_the_first_data_says_as_much() -> None:
    wire = Wire("a", "b")
    wire.lost = {CmAttribute.RTU}
    wire.send("a")
    wire.wait(10 * REPEAT_NS)
    assert wire.said(Rep) == 1


def test_a_repeated_reply_gets_its_rtu_again() -> None:
    wire = Wire("a", "b")
    wire.lost = {CmAttribute.RTU}
    wire.send("a")
    reply = next(each for each in wire.messages if isinstance(each.message, Rep))
    wire.arrive("a", reply)
    assert wire.said(Rtu) == 2
    assert len(wire.pairs["a"]) == 1


def test_a_peer_that_never_answers() -> None:
    wire = Wire("a", "b")
    wire.lost = {CmAttribute.REQ}
    wire.send("a")
    for _ in range(16):
        wire.wait(REPEAT_NS)
        wire.interfaces["a"].touch(wire.now, wire.interfaces["b"].device.address)
    assert wire.said(Req) == 16
    assert wire.drops == ["the peer does not answer"]
    wire.lost = set()
    wire.send("a")
    assert len(wire.received["b"]) == 1


def test_a_broken_connection_is_made_again() -> None:
    wire = Wire("a", "b")
    wire.send("a")
    (qpn,) = wire.pairs["a"]
    wire.tell("a", SendFailed(qpn))
    assert wire.pairs["a"] == {}
    wire.send("a", b"again")
    assert wire.received["b"][-1] == (0x0800, b"again")
    assert wire.said(Req) == 2
    (passive,) = wire.pairs["b"]
    assert wire.said(Dreq) == 1, "the peer does not keep its end of the broken one"
    wire.tell("b", SendFailed(passive))
    assert passive not in wire.pairs["b"]


@pytest.mark.parametrize("established", [True, False])
def test_another_path_makes_another_connection(established: bool) -> None:
    """The MTU of the path says how long the packets of a message may be; a request by an old path is never answered."""
    wire = Wire("a", "b")
    if not established:
        wire.lost = {CmAttribute.REQ}
    wire.send("a", b"one")
    wire.lost = set()
    wire.sa.path_mtu = 3
    wire.sa.silent = True
    wire.tell("a", PortRaised(PortEventKind.CLIENT_REREGISTER))
    wire.send("a", b"two")
    wire.sa.silent = False
    wire.wait(300 * MS)
    wire.send("a", b"three")
    assert sorted(payload for _, payload in wire.received["b"]) == [b"one", b"three", b"two"]
    assert {pair.mtu for pair in wire.pairs["a"].values()} == {3}
    assert len(wire.pairs["b"]) == 1, "the old connection has ended at both ends"
    assert wire.drops == []


def test_a_peer_that_rejects_gets_datagrams_for_a_while() -> None:
    wire = Wire("a", "b")
    wire.lost = {CmAttribute.REQ}
    wire.send("a")
    request = wire.messages[-1]
    assert isinstance(request.message, Req)
    reject = Rej(0, request.message.local_id, 0, RejectReason.CONSUMER)
    wire.arrive("a", replace(request, message=reject))
    assert wire.drops == ["the peer refused the connection"]
    wire.lost = set()
    wire.send("a")
    assert wire.datagrams == ["a"]
    wire.wait(REJECTED_NS)
    wire.send("a")
    assert wire.said(Req) == 2


def test_a_request_for_another_gid_is_rejected_and_one_for_another_service_too() -> None:
    wire = Wire("a", "b")
    wire.send("a")
    request = wire.messages[0]
    assert isinstance(request.message, Req)
    path = replace(request.message.primary, remote_gid=bytes(16))
    wire.arrive("b", replace(request, message=replace(request.message, local_id=9, qpn=9, primary=path)))
    answer = wire.messages[-1].message
    assert isinstance(answer, Rej)
    assert answer.reason == RejectReason.PRIMARY_GID
    before = len(wire.messages)
    iser = replace(request.message, local_id=10, qpn=10, service_id=0x0000000001060CBC)
    wire.arrive("b", replace(request, message=iser))
    answer = wire.messages[before].message
    assert isinstance(answer, Rej)
    assert answer.reason == RejectReason.INVALID_SERVICE_ID
    standard = replace(request.message, local_id=11, qpn=11, service_id=connected_mode_standard(QPNS["b"]))
    wire.arrive("b", replace(request, message=standard))
    assert isinstance(wire.messages[-1].message, Rep), "the RFC's form is understood too"


def test_idle_neighbors_take_their_connections_along() -> None:
    wire = Wire("a", "b")
    wire.send("a")
    wire.wait(120_000 * MS)
    assert wire.said(Dreq) == 1
    assert wire.pairs == {"a": {}, "b": {}}


def test_an_idle_passive_connection_is_closed() -> None:
    wire = Wire("a", "b")
    wire.send("a")
    wire.lost = {CmAttribute.DREQ}
    wire.wait(IDLE_NS + 60_000 * MS)
    assert wire.pairs == {"a": {}, "b": {}}
    ended = {each.message.remote_qpn for each in wire.messages if isinstance(each.message, Dreq)}
    assert len(ended) == 2, "both ends said so, each at its own time"
    assert wire.said(Dreq) == 2 * 16, "and repeated it"


def test_a_dead_port_and_back() -> None:
    wire = Wire("a", "b")
    wire.send("a")
    port = wire.interfaces["a"].port
    assert isinstance(port, Port)
    port.state = PortState.DOWN
    wire.tell("a", PortRaised(PortEventKind.PORT_ERR))
    assert wire.pairs["a"] == {}
    port.state = PortState.ACTIVE
    wire.tell("a", PortRaised(PortEventKind.PORT_ACTIVE))
    assert wire.interfaces["a"].device.mtu == 65520
    wire.send("a", b"again")
    assert wire.received["b"][-1] == (0x0800, b"again")


def test_down_closes_both_directions() -> None:
    wire = Wire("a", "b")
    wire.send("a")
    wire.send("b")
    wire.tell("a", AdminDown())
    assert wire.pairs == {"a": {}, "b": {}}


def test_back_to_datagram_mode() -> None:
    wire = Wire("a", "b")
    wire.send("a")
    wire.tell("a", SetMode(connected=False))
    assert wire.interfaces["a"].device.mtu == 2044
    assert wire.pairs["a"] == {}
    wire.send("a")
    assert wire.datagrams == ["a"]


def test_no_connected_mode_without_reliable_queue_pairs() -> None:
    port = Port()
    interface = Interface(ipoib_device("ib0", port, 1), port, qpn=1)
    with pytest.raises(Refused, match="connected mode"):
        interface.handle(0, SetMode(connected=True))
    assert not interface.connected


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_any_cm_message_is_understood_or_malformed(data: st.DataObject) -> None:
    """Bent copies of every message of a whole conversation, to both sides, at any time of it."""
    wire = Wire("a", "b")
    wire.lost = data.draw(st.sampled_from([set(), {CmAttribute.REP}, {CmAttribute.RTU}]))
    wire.send("a")
    wire.send("b")
    for message in [*wire.messages]:
        raw = bytearray(message.pack())
        for _ in range(data.draw(st.integers(0, 3))):
            raw[data.draw(st.integers(0, 120))] = data.draw(st.integers(0, 255))
        name = data.draw(st.sampled_from(["a", "b"]))
        try:
            effects = wire.managers[name].handle(wire.now, name, CmMad.parse(bytes(raw)))
        except Malformed:
            continue
        events = [ConnectionEvent(effect.event) for effect in effects if isinstance(effect, Notify)]
        answers = [effect for event in events for effect in wire.interfaces[name].handle(wire.now, event)]
        assert all(isinstance(effect, get_args(InterfaceEffect)) for effect in answers)
    for interface in wire.interfaces.values():
        interface.tick(wire.now + 1000 * REPEAT_NS)
