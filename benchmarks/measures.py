"""What is measured on one path, by ordinary programs in its two hosts: iperf3, and benchmarks/traffic.c.

Read first: docs/benchmarks.md. Every function takes a built path and gives figures by name. A fail-over is measured by
probes each 0.2 ms both ways: lost probes times their spacing is the outage, so that it does not depend on when the
receiver was scheduled; the longest time without a probe is given beside it. A slow machine is asked at a `Pace` of its
own. Left out: what carries the path (`paths`).
"""

from __future__ import annotations

import json
import math
import os
import struct
import subprocess
import tempfile
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO

from benchmarks.paths import Built, CannotRun, Ways

PACKET = 64
ROUND_TRIPS = 3000
RECORD = struct.Struct("=QQQ")

Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a machine can be asked. An emulated one needs more time."""

    gap_us: int = 200  # between two probes
    settle_s: float = 0.35  # between two events
    plugged_s: float = 0.6  # after a return: the subnet sweeps, the bond comes back
    start_s: float = 0.2  # until a program has started
    steady_rate: int = 20_000  # packets a second at which CPU time is counted


USUAL = Pace()


@dataclass(frozen=True, slots=True)
class Stream:
    """Probes in one direction: when number 0 was due, how many were sent, and (number, arrived at) of the others."""

    start: int
    sent: int
    arrived: list[tuple[int, int]]
    gap_us: int = USUAL.gap_us

    def lost(self, since: int, until: int) -> int:
        """Of the probes that were due in this time, those that never came. Nanoseconds."""
        first, last = (max(0, min(self.sent, (at - self.start) // (self.gap_us * 1000))) for at in (since, until))
        came = {number for number, _ in self.arrived if first <= number < last}
        return last - first - len(came)

    def longest_gap_ms(self, since: int, until: int) -> float:
        """The longest time without an arrival."""
        times = sorted(at for _, at in self.arrived)
        inside = times[bisect_left(times, since) : bisect_left(times, until)]
        return max(b - a for a, b in pairwise([since, *inside, until])) / 1e6

    def first_after(self, moment: int) -> int | None:
        return min((at for _, at in self.arrived if at > moment), default=None)


def warm(path: Built) -> None:
    """Wait until the hosts reach each other, as they would before a measurement."""
    for _ in range(40):
        if path.client.run(["ping", "-c", "1", "-W", "1", "-q", path.address]).returncode == 0:
            return
        time.sleep(0.1)
    raise CannotRun("the two hosts do not reach each other")


def tcp(path: Built, seconds: float, streams: int, pace: Pace = USUAL) -> Figures:
    server = path.server.popen(["iperf3", "-s", "-1"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(pace.start_s + 0.05)
        words = ["iperf3", "-c", path.address, "-t", str(math.ceil(seconds)), "-P", str(streams), "-J"]
        done = path.client.run(words, timeout=seconds + 20 + 20 * pace.start_s)
        found = json.loads(done.stdout)
        if "error" in found:
            raise CannotRun(f"iperf3: {found['error']}")
        return {f"tcp{streams}_gbps": found["end"]["sum_received"]["bits_per_second"] / 1e9}
    finally:
        end(server)


def packets(path: Built, tool: str, seconds: float, pace: Pace = USUAL) -> Figures:
    """64-byte UDP packets per second that arrive when as many are sent as the kernel takes."""
    _, arrived, took = flood(path, tool, seconds, 0, pace)
    return {"pps64": arrived / took if took else 0.0}


def cost(path: Built, tool: str, seconds: float, pace: Pace = USUAL) -> Figures:
    """CPU time of the programs that carry the packets, for each packet at a steady rate, and what they occupy."""
    if not path.owners:
        return {"cpu_us_per_packet": 0.0, "memory_mb": 0.0}
    before = cpu_ns(path.owners)
    sent, arrived, _ = flood(path, tool, seconds, pace.steady_rate, pace)
    used = cpu_ns(path.owners) - before
    return {
        "cpu_us_per_packet": used / 1e3 / max(1, arrived),
        "steady_lost_percent": 100 * (1 - arrived / max(1, sent)),
        "memory_mb": resident_mb(path.owners),
    }


def round_trips(path: Built, tool: str, count: int = ROUND_TRIPS, pace: Pace = USUAL) -> Figures:
    echo = path.server.popen([tool, "echo", path.address, "6002", "60"])
    try:
        time.sleep(pace.start_s)
        done = path.client.run([tool, "ping", path.address, "6002", str(PACKET), str(count), "0"])
        _, median, p99, _, _ = map(float, done.stdout.split())
        return {"rtt_us": median, "rtt_p99_us": p99}
    finally:
        end(echo)


def breaks(path: Built, tool: str, ways: Ways, cycles: int, name: str, pace: Pace = USUAL) -> dict[str, list[float]]:
    """Cut and plug the first link `cycles` times under probes both ways; figures, one value for each time.

    Of both directions the worse one counts. `control_*` is the same time before the first cut.
    """
    length = 0.4 + pace.start_s + pace.settle_s + cycles * (pace.settle_s + pace.plugged_s)
    ends = [(path.client, path.server, path.address, "6003"), (path.server, path.client, path.client_address, "6004")]
    logs = [tempfile.TemporaryFile() for _ in ends]  # noqa: SIM115 - a pipe would fill up and stop the receiver
    receivers = [
        to.popen([tool, "record", address, port, str(length + 4 * pace.start_s)], stdout=log)
        for (_, to, address, port), log in zip(ends, logs, strict=True)
    ]
    time.sleep(pace.start_s / 2)
    senders = [
        at.popen([tool, "stream", address, port, str(length), str(pace.gap_us)], stdout=subprocess.PIPE)
        for at, _, address, port in ends
    ]
    moments: list[tuple[str, int]] = []
    try:
        time.sleep(0.2 + pace.start_s)
        moments.append(("control", time.monotonic_ns()))
        time.sleep(pace.settle_s)
        for _ in range(cycles):
            moments.append(("cut", ways.cut()))
            time.sleep(pace.settle_s)
            moments.append(("return", ways.mend()))
            time.sleep(pace.plugged_s)
        streams = [read_stream(*each, pace.gap_us) for each in zip(senders, receivers, logs, strict=True)]
    finally:
        for each in (*senders, *receivers):
            end(each)
        for log in logs:
            log.close()
    moments.append(("end", moments[-1][1] + int(pace.plugged_s * 1e9)))
    return evaluate(streams, moments, path.events(), name)


def evaluate(
    streams: list[Stream], moments: list[tuple[str, int]], events: Iterable[dict[str, object]], name: str
) -> dict[str, list[float]]:
    """Figures of each event, from its beginning to that of the next one. Pure."""
    decisions = [int(str(item["at_ns"])) for item in events if item["what"] == "failover"]
    found: dict[str, list[float]] = {}

    def note(figure: str, value: float) -> None:
        found.setdefault(f"{name} {figure}", []).append(value)

    for (what, since), (_, until) in pairwise(moments):
        lost = max(stream.lost(since, until) for stream in streams)
        note(f"{what}_lost", lost)
        note(f"{what}_outage_ms", lost * streams[0].gap_us / 1000)
        note(f"{what}_gap_ms", max(stream.longest_gap_ms(since, until) for stream in streams))
        decided = next((at for at in decisions if since <= at < until), None)
        if what == "cut" and decided is not None:
            note("cut_to_decision_ms", (decided - since) / 1e6)
            first = streams[0].first_after(decided)
            if first is not None and first < until:
                note("decision_to_packet_ms", (first - decided) / 1e6)
    return found


def read_stream(
    sender: subprocess.Popen[bytes], receiver: subprocess.Popen[bytes], log: IO[bytes], gap_us: int
) -> Stream:
    receiver.wait()
    log.seek(0)
    raw = log.read()
    sent, start = map(int, sender.communicate()[0].split())
    return Stream(start, sent, [(number, arrived) for number, _, arrived in RECORD.iter_unpack(raw)], gap_us)


def flood(path: Built, tool: str, seconds: float, rate: int, pace: Pace = USUAL) -> tuple[int, int, float]:
    """Packets sent, packets that arrived, seconds between the first and the last arrival."""
    sink = path.server.popen(
        [tool, "sink", path.address, "6001", str(seconds + 0.2 + 2 * pace.start_s)], stdout=subprocess.PIPE
    )
    try:
        time.sleep(pace.start_s)
        words = [tool, "flood", path.address, "6001", str(PACKET), str(seconds), *([str(rate)] if rate else [])]
        sent = int(path.client.run(words).stdout)
        arrived, took = sink.communicate()[0].split()
        return sent, int(arrived), float(took)
    finally:
        end(sink)


def end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        process.wait()
    if process.stdout:
        process.stdout.close()


def family(owners: Iterable[int]) -> list[int]:
    """The processes and all that they have started."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found, waiting = [], list(owners)
    while waiting:
        found.append(waiting.pop())
        waiting += children.get(found[-1], [])
    return found


def cpu_ns(owners: Iterable[int]) -> int:
    """Time on a CPU of all threads, from the scheduler's own statistics."""
    return _sum(owners, lambda process: sum(_on_cpu(process, thread) for thread in os.listdir(f"/proc/{process}/task")))


def _on_cpu(process: int, thread: str) -> int:
    return int(Path(f"/proc/{process}/task/{thread}/schedstat").read_text().split()[0])


def resident_mb(owners: Iterable[int]) -> float:
    def resident(process: int) -> int:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
        return next((int(line.split()[1]) for line in lines if line.startswith("VmRSS")), 0)

    return _sum(owners, resident) / 1024


def _sum(owners: Iterable[int], of: Callable[[int], int]) -> int:
    total = 0
    for process in family(owners):
        try:
            total += of(process)
        except OSError:  # it has ended meanwhile
            continue
    return total
