"""Unmodified RDMA programs while the cable of their connection is cut for a second: none loses a byte.

A reliable connection repeats what was not acknowledged, at the kernel's defaults for 17 s and more, so a cable that is
plugged in again within that time is survived without the program's knowledge, although the bond has failed over and
back meanwhile. What each program compares is in `Row.checks`. A cut that lasts longer is in `test_verbs_programs`: the
connection fails, and a new one goes by the other port. An iSER session does not continue after a failover of its
target; a new one connects immediately, and finds what was written before.

./test runs the rows of `SAMPLE`; with IBBOND_PROGRAMS=all, as ./test --full sets it, all of them.
"""

from __future__ import annotations

import os
import shlex
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from ibbond import Lab
from ibbond.host import notification
from tests.live.background import PATH, background, installed, packets, rdma_ids

pytestmark = pytest.mark.skipif(notification.why_not() is not None, reason=str(notification.why_not()))
RSOCKETS = "/usr/lib/x86_64-linux-gnu/rsocket/librspreload.so"
CUT_S = 1.0
FIO_SERVER = "fio --name=s --ioengine=rdma --port=5999 --rw=read --bs=64k --size=2g --iodepth=4"
FIO_CLIENT = "fio --name=c --ioengine=rdma --hostname=10.0.0.1 --port=5999 --rw=write --bs=64k --size=2g --iodepth=4"
DISK = "iqn.2026-12.lab:disk"
INITIATOR = "iqn.2026-12.lab:initiator"
READ = ("iscsi-perf", "-b", "64", "-m", "8", "-i", INITIATOR)
MIB = 1 << 20


class Row(NamedTuple):
    """What the server and the client run, and what says that every byte arrived as it was sent."""

    name: str
    server: str
    client: str
    checks: str
    has_ids: bool = True  # connected by RDMA CM


ROWS = (
    Row(
        "rping",
        "rping -s -V -C 3000 -S 1000 -a 10.0.0.1",
        "rping -c -V -C 3000 -S 1000 -a 10.0.0.1",
        "both ends compare (-V)",
    ),
    Row(
        "ibv_rc_pingpong",
        "ibv_rc_pingpong -e -c -n 20000",
        "ibv_rc_pingpong -e -c -n 20000 10.0.0.1",
        "the server compares (-c)",
        has_ids=False,
    ),
    Row("fio-write", FIO_SERVER, f"{FIO_CLIENT} --verb=write", "every block is completed"),
    Row("fio-read", FIO_SERVER, f"{FIO_CLIENT} --verb=read", "every block is completed"),
    Row(
        "ib_write_bw",
        "ib_write_bw -R -F -D 5 -s 4096",
        "ib_write_bw -R -F -D 5 -s 4096 10.0.0.1",
        "every message is completed",
    ),
    Row(
        "rstream",
        "rstream -C 10000 -S 16384 -T v",
        "rstream -s 10.0.0.1 -C 10000 -S 16384 -T v",
        "both ends compare (-T v)",
    ),
    Row("riostream", "riostream -C 10000 -S 16384", "riostream -s 10.0.0.1 -C 10000 -S 16384", "all is transferred"),
    Row(
        "iperf",
        f"env LD_PRELOAD={RSOCKETS} iperf -s -B 10.0.0.1 -P 1",
        f"env LD_PRELOAD={RSOCKETS} iperf -c 10.0.0.1 -t 5",
        "rsockets: a stream without an error",
    ),
)
SAMPLE = ("rping",)
ALL = os.environ.get("IBBOND_PROGRAMS") == "all"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as running:
        yield running


@pytest.mark.parametrize("where", ["h1", "h2"])
@pytest.mark.parametrize("row", [row for row in ROWS if ALL or row.name in SAMPLE], ids=lambda row: row.name)
def test_a_short_cut_costs_it_nothing(lab: Lab, row: Row, where: str) -> None:
    if shutil.which(row.name.split("-")[0], path=PATH) is None:
        pytest.skip(f"{row.name} is not installed")
    with background(lab["h1"], *shlex.split(row.server)):
        lab.wait(lambda: not row.has_ids or rdma_ids(lab, "h1"), within=10)
        time.sleep(0.5)
        with background(lab["h2"], *shlex.split(row.client)) as client:
            lab.wait(lambda: not row.has_ids or connected_ports(lab, where), within=10)
            time.sleep(0.5)
            active = lab.active(f"{where}/bond0")
            assert not row.has_ids or connected_ports(lab, where) == {active_port(lab, where)}
            lab.cut(f"{where}/{active}")
            lab.wait(lambda: lab.active(f"{where}/bond0") not in (active, ""), within=5)
            time.sleep(CUT_S)
            assert client.poll() is None, client.communicate()[0]
            lab.mend(f"{where}/{active}")
            said, _ = client.communicate(timeout=60)
    assert client.returncode == 0, said
    lab.wait(lambda: not rdma_ids(lab, "h1") and not rdma_ids(lab, "h2"), within=10)


