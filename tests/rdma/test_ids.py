"""Ids step by step, as rdma_cm(7) orders them: what each state allows, what both ends receive, what is refused."""

import errno
from dataclasses import dataclass, field

import pytest

from ibbond.cm.events import CmEffect
from ibbond.demo.rdma_session import SimulatedProgram
from ibbond.errors import Refused
from ibbond.fabric.events import Cut, KillAdapter, ReviveAdapter
from ibbond.machine import MS
from ibbond.rdma_cm.events import (
    ARRIVED_IDS,
    Accept,
    Connect,
    Destroy,
    Disconnect,
    Listen,
    MakeQueuePair,
    PostWork,
    RdmaCall,
    RdmaCmEvent,
    RdmaKind,
    RdmaRequest,
    RdmaUserClosed,
    Reject,
    ResolveAddress,
    ResolveRoute,
    WorkCompleted,
)
from ibbond.sim.story import Story
from ibbond.sim.world import World
from ibbond.stack.events import OnHost, OnSubnet
from ibbond.topology.default import TWO_HOSTS
from ibbond.topology.load import parse
from ibbond.verbs.reliable_verbs import Operation, Receive, Status, Work
from ibbond.wire.cm import CmMad, Drep
from ibbond.wire.rdma_ip import RdmaIpHeader

TWO_ADAPTERS = TWO_HOSTS.replace('ib1 = "s2"', 'ib1 = { to = "s2", hca = 2 }')
TO_H2, PORT = bytes([10, 0, 0, 2]), 3260
ONE = 0  # the id of the asking end
TAKEN = ARRIVED_IDS  # the id that a request makes at the other end
WAY = (ResolveAddress(ONE, TO_H2, PORT), ResolveRoute(ONE), MakeQueuePair(ONE), Connect(ONE, b"hello"))


@dataclass
class Ear:
    """A program that only listens to what it is notified."""

    received: list[RdmaCmEvent | WorkCompleted] = field(default_factory=list)

    def start(self, now: int) -> list[RdmaRequest]:
        return []

    def on_event(self, now: int, event: RdmaCmEvent | WorkCompleted) -> list[RdmaRequest]:
        self.received.append(event)
        return []

    def tick(self, now: int) -> list[RdmaRequest]:
        return []

    def deadline(self) -> int | None:
        return None


class Pair:
    """A program on h1 that asks, and one on h2 that is asked."""

    def __init__(self, text: str = TWO_HOSTS, at: bytes = b"") -> None:
        self.world = World(Story("ids", parse(text, name="ids"), pairs=(("h1", "h2"),)), 0, checked=False)
        self.world.begin()
        self.world.run_until(1000 * MS)
        self.ears = {host: Ear() for host in ("h1", "h2")}
        self.keys = {}
        for host, ear in self.ears.items():
            self.keys[host] = self.world.network.hosts[host].rdma.register(1, memoryview(bytearray(4096)))
            self.world.programs.append(SimulatedProgram(host, 1, ear, _now=self.world.now))
        self.do("h2", Listen(0, PORT, at))

    def do(self, host: str, request: RdmaRequest) -> None:
        self.world.feed(OnHost(host, RdmaCall(1, request)))
        self.world.run_until(self.world.now + 5 * MS)

    def refused(self, host: str, request: RdmaRequest) -> int:
        with pytest.raises(Refused) as refusal:
            self.world.network.handle(self.world.now, OnHost(host, RdmaCall(1, request)))
        return refusal.value.code

    def reported(self, host: str) -> list[RdmaKind]:
        """The kinds of events since the last question."""
        kinds = [event.kind for event in self.ears[host].received if isinstance(event, RdmaCmEvent)]
        self.ears[host].received.clear()
        return kinds

    def done(self, host: str) -> list[tuple[int, Operation, Status]]:
        work = [each.completion for each in self.ears[host].received if isinstance(each, WorkCompleted)]
        return [(one.number, one.operation, one.status) for one in work]

    def ask(self) -> None:
        """As far as the request at the other end."""
        for request in (
            ResolveAddress(ONE, TO_H2, PORT),
            ResolveRoute(ONE),
            MakeQueuePair(ONE),
            Connect(ONE, b"hello"),
        ):
            self.do("h1", request)

    def connect(self) -> None:
        self.ask()
        self.do("h2", MakeQueuePair(TAKEN))
        self.do("h2", Accept(TAKEN, b"welcome"))
        for ear in self.ears.values():
            ear.received.clear()


