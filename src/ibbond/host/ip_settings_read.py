"""The IP settings that users have made in this network namespace, read by rtnetlink.

Read first: `ip_settings`, for the values; rtnetlink(7). Left out: what the kernel makes itself (routes of addresses,
link-local and temporary addresses).
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from ibbond.abi.netlink_attributes import attributes, number, text
from ibbond.host import rtnetlink
from ibbond.host.ip_settings import (
    CACHE,
    FAMILIES,
    FOREVER,
    FRA_IIFNAME,
    FRA_OIFNAME,
    GETNEIGHBOR,
    GETNEXTHOP,
    GETRULE,
    IFA_BROADCAST,
    IFA_CACHEINFO,
    IFA_LABEL,
    IFA_METRIC,
    INVERTED,
    KEPT_FLAGS,
    NDA_DST,
    NDA_LLADDR,
    NEIGHBOR,
    NEXTHOP,
    NEXTHOP_SHARE,
    NHA_GROUP,
    NHA_ID,
    NHA_OIF,
    NOT_KEPT,
    NTF_PROXY,
    NUD_PERMANENT,
    OF_HOP,
    OF_NEXTHOP,
    RTA_CACHEINFO,
    RTA_NEXTHOP,
    RTPROT_KERNEL,
    RULE,
    TEMPORARY,
    USER_HZ,
    Attributes,
    Hop,
    IpAddress,
    IpNeighbor,
    IpNexthop,
    IpRoute,
    IpRule,
    IpSetting,
)
from ibbond.host.rtnetlink import (
    ADDRESS,
    DUMP,
    IFA_ADDRESS,
    IFA_FLAGS,
    IFA_LOCAL,
    IFA_PROTOCOL,
    MADE_BY_KERNEL,
    NEXT_HOP,
    ROUTE,
    RTA_MULTIPATH,
    RTA_OIF,
    RTA_TABLE,
    RTM_F_CLONED,
    RTNH_F_ONLINK,
    RouteSocket,
)


def read(kernel: RouteSocket) -> tuple[IpSetting, ...]:
    """Everything that users have set on devices of this namespace, in the kernel's order. OSError of the kernel."""
    links = {link.index: link for link in kernel.links()}
    names = {index: link.name for index, link in links.items()}
    hardware = {link.name: link.address for link in links.values()}
    found: list[IpSetting] = []
    for body in _dump(kernel, rtnetlink.GETADDR, [ADDRESS.pack(0, 0, 0, 0, 0)]):
        address = _address(body, names)
        if address is not None and not _made_by_kernel(address, hardware[address.device]):
            found.append(address)
    nexthops = _nexthops(_dump(kernel, GETNEXTHOP, [bytes(NEXTHOP.size)]), names)
    found += nexthops.values()
    routes = _dump(kernel, rtnetlink.GETROUTE, _of_families(ROUTE))
    found += filter(None, (_route(body, names, nexthops) for body in routes))
    proxies = [NEIGHBOR.pack(family, 0, 0, NTF_PROXY, 0) for family in FAMILIES]
    for body in _dump(kernel, GETNEIGHBOR, [*_of_families(NEIGHBOR), *proxies]):
        found += _neighbor(body, names)
    for body in _dump(kernel, GETRULE, _of_families(RULE)):
        found += _rule(body)
    return tuple(dict.fromkeys(found))


def _dump(kernel: RouteSocket, kind: int, requests: Iterable[bytes]) -> Iterator[bytes]:
    for request in requests:
        with contextlib.suppress(OSError):  # a kernel without IPv6, or without policy routing
            yield from (answer.body for answer in kernel.request(kind, DUMP, request))


def _of_families(layout: struct.Struct) -> list[bytes]:
    return [bytes((family,)).ljust(layout.size, b"\0") for family in FAMILIES]


def _address(body: bytes, names: Mapping[int, str]) -> IpAddress | None:
    family, prefix, flags, scope, index = ADDRESS.unpack_from(body)
    found = attributes(body, ADDRESS.size)
    flags = number(found.get(IFA_FLAGS, b"")) or flags
    if index not in names or (family == socket.AF_INET6 and flags & TEMPORARY):
        return None
    far = found.get(IFA_ADDRESS, b"")
    local = found.get(IFA_LOCAL) or far
    preferred, valid = FOREVER, FOREVER
    if IFA_CACHEINFO in found:
        preferred, valid, _, _ = CACHE.unpack_from(found[IFA_CACHEINFO])
    label = text(found.get(IFA_LABEL, b""))
    return IpAddress(
        names[index],
        local,
        prefix,
        peer=far if far != local else b"",
        broadcast=found.get(IFA_BROADCAST, b""),
        label=label if label != names[index] else "",
        scope=scope,
        flags=flags & KEPT_FLAGS,
        metric=number(found.get(IFA_METRIC, b"")),
        protocol=number(found.get(IFA_PROTOCOL, b"")),
        preferred=preferred,
        valid=valid,
    )


