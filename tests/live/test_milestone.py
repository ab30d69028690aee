"""Two hosts, one bond each, ibbond's whole stack between real kernels: ping, a cut, ping goes on; TCP flows."""

import json
import subprocess
import threading
import time

import pytest

from ibbond import Lab
from ibbond.testing.lab import LabHost
from tests.live.commands import NO_VIEW, bash, read

needs_view = pytest.mark.skipif(NO_VIEW is not None, reason=str(NO_VIEW))


def failovers(lab: Lab, bond: str) -> list[str]:
    return [event.detail for event in lab.events if (event.what, event.where) == ("failover", bond)]


def index(host: LabHost, device: str) -> int:
    """The kernel's number of a device, 0 if it does not exist."""
    links = json.loads(host.run("ip -json link").stdout)
    return next((link["ifindex"] for link in links if link["ifname"] == device), 0)


def test_ping_survives_a_cut_and_a_return(ib_lab: Lab) -> None:
    files = ib_lab.backend("h1")
    with ib_lab["h1"].popen("ping -c 150 -i 0.01 -W 1 10.0.0.2", stdout=subprocess.PIPE) as ping:
        time.sleep(0.5)
        assert ib_lab.active("h1/bond0") == "ib0"
        ib_lab.cut("h1/ib0")
        ib_lab.wait_active("h1/bond0", "ib1", within=10)
        ib_lab.mend("h1/ib0")
        ib_lab.wait(lambda: files.read("ib0/bonding_slave/mii_status") == "up\n", within=10)
        ib_lab.cut("h1/ib1")
        text = ping.communicate(timeout=60)[0]
    assert failovers(ib_lab, "h1/bond0")[-2:] == ["ib0 -> ib1", "ib1 -> ib0"]
    received = int(text.split(" received")[0].split()[-1])
    assert received >= 148, text


@pytest.mark.parametrize("address", ["10.0.0.2", "fd00::2", "fe80::202:c903:10:11%bond0"])
def test_the_other_host_answers(ib_lab: Lab, address: str) -> None:
    ib_lab["h1"].run(f"ping -c 2 -i 0.1 -W 2 {address}")


@needs_view
def test_tcp_carries_gso_packets_through_a_cut(ib_lab: Lab) -> None:
    ib_lab["h2"].popen("exec iperf3 -s -1", stdout=subprocess.DEVNULL)
    ib_lab.wait(lambda: ":5201" in ib_lab["h2"].run("ss -ltn").stdout, within=10)
    threading.Timer(1.0, lambda: ib_lab.cut("h2/ib0")).start()
    done = ib_lab["h1"].run("iperf3 -c 10.0.0.2 -t 2 -J")
    assert json.loads(done.stdout)["end"]["sum_received"]["bits_per_second"] > 1e7
    assert failovers(ib_lab, "h2/bond0")[-1] == "ib0 -> ib1"
    packets, size = (int(read(ib_lab["h2"], f"ib0/statistics/rx_{what}")) for what in ("packets", "bytes"))
    assert packets > size / 2044, "GSO packets count as their packets"


@needs_view
def test_setting_a_member_down_fails_over_like_a_cut(ib_lab: Lab) -> None:
    assert bash(ib_lab["h1"], "echo 0x1002 > ib0/flags").returncode == 0
    ib_lab.wait_active("h1/bond0", "ib1", within=10)
    ib_lab.wait(lambda: "state DOWN" in ib_lab["h1"].run("ip link show ib0").stdout, within=10)


def test_what_users_do_by_netlink_reaches_the_model(ib_lab: Lab) -> None:
    ib_lab["h1"].run("ip link set ib0 down")
    ib_lab.wait_active("h1/bond0", "ib1", within=10)
    ib_lab["h1"].run("ip link set ib0 up")
    files = ib_lab.backend("h1")
    ib_lab.wait(lambda: files.read("ib0/bonding_slave/mii_status") == "up\n", within=10)


def test_a_deleted_member_device_comes_back(ib_lab: Lab) -> None:
    host = ib_lab["h1"]
    before = index(host, "ib1")
    host.run("ip link del ib1")
    ib_lab.wait(lambda: index(host, "ib1") not in (0, before), within=10)
    host.run("ping -c 1 -W 2 10.0.0.2")


def test_a_deleted_bond_device_deletes_the_bond(ib_lab: Lab) -> None:
    ib_lab["h1"].run("ip link del bond0")
    ib_lab.wait(lambda: ib_lab.status()["hosts"]["h1"]["bonds"] == {}, within=10)
    assert {name for name in ("lo", "ib0", "ib1", "eth0", "bond0") if index(ib_lab["h1"], name)} == {
        "lo",
        "ib0",
        "ib1",
        "eth0",
    }
