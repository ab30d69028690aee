"""The IP side of a host for `ibbond check`: addresses with flags, routes, sysctls; of this host or of a saved copy.

Read first: abi/ip_text.py. A live host is asked by rtnetlink; a copy has them in the files of `ibbond collect`, else as
texts of ip(8) where support archives keep them, else in /proc/net, which knows less. None means: unknown.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ibbond.abi.ip_text import (
    AddressText,
    LinkText,
    RouteText,
    parse_addresses,
    parse_if_inet6,
    parse_links,
    parse_proc_ipv6_route,
    parse_proc_route,
    parse_routes,
)
from ibbond.backend.kernel.bonds import SAVED_ADDRESSES, KernelBackend
from ibbond.backend.kernel.files import CLASS_NET, HostFiles

SAVED_ROUTES = "ibbond/routes"
SAVED_RULES = "ibbond/ip-rules"
SAVED_NEIGHBORS = "ibbond/ip-neighbors"
SYSCTL = "proc/sys/net"
SYSCTLS = {
    "ipv4": ("arp_ignore", "arp_announce", "arp_accept"),
    "ipv6": ("disable_ipv6", "accept_dad", "addr_gen_mode"),
}
SOS = "sos_commands/networking"
ADDRESS_TEXTS = ("ip_addr", f"{SOS}/ip_-o_addr")
ROUTE_TEXTS = ("ip_route", f"{SOS}/ip_route_show_table_all")
IPV6_ROUTE_TEXTS = (f"{SOS}/ip_-6_route_show_table_all",)
LINK_TEXTS = (f"{SOS}/ip_-s_-d_link", f"{SOS}/ip_-d_link")
SYSCTL_TEXTS = ("sos_commands/kernel/sysctl_-a",)
DETECTION_S, LOOK_AGAIN_S = 4.0, 0.1  # a delay of up to 1 s, and 1 s for the one probe (addrconf_dad_kick)


@dataclass(frozen=True, slots=True)
class IpFacts:
    """What the kernel of a lab host has: addresses with flags, routes, and the sysctls that count there."""

    addresses: list[AddressText]
    routes: list[RouteText]
    sysctls: dict[str, int]


def of_this_namespace(devices: Iterable[str]) -> IpFacts:
    """Of the network namespace of the calling thread. The ARP of a lab is its own: sysctls of IPv6 only. OSError."""
    from ibbond.host import ip_dump
    from ibbond.host.rtnetlink import RouteSocket

    with contextlib.closing(RouteSocket()) as asked:
        found = ip_dump.addresses(asked), ip_dump.routes(asked)
    return IpFacts(*found, sysctls(HostFiles(), devices, ("ipv6",)))


def addresses(host: KernelBackend, *, settle: bool = True) -> list[AddressText] | None:
    """The addresses of every device, None if unknown; IPv6 alone says nothing of IPv4."""
    if host.files.live:
        from ibbond.host import ip_dump

        with contextlib.suppress(OSError):
            bonds = {bond for bond in host.bonds() if settle and host.files.text(f"{CLASS_NET}/{bond}/carrier") == "1"}
            return settled(lambda: IpFacts(ip_dump.addresses(host.routes), [], {}), bonds).addresses
        return None
    text = first_text(host.files, (SAVED_ADDRESSES, *ADDRESS_TEXTS))
    if text is None:
        return None
    found = parse_addresses(text)
    flags = {(each.device, each.text): each for each in parse_if_inet6(host.files.text("proc/net/if_inet6") or "")}
    return [flags.get((each.device, each.text), each) if each.flags is None else each for each in found]


def settled(read: Callable[[], IpFacts], bonds: Iterable[str]) -> IpFacts:
    """Read again while duplicate address detection runs for an address of these bonds, up to `DETECTION_S`."""
    until = time.monotonic() + DETECTION_S
    while True:
        found = read()
        waits = any(each.is_in_detection and each.device in bonds for each in found.addresses)
        if not waits or time.monotonic() >= until:
            return found
        time.sleep(LOOK_AGAIN_S)


def routes(host: KernelBackend) -> list[RouteText] | None:
    """The routes of all tables in the kernel's order; of the main table alone if only /proc/net is there."""
    if host.files.live:
        from ibbond.host import ip_dump

        with contextlib.suppress(OSError):
            return ip_dump.routes(host.routes)
        return None
    if (saved := host.files.text(SAVED_ROUTES)) is not None:
        return parse_routes(saved)
    if (text := first_text(host.files, ROUTE_TEXTS)) is not None:
        both = parse_routes(text)
        more = first_text(host.files, IPV6_ROUTE_TEXTS) if all(route.family == 4 for route in both) else None
        return both + parse_routes(more or "", 6)
    proc = host.files.text("proc/net/route")
    if proc is None:
        return None
    return parse_proc_route(proc) + parse_proc_ipv6_route(host.files.text("proc/net/ipv6_route") or "")


def links(files: HostFiles) -> dict[str, LinkText]:
    """What a support archive's `ip link` says of devices of which it has no files."""
    text = None if files.live else first_text(files, LINK_TEXTS)
    return {link.name: link for link in parse_links(text or "")}


def sysctls(files: HostFiles, devices: Iterable[str], families: Iterable[str] = SYSCTLS) -> dict[str, int]:
    """`ipv4/conf/bond0/arp_ignore`: 0, for these devices, `all` and `default`; `ipv4/neigh/bond0/locktime`."""
    found: dict[str, int] = {}
    for family in families:
        for device in ("all", "default", *devices):
            for key in SYSCTLS[family]:
                path = f"{family}/conf/{device}/{key}"
                if (value := files.number(f"{SYSCTL}/{path}")) is not None:
                    found[path] = value
    for device in devices if "ipv4" in families else ():
        path = f"ipv4/neigh/{device}/locktime"
        if (value := files.number(f"{SYSCTL}/{path}")) is not None:
            found[path] = value
    text = None if files.live or found else first_text(files, SYSCTL_TEXTS)
    for line in re.finditer(r"^net\.(ipv[46])\.conf\.(\S+)\.(\w+) = (\d+)$", text or "", re.MULTILINE):
        if line[3] in SYSCTLS[line[1]]:
            found[f"{line[1]}/conf/{line[2].replace('/', '.')}/{line[3]}"] = int(line[4])
    for line in re.finditer(r"^net\.ipv4\.neigh\.(\S+)\.locktime = (\d+)$", text or "", re.MULTILINE):
        found[f"ipv4/neigh/{line[1].replace('/', '.')}/locktime"] = int(line[2])
    return found


def first_text(files: HostFiles, paths: Iterable[str]) -> str | None:
    return next((text for path in paths if (text := files.text(path)) is not None), None)