def test_what_both_ends_receive() -> None:
    pair = Pair()
    pair.ask()
    assert pair.reported("h1") == [RdmaKind.ADDR_RESOLVED, RdmaKind.ROUTE_RESOLVED]
    (request,) = pair.ears["h2"].received
    assert isinstance(request, RdmaCmEvent)
    assert (request.kind, request.id, request.listener) == (RdmaKind.CONNECT_REQUEST, TAKEN, 0)
    assert (request.private.rstrip(b"\0"), request.detail) == (b"hello", "10.0.0.1")
    pair.do("h2", MakeQueuePair(TAKEN))
    pair.do("h2", Accept(TAKEN, b"welcome"))
    (event,) = pair.ears["h1"].received
    assert isinstance(event, RdmaCmEvent)
    assert (event.kind, event.private.rstrip(b"\0")) == (RdmaKind.ESTABLISHED, b"welcome")
    pair.reported("h1")
    assert pair.reported("h2")[-1] is RdmaKind.ESTABLISHED
    pair.do("h1", Disconnect(ONE))
    assert pair.reported("h1") == [RdmaKind.DISCONNECTED]
    assert pair.reported("h2") == [RdmaKind.DISCONNECTED]


def test_programs_that_move_their_queue_pairs_themselves() -> None:
    """As of the kernel's user-space RDMA CM: CONNECT_RESPONSE, the RTU with the program's ACCEPT, TIMEWAIT_EXIT."""
    pair = Pair()
    for request in (ResolveAddress(ONE, TO_H2, PORT), ResolveRoute(ONE), Connect(ONE, b"hello", qpn=0x701)):
        pair.do("h1", request)
    assert pair.reported("h1") == [RdmaKind.ADDR_RESOLVED, RdmaKind.ROUTE_RESOLVED]
    assert pair.reported("h2") == [RdmaKind.CONNECT_REQUEST]
    pair.do("h2", Accept(TAKEN, b"welcome", qpn=0x702))
    assert pair.reported("h1") == [RdmaKind.CONNECT_RESPONSE]
    assert pair.reported("h2") == [], "the peer's queue pair is not ready yet"
    ends = {(one.program_qpn, one.qpn) for host in ("h1", "h2") for one in pair.world.network.hosts[host].rdma.ids()}
    assert ends == {(None, None), (0x701, None), (0x702, None)}
    pair.do("h1", Accept(ONE))
    assert pair.reported("h2") == [RdmaKind.ESTABLISHED]
    pair.do("h2", Disconnect(TAKEN))
    pair.world.run_until(pair.world.now + 1100 * MS)
    assert pair.reported("h1") == pair.reported("h2") == [RdmaKind.DISCONNECTED, RdmaKind.TIMEWAIT_EXIT]


def test_a_request_that_is_rejected() -> None:
    pair = Pair()
    pair.ask()
    pair.reported("h1")
    pair.do("h1", PostWork(ONE, Receive(7, pair.keys["h1"], 0, 64)))
    pair.do("h2", Reject(TAKEN, b"no"))
    event, flushed = pair.ears["h1"].received
    assert isinstance(event, RdmaCmEvent)
    assert isinstance(flushed, WorkCompleted)
    assert (event.kind, event.private.rstrip(b"\0")) == (RdmaKind.REJECTED, b"no")
    assert (flushed.completion.number, flushed.completion.status) == (7, Status.FLUSHED)
    pair.reported("h1")
    pair.do("h1", PostWork(ONE, Work(8, Operation.SEND, inline=b"late")))
    pair.do("h1", PostWork(ONE, Receive(9, pair.keys["h1"], 0, 64)))
    assert [(number, status) for number, _, status in pair.done("h1")] == [(8, Status.FLUSHED), (9, Status.FLUSHED)]


