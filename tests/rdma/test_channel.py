"""Commands of /dev/infiniband/rdma_cm on two hosts of the virtual world, without processes."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ibbond.errors import Malformed, Refused
from ibbond.fabric.events import Cut, KillAdapter, Mend
from ibbond.machine import MS, SECOND
from ibbond.rdma_cm.channel import DEVICE_USER, Channel, Channels
from ibbond.rdma_cm.events import RdmaCall, RdmaCmEvent, RdmaEvent, RdmaRequest
from ibbond.sim.story import Story
from ibbond.sim.world import World
from ibbond.stack.events import NetworkEffect, NetworkEvent, OnHost, OnSubnet
from ibbond.topology.default import TWO_HOSTS
from ibbond.topology.load import parse
from ibbond.wire import rdma_cm
from ibbond.wire.rdma_cm import ConnectionParameters, EventType, PortSpace, SocketAddress
from ibbond.wire.uverbs import QpMask, QpState

T = EventType
PORT = 7174
H1, H2 = bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2])
ROOM = 336
VALID = ConnectionParameters(valid=1, retry_count=7, rnr_retry_count=7, responder_resources=4, initiator_depth=2)


class Bell:
    """An outlet that counts."""

    rung = 0

    def ready(self) -> None:
        self.rung += 1


class Process:
    """A caller: memory that holds one value, and channels by descriptor."""

    def __init__(self) -> None:
        self.value = b""
        self.channels: dict[int, Channel] = {}

    def read(self, address: int, length: int) -> bytes:
        return self.value[:length]

    def channel(self, descriptor: int) -> Channel | None:
        return self.channels.get(descriptor)


class HostChannels:
    """`SimulatedProgram` for a host's channels: what RDMA CM tells is handed over at once."""

    def __init__(self, world: World, host: str) -> None:
        self.host, self._world = host, world
        self.channels = Channels(world.network.hosts[host].rdma, self._ask)

    def _ask(self, request: RdmaRequest) -> None:
        refusals = len(self._world.moments)
        self._world.feed(OnHost(self.host, RdmaCall(DEVICE_USER, request)))
        for moment in self._world.moments[refusals:]:
            if moment.what == "refused":
                raise self._refusal(request)

    def _refusal(self, request: RdmaRequest) -> Refused:
        """The refusal itself: what was refused has changed nothing, and is refused again."""
        with pytest.raises(Refused) as refusal:
            self._world.network.handle(self._world.now, OnHost(self.host, RdmaCall(DEVICE_USER, request)))
        return refusal.value

    def on_effect(self, _now: int, effect: NetworkEffect) -> None:
        if isinstance(effect, RdmaEvent) and (effect.host, effect.user) == (self.host, DEVICE_USER):
            assert isinstance(effect.event, RdmaCmEvent)
            self.channels.on_event(effect.event)

    def deadline(self) -> int | None:
        return None

    def tick(self, _now: int) -> list[NetworkEvent]:
        return []