def _made_by_kernel(address: IpAddress, hardware: bytes) -> bool:
    """An IPv6 link-local address that was not asked for: the kernel says so since 5.18, a lab of those it makes.

    Before, one that is made of the device's address counts; a TUN, which has none, then shows only the lab's own.
    """
    if address.local[:2] != b"\xfe\x80" or len(address.local) != 16:
        return False
    if _kernel_tells_makers():
        return address.protocol == MADE_BY_KERNEL
    if len(hardware) == 6:
        hardware = hardware[:3] + b"\xff\xfe" + hardware[3:]
    return not any(hardware) or address.local[9:] == hardware[-7:]


@functools.cache
def _kernel_tells_makers() -> bool:
    version = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return version is not None and (int(version[1]), int(version[2])) >= (5, 18)


def _nexthops(bodies: Iterable[bytes], names: Mapping[int, str]) -> dict[int, IpNexthop]:
    """Those with a device, and groups, by their ids: objects first, for a group has the devices of its objects."""
    found: dict[int, IpNexthop] = {}
    groups: list[IpNexthop] = []
    for body in bodies:
        family, _, protocol, flags = NEXTHOP.unpack_from(body)
        reported = attributes(body, NEXTHOP.size)
        identity, device = number(reported.get(NHA_ID, b"")), names.get(number(reported.get(NHA_OIF, b"")), "")
        kept = tuple((kind, value) for kind, value in reported.items() if kind in OF_NEXTHOP)
        nexthop = IpNexthop(identity, (family, protocol, flags & RTNH_F_ONLINK), kept, device)
        if NHA_GROUP in reported:
            groups.append(nexthop)
        elif device:
            found[identity] = nexthop
    for group in groups:
        shares = NEXTHOP_SHARE.iter_unpack(dict(group.attributes)[NHA_GROUP])
        members = dict.fromkeys(found[identity].device for identity, _ in shares if identity in found)
        found[group.identity] = replace(group, members=tuple(members))
    return found


def _route(body: bytes, names: Mapping[int, str], nexthops: Mapping[int, IpNexthop]) -> IpRoute | None:
    family, length, source_length, tos, table, protocol, scope, kind, flags = ROUTE.unpack_from(body)
    found = attributes(body, ROUTE.size)
    hops: list[tuple[int, int, int, Attributes]] = []
    if RTA_OIF in found:
        hops.append((number(found[RTA_OIF]), flags, 0, _of_hop(found)))
    raw, at = found.get(RTA_MULTIPATH, b""), 0
    while at + NEXT_HOP.size <= len(raw):
        size, flag, weight, index = NEXT_HOP.unpack_from(raw, at)
        if size < NEXT_HOP.size:
            break
        inner = attributes(raw[at : at + size], NEXT_HOP.size)
        hops.append((index, flag, weight, _of_hop(inner)))
        at += (size + 3) & ~3
    nexthop = number(found.get(RTA_NEXTHOP, b""))
    if protocol == RTPROT_KERNEL or flags & RTM_F_CLONED or any(hop[0] not in names for hop in hops):
        return None
    if nexthop in nexthops:  # what the kernel reports beside the id depends on nexthop_compat_mode
        there = tuple(Hop(device) for device in nexthops[nexthop].devices)
    else:
        there = tuple(Hop(names[index], inner, flag & RTNH_F_ONLINK, weight) for index, flag, weight, inner in hops)
    if not there:
        return None
    cache = found.get(RTA_CACHEINFO, b"")
    left = number(cache[8:12], signed=True) if len(cache) >= 12 else 0
    return IpRoute(
        header=(family, length, source_length, tos, protocol, scope, kind),
        table=number(found.get(RTA_TABLE, b"")) or table,
        attributes=tuple((kind, value) for kind, value in found.items() if kind not in (*OF_HOP, *NOT_KEPT)),
        hops=there,
        nexthop=nexthop,
        expires=max(left // USER_HZ, 1) if left > 0 else 0,
    )


def _of_hop(found: Mapping[int, bytes]) -> Attributes:
    return tuple((kind, value) for kind, value in found.items() if kind in OF_HOP)


def _neighbor(body: bytes, names: Mapping[int, str]) -> Iterator[IpNeighbor]:
    _, index, state, flags, _ = NEIGHBOR.unpack_from(body)
    found = attributes(body, NEIGHBOR.size)
    if index in names and NDA_DST in found and (state == NUD_PERMANENT or flags & NTF_PROXY):
        yield IpNeighbor(names[index], found[NDA_DST], found.get(NDA_LLADDR, b""), flags & NTF_PROXY)


def _rule(body: bytes) -> Iterator[IpRule]:
    found = attributes(body, RULE.size)
    if FRA_IIFNAME in found or FRA_OIFNAME in found:
        *header, flags = RULE.unpack_from(body)
        family, destination, source, tos, table, action = header
        yield IpRule((family, destination, source, tos, table, action, flags & INVERTED), tuple(found.items()))
