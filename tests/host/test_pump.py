"""The fast path, over socket pairs in place of TUN devices: one datagram is one packet with its offload header."""

import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from ibbond.host.pump import BATCH, FLOWS, Pump
from ibbond.host.tun import NO_OFFLOAD
from ibbond.verbs.generation import Generation


@dataclass
class Flow:
    """A decision."""

    target: tuple[str, str]
    packets: int = 0
    bytes: int = 0
    capture_point: None = None


class Bench:
    """A pump that reads one end and may write to another; the flow for each destination is looked up in `world`."""

    def __init__(self) -> None:
        self.generation = Generation()
        self.host, source = _pair()
        self.peer, self.sink = _pair()
        self.source = source
        self.world: dict[bytes, Flow] = {}
        self.slow: list[tuple[bytes, bytes]] = []
        self.asked = 0
        self.fds: dict[tuple[str, str], int] = {("h2", "bond0"): self.sink.fileno()}
        self.pump = Pump(
            source.fileno(),
            self.generation,
            find=self.find,
            descriptor=self.fds.get,
            slow=lambda packet, offload: self.slow.append((packet, offload)),
        )

    def find(self, packet: bytes) -> Flow | None:
        self.asked += 1
        return self.world.get(packet[16:20] if packet[0] >> 4 == 4 else packet[24:40])

    def send(self, packet: bytes, offload: bytes = NO_OFFLOAD) -> None:
        os.write(self.host.fileno(), offload + packet)

    def received(self) -> list[bytes]:
        found = []
        while True:
            try:
                found.append(os.read(self.peer.fileno(), 70_000))
            except BlockingIOError:
                return found

    def close(self) -> None:
        for end in (self.host, self.source, self.peer, self.sink):
            end.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()


TWO = bytes((10, 0, 0, 2))
SIX = bytes.fromhex("fe80") + bytes(13) + b"\2"


def test_a_packet_with_a_flow_goes_through_unchanged(bench: Bench) -> None:
    bench.world[TWO] = flow = Flow(("h2", "bond0"))
    packet = ipv4(TWO, b"hello")
    bench.send(packet)
    bench.pump.drain()
    assert bench.received() == [NO_OFFLOAD + packet]
    assert (flow.packets, flow.bytes, bench.slow) == (1, len(packet), [])


def test_ipv6_is_distinguished(bench: Bench) -> None:
    bench.world[SIX] = Flow(("h2", "bond0"))
    packet = ipv6(SIX, b"hello")
    bench.send(packet)
    bench.pump.drain()
    assert bench.received() == [NO_OFFLOAD + packet]


def test_without_a_flow_the_slow_path_has_it(bench: Bench) -> None:
    packet = ipv4(TWO, b"hello")
    bench.send(packet)
    bench.pump.drain()
    assert bench.slow == [(packet, NO_OFFLOAD)]
    assert bench.received() == []


def test_a_decision_is_asked_for_once(bench: Bench) -> None:
    bench.world[TWO] = flow = Flow(("h2", "bond0"))
    for _ in range(5):
        bench.send(ipv4(TWO))
    bench.pump.drain()
    assert (bench.asked, flow.packets) == (1, 5)


def test_a_new_generation_forgets(bench: Bench) -> None:
    bench.world[TWO] = Flow(("h2", "bond0"))
    bench.send(ipv4(TWO))
    bench.pump.drain()
    bench.generation.bump()
    bench.world.clear()
    bench.send(ipv4(TWO))
    bench.pump.drain()
    assert (bench.asked, len(bench.received()), len(bench.slow)) == (2, 1, 1)


def test_a_change_while_asking_is_noticed(bench: Bench) -> None:
    """Looking a flow up may itself change the world; then it may not be remembered, nor used."""
    flow = Flow(("h2", "bond0"))

    def find(_: bytes) -> Flow:
        bench.generation.bump()
        return flow

    pump = Pump(bench.source.fileno(), bench.generation, find=find, descriptor=bench.fds.get, slow=bench.pump._slow)
    bench.send(ipv4(TWO))
    pump.drain()
    assert (flow.packets, len(pump.flows), len(bench.slow)) == (0, 0, 1)


