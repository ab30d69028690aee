"""Unmodified RDMA programs of the distribution between lab hosts: those that wait for events, for others spin."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ibbond.host import notification
from tests.live.verbs_lab import VerbsLab, installed, until, verbs_lab

pytestmark = pytest.mark.skipif(notification.why_not() is not None, reason=str(notification.why_not()))
TARGET = "10.0.0.1"


@pytest.fixture(scope="module")
def lab() -> Iterator[VerbsLab]:
    with verbs_lab(f"verbs{os.getpid() % 100000}") as running:
        yield running


def listening(lab: VerbsLab, host: str, port: int) -> bool:
    """Whether someone in the host listens at this TCP port."""
    found = lab.run(host, "cat", "/proc/net/tcp", "/proc/net/tcp6")
    return any(
        fields[1].endswith(f":{port:04X}") and fields[3] == "0A"
        for line in found.splitlines()
        if len(fields := line.split()) > 3
    )


def pingpong(lab: VerbsLab, *options: str, port: int = 18515) -> tuple[str, str]:
    """What server and client print."""
    words = ("ibv_rc_pingpong", "-e", "-p", str(port), *options)
    server = lab.run_in_background("h1", *words)
    try:
        assert until(lambda: listening(lab, "h1", port) or server.poll() is not None)
        client = lab.run("h2", *words, TARGET)
        said, _ = server.communicate(timeout=30)
        assert server.returncode == 0, said
        return said, client
    finally:
        lab.end(server)


@pytest.mark.skipif(not installed("ibv_rc_pingpong"), reason="ibverbs-utils is not installed")
class TestPingpong:
    @pytest.mark.parametrize("options", [("-c",), ("-c", "-s", "200000", "-g", "0"), ("-i", "2", "-m", "4096")])
    def test_data_arrive_as_they_were_sent(self, lab: VerbsLab, options: tuple[str, ...]) -> None:
        for said in pingpong(lab, "-n", "50", *options):
            assert "50 iters" in said
            assert "invalid" not in said

    @pytest.mark.skipif(not installed("tshark"), reason="tshark is not installed")
    def test_a_capture_shows_its_packets(self, lab: VerbsLab, tmp_path: Path) -> None:
        file = tmp_path / "pingpong.erf"
        with lab.capture("h1/ib0", file):
            pingpong(lab, "-n", "5", "-s", "3000", "-m", "1024", "-c")
        fields = ("infiniband.bth.opcode", "infiniband.bth.psn", "infiniband.aeth.syndrome")
        words = ["tshark", "-r", str(file), "-Y", "infiniband.bth.opcode < 32", "-T", "fields"]
        words += [word for field in fields for word in ("-e", field)]
        found = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        opcodes = [int(line.split("\t")[0]) for line in found.splitlines()]
        assert opcodes.count(0) == opcodes.count(1) == opcodes.count(2) == opcodes.count(17) == 10
        assert lab.run("h1", "cat", "/sys/class/infiniband/mlx4_0/ports/1/state") == "4: ACTIVE\n"

    def test_a_dead_path_ends_it_with_the_error_of_hardware(self, lab: VerbsLab) -> None:
        words = ("ibv_rc_pingpong", "-e", "-p", "18520", "-n", "100000000")
        server = lab.run_in_background("h1", *words)
        assert until(lambda: listening(lab, "h1", 18520))
        client = lab.run_in_background("h2", *words, TARGET)
        time.sleep(0.5)
        lab.cut("h2/ib0")
        ends = server, client
        assert until(lambda: any(end.poll() is not None for end in ends), 30)
        lab.mend("h2/ib0")
        said = next(end for end in ends if end.poll() is not None).communicate(timeout=5)[0]
        for end in ends:
            lab.end(end)
        assert "transport retry counter exceeded" in said, "of the one that sent last; the other one receives nothing"


@pytest.mark.skipif(not installed("rping"), reason="rdmacm-utils is not installed")
class TestRping:
    def test_over_the_bond_with_its_data_compared(self, lab: VerbsLab) -> None:
        server = lab.run_in_background("h1", "rping", "-s", "-v", "-V", "-C", "5", "-a", TARGET)
        assert until(lambda: bool(lab.rdma_ids("h1")))
        said = lab.run("h2", "rping", "-c", "-v", "-V", "-C", "5", "-a", TARGET)
        assert said.count("ping data: rdma-ping-") == 5
        reported, _ = server.communicate(timeout=10)
        assert server.returncode == 0, reported
        assert reported.count("server ping data") == 5
        lab.end(server)
        assert until(lambda: not lab.rdma_ids("h1") and not lab.rdma_ids("h2")), "all ids went with their programs"

    def test_after_a_failover_it_connects_by_the_other_port(self, lab: VerbsLab) -> None:
        def ports() -> set[str]:
            return {one["port"] for one in lab.rdma_ids("h1") if one["state"] == "connected"}

        server = lab.run_in_background("h1", "rping", "-s", "-P", "-V", "-a", TARGET)
        assert until(lambda: bool(lab.rdma_ids("h1")))
        before = lab.run_in_background("h2", "rping", "-c", "-V", "-C", "1000000", "-a", TARGET)
        assert until(lambda: ports() == {"h1/1"})
        seen = lab.status()["hosts"]["h1"]["bonds"]["bond0"]["active"]
        assert seen == "ib0"
        lab.cut("h1/ib0")
        try:
            said = lab.run("h2", "rping", "-c", "-v", "-V", "-C", "5", "-a", TARGET, timeout=30)
            assert said.count("ping data: rdma-ping-") == 5
        finally:
            lab.mend("h1/ib0")
            lab.end(before)
            lab.end(server)
