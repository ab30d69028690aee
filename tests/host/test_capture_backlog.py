"""What flows carried past a tap: kept in order, made into frames when there is time, counted when there is no room."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from ibbond.host.capture_backlog import ROOM, Backlog
from ibbond.host.loop import LiveLoop
from ibbond.machine import SECOND
from ibbond.stack.events import FrameCaptured
from ibbond.stack.flows import CapturePoint
from ibbond.verbs.verbs import Datagram
from ibbond.wire.ib import UdPacket
from ibbond.wire.icmp import Echo

TAP = CapturePoint((("h1/1", True), ("s1/1", False)), Datagram(1, 2, 0xFFFF, 0x48, 0x49, 7, b""))
PACKET = Echo(bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2)), identifier=1, sequence=1, data=bytes(1000)).pack()
RAW = memoryview(bytes(10) + PACKET)


class Clock:
    """A loop's time and agenda."""

    def __init__(self) -> None:
        self.time = 0
        self.agenda: list[tuple[int, Callable[[], object]]] = []

    def now(self) -> int:
        return self.time

    def call_at(self, at: int, call: Callable[[], object]) -> None:
        self.agenda.append((at, call))

    def run(self) -> None:
        """Until nothing is wanted any more."""
        while self.agenda:
            self.time, call = self.agenda.pop(0)
            call()


class Recorded:
    def __init__(self) -> None:
        self.clock = Clock()
        self.frames: list[tuple[int, FrameCaptured]] = []
        self.missed: dict[str, int] = {}
        self.backlog = Backlog(
            cast("LiveLoop", self.clock), lambda at, frame: self.frames.append((at, frame)), self.miss
        )

    def miss(self, port: str, count: int) -> None:
        self.missed[port] = self.missed.get(port, 0) + count


def test_a_packet_is_a_frame_at_every_capture_point() -> None:
    received = Recorded()
    received.backlog.take(TAP, RAW)
    assert received.frames == []
    received.clock.run()
    assert [(frame.port, frame.sent) for _, frame in received.frames] == [("h1/1", True), ("s1/1", False)]
    packet = UdPacket.parse(received.frames[0][1].frame)
    assert (packet.source_lid, packet.destination_lid, packet.source_qpn, packet.destination_qpn) == (1, 2, 0x48, 0x49)
    assert packet.payload == b"\x08\0\0\0" + PACKET
    assert received.missed == {}


def test_times_only_grow() -> None:
    received = Recorded()
    slow = FrameCaptured("h1/1", b"x", True)
    received.backlog.on_frame(0, slow)
    assert received.frames == [(0, slow)], "nothing waits before it"
    received.clock.time = 5
    received.backlog.take(TAP, RAW)
    received.backlog.on_frame(6, slow)
    received.clock.run()
    assert [at for at, _ in received.frames] == [0, 5, 5, 6]


def test_what_does_not_fit_is_counted_at_every_capture_point() -> None:
    received = Recorded()
    count = ROOM // len(RAW) + 100
    for _ in range(count):
        received.backlog.take(TAP, RAW)
    while received.backlog.work(SECOND):
        pass
    kept = ROOM // len(RAW)
    assert len(received.frames) == 2 * kept
    assert received.missed == {"h1/1": 100, "s1/1": 100}
    received.backlog.take(TAP, RAW)
    assert not received.backlog.work(SECOND)
    assert len(received.frames) == 2 * kept + 2, "there is room again"


def test_what_waited_at_one_moment_is_worked_off_while_more_comes() -> None:
    """As when one of two captures ends, and the other goes on under traffic that is faster than its records."""
    received = Recorded()
    for _ in range(10):
        received.backlog.take(TAP, RAW)
    end, turns = received.backlog.end, 0
    while received.backlog.work(0, end):
        turns += 1
        assert turns < 10
        received.backlog.take(TAP, RAW)
        received.backlog.take(TAP, RAW)
    assert len(received.frames) == 10 * len(TAP.ports)
    assert received.backlog.work(0), "the others wait still"
