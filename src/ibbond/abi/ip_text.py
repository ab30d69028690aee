"""Addresses and routes as ip(8) prints them and as /proc/net has them: parsed, and rendered for a bundle.

Read first: ip-route(8), ip-address(8), the kernel's if_addr.h, `fib_route_seq_show` (net/ipv4/fib_trie.c) and
`ipv6_route_native_seq_show`. A line that cannot be understood is passed over: what is not read is not known. Left out:
attributes that decide nothing about where a packet goes (realms, metrics of TCP, encapsulation).
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace

ADDRESS_FLAGS = {
    0x01: "secondary",
    0x02: "nodad",
    0x04: "optimistic",
    0x08: "dadfailed",
    0x20: "deprecated",
    0x40: "tentative",
    0x80: "permanent",
    0x100: "mngtmpaddr",
    0x200: "noprefixroute",
    0x400: "autojoin",
    0x800: "stable-privacy",
}
KINDS = (
    "unicast",
    "local",
    "broadcast",
    "anycast",
    "multicast",
    "blackhole",
    "unreachable",
    "prohibit",
    "throw",
    "nat",
)
TABLES = {253: "default", 254: "main", 255: "local"}
ONLY_WORDS = frozenset(
    {"onlink", "linkdown", "dead", "pervasive", "offload", "trap", "rt_offload", "rt_trap", "notify"}
)
EVERYWHERE = {4: "0.0.0.0/0", 6: "::/0"}
RTF_UP, RTF_REJECT = 0x1, 0x200


@dataclass(frozen=True, slots=True)
class AddressText:
    """An IP address of a device, `10.0.0.1/24`, with ip(8)'s words for its flags; None if unknown."""

    device: str
    text: str
    flags: frozenset[str] | None = None

    @property
    def is_in_detection(self) -> bool:
        """Duplicate address detection has not ended, and the kernel does not use the address yet."""
        return "tentative" in (self.flags or ()) and "dadfailed" not in (self.flags or ())


@dataclass(frozen=True, slots=True)
class HopText:
    """Where a route goes; `gateway` is empty for a directly connected network."""

    device: str
    gateway: str = ""
    onlink: bool = False
    weight: int = 1


@dataclass(frozen=True, slots=True)
class RouteText:
    """One route of a table, in the order in which the kernel looks at routes to the same destination."""

    family: int  # 4 or 6
    destination: str  # with prefix length; 0.0.0.0/0 and ::/0 for the default
    hops: tuple[HopText, ...] = ()
    table: str = "main"
    metric: int = 0
    source: str = ""
    protocol: str = ""
    kind: str = "unicast"


@dataclass(frozen=True, slots=True)
class LinkText:
    """A device as `ip link` shows it; `words` are its flags (UP, LOWER_UP, NOARP), `type` is ether, infiniband, ..."""

    name: str
    words: frozenset[str]
    mtu: int
    master: str
    type: str = ""
    address: str = ""
    broadcast: str = ""


def flag_words(flags: int) -> frozenset[str]:
    """ip(8)'s words for IFA_F_*; an address without a word for its lifetime is `dynamic`."""
    words = {word for bit, word in ADDRESS_FLAGS.items() if flags & bit}
    return frozenset(words if "permanent" in words else words | {"dynamic"})


def render_addresses(addresses: list[AddressText]) -> str:
    """One line each: DEVICE ADDRESS FLAG..."""
    lines = ([each.device, each.text, *sorted(each.flags or ())] for each in addresses)
    return "".join(f"{' '.join(words)}\n" for words in lines)


def parse_addresses(text: str) -> list[AddressText]:
    """Lines of `render_addresses`, or of `ip -o addr` (with or without details)."""
    found = []
    for line in text.splitlines():
        words = line.split()
        with contextlib.suppress(ValueError, IndexError):
            if words[0].rstrip(":").isdigit() and words[2] in ("inet", "inet6"):
                device, address, flags = words[1].partition("@")[0], words[3], set(words[4:])
                flags &= {*ADDRESS_FLAGS.values(), "temporary", "dynamic"}
                flags |= set() if "dynamic" in flags else {"permanent"}
                found.append(AddressText(device, _interface(address), frozenset(flags)))
            elif not line[0].isspace():
                found.append(AddressText(words[0], _interface(words[1]), frozenset(words[2:]) if words[2:] else None))
    return found


def parse_if_inet6(text: str) -> list[AddressText]:
    """/proc/net/if_inet6: the IPv6 addresses with their flags."""
    found = []
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            address, _, prefix, _, flags, device = line.split()
            interface = ipaddress.ip_interface((bytes.fromhex(address), int(prefix, 16)))
            found.append(AddressText(device, str(interface), flag_words(int(flags, 16))))
    return found


def parse_links(text: str) -> list[LinkText]:
    """`ip link`, with or without details and statistics: the two first lines of each device."""
    found: list[LinkText] = []
    for line in text.replace("\\", "\n").splitlines():
        if head := re.match(r"\d+: ([^\s:@]+)(?:@\S+)?: <([^>]*)>(.*)", line):
            keys = dict(_keys(head[3].split()))
            found.append(
                LinkText(head[1], frozenset(head[2].split(",")), _decimal(keys.get("mtu", "0")), keys.get("master", ""))
            )
        elif found and not found[-1].type and (link := re.match(r"\s+link/(\S+) (\S+)(?: brd (\S+))?", line)):
            found[-1] = replace(found[-1], type=link[1], address=link[2], broadcast=link[3] or "")
    return found


