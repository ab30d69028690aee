"""A desired state of several bonds made into one plan: the request behind `ibbond apply`.

Read first: requests.py, plan.py, config/desired.py. Members are exactly those that are wanted; options, addresses and
routes that are not named stay as they are. Devices are found by name or by port GUID, P_Key children are made. Left
out: DHCP and name servers, which need other programs (a note says so); files of other tools.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Iterable

from ibbond.backend.contract import Backend, number, text
from ibbond.backend.option_texts import desired_texts
from ibbond.backend.plan import LoadDriver, Plan, needs_interruption, reconcile, surviving
from ibbond.backend.requests import (
    check_members,
    free_name,
    full_name,
    lost_settings,
    members_mtu,
    parse_addresses,
    with_addresses,
)
from ibbond.backend.state import BondState, Child, DeviceState, HostState, capture
from ibbond.config.desired import Desired, DesiredBond, DesiredMember, DesiredRoute
from ibbond.config.fields import label
from ibbond.errors import Refused
from ibbond.host.ip_settings import RTA_METRIC, Hop, IpAddress, IpRoute
from ibbond.host.rtnetlink import RT_TABLE_MAIN, RTA_DST, RTA_GATEWAY, RTN_UNICAST
from ibbond.wire.hardware_type import INFINIBAND
from ibbond.wire.pkey import FULL_MEMBER

RTA_PREF = 20
RTPROT_STATIC = 4
METRIC_OF_IPV6 = 1024


class NotThere(Refused):
    """A device that is wanted is not there (yet); `device` says which."""

    def __init__(self, device: str, where: str) -> None:
        super().__init__(
            f"cannot find {device}",
            why=f"{where or 'this host'} has no such device",
            fix="Load the driver of its adapter, or wait for it with --wait SECONDS",
            code=errno.ENODEV,
        )
        self.device = device


def converge(host: Backend, desired: Desired, *, interrupt: bool = False) -> Plan:
    """The plan from what is there to these bonds; Refused (`NotThere`) while a device is missing."""
    wanted = [bond for bond in desired.bonds if bond.starts]
    title = f"apply {', '.join(full_name(host, bond.name) for bond in wanted) or 'nothing'}"
    everyone = [*(member for bond in wanted for member in bond.members), *desired.children]
    names = {id(device): _device(host, device) for device in everyone}
    children = tuple(
        dict.fromkeys(
            Child(names[id(device)], device.parent, device.pkey)
            for device in everyone
            if device.pkey is not None and device.parent
        )
    )
    for bond in wanted:
        free_name(host, title, bond.name, [])
    before = capture(host, [bond.name for bond in wanted], names.values(), children)
    bonds: dict[str, BondState] = {}
    joining: dict[str, str] = {}
    leaving: list[str] = []
    addresses: list[IpAddress] = []
    routes: list[IpRoute] = []
    for bond in wanted:
        members = [names[id(member)] for member in bond.members]
        bonds[bond.name] = _bond(host, title, before, bond, members, interrupt)
        there = before.bonds[bond.name].members if bond.name in before.bonds else ()
        joining |= {member: bond.name for member in members if member not in there}
        leaving += [member for member in there if member not in members]
        addresses += parse_addresses(title, bond.name, [each.text for each in bond.addresses])
        routes += [_route(title, bond.name, route) for route in bond.routes]
    kept = surviving(before.ip, leaving)
    ip = with_addresses(addresses, tuple(dict.fromkeys(each.on(joining) for each in kept)))
    ip = (*ip, *(route for route in routes if route not in ip))
    after = HostState(bonds, _with_transport(before, everyone, names), ip, children)
    lost = lost_settings(tuple(each.on(joining) for each in before.ip), ip)
    steps = tuple(reconcile(before, after))
    if not host.loaded and wanted:
        steps = (LoadDriver(), *steps)
    return Plan(title, steps, before, after, lost, tuple(_notes(wanted)))


def _device(host: Backend, device: DesiredMember) -> str:
    """The name of a device that is there, or of a child that can be made."""
    address = device.match.address
    if address:
        for name in host.entries(""):
            found = bytes.fromhex((text(host, f"{name}/address") or "").replace(":", "") or "00")
            is_bond = number(host, f"{name}/bonding/miimon") is not None
            if found[-8:] == address[-8:] and len(found) == 20 and not is_bond and not text(host, f"{name}/parent"):
                return name
        raise NotThere(f"a device with port GUID {address[-8:].hex(':')}", host.where)
    for name in device.match.names:
        if number(host, f"{name}/flags") is not None:
            return name
    if device.pkey is not None and device.parent:
        if number(host, f"{device.parent}/flags") is None:
            raise NotThere(device.parent, host.where)
        return f"{device.parent}.{device.pkey | FULL_MEMBER:04x}"
    raise NotThere(label(device), host.where)


def _bond(
    host: Backend, title: str, before: HostState, bond: DesiredBond, members: list[str], interrupt: bool
) -> BondState:
    """The state that a bond shall have; Refused where the driver would refuse it, or it needs --interrupt."""
    present = before.bonds.get(bond.name)
    options = {name: setting.text for name, setting in bond.options.items()}
    for name in ("queue_id", "prio"):
        pairs = [
            f"{device}:{member.options[name].text}"
            for device, member in zip(members, bond.members, strict=True)
            if name in member.options
        ]
        if pairs:
            options[name] = " ".join(pairs)
    if options.get("primary") and options["primary"] not in members:
        labels = {label(member): device for device, member in zip(members, bond.members, strict=True)}
        options["primary"] = labels.get(options["primary"], options["primary"])
    texts = desired_texts(host, bond.name, options, present, members)
    existing = [member for member in members if number(host, f"{member}/type") is not None]
    texts |= check_members(host, title, bond.name, existing, before, texts)
    if len(existing) < len(members):
        texts["fail_over_mac"] = "active"  # children that are to be made are InfiniBand devices
    device = present.device if present else DeviceState(up=False, mtu=1500)
    sizes = [int(member.mtu.text) for member in bond.members if member.mtu]
    mtu = int(bond.mtu.text) if bond.mtu else min(sizes, default=0) or _present_mtu(host, present, existing)
    state = BondState(DeviceState(True, mtu), {**(present.options if present else {}), **texts}, tuple(members))
    if present is not None and (why := needs_interruption(present, state)):
        if not interrupt:
            raise Refused(
                f"cannot {title}",
                why=f"{bond.name}: {why}",
                fix="Allow it with --interrupt; add --dry-run to see what that would do",
                code=errno.EBUSY,
            )
        if present.active in members:
            state = BondState(state.device, state.options, state.members, present.active)
    if device.up and present is not None and set(present.members) - set(members) and not members:
        raise Refused(f"cannot {title}", why=f"{bond.name} would have no member", fix="Name its members")
    return state


def _present_mtu(host: Backend, present: BondState | None, members: list[str]) -> int:
    """Without a desired MTU a bond keeps its own; a new one of InfiniBand devices gets their smallest."""
    if present is not None and present.members:
        return present.device.mtu
    infiniband = [member for member in members if number(host, f"{member}/type") == INFINIBAND]
    return members_mtu(host, infiniband) or (present.device.mtu if present else 1500)


def _with_transport(
    before: HostState, devices: Iterable[DesiredMember], names: dict[int, str]
) -> dict[str, DeviceState]:
    """The devices whose transport mode is wanted."""
    found = {}
    for device in devices:
        name = names[id(device)]
        there = before.devices.get(name, DeviceState(up=False, mtu=0))
        if device.transport:
            found[name] = DeviceState(there.up, there.mtu, device.transport.text)
    return found


def _route(title: str, bond: str, route: DesiredRoute) -> IpRoute:
    """As the kernel reports a route that `ip route add` made."""
    try:
        via = ipaddress.ip_address(route.via)
        default = "::/0" if via.version == 6 else "0.0.0.0/0"
        network = ipaddress.ip_network(default if route.to == "default" else route.to)
    except ValueError as error:
        raise Refused(f"cannot {title}", why=f"route of {bond}: {error}", fix="Write for example 10.1.0.0/16") from None
    six = via.version == 6
    metric = route.metric or (METRIC_OF_IPV6 if six else 0)
    attributes = [(RTA_DST, network.network_address.packed)] if network.prefixlen else []
    attributes += [(RTA_METRIC, metric.to_bytes(4, "little"))] if metric else []
    attributes += [(RTA_PREF, b"\0")] if six else []
    family = socket.AF_INET6 if six else socket.AF_INET
    header = (family, network.prefixlen, 0, 0, RTPROT_STATIC, 0, RTN_UNICAST)
    return IpRoute(header, RT_TABLE_MAIN, tuple(attributes), (Hop(bond, ((RTA_GATEWAY, via.packed),)),))


def _notes(bonds: Iterable[DesiredBond]) -> Iterable[str]:
    for bond in bonds:
        if bond.dhcp:
            yield f"{bond.name} is to use DHCP: start a DHCP client for it, ibbond has none"
        if bond.dns or bond.search:
            yield f"name servers of {bond.name} are not set: that is the host's resolver configuration"
