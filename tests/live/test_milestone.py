"""Two hosts, one bond each, the whole stack of ours between real kernels: ping, a cut, ping goes on; TCP flows."""

import functools
import json
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from ibbond.fabric.events import Cut, Mend
from ibbond.host.loop import LiveLoop
from ibbond.host.netns import Space
from ibbond.host.rtnetlink import RouteSocket
from ibbond.stack.build import build
from ibbond.stack.events import Happened, NetworkEffect, NetworkEvent, OnHost, OnSubnet, SetAdmin
from ibbond.topology.default import TWO_HOSTS
from ibbond.topology.load import parse

MakeHost = Callable[[str], Space]


@dataclass
class RunningLab:
    """The default lab, driven by a thread; `told` gathers what happened."""

    loop: LiveLoop
    spaces: dict[str, Space]
    told: list[tuple[int, NetworkEffect]] = field(default_factory=list)

    def do(self, event: NetworkEvent) -> None:
        self.loop.ask(functools.partial(self.loop.handle, event))

    def happened(self, what: str) -> list[tuple[str, str]]:
        return [(fact.where, fact.detail) for _, fact in self.told if isinstance(fact, Happened) and fact.what == what]

    def active(self, host: str) -> str | None:
        return self.loop.ask(lambda: self.loop.network.hosts[host].bond("bond0").active)

    def user(self, host: str) -> RouteSocket:
        """What a user inside the host does with `ip`, by a socket of his own."""
        return self.spaces[host].within(RouteSocket)

    def run(self, host: str, command: str) -> subprocess.CompletedProcess[str]:
        return self.spaces[host].run(command.split())

    def until(self, condition: Callable[[], bool], seconds: float = 5) -> bool:
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                return False
            time.sleep(0.01)
        return True


@pytest.fixture
def lab2(make_host: MakeHost) -> Iterator[RunningLab]:
    topology = parse(TWO_HOSTS)
    spaces = {host.name: make_host(host.name) for host in topology.hosts}
    loop = LiveLoop(build(topology, random=random.Random(1)), spaces)
    running = RunningLab(loop, spaces)
    loop.listeners.append(lambda now, effect: running.told.append((now, effect)))
    loop.open()
    for host in topology.hosts:
        loop.hosts[host.name].configure(host)
    thread = threading.Thread(target=loop.run)
    thread.start()
    yield running
    loop.stop()
    thread.join()
    loop.close()


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


def test_tcp_carries_trains_through_a_cut(lab2: RunningLab) -> None:
    server = lab2.spaces["h2"].popen(["iperf3", "-s", "-1"], stdout=subprocess.DEVNULL)
    time.sleep(0.3)
    threading.Timer(1.0, lambda: lab2.do(OnSubnet(Cut("h2/1")))).start()
    done = lab2.run("h1", "iperf3 -c 10.0.0.2 -t 2 -J")
    server.wait(10)
    assert done.returncode == 0, done.stdout
    result = json.loads(done.stdout)["end"]["sum_received"]
    assert result["bits_per_second"] > 1e8
    assert ("h2/bond0", "ib0 -> ib1") in lab2.happened("failover")
    device = lab2.loop.ask(lambda: (lab2.loop.settle(), lab2.loop.network.hosts["h2"].namespace.get("ib0"))[1])
    assert device is not None
    assert device.statistics.rx_packets > device.statistics.rx_bytes / 2044  # trains count as their packets


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
