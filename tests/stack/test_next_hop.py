"""The next hop of a packet: longest prefix, metric, gateways of both families, on-link and broadcast addresses."""

from ipaddress import ip_address

import pytest

from ibbond.stack.events import RouteEntry
from ibbond.stack.next_hop import NextHops


def packed(text: str) -> bytes:
    return ip_address(text).packed


def route(destination: str, gateway: str = "", *, device: str = "bond0", metric: int = 0) -> RouteEntry:
    network, _, prefix = destination.partition("/")
    return RouteEntry(packed(network), int(prefix), device, packed(gateway) if gateway else b"", metric)


@pytest.fixture
def hops() -> NextHops:
    hops = NextHops()
    hops.set_addresses("bond0", ((packed("10.0.0.1"), 24), (packed("fd00::1"), 64)))
    hops.set_addresses("bond1", ((packed("10.0.1.1"), 24),))
    hops.set_routes(
        (
            route("0.0.0.0/0", "10.0.0.254"),
            route("10.9.0.0/16", "10.0.0.9"),
            route("10.9.9.0/24", "10.0.0.99"),
            route("10.9.9.0/24", "10.0.0.98", metric=100),
            route("10.8.0.0/16", "10.0.1.8", device="bond1"),
            route("10.7.0.0/16", "fd00::7"),
            route("fd01::/32", "fe80::1"),
            route("::/0", "fd00::254"),
        )
    )
    return hops


@pytest.mark.parametrize(
    ("destination", "hop"),
    [
        ("10.0.0.2", "10.0.0.2"),
        ("10.9.1.1", "10.0.0.9"),
        ("10.9.9.1", "10.0.0.99"),
        ("10.8.0.1", "10.0.0.254"),  # the longer route leaves by another device
        ("10.7.0.1", "fd00::7"),
        ("192.0.2.1", "10.0.0.254"),
        ("fd00::2", "fd00::2"),
        ("fd01::2", "fe80::1"),
        ("2001:db8::1", "fd00::254"),
        ("fe80::2", "fe80::2"),
    ],
)
def test_next_hop(hops: NextHops, destination: str, hop: str) -> None:
    assert hops.gateway_for("bond0", packed(destination)) == packed(hop)


def test_a_device_has_its_own_routes(hops: NextHops) -> None:
    assert hops.gateway_for("bond1", packed("10.8.0.1")) == packed("10.0.1.8")
    assert hops.gateway_for("bond1", packed("192.0.2.1")) == packed("192.0.2.1"), "no route there: on link"
    hops.forget("bond1")
    assert hops.gateway_for("bond1", packed("10.8.0.1")) == packed("10.8.0.1")


def test_broadcasts(hops: NextHops) -> None:
    assert hops.is_broadcast("bond0", packed("255.255.255.255"))
    assert hops.is_broadcast("bond0", packed("10.0.0.255"))
    assert not hops.is_broadcast("bond0", packed("10.0.1.255"))
    assert not hops.is_broadcast("bond0", packed("10.0.0.2"))
    hops.set_addresses("bond0", ((packed("10.0.0.0"), 31),))
    assert not hops.is_broadcast("bond0", packed("10.0.0.1")), "a /31 has no broadcast address (RFC 3021)"


def test_changes_are_reported(hops: NextHops) -> None:
    assert not hops.set_addresses("bond1", ((packed("10.0.1.1"), 24),))
    assert hops.set_addresses("bond1", ())
    assert hops.set_routes(())
    assert not hops.set_routes([])