def active_port(lab: Lab, host: str) -> str:
    """The port below the bond's active member."""
    active = lab.active(f"{host}/bond0")
    port: str = lab.status()["hosts"][host]["devices"][active]["port"]
    return port


def connected_ports(lab: Lab, host: str) -> set[str]:
    return {one["port"] for one in rdma_ids(lab, host) if one["state"] == "connected"}


@pytest.fixture
def disk(lab: Lab, tmp_path: Path) -> Iterator[str]:
    """An iSER target in h1, with a disk of 64 MiB in a file."""
    image = tmp_path / "disk.img"
    with image.open("wb") as file:
        file.truncate(64 * MIB)
    commands = (
        f"--op new --mode target --tid 1 -T {DISK}",
        f"--op new --mode logicalunit --tid 1 --lun 1 -b {image}",
        "--op bind --mode target --tid 1 -I ALL",
        f"--op bind --mode target --tid 1 -Q {INITIATOR}",
    )
    script = "mount -t tmpfs none /run; tgtd -d 1; " + "".join(
        f"until tgtadm --lld iser {words}; do sleep 0.2; done; " for words in commands
    )
    script += "echo ready; sleep 600; kill $(pidof tgtd)"
    with background(lab["h1"], "unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script) as target:
        assert target.stdout is not None
        for line in target.stdout:
            if line == "ready\n":
                break
        else:
            raise AssertionError("the target did not start")
        yield f"iser://10.0.0.1/{DISK}/1"


def compare(lab: Lab, disk: str) -> None:
    """A session that writes, reads and compares."""
    said = session(lab, "iscsi-test-cu", "-i", INITIATOR, "--dataloss", "--test=SCSI.Write10.Simple", disk)
    assert "Simple ...passed" in said


def session(lab: Lab, *command: str) -> str:
    """What the program prints. libiscsi gives up a login after a second: then it is tried again."""
    for _ in range(5):
        done = lab["h2"].run(command, check=False, timeout=60)
        if "Login Failed" not in done.stderr:
            break
    return done.stdout + done.stderr


@pytest.mark.skipif(not ALL, reason="./test --full")
@pytest.mark.skipif(not installed("tgtd", "iscsi-test-cu", "iscsi-perf"), reason="tgt or libiscsi-bin is not installed")
def test_iser_sessions_before_and_after_a_failover(lab: Lab, disk: str) -> None:
    """iscsi-test-cu writes, reads back and compares."""
    compare(lab, disk)
    with background(lab["h2"], *READ, "-t", "30", disk):
        lab.wait(lambda: connected_ports(lab, "h1"), within=10)
        active = lab.active("h1/bond0")
        assert connected_ports(lab, "h1") == {active_port(lab, "h1")}
        lab.cut(f"h1/{active}")
        try:
            lab.wait(lambda: lab.active("h1/bond0") not in (active, ""), within=5)
            compare(lab, disk)
            other = active_port(lab, "h1")
            with background(
                lab["h2"], "iscsi-perf", "-t", "5", "-b", "64", "-m", "8", "-i", INITIATOR, disk
            ) as another:
                lab.wait(lambda: other in connected_ports(lab, "h1"), within=10)
                said, _ = another.communicate(timeout=30)
            assert another.returncode == 0, said
        finally:
            lab.mend(f"h1/{active}")


@pytest.mark.skipif(not ALL, reason="./test --full")
@pytest.mark.skipif(not installed("tgtd", "tshark"), reason="tgt or tshark is not installed")
@pytest.mark.parametrize(
    ("command", "says"),
    [
        (("iscsi-inq", "-i", INITIATOR), "Peripheral Device Type"),
        (("iscsi-readcapacity16", "-i", INITIATOR), "Total size:67108864"),
        (("iscsi-perf", "-t", "2", "-b", "64", "-m", "8", "-i", INITIATOR), "iops"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_iser_programs_have_their_packets_in_a_capture(
    lab: Lab, disk: str, tmp_path: Path, command: tuple[str, ...], says: str
) -> None:
    if not installed(command[0]):
        pytest.skip(f"{command[0]} is not installed")
    file = tmp_path / "packets.erf"
    with lab.capture(f"h1/{lab.active('h1/bond0')}", file):
        assert says in session(lab, *command, disk)
    assert packets(file, "infiniband.bth.opcode < 32") >= 10


def test_the_rows_are_programs_of_the_table() -> None:
    text = (Path(__file__).parents[2] / "docs" / "rdma.md").read_text()
    missing = [row.name for row in ROWS if row.name.split("-")[0] not in text]
    assert not missing
