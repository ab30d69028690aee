"""Two hosts, one bond each, ibbond's whole stack between real kernels: ping, a cut, ping goes on; TCP flows."""

import json
import subprocess
import threading
import time

import pytest

from ibbond.fabric.events import Cut, Mend
from ibbond.stack.events import OnHost, OnSubnet, SetAdmin
from tests.live.running_lab import RunningLab


def test_ping_survives_a_cut_and_a_return(lab2: RunningLab) -> None:
    command = "ping -c 150 -i 0.01 -W 1 10.0.0.2"
    with lab2.spaces["h1"].popen(command.split(), stdout=subprocess.PIPE, text=True) as ping:
        time.sleep(0.5)
        assert lab2.active("h1") == "ib0"
        lab2.do(OnSubnet(Cut("h1/1")))
        time.sleep(0.3)
        assert lab2.active("h1") == "ib1"
        lab2.do(OnSubnet(Mend("h1/1")))
        time.sleep(0.3)
        lab2.do(OnSubnet(Cut("h1/2")))
        assert ping.stdout is not None
        text = ping.stdout.read()
    assert ("h1/bond0", "ib0 -> ib1") in lab2.happened("failover")
    assert ("h1/bond0", "ib1 -> ib0") in lab2.happened("failover")
    received = int(text.split(" received")[0].split()[-1])
    assert received >= 148, text


@pytest.mark.parametrize("address", ["10.0.0.2", "fd00::2", "fe80::202:c903:10:11%bond0"])
def test_the_other_host_answers(lab2: RunningLab, address: str) -> None:
    done = lab2.run("h1", f"ping -c 2 -i 0.1 -W 2 {address}")
    assert done.returncode == 0, done.stdout + done.stderr


def test_tcp_carries_gso_packets_through_a_cut(lab2: RunningLab) -> None:
    server = lab2.spaces["h2"].popen(["iperf3", "-s", "-1"], stdout=subprocess.DEVNULL)
    time.sleep(0.3)
    threading.Timer(1.0, lambda: lab2.do(OnSubnet(Cut("h2/1")))).start()
    done = lab2.run("h1", "iperf3 -c 10.0.0.2 -t 2 -J")
    server.wait(10)
    assert done.returncode == 0, done.stdout
    result = json.loads(done.stdout)["end"]["sum_received"]
    assert result["bits_per_second"] > 1e8
    assert ("h2/bond0", "ib0 -> ib1") in lab2.happened("failover")
    device = lab2.loop.ask(lambda: (lab2.loop.flush_counters(), lab2.loop.network.hosts["h2"].namespace.get("ib0"))[1])
    assert device is not None
    assert device.statistics.rx_packets > device.statistics.rx_bytes / 2044  # GSO packets count as their packets


def test_setting_a_member_down_fails_over_like_a_cut(lab2: RunningLab) -> None:
    lab2.do(OnHost("h1", SetAdmin("ib0", up=False)))
    assert lab2.active("h1") == "ib1"
    assert lab2.run("h1", "cat /sys/class/net/ib0/operstate").stdout.strip() == "down"


def test_what_users_do_by_netlink_reaches_the_model(lab2: RunningLab) -> None:
    user = lab2.user("h1")
    user.set_up(user.link("ib0").index, False)  # `ip link set ib0 down`
    assert lab2.until(lambda: lab2.active("h1") == "ib1")
    user.set_up(user.link("ib0").index, True)
    assert lab2.until(lambda: ("h1/ib0", "up") in lab2.happened("admin")[-2:])


def test_an_mtu_that_the_subnet_cannot_carry_is_put_back(lab2: RunningLab) -> None:
    user = lab2.user("h1")
    user.set_mtu(user.link("bond0").index, 9000)
    assert lab2.until(lambda: user.link("bond0").mtu == 2044)


def test_a_deleted_member_device_comes_back(lab2: RunningLab) -> None:
    user = lab2.user("h1")
    before = user.link("ib1").index
    user.delete_link(before)
    assert lab2.until(lambda: "ib1" in {link.name for link in user.links()} and user.link("ib1").index != before)
    assert lab2.run("h1", "ping -c 1 -W 2 10.0.0.2").returncode == 0


def test_a_deleted_bond_device_deletes_the_bond(lab2: RunningLab) -> None:
    user = lab2.user("h1")
    user.delete_link(user.link("bond0").index)
    assert lab2.until(lambda: lab2.loop.ask(lambda: "bond0" not in lab2.loop.network.hosts["h1"].namespace))
    assert {link.name for link in user.links()} == {"lo", "ib0", "ib1", "eth0"}
