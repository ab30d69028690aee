"""`./bench --rdma`: what unmodified RDMA programs get in a lab, by perftest and rping; goals beside each figure.

Read first: docs/benchmarks.md. Every figure is from both ends in one lab of two hosts, without captures, so that
messages take the fast path. Programs that spin need a core each.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from benchmarks import record
from ibbond import Lab
from ibbond.host import notification

TARGET = "10.0.0.1"
SECONDS = 3
OPENS = 10_000
READER = """
import os, sys, time
names = sys.argv[1:]
begin = time.perf_counter()
for number in range({opens}):
    os.close(os.open(names[number % len(names)], os.O_RDONLY))
print(time.perf_counter() - begin)
"""


class Figure(NamedTuple):
    """`name` has its unit at the end; `must` and `aim` are upper bounds, or lower ones where `more` is better."""

    name: str
    what: str
    must: float | None = None
    aim: float | None = None
    more: bool = False


FIGURES = (
    Figure("send_lat_us", "ib_send_lat -R, 2 bytes, one way, typical", 30, 15),
    Figure("send_lat_events_us", "the same with -e: both ends sleep until the event"),
    Figure("write_bw_gbytes", "ib_write_bw -R, 64 KiB, GB/s", 1.0, 2.5, more=True),
    Figure("write_rate_k", "ib_write_bw -R, 64 bytes, 16 per doorbell, thousand messages/s", 60, 180, more=True),
    Figure("reconnect_ms", "bond's decision to the end of an rping started then, less one at rest", 150, 100),
    Figure("opens_ratio", f"{OPENS} file opens in a host, to the same without a lab", 1.05, 1.01),
)


def main(*, rounds: int, quick: bool, file: Path | None, keep: bool) -> int:
    if (why := notification.why_not()) is not None:
        print(f"./bench --rdma cannot run: {why}", file=sys.stderr)
        return 2
    values: dict[str, list[float]] = {figure.name: [] for figure in FIGURES}
    missing: dict[str, str] = {}
    loads: list[float] = []
    with Lab(name=f"bench{os.getpid()}") as lab:
        for number in range(1 if quick else rounds):
            for name, measure in MEASURES.items():
                if name in missing:
                    continue
                loads.append(os.getloadavg()[0])
                print(f"round {number + 1} of {1 if quick else rounds}: {name}", file=sys.stderr, flush=True)
                try:
                    values[name].append(measure(lab))
                except (OSError, subprocess.SubprocessError, ValueError) as problem:
                    missing[name] = str(problem)
    result: dict[str, object] = {
        "machine": record.machine(),
        "revision": record.revision(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "rounds": 1 if quick else rounds,
        "load": {"median": statistics.median(loads), "max": max(loads)},
        "figures": {name: sorted(found) for name, found in values.items() if found},
        "missing": missing,
    }
    text = table(result)
    print(text)
    if file:
        file.write_text(json.dumps(result, indent=1) + "\n")
    if keep:
        record.keep("rdma", result, text)
    return 0


def pair(lab: Lab, server: str, client: str) -> str:
    """What the client in h2 prints; the server in h1 is started first, the client again until the server listens."""
    with lab["h1"].popen(shlex.split(server), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as serving:
        try:
            end = time.monotonic() + 20
            while True:
                time.sleep(0.3)
                done = lab["h2"].run(shlex.split(client), check=False, timeout=60)
                if not done.returncode:
                    return done.stdout
                if time.monotonic() > end:
                    raise ValueError((done.stderr or done.stdout).strip().splitlines()[-1])
        finally:
            serving.kill()


def row(said: str) -> list[float]:
    """The numbers of perftest's one line of results."""
    lines = [line.split() for line in said.splitlines() if re.fullmatch(r"\s*\d[\d.\s]+", line)]
    if not lines:
        raise ValueError(f"no results: {said[-200:]}")
    return [float(word) for word in lines[-1]]


def send_lat(*options: str) -> Callable[[Lab], float]:
    def measure(lab: Lab) -> float:
        command = f"ib_send_lat -R -F -s 2 -n 3000 {' '.join(options)}"
        return row(pair(lab, command, f"{command} {TARGET}"))[4]  # bytes, iterations, min, max, typical

    return measure


