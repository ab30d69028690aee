"""What a change of this host's bonds may touch, as a value: bonds, their options and members, addresses, routes.

`capture` reads it from the live host. A plan goes from one `HostState` to another, and back again when a step fails
(plan.py). Left out: what no command of ours changes (statistics, VLANs, neighbors, traffic control).
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field

from ibbond.abi.bond_attributes import read_bond
from ibbond.abi.netlink_attributes import LINK, LinkNews
from ibbond.backend.kernel.files import CLASS_NET, HostFiles
from ibbond.bonding.options import OPTIONS
from ibbond.errors import Malformed
from ibbond.host.rtnetlink import GETLINK, RouteSocket


@dataclass(frozen=True, slots=True)
class RouteState:
    """One route of the main table over one device; `gateway` is empty for a directly connected network."""

    destination: str
    gateway: str
    metric: int


@dataclass(frozen=True, slots=True)
class DeviceState:
    """A network device; addresses are `10.0.0.1/24`, link-local IPv6 ones (the kernel's own work) left out."""

    up: bool
    mtu: int
    addresses: tuple[str, ...] = ()
    routes: tuple[RouteState, ...] = ()


@dataclass(frozen=True, slots=True)
class BondState:
    """A bond. `options` has the words and numbers of its sysfs files; None as active in a wish: whichever it be."""

    device: DeviceState
    options: dict[str, str]
    members: tuple[str, ...]
    active: str | None = None
    links: dict[str, str] = field(default_factory=dict, compare=False)  # member: up, going down, down, going back


@dataclass(frozen=True, slots=True)
class HostState:
    """The bonds and the other devices that a request names, and the members of those bonds."""

    bonds: dict[str, BondState] = field(default_factory=dict)
    devices: dict[str, DeviceState] = field(default_factory=dict)


def capture(files: HostFiles, routes: RouteSocket, bonds: Iterable[str], devices: Iterable[str]) -> HostState:
    """The present state of those bonds that exist, of their members, and of those devices that exist."""
    addresses = _addresses(routes)
    table = _routes(routes)
    found = {
        bond: bond_state(files, routes, bond, addresses, table)
        for bond in bonds
        if files.exists(f"{CLASS_NET}/{bond}/bonding")
    }
    names = [*devices, *(member for bond in found.values() for member in bond.members)]
    return HostState(
        bonds=found,
        devices={
            name: device_state(files, name, addresses, table)
            for name in names
            if name not in found and files.exists(f"{CLASS_NET}/{name}/flags")
        },
    )


def bond_state(
    files: HostFiles,
    routes: RouteSocket,
    bond: str,
    addresses: dict[int, list[str]],
    table: dict[int, list[RouteState]],
) -> BondState:
    options = option_texts(files, bond) | netlink_texts(files, routes, bond)
    members = tuple(options.pop("slaves", "").split())
    active = options.pop("active_slave", "") or None
    links = {member: files.text(f"{CLASS_NET}/{member}/bonding_slave/mii_status") or "" for member in members}
    return BondState(device_state(files, bond, addresses, table), options, members, active, links)


def device_state(
    files: HostFiles, name: str, addresses: dict[int, list[str]], table: dict[int, list[RouteState]]
) -> DeviceState:
    base = f"{CLASS_NET}/{name}"
    index = files.number(f"{base}/ifindex") or 0
    return DeviceState(
        up=files.is_up(name),
        mtu=files.number(f"{base}/mtu") or 0,
        addresses=tuple(addresses.get(index, ())),
        routes=tuple(table.get(index, ())),
    )


def option_texts(files: HostFiles, bond: str) -> dict[str, str]:
    """Every readable file of a bond's `bonding` directory: `active-backup 1` becomes `active-backup`."""
    directory = f"{CLASS_NET}/{bond}/bonding"
    found: dict[str, str] = {}
    for option in files.entries(directory):
        text = files.text(f"{directory}/{option}")
        if text is not None:
            found[option] = option_word(option, text)
    return found


def netlink_texts(files: HostFiles, routes: RouteSocket, bond: str) -> dict[str, str]:
    """The options that have no file, as texts of the same kind; `prio` is `ib0:0 ib1:5`."""
    link = link_news(files, routes, bond)
    if link is None:
        return {}
    found: dict[str, str] = {}
    for option, value in read_bond(link.bond).items():
        if OPTIONS[option].netlink_only:
            targets = value if isinstance(value, tuple) else None
            found[option] = str(value) if targets is None else " ".join(str(ipaddress.ip_address(t)) for t in targets)
    members = (files.text(f"{CLASS_NET}/{bond}/bonding/slaves") or "").split()
    pairs = [(member, link_news(files, routes, member)) for member in members]
    found["prio"] = " ".join(f"{member}:{news.member.priority}" for member, news in pairs if news and news.member)
    return found


def link_news(files: HostFiles, routes: RouteSocket, device: str) -> LinkNews | None:
    """What rtnetlink says of a device; None when it is gone."""
    index = files.number(f"{CLASS_NET}/{device}/ifindex")
    if index is None:
        return None
    try:
        return LinkNews.parse(routes.request(GETLINK, 0, LINK.pack(0, 0, index, 0, 0))[0].body)
    except (OSError, IndexError, Malformed):
        return None


def option_word(option: str, text: str) -> str:
    """The value without the number that the driver puts behind a word; lists stay as they are."""
    words = text.split()
    if len(words) == 2 and words[1].isdigit() and option not in ("slaves", "arp_ip_target", "queue_id"):
        return words[0]
    return " ".join(words)


def _addresses(routes: RouteSocket) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for each in routes.addresses():
        if each.address[:2] != b"\xfe\x80":
            text = f"{ipaddress.ip_address(each.address)}/{each.prefix}"
            found.setdefault(each.index, []).append(text)
    return found


def _routes(routes: RouteSocket) -> dict[int, list[RouteState]]:
    """Routes with one next hop, by device; those of several devices are not ours to restore."""
    found: dict[int, list[RouteState]] = {}
    for route in routes.routes():
        if len(route.hops) != 1 or route.destination[:2] == b"\xfe\x80":
            continue
        index, gateway = route.hops[0]
        family = socket.AF_INET if route.family == socket.AF_INET else socket.AF_INET6
        text = RouteState(
            destination=f"{socket.inet_ntop(family, route.destination)}/{route.prefix}",
            gateway=socket.inet_ntop(family, gateway) if gateway else "",
            metric=route.metric,
        )
        found.setdefault(index, []).append(text)
    return found
