"""A service address moves from h1 to h2 while h3 pings it: by `ip address`, by frames of programs, by keepalived."""

import itertools
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ibbond.host.namespace import NetNamespace
from ibbond.wire import arp, nd
from tests.live.running_lab import RunningLab, running
from tests.stack.small_world import ip
from tests.stack.test_moving_address import THREE

PING_MS = 20
MAX_GAP_S = 1.0
ADDRESSES = {"10.0.0.100": "24", "fd00::100": "64"}


@pytest.fixture
def lab3(make_host: Callable[[str], NetNamespace]) -> Iterator[RunningLab]:
    with running(THREE, make_host) as lab:
        assert lab.until(lambda: all(lab.active(host) for host in ("h1", "h2", "h3")))
        yield lab


class Pings:
    """One ping process of h3, from its first answer on."""

    def __init__(self, lab: RunningLab, address: str) -> None:
        command = ["ping", "-n", "-D", "-i", str(PING_MS / 1000), address]
        self._process = lab.spaces["h3"].popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if "bytes from" in line:
                self._began = float(line[1 : line.index("]")])
                return
        raise AssertionError("no answer")

    def longest_gap(self) -> float:
        """Seconds between two answers, the end included."""
        end = time.time()
        self._process.terminate()
        assert self._process.stdout is not None
        answers = [line for line in self._process.stdout if "bytes from" in line]
        self._process.wait()
        times = [self._began, *(float(line[1 : line.index("]")]) for line in answers), end]
        return max(after - before for before, after in itertools.pairwise(times))


def ip_command(lab: RunningLab, host: str, *words: str) -> str:
    done = lab.spaces[host].run(["ip", *words])
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("address", ADDRESSES)
def test_by_ip_address(lab3: RunningLab, address: str) -> None:
    full = f"{address}/{ADDRESSES[address]}"
    ip_command(lab3, "h1", "address", "add", full, "dev", "bond0")
    time.sleep(0.5)  # duplicate address detection
    pings = Pings(lab3, address)
    ip_command(lab3, "h1", "address", "del", full, "dev", "bond0")
    ip_command(lab3, "h2", "address", "add", full, "dev", "bond0")
    time.sleep(1.5)
    assert pings.longest_gap() < MAX_GAP_S
    assert any(where == "h2/bond0" and address in detail for where, detail in lab3.happened("announce"))


SEND_ARP = """
import socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
s.sendto(bytes.fromhex(sys.argv[1]), ("bond0", 0x0806))
"""
SEND_ADVERTISEMENT = """
import socket, sys
s = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
s.sendto(bytes.fromhex(sys.argv[1]), ("ff02::1%bond0", 0))
"""


@pytest.mark.parametrize("address", ADDRESSES)
def test_by_a_frame_of_a_program(lab3: RunningLab, address: str) -> None:
    """The host that announces does not have the address, so that the stack's own announcement is not what counts."""
    ip_command(lab3, "h1", "address", "add", f"{address}/{ADDRESSES[address]}", "dev", "bond0")
    time.sleep(0.5)  # duplicate address detection
    Pings(lab3, address).longest_gap()
    hosts = lab3.loop.network.hosts
    there = hosts["h2"].bond("bond0").device.address
    if "." in address:
        script, payload = SEND_ARP, arp.request(there, ip(address), ip(address)).pack()
    else:
        script = SEND_ADVERTISEMENT
        payload = nd.NeighborAdvertisement(ip(address), nd.ALL_NODES, ip(address), override=True).pack()[40:]
    done = lab3.spaces["h2"].run([sys.executable, "-c", script, payload.hex()])
    assert done.returncode == 0, done.stderr

    def learnt() -> bool:
        entry = hosts["h3"].ip["bond0"].neighbors.get(ip(address))
        return entry is not None and entry.hardware == there

    assert lab3.until(lambda: lab3.loop.ask(learnt), 1)


KEEPALIVED = """
vrrp_instance moving {{
    state BACKUP
    interface bond0
    virtual_router_id 51
    priority {priority}
    version 3
    advert_int 0.2
    virtual_ipaddress {{ 10.0.0.100/24 }}
    virtual_ipaddress_excluded {{ fd00::100/64 }}
}}
"""


@pytest.mark.skipif(shutil.which("keepalived", path="/usr/sbin:/usr/bin") is None, reason="keepalived is not installed")
def test_by_keepalived(lab3: RunningLab, tmp_path: Path) -> None:
    running_ones = []
    for host, priority in (("h1", 200), ("h2", 100)):
        file = tmp_path / f"{host}.conf"
        file.write_text(KEEPALIVED.format(priority=priority))
        command = ["/usr/sbin/keepalived", "-n", "-l", "-f", str(file), "-p", str(tmp_path / f"{host}.pid")]
        command += ["-r", str(tmp_path / f"{host}.vrrp.pid")]
        running_ones.append(lab3.spaces[host].popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    assert lab3.until(lambda: "10.0.0.100" in ip_command(lab3, "h1", "address"), 10)
    time.sleep(0.5)
    four, six = Pings(lab3, "10.0.0.100"), Pings(lab3, "fd00::100")
    running_ones[0].terminate()  # says that it ends; a host that dies is noticed after three intervals
    assert lab3.until(lambda: "10.0.0.100" in ip_command(lab3, "h2", "address"), 10)
    time.sleep(1.5)
    assert four.longest_gap() < MAX_GAP_S
    assert six.longest_gap() < MAX_GAP_S


def test_the_kernel_detects_a_duplicate(lab3: RunningLab) -> None:
    ip_command(lab3, "h1", "address", "add", "fd00::3/64", "dev", "bond0")
    assert "tentative" in ip_command(lab3, "h1", "-6", "address", "show", "dev", "bond0")
    assert lab3.until(lambda: "dadfailed" in ip_command(lab3, "h1", "-6", "address", "show", "dev", "bond0"), 3)
    [(where, detail)] = lab3.happened("duplicate")
    assert where == "h1/bond0"
    assert detail.startswith("fd00::3 is in use at 80:")
    assert all("fd00::3" not in detail for where, detail in lab3.happened("announce") if where == "h1/bond0")


def test_an_ipv4_duplicate_is_reported(lab3: RunningLab) -> None:
    ip_command(lab3, "h1", "address", "add", "10.0.0.3/24", "dev", "bond0")
    assert lab3.until(lambda: bool(lab3.happened("duplicate")), 3)
    assert lab3.happened("duplicate")[0][0] == "h3/bond0"


@pytest.mark.skipif(shutil.which("ndisc6") is None, reason="ndisc6 is not installed")
def test_ndisc6_gets_its_answer(lab3: RunningLab) -> None:
    done = lab3.run("h1", "ndisc6 -1 -w 2000 fd00::2 bond0")
    address = lab3.loop.network.hosts["h2"].bond("bond0").device.address
    assert done.returncode == 0, done.stdout + done.stderr
    assert address.hex(":") in done.stdout.lower()
