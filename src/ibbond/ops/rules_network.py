"""Rules about IP on bonds and their members: addresses, routes and ARP settings that lose traffic unseen by the bond.

Read first: ops/rule.py, ip-sysctl.rst of Linux (arp_ignore, arp_announce, disable_ipv6, accept_dad), ip-route(8). Each
loss was measured on the real driver with a peer on the same hub. Left out: firewalls, policy rules, MTU.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import replace

from ibbond.abi.ip_text import AddressText, HopText, RouteText, render_route
from ibbond.host.rtnetlink import IFF_NOARP
from ibbond.ops.facts import BondFacts, DeviceFacts, HostFacts
from ibbond.ops.rule import Found, Rule, Severity, system_command
from ibbond.wire.hwaddr import HardwareAddress

IGNORE_ALL = 8
ONLY_OWN, BEST_SOURCE = 1, 2  # arp_ignore, arp_announce: answer and ask for the device's own addresses only
IFF_LOOPBACK = 0x8


def arp_off(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    if (bond.device.flags or 0) & IFF_NOARP:
        yield Found(
            f"{bond.name} does no ARP (NOARP is set)",
            (system_command(host, "ip", "link", "set", bond.name, "arp", "on"),),
        )


def arp_ignored(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    places = [each for each in (bond.name, "all") if host.sysctls.get(f"ipv4/conf/{each}/arp_ignore") == IGNORE_ALL]
    if places:
        yield Found(
            f"{bond.name} answers no ARP request (arp_ignore {IGNORE_ALL} of {' and '.join(places)})",
            tuple(sysctl(host, "ipv4", place, "arp_ignore", 0) for place in places),
            "and remove it from the files in /etc/sysctl.d",
        )


def dad_failed(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    for address, flags in bond.device.address_flags.items():
        if "dadfailed" in flags:
            again = " && ".join(
                system_command(host, "ip", "addr", verb, address, "dev", bond.name) for verb in ("del", "add")
            )
            yield Found(
                f"{address} of {bond.name} is not used: another host has it (dadfailed)",
                do=f"Give one of the two another address; once the other is gone: {again}",
            )


def dad_unfinished(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    """Detection begins with the carrier, so that a bond without one is another rule's."""
    for address, flags in bond.device.address_flags.items() if bond.device.carrier else ():
        if AddressText(bond.name, address, flags).is_in_detection:
            words = (address, "dev", bond.name)
            yield Found(
                f"{address} of {bond.name} is not used yet: it stays tentative although {bond.name} has carrier",
                (
                    system_command(host, "ip", "addr", "del", *words),
                    system_command(host, "ip", "addr", "add", *words, "nodad"),
                ),
                "and find out what delays the detection: dad_transmits, or ip link set mode dormant",
            )


