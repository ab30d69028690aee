"""What a running lab owes its hosts: groups that programs join, gateways, restarts, and no growth."""

import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from ibbond.fabric.events import Cut, Mend
from ibbond.host.namespace import NetNamespace
from ibbond.stack.events import CreateBond, DeleteBond, OnHost, OnSubnet
from ibbond.topology.default import TWO_HOSTS
from tests.live.running_lab import RunningLab, running

GATEWAY = """
mtu = 2044
[switches]
s1 = {}

[hosts.h1]
ports = { ib0 = "s1" }
routes = [{ to = "10.2.0.0/24", via = "10.1.0.9" }]
[hosts.h1.devices.ib0]
addresses = ["10.1.0.1/24"]

[hosts.gw]
ports = { ib0 = "s1", ib1 = "s1" }
forward = true
[hosts.gw.devices.ib0]
addresses = ["10.1.0.9/24"]
[hosts.gw.devices.ib1]
addresses = ["10.2.0.9/24"]

[hosts.h2]
ports = { ib0 = "s1" }
routes = [{ to = "10.1.0.0/24", via = "10.2.0.9" }]
[hosts.h2.devices.ib0]
addresses = ["10.2.0.2/24"]
"""
LISTENER = """
import socket, struct, sys
group, port = socket.inet_aton("239.1.2.3"), 7100
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as program:
    program.bind(("239.1.2.3", port))
    program.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group + socket.inet_aton("10.0.0.2"))
    print("ready", flush=True)
    program.settimeout(10)
    print(program.recv(100).decode(), flush=True)
    sys.stdin.readline()
"""
TALKER = """
import socket, time
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as program:
    program.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("10.0.0.1"))
    program.sendto(b"hello, group", ("239.1.2.3", 7100))
"""
GARBAGE = """
import random, socket
draw = random.Random(7)
ipv4 = bytes.fromhex("450000ff00000000400100000a0000010a000002")
ipv6 = bytes.fromhex("6000000000100001") + bytes(16) + bytes.fromhex("fd") + bytes(14) + b"\\2"
heads = (b"", b"\\x45", b"\\x46\\xc0", b"\\x60", b"\\x00", ipv4, ipv6)
with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as program:
    for number in range(1500):
        packet = heads[number % len(heads)] + draw.randbytes(draw.choice((0, 1, 5, 19, 20, 39, 40, 48, 60, 1000)))
        if packet:
            program.sendto(packet, ("bond0", 0x0800, 0, 0, b""))
"""
GROUP = bytes.fromhex("00ffffffff12401bffff0000000000000f010203")


def test_a_programs_group_becomes_a_group_of_the_subnet_and_ends_with_it(lab2: RunningLab) -> None:
    def joined() -> bool:
        host = lab2.loop.network.hosts["h2"]
        return lab2.loop.ask(lambda: all(GROUP in host.device(name).multicast for name in ("bond0", "ib0")))

    assert not joined()
    command = ["python3", "-c", LISTENER]
    with lab2.spaces["h2"].popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as listener:
        assert listener.stdout is not None
        assert listener.stdout.readline() == "ready\n"
        assert lab2.until(joined)
        assert lab2.spaces["h1"].run(["python3", "-c", TALKER]).returncode == 0
        assert listener.stdout.readline() == "hello, group\n"
        listener.kill()
    assert lab2.until(lambda: not joined())


def test_a_gateway_forwards_between_two_prefixes(make_host: Callable[[str], NetNamespace]) -> None:
    with running(GATEWAY, make_host) as lab:
        done = lab.run("h1", "ping -c 3 -i 0.05 -W 2 10.2.0.2")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "ttl=63" in done.stdout


def test_a_bond_made_while_it_runs_gets_its_device(lab2: RunningLab) -> None:
    lab2.do(OnHost("h1", CreateBond("bond7")))
    user = lab2.user("h1")
    assert user.link("bond7").type == 32
    lab2.do(OnHost("h1", DeleteBond("bond7")))
    assert "bond7" not in {link.name for link in user.links()}


