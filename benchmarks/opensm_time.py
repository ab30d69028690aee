"""How long OpenSM takes to bring the default lab's subnet up, on ibsim's own server and on ours, in turns.

`python -m benchmarks.opensm_time` (as root; packages opensm, ibsim-utils, libumad2sim0): times are from the first line
of OpenSM's own log to its "SUBNET UP"; prints one JSON object with the ratios of the medians. Not part of `./bench`.
The two subnets are the same, 36 ports a switch: OpenSM asks every port, and a smaller switch would be a smaller task.
On ibsim it runs as people run it, in a directory on disk; and once more surrounded as in our labs (`ALIKE`), so that
nothing but the two servers differs: its files in memory, its words for syslog not on the console.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ibbond.lab.state import Files
from ibbond.tools.infiniband_tools import OPENSM_CONF, equip

IBBOND = str(Path(sys.executable).parent / "ibbond")
TURNS, TIMEOUT = 9, 30.0
LAB = f"osm{os.getpid()}"
NET = """\
Switch 36 "s1"
[1] "h1"[1]
[2] "h2"[1]
[3] "s2"[3]
[4] "s2"[4]
[5] "opensm"[1]

Switch 36 "s2"
[1] "h1"[2]
[2] "h2"[2]
[3] "s1"[3]
[4] "s1"[4]

Hca 2 "h1"
[1] "s1"[1]
[2] "s2"[1]

Hca 2 "h2"
[1] "s1"[2]
[2] "s2"[2]

Hca 1 "opensm"
[1] "s1"[5]
"""
ALIKE = ("unshare", "--mount", "sh", "-c", 'mount --bind /dev/null /dev/console && exec "$@"', "sh")
MEMORY = "/dev/shm"
PARTITIONS = "Default=0x7fff, ipoib, mtu=4, rate=3, defmember=full : ALL=full, ALL_SWITCHES=full, SELF=full;\n"
STAMP = re.compile(r"^\w{3} +\d+ (\d+):(\d+):(\d+) (\d{6}) .*", re.MULTILINE)


def seconds(line: re.Match[str]) -> float:
    hours, minutes, whole, fraction = (int(part) for part in line.groups())
    return hours * 3600 + minutes * 60 + whole + fraction / 1e6


def time_to_up(log: Path) -> float:
    """Milliseconds from the first line of a log to SUBNET UP; waits for it."""
    until = time.monotonic() + TIMEOUT
    while time.monotonic() < until:
        lines = list(STAMP.finditer(log.read_text(errors="replace"))) if log.exists() else []
        for line in lines:
            if "SUBNET UP" in line[0]:
                return (seconds(line) - seconds(lines[0])) * 1000 % 86_400_000
        time.sleep(0.05)
    raise SystemExit(f"no SUBNET UP in {log} within {TIMEOUT} s")


def on_ibsim(*, alike: bool = False) -> float:
    with tempfile.TemporaryDirectory(dir=MEMORY if alike else None) as name:
        home = Path(name)
        (home / "net").write_text(NET)
        (home / "opensm.conf").write_text(OPENSM_CONF)
        (home / "partitions.conf").write_text(PARTITIONS)
        base = {**os.environ, "IBSIM_SOCKNAME": LAB}
        with subprocess.Popen(
            ["ibsim", "-s", "net"],
            cwd=home,
            env=base,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as server:
            time.sleep(0.5)
            environment = {**equip(base, home, "opensm"), "IBSIM_SOCKNAME": LAB}
            words = ["opensm", "-F", "opensm.conf", "-P", "partitions.conf", "-f", str(home / "osm.log"), "-p", "1"]
            manager = subprocess.Popen(
                [*ALIKE, *words] if alike else words,
                cwd=home,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
            try:
                return time_to_up(home / "osm.log")
            finally:
                manager.terminate()
                manager.wait()
                server.kill()


def on_ours() -> float:
    subprocess.run([IBBOND, "lab", "up", "--sm", "opensm", "--name", LAB], check=True, capture_output=True, timeout=60)
    try:
        (log,) = (Files(LAB).tools / "opensm").glob("*.log")
        return time_to_up(log)
    finally:
        subprocess.run([IBBOND, "lab", "down", "--name", LAB], check=True, capture_output=True, timeout=60)


def main() -> None:
    theirs, alike, ours = [], [], []
    for _ in range(TURNS):
        theirs.append(on_ibsim())
        alike.append(on_ibsim(alike=True))
        ours.append(on_ours())
    facts = {
        "ibsim_ms": [round(each, 1) for each in theirs],
        "ibsim_alike_ms": [round(each, 1) for each in alike],
        "ours_ms": [round(each, 1) for each in ours],
        "ratio": round(statistics.median(ours) / statistics.median(theirs), 3),
        "ratio_alike": round(statistics.median(ours) / statistics.median(alike), 3),
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
