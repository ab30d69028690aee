"""Routing netlink as the live driver needs it: messages packed and parsed by hand, a socket for requests.

Read first: rtnetlink(7), netlink(7), linux/rtnetlink.h, linux/if_link.h. Bytes of any length pass as link addresses, so
20-byte ones survive. Left out: everything but links, IP addresses, routes; extended acknowledgements.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from ibbond.abi.netlink_attributes import IFF_UP, IFLA_ADDRESS, IFLA_BROADCAST, IFLA_CARRIER, IFLA_IFNAME, IFLA_MTU
from ibbond.abi.netlink_attributes import LINK as LINK
from ibbond.abi.netlink_attributes import attribute as attribute
from ibbond.abi.netlink_attributes import attributes as attributes
from ibbond.errors import Malformed

NEWLINK, DELLINK, GETLINK = 16, 17, 18
NEWADDR, DELADDR, GETADDR = 20, 21, 22
NEWROUTE, DELROUTE, GETROUTE = 24, 25, 26
NEWMULTICAST, DELMULTICAST = 56, 57
NOOP, ERROR, DONE = 1, 2, 3

REQUEST, ACK, DUMP = 0x1, 0x4, 0x300
REPLACE, EXCLUSIVE, CREATE, APPEND = 0x100, 0x200, 0x400, 0x800

# enum rtnetlink_groups; those of multicast addresses exist since Linux 6.14
GROUP_LINK, GROUP_IPV4_ADDRESS, GROUP_IPV4_ROUTE, GROUP_IPV6_ADDRESS, GROUP_IPV6_ROUTE = 1, 5, 7, 9, 11
GROUP_IPV4_MULTICAST, GROUP_IPV6_MULTICAST = 37, 38

HEADER = struct.Struct("=IHHII")  # length type flags sequence port
ADDRESS = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, ifindex
ROUTE = struct.Struct("=BBBBBBBBI")  # family, dst len, src len, tos, table, protocol, scope, type, flags
NEXT_HOP = struct.Struct("=HBBi")  # length, flags, hops, ifindex
U32 = struct.Struct("=I")

IFLA_INET6_ADDR_GEN_MODE, IFLA_TXQLEN, IFLA_AF_SPEC = 8, 13, 26
IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS, IFA_PROTOCOL = 1, 2, 8, 11
MADE_BY_KERNEL = 3  # IFAPROT_KERNEL_LL
IFA_F_NODAD, IFA_F_OPTIMISTIC, IFA_F_DADFAILED, IFA_F_TENTATIVE = 0x02, 0x04, 0x08, 0x40
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_MULTIPATH, RTA_TABLE, RTA_VIA = 1, 4, 5, 6, 9, 15, 18
RT_TABLE_MAIN, RTPROT_BOOT, RTN_UNICAST, RT_SCOPE_UNIVERSE, RT_SCOPE_LINK, RTM_F_CLONED = 254, 3, 1, 0, 253, 0x200
RTNH_F_ONLINK = 4
IFF_NOARP = 0x80
SETNEIGHTBL = 67
NEIGHBOR_TABLE = struct.Struct("=BBH")  # struct ndtmsg
NDTA_NAME, NDTA_PARMS, NDTPA_IFINDEX, NDTPA_RETRANS_TIME = 1, 6, 1, 5


@dataclass(frozen=True, slots=True)
class Message:
    """One netlink message: its type and everything after the header."""

    type: int
    flags: int
    sequence: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Link:
    """RTM_NEWLINK or RTM_DELLINK: an interface. `address` and `broadcast` have the device's own length."""

    index: int
    name: str
    type: int
    flags: int
    mtu: int
    address: bytes
    broadcast: bytes
    carrier: bool | None = None  # None where the kernel does not say

    @property
    def up(self) -> bool:
        return bool(self.flags & IFF_UP)

    @classmethod
    def parse(cls, body: bytes) -> Self:
        _, arphrd, index, flags, _ = LINK.unpack_from(_whole(body, LINK.size))
        found = attributes(body, LINK.size)
        name = found.get(IFLA_IFNAME, b"").rstrip(b"\0").decode("utf-8", "replace")
        mtu = _number(found, IFLA_MTU)
        address, broadcast = found.get(IFLA_ADDRESS, b""), found.get(IFLA_BROADCAST, b"")
        carrier = bool(found[IFLA_CARRIER][0]) if found.get(IFLA_CARRIER) else None
        return cls(index, name, arphrd, flags, mtu, address, broadcast, carrier)