def test_a_second_loop_finds_the_hosts_as_the_first_left_them(make_host: Callable[[str], NetNamespace]) -> None:
    """The devices persist, so a daemon that is started again goes on with the same ones."""
    spaces: dict[str, NetNamespace] = {}

    def once(host: str) -> NetNamespace:
        if host not in spaces:
            spaces[host] = make_host(host)
        return spaces[host]

    with running(TWO_HOSTS, once, persist=True) as lab:
        user = lab.user("h1")
        before = {link.name: link.index for link in user.links()}
        addresses = {(each.index, each.address) for each in user.addresses()}
        user.add_route(bytes((10, 9, 0, 0)), 16, gateway=bytes((10, 0, 0, 2)))
        assert lab.run("h1", "ping -c 1 -W 2 10.0.0.2").returncode == 0
    with running(TWO_HOSTS, once) as lab:
        assert {link.name: link.index for link in user.links()} == before
        assert {(each.index, each.address) for each in user.addresses()} == addresses
        assert bytes((10, 9, 0, 0)) in {route.destination for route in user.routes()}  # never set down
        assert lab.run("h1", "ping -c 1 -W 2 10.0.0.2").returncode == 0


def test_failovers_leave_nothing_behind(lab2: RunningLab) -> None:
    def owned() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    def usable(member: str) -> bool:
        device = lab2.loop.ask(lambda: lab2.loop.network.hosts["h1"].device(member))
        return device.usable

    assert lab2.run("h1", "ping -c 1 -W 2 10.0.0.2").returncode == 0
    before = owned()
    for _ in range(20):
        for port, member, other in (("h1/1", "ib0", "ib1"), ("h1/2", "ib1", "ib0")):
            lab2.do(OnSubnet(Cut(port)))
            assert lab2.active("h1") == other
            lab2.do(OnSubnet(Mend(port)))
            assert lab2.until(partial(usable, member))
    descriptors, threads = owned()
    assert descriptors <= before[0]  # fewer, where the interpreter collects what an earlier test left
    assert threads <= before[1]
    assert lab2.run("h1", "ping -c 1 -W 2 10.0.0.2").returncode == 0


def test_bytes_that_are_no_packets_do_no_harm(lab2: RunningLab) -> None:
    """A program with a packet socket can send anything through a device."""
    done = lab2.spaces["h1"].run([sys.executable, "-c", GARBAGE])
    assert done.returncode == 0, done.stderr
    assert lab2.run("h1", "ping -c 2 -i 0.1 -W 2 10.0.0.2").returncode == 0
    assert lab2.loop.network.hosts["h1"].ip["bond0"].counts.malformed > 100


def test_an_ordinary_user_runs_a_lab(lab: str) -> None:
    script = f"""
        import ctypes, os, sys
        sys.path.insert(0, {str(Path(__file__).parents[2])!r})
        from tests.live.running_lab import running
        from ibbond.host import namespace
        from ibbond.host.privilege import become_root
        from ibbond.topology.default import TWO_HOSTS
        if os.geteuid() == 0:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE, as a program that began as this user is
        become_root()
        made = []
        def make(host):
            made.append(namespace.make(sys.argv[1], host))
            return made[-1]
        with running(TWO_HOSTS, make) as lab:
            print(lab.run("h1", "ping -c 2 -i 0.2 -W 2 10.0.0.2").stdout)
        for space in made:
            space.remove()
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script), lab], text=True, capture_output=True)
    if "cannot become root" in done.stderr:
        pytest.skip("user namespaces are not allowed here")
    if not os.stat("/dev/net/tun").st_mode & 0o006:
        pytest.skip("ordinary users may not open /dev/net/tun here (mode 0666 on most distributions)")
    assert "2 received" in done.stdout, done.stderr
