"""Unmodified RDMA programs of the distribution between lab hosts: those that wait for events, for others spin."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ibbond import Lab
from ibbond.host import notification
from tests.live.background import background, installed, output, rdma_ids

pytestmark = pytest.mark.skipif(notification.why_not() is not None, reason=str(notification.why_not()))
TARGET = "10.0.0.1"
RPING = ("rping", "-V", "-a", TARGET)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as running:
        yield running


def listening(lab: Lab, host: str, port: int) -> bool:
    """Whether a program in the host listens at this TCP port."""
    found = lab[host].run("cat /proc/net/tcp /proc/net/tcp6").stdout
    return any(
        fields[1].endswith(f":{port:04X}") and fields[3] == "0A"
        for line in found.splitlines()
        if len(fields := line.split()) > 3
    )


def pingpong(lab: Lab, *options: str, port: int = 18515) -> tuple[str, str]:
    """What server and client print."""
    words = ("ibv_rc_pingpong", "-e", "-p", str(port), *options)
    with background(lab["h1"], *words) as server:
        lab.wait(lambda: listening(lab, "h1", port) or server.poll() is not None, within=10)
        client = output(lab["h2"], *words, TARGET)
        said, _ = server.communicate(timeout=30)
    assert server.returncode == 0, said
    return said, client


@pytest.mark.skipif(not installed("ibv_rc_pingpong"), reason="ibverbs-utils is not installed")
class TestPingpong:
    @pytest.mark.parametrize("options", [("-c",), ("-c", "-s", "200000", "-g", "0"), ("-i", "2", "-m", "4096")])
    def test_data_arrive_as_they_were_sent(self, lab: Lab, options: tuple[str, ...]) -> None:
        for said in pingpong(lab, "-n", "50", *options):
            assert "50 iters" in said
            assert "invalid" not in said

    @pytest.mark.skipif(not installed("tshark"), reason="tshark is not installed")
    def test_a_capture_shows_its_packets(self, lab: Lab, tmp_path: Path) -> None:
        file = tmp_path / "pingpong.erf"
        with lab.capture("h1/ib0", file):
            pingpong(lab, "-n", "5", "-s", "3000", "-m", "1024", "-c")
        fields = ("infiniband.bth.opcode", "infiniband.bth.psn", "infiniband.aeth.syndrome")
        words = ["tshark", "-r", str(file), "-Y", "infiniband.bth.opcode < 32", "-T", "fields"]
        words += [word for field in fields for word in ("-e", field)]
        found = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        opcodes = [int(line.split("\t")[0]) for line in found.splitlines()]
        assert opcodes.count(0) == opcodes.count(1) == opcodes.count(2) == opcodes.count(17) == 10
        state = lab["h1"].run("cat /sys/class/infiniband/mlx4_0/ports/1/state").stdout
        assert state == "4: ACTIVE\n"

    def test_a_dead_path_ends_it_with_the_error_of_hardware(self, lab: Lab) -> None:
        words = ("ibv_rc_pingpong", "-e", "-p", "18520", "-n", "100000000")
        with background(lab["h1"], *words) as server:
            lab.wait(lambda: listening(lab, "h1", 18520), within=10)
            with background(lab["h2"], *words, TARGET) as client:
                time.sleep(0.5)
                lab.cut("h2/ib0")
                ends = server, client
                lab.wait(lambda: any(end.poll() is not None for end in ends), within=30)
                lab.mend("h2/ib0")
                said = next(end for end in ends if end.poll() is not None).communicate(timeout=5)[0]
        assert "transport retry counter exceeded" in said, "of the one that sent last; the other one receives nothing"


@pytest.mark.skipif(not installed("rping"), reason="rdmacm-utils is not installed")
class TestRping:
    def test_over_the_bond_with_its_data_compared(self, lab: Lab) -> None:
        with background(lab["h1"], *RPING, "-s", "-v", "-C", "5") as server:
            lab.wait(lambda: rdma_ids(lab, "h1"), within=10)
            said = output(lab["h2"], *RPING, "-c", "-v", "-C", "5")
            assert said.count("ping data: rdma-ping-") == 5
            reported, _ = server.communicate(timeout=10)
        assert server.returncode == 0, reported
        assert reported.count("server ping data") == 5
        lab.wait(lambda: not rdma_ids(lab, "h1") and not rdma_ids(lab, "h2"), within=10)  # they end with their programs

    def test_after_a_failover_it_connects_by_the_other_port(self, lab: Lab) -> None:
        def ports() -> set[str]:
            return {one["port"] for one in rdma_ids(lab, "h1") if one["state"] == "connected"}

        with background(lab["h1"], *RPING, "-s", "-P"):
            lab.wait(lambda: rdma_ids(lab, "h1"), within=10)
            with background(lab["h2"], *RPING, "-c", "-C", "1000000"):
                lab.wait(lambda: ports() == {"h1/1"}, within=10)
                assert lab.active("h1/bond0") == "ib0"
                lab.cut("h1/ib0")
                try:
                    said = output(lab["h2"], *RPING, "-c", "-v", "-C", "5", timeout=30)
                    assert said.count("ping data: rdma-ping-") == 5
                finally:
                    lab.mend("h1/ib0")