@dataclass(frozen=True, slots=True)
class Address:
    """RTM_NEWADDR: one IP address of an interface (4 or 16 bytes)."""

    index: int
    address: bytes
    prefix: int
    flags: int = 0

    @property
    def usable(self) -> bool:
        """Not while duplicate address detection runs, unless it is optimistic (RFC 4429), nor after it failed."""
        return not self.flags & IFA_F_DADFAILED and (
            not self.flags & IFA_F_TENTATIVE or bool(self.flags & IFA_F_OPTIMISTIC)
        )

    @classmethod
    def parse(cls, body: bytes) -> Self:
        _, prefix, flags, _, index = ADDRESS.unpack_from(_whole(body, ADDRESS.size))
        found = attributes(body, ADDRESS.size)
        address = found.get(IFA_LOCAL) or found.get(IFA_ADDRESS, b"")
        return cls(index, address, prefix, _number(found, IFA_FLAGS, flags))


@dataclass(frozen=True, slots=True)
class Route:
    """RTM_NEWROUTE: a route of a table. One entry of `hops` per next hop: (ifindex, gateway or empty)."""

    family: int
    destination: bytes
    prefix: int
    table: int
    kind: int
    flags: int
    metric: int
    hops: tuple[tuple[int, bytes], ...]

    @classmethod
    def parse(cls, body: bytes) -> Self:
        family, prefix, _, _, table, _, _, kind, flags = ROUTE.unpack_from(_whole(body, ROUTE.size))
        found = attributes(body, ROUTE.size)
        size = 4 if family == socket.AF_INET else 16
        hops: list[tuple[int, bytes]] = []
        if RTA_OIF in found:
            hops.append((_number(found, RTA_OIF), _gateway(found)))
        raw, at = found.get(RTA_MULTIPATH, b""), 0
        while at + NEXT_HOP.size <= len(raw):
            length, _, _, index = NEXT_HOP.unpack_from(raw, at)
            if length < NEXT_HOP.size:
                raise Malformed(f"next hop of {length} bytes in a route")
            hops.append((index, _gateway(attributes(raw[at : at + length], NEXT_HOP.size))))
            at += _aligned(length)
        metric, table = _number(found, RTA_PRIORITY), _number(found, RTA_TABLE, table)
        return cls(family, found.get(RTA_DST, bytes(size)), prefix, table, kind, flags, metric, tuple(hops))


def messages(raw: bytes) -> Iterator[Message]:
    """The messages of one datagram of a netlink socket; raises `Malformed`."""
    at = 0
    while at + HEADER.size <= len(raw):
        length, kind, flags, sequence, _ = HEADER.unpack_from(raw, at)
        if length < HEADER.size or at + length > len(raw):
            raise Malformed(f"netlink message of {length} bytes, {len(raw) - at} are there")
        yield Message(kind, flags, sequence, raw[at + HEADER.size : at + length])
        at += _aligned(length)


