"""Routing netlink messages: what the kernel says is read right, and bytes of any other kind are refused."""

import contextlib
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibbond.abi.netlink_attributes import IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU
from ibbond.errors import Malformed
from ibbond.host import rtnetlink
from ibbond.host.rtnetlink import Address, Link, Message, Route, attribute, attributes, messages

TWENTY = bytes.fromhex("80000048fe800000000000000002c90300100001")


def test_link_keeps_an_address_of_twenty_bytes() -> None:
    body = rtnetlink.LINK.pack(0, 32, 7, 0x1043, 0)
    body += attribute(IFLA_IFNAME, b"ib0\0") + attribute(IFLA_MTU, struct.pack("=I", 2044))
    body += attribute(IFLA_ADDRESS, TWENTY)
    link = Link.parse(body)
    assert (link.index, link.name, link.type, link.mtu, link.address, link.up) == (7, "ib0", 32, 2044, TWENTY, True)


def test_address_prefers_the_local_end() -> None:
    body = rtnetlink.ADDRESS.pack(socket.AF_INET, 24, 0, 0, 3)
    body += attribute(rtnetlink.IFA_ADDRESS, bytes((10, 0, 0, 9))) + attribute(
        rtnetlink.IFA_LOCAL, bytes((10, 0, 0, 1))
    )
    assert Address.parse(body) == Address(3, bytes((10, 0, 0, 1)), 24)


def test_route_with_two_next_hops() -> None:
    def hop(index: int, gateway: bytes) -> bytes:
        inner = attribute(rtnetlink.RTA_GATEWAY, gateway)
        return rtnetlink.NEXT_HOP.pack(rtnetlink.NEXT_HOP.size + len(inner), 0, 0, index) + inner

    one, two = bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2))
    body = rtnetlink.ROUTE.pack(socket.AF_INET, 16, 0, 0, 254, 3, 0, 1, 0)
    body += attribute(rtnetlink.RTA_DST, bytes((10, 9, 0, 0)))
    body += attribute(rtnetlink.RTA_MULTIPATH, hop(4, one) + hop(5, two))
    route = Route.parse(body)
    assert route.hops == ((4, one), (5, two))
    assert (route.destination, route.prefix, route.table) == (bytes((10, 9, 0, 0)), 16, 254)


def test_default_route_by_a_neighbor_of_the_other_family() -> None:
    via = bytes.fromhex("fe80") + bytes(13) + b"\1"
    body = rtnetlink.ROUTE.pack(socket.AF_INET, 0, 0, 0, 254, 3, 0, 1, 0)
    body += attribute(rtnetlink.RTA_OIF, struct.pack("=I", 4))
    body += attribute(rtnetlink.RTA_VIA, struct.pack("=H", socket.AF_INET6) + via)
    route = Route.parse(body)
    assert (route.destination, route.hops) == (bytes(4), ((4, via),))


@given(st.lists(st.tuples(st.integers(0, 0x3FFF), st.binary(max_size=40)), max_size=8))
def test_attributes_come_back(wanted: list[tuple[int, bytes]]) -> None:
    assert attributes(b"".join(attribute(kind, value) for kind, value in wanted)) == dict(wanted)


def test_messages_of_one_datagram() -> None:
    def packed(kind: int, body: bytes) -> bytes:
        return rtnetlink.HEADER.pack(16 + len(body), kind, 0, 5, 0) + body + bytes(-len(body) % 4)

    assert list(messages(packed(16, b"abcde") + packed(3, b""))) == [Message(16, 0, 5, b"abcde"), Message(3, 0, 5, b"")]


@given(st.binary(max_size=200))
def test_foreign_bytes_are_malformed_or_read(raw: bytes) -> None:
    for read in (
        lambda: list(messages(raw)),
        lambda: Link.parse(raw),
        lambda: Address.parse(raw),
        lambda: Route.parse(raw),
    ):
        with contextlib.suppress(Malformed):
            read()


@pytest.mark.parametrize("length", [0, 3, 200])
def test_a_wrong_length_is_malformed(length: int) -> None:
    with pytest.raises(Malformed):
        attributes(struct.pack("=HH", length, 1) + bytes(8))