class Program:
    """One open channel of a host, spoken to in bytes."""

    def __init__(self, channels: Channels) -> None:
        self.bell, self.process = Bell(), Process()
        self.channel = channels.open(self.bell)

    def command(self, number: int, layout: str, *fields: Any) -> bytes:
        body = struct.pack(f"={layout}", *fields)
        envelope, request = rdma_cm.parse(struct.pack("=IHH", number, len(body), ROOM) + body)
        return self.channel.execute(self.process, envelope, request)

    def word(self, number: int, layout: str, *fields: Any) -> int:
        return int.from_bytes(self.command(number, layout, *fields)[:4], "little")

    def id(self, uid: int, port_space: int = PortSpace.TCP) -> int:
        return self.word(0, "QQHB5x", uid, 1, port_space, 0)

    def destroy(self, number: int) -> int:
        return self.word(1, "QII", 1, number, 0)

    def bind(self, number: int, address: bytes, port: int) -> None:
        raw = rdma_cm.pack_socket_address(rdma_cm.address_of_ip(address, port))
        self.command(20, "IHH128s", number, len(raw), 0, raw)

    def listen(self, number: int, backlog: int = 0) -> None:
        self.command(7, "II", number, backlog)

    def resolve(self, number: int, address: bytes, port: int = PORT) -> None:
        raw = rdma_cm.pack_socket_address(rdma_cm.address_of_ip(address, port))
        self.command(21, "IIHHI128s128s", number, 2000, 0, len(raw), 0, b"", raw)

    def route(self, number: int) -> None:
        self.command(4, "II", number, 2000)

    def connect(self, number: int, parameters: ConnectionParameters) -> None:
        self.command(6, "272sIIQ", rdma_cm.pack_connection(parameters), number, 0, 0)

    def accept(self, number: int, uid: int, parameters: ConnectionParameters) -> None:
        self.command(8, "Q272sIIQ", uid, rdma_cm.pack_connection(parameters), number, 0, 0)

    def query(self, number: int, option: int) -> bytes:
        return self.command(19, "QII", 1, number, option)

    def attributes(self, number: int, state: QpState) -> tuple[QpMask, bytes]:
        raw = self.command(11, "QII", 1, number, state)
        assert len(raw) == 144
        return QpMask(int.from_bytes(raw[:4], "little")), raw

    def events(self) -> list[tuple[int, int, EventType, int]]:
        """What it reads: uid, id, event, status."""
        found = []
        while (raw := self.channel.next_event()) is not None:
            assert len(raw) == ROOM
            uid, number, kind, status = struct.unpack_from("=QIIi", raw)
            found.append((uid, number, EventType(kind), status))
        return found

    def kinds(self) -> list[EventType]:
        return [kind for _, _, kind, _ in self.events()]


class Pair:
    """A program of h1 that asks and one of h2 that listens."""

    def __init__(self, *, listens: bool = True) -> None:
        self.world = World(
            Story("channels", parse(TWO_HOSTS, name="channels"), pairs=(("h1", "h2"),)), 0, checked=False
        )
        self.world.begin()
        self.run(1000)
        self.hosts = {host: HostChannels(self.world, host) for host in ("h1", "h2")}
        self.world.programs.extend(self.hosts.values())
        self.asking, self.listening = (Program(self.hosts[host].channels) for host in ("h1", "h2"))
        self.listener = self.listening.id(100)
        if listens:
            self.listening.bind(self.listener, bytes(4), PORT)
            self.listening.listen(self.listener)

    def run(self, ms: int = 5) -> None:
        self.world.run_until(self.world.now + ms * MS)

    def request(self, uid: int = 1) -> tuple[int, int]:
        """As far as CONNECT_REQUEST: the ids of both ends."""
        number = self.asking.id(uid)
        steps: tuple[Callable[[], object], ...] = (
            lambda: self.asking.resolve(number, H2),
            lambda: self.asking.route(number),
            lambda: self.asking.connect(number, VALID._replace(qpn=0x700 + uid, private=b"hello")),
        )
        for step in steps:
            step()
            self.run()
        assert self.asking.kinds() == [T.ADDR_RESOLVED, T.ROUTE_RESOLVED]
        ((listener, arrived, kind, status),) = self.listening.events()
        assert (listener, kind, status) == (100, T.CONNECT_REQUEST, 0)
        return number, arrived

    def connect(self) -> tuple[int, int]:
        number, arrived = self.request()
        self.listening.accept(arrived, 200, VALID._replace(qpn=0x702))
        self.run()
        assert self.asking.kinds() == [T.CONNECT_RESPONSE]
        self.asking.accept(number, 0, ConnectionParameters())
        self.run()
        assert self.listening.events() == [(200, arrived, T.ESTABLISHED, 0)]
        return number, arrived


