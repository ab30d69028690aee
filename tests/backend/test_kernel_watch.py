"""Watching on messages made by hand: each difference once, loss made good, other devices passed over."""

import errno
import itertools
import os
import socket
import struct

from ibbond.abi.bond_attributes import pack_bond
from ibbond.abi.netlink_attributes import (
    IFLA_ADDRESS,
    IFLA_IFNAME,
    IFLA_INFO_DATA,
    IFLA_INFO_KIND,
    IFLA_INFO_SLAVE_DATA,
    IFLA_INFO_SLAVE_KIND,
    IFLA_LINKINFO,
    IFLA_MASTER,
    LINK,
    LinkInfo,
    attribute,
)
from ibbond.backend.kernel.watch import LinkTable, follow
from ibbond.host.rtnetlink import NEWLINK, Message

UP = 0x10001


def bond(active: int, *, mode: int = 1, address: bytes = b"a" * 20) -> bytes:
    data = pack_bond({"mode": mode, "active_slave": active})
    info = attribute(IFLA_INFO_KIND, b"bond\0") + attribute(IFLA_INFO_DATA, data)
    parts = attribute(IFLA_IFNAME, b"bond0\0") + attribute(IFLA_ADDRESS, address) + attribute(IFLA_LINKINFO, info)
    return LINK.pack(0, 32, 10, UP, 0) + parts


def member(index: int, *, failures: int = 0, flags: int = UP, master: int = 10) -> bytes:
    data = attribute(1, b"\0") + attribute(2, b"\0") + attribute(3, struct.pack("=I", failures))
    info = attribute(IFLA_INFO_SLAVE_KIND, b"bond\0") + attribute(IFLA_INFO_SLAVE_DATA, data)
    parts = attribute(IFLA_IFNAME, b"ib%d\0" % (index - 1)) + attribute(IFLA_MASTER, struct.pack("=I", master))
    return LINK.pack(0, 32, index, flags, 0) + parts + attribute(IFLA_LINKINFO, info)


def plain(index: int, flags: int = UP) -> bytes:
    return LINK.pack(0, 1, index, flags, 0) + attribute(IFLA_IFNAME, b"eth%d\0" % index)


def table() -> LinkTable:
    links = LinkTable()
    links.resynchronize([LinkInfo.parse(body) for body in (bond(1), member(1), member(2), plain(5))])
    return links


def reported(links: LinkTable, body: bytes) -> list[tuple[object, ...]]:
    found = links.update(LinkInfo.parse(body))
    return [(change["where"], change["what"], change.get("old"), change.get("new")) for change in found]


def test_a_failover_is_one_change_of_the_active_member_and_of_the_address() -> None:
    links = table()
    changes = reported(links, bond(2, address=b"b" * 20))
    assert ("bond0", "active", "ib0", "ib1") in changes
    assert ("bond0", "address", "61:" * 19 + "61", "62:" * 19 + "62") in changes
    assert reported(links, bond(2, address=b"b" * 20)) == []


def test_members_carriers_counters_and_options() -> None:
    links = table()
    assert reported(links, member(1, failures=1, flags=1)) == [
        ("ib0", "carrier", True, False),
        ("ib0", "failures", 0, 1),
    ]
    assert reported(links, bond(0)) == [("bond0", "active", "ib0", None)]
    assert reported(links, bond(0, mode=0)) == [("bond0", "mode", "active-backup", "balance-rr")]
    assert [each["what"] for each in links.remove(2)] == ["deleted"]


def test_other_devices_are_passed_over() -> None:
    links = table()
    assert reported(links, plain(5, flags=0)) == []
    assert reported(links, plain(6)) == []
    assert links.remove(5) == []
    assert links.bonded(10) == "bond0"
    assert links.bonded(6) is None


class FakeListener:
    """Messages through a socket pair; `lose` makes the next read say ENOBUFS."""

    def __init__(self) -> None:
        self.near, self.far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.near.setblocking(False)
        self.lose = False

    def fileno(self) -> int:
        return self.near.fileno()

    def receive(self) -> list[Message]:
        if self.lose:
            self.lose = False
            self.near.recv(65536)
            raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))
        return [Message(NEWLINK, 0, 0, self.near.recv(65536))]

    def send(self, body: bytes) -> None:
        self.far.send(body)


def test_what_was_lost_comes_out_of_the_next_look() -> None:
    looks = iter(([bond(1), member(1), member(2)], [bond(2), member(1)]))
    listener = FakeListener()
    changes = follow(listener, lambda: [LinkInfo.parse(body) for body in next(looks)])
    assert next(changes)["what"] == "watching"
    listener.send(bond(2))
    listener.lose = True
    found = [(each["where"], each["what"]) for each in itertools.islice(changes, 2)]
    assert found == [("ib1", "deleted"), ("bond0", "active")]
    listener.send(bond(1))
    assert next(changes)["new"] == "ib0"
    listener.near.close()
    listener.far.close()
