"""The addresses and routes of this network namespace, all tables, as rtnetlink dumps them.

Read first: rtnetlink(7), abi/ip_text.py for the values. What a flow lookup makes (cloned entries) and what cannot carry
anything (dead next hops) is left out. The order is the kernel's: of two equal routes the first one is used.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket

from ibbond.abi.ip_text import KINDS, TABLES, AddressText, HopText, RouteText, flag_words
from ibbond.abi.netlink_attributes import attributes
from ibbond.host.rtnetlink import (
    ADDRESS,
    DUMP,
    GETADDR,
    GETROUTE,
    IFA_ADDRESS,
    IFA_FLAGS,
    IFA_LOCAL,
    NEXT_HOP,
    ROUTE,
    RTA_DST,
    RTA_GATEWAY,
    RTA_MULTIPATH,
    RTA_OIF,
    RTA_PRIORITY,
    RTA_TABLE,
    RTA_VIA,
    RTM_F_CLONED,
    RTNH_F_ONLINK,
    RouteSocket,
)

RTA_PREFSRC = 7
RTNH_F_DEAD = 0x1
FAMILIES = {socket.AF_INET: 4, socket.AF_INET6: 6}
PROTOCOLS = {2: "kernel", 3: "", 4: "static", 9: "ra", 16: "dhcp"}


def addresses(routes: RouteSocket) -> list[AddressText]:
    """The addresses of every device. Raises OSError."""
    names = {link.index: link.name for link in routes.links()}
    found = []
    for answer in routes.request(GETADDR, DUMP, ADDRESS.pack(0, 0, 0, 0, 0)):
        family, prefix, flags, _, index = ADDRESS.unpack_from(answer.body)
        reported = attributes(answer.body, ADDRESS.size)
        address = reported.get(IFA_LOCAL) or reported.get(IFA_ADDRESS, b"")
        if family in FAMILIES and address and index in names:
            flags = int.from_bytes(reported[IFA_FLAGS], "little") if IFA_FLAGS in reported else flags
            text = f"{ipaddress.ip_address(address)}/{prefix}"
            found.append(AddressText(names[index], text, flag_words(flags)))
    return found


def routes(socket_: RouteSocket) -> list[RouteText]:
    """The routes of all tables, both families. Raises OSError."""
    names = {link.index: link.name for link in socket_.links()}
    found: list[RouteText] = []
    for family in FAMILIES:
        with contextlib.suppress(OSError):  # a kernel without IPv6
            for answer in socket_.request(GETROUTE, DUMP, ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)):
                if (route := _route(answer.body, names)) is not None:
                    found.append(route)
    return found


def _route(body: bytes, names: dict[int, str]) -> RouteText | None:
    family, prefix, _, _, table, protocol, _, kind, flags = ROUTE.unpack_from(body)
    reported = attributes(body, ROUTE.size)
    if family not in FAMILIES or flags & RTM_F_CLONED or not 1 <= kind <= len(KINDS):
        return None
    if RTA_TABLE in reported:
        table = int.from_bytes(reported[RTA_TABLE], "little")
    destination = ipaddress.ip_address(reported.get(RTA_DST, bytes(4 if family == socket.AF_INET else 16)))
    hops = _hops(reported, flags, names)
    if reported.get(RTA_OIF) and not hops:
        return None
    return RouteText(
        FAMILIES[family],
        f"{destination}/{prefix}",
        tuple(hops),
        TABLES.get(table, str(table)),
        int.from_bytes(reported.get(RTA_PRIORITY, b""), "little"),
        str(ipaddress.ip_address(reported[RTA_PREFSRC])) if RTA_PREFSRC in reported else "",
        PROTOCOLS.get(protocol, str(protocol)),
        KINDS[kind - 1],
    )


def _hops(reported: dict[int, bytes], flags: int, names: dict[int, str]) -> list[HopText]:
    """One next hop, or those of a multipath route; dead ones carry nothing."""
    found = []
    if RTA_OIF in reported and not flags & RTNH_F_DEAD:
        name = names.get(int.from_bytes(reported[RTA_OIF], "little"), "")
        found.append(HopText(name, _gateway(reported), bool(flags & RTNH_F_ONLINK)))
    raw, at = reported.get(RTA_MULTIPATH, b""), 0
    while at + NEXT_HOP.size <= len(raw):
        length, own_flags, more, index = NEXT_HOP.unpack_from(raw, at)
        if length < NEXT_HOP.size:
            break
        if not own_flags & RTNH_F_DEAD:
            own = attributes(raw[at : at + length], NEXT_HOP.size)
            found.append(HopText(names.get(index, ""), _gateway(own), bool(own_flags & RTNH_F_ONLINK), more + 1))
        at += (length + 3) & ~3
    return found


def _gateway(reported: dict[int, bytes]) -> str:
    raw = reported.get(RTA_GATEWAY) or reported.get(RTA_VIA, b"")[2:]
    return str(ipaddress.ip_address(raw)) if raw else ""