class RouteSocket:
    """A socket for requests, made in the network namespace of the calling thread and bound to it permanently.

    `request` and what is built on it raise OSError with the kernel's errno.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        self._socket.bind((0, 0))
        self._socket.settimeout(5)
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def request(self, kind: int, flags: int, body: bytes) -> list[Message]:
        """Send one request and return the messages of its answer, without the acknowledgement."""
        self._sequence += 1
        header = HEADER.pack(HEADER.size + len(body), kind, flags | REQUEST | ACK, self._sequence, 0)
        self._socket.send(header + body)
        answers: list[Message] = []
        while True:
            for message in messages(self._socket.recv(1 << 17)):
                if message.sequence != self._sequence:
                    continue  # the tail of a request that was given up
                if message.type == ERROR:
                    code = -struct.unpack_from("=i", message.body)[0]
                    if code:
                        raise OSError(code, os.strerror(code))
                    return answers
                if message.type == DONE:
                    return answers
                answers.append(message)

    def links(self) -> list[Link]:
        """Every interface of the namespace."""
        return [Link.parse(answer.body) for answer in self.request(GETLINK, DUMP, LINK.pack(0, 0, 0, 0, 0))]

    def link(self, name: str) -> Link:
        """One interface by name; OSError ENODEV when there is none."""
        body = LINK.pack(0, 0, 0, 0, 0) + attribute(IFLA_IFNAME, name.encode() + b"\0")
        return Link.parse(self.request(GETLINK, 0, body)[0].body)

    def link_at(self, index: int) -> Link:
        """One interface by its number, whatever its name is now; OSError ENODEV when there is none."""
        return Link.parse(self.request(GETLINK, 0, LINK.pack(0, 0, index, 0, 0))[0].body)

    def addresses(self) -> list[Address]:
        return [Address.parse(answer.body) for answer in self.request(GETADDR, DUMP, ADDRESS.pack(0, 0, 0, 0, 0))]

    def routes(self) -> list[Route]:
        """The unicast routes of the main table, both families, in the kernel's order."""
        found = [
            Route.parse(answer.body)
            for family in (socket.AF_INET, socket.AF_INET6)
            for answer in self.request(GETROUTE, DUMP, ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0))
        ]
        return [
            route
            for route in found
            if route.table == RT_TABLE_MAIN and route.kind == RTN_UNICAST and not route.flags & RTM_F_CLONED
        ]

    def set_up(self, index: int, up: bool) -> None:
        """Administrative state, as `ip link set up|down`."""
        self.request(NEWLINK, 0, LINK.pack(0, 0, index, IFF_UP if up else 0, IFF_UP))

    def set_arp(self, index: int) -> None:
        """`ip link set arp on`."""
        self.request(NEWLINK, 0, LINK.pack(0, 0, index, 0, IFF_NOARP))

    def set_retransmit(self, index: int, milliseconds: int) -> None:
        """`ip ntable change name ndisc_cache dev INDEX retrans MS`: the pace of IPv6 neighbor discovery."""
        parameters = attribute(NDTPA_IFINDEX, U32.pack(index))
        parameters += attribute(NDTPA_RETRANS_TIME, struct.pack("=Q", milliseconds))
        body = NEIGHBOR_TABLE.pack(socket.AF_INET6, 0, 0) + attribute(NDTA_NAME, b"ndisc_cache\0")
        self.request(SETNEIGHTBL, REPLACE, body + attribute(NDTA_PARMS, parameters))

    def rename(self, index: int, name: str) -> None:
        self.request(NEWLINK, 0, LINK.pack(0, 0, index, 0, 0) + attribute(IFLA_IFNAME, name.encode() + b"\0"))

    def set_mtu(self, index: int, mtu: int) -> None:
        self.request(NEWLINK, 0, LINK.pack(0, 0, index, 0, 0) + attribute(IFLA_MTU, U32.pack(mtu)))

    def set_queue_length(self, index: int, packets: int) -> None:
        self.request(NEWLINK, 0, LINK.pack(0, 0, index, 0, 0) + attribute(IFLA_TXQLEN, U32.pack(packets)))

    def set_address(self, index: int, address: bytes) -> None:
        """The hardware address; a TUN has none and refuses (EOPNOTSUPP), a TAP takes 6 bytes."""
        self.request(NEWLINK, 0, LINK.pack(0, 0, index, 0, 0) + attribute(IFLA_ADDRESS, address))

    def no_link_local(self, index: int) -> None:
        """Keep the kernel from making an IPv6 link-local address of a hardware address it cannot hold.

        Does nothing in a kernel without IPv6.
        """
        mode = attribute(IFLA_INET6_ADDR_GEN_MODE, b"\1")  # IN6_ADDR_GEN_MODE_NONE
        body = LINK.pack(0, 0, index, 0, 0) + attribute(IFLA_AF_SPEC, attribute(socket.AF_INET6, mode))
        with contextlib.suppress(OSError):
            self.request(NEWLINK, 0, body)

    def delete_link(self, index: int) -> None:
        self.request(DELLINK, 0, LINK.pack(0, 0, index, 0, 0))

    def add_address(self, index: int, address: bytes, prefix: int, *, as_kernel: bool = False) -> None:
        """An IP address without duplicate address detection; the same one twice is not an error.

        `as_kernel` marks a link-local one as made by the kernel (IFA_PROTO, which kernels before 5.18 pass over).
        """
        scope = RT_SCOPE_LINK if address[:2] == b"\xfe\x80" and len(address) == 16 else RT_SCOPE_UNIVERSE
        mark = attribute(IFA_PROTOCOL, bytes((MADE_BY_KERNEL,))) if as_kernel else b""
        self.request(NEWADDR, CREATE | REPLACE, _address(index, address, prefix, scope) + mark)

    def delete_address(self, index: int, address: bytes, prefix: int) -> None:
        self.request(DELADDR, 0, _address(index, address, prefix, RT_SCOPE_UNIVERSE))

    def add_route(
        self, destination: bytes, prefix: int, *, gateway: bytes = b"", index: int = 0, metric: int = 0
    ) -> None:
        """`ip route replace DESTINATION/PREFIX [via GATEWAY] [dev INDEX]`; the family is the destination's length."""
        family = socket.AF_INET if len(destination) == 4 else socket.AF_INET6
        scope = RT_SCOPE_UNIVERSE if gateway or family == socket.AF_INET6 else RT_SCOPE_LINK
        body = ROUTE.pack(family, prefix, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, scope, RTN_UNICAST, 0)
        body += attribute(RTA_DST, destination) if prefix else b""
        body += attribute(RTA_GATEWAY, gateway) if gateway else b""
        body += attribute(RTA_OIF, U32.pack(index)) if index else b""
        body += attribute(RTA_PRIORITY, U32.pack(metric)) if metric else b""
        self.request(NEWROUTE, CREATE | REPLACE, body)