def refused(number: int, call: Callable[[], object]) -> None:
    with pytest.raises(OSError) as refusal:  # noqa: PT011  which one is looked at
        call()
    assert refusal.value.errno == number


def test_connection_of_two_programs_and_its_end() -> None:
    pair = Pair()
    number, arrived = pair.connect()
    pair.asking.command(10, "I", number)
    pair.run(1200)
    assert pair.asking.kinds() == [T.DISCONNECTED, T.TIMEWAIT_EXIT]
    assert pair.listening.kinds() == [T.DISCONNECTED, T.TIMEWAIT_EXIT]
    assert pair.asking.destroy(number) == 5, "the events that it has read"
    assert pair.listening.destroy(arrived) == 3
    assert pair.listening.destroy(pair.listener) == 1, "the request counts at its listener"
    assert not pair.hosts["h1"].channels.ids
    assert not list(pair.world.network.hosts["h2"].rdma.ids())


def test_queue_pairs_are_moved_by_what_the_peer_has_said() -> None:
    pair = Pair()
    number, arrived = pair.request()
    asked = {state: pair.listening.attributes(arrived, state) for state in (QpState.INIT, QpState.RTR, QpState.RTS)}
    assert asked[QpState.INIT][0] == QpMask.STATE | QpMask.PKEY_INDEX | QpMask.PORT | QpMask.ACCESS_FLAGS
    assert QpMask.AV | QpMask.DEST_QPN in asked[QpState.RTR][0]
    pair.listening.accept(arrived, 200, VALID._replace(qpn=0x702, responder_resources=2, initiator_depth=4))
    pair.run()
    answered = {state: pair.asking.attributes(number, state) for state in (QpState.RTR, QpState.RTS)}
    # rq_psn and dest_qpn of one end are what the other end sends by
    for here, there, qpn in ((asked, answered, 0x701), (answered, asked, 0x702)):
        rq_psn, _, dest = struct.unpack_from("=III", here[QpState.RTR][1], 24)
        (sq_psn,) = struct.unpack_from("=I", there[QpState.RTS][1], 28)
        assert (rq_psn, dest) == (sq_psn, qpn)
    assert (asked[QpState.RTS][1][130], asked[QpState.RTR][1][131]) == (4, 2), "READs: the peer's words, swapped"
    assert (answered[QpState.RTS][1][130], answered[QpState.RTR][1][131]) == (2, 4)


def test_queries_before_and_after_resolving() -> None:
    pair = Pair()
    number = pair.asking.id(1)
    assert pair.asking.query(number, 0)[:8] == bytes(8)
    pair.asking.resolve(number, H2)
    pair.run()
    address = pair.asking.query(number, 0)
    port = pair.world.network.subnet.port("h1/1")
    assert address[:8] == port.node.guid.to_bytes(8)
    assert struct.unpack_from("=HHH", address, 12)[:2] == (16, 16)
    assert address[16 + 4 : 16 + 8] == H1
    assert address[144 + 4 : 144 + 8] == H2
    gids = pair.asking.query(number, 2)
    assert gids[16 + 8 : 16 + 24] == port.gid
    assert pair.asking.query(number, 1)[:4] == bytes(4), "no path yet"
    pair.asking.route(number)
    pair.run()
    assert len(pair.asking.query(number, 1)) == 80
    assert len(pair.asking.command(5, "QII", 1, number, 0)) == 208


def test_a_failover_changes_the_address_of_connected_ids() -> None:
    pair = Pair()
    number, arrived = pair.connect()
    pair.world.feed(OnSubnet(Cut("h1/1")))
    pair.run(500)
    assert pair.asking.kinds() == [T.ADDR_CHANGE]
    assert pair.listening.kinds() == []
    again, _ = pair.request(uid=2)
    assert pair.asking.query(again, 2) != pair.asking.query(number, 2), "the new connection goes by the other port"
    pair.world.feed(OnSubnet(Mend("h1/1")))
    assert arrived