def test_a_request_that_no_one_answers() -> None:
    pair = Pair()
    for step in WAY[:3]:
        pair.do("h1", step)
    pair.do("h1", PostWork(ONE, Receive(7, pair.keys["h1"], 0, 64)))
    pair.world.feed(OnSubnet(Cut("h2/1")))
    pair.reported("h1")
    pair.do("h1", Connect(ONE, response_timeout=10, cm_retries=2))
    pair.world.run_until(pair.world.now + 50 * MS)
    assert pair.done("h1") == [(7, Operation.RECEIVE, Status.FLUSHED)]
    assert pair.reported("h1") == [RdmaKind.UNREACHABLE]


def test_a_disconnect_that_no_one_answers_says_so() -> None:
    pair = Pair()
    pair.connect()
    pair.world.feed(OnSubnet(Cut("h2/1")))
    pair.do("h1", Disconnect(ONE))
    assert pair.reported("h1") == []
    pair.world.run_until(pair.world.now + 120_000 * MS)
    (event,) = pair.ears["h1"].received
    assert isinstance(event, RdmaCmEvent)
    assert (event.kind, event.status) == (RdmaKind.DISCONNECTED, errno.ETIMEDOUT)


def test_an_answer_to_a_disconnect_that_is_lost_costs_one_repetition(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair()
    pair.connect()
    manager = pair.world.network.hosts["h1"].connections
    lost: list[object] = []
    on_event = manager.handle

    def lossy(now: int, port: str, mad: CmMad) -> list[CmEffect]:
        if isinstance(mad.message, Drep) and not lost:
            lost.append(mad)
            return []
        return on_event(now, port, mad)

    monkeypatch.setattr(manager, "handle", lossy)
    pair.do("h1", Disconnect(ONE))
    assert (pair.reported("h1"), pair.reported("h2"), len(lost)) == ([], [RdmaKind.DISCONNECTED], 1)
    pair.world.run_until(pair.world.now + 5000 * MS)
    (event,) = pair.ears["h1"].received
    assert isinstance(event, RdmaCmEvent)
    assert (event.kind, event.status) == (RdmaKind.DISCONNECTED, 0)
    assert pair.reported("h2") == []


def test_an_id_that_ends_while_it_is_asked_for() -> None:
    """What was made after the peer had given up is in error from the start, and an answer comes too late."""
    pair = Pair()
    pair.ask()
    pair.do("h1", Destroy(ONE))
    assert pair.reported("h2") == [RdmaKind.CONNECT_REQUEST, RdmaKind.REJECTED]
    pair.do("h2", MakeQueuePair(TAKEN))
    pair.do("h2", PostWork(TAKEN, Receive(7, pair.keys["h2"], 0, 64)))
    assert pair.done("h2") == [(7, Operation.RECEIVE, Status.FLUSHED)]
    pair.do("h2", Accept(TAKEN))
    pair.do("h2", Reject(TAKEN))
    assert pair.reported("h2") == []
    pair.do("h2", Destroy(TAKEN))


def test_an_address_is_resolved_once() -> None:
    """`rdma_resolve_addr` wants an id that has none; one whose address was not found may ask again."""
    pair = Pair(TWO_ADAPTERS)
    pair.do("h1", ResolveAddress(ONE, bytes([10, 0, 0, 77]), PORT, timeout_ms=10))
    pair.world.run_until(pair.world.now + 20 * MS)
    assert pair.reported("h1") == [RdmaKind.ADDR_ERROR]
    for step in WAY[:3]:
        assert pair.world.network.hosts["h1"].rdma._ids.find(1, ONE) is not None
        pair.do("h1", step)
        assert pair.refused("h1", WAY[0]) == errno.EINVAL
    pair.world.feed(OnSubnet(Cut("h1/1")))
    pair.world.run_until(pair.world.now + 500 * MS)
    assert pair.refused("h1", WAY[0]) == errno.EINVAL
    pair.do("h1", Connect(ONE))
    (one,) = pair.world.network.hosts["h1"].rdma.ids()
    assert one.port == "h1/1", "as it was made"
    pair.world.feed(OnHost("h1", RdmaUserClosed(1)))
    assert list(pair.world.network.hosts["h1"].rdma.ids()) == []


def test_a_connecting_id_has_a_port_of_its_own() -> None:
    pair = Pair()
    pair.ask()
    pair.do("h1", ResolveAddress(1, TO_H2, PORT))
    for step in (ResolveRoute(1), MakeQueuePair(1), Connect(1)):
        pair.do("h1", step)
    (first, second) = [one.request for one in pair.world.network.hosts["h2"].rdma.ids() if one.request is not None]
    assert [RdmaIpHeader.parse(each.private).port for each in (first, second)] == [32768, 32769]


@pytest.mark.parametrize(
    ("address", "port", "kinds"),
    [
        (TO_H2, "h2/1", [RdmaKind.ADDR_CHANGE]),
        (b"", "", []),
        (bytes(4), "", []),
        (bytes(16), "", []),
    ],
)
def test_a_listener_at_an_address_is_on_its_device(address: bytes, port: str, kinds: list[RdmaKind]) -> None:
    pair = Pair(at=address)
    (listener,) = pair.world.network.hosts["h2"].rdma.ids()
    assert listener.port == port
    pair.ask()
    assert pair.reported("h2") == [RdmaKind.CONNECT_REQUEST]
    pair.do("h2", Destroy(TAKEN))
    pair.world.feed(OnSubnet(Cut("h2/1")))
    pair.world.run_until(pair.world.now + 500 * MS)
    assert pair.reported("h2") == kinds


def test_a_listener_whose_adapter_goes_can_only_be_destroyed() -> None:
    pair = Pair(TWO_ADAPTERS, TO_H2)
    pair.world.feed(OnSubnet(KillAdapter("h2")))
    pair.world.run_until(pair.world.now + 500 * MS)
    assert pair.reported("h2") == [RdmaKind.DEVICE_REMOVAL]
    pair.do("h2", MakeQueuePair(0))
    pair.do("h2", PostWork(0, Receive(1, pair.keys["h2"], 0, 64)))
    assert not pair.reported("h2")
    assert not pair.done("h2")
    assert pair.refused("h2", Listen(1, PORT)) == errno.EADDRINUSE
    pair.ask()
    assert pair.reported("h1")[-1] is RdmaKind.REJECTED
    pair.do("h2", Destroy(0))
    pair.do("h2", Listen(1, PORT, TO_H2))
    pair.do("h1", Destroy(ONE))
    pair.ask()
    assert pair.reported("h2") == [RdmaKind.CONNECT_REQUEST]


def test_a_listener_receives_nothing_through_another_adapter_than_its_own() -> None:
    pair = Pair(TWO_ADAPTERS, TO_H2)
    pair.world.feed(OnSubnet(Cut("h2/1")))
    pair.world.run_until(pair.world.now + 500 * MS)
    pair.ask()
    assert pair.reported("h1")[-1] is RdmaKind.REJECTED
    assert pair.reported("h2") == [RdmaKind.ADDR_CHANGE]


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (Listen(1, 7301, bytes([10, 0, 0, 77])), errno.EADDRNOTAVAIL),
        (Listen(1, 7301, bytes(5)), errno.EINVAL),
        (Listen(1, 0), errno.EINVAL),
        (Listen(1, -1), errno.EINVAL),
        (Listen(1, PORT), errno.EADDRINUSE),
        (Listen(1, PORT, TO_H2), errno.EADDRINUSE),
        (Listen(0, 7301), errno.EEXIST),
        (MakeQueuePair(0), errno.EINVAL),
        (ResolveAddress(-1, TO_H2, PORT), errno.EINVAL),
        (ResolveAddress(ARRIVED_IDS, TO_H2, PORT), errno.EINVAL),
        (ResolveAddress(1, TO_H2, -1), errno.EINVAL),
        (ResolveAddress(1, TO_H2, 1 << 16), errno.EINVAL),
        (ResolveAddress(1, b"h2", PORT), errno.EINVAL),
    ],
)
def test_what_cannot_be_listened_to_or_looked_for(request_: RdmaRequest, code: int) -> None:
    pair = Pair()
    assert pair.refused("h2", request_) == code
    assert [one.number for one in pair.world.network.hosts["h2"].rdma.ids()] == [0], "nothing has changed"


