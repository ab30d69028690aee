"""What each microsecond of a packet is spent on: every step of the fast path in a loop, on TUNs in own namespaces.

    .venv/bin/python -m benchmarks.per_packet [--rounds 20] [--keep]        as root

Read first: ibbond.host.pump, docs/benchmarks.md. Two hosts with a TUN each; a program's packets wait in the first
one's queue while each step is timed alone: the system calls as the pump makes them, the interpreter's part as the same
statements without system calls, and the real `Pump.drain` as a whole. Times are on a CPU, medians of rounds. Left out:
how long an idle core takes to wake up, which is most of a round trip on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import socket
import statistics
import sys
import time
from collections.abc import Callable
from html import escape
from ipaddress import ip_address
from pathlib import Path

from benchmarks import record
from ibbond.host import namespace, tun
from ibbond.host.namespace import NetNamespace
from ibbond.host.priority import avoid_pauses, raise_priority
from ibbond.host.pump import IP_AT, IPV4_BYTES, IPV4_DESTINATION, IPV6_BYTES, OFFLOAD_AT, Pump
from ibbond.host.rtnetlink import RouteSocket
from ibbond.host.tun import OFFLOAD_BYTES
from ibbond.verbs.generation import Generation

HERE = Path(__file__).resolve().parent
MTU = 65_520
SIZES = (64, 60_000)  # bytes of UDP payload: a small packet, and one as long as a GSO packet
IN_QUEUE = 400  # packets that wait in a TUN
LOOPS = 20_000  # of steps without system calls
STEPS = {
    "poll": "epoll_wait that finds a packet",
    "read": "readv of the packet from the TUN",
    "look up": "destination, flow, generation",
    "write": "write to the receiver's TUN, with its stack to the socket",
    "count": "count it in the flow",
    "empty": "readv that finds nothing more",
}
BATCHED = ("read", "look up", "write", "count")  # of each packet, where many wait; the others are of each wake-up
COLORS = ("#7aa5d6", "#2563a8", "#e0a030", "#9aa3ad", "#6b9a5b", "#c9cfd6")


class Host:
    """A namespace with one TUN that is up and has an address."""

    def __init__(self, mark: str, name: str, address: str) -> None:
        self.space: NetNamespace = namespace.make(mark, name)
        self.routes = self.space.run_in(RouteSocket)
        self.tun = tun.open_tun(self.space, self.routes, "ib0", mtu=MTU)
        self.tun.set_up(True)
        self.routes.add_address(self.tun.index, ip_address(address).packed, 24)

    def socket(self) -> socket.socket:
        made = self.space.run_in(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        for option in (33, 32):  # SO_RCVBUFFORCE, SO_SNDBUFFORCE
            made.setsockopt(socket.SOL_SOCKET, option, 64 << 20)
        return made

    def close(self) -> None:
        self.tun.close()
        self.routes.close()
        self.space.remove()


class Bench:
    """Times the steps for packets of one size."""

    def __init__(self, a: Host, b: Host, size: int, port: int) -> None:
        self.a, self.b, self.payload = a, b, bytes(size)
        self.packets = min(IN_QUEUE, (16 << 20) // size)
        self.sender, self.sink = a.socket(), b.socket()
        self.sender.connect(("10.9.0.2", port))
        self.sink.bind(("10.9.0.2", port))
        self.sink.setblocking(False)
        self.buffer = bytearray(IP_AT + (1 << 16) + 64)
        self.view = memoryview(self.buffer)[OFFLOAD_AT:]
        self.learnt_at = 0

    def close(self) -> None:
        self.sender.close()
        self.sink.close()

    def fill(self) -> None:
        for _ in range(self.packets):
            self.sender.send(self.payload)

    def empty(self) -> int:
        """What has arrived, taken out of the receiver's socket."""
        count = 0
        while True:
            try:
                self.sink.recv(1 << 16)
            except BlockingIOError:
                return count
            count += 1

    def round(self) -> dict[str, float]:
        """Each step once; microseconds a packet (or wake-up)."""
        found = {"poll": self.poll(), "read": self.read(), "write": self.write(), "empty": self.nothing()}
        found["look up"], found["count"] = self.interpreter()
        found["drain"] = self.drain()
        return found

    def poll(self) -> float:
        self.fill()
        with select.epoll() as epoll:
            epoll.register(self.a.tun.fd, select.EPOLLIN)
            ready = timed(lambda: [epoll.poll(0) for _ in range(200)], 200)
        self.discard()
        return ready

    def read(self) -> float:
        self.fill()
        fd, vectors, readv = self.a.tun.fd, [self.view], os.readv

        def go() -> None:
            for _ in range(self.packets):
                readv(fd, vectors)

        return timed(go, self.packets)

    def write(self) -> float:
        """The packet that was read last, as often as it can wait in the receiver's socket."""
        self.sender.send(self.payload)
        size, fd, view, write = os.readv(self.a.tun.fd, [self.view]), self.b.tun.fd, self.view, os.write

        def go() -> None:
            for _ in range(self.packets):
                write(fd, view[:size])

        took = timed(go, self.packets)
        assert self.empty() == self.packets, "the receiving stack did not take every packet"
        return took

    def nothing(self) -> float:
        fd, vectors, readv = self.a.tun.fd, [self.view], os.readv

        def go() -> None:
            for _ in range(200):
                try:
                    readv(fd, vectors)
                except OSError:
                    continue

        return timed(go, 200)

    def interpreter(self) -> tuple[float, float]:
        """The statements of the pump between the system calls, of which the first half finds and the second counts."""
        self.sender.send(self.payload)
        size = os.readv(self.a.tun.fd, [self.view])
        buffer, generation = self.buffer, Generation()
        self.learnt_at = generation.value
        flow = FakeFlow()
        (key,) = IPV4_DESTINATION.unpack_from(buffer)
        known_flows: dict[int | bytes, tuple[FakeFlow, int]] = {key: (flow, 1)}
        remembered, unpack = known_flows.get, IPV4_DESTINATION.unpack_from

        def look_up() -> None:
            for _ in range(LOOPS):
                is_ipv4 = buffer[IP_AT] < 0x60
                if size < IPV6_BYTES and (size < IPV4_BYTES or not is_ipv4):
                    raise AssertionError
                (key,) = unpack(buffer)
                known = remembered(key) if generation.value == self.learnt_at else None
                assert known is not None
                _flow, _out = known

        def count() -> None:
            for _ in range(LOOPS):
                is_gso = buffer[OFFLOAD_AT + 1]
                flow.packets += 2 if is_gso else 1
                flow.bytes += size - OFFLOAD_BYTES

        return timed(look_up, LOOPS), timed(count, LOOPS)

    def drain(self) -> float:
        """The real pump, all packets that wait, the last empty read included."""
        flow = FakeFlow()
        pump = Pump(
            self.a.tun.fd,
            Generation(),
            find=lambda packet: flow,
            descriptor=lambda target: self.b.tun.fd,
            slow=lambda packet, offload: None,
        )
        self.sender.send(self.payload)
        pump.drain()  # the flow is learnt
        self.empty()
        self.fill()

        def go() -> None:
            until = flow.packets + self.packets
            while flow.packets < until:
                pump.drain()

        took = timed(go, self.packets)
        assert self.empty() == self.packets, "the pump lost packets"
        return took

    def discard(self) -> None:
        while True:
            try:
                os.readv(self.a.tun.fd, [self.view])
            except BlockingIOError:
                return