def test_a_gso_packet_counts_as_its_packets(bench: Bench) -> None:
    bench.world[TWO] = flow = Flow(("h2", "bond0"))
    train = ipv4(TWO, bytes(12) + b"\x50" + bytes(7) + bytes(3000), protocol=6)
    bench.send(train, struct.pack("=BBHHHH", 1, 1, 40, 1000, 20, 16))
    bench.pump.drain()
    assert (flow.packets, flow.bytes) == (3, len(train))


def test_one_turn_moves_a_batch_at_most(bench: Bench) -> None:
    bench.world[TWO] = flow = Flow(("h2", "bond0"))
    for _ in range(BATCH + 3):
        bench.send(ipv4(TWO))
    bench.pump.drain()
    assert flow.packets == BATCH
    bench.pump.drain()
    assert flow.packets == BATCH + 3


def test_packets_that_come_one_by_one_are_taken_one_by_one(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """No second read that only finds out that there is nothing; but a queue that grows is seen soon."""
    reads = []
    monkeypatch.setattr(os, "readv", lambda fd, parts, _real=os.readv: reads.append(fd) or _real(fd, parts))
    bench.pump.drain = bench.pump._made_drain()
    bench.world[TWO] = flow = Flow(("h2", "bond0"))
    for _ in range(20):
        bench.send(ipv4(TWO))
        bench.pump.drain()
    assert flow.packets == 20
    assert len(reads) < 20 + 8
    for _ in range(BATCH):
        bench.send(ipv4(TWO))
    for _ in range(8):
        bench.pump.drain()
    assert flow.packets == 20 + BATCH


def test_a_device_that_is_gone_sends_to_the_slow_path(bench: Bench) -> None:
    bench.world[TWO] = flow = Flow(("h2", "ib7"))
    bench.send(ipv4(TWO))
    bench.pump.drain()
    assert (flow.packets, len(bench.slow)) == (0, 1)


def test_a_write_that_fails_is_counted_not_raised(bench: Bench) -> None:
    bench.world[TWO] = flow = Flow(("h2", "bond0"))
    readable, writable = os.pipe()
    os.close(writable)
    bench.fds["h2", "bond0"] = readable  # writing to it is EBADF
    bench.send(ipv4(TWO))
    bench.pump.drain()
    os.close(readable)
    assert (flow.packets, bench.pump.drops.gone) == (0, 1)


@pytest.mark.parametrize("size", [0, 1, 19])
def test_half_a_header_never_uses_the_packet_before_it(bench: Bench, size: int) -> None:
    bench.world[TWO] = flow = Flow(("h2", "bond0"))
    bench.send(ipv4(TWO))
    bench.send(ipv4(TWO)[:size])
    bench.pump.drain()
    assert (flow.packets, len(bench.slow)) == (1, 1)


def test_half_an_ipv6_header_is_slow(bench: Bench) -> None:
    bench.world[SIX] = flow = Flow(("h2", "bond0"))
    bench.send(ipv6(SIX))
    bench.send(ipv6(SIX)[:39])
    bench.pump.drain()
    assert (flow.packets, len(bench.slow)) == (1, 1)


def test_memory_of_destinations_is_bounded(bench: Bench) -> None:
    for number in range(FLOWS + 10):
        destination = number.to_bytes(4)
        bench.world[destination] = Flow(("h2", "bond0"))
        bench.pump._learn(number, ipv4(destination))
    assert len(bench.pump.flows) <= FLOWS


def ipv4(destination: bytes, payload: bytes = b"", protocol: int = 17) -> bytes:
    size = 20 + len(payload)
    return (
        struct.pack("!BBHHHBBH4s4s", 0x45, 0, size, 0, 0, 64, protocol, 0, bytes((10, 0, 0, 1)), destination) + payload
    )


def ipv6(destination: bytes, payload: bytes = b"") -> bytes:
    return struct.pack("!IHBB16s16s", 6 << 28, len(payload), 17, 64, bytes(16), destination) + payload


def _pair() -> tuple[socket.socket, socket.socket]:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (one, other):
        end.setblocking(False)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    return one, other