def test_private_data_too_long_are_refused_and_the_answer_can_still_be_given() -> None:
    pair = Pair()
    pair.ask()
    pair.do("h2", MakeQueuePair(TAKEN))
    assert pair.refused("h2", Reject(TAKEN, bytes(149))) == errno.EINVAL
    assert pair.refused("h2", Accept(TAKEN, bytes(197))) == errno.EINVAL
    pair.reported("h1")
    pair.do("h2", Accept(TAKEN, b"w" * 196))
    (event,) = pair.ears["h1"].received
    assert isinstance(event, RdmaCmEvent)
    assert (event.kind, event.private) == (RdmaKind.ESTABLISHED, b"w" * 196)
    pair.reported("h2")
    assert pair.refused("h2", Accept(TAKEN)) == errno.EINVAL


@pytest.mark.parametrize(
    "wanted",
    [
        Connect(ONE, retry_count=-1),
        Connect(ONE, retry_count=256),
        Connect(ONE, rnr_retry_count=-1),
        Connect(ONE, ack_timeout=32),
        Connect(ONE, ack_timeout=-1),
        Connect(ONE, response_timeout=32),
        Connect(ONE, cm_retries=-1),
        Connect(ONE, cm_retries=16),
    ],
)
def test_a_request_that_no_message_can_say(wanted: Connect) -> None:
    pair = Pair()
    for step in WAY[:3]:
        pair.do("h1", step)
    assert pair.refused("h1", wanted) == errno.EINVAL
    pair.do("h1", Connect(ONE, retry_count=255, rnr_retry_count=8))
    (request,) = [one.request for one in pair.world.network.hosts["h2"].rdma.ids() if one.request is not None]
    assert (request.retry_count, request.rnr_retry_count) == (7, 7)