class RouteListener:
    """A non-blocking socket that receives changes in the namespace in which it was created.

    Make it before the first read of what it watches. `OSError ENOBUFS` out of `receive` means that messages were
    lost: read everything again. One call reads at most `MAX_READS` datagrams, even if more keep coming.
    """

    MAX_READS = 64
    GROUPS = (GROUP_LINK, GROUP_IPV4_ADDRESS, GROUP_IPV4_ROUTE, GROUP_IPV6_ADDRESS, GROUP_IPV6_ROUTE)
    NEWER_GROUPS = (GROUP_IPV4_MULTICAST, GROUP_IPV6_MULTICAST)
    SOL_NETLINK, ADD_MEMBERSHIP = 270, 1

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self._socket.bind((0, 0))
        self._lost: OSError | None = None  # until the queue was empty
        for group in self.GROUPS:
            self._socket.setsockopt(self.SOL_NETLINK, self.ADD_MEMBERSHIP, group)
        self.receives_multicast = all(self._join(group) for group in self.NEWER_GROUPS)

    def _join(self, group: int) -> bool:
        try:
            self._socket.setsockopt(self.SOL_NETLINK, self.ADD_MEMBERSHIP, group)
        except OSError:
            return False  # a kernel before 6.14
        return True

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def receive(self) -> list[Message]:
        """What has come since the last call; empty when nothing did."""
        found: list[Message] = []
        for _ in range(self.MAX_READS):
            try:
                found.extend(messages(self._socket.recv(1 << 17)))
            except BlockingIOError:
                lost, self._lost = self._lost, None
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                # The kernel drops what comes until the queue is empty, and says so only once: it is said here until
                # then, so that a caller that reads everything again does not miss what changes meanwhile.
                self._lost = error
        else:
            lost = self._lost
        if lost is not None:
            raise lost
        return found


def _number(found: dict[int, bytes], kind: int, default: int = 0) -> int:
    value = found.get(kind)
    if value is None:
        return default
    if len(value) != U32.size:
        raise Malformed(f"netlink attribute {kind} of {len(value)} bytes, {U32.size} expected")
    return int.from_bytes(value, sys.byteorder)


def _gateway(found: dict[int, bytes]) -> bytes:
    """The next hop's address: of the route's family, or (`struct rtvia`, a family in front) of the other one."""
    return found.get(RTA_GATEWAY) or found.get(RTA_VIA, b"")[2:]


def _address(index: int, address: bytes, prefix: int, scope: int) -> bytes:
    family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
    body = ADDRESS.pack(family, prefix, IFA_F_NODAD, scope, index)
    return body + attribute(IFA_LOCAL, address) + attribute(IFA_ADDRESS, address)


def _aligned(length: int) -> int:
    return (length + 3) & ~3


def _whole(body: bytes, size: int) -> bytes:
    if len(body) < size:
        raise Malformed(f"netlink message body of {len(body)} bytes, at least {size} expected")
    return body
