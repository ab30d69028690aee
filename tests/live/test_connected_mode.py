"""Connected mode in a real lab: the mode file, packets of 65520 bytes, peers of other kinds, failover, captures."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ibbond import Lab
from tests.live.commands import IBBOND, NO_VIEW, bash, commanded_lab, kill, read, resume, sound_lab, unique

pytestmark = pytest.mark.skipif(NO_VIEW is not None, reason=str(NO_VIEW))

LAB = """
[switches]
s1 = {}
s2 = {}

[[links]]
between = ["s1", "s2"]
count = 2

[hosts.h1]
mode = "connected"
ports = { ib0 = "s1", ib1 = "s2" }
bonds.bond0 = { members = ["ib0", "ib1"], addresses = ["10.0.0.1/24", "fd00::1/64"] }

[hosts.h2]
mode = "connected"
ports = { ib0 = "s1", ib1 = "s2" }
bonds.bond0 = { members = ["ib0", "ib1"], addresses = ["10.0.0.2/24", "fd00::2/64"] }

[hosts.h3]
mode = "datagram-only"
ports = { ib0 = "s1", ib1 = "s2" }
bonds.bond0 = { members = ["ib0", "ib1"], addresses = ["10.0.0.3/24", "fd00::3/64"] }

[hosts.h4]
ports = { ib0 = "s1", ib1 = "s2" }
devices.ib0 = { addresses = ["10.0.1.4/24"] }
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with sound_lab(LAB) as lab:
        yield lab


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


def active(lab: Lab, host: str) -> str:
    return read(lab[host], "bond0/bonding/active_slave").strip()


def ping(lab: Lab, target: str, *words: str, host: str = "h1") -> tuple[int, str]:
    """How many of ten were answered, and what ping said."""
    done = lab[host].run(["ping", "-n", "-c", "10", "-i", "0.05", "-W", "1", *words, target], check=False)
    said = done.stdout + done.stderr
    return int(said.split(" received")[0].split()[-1]), said


def test_the_topologys_mode_is_what_the_files_and_links_say(lab: Lab) -> None:
    assert read(lab["h1"], "ib0/mode") == "connected\n"
    assert read(lab["h1"], "ib0/mtu") == read(lab["h1"], "bond0/mtu") == "65520\n"
    assert read(lab["h3"], "ib0/mode") == "datagram\n"
    assert read(lab["h1"], "ib0/address")[:2] == "80"
    assert read(lab["h3"], "ib0/address")[:2] == "00"
    assert "mtu 65520" in lab["h1"].run(["ip", "link", "show", "bond0"]).stdout, "the kernel's device too"


@needs("ping")
@pytest.mark.parametrize(("target", "size"), [("10.0.0.2", "65492"), ("fd00::2", "65472")])
def test_a_packet_of_65520_bytes_goes_unfragmented(lab: Lab, target: str, size: str) -> None:
    answered, said = ping(lab, target, "-M", "do", "-s", size)
    assert answered == 10, said


@needs("ping")
@pytest.mark.parametrize("target", ["10.0.0.3", "fd00::3"])
def test_a_peer_without_the_mode_is_reached_in_pieces_once_the_kernel_is_reported(lab: Lab, target: str) -> None:
    answered, said = ping(lab, target, "-s", "20000")
    assert answered >= 9, said  # the first one is lost, and taught the path's MTU
    assert "2044" in said
    answered, said = ping(lab, target, "-M", "do", "-s", "20000")
    assert answered == 0
    assert "2044" in said


@needs("iperf3")
@pytest.mark.parametrize("target", ["10.0.0.2", "10.0.0.3"])
def test_tcp_goes_on_through_failover_and_failback(lab: Lab, target: str) -> None:
    host = f"h{target[-1]}"
    with lab[host].popen(["iperf3", "-s", "-1"], stdout=subprocess.PIPE) as server:
        time.sleep(1)
        with lab["h1"].popen(["iperf3", "-c", target, "-t", "5", "-i", "0.5", "-J"], stdout=subprocess.PIPE) as client:
            time.sleep(1)
            first = active(lab, "h1")
            lab.cut(f"h1/{first}")
            time.sleep(1)
            second = active(lab, "h1")
            lab.mend(f"h1/{first}")
            time.sleep(0.7)
            lab.cut(f"h1/{second}")
            out, _ = client.communicate(timeout=60)
        server.communicate(timeout=20)
    lab.mend(f"h1/{second}")
    assert second != first
    assert active(lab, "h1") == first
    report = json.loads(out)
    moved = [interval["sum"]["bytes"] for interval in report["intervals"]]
    assert all(moved), f"half a second without a byte: {moved}"
    assert report["end"]["sum_received"]["bytes"] > 100_000_000
    if target == "10.0.0.2":
        assert report["start"]["tcp_mss_default"] > 30_000, "half of the first window"