@pytest.mark.parametrize(
    "work",
    [
        Work(1, Operation.RECEIVE),
        Work(1, Operation.READ, inline=b"x"),
        Work(1, Operation.SEND, inline=b"x", offload=bytes(3)),
        Work(1, Operation.WRITE, remote_key=-1),
        Work(1, Operation.WRITE, remote_offset=1 << 64),
        Work(1, Operation.READ, length=-1),
        Receive(1, 0, 0, 1 << 32),
    ],
)
def test_work_that_no_adapter_takes(work: Work | Receive) -> None:
    pair = Pair()
    pair.connect()
    assert pair.refused("h1", PostWork(ONE, work)) == errno.EINVAL


def test_a_peer_that_fails_over_is_received_of_by_its_silence_alone() -> None:
    """Gratuitous ARP moves neighbors; `cma_netevent_callback` looks for RoCE's ids alone."""
    pair = Pair()
    pair.connect()
    pair.world.feed(OnSubnet(Cut("h2/1")))
    pair.world.run_until(pair.world.now + 1000 * MS)
    assert (pair.reported("h1"), pair.reported("h2")) == ([], [RdmaKind.ADDR_CHANGE])
    pair.do("h1", PostWork(ONE, Work(3, Operation.SEND, inline=b"into the void")))
    pair.world.run_until(pair.world.now + 20_000 * MS)
    assert pair.done("h1") == [(3, Operation.SEND, Status.RETRY_EXCEEDED)]