def ipv6_off(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    """The kernel turns IPv6 off itself with accept_dad 2; if that is on purpose, set `default` or ignore this rule."""
    if host.sysctls.get(f"ipv6/conf/{bond.name}/disable_ipv6") != 1 or host.sysctls.get("ipv6/conf/all/disable_ipv6"):
        return
    if host.conf("ipv6", bond.name, "accept_dad") == 2 and not host.sysctls.get("ipv6/conf/default/disable_ipv6"):
        yield Found(
            f"IPv6 is turned off on {bond.name}, with accept_dad 2: its link-local address was a duplicate",
            (sysctl(host, "ipv6", bond.name, "disable_ipv6", 0),),
            "its IPv6 addresses are gone and must be added again; find the host that has the same port GUID first",
        )


def link_local(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    """An IPoIB bond makes its link-local address from the GUID of the member that was active when it came up."""
    if not bond.generated_link_local:
        return
    for member in bond.members:
        own = [address for address in member.device.addresses or () if address.startswith("fe80:")]
        if own:
            yield Found(
                f"{member.name} has a link-local address of its own ({own[0]})",
                (system_command(host, "ip", "-6", "addr", "flush", "dev", member.name, "scope", "link"),),
                member=member.name,
            )
    found = [address for address in bond.device.addresses or () if address.startswith("fe80:")]
    made = _link_locals(bond)
    if found and made and not {address.partition("/")[0] for address in found} & set(made.values()):
        right = made.get(bond.snapshot.active or "") or next(iter(made.values()))
        yield Found(
            f"the link-local address of {bond.name} ({found[0]}) belongs to none of its members",
            (
                system_command(host, "ip", "addr", "add", f"{right}/64", "dev", bond.name),
                system_command(host, "ip", "addr", "del", found[0], "dev", bond.name),
            ),
            why="It was derived from a member that has since left",
        )


def _link_locals(bond: BondFacts) -> dict[str, str]:
    """The link-local address that each member would give; all must be known before one can be called wrong."""
    addresses = {member.name: member.address for member in bond.members}
    if any(len(address) != 20 for address in addresses.values()):
        return {}
    return {
        name: str(ipaddress.IPv6Address(HardwareAddress.parse(address).link_local))
        for name, address in addresses.items()
    }


def through_member(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    """Routes that someone added; a member's own connected network is member-route-first or member-has-address."""
    members = {member.name for member in bond.members}
    for route in host.routes or ():
        through = [hop.device for hop in route.hops if hop.device in members]
        if not through or route.kind != "unicast" or _is_connected(host, route):
            continue
        table = "" if route.table == "main" else f" (table {route.table})"
        yield Found(
            f"the route to {_destination(route)}{table} goes through {through[0]}, a member of {bond.name}",
            _through_bond(host, bond, route, members),
            member=through[0],
        )


def _through_bond(host: HostFacts, bond: BondFacts, route: RouteText, members: set[str]) -> tuple[str, ...]:
    """The same route through the bond; a gateway that is in none of its networks stays reachable by `onlink`."""
    hops = dict.fromkeys(
        replace(hop, device=bond.name, onlink=hop.onlink or not _is_near(bond, hop)) if hop.device in members else hop
        for hop in route.hops
    )
    wanted = render_route(replace(route, hops=tuple(hops))).split()
    family = ("-6",) if route.family == 6 else ()
    return (system_command(host, "ip", *family, "route", "replace", *wanted),)


def _is_near(bond: BondFacts, hop: HopText) -> bool:
    if not hop.gateway or hop.gateway.startswith("fe80:"):
        return True
    gateway = ipaddress.ip_address(hop.gateway)
    return any(gateway in network for network in _networks(bond.device))


def _is_connected(host: HostFacts, route: RouteText) -> bool:
    """The network of an address of the device itself, or one that every IPv6 device has."""
    if route.destination.startswith(("fe80:", "ff00:")):
        return True
    device = host.devices.get(route.hops[0].device)
    if route.protocol == "kernel" or device is None:
        return route.protocol == "kernel"
    destination = ipaddress.ip_network(route.destination)
    return not route.hops[0].gateway and destination in _networks(device)


def first_route(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    """A member's connected route that stands before the bond's to the same network: metric first, then order."""
    for member in bond.members:
        ahead = _ahead(host, bond, member.name)
        if ahead:
            lost = [_destination(r) for r in _others_through(host, member.name, ahead)]
            also = f"this also removes the routes to {', '.join(lost)} through {member.name}" if lost else ""
            yield Found(
                f"the route of {member.name} to {', '.join(ahead)} takes precedence over that of {bond.name}",
                (system_command(host, "ip", "addr", "flush", "dev", member.name),),
                also,
                member.name,
            )


def _ahead(host: HostFacts, bond: BondFacts, member: str) -> list[str]:
    first: dict[tuple[str, str], tuple[int, str]] = {}
    for route in host.routes or ():
        if route.kind != "unicast" or len(route.hops) != 1 or route.hops[0].gateway or _is_everywhere(route):
            continue
        if (device := route.hops[0].device) in (bond.name, member):
            key = route.table, route.destination
            if key not in first or route.metric < first[key][0]:
                first[key] = (route.metric, device)
    own = {(r.table, r.destination) for r in host.routes or () if bond.name in (hop.device for hop in r.hops)}
    return [key[1] for key, (_, device) in first.items() if device == member and key in own]


def _is_everywhere(route: RouteText) -> bool:
    return route.destination.startswith(("fe80:", "ff00:"))


def _others_through(host: HostFacts, member: str, ahead: list[str]) -> list[RouteText]:
    return [
        route
        for route in host.routes or ()
        if route.kind == "unicast"
        and member in (hop.device for hop in route.hops)
        and route.destination not in ahead
        and not _is_everywhere(route)
    ]


def member_addresses(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    for member in bond.members:
        own = [address for address in member.device.addresses or () if not address.startswith("fe80:")]
        if own and not _ahead(host, bond, member.name):
            yield Found(
                f"{member.name} has an IP address of its own ({', '.join(own)})",
                (system_command(host, "ip", "addr", "flush", "dev", member.name),),
                member=member.name,
            )


def shared_subnet(host: HostFacts, bond: BondFacts) -> Iterator[Found]:
    """Linux answers ARP for any of its addresses on any device, unless arp_ignore and arp_announce say otherwise."""
    members = {member.name for member in bond.members}
    own = {network for network in _networks(bond.device) if network.version == 4}
    for device in host.devices.values():
        if device.name == bond.name or device.name in members or not device.up or not _speaks_arp(device):
            continue
        if bond.name in device.lower or device.master != bond.device.master:
            continue
        shared = [address for address in device.addresses or () if _network(address) in own]
        both = (bond.name, device.name)
        if shared and not all(_keeps_apart(host, name) for name in both):
            settings = [("arp_ignore", ONLY_OWN), ("arp_announce", BEST_SOURCE)]
            yield Found(
                f"{device.name} has an address of the same subnet as {bond.name} ({shared[0]})",
                tuple(sysctl(host, "ipv4", name, key, value) for name in both for key, value in settings),
                "or give one of them an address of another subnet; keep the settings in /etc/sysctl.d",
            )


def _speaks_arp(device: DeviceFacts) -> bool:
    return not (device.flags or 0) & (IFF_NOARP | IFF_LOOPBACK)


def _keeps_apart(host: HostFacts, name: str) -> bool:
    ignore, announce = (host.conf("ipv4", name, key) or 0 for key in ("arp_ignore", "arp_announce"))
    return ignore >= ONLY_OWN and announce >= BEST_SOURCE


def _networks(device: DeviceFacts) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    return [_network(address) for address in device.addresses or () if not address.endswith(("/32", "/128"))]


def _network(address: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    return ipaddress.ip_interface(address).network


def _destination(route: RouteText) -> str:
    return "default" if route.destination in ("0.0.0.0/0", "::/0") else route.destination


def sysctl(host: HostFacts, family: str, device: str, key: str, value: int) -> str:
    """Set one; slashes instead of dots between the words where the device's name has a dot (ib0.8001)."""
    words = ("net", family, "conf", device, key)
    return system_command(host, "sysctl", "-w", f"{('/' if '.' in device else '.').join(words)}={value}")


E, W = Severity.ERROR, Severity.WARNING

NETWORK_RULES = (
    Rule(
        "arp-off",
        E,
        "A bond without ARP",
        "It answers no ARP request and sends none: measured, 100 % of the traffic is lost",
        arp_off,
        needs=("flags",),
    ),
    Rule(
        "arp-ignored",
        E,
        "ARP requests are not answered",
        "Peers cannot resolve the bond's addresses: measured, 100 % of what they send is lost",
        arp_ignored,
        needs=("arp_ignore",),
    ),
    Rule(
        "dad-failed",
        E,
        "A duplicate IPv6 address",
        "The kernel does not use an address that another host answered for",
        dad_failed,
        needs=("addresses",),
    ),
    Rule(
        "dad-unfinished",
        E,
        "An IPv6 address stays tentative",
        "Duplicate address detection takes 2 s at most; until it has ended the kernel does not use the address",
        dad_unfinished,
        needs=("addresses",),
    ),
    Rule(
        "ipv6-off",
        E,
        "The kernel disabled IPv6",
        "With accept_dad 2 a duplicate link-local address turns IPv6 off on the device, and all its IPv6 addresses go",
        ipv6_off,
        needs=("disable_ipv6",),
    ),
    Rule(
        "ipv6-link-local",
        W,
        "Inconsistent IPv6 link-local address",
        "A member that leaves keeps its address: two devices then claim it, which confuses routing daemons and DHCPv6",
        link_local,
        needs=("addresses", "member.addresses", "member.address"),
        infiniband=True,
    ),
    Rule(
        "route-through-member",
        E,
        "A route through a member",
        "ARP replies to a member go to the bond: measured, 100 % of the packets of that route are lost",
        through_member,
        needs=("routes",),
    ),
    Rule(
        "member-route-first",
        E,
        "A member's route takes precedence over the bond's",
        "Packets for that network leave through the member, but ARP replies go to the bond: measured, nothing arrives",
        first_route,
        needs=("routes",),
    ),
    Rule(
        "member-has-address",
        W,
        "A member has an IP address of its own",
        "Its route competes with the bond's, and traffic of that route does not fail over",
        member_addresses,
        needs=("member.addresses",),
    ),
    Rule(
        "shared-subnet",
        W,
        "Two devices in one subnet",
        "Each answers ARP for both addresses: peers may use the wrong device, and do not see its failover",
        shared_subnet,
        needs=("addresses", "arp_ignore"),
    ),
)