@needs("ping")
def test_large_packets_are_lost_by_no_failover_of_the_peer(lab: Lab) -> None:
    first = active(lab, "h2")
    with lab["h1"].popen(
        ["ping", "-n", "-q", "-i", "0.02", "-c", "150", "-s", "60000", "10.0.0.2"],
        stdout=subprocess.PIPE,
    ) as running:
        time.sleep(0.8)
        lab.cut(f"h2/{first}")
        time.sleep(1)
        lab.mend(f"h2/{first}")
        out = running.communicate(timeout=60)[0]
    received = int(out.split(" received")[0].split()[-1])
    assert received >= 147, out


def test_the_mode_file(lab: Lab) -> None:
    """On a device of its own: `ipoib_set_mode` with its MTUs, words and errors."""
    changed = bash(lab["h4"], "echo connected > ib0/mode; cat ib0/mode ib0/mtu; ip -o link show ib0").stdout
    assert changed.startswith("connected\n65520\n")
    assert "mtu 65520" in changed
    assert bash(lab["h4"], "ip link set ib0 mtu 30000; echo datagram > ib0/mode; cat ib0/mtu").stdout == "2044\n"
    changed = bash(lab["h4"], "ip link set ib0 mtu 1500; echo datagram > ib0/mode; cat ib0/mtu").stdout
    assert changed == "1500\n"
    for text in ("connected", "reliable\\n", "\\n"):
        refused = bash(lab["h4"], f"printf '{text}' > ib0/mode")
        assert refused.returncode != 0
        assert "Invalid argument" in refused.stderr, text
    refused = bash(lab["h3"], "echo connected > ib0/mode")
    assert "Invalid argument" in refused.stderr, "its driver has no connected mode"
    for asked in (2045, 4093):  # what the group carries, and more than the port does
        bash(lab["h4"], f"ip link set ib0 mtu {asked}")
        assert bash(lab["h4"], "sleep 0.2; cat ib0/mtu").stdout == "2044\n"


def test_the_mode_outlives_a_lab_that_was_killed() -> None:
    with commanded_lab(unique("revived")) as lab:
        for host in ("h1", "h2"):
            bash(lab[host], "for ib in ib0 ib1; do echo connected > $ib/mode; done; ip link set bond0 mtu 65520")
        time.sleep(0.5)  # what must be remembered is written down a little later
        kill(lab)
        resume(lab)
        for name in ("ib0", "ib1"):
            assert bash(lab["h1"], f"cat {name}/mode {name}/mtu").stdout == "connected\n65520\n"
        answered, said = ping(lab, "10.0.0.2", "-M", "do", "-s", "65492")
        assert answered >= 9, said


def test_a_bond_of_both_modes_is_reported_by_check(lab: Lab) -> None:
    bash(lab["h1"], "echo datagram > ib1/mode")
    try:
        found = lab["h1"].run([IBBOND, "check"], check=False).stdout
        assert "transport-mode-differs" in found
    finally:
        bash(lab["h1"], "echo connected > ib1/mode; ip link set bond0 mtu 65520")
    assert read(lab["h1"], "ib1/mtu") == "65520\n"


@needs("tshark")
def test_a_capture_shows_request_reply_and_large_packets(lab: Lab, tmp_path: Path) -> None:
    file = tmp_path / "port.pcap"
    port = active(lab, "h1")
    change = f"echo datagram > {port}/mode; echo connected > {port}/mode; ping -c 1 -M do -s 65492 10.0.0.2"
    with lab.capture(f"h1/{port}", file):
        bash(lab["h1"], change)
    shown = subprocess.run(["tshark", "-r", str(file)], text=True, capture_output=True, timeout=60).stdout
    for words in ("CM: ConnectRequest", "CM: ConnectReply", "CM: ReadyToUse", "RC Send Middle", "RC Acknowledge"):
        assert words in shown, shown
    assert "Echo (ping) request" in shown
    fields = ["infiniband.cm.req.serviceid", "infiniband.cm.req.maxcmretr", "infiniband.cm.req.prim_remotegid"]
    command = ["tshark", "-r", str(file), "-T", "fields", "-Y", "infiniband.cm.req"]
    for field in fields:
        command += ["-e", field]
    said = subprocess.run(command, text=True, capture_output=True, timeout=60).stdout
    asked = {int(row[0], 16): row[1:] for line in said.splitlines() if (row := line.split("\t"))}
    qpn = int(read(lab["h2"], f"{active(lab, 'h2')}/address").replace(":", "")[2:8], 16)
    retries, gid = asked[0x10 << 56 | qpn]
    assert int(retries, 16) == 15
    assert gid.startswith("fe80::2:c903:10:1"), "an HCA port of h2"


@needs("tshark")
def test_a_capture_of_the_bond_shows_whole_ip_packets(lab: Lab, tmp_path: Path) -> None:
    file = tmp_path / "bond.pcap"
    with lab.capture("h1/bond0", file):
        lab["h1"].run(["ping", "-c", "2", "-i", "0.2", "-M", "do", "-s", "9000", "10.0.0.2"])
    words = ["tshark", "-r", str(file), "-T", "fields", "-Y", "icmp", "-e", "icmp.type", "-e", "ip.len"]
    shown = subprocess.run(words, text=True, capture_output=True, timeout=60).stdout
    assert shown.split("\n")[:4] == ["8\t9028", "0\t9028"] * 2
