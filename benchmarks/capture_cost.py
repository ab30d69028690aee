"""What captures of every port at once cost a TCP stream: `python -m benchmarks.capture_cost`.

A lab of its own, iperf3 for SECONDS without and with captures of all ports, in turns; prints one JSON object with the
ratio of the medians, and what the captures kept and missed. Not part of `./bench`: run it on a machine at rest.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

IBBOND = str(Path(sys.executable).parent / "ibbond")
SECONDS, TURNS = 3, 5
LAB = f"cost{os.getpid()}"


def ibbond(*words: str) -> str:
    return subprocess.run([IBBOND, *words], check=True, capture_output=True, text=True, timeout=120).stdout


def throughput() -> float:
    """Bits per second of one TCP stream from h1 to h2."""
    inside = [IBBOND, "lab", "exec", "--name", LAB]
    with subprocess.Popen([*inside, "h2", "--", "iperf3", "-s", "-1"], stdout=subprocess.DEVNULL):
        time.sleep(1)
        said = ibbond("lab", "exec", "--name", LAB, "h1", "--", "iperf3", "-c", "10.0.0.2", "-t", str(SECONDS), "-J")
    return float(json.loads(said)["end"]["sum_received"]["bits_per_second"])


@contextlib.contextmanager
def captures(ports: list[str], directory: str, kept: list[dict[str, int]]) -> Iterator[None]:
    command = [IBBOND, "lab", "capture", "--name", LAB, "--json", "--seconds", str(SECONDS + 3)]
    running = [
        subprocess.Popen([*command, port, f"{directory}/{number}.pcap"], stdout=subprocess.PIPE, text=True)
        for number, port in enumerate(ports)
    ]
    time.sleep(1.5)
    yield
    kept += [json.loads(process.communicate()[0]) for process in running]


def main() -> None:
    ibbond("lab", "up", "--name", LAB)
    plain, captured = [], []
    kept: list[dict[str, int]] = []
    try:
        status = json.loads(ibbond("lab", "status", "--name", LAB, "--json"))
        ports = sorted({end for cable in status["cables"] for end in cable["ends"]})
        with tempfile.TemporaryDirectory() as directory:
            for _ in range(TURNS):
                plain.append(throughput())
                with captures(ports, directory, kept):
                    captured.append(throughput())
    finally:
        ibbond("lab", "down", "--name", LAB)
    facts = {
        "ports": len(ports),
        "plain_mbit": [round(each / 1e6) for each in plain],
        "captured_mbit": [round(each / 1e6) for each in captured],
        "ratio": round(statistics.median(captured) / statistics.median(plain), 3),
        "packets": sum(each["packets"] for each in kept),
        "missed": sum(each["missed"] for each in kept),
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
