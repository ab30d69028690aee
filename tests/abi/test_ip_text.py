"""Texts of ip(8) and /proc/net, as they were printed: read, and rendered so that they read the same."""

import pytest

from ibbond.abi.ip_text import (
    AddressText,
    HopText,
    RouteText,
    parse_addresses,
    parse_if_inet6,
    parse_links,
    parse_proc_ipv6_route,
    parse_proc_route,
    parse_routes,
    render_addresses,
    render_route,
    render_routes,
)

ROUTES = """\
default via 10.0.0.9 dev d1 table 100 metric 5 linkdown
default linkdown
\tnexthop via 10.0.0.7 dev d0 weight 2 linkdown
\tnexthop via 10.0.0.8 dev d1 weight 1 linkdown
10.0.0.0/24 dev d0 proto kernel scope link src 10.0.0.1 linkdown
blackhole 10.9.0.0/16
10.77.0.0/16 via 10.0.0.2 dev d0 onlink linkdown
10.88.0.0/16 via inet6 2001:db8::3 dev d0
default via inet6 fe80::1 dev d0 metric 7
local 10.0.0.1 dev d0 table local proto kernel scope host src 10.0.0.1
2001:db8::/64 dev d0 proto kernel metric 256 linkdown pref medium
2001:db8:5::/48 metric 1024 pref medium
\tnexthop via 2001:db8::7 dev d0 weight 1 linkdown
\tnexthop via 2001:db8::8 dev d0 weight 1 linkdown
default via 2001:db8::9 dev d0 metric 1024 linkdown pref medium
local ::1 dev lo table local proto kernel metric 0 pref medium
"""


def test_routes() -> None:
    routes = parse_routes(ROUTES)
    assert [route.family for route in routes] == [4] * 8 + [6] * 4
    assert routes[0] == RouteText(4, "0.0.0.0/0", (HopText("d1", "10.0.0.9"),), table="100", metric=5)
    assert routes[1].hops == (HopText("d0", "10.0.0.7", weight=2), HopText("d1", "10.0.0.8"))
    assert routes[4].hops == (HopText("d0", "10.0.0.2", onlink=True),)
    assert (routes[7].kind, routes[7].destination, routes[7].table) == ("local", "10.0.0.1/32", "local")
    assert len(routes[9].hops) == 2
    assert parse_routes(render_routes(routes)) == routes


@pytest.mark.parametrize("text", ["", "nonsense", "default", "10.0.0.0/99 dev x", "via via via", "\tnexthop via x"])
def test_what_is_not_a_route_is_passed_over(text: str) -> None:
    assert [route for route in parse_routes(text) if route.hops] == []


def test_a_route_reads_as_ip_takes_it() -> None:
    route = RouteText(4, "10.0.0.0/8", (HopText("ib0", "10.0.0.1"),), metric=3, source="10.0.0.5", protocol="static")
    assert render_route(route) == "10.0.0.0/8 via 10.0.0.1 dev ib0 proto static src 10.0.0.5 metric 3"


def test_addresses_of_ip_and_of_a_bundle() -> None:
    text = (
        "1: lo    inet 127.0.0.1/8 scope host lo\\       valid_lft forever preferred_lft forever\n"
        "7: bond0    inet 10.0.0.1/24 brd 10.0.0.255 scope global dynamic bond0\\       valid_lft 5sec\n"
        "7: bond0    inet6 2001:db8::1/64 scope global dadfailed tentative \\       valid_lft forever\n"
        "9: ib0.8001@ib0    inet 10.5.0.1/24 scope global ib0.8001\n"
    )
    addresses = parse_addresses(text)
    assert addresses[1] == AddressText("bond0", "10.0.0.1/24", frozenset({"dynamic"}))
    assert addresses[2].flags == frozenset({"dadfailed", "tentative", "permanent"})
    assert addresses[3].device == "ib0.8001"
    assert parse_addresses(render_addresses(addresses)) == addresses
    assert parse_addresses("bond0 10.0.0.1/24\nbond0 nonsense\n\n") == [AddressText("bond0", "10.0.0.1/24", None)]


def test_the_kernels_own_files() -> None:
    flags = parse_if_inet6("20010db8000000000000000000000001 07 40 00 c8    bond0\nx\n")
    assert flags == [AddressText("bond0", "2001:db8::1/64", frozenset({"dadfailed", "tentative", "permanent"}))]
    ipv4 = (
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
        "d0\t00000000\t0700000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
        "d1\t0000000A\t00000000\t0001\t0\t0\t9\t00FFFFFF\t0\t0\t0\n"
        "*\t0000090A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n"
    )
    assert parse_proc_route(ipv4) == [
        RouteText(4, "0.0.0.0/0", (HopText("d0", "10.0.0.7"),)),
        RouteText(4, "10.0.0.0/24", (HopText("d1"),), metric=9),
    ]
    gateway, counts = "20010db8" + "0" * 23 + "7", "00000400 00000001 00000000 00000003"
    line = f"20010db80005{'0' * 20} 30 {'0' * 32} 00 {gateway} {counts} d0"
    assert parse_proc_ipv6_route(line) == [
        RouteText(6, "2001:db8:5::/48", (HopText("d0", "2001:db8::7"),), metric=1024)
    ]


def test_links() -> None:
    (bond, child) = parse_links(
        "5: bond0: <BROADCAST,MULTICAST,MASTER,UP,LOWER_UP> mtu 2044 qdisc noqueue state UP mode DEFAULT\n"
        "    link/infiniband 80:00:02:08:fe brd 00:ff:ff promiscuity 0\n    bond mode active-backup miimon 100\n"
        "6: ib0.8001@ib0: <BROADCAST,UP> mtu 4092 master bond0 state DOWN\n"
    )
    assert (bond.name, bond.mtu, bond.type, bond.address) == ("bond0", 2044, "infiniband", "80:00:02:08:fe")
    assert (child.name, child.master, child.words) == ("ib0.8001", "bond0", frozenset({"BROADCAST", "UP"}))
