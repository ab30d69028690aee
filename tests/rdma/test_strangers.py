"""Peers that speak something else at the port: their private data break nothing, and are refused in words."""

import random
from dataclasses import dataclass, field
from ipaddress import ip_address

import pytest

from ibbond.demo.rdma_session import End, SimulatedProgram
from ibbond.machine import MS
from ibbond.rdma import datagram, session
from ibbond.rdma.datagram import DEFAULT_PORT, Endpoint
from ibbond.rdma.initiator import Initiator
from ibbond.rdma.session import SERVICE_PORT
from ibbond.rdma.target import Target
from ibbond.rdma_cm.events import (
    ARRIVED_IDS,
    Accept,
    Connect,
    Destroy,
    Disconnect,
    Listen,
    MakeQueuePair,
    RdmaCmEvent,
    RdmaKind,
    RdmaRequest,
    Reject,
    ResolveAddress,
    ResolveRoute,
    WorkCompleted,
)
from ibbond.sim.story import Story
from ibbond.sim.world import World
from ibbond.topology.default import TWO_HOSTS
from ibbond.topology.load import parse

TWO = ip_address("10.0.0.2").packed
STRANGE = [
    b"",
    b"\1",
    bytes(7),
    bytes(12),
    bytes(196),
    random.Random(1).randbytes(196),
    session.MARK.to_bytes(4),
    datagram.MARK.to_bytes(4),
    session.HELLO.pack(session.MARK, 2)[:-1],
]
MAX_BYTES = max(session.MEMORY_BYTES, datagram.MEMORY_BYTES)


@dataclass
class Stranger:
    """Lets everyone in at `port`, or asks there; with these private data. It receives how that ends."""

    port: int
    private: bytes = b""
    destination: bytes = b""
    received: list[RdmaKind] = field(default_factory=list)

    def start(self, now: int) -> list[RdmaRequest]:
        return [ResolveAddress(0, self.destination, self.port)] if self.destination else [Listen(0, self.port)]

    def on_event(self, now: int, event: RdmaCmEvent | WorkCompleted) -> list[RdmaRequest]:
        if isinstance(event, WorkCompleted):
            return []
        self.received.append(event.kind)
        match event.kind:
            case RdmaKind.CONNECT_REQUEST:
                return [MakeQueuePair(event.id), Accept(event.id, self.private)]
            case RdmaKind.ADDR_RESOLVED:
                return [ResolveRoute(0)]
            case RdmaKind.ROUTE_RESOLVED:
                return [MakeQueuePair(0), Connect(0, self.private)]
        return []

    def tick(self, now: int) -> list[RdmaRequest]:
        return []

    def deadline(self) -> int | None:
        return None


def play(asking: End, waiting: End) -> World:
    """One program on h1, one on h2."""
    world = World(Story("strangers", parse(TWO_HOSTS, name="strangers"), pairs=(("h1", "h2"),)), 1, checked=False)
    world.begin()
    world.run_until(1000 * MS)
    for user, (host, end) in enumerate((("h2", waiting), ("h1", asking)), start=1):
        if not isinstance(end, Stranger):
            world.network.hosts[host].rdma.register(user, memoryview(bytearray(MAX_BYTES)))
        world.programs.append(SimulatedProgram(host, user, end, _now=world.now))
    world.run_until(1100 * MS)
    return world


def endpoint() -> Endpoint:
    return Endpoint(memoryview(bytearray(datagram.MEMORY_BYTES)), 0x100, name=5)


def initiator() -> Initiator:
    return Initiator(memoryview(bytearray(session.MEMORY_BYTES)), 0x100, TWO, name=5)


def target() -> Target:
    return Target(memoryview(bytearray(session.MEMORY_BYTES)), 0x100)


@pytest.mark.parametrize("private", STRANGE)
def test_a_sender_takes_no_other_service_for_a_receiver(private: bytes) -> None:
    sender = endpoint()
    (asked,) = sender.send(0, TWO, b"first")
    assert isinstance(asked, ResolveAddress)
    gone = sender.on_event(1, RdmaCmEvent(asked.id, RdmaKind.ESTABLISHED, private=private))
    assert gone == [Disconnect(asked.id), Destroy(asked.id)]
    assert sender.refusals == {TWO: "it speaks another protocol"}
    assert sender.unacknowledged == 1
    (again,) = sender.tick(sender.deadline() or 0)
    assert isinstance(again, ResolveAddress)
    sender.on_event(2, RdmaCmEvent(again.id, RdmaKind.ESTABLISHED, private=datagram.WELCOME.pack(datagram.MARK, 0, 9)))
    assert sender.refusals == {}


@pytest.mark.parametrize("private", STRANGE)
def test_who_lets_in_knows_its_own(private: bytes) -> None:
    for end in (endpoint(), target()):
        event = RdmaCmEvent(ARRIVED_IDS, RdmaKind.CONNECT_REQUEST, private=private, detail="10.0.0.1")
        assert end.on_event(0, event) == [Reject(ARRIVED_IDS), Destroy(ARRIVED_IDS)]


@pytest.mark.parametrize("private", [*STRANGE, session.HELLO.pack(session.MARK, 6)])
def test_an_initiator_takes_no_other_service_for_its_target(private: bytes) -> None:
    asking = initiator()
    (asked,) = asking.start(0)
    gone = asking.on_event(1, RdmaCmEvent(asked.id, RdmaKind.ESTABLISHED, private=private))
    assert gone == [Disconnect(asked.id), Destroy(asked.id)]
    assert (asking.over, asking.deadline()) == ("the target speaks another protocol", None)


@pytest.mark.parametrize("private", STRANGE)
def test_a_rejection_by_another_service_is_one(private: bytes) -> None:
    asking, sender = initiator(), endpoint()
    (asked,) = asking.start(0)
    asking.on_event(1, RdmaCmEvent(asked.id, RdmaKind.REJECTED, 28, private))
    assert [recovery.sign for recovery in asking.recoveries] == ["REJECTED"]
    (sent,) = sender.send(0, TWO, b"first")
    sender.on_event(1, RdmaCmEvent(sent.id, RdmaKind.REJECTED, 28, private))
    assert sender.refusals == {TWO: "the connection was rejected, reason 28"}


def test_a_service_that_lets_all_in() -> None:
    asking = initiator()
    play(asking, Stranger(SERVICE_PORT))
    assert asking.over == "the target speaks another protocol"


def test_programs_that_ask_at_the_wrong_port() -> None:
    for waiting, port in ((target(), SERVICE_PORT), (endpoint(), DEFAULT_PORT)):
        stranger = Stranger(port, b"hello", TWO)
        play(stranger, waiting)
        assert stranger.received == [RdmaKind.ADDR_RESOLVED, RdmaKind.ROUTE_RESOLVED, RdmaKind.REJECTED]
        assert not (waiting._sources if isinstance(waiting, Endpoint) else waiting.name)
