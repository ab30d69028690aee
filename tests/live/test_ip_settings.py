"""IP settings read from one device and made on another: what `ip` shows afterwards is the same but for the name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from ibbond.host import ip_settings, ip_settings_read
from ibbond.host.ip_settings import IpAddress, IpNeighbor, IpNexthop, IpRoute, IpRule
from ibbond.host.namespace import NetNamespace
from ibbond.host.rtnetlink import RouteSocket
from ibbond.host.tun import open_tap

SETUP = """
ip addr add 10.0.0.1/24 brd + dev ib0 label ib0:vip
ip addr add 10.0.0.2/24 dev ib0
ip addr add 10.1.0.1 peer 10.1.0.2 dev ib0
ip addr add 10.2.0.1/16 dev ib0 noprefixroute metric 77 valid_lft 600 preferred_lft 300
ip -6 addr add 2001:db8::1/64 dev ib0 nodad
ip -6 addr add 2001:db8:1::1/64 dev ib0 nodad valid_lft 600 preferred_lft 0
ip -6 addr add fe80::1:2:3/64 dev ib0 nodad
ip route add default via 10.0.0.254 dev ib0 src 10.0.0.2 metric 50
ip route add 10.9.0.0/16 via 10.77.0.1 dev ib0 onlink mtu 1400 advmss 1300 proto 42 table 1000
ip route add 10.10.0.0/16 dev ib0 scope link tos 0x10
ip route add 10.11.0.0/16 nexthop via 10.0.0.3 dev ib0 weight 2 nexthop via 192.0.2.9 dev eth0 weight 5
ip route add local 10.12.0.0/24 dev ib0 table 50
ip route add 10.13.0.0/16 via 192.0.2.9 dev eth0 src 10.0.0.2
ip -6 route add default via 2001:db8::fe dev ib0 metric 333 pref high
ip -6 route add 2001:db8:9::/48 via fe80::9 dev ib0 table 51 expires 500
ip nexthop add id 11 via 10.0.0.5 dev ib0 protocol 42
ip nexthop add id 12 via 192.0.2.7 dev eth0
ip nexthop add id 13 group 11/12,3
ip nexthop add id 10 group 11
ip -6 nexthop add id 21 via fe80::21 dev ib0
ip route add 10.20.0.0/16 nhid 11 metric 20
ip route add 10.21.0.0/16 nhid 13
ip -6 route add 2001:db8:21::/48 nhid 21
ip rule add iif ib0 lookup 1000 priority 100
ip -6 rule add oif ib0 lookup 51 priority 101 suppress_prefixlength 0
ip neigh add 10.0.0.77 lladdr 02:00:00:00:00:77 dev ib0
ip neigh add proxy 10.0.0.78 dev ib0
"""
SHOWN = (
    "addr show dev {}",
    "route show table all",
    "-6 route show table all",
    "nexthop show",
    "rule",
    "-6 rule",
    "neigh show dev {} nud permanent",
)


@pytest.fixture
def space(make_host: Callable[[str], NetNamespace]) -> NetNamespace:
    return make_host("h1")


@pytest.fixture
def kernel(space: NetNamespace) -> Iterator[RouteSocket]:
    """A namespace with ib0, bond0 and eth0, all up; eth0 has an address of its own."""
    with closing(space.run_in(RouteSocket)) as made:
        capture_points = [
            open_tap(space, made, name, bytes((2, 0, 0, 0, 0, n))) for n, name in enumerate(("ib0", "bond0", "eth0"))
        ]
        sh(space, "for each in ib0 bond0 eth0; do ip link set $each up; done; ip addr add 192.0.2.1/24 dev eth0")
        yield made
        for mirror in capture_points:
            mirror.close()


def sh(space: NetNamespace, script: str) -> str:
    done = space.run(["sh", "-ec", script])
    assert done.returncode == 0, done.stderr
    return done.stdout


def shown(space: NetNamespace, device: str) -> list[str]:
    """What `ip` says of a device, its names, numbers and what only the kernel made left out."""
    lines = sh(space, "; ".join(f"ip -o {each.format(device)}" for each in SHOWN)).replace(device, "DEV").splitlines()
    drop = r"^[0-9]+: DEV|linkdown|sec\b|[0-9]+sec|nodad|link/ether|proto kernel.*|\\|expires"
    found = [re.sub(r"\s+", " ", re.sub(drop, " ", line)).strip() for line in lines if device == "ib0" or "DEV" in line]
    return sorted(line for line in found if "DEV" in line and not re.search(r"fe80::ff:fe00|ff00::|<", line))


def test_everything_moves(space: NetNamespace, kernel: RouteSocket) -> None:
    sh(space, SETUP)
    before = [line for line in shown(space, "ib0") if "DEV" in line]
    assert len(before) > 15
    settings = [each for each in ip_settings_read.read(kernel) if "ib0" in each.devices or isinstance(each, IpRoute)]
    kinds = [type(each) for each in settings]
    assert [kinds.count(kind) for kind in (IpAddress, IpNexthop, IpRoute, IpNeighbor, IpRule)] == [7, 4, 11, 2, 2]
    for each in reversed(settings):
        ip_settings.delete(kernel, each)
        ip_settings.delete(kernel, each)  # one that is not there is fine
    assert not [each for each in ip_settings_read.read(kernel) if "ib0" in each.devices]
    moved = [each.on({"ib0": "bond0"}) for each in settings]
    for each in moved:
        ip_settings.add(kernel, each)
        ip_settings.add(kernel, each)
    assert shown(space, "bond0") == before
    there = ip_settings_read.read(kernel)
    assert [each for each in moved if each not in there] == []
    lifetimes = {each.text: each for each in there if isinstance(each, IpAddress)}
    assert 590 <= lifetimes["10.2.0.1/16"].valid <= 600
    assert lifetimes["2001:db8:1::1/64"].preferred == 0


def test_words_are_those_of_ip(space: NetNamespace, kernel: RouteSocket) -> None:
    sh(space, SETUP)
    words = [str(each) for each in ip_settings_read.read(kernel)]
    for expected in (
        "address 10.0.0.1/24 label ib0:vip dev ib0",
        "address 10.1.0.1/32 peer 10.1.0.2 dev ib0",
        "route default via 10.0.0.254 dev ib0 src 10.0.0.2 metric 50",
        "route 10.9.0.0/16 via 10.77.0.1 dev ib0 onlink table 1000",
        "route 10.11.0.0/16 nexthop via 10.0.0.3 dev ib0 nexthop via 192.0.2.9 dev eth0",
        "route local 10.12.0.0/24 dev ib0 table 50",
        "route 2001:db8:9::/48 via fe80::9 dev ib0 table 51",
        "nexthop id 11 via 10.0.0.5 dev ib0",
        "nexthop id 13 group 11/12",
        "route 10.21.0.0/16 nhid 13",
        "neighbor 10.0.0.77 lladdr 02:00:00:00:00:77 dev ib0",
        "neighbor proxy 10.0.0.78 dev ib0",
        "rule 100: iif ib0 lookup 1000",
    ):
        assert expected in words, (expected, words)


def test_what_the_kernel_made_is_left_to_it(space: NetNamespace, kernel: RouteSocket) -> None:
    sh(space, "ip addr add 10.0.0.1/24 dev ib0")
    found = [each for each in ip_settings_read.read(kernel) if "ib0" in each.devices]
    assert [str(each) for each in found] == ["address 10.0.0.1/24 dev ib0"]
