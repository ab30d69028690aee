"""The hosts of bundles, for a lab or a simulation of their fabric: devices by port GUID, bonds, options, addresses.

Read first: ops/collect.py for what a bundle has, topology/known_host.py for what is kept of it. Left out: routes,
devices of partitions (their GUID is that of the device above them), and bonds without InfiniBand members.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import ip_interface
from pathlib import Path

from ibbond.backend.kernel.bonds import KernelBackend
from ibbond.backend.state import bond_state
from ibbond.errors import Refused
from ibbond.ops.export import changed_options
from ibbond.ops.facts import DeviceFacts
from ibbond.ops.read_facts import kernel_facts
from ibbond.ops.saved import opened
from ibbond.topology.known_host import KnownBond, KnownHost
from ibbond.topology.model import LAB_BOND_OPTIONS

ARCHIVES = ("*.tar", "*.tar.*", "*.tgz")
DEFAULT_PKEYS = (None, 0xFFFF, 0x7FFF)
LISTS = ("arp_ip_target", "ns_ip6_target")  # written item by item


def known_hosts(places: Iterable[Path]) -> list[KnownHost]:
    """Of bundles, and of directories of bundles. `Refused`, code 2, names the place that cannot be read."""
    found = []
    for place in places:
        for bundle in bundles_of(place):
            with opened(bundle) as root:
                found.append(known_host(KernelBackend(root), str(bundle), bundle.name.partition(".")[0]))
    return found


def bundles_of(place: Path) -> Iterator[Path]:
    """The place itself, or the archives in it."""
    if not place.exists():
        raise Refused(
            f"cannot read {place}", why="there is no such file", fix="Give a bundle of ibbond collect", code=2
        )
    archives = sorted({each for pattern in ARCHIVES for each in place.glob(pattern)}) if place.is_dir() else []
    yield from archives or [place]


def known_host(kernel: KernelBackend, source: str, otherwise: str) -> KnownHost:
    """One host; its name is that in the bundle, or `otherwise`."""
    facts = kernel_facts(kernel, kernel.bonds())
    ports = {device.name: guid for device in facts.devices.values() if (guid := port_guid(device)) is not None}
    bonds = []
    for bond in facts.bonds:
        members = tuple(member.name for member in bond.members if member.name in ports)
        if members:
            options = bond_options(bond_state(kernel, bond.name).options)
            bonds.append(KnownBond(bond.name, members, global_addresses(bond.device), options, bond.device.mtu))
    taken = {member for bond in bonds for member in bond.members}
    alone = {name: global_addresses(facts.devices[name]) for name in ports if name not in taken}
    said = dict(line.split(" ", 1) for line in (kernel.files.text("ibbond/bundle") or "").splitlines() if " " in line)
    return KnownHost(
        name=said.get("host", otherwise).partition(".")[0],
        source=source,
        ports=ports,
        bonds=tuple(bonds),
        addresses={name: own for name, own in alone.items() if own},
        connected=any(facts.devices[name].transport == "connected" for name in ports),
    )


def port_guid(device: DeviceFacts) -> int | None:
    """The last eight bytes of an IPoIB device's address; None where it is of another kind, a child or a bond."""
    is_bond = "/" in device.name or not device.is_infiniband or len(device.hardware_address) != 20 or device.lower
    if is_bond or device.pkey not in DEFAULT_PKEYS:
        return None
    return int.from_bytes(device.hardware_address[-8:])


def bond_options(options: dict[str, str]) -> dict[str, str | list[str]]:
    """What differs from the driver's defaults, and from those of labs."""
    kept = {name: value for name, value in options.items() if name in dict(LAB_BOND_OPTIONS) and value}
    kept |= changed_options(options)
    return {name: value.replace(",", " ").split() if name in LISTS else value for name, value in kept.items()}


def global_addresses(device: DeviceFacts) -> tuple[str, ...]:
    return tuple(text for text in device.addresses or () if not ip_interface(text).is_link_local)