def write_bw(lab: Lab) -> float:
    command = f"ib_write_bw -R -F -D {SECONDS} -s 65536 --report_gbits"
    return row(pair(lab, command, f"{command} {TARGET}"))[3] / 8


def write_rate(lab: Lab) -> float:
    command = f"ib_write_bw -R -F -D {SECONDS} -s 64 -l 16 -t 128"
    return row(pair(lab, command, f"{command} {TARGET}"))[4] * 1000  # million messages per second


def reconnect(lab: Lab) -> float:
    """Milliseconds; the median of one rping at rest is what the program itself takes."""
    rping = ["rping", "-c", "-C", "1", "-a", TARGET]
    with lab["h1"].popen(["rping", "-s", "-P", "-a", TARGET], stderr=subprocess.DEVNULL) as serving:
        try:
            time.sleep(0.5)
            at_rest = statistics.median(seconds(lab, rping) for _ in range(5))
            active = lab.active("h1/bond0")
            before = len(failovers(lab))
            lab.cut(f"h1/{active}")
            lab.wait(lambda: len(failovers(lab)) > before, within=5)
            decided = failovers(lab)[before]
            done = lab["h2"].run(rping, timeout=60)
            ended = time.monotonic_ns()
            lab.mend(f"h1/{active}")
            lab.wait(lambda: lab.status()["hosts"]["h1"]["devices"][active]["carrier"], within=10)
            assert not done.returncode
            return max(0.0, (ended - decided) / 1e6 - at_rest * 1000)
        finally:
            serving.kill()


def failovers(lab: Lab) -> list[int]:
    """When h1's bond has failed over, in nanoseconds."""
    return [event.at_ns for event in lab.events if event.what == "failover" and event.where == "h1/bond0"]


def seconds(lab: Lab, command: list[str]) -> float:
    begin = time.monotonic()
    lab["h2"].run(command, timeout=60)
    return time.monotonic() - begin


def opens(lab: Lab) -> float:
    """The ratio of medians of nine interleaved runs."""
    with tempfile.TemporaryDirectory() as place:
        names = [str(Path(place, str(number))) for number in range(100)]
        for name in names:
            Path(name).touch()
        command = [sys.executable, "-c", READER.format(opens=OPENS), *names]
        inside, outside = [], []
        for _ in range(9):
            inside.append(float(lab["h1"].run(command).stdout))
            outside.append(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    return statistics.median(inside) / statistics.median(outside)


MEASURES: dict[str, Callable[[Lab], float]] = {
    "send_lat_us": send_lat(),
    "send_lat_events_us": send_lat("-e"),
    "write_bw_gbytes": write_bw,
    "write_rate_k": write_rate,
    "reconnect_ms": reconnect,
    "opens_ratio": opens,
}


def table(result: dict[str, object]) -> str:
    figures, missing = result["figures"], result["missing"]
    assert isinstance(figures, dict)
    assert isinstance(missing, dict)
    lines = [
        f"{result['machine']}; commit {result['revision']}, {result['date']}, {result['rounds']} rounds",
        "",
        "| figure | median | least to most | must | aim | met |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for figure in FIGURES:
        found = figures.get(figure.name)
        if not found:
            lines.append(f"| {figure.what} | - | {missing.get(figure.name, 'not run')} | | | |")
            continue
        median = statistics.median(found)
        row = f"| {figure.what} | {median:.3g} | {found[0]:.3g} to {found[-1]:.3g} |"
        if figure.must is None or figure.aim is None:
            lines.append(f"{row} | | |")
            continue
        bounds = {"must": figure.must, "aim": figure.aim}
        met = [name for name, bound in bounds.items() if reaches(figure, median, bound)]
        lines.append(f"{row} {figure.must:g} | {figure.aim:g} | {' '.join(met) or 'no'} |")
    return "\n".join(lines) + "\n"


def reaches(figure: Figure, value: float, bound: float) -> bool:
    return value >= bound if figure.more else value <= bound