def test_the_adapter_is_pulled_out() -> None:
    pair = Pair()
    number, _ = pair.connect()
    pair.world.feed(OnSubnet(KillAdapter("h1")))
    pair.run(500)
    assert T.DEVICE_REMOVAL in pair.asking.kinds()
    refused(errno.EINVAL, lambda: pair.asking.connect(number, VALID))
    pair.asking.destroy(number)


def test_a_peer_that_does_not_answer_is_unreachable() -> None:
    pair = Pair()
    number = pair.asking.id(1)
    pair.asking.resolve(number, H2)
    pair.run()
    pair.asking.route(number)
    pair.run()
    for cable in ("h2/1", "h2/2"):
        pair.world.feed(OnSubnet(Cut(cable)))
    pair.asking.connect(number, VALID)
    pair.world.run_until(pair.world.now + 120 * SECOND)
    assert (1, number, T.UNREACHABLE, -errno.ETIMEDOUT) in pair.asking.events()


def test_requests_that_were_never_read_are_rejected_with_their_listener() -> None:
    pair = Pair(listens=False)
    pair.listening.bind(pair.listener, bytes(4), PORT)
    pair.listening.listen(pair.listener, backlog=2)
    numbers = [pair.asking.id(uid) for uid in range(3)]
    for step in (
        lambda number: pair.asking.resolve(number, H2),
        pair.asking.route,
        lambda number: pair.asking.connect(number, VALID),
    ):
        for number in numbers:
            step(number)
        pair.run()
    assert [event for event in pair.asking.events() if event[2] is T.REJECTED] == [(2, numbers[2], T.REJECTED, 28)]
    pair.listening.destroy(pair.listener)
    pair.run()
    assert sorted(pair.asking.events()) == [(uid, numbers[uid], T.REJECTED, 28) for uid in (0, 1)]
    assert not pair.hosts["h2"].channels.ids


def test_ports_and_families() -> None:
    pair = Pair()
    program = pair.listening
    other = program.id(101)
    refused(errno.EADDRINUSE, lambda: program.bind(other, bytes(4), PORT))
    program.bind(other, bytes(16), PORT + 1)  # any address of both families
    third = program.id(102)
    refused(errno.EADDRINUSE, lambda: program.bind(third, bytes(4), PORT + 1))
    program.process.value = (1).to_bytes(4, "little")
    program.command(14, "QIIII", 1, third, 0, 2, 4)  # AFONLY
    program.bind(third, bytes(16), PORT)  # beside the listener of IPv4
    refused(errno.EADDRNOTAVAIL, lambda: program.bind(program.id(103), bytes([10, 9, 9, 9]), 1))
    free = program.id(104)
    program.bind(free, H2, 0)
    assert int.from_bytes(program.query(free, 0)[18:20]) >= 32768, "a free port"


def test_loopback_is_the_host_itself() -> None:
    pair = Pair()
    loopback = bytes([127, 0, 0, 1])
    program = pair.listening
    listener = program.id(300)
    program.bind(listener, loopback, 9)
    program.listen(listener)
    number = program.id(301)
    program.resolve(number, loopback, 9)
    pair.run()
    program.route(number)
    pair.run()
    assert program.kinds() == [T.ADDR_RESOLVED, T.ROUTE_RESOLVED]
    assert program.query(number, 0)[144 + 4 : 144 + 8] == H2


def test_an_id_migrates_with_its_events() -> None:
    pair = Pair()
    number = pair.asking.id(1)
    pair.asking.resolve(number, H2)
    pair.run()
    other = Program(pair.hosts["h1"].channels)
    refused(errno.ENOENT, lambda: other.route(number))
    other.process.channels[600] = pair.asking.channel
    assert other.word(18, "QII", 1, number, 600) == 0
    assert other.events() == [(1, number, T.ADDR_RESOLVED, 0)]
    assert pair.asking.events() == []
    refused(errno.ENOENT, lambda: pair.asking.route(number))
    other.route(number)


