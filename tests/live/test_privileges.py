"""What a running lab may still do: /proc/PID/status of all its threads, and of the OpenSM that it starts."""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ibbond import Lab
from ibbond.host.capabilities import Capability
from tests.live.commands import bash, commanded_lab, ibbond, unique

KEPT = sum(1 << capability for capability in Capability)
SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
needs_opensm = pytest.mark.skipif(shutil.which("opensm", path=PATH) is None, reason="opensm is not installed")


@contextlib.contextmanager
def lab_under(*prefix: str, options: tuple[str, ...] = ()) -> Iterator[tuple[Lab, int]]:
    """A lab that is started under another program, and its process."""
    with commanded_lab(unique("caps"), *options, prefix=prefix) as lab:
        yield lab, lab.status()["pid"]


def sets(process: Path) -> dict[str, int]:
    lines = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    return {name: int(lines[name], 16) for name in SETS} | {"NoNewPrivs": int(lines["NoNewPrivs"])}


def allowed() -> int:
    return sets(Path("/proc/self"))["CapPrm"] & KEPT


needs_root = pytest.mark.skipif(
    not allowed() >> Capability.SYS_PTRACE & 1, reason="this process has no CAP_SYS_PTRACE, so nothing is dropped"
)


@needs_root
def test_no_thread_has_more_than_it_needs() -> None:
    with lab_under() as (lab, pid):
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        assert len(threads) > 2, "the loop, the control socket, the views"
        wanted = {"CapInh": 0, "CapPrm": allowed(), "CapEff": allowed(), "CapBnd": allowed(), "CapAmb": 0}
        for thread in threads:
            assert sets(thread) == wanted | {"NoNewPrivs": 1}
        lab["h1"].run(["ping", "-c", "1", "-W", "2", "10.0.0.2"])
        own = lab["h1"].run(["cat", "/proc/self/status"]).stdout
        assert f"CapEff:\t{sets(Path('/proc/self'))['CapEff']:016x}" in own, "programs in hosts are the caller's"


@needs_root
@needs_opensm
def test_opensm_has_no_capability_at_all() -> None:
    with lab_under(options=("--sm", "opensm")) as (lab, pid):
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        (opensm,) = (Path("/proc", child) for child in children)
        assert (opensm / "comm").read_text() == "opensm\n"
        found = sets(opensm)
        assert (found["CapPrm"], found["CapEff"]) == (0, 0)
        done = subprocess.run(lab_exec(lab, "sminfo"), capture_output=True, text=True, timeout=60)
        assert "SMINFO_MASTER" in done.stdout


@needs_root
def test_what_needs_privileges_later_still_works(tmp_path: Path) -> None:
    """Bonds and children are made and deleted, a capture goes to another user's folder, programs of others end."""
    folder = tmp_path / "other"
    folder.mkdir(mode=0o700)
    os.chown(folder, 65534, 65534)
    with lab_under() as (lab, _):
        for command in (
            "echo +bond7 > bonding_masters",
            "echo 0x8001 > ib0/create_child",
            "echo -bond7 > bonding_masters",
        ):
            assert bash(lab["h1"], command).returncode == 0
        capture = subprocess.Popen(
            [sys.executable, "-m", "ibbond", "lab", "capture", "--name", lab.name, "h1/ib0", str(folder / "f.pcap")],
            stdout=subprocess.DEVNULL,
        )
        until = time.monotonic() + 10
        while not (folder / "f.pcap").exists() and time.monotonic() < until:
            time.sleep(0.05)
        assert (folder / "f.pcap").exists()
        capture.terminate()
        capture.wait()
        sleeper = lab["h1"].popen("exec setpriv --reuid=65534 --regid=65534 --clear-groups sleep 1000")
        time.sleep(0.5)
        assert sleeper.poll() is None
        ibbond("lab", "down", lab=lab)
        assert sleeper.wait(5) != 0


def test_where_it_may_not_look_at_programs_it_keeps_what_they_have() -> None:
    """A container without CAP_SYS_PTRACE: with fewer capabilities than its programs it could not end them."""
    if not shutil.which("setpriv"):
        pytest.skip("setpriv is not installed")
    with lab_under("setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace") as (lab, pid):
        assert not sets(Path(f"/proc/{pid}"))["CapEff"] >> Capability.SYS_PTRACE & 1
        inside = ["setpriv", "--bounding-set=-sys_ptrace", *lab_exec(lab, "sleep", "1000")]
        sleeper = subprocess.Popen(inside, stdin=subprocess.DEVNULL)
        until = time.monotonic() + 20
        while "sleep" not in Path(f"/proc/{sleeper.pid}/comm").read_text() and time.monotonic() < until:
            time.sleep(0.05)
        assert sleeper.poll() is None
        ibbond("lab", "down", lab=lab)
        assert sleeper.wait(5) != 0


def lab_exec(lab: Lab, *command: str) -> list[str]:
    return [sys.executable, "-m", "ibbond", "lab", "exec", "--name", lab.name, "h1", "--", *command]
