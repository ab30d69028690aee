"""Many failovers of a live lab, with programs that talk all the time: nothing grows in its process, no one is lost.

`IBBOND_SOAK=500` has five hundred of them (a few minutes); otherwise they are few.
"""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

from ibbond import Lab
from tests.live.commands import sound_lab

FAILOVERS = int(os.environ.get("IBBOND_SOAK", "30"))
WARM = FAILOVERS // 3
GROWTH_KB = 2048  # of resident memory after WARM: allocators breathe
TWO_HOSTS = """
[switches]
s1 = {}
s2 = {}
[[links]]
between = ["s1", "s2"]
[hosts.h1]
ports = { ib0 = "s1", ib1 = "s2" }
bonds.bond0 = { members = ["ib0", "ib1"], addresses = ["10.0.0.1/24"] }
[hosts.h2]
ports = { ib0 = "s1", ib1 = "s2" }
bonds.bond0 = { members = ["ib0", "ib1"], addresses = ["10.0.0.2/24"] }
"""


def occupied(pid: int) -> tuple[int, int, int]:
    """Resident kB, open descriptors, threads."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(status["VmRSS"].split()[0]), len(os.listdir(f"/proc/{pid}/fd")), int(status["Threads"])


def at_rest(pid: int, calm_s: float = 1.0, max_s: float = 10.0) -> tuple[int, int, int]:
    """`occupied`, but the lowest counts, once they do not sink for `calm_s`: a client that ended is closed later."""
    lowest = occupied(pid)
    began = calm = time.monotonic()
    while time.monotonic() - calm < calm_s and time.monotonic() - began < max_s:
        time.sleep(0.05)
        now = occupied(pid)
        if now[1] < lowest[1] or now[2] < lowest[2]:
            calm = time.monotonic()
        lowest = (now[0], min(now[1], lowest[1]), min(now[2], lowest[2]))
    return lowest


def grown(before: tuple[int, int, int], after: tuple[int, int, int]) -> bool:
    """More descriptors or threads. Fewer are not a leak."""
    return after[1] > before[1] or after[2] > before[2]


def fail_over(lab: Lab) -> None:
    """Cut the cable in use, wait for the other one to be used and for the first to be back."""
    files = lab.backend("h1")
    active = lab.active("h1/bond0")
    lab.cut(f"h1/{active}")
    lab.wait(lambda: lab.active("h1/bond0") not in (active, None), within=10)
    lab.mend(f"h1/{active}")
    lab.wait(lambda: files.read(f"{active}/bonding_slave/mii_status") == "up\n", within=10)


def test_many_failovers_live() -> None:
    with sound_lab(TWO_HOSTS) as lab:
        pid = lab.status()["pid"]
        ping = lab["h1"].popen(["ping", "-i", "0.02", "-q", "10.0.0.2"], stdout=subprocess.PIPE)
        warm = (0, 0, 0)
        for number in range(FAILOVERS):
            if number == WARM:
                warm = at_rest(pid)
            fail_over(lab)
        end = at_rest(pid)
        ping.send_signal(signal.SIGINT)
        said = ping.communicate(timeout=10)[0]
        print(f"kB, descriptors, threads after {WARM}: {warm}; after {FAILOVERS}: {end}; {said.splitlines()[-2:]}")
        assert end[0] - warm[0] < GROWTH_KB
        assert not grown(warm, end)
        found = re.search(r"(\d+) packets transmitted, (\d+) received", said)
        assert found, said
        sent, received = map(int, found.groups())
        assert sent - received <= max(2, FAILOVERS // 50)