def test_the_end_of_a_program_ends_its_connections() -> None:
    pair = Pair()
    _, arrived = pair.connect()
    pair.asking.channel.close()
    pair.run()
    assert pair.listening.events() == [(200, arrived, T.DISCONNECTED, 0)]
    assert not list(pair.world.network.hosts["h1"].rdma.ids())


def test_what_is_refused() -> None:
    pair = Pair()
    program = pair.asking
    one = program.id(1)
    refused(errno.EINVAL, lambda: program.id(1, 0x999))
    refused(errno.EOPNOTSUPP, lambda: program.id(1, PortSpace.UDP))
    refused(errno.ENOENT, lambda: program.route(one + 1))
    refused(errno.EINVAL, lambda: program.route(one))
    refused(errno.EINVAL, lambda: program.connect(one, VALID))
    refused(errno.EINVAL, lambda: program.connect(one, ConnectionParameters()))
    refused(errno.EINVAL, lambda: program.attributes(one, QpState.RTR))
    refused(errno.ENOSYS, lambda: program.command(14, "QIIII", 1, one, 1, 1, 4))
    refused(errno.ENOSYS, lambda: program.command(16, "QQ28sI", 1, 1, b"", one))
    refused(errno.EINVAL, lambda: program.command(10, "I", one))
    program.bind(program.id(2, PortSpace.IB), bytes(4), 0)
    with pytest.raises(Malformed):
        program.command(20, "IHH128s", one, 16, 0, struct.pack("=H", socket.AF_UNIX))


def test_a_request_that_is_rejected() -> None:
    pair = Pair()
    number, arrived = pair.request()
    pair.listening.command(9, "IBB2x256s", arrived, 2, 28, b"no")
    pair.run()
    raw = pair.asking.channel.next_event()
    assert raw is not None
    assert struct.unpack_from("=QIIi", raw) == (1, number, T.REJECTED, 28)
    assert raw[28:31] == b"no\0"


def test_socket_addresses_are_read_as_they_were_written() -> None:
    for one in (
        SocketAddress(socket.AF_INET, H1, 7),
        SocketAddress(socket.AF_INET6, bytes(range(16)), 65535),
        SocketAddress(rdma_cm.AF_IB, bytes(range(16)), 9),
    ):
        raw = rdma_cm.pack_socket_address(one)
        _, request = rdma_cm.parse(struct.pack("=IHHIHH", 20, 136, 0, 5, len(raw), 0) + raw.ljust(128, b"\0"))
        assert request == rdma_cm.Bind(5, one)


COMMANDS = st.tuples(
    st.integers(0, 24),
    st.one_of(st.binary(max_size=400), st.binary(min_size=300, max_size=300)),
    st.lists(st.tuples(st.integers(0, 73), st.integers(0, 6)), max_size=4),  # words that may be ids
)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.booleans(), COMMANDS), min_size=5, max_size=60))
def test_random_commands_are_answered_or_refused(commands: list[tuple[bool, Any]]) -> None:
    pair = Pair()
    pair.connect()
    programs = pair.asking, pair.listening
    for program in programs:
        program.process.channels = dict.fromkeys(range(7), pair.asking.channel)
    for first, (number, body, words) in commands:
        raw = bytearray(struct.pack("=IHH", number, len(body), ROOM) + body)
        for place, word in words:
            if place * 4 + 12 <= len(raw):
                struct.pack_into("=I", raw, 8 + place * 4, word)
        program = programs[first]
        with contextlib.suppress(Malformed, OSError):
            envelope, request = rdma_cm.parse(bytes(raw))
            if isinstance(request, rdma_cm.GetEvent):
                program.channel.next_event()
            else:
                program.channel.execute(program.process, envelope, request)
        pair.run(1)
    for program in programs:
        program.channel.close()
    pair.run(100)
    for host in pair.hosts.values():
        assert not host.channels.ids
        assert not list(host.channels.users.ids())