def test_both_ends_disconnect_at_once() -> None:
    pair = Pair()
    pair.connect()
    for host, number in (("h1", ONE), ("h2", TAKEN)):
        pair.world.feed(OnHost(host, RdmaCall(1, Disconnect(number))))
    pair.world.run_until(pair.world.now + 50 * MS)
    assert pair.reported("h1") == pair.reported("h2") == [RdmaKind.DISCONNECTED]


@pytest.mark.parametrize(
    ("steps", "request_", "code"),
    [
        (0, ResolveRoute(ONE), errno.ENOENT),
        (1, MakeQueuePair(7), errno.ENOENT),
        (1, Connect(ONE), errno.EINVAL),
        (1, Accept(ONE), errno.EINVAL),
        (2, Connect(ONE), errno.EINVAL),  # no queue pair
        (3, MakeQueuePair(ONE), errno.EINVAL),  # it has one
        (3, Connect(ONE, bytes(57)), errno.EINVAL),
        (3, Reject(ONE), errno.EINVAL),
        (4, ResolveAddress(ONE, TO_H2, PORT), errno.EINVAL),
        (4, Connect(ONE), errno.EINVAL),
    ],
)
def test_the_order_is_kept(steps: int, request_: RdmaRequest, code: int) -> None:
    pair = Pair()
    for step in WAY[:steps]:
        pair.do("h1", step)
    assert pair.refused("h1", request_) == code


def test_work_before_the_connection() -> None:
    """Room may be posted at once; what is to be sent needs a queue pair beyond INIT, as with `ibv_post_send`."""
    pair = Pair()
    send = Work(1, Operation.SEND, inline=b"early")
    pair.do("h1", ResolveAddress(ONE, TO_H2, PORT))
    assert pair.refused("h1", PostWork(ONE, send)) == errno.EINVAL, "no queue pair"
    for step in (ResolveRoute(ONE), MakeQueuePair(ONE)):
        pair.do("h1", step)
    assert pair.refused("h1", PostWork(ONE, send)) == errno.EINVAL
    pair.do("h1", Connect(ONE))
    assert pair.refused("h1", PostWork(ONE, send)) == errno.EINVAL
    pair.do("h2", MakeQueuePair(TAKEN))
    assert pair.refused("h2", PostWork(TAKEN, send)) == errno.EINVAL
    pair.do("h2", PostWork(TAKEN, Receive(9, pair.keys["h2"], 0, 64)))
    pair.do("h2", Accept(TAKEN))
    pair.do("h1", PostWork(ONE, send))
    assert pair.done("h1") == [(1, Operation.SEND, Status.SUCCESS)]
    assert pair.done("h2") == [(9, Operation.RECEIVE, Status.SUCCESS)]


def test_work_after_the_connection_is_flushed() -> None:
    pair = Pair()
    pair.connect()
    pair.do("h1", Disconnect(ONE))
    pair.reported("h1")
    pair.do("h1", PostWork(ONE, Work(5, Operation.SEND, inline=b"late")))
    assert pair.done("h1") == [(5, Operation.SEND, Status.FLUSHED)]
    pair.do("h1", Destroy(ONE))
    assert pair.refused("h1", PostWork(ONE, Work(6, Operation.SEND, inline=b"x"))) == errno.ENOENT


def test_nothing_is_said_any_more_through_an_adapter_that_has_gone() -> None:
    """A DREQ in flight is not repeated when the adapter is back: its state went with it."""
    pair = Pair()
    pair.connect()
    manager = pair.world.network.hosts["h1"].connections
    pair.world.network.handle(pair.world.now, OnSubnet(KillAdapter("h2")))  # no one answers
    pair.do("h1", Disconnect(ONE))
    assert manager.deadline() is not None
    pair.world.feed(OnSubnet(KillAdapter("h1")))
    assert manager.deadline() is None
    pair.world.feed(OnSubnet(ReviveAdapter("h1")))
    pair.world.run_until(pair.world.now + 500 * MS)
    pair.do("h1", Destroy(ONE))
    assert list(pair.world.network.hosts["h1"].rdma.ids()) == []
