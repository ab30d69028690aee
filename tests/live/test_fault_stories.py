"""Every kind of fault of the simulator, done to a lab of real namespaces by the command, under a session and a ping.

Each story is a row: what is done, and what undoes it. The session's writes are compared by content at the
end: none lost, none done twice. tests/rdma/test_fault_stories.py runs the same kinds with seeds, under a virtual clock.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ibbond.sim.faults import KINDS

IBBOND = str(Path(sys.executable).parent / "ibbond")
EXAMPLE = str(Path(__file__).parents[2] / "examples" / "rdma-block-session.py")
NAME = f"faults{os.getpid()}"
LASTING_S = 0.5
# 35 is IP_ADD_MEMBERSHIP; the group is left when the program ends. Without spaces, for commands are split at them.
JOIN_AND_LEAVE = '__import__("socket").socket(2,2).setsockopt(0,35,bytes([239,9,9,9,10,0,0,1]))'
Commands = tuple[str, ...]

STORIES: dict[str, tuple[Commands, Commands]] = {  # each is one fault and its end, in words of `ibbond`
    "cut": (("lab cut h1/ib0",), ("lab mend h1/ib0",)),
    "cut_any": (("lab cut s1/3", "bond switch h2/bond0 ib1"), ("lab mend s1/3",)),
    "flap": (("lab flap h2/ib0 --times 6 --down-ms 30 --up-ms 30",), ()),
    "lossy": (("lab lose h1/ib0 --percent 10",), ("lab lose h1/ib0 --percent 0",)),
    "switch_death": (("lab kill s1",), ("lab revive s1",)),
    "adapter_removal": (("lab kill h1",), ("lab revive h1",)),
    "manager_outage": (("lab kill sm", "lab cut h1/ib0"), ("lab revive sm", "lab mend h1/ib0")),
    "admin_down": (("lab exec h1 -- ip link set ib0 down",), ("lab exec h1 -- ip link set ib0 up",)),
    "reregister": (("lab reregister h1/ib0", "lab reregister h2/ib0"), ()),
    "pkey_removal": (("lab set-pkeys h1/ib0 0x8001",), ("lab set-pkeys h1/ib0 0xffff",)),
    "lid_change": (("lab change-lid h2/ib0 77",), ()),
    "group_left": ((f"lab exec h1 -- {sys.executable} -c {JOIN_AND_LEAVE}",), ()),
    "manual_switch": (("bond switch h1/bond0 ib1", "bond switch h2/bond0 ib1"), ()),
}


def ibbond(words: str) -> str:
    first, second, *rest = words.split()
    done = subprocess.run(
        [IBBOND, first, second, "--name", NAME, *rest],
        text=True,
        capture_output=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, f"{words}: {done.stderr}"
    return done.stdout


@pytest.fixture(scope="module", autouse=True)
def lab() -> Iterator[None]:
    ibbond("lab up")
    yield
    ibbond("lab down")


@pytest.fixture(autouse=True)
def first_members_carry() -> None:
    """What a story left is undone: it begins with the first members."""
    for host in ("h1", "h2"):
        ibbond(f"bond switch {host}/bond0 ib0")


def begin(host: str, *command: str) -> subprocess.Popen[str]:
    words = [IBBOND, "lab", "exec", "--name", NAME, host, "--", *command]
    return subprocess.Popen(words, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def ready(process: subprocess.Popen[str]) -> subprocess.Popen[str]:
    """An end of the session, once it is one."""
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def end(process: subprocess.Popen[str]) -> str:
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 0, out + errors
    return out


def test_every_kind_has_a_story() -> None:
    assert STORIES.keys() == KINDS.keys()


@pytest.mark.parametrize("kind", STORIES)
def test_nothing_is_lost_and_ping_goes_on(kind: str) -> None:
    target = ready(begin("h2", sys.executable, EXAMPLE))
    initiator = ready(begin("h1", sys.executable, EXAMPLE, "10.0.0.2"))
    ping = begin("h1", "ping", "-n", "-q", "-i", "0.01", "-w", "3", "10.0.0.2")
    time.sleep(0.6)
    fault, mending = STORIES[kind]
    for words in fault:
        ibbond(words)
    time.sleep(LASTING_S)
    for words in mending:
        ibbond(words)
    time.sleep(0.5)
    said = end(initiator)
    end(target)
    assert said.rstrip().endswith("writes, 0 lost, 0 done twice"), said
    assert int(said.rstrip().splitlines()[-1].split()[0]) > 100, said
    reported = end(ping)
    share = float(reported.split("% packet loss")[0].split()[-1])
    assert share <= (50 if kind == "adapter_removal" else 10), reported
    assert "1 received" in ping_once()


def ping_once() -> str:
    return end(begin("h1", "ping", "-n", "-q", "-c", "1", "-W", "1", "10.0.0.2"))
