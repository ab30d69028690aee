"""A desired state as a flat list of fields: the form in which two of them are compared and one is cut down.

Read first: desired.py. Names of fields are those of bonds.toml: `option.miimon` of a bond, `transport` of a device.
What a format cannot hold is named by them (gaps.py), `config diff` prints them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

from ibbond.config.desired import Desired, DesiredBond, DesiredMember, DesiredRoute, Match, Setting, Source

NO_MONITOR = "no monitor"  # said of a bond by the absence of settings: no tool writes it, some change it
LISTS = ("address", "route", "dns", "search")


@dataclass(frozen=True, slots=True)
class Field:
    """One setting of a bond or a device, `of` by name."""

    of: str
    name: str
    text: str
    source: Source

    @property
    def key(self) -> tuple[str, str]:
        return self.of, self.name


def fields(desired: Desired) -> Iterator[Field]:
    """Everything that is wanted; lists have a field for each item."""
    for bond in desired.bonds:
        yield from _of_bond(bond)
    members = [member for bond in desired.bonds for member in bond.members]
    for device in desired.children:
        yield Field(identity(device), "child", identity(device), device.source)
    for device in (*members, *desired.children):
        yield from _of_device(device)


def _of_bond(bond: DesiredBond) -> Iterator[Field]:
    options = bond.options
    yield Field(bond.name, "start", "yes" if bond.starts else "no", bond.source)
    for member in bond.members:
        yield Field(bond.name, "member", identity(member), member.source)
    for name, setting in options.items():
        yield Field(bond.name, f"option.{name}", setting.text, setting.source)
    if all(name not in options or options[name].text == "0" for name in ("miimon", "arp_interval")):
        yield Field(bond.name, NO_MONITOR, "", bond.source)
    if bond.mtu:
        yield Field(bond.name, "mtu", bond.mtu.text, bond.mtu.source)
    for family in sorted(bond.dhcp):
        yield Field(bond.name, f"dhcp{family}", "yes", bond.source)
    for name, settings in (("address", bond.addresses), ("dns", bond.dns), ("search", bond.search)):
        for setting in settings:
            yield Field(bond.name, name, normal_address(setting.text), setting.source)
    for route in bond.routes:
        yield Field(bond.name, "route", route_text(route), route.source)


def _of_device(device: DesiredMember) -> Iterator[Field]:
    of, source = identity(device), device.source
    if device.match.address:
        yield Field(of, "guid", device.match.address[-8:].hex(":"), source)
    if device.pkey is not None:
        yield Field(of, "pkey", f"{device.pkey | 0x8000:#06x}", source)
    if device.parent:
        yield Field(of, "parent", device.parent, source)
    if device.ethernet:
        yield Field(of, "ethernet", "yes", source)
    for name, setting in (("transport", device.transport), ("mtu", device.mtu), *device.options.items()):
        if setting is not None:
            yield Field(of, name, setting.text, setting.source)


def label(device: DesiredMember) -> str:
    """The name by which files call a device."""
    return device.device or str(device.match)


def identity(device: DesiredMember) -> str:
    """What a device's fields are listed under: the port GUID where it is found by that, since its name may be any."""
    return device.match.address[-8:].hex(":") if device.match.address else label(device)


def route_text(route: DesiredRoute) -> str:
    default = route.to in ("default", "0.0.0.0/0", "::/0")
    metric = f" metric {route.metric}" if route.metric else ""
    return f"{'default' if default else normal_address(route.to)} via {normal_address(route.via)}{metric}"


def normal_address(text: str) -> str:
    """An address as the kernel writes it; anything else as it is."""
    for kind in (ipaddress.ip_interface, ipaddress.ip_address):
        try:
            found = kind(text)
        except ValueError:
            continue
        return str(found) if "/" in text else str(getattr(found, "ip", found))
    return text


def compared(desired: Desired) -> dict[tuple[str, str], tuple[str, ...]]:
    """All fields by their keys, in the form in which two desired states are compared."""
    found: dict[tuple[str, str], list[str]] = {}
    for field in fields(desired):
        if field.name != NO_MONITOR and not (field.name == "start" and field.text == "yes"):
            found.setdefault(field.key, []).append(field.text)
    return {key: tuple(sorted(texts)) if key[1] != "member" else tuple(texts) for key, texts in found.items()}


def without(desired: Desired, lost: Collection[Field]) -> Desired:
    """The same without these fields; a member that is lost takes its device's fields along."""
    gone = {(field.of, field.name, field.text) for field in lost}

    def stays(of: str, name: str, text: str) -> bool:
        return (of, name, text) not in gone

    def device(each: DesiredMember) -> DesiredMember:
        of = identity(each)
        kept = {
            name: setting
            for name in ("transport", "mtu")
            if (setting := getattr(each, name)) is None or stays(of, name, setting.text)
        }
        match = each.match
        if match.address and not stays(of, "guid", match.address[-8:].hex(":")):
            match = replace(match, address=b"")
        is_child = each.pkey is None or stays(of, "pkey", f"{each.pkey | 0x8000:#06x}")
        return replace(
            each,
            match=match if is_child else Match((of,)),
            pkey=each.pkey if is_child else None,
            parent=each.parent if is_child else "",
            options={name: each.options[name] for name in each.options if stays(of, name, each.options[name].text)},
            ethernet=each.ethernet and stays(of, "ethernet", "yes"),
            transport=kept.get("transport"),
            mtu=kept.get("mtu"),
        )

    def settings(of: str, name: str, values: list[Setting]) -> list[Setting]:
        return [each for each in values if stays(of, name, normal_address(each.text))]

    bonds = [
        replace(
            bond,
            starts=bond.starts or not stays(bond.name, "start", "no"),
            members=[device(each) for each in bond.members if stays(bond.name, "member", identity(each))],
            options={n: each for n, each in bond.options.items() if stays(bond.name, f"option.{n}", each.text)},
            mtu=bond.mtu if bond.mtu and stays(bond.name, "mtu", bond.mtu.text) else None,
            dhcp=frozenset(family for family in bond.dhcp if stays(bond.name, f"dhcp{family}", "yes")),
            addresses=settings(bond.name, "address", bond.addresses),
            routes=[each for each in bond.routes if stays(bond.name, "route", route_text(each))],
            dns=settings(bond.name, "dns", bond.dns),
            search=settings(bond.name, "search", bond.search),
        )
        for bond in desired.bonds
    ]
    children = [device(each) for each in desired.children if stays(identity(each), "child", identity(each))]
    return Desired(bonds, children, list(desired.problems))