def render_routes(routes: list[RouteText]) -> str:
    """As `ip route show table all` prints them, one a line."""
    return "".join(f"{render_route(route)}\n" for route in routes)


def render_route(route: RouteText) -> str:
    """One route; also what `ip route replace` takes."""
    words = [] if route.kind == "unicast" else [route.kind]
    words.append("default" if route.destination == EVERYWHERE[route.family] else route.destination)
    if len(route.hops) == 1:
        words += _hop_words(route.hops[0], route.family)
    words += ["table", route.table] if route.table != "main" else []
    words += ["proto", route.protocol] if route.protocol else []
    words += ["src", route.source] if route.source else []
    words += ["metric", str(route.metric)] if route.metric else []
    if len(route.hops) > 1:
        for hop in route.hops:
            words += ["nexthop", *_hop_words(hop, route.family), "weight", str(hop.weight)]
    return " ".join(words)


def parse_routes(text: str, family: int | None = None) -> list[RouteText]:
    """`ip route show table all` (-4, -6 or both), one or more lines a route; `family` where it is known."""
    found: list[RouteText] = []
    for line in text.replace("\\", " ").splitlines():
        words = line.split()
        if not words:
            continue
        if line[0].isspace() and words[0] == "nexthop" and found:
            found[-1] = replace(found[-1], hops=(*found[-1].hops, *_hops(words)))
        elif not line[0].isspace() and (route := _route(words, family)) is not None:
            found.append(route)
    return found


def parse_proc_route(text: str) -> list[RouteText]:
    """/proc/net/route: the IPv4 routes of the main table, numbers in the byte order of a little-endian machine."""
    found = []
    for line in text.splitlines()[1:]:
        with contextlib.suppress(ValueError):
            device, destination, gateway, flags, _, _, metric, mask, *_ = line.split()
            if not int(flags, 16) & RTF_UP or int(flags, 16) & RTF_REJECT or device == "*":
                continue
            network = ipaddress.ip_network(f"{_little(destination)}/{_little(mask)}")
            via = str(_little(gateway)) if gateway.strip("0") else ""
            found.append(RouteText(4, str(network), (HopText(device, via),), metric=int(metric)))
    return found


def parse_proc_ipv6_route(text: str) -> list[RouteText]:
    """/proc/net/ipv6_route: the IPv6 routes of all tables together, without the names of the tables."""
    found = []
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            destination, prefix, _, _, gateway, metric, _, _, flags, device = line.split()
            if int(flags, 16) & RTF_REJECT or not int(flags, 16) & RTF_UP or device == "lo":
                continue
            network = ipaddress.ip_network((bytes.fromhex(destination), int(prefix, 16)))
            via = str(ipaddress.ip_address(bytes.fromhex(gateway))) if gateway.strip("0") else ""
            found.append(RouteText(6, str(network), (HopText(device, via),), metric=int(metric, 16)))
    return found


def _route(words: list[str], family: int | None) -> RouteText | None:
    kind = words.pop(0) if words[0] in KINDS else "unicast"
    if not words:
        return None
    destination, rest = words[0], words[1:]
    family = _family(destination, rest, family)
    keys = dict(_keys(rest))
    with contextlib.suppress(ValueError):
        network = (
            EVERYWHERE[family] if destination == "default" else str(ipaddress.ip_network(destination, strict=False))
        )
        return RouteText(
            family,
            network,
            tuple(_hops(rest)),
            keys.get("table", "main"),
            _decimal(keys.get("metric", "0")),
            keys.get("src", ""),
            keys.get("proto", ""),
            kind,
        )
    return None


def _family(destination: str, words: list[str], reported: int | None) -> int:
    """`default` is of the family of what stands beside it; only IPv4 routes have `via inet6`."""
    if destination != "default":
        return 6 if ":" in destination else 4
    if "inet6" in words or reported == 4:
        return 4
    return 6 if reported == 6 or "pref" in words or any(":" in word for word in words) else 4


def _hops(words: list[str]) -> Iterator[HopText]:
    """The next hop of a route, or those after each `nexthop`."""
    parts = re.split(r"\bnexthop\b", " ".join(words))
    for part in parts if len(parts) == 1 else parts[1:]:
        own = part.split()
        keys = dict(_keys(own))
        if "dev" in keys:
            gateway = keys.get("via", "")
            yield HopText(keys["dev"], gateway, "onlink" in own, _decimal(keys.get("weight", "1")))


def _keys(words: list[str]) -> Iterator[tuple[str, str]]:
    """`dev ib0 proto kernel onlink`: pairs, without the words that stand alone; `via inet6 A` is of another family."""
    rest = [word for word in words if word not in ONLY_WORDS]
    at = 0
    while at + 1 < len(rest):
        if rest[at] == "via" and rest[at + 1] in ("inet", "inet6") and at + 2 < len(rest):
            del rest[at + 1]
        yield rest[at], rest[at + 1]
        at += 2


def _hop_words(hop: HopText, family: int) -> list[str]:
    other = hop.gateway and (":" in hop.gateway) != (family == 6)
    via = ["via", *(["inet6" if family == 4 else "inet"] if other else []), hop.gateway] if hop.gateway else []
    return [*via, "dev", hop.device, *(["onlink"] if hop.onlink else [])]


def _interface(text: str) -> str:
    interface = ipaddress.ip_interface(text)
    return f"{interface.ip}/{interface.network.prefixlen}"


def _little(text: str) -> ipaddress.IPv4Address:
    return ipaddress.IPv4Address(socket.inet_ntop(socket.AF_INET, bytes.fromhex(text)[::-1]))


def _decimal(text: str) -> int:
    return int(text) if text.isdigit() else 0