class FakeFlow:
    """What the pump asks of a flow."""

    def __init__(self) -> None:
        self.target = ("b", "ib0")
        self.packets = 0
        self.bytes = 0
        self.capture_point = None


def timed(call: Callable[[], object], times: int) -> float:
    """Microseconds of CPU time for one of `times`."""
    began = time.thread_time_ns()
    call()
    return (time.thread_time_ns() - began) / 1e3 / times


def measure(rounds: int) -> dict[str, dict[str, dict[str, float]]]:
    """Size -> step -> median, minimum, maximum."""
    mark = f"packet{os.getpid()}"
    hosts: list[Host] = []
    found: dict[str, dict[str, list[float]]] = {str(size): {} for size in SIZES}
    try:
        hosts += [Host(mark, "a", "10.9.0.1")]
        hosts += [Host(mark, "b", "10.9.0.2")]
        benches = [Bench(hosts[0], hosts[1], size, 6001 + number) for number, size in enumerate(SIZES)]
        avoid_pauses()
        for number in range(rounds + 1):
            for bench, size in zip(benches, SIZES, strict=True):
                for step, value in bench.round().items():
                    if number:  # the first round warms up
                        found[str(size)].setdefault(step, []).append(value)
        for bench in benches:
            bench.close()
    finally:
        for host in hosts:
            host.close()
    return {
        size: {
            step: {"median": statistics.median(each), "min": min(each), "max": max(each)}
            for step, each in steps.items()
        }
        for size, steps in found.items()
    }


