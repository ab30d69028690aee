"""Programs of the distribution, one row each: both ends run unmodified, and a capture has their packets.

A capture takes the fast path out of use, so every message crosses the fabric packet by packet. ./test runs the rows of
`SAMPLE`; with IBBOND_PROGRAMS=all, as ./test --full sets it, all of them. docs/rdma.md shows the same table.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from ibbond import Lab
from ibbond.host import notification
from tests.live.background import PATH, background, output, packets, rdma_ids

pytestmark = pytest.mark.skipif(notification.why_not() is not None, reason=str(notification.why_not()))
RSOCKETS = "/usr/lib/x86_64-linux-gnu/rsocket/librspreload.so"
MIN_MESSAGES = 30  # REQ, REP and RTU of ten connections
RUN_SECONDS = 40


class Row(NamedTuple):
    """What the server and the client run; `says` is in what the client prints, `packets` at least are of its data.

    `{directory}` in a command is an empty directory.
    """

    name: str
    server: str
    client: str
    says: str = ""
    packets: int = 10


ROWS = (
    Row("ibv_rc_pingpong", "ibv_rc_pingpong -e -c -n 20", "ibv_rc_pingpong -e -c -n 20 10.0.0.1", "20 iters"),
    Row("ibv_srq_pingpong", "ibv_srq_pingpong -e -q 4 -n 50", "ibv_srq_pingpong -e -q 4 -n 50 10.0.0.1", "50 iters"),
    Row("rping", "rping -s -V -C 5 -a 10.0.0.1", "rping -c -v -V -C 5 -a 10.0.0.1", "rdma-ping-4"),
    Row("ucmatose", "ucmatose -c 5", "ucmatose -c 5 -s 10.0.0.1", "test complete"),
    Row("rdma_client", "rdma_server", "rdma_client -s 10.0.0.1", "end 0", 4),
    Row("rdma_xclient", "rdma_xserver -c r", "rdma_xclient -s 10.0.0.1 -c r", "end 0", 2),
    Row("cmtime", "cmtime", "cmtime -s 10.0.0.1 -c 10", "connect", 0),
    Row("rstream", "rstream -C 10 -S 16384", "rstream -s 10.0.0.1 -C 10 -S 16384", "16k"),
    Row("riostream", "riostream -C 20 -S 16384", "riostream -s 10.0.0.1 -C 20 -S 16384", "16k"),
    Row("ib_send_lat", "ib_send_lat -R -F -e -n 100", "ib_send_lat -R -F -e -n 100 10.0.0.1", "t_typical"),
    Row(
        "ib_send_bw", "ib_send_bw -R -F -e -n 100 -s 4096", "ib_send_bw -R -F -e -n 100 -s 4096 10.0.0.1", "BW average"
    ),
    Row("ib_read_lat", "ib_read_lat -R -F -e -n 100", "ib_read_lat -R -F -e -n 100 10.0.0.1", "t_typical"),
    Row(
        "ib_read_bw", "ib_read_bw -R -F -e -n 100 -s 4096", "ib_read_bw -R -F -e -n 100 -s 4096 10.0.0.1", "BW average"
    ),
    Row("ib_write_bw", "ib_write_bw -R -F -n 100 -s 4096", "ib_write_bw -R -F -n 100 -s 4096 10.0.0.1", "BW average"),
    Row("ib_atomic_lat", "ib_atomic_lat -R -F -e -n 100", "ib_atomic_lat -R -F -e -n 100 10.0.0.1", "t_typical"),
    Row("ib_atomic_bw", "ib_atomic_bw -R -F -e -n 100", "ib_atomic_bw -R -F -e -n 100 10.0.0.1", "BW average"),
    Row("qperf", "qperf", "qperf -t 1 10.0.0.1 rc_lat", "rc_lat"),
    Row(
        "fio",
        "fio --name=s --ioengine=rdma --port=5999 --rw=read --bs=64k --size=1m --iodepth=4",
        "fio --name=c --ioengine=rdma --hostname=10.0.0.1 --port=5999 --verb=write --rw=write --bs=64k --size=1m "
        "--iodepth=4",
        "err= 0",
    ),
    Row("fi_pingpong", "fi_pingpong -p verbs -e msg -I 5", "fi_pingpong -p verbs -e msg -I 5 10.0.0.1", "1m"),
    Row(
        "ucx_perftest",
        "ucx_perftest -x rc_verbs -d mlx4_0:1",
        "ucx_perftest 10.0.0.1 -x rc_verbs -d mlx4_0:1 -t am_lat -n 50 -w 5",
        "Final",
    ),
    Row(
        "iperf",
        f"env LD_PRELOAD={RSOCKETS} iperf -s -B 10.0.0.1 -P 1",
        f"env LD_PRELOAD={RSOCKETS} iperf -c 10.0.0.1 -n 300000",
        "bits/sec",
    ),
    Row("ib_write_lat", "ib_write_lat -R -F -n 100", "ib_write_lat -R -F -n 100 10.0.0.1", "t_typical"),
    Row("rcopy", "rcopy", "rcopy /etc/services 10.0.0.1:{directory}/copy", "bytes"),
    Row(
        "iperf3",
        f"env LD_PRELOAD={RSOCKETS} iperf3 -s -B 10.0.0.1 -1",
        f"env LD_PRELOAD={RSOCKETS} iperf3 -c 10.0.0.1 -n 300000",
        "iperf Done",
    ),
)
SAMPLE = ("ucmatose", "ib_read_lat", "fio")
ALL = os.environ.get("IBBOND_PROGRAMS") == "all"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as running:
        yield running


@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
@pytest.mark.parametrize("row", [row for row in ROWS if ALL or row.name in SAMPLE], ids=lambda row: row.name)
def test_program_runs_and_its_packets_are_seen(lab: Lab, row: Row, tmp_path: Path) -> None:
    if shutil.which(row.name, path=PATH) is None:
        pytest.skip(f"{row.name} is not installed")
    file = tmp_path / "packets.erf"
    with lab.capture("h1/ib0", file), background(lab["h1"], *shlex.split(row.server)):
        said = client(lab, row, tmp_path)
    assert row.says in said
    if row.name == "rcopy":
        assert (tmp_path / "copy").read_bytes() == Path("/etc/services").read_bytes()
    assert packets(file, "infiniband.bth.opcode < 32") >= row.packets
    if not row.packets:
        assert packets(file, "infiniband.mad.mgmtclass == 7") >= MIN_MESSAGES
    lab.wait(lambda: not rdma_ids(lab, "h1") and not rdma_ids(lab, "h2"), within=10)  # they end with their programs


def client(lab: Lab, row: Row, directory: Path) -> str:
    """What the client prints; it is started again while the server does not listen yet."""
    end = time.monotonic() + RUN_SECONDS
    while True:
        time.sleep(0.5)
        try:
            return output(lab["h2"], *shlex.split(row.client.format(directory=directory)), timeout=RUN_SECONDS)
        except subprocess.CalledProcessError:
            if time.monotonic() > end:
                raise


RESIZE = """
import ctypes
verbs = ctypes.CDLL("libibverbs.so.1", use_errno=True)
for name in ("ibv_get_device_list", "ibv_open_device", "ibv_create_cq"):
    getattr(verbs, name).restype = ctypes.c_void_p
devices = ctypes.cast(verbs.ibv_get_device_list(None), ctypes.POINTER(ctypes.c_void_p))
context = ctypes.c_void_p(verbs.ibv_open_device(ctypes.c_void_p(devices[0])))
queue = ctypes.c_void_p(verbs.ibv_create_cq(context, 10, None, None, 0))
entries = ctypes.c_int.from_address(queue.value + 28)  # ibv_cq.cqe
for size in (1000, 3, 0):
    print(verbs.ibv_resize_cq(queue, size), entries.value)
print(verbs.ibv_destroy_cq(queue), verbs.ibv_close_device(context))
"""


def test_the_library_resizes_a_completion_queue(lab: Lab) -> None:
    assert output(lab["h1"], "python3", "-c", RESIZE).splitlines() == ["0 1023", "0 3", "22 3", "0 0"]
