"""What a change of a host's bonds may touch, as a value: bonds, their options and members, devices, IP settings.

`capture` reads it from a backend. A plan goes from one `HostState` to another, and back again when a step fails
(plan.py). Left out: what no command of ibbond changes (statistics, VLANs, traffic control).
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass, field

from ibbond.backend.contract import Backend, number, text
from ibbond.host.ip_settings import IpAddress, IpRoute, IpSetting
from ibbond.netdev.device import Flags

Settings = tuple[IpSetting, ...]
TRANSPORTS = ("datagram", "connected")
LISTS = ("slaves", "arp_ip_target", "ns_ip6_target", "queue_id", "prio")


@dataclass(frozen=True, slots=True)
class DeviceState:
    """A network device."""

    up: bool
    mtu: int
    transport: str = field(default="", compare=False)  # of an IPoIB device; empty: it has none, or any will do


@dataclass(frozen=True, slots=True)
class Child:
    """A P_Key child of an IPoIB device."""

    name: str
    parent: str
    pkey: int


@dataclass(frozen=True, slots=True)
class BondState:
    """A bond. `options` has the words and numbers of its files; as desired state, None as active is any member."""

    device: DeviceState
    options: dict[str, str]
    members: tuple[str, ...]
    active: str | None = None
    links: dict[str, str] = field(default_factory=dict, compare=False)  # member: up, going down, down, going back


@dataclass(frozen=True, slots=True)
class HostState:
    """The bonds and the other devices that a request names, the members of those bonds, the IP settings of all."""

    bonds: dict[str, BondState] = field(default_factory=dict)
    devices: dict[str, DeviceState] = field(default_factory=dict)
    ip: Settings = ()
    children: tuple[Child, ...] = ()  # of those that the request makes, the ones that are there


def capture(host: Backend, bonds: Iterable[str], devices: Iterable[str], children: Iterable[Child] = ()) -> HostState:
    """The present state of those bonds that exist, of their members, and of those devices and children that exist."""
    existing = set(host.bonds())
    found = {bond: bond_state(host, bond) for bond in bonds if bond in existing}
    names = [*devices, *(member for bond in found.values() for member in bond.members)]
    present = {name: state for name in names if name not in found and (state := device_state(host, name))}
    there = tuple(child for child in children if number(host, f"{child.name}/flags") is not None)
    return HostState(found, present, settings_of({*found, *present}, host.ip_settings()), there)


def bond_state(host: Backend, bond: str) -> BondState:
    options = {option: option_word(option, found) for option, found in host.options(bond).items()}
    members = tuple(options.pop("slaves", "").split())
    active = options.pop("active_slave", "") or None
    links = {member: text(host, f"{member}/bonding_slave/mii_status") or "" for member in members}
    return BondState(device_state(host, bond) or DeviceState(up=False, mtu=0), options, members, active, links)


def device_state(host: Backend, name: str) -> DeviceState | None:
    """None when there is no such device."""
    flags = number(host, f"{name}/flags")
    if flags is None:
        return None
    mode = text(host, f"{name}/mode") or ""
    transport = mode if mode in TRANSPORTS else ""
    return DeviceState(bool(flags & Flags.UP), number(host, f"{name}/mtu") or 0, transport)


def settings_of(devices: Container[str], settings: Settings) -> Settings:
    """Those on these devices, and routes over others that prefer an address of these as their source."""
    local = {each.local for each in settings if isinstance(each, IpAddress) and each.device in devices}
    return tuple(
        each
        for each in settings
        if any(device in devices for device in each.devices) or (isinstance(each, IpRoute) and each.source in local)
    )


def option_word(option: str, found: str) -> str:
    """The value without the number that the driver puts behind a word; lists stay as they are."""
    words = found.split()
    if len(words) == 2 and words[1].isdigit() and option not in LISTS:
        return words[0]
    return " ".join(words)