def table(found: dict[str, dict[str, dict[str, float]]]) -> str:
    lines = ["| step | " + " | ".join(f"{int(size):,} bytes, us" for size in found) + " |"]
    lines.append("| --- |" + " ---: |" * len(found))
    for step, label in STEPS.items():
        of = "each packet" if step in BATCHED else "each wake-up"
        lines.append(f"| {label} ({of}) | " + " | ".join(cell(steps[step]) for steps in found.values()) + " |")
    sums = [sum(steps[step]["median"] for step in BATCHED) for steps in found.values()]
    lines.append("| sum of a packet's steps | " + " | ".join(f"{each:.2f}" for each in sums) + " |")
    lines.append(
        "| the pump as it is, a packet of many | " + " | ".join(cell(s["drain"]) for s in found.values()) + " |"
    )
    alone = [each + steps["poll"]["median"] for each, steps in zip(sums, found.values(), strict=True)]
    lines.append("| a packet that comes alone: with its epoll_wait | " + " | ".join(f"{x:.2f}" for x in alone) + " |")
    return "\n".join(lines) + "\n"


def cell(figure: dict[str, float]) -> str:
    return f"{figure['median']:.2f} [{figure['min']:.2f}..{figure['max']:.2f}]"


def picture(found: dict[str, dict[str, dict[str, float]]]) -> str:
    """An SVG: one bar for each size, its parts the steps of a packet that comes alone."""
    steps = ("poll", *BATCHED)
    wide, left = 560, 110
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 860 190" font-family="sans-serif" font-size="11">',
        '<rect width="860" height="190" fill="#fff"/>',
        '<text x="16" y="24" font-size="15" fill="#222">One packet alone, microseconds on a CPU</text>',
    ]
    for row, (size, figures) in enumerate(found.items()):
        total, at, y = sum(figures[step]["median"] for step in steps), float(left), 44 + 34 * row
        parts.append(f'<text x="{left - 8}" y="{y + 15}" text-anchor="end" fill="#222">{int(size):,} bytes</text>')
        for step, color in zip(steps, COLORS, strict=False):
            width = figures[step]["median"] / total * wide
            parts.append(f'<rect x="{at:.1f}" y="{y}" width="{width:.1f}" height="22" fill="{color}"/>')
            at += width
        parts.append(f'<text x="{at + 8:.1f}" y="{y + 15}" fill="#222">{total:.1f} us</text>')
    for number, (step, color) in enumerate(zip(steps, COLORS, strict=False)):
        x, y = 16 + 280 * (number % 3), 134 + 24 * (number // 3)
        parts.append(f'<rect x="{x}" y="{y}" width="12" height="12" fill="{color}"/>')
        parts.append(f'<text x="{x + 18}" y="{y + 10}" fill="#222">{escape(STEPS[step])}</text>')
    return "\n".join([*parts, "</svg>", ""])


def main() -> int:
    words = argparse.ArgumentParser(prog="python -m benchmarks.per_packet", description=__doc__.splitlines()[0])
    words.add_argument("--rounds", type=int, default=20)
    words.add_argument("--keep", action="store_true", help="renew the profile in docs/benchmarks.md and its picture")
    config = words.parse_args()
    if os.geteuid():
        print("it needs root: it makes namespaces and TUN devices", file=sys.stderr)
        return 2
    raise_priority()
    found = measure(config.rounds)
    print(table(found))
    if config.keep:
        date, load = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), os.getloadavg()[0]
        about = {
            "machine": record.machine(),
            "revision": record.revision(),
            "date": date,
            "load": load,
            "rounds": config.rounds,
        }
        text = f"{date}, commit {about['revision']}, {about['machine']}; {config.rounds} rounds; load {load:.1f}.\n\n"
        record.keep("per_packet", {**about, "us": found}, text + table(found))
        (HERE / "per_packet.svg").write_text(picture(found))
    else:
        print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
