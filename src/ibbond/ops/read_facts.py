"""Reads what `ibbond check` needs to know: of this host or a saved copy from files, of a lab host through the contract.

Read first: ops/facts.py; Documentation/ABI for /sys/class/net and /sys/class/infiniband. Each fact is read on its own,
and what cannot be read stays unknown. Left out: judging, addresses and routes (ops/read_network.py), and the fabric
beyond the cable (one question to the neighbor, where infiniband-diags is there).
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Protocol

from ibbond.abi.device_text import parse_address
from ibbond.abi.ip_text import AddressText, LinkText
from ibbond.backend.contract import Backend
from ibbond.backend.kernel.bonds import KernelBackend
from ibbond.backend.kernel.files import CLASS_NET, HostFiles
from ibbond.bonding.quirks import PROFILES
from ibbond.bonding.snapshot import BondSnapshot
from ibbond.config.files import configured
from ibbond.config.traps import traps
from ibbond.errors import Malformed, Refused
from ibbond.ops import read_network
from ibbond.ops.facts import BondFacts, DeviceFacts, Expected, HostFacts, MemberFacts, PortFacts
from ibbond.wire.hardware_type import ETHERNET, INFINIBAND

NEIGHBORS = "ibbond/neighbors"  # in a saved copy: one file per adapter and port, as smpquery printed it
TIMEOUT_SECONDS = 0.5
Ports = list[tuple[str, int]]  # adapter and port number
Neighbors = dict[tuple[str, int], str | None]  # what smpquery prints of the other end
PCI_FUNCTION = re.compile(r"([0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2})\.[0-9a-f]$")
TYPES = {"ether": ETHERNET, "infiniband": INFINIBAND}
FLAG_BITS = {"UP": 0x1, "LOOPBACK": 0x8, "POINTOPOINT": 0x10, "NOARP": 0x80}


class Texts(Protocol):
    """Text of a file below /sys/class/net, None where it cannot be read."""

    def __call__(self, path: str) -> str | None: ...


def kernel_facts(
    host: KernelBackend,
    bonds: list[str],
    *,
    failures_allowed: int = 2,
    ask: Callable[[Ports], Neighbors] | None = None,
    settle: bool = True,
) -> HostFacts:
    """Facts of these bonds of this host, or of a saved copy; a bond that cannot be read is named with the reason.

    `ask` finds the neighbors of ports (`ask_neighbors`, or what remembers its answers); without `settle` nothing waits
    for duplicate address detection.
    """
    snapshots, unreadable = _snapshots(host, bonds)
    devices = _devices(host, snapshots, ask or ask_neighbors, settle)
    desired = configured(host.files.root)
    desired.problems = traps(desired)

    def facts(snapshot: BondSnapshot) -> BondFacts:
        return BondFacts(
            snapshot=snapshot,
            device=devices[snapshot.name],
            members=tuple(MemberFacts(member, devices[member.name]) for member in snapshot.members),
            expected=tuple(
                Expected(member.match, str(member.source))
                for bond in desired.of(snapshot.name)
                for member in bond.members
            ),
            generated_link_local=sysctls.get(f"ipv6/conf/{snapshot.name}/addr_gen_mode", 0) == 0,
        )

    sysctls = read_network.sysctls(host.files, devices)
    routes = read_network.routes(host)
    return HostFacts(
        bonds=tuple(facts(snapshot) for snapshot in snapshots),
        version=host.version if host.version > (0, 0) else None,
        release=host.release,
        failures_allowed=failures_allowed,
        devices=devices,
        routes=None if routes is None else tuple(routes),
        sysctls=sysctls,
        unreadable=unreadable | {p.source.file: p.what for p in desired.problems if p.kind == "config-unreadable"},
        desired=desired,
        bond_names=frozenset(host.bonds()),
    )


def _snapshots(host: KernelBackend, bonds: list[str]) -> tuple[list[BondSnapshot], dict[str, str]]:
    found, unreadable = [], {}
    for bond in bonds:
        try:
            found.append(host.snapshot(bond))
        except Refused as refused:
            unreadable[bond] = f"{refused.what}: {refused.why}"
    return found, unreadable


def _devices(
    host: KernelBackend, snapshots: list[BondSnapshot], ask: Callable[[Ports], Neighbors], settle: bool
) -> dict[str, DeviceFacts]:
    """Every device of the host, and the members of which there is nothing but the name."""
    files = host.files
    links = read_network.links(files)
    members = [member.name for snapshot in snapshots for member in snapshot.members]
    entries = [name for name in files.entries(CLASS_NET) if name != "bonding_masters"]
    names = dict.fromkeys([*(snapshot.name for snapshot in snapshots), *members, *entries, *links])
    masters = {
        member: bond
        for bond in host.bonds()
        for member in (files.text(f"{CLASS_NET}/{bond}/bonding/slaves") or "").split()
    }
    ports = _ports(files, members, ask)
    addresses = read_network.addresses(host, settle=settle)

    def text(path: str) -> str | None:
        return files.text(f"{CLASS_NET}/{path}")

    found = {}
    for name in names:
        own = None if addresses is None else [each for each in addresses if each.device == name]
        device = _with_link(device_facts(text, own, name, port=ports.get(name)), links.get(name))
        above = files.where(f"{CLASS_NET}/{name}/master")
        below = (each for each in files.entries(f"{CLASS_NET}/{name}") if each.startswith("lower_"))
        link = host.link(name) if name in host.bonds() else None
        found[name] = replace(
            device,
            master=masters.get(name) or (above.rpartition("/")[2] if above else device.master),
            lower=tuple(each.removeprefix("lower_") for each in below),
            max_mtu=link.max_mtu if link else None,
        )
    return found


def lab_facts(
    host: Backend,
    bonds: list[str],
    cables: Mapping[str, tuple[str, str]],
    *,
    pkeys: Mapping[str, tuple[int, ...]],
    ip: read_network.IpFacts,
    profile: str = "default",
    lab: str = "",
    failures_allowed: int = 2,
) -> HostFacts:
    """Facts of a lab host: no adapters; a kernel version where its bonds have the profile of that kernel.

    `cables` has for each device the switch at the other end and the state of its port (`ACTIVE`, `INIT`, `DOWN`),
    `pkeys` the port's P_Key table, `ip` what the host's own kernel knows of addresses and routes.
    """

    def text(path: str) -> str | None:
        with contextlib.suppress(Refused):
            return host.read(path).rstrip("\n")
        return None

    def facts(name: str) -> DeviceFacts:
        switch, state = cables.get(name, (None, None))
        port = (
            PortFacts(None, None, 0, state, None, switch, "InfiniBand", pkeys=pkeys.get(name))
            if switch is not None
            else None
        )
        own = [address for address in ip.addresses if address.device == name]
        device = device_facts(text, own, name, port=port)
        return replace(device, flags=None)  # those of a TUN: it does no ARP, the lab does

    snapshots = [host.snapshot(bond) for bond in bonds]
    devices = {name: facts(name) for name in host.entries("") if name != "bonding_masters"}
    members = {member.name: snapshot.name for snapshot in snapshots for member in snapshot.members}
    devices = {name: replace(device, master=members.get(name)) for name, device in devices.items()}
    return HostFacts(
        bonds=tuple(
            BondFacts(
                snapshot,
                devices[snapshot.name],
                tuple(MemberFacts(member, devices[member.name]) for member in snapshot.members),
            )
            for snapshot in snapshots
        ),
        version=PROFILES[profile].kernel if profile != "default" else None,
        release=f"{'.'.join(map(str, PROFILES[profile].kernel))} (lab profile {profile})"
        if profile != "default"
        else "",
        failures_allowed=failures_allowed,
        is_ours=profile == "default",
        where=host.where,
        lab=lab,
        devices=devices,
        routes=tuple(ip.routes),
        sysctls=ip.sysctls,
        bond_names=frozenset(host.read("bonding_masters").split()),
    )


def device_facts(
    text: Texts, addresses: Iterable[AddressText] | None, name: str, *, port: PortFacts | None = None
) -> DeviceFacts:
    broadcast = _address(text(f"{name}/broadcast"))
    kind = _number(text(f"{name}/type"))
    pkey = _number(text(f"{name}/pkey"))
    if pkey is None and kind == INFINIBAND and len(broadcast) == 20:
        pkey = int.from_bytes(broadcast[8:10])
    flags, speed = _number(text(f"{name}/flags")), _number(text(f"{name}/speed"))
    own = None if addresses is None else list(addresses)
    return DeviceFacts(
        name=name,
        type=kind,
        up=None if flags is None else bool(flags & FLAG_BITS["UP"]),
        carrier={"1": True, "0": False}.get(text(f"{name}/carrier") or ""),
        mtu=_number(text(f"{name}/mtu")),
        hardware_address=_address(text(f"{name}/address")),
        broadcast=broadcast,
        addresses=None if own is None else tuple(each.text for each in own),
        address_flags={each.text: each.flags for each in own or () if each.flags is not None},
        pkey=pkey,
        transport=text(f"{name}/mode"),
        carrier_changes=_number(text(f"{name}/carrier_changes")),
        port=port,
        flags=flags,
        speed=speed if speed is not None and speed > 0 else None,
    )


def _with_link(device: DeviceFacts, link: LinkText | None) -> DeviceFacts:
    """What `ip link` reported, where no file does."""
    if link is None:
        return device
    up = "UP" in link.words
    return replace(
        device,
        type=TYPES.get(link.type) if device.type is None else device.type,
        up=up if device.up is None else device.up,
        carrier="LOWER_UP" in link.words if device.carrier is None and up else device.carrier,
        mtu=link.mtu if device.mtu is None else device.mtu,
        hardware_address=device.hardware_address or _address(link.address),
        broadcast=device.broadcast or _address(link.broadcast),
        flags=sum(FLAG_BITS.get(word, 0) for word in link.words) if device.flags is None else device.flags,
        master=link.master or None,
    )


def _ports(files: HostFiles, members: list[str], ask: Callable[[Ports], Neighbors]) -> dict[str, PortFacts]:
    """The port below each member that has one."""
    found: dict[str, PortFacts] = {}
    for member in members:
        device = files.where(f"{CLASS_NET}/{member}/device")
        if device is not None:
            found[member] = port_below(files, member, device)
    asked = {(port.adapter, port.number) for port in found.values() if port.adapter and port.is_infiniband}
    neighbors = _neighbors(files, asked, ask)
    return {
        member: replace(port, neighbor=neighbors.get((port.adapter or "", port.number)))
        for member, port in found.items()
    }


def port_below(files: HostFiles, member: str, device: str) -> PortFacts:
    """The port of an RDMA adapter below a network device; `device` is where its link `device` leads."""
    adapters = files.entries(f"{device}/infiniband")
    adapter = adapters[0] if adapters else None
    number = _port_number(files, member, device, adapter)
    base = f"{device}/infiniband/{adapter}/ports/{number}"

    def text(name: str) -> str | None:
        return files.text(f"{base}/{name}") if adapter else None

    table = files.entries(f"{base}/pkeys") if adapter else []
    pkeys = [files.number(f"{base}/pkeys/{index}") for index in table]
    physical = files.where(f"{device}/physfn") or device
    return PortFacts(
        adapter=adapter,
        card=_card(files, device, adapter),
        number=number,
        state=_after_colon(text("state")),
        sm_lid=files.number(f"{base}/sm_lid") if adapter else None,
        neighbor=None,
        link_layer=text("link_layer"),
        phys_state=_after_colon(text("phys_state")),
        rate=text("rate"),
        socket=f"{physical} {number}" if adapter else None,
        pkeys=tuple(pkey for pkey in pkeys if pkey) if any(pkeys) else None,
    )


def _after_colon(text: str | None) -> str | None:
    """`4: ACTIVE` is ACTIVE."""
    return text.partition(":")[2].strip() if text else None


def _port_number(files: HostFiles, member: str, device: str, adapter: str | None) -> int:
    """`dev_port`, or the older `dev_id`, counts from 0; an adapter with one port has port 1 whatever they say."""
    ports = files.entries(f"{device}/infiniband/{adapter}/ports") if adapter else []
    if len(ports) == 1 and ports[0].isdigit():
        return int(ports[0])
    numbers = [files.number(f"{CLASS_NET}/{member}/{file}") or 0 for file in ("dev_port", "dev_id")]
    return max(numbers) + 1


def _card(files: HostFiles, device: str, adapter: str | None) -> str | None:
    """The piece of hardware: by the GUID of its whole image, else by its PCI slot without the function."""
    image = files.text(f"{device}/infiniband/{adapter}/sys_image_guid") if adapter else None
    if image and image.strip("0:"):
        return f"image GUID {image}"
    physical = files.where(f"{device}/physfn") or device
    name = physical.rpartition("/")[2]
    slot = PCI_FUNCTION.match(name)
    return slot[1] if slot else name


def _neighbors(
    files: HostFiles, ports: set[tuple[str, int]], ask: Callable[[Ports], Neighbors]
) -> dict[tuple[str, int], str]:
    """The node at the other end of each cable. Asked with smpquery, all at once, where that can be."""
    named = sorted(ports)
    saved = {(adapter, number): files.text(f"{NEIGHBORS}/{adapter}-{number}") for adapter, number in named}
    texts = ask(named) if files.live else saved
    return {port: node for port, text in texts.items() if text and (node := neighbor_of(text))}


def ask_neighbors(ports: Ports) -> Neighbors:
    """What `smpquery nodeinfo` prints of each port's neighbor; nothing where it is not installed or not allowed."""
    if not ports or not os.path.isdir("/dev/infiniband"):
        return {}
    import shutil
    import subprocess

    if shutil.which("smpquery") is None:
        return {}
    started = {}
    for adapter, number in ports:
        command = ["smpquery", "-C", adapter, "-P", str(number), "-D", "nodeinfo", f"0,{number}"]
        with contextlib.suppress(OSError):
            started[adapter, number] = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, text=True
            )
    found: Neighbors = {}
    for port, process in started.items():
        try:
            found[port] = process.communicate(timeout=TIMEOUT_SECONDS)[0]
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    return found


def neighbor_of(text: str) -> str | None:
    """The GUID of a switch in the output of `smpquery nodeinfo`; None for an adapter cabled back to back."""
    fields = dict(re.findall(r"^(\w+):\.*(\S+)", text, re.MULTILINE))
    guid = fields.get("SystemGuid", "")
    if not guid.strip("0x"):
        guid = fields.get("Guid", "")
    return guid if fields.get("NodeType") == "Switch" and guid else None


def _number(text: str | None) -> int | None:
    with contextlib.suppress(TypeError, ValueError):
        return int(text or "", 0)
    return None


def _address(text: str | None) -> bytes:
    with contextlib.suppress(Malformed):
        return parse_address(text or "")
    return b""
