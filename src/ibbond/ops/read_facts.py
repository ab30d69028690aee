"""Reads what `ibbond check` needs to know: of this host or a saved copy from files, of a lab host through the contract.

Read first: ops/facts.py; Documentation/ABI for /sys/class/net and /sys/class/infiniband. Everything here only reads.
Left out: judging, and the fabric beyond the cable (one question to the neighbor, where infiniband-diags is there).
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from typing import Protocol

from ibbond.abi.device_text import parse_address
from ibbond.backend.contract import Backend
from ibbond.backend.kernel.bonds import KernelBackend
from ibbond.backend.kernel.files import CLASS_NET, HostFiles
from ibbond.bonding.quirks import PROFILES
from ibbond.bonding.snapshot import BondSnapshot
from ibbond.config.members import configured_members
from ibbond.errors import Malformed, Refused
from ibbond.ops.facts import BondFacts, DeviceFacts, HostFacts, MemberFacts, PortFacts

NEIGHBORS = "ibbond/neighbors"  # in a saved copy: one file per adapter and port, as smpquery printed it
PATIENCE_SECONDS = 0.5
PCI_FUNCTION = re.compile(r"([0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2})\.[0-9a-f]$")


class Texts(Protocol):
    """Text of a file below /sys/class/net, None where it cannot be read."""

    def __call__(self, path: str) -> str | None: ...


def kernel_facts(host: KernelBackend, bonds: list[str], *, failures_allowed: int = 2) -> HostFacts:
    """Facts of this host's bonds, or of a saved copy's. Refused when a bond cannot be read."""
    expected = configured_members(host.files.root)
    snapshots = [host.snapshot(bond) for bond in bonds]
    members = [member.name for snapshot in snapshots for member in snapshot.members]
    ports = _ports(host.files, members)

    def text(path: str) -> str | None:
        return host.files.text(f"{CLASS_NET}/{path}")

    def facts(snapshot: BondSnapshot) -> BondFacts:
        given = expected.get(snapshot.name)
        link = host.link(snapshot.name)
        device = device_facts(
            text, host.addresses(snapshot.name), snapshot.name, max_mtu=link.max_mtu if link else None
        )
        return BondFacts(
            snapshot=snapshot,
            device=device,
            members=tuple(
                MemberFacts(
                    member, device_facts(text, host.addresses(member.name), member.name, port=ports.get(member.name))
                )
                for member in snapshot.members
            ),
            expected=tuple(given.members) if given else None,
            expected_from=given.file if given else "",
            generated_link_local=host.files.text(f"proc/sys/net/ipv6/conf/{snapshot.name}/addr_gen_mode")
            in (None, "0"),
        )

    return HostFacts(
        bonds=tuple(facts(snapshot) for snapshot in snapshots),
        version=host.version,
        release=host.release,
        failures_allowed=failures_allowed,
    )


def lab_facts(
    host: Backend,
    bonds: list[str],
    neighbors: Mapping[str, str],
    *,
    profile: str = "default",
    failures_allowed: int = 2,
) -> HostFacts:
    """Facts of a lab host: no adapters, and no kernel version but with the profile of a kernel, whose bonds these are.

    `neighbors`: device to switch.
    """

    def text(path: str) -> str | None:
        with contextlib.suppress(Refused):
            return host.read(path).rstrip("\n")
        return None

    def port(name: str) -> PortFacts | None:
        return PortFacts(None, None, 0, None, None, neighbors[name]) if name in neighbors else None

    found = []
    for bond in bonds:
        snapshot = host.snapshot(bond)
        members = tuple(
            MemberFacts(member, device_facts(text, host.addresses(member.name), member.name, port=port(member.name)))
            for member in snapshot.members
        )
        found.append(BondFacts(snapshot, device_facts(text, host.addresses(bond), bond), members))
    kernel = PROFILES[profile].kernel if profile != "default" else None
    release = f"{'.'.join(map(str, kernel))} (lab profile {profile})" if kernel else ""
    return HostFacts(bonds=tuple(found), version=kernel, release=release, failures_allowed=failures_allowed)


def device_facts(
    text: Texts, addresses: list[str], name: str, *, port: PortFacts | None = None, max_mtu: int | None = None
) -> DeviceFacts:
    broadcast = _address(text(f"{name}/broadcast"))
    kind = _number(text(f"{name}/type")) or 0
    pkey = _number(text(f"{name}/pkey"))
    if pkey is None and kind == 32 and len(broadcast) == 20:
        pkey = int.from_bytes(broadcast[8:10])
    carrier = text(f"{name}/carrier")
    return DeviceFacts(
        name=name,
        type=kind,
        up=bool((_number(text(f"{name}/flags")) or 0) & 1),
        carrier={"1": True, "0": False}.get(carrier or ""),
        mtu=_number(text(f"{name}/mtu")) or 0,
        hardware_address=_address(text(f"{name}/address")),
        broadcast=broadcast,
        addresses=tuple(addresses),
        pkey=pkey,
        transport=text(f"{name}/mode"),
        carrier_changes=_number(text(f"{name}/carrier_changes")),
        max_mtu=max_mtu,
        port=port,
    )


def _ports(files: HostFiles, members: list[str]) -> dict[str, PortFacts]:
    """The port below each member that has one."""
    found: dict[str, PortFacts] = {}
    for member in members:
        device = files.where(f"{CLASS_NET}/{member}/device")
        if device is None:
            continue
        adapters = files.entries(f"{device}/infiniband")
        adapter = adapters[0] if adapters else None
        number = _port_number(files, member, device, adapter)
        base = f"{device}/infiniband/{adapter}/ports/{number}"
        state = files.text(f"{base}/state") if adapter else None
        found[member] = PortFacts(
            adapter=adapter,
            card=_card(files, device, adapter),
            number=number,
            state=state.partition(":")[2].strip() if state else None,
            sm_lid=files.number(f"{base}/sm_lid") if adapter else None,
            neighbor=None,
        )
    neighbors = _neighbors(files, {(port.adapter, port.number) for port in found.values() if port.adapter})
    return {
        member: PortFacts(
            port.adapter,
            port.card,
            port.number,
            port.state,
            port.sm_lid,
            neighbors.get((port.adapter or "", port.number)),
        )
        for member, port in found.items()
    }


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


def _neighbors(files: HostFiles, ports: set[tuple[str | None, int]]) -> dict[tuple[str, int], str]:
    """The node at the other end of each cable. Asked with smpquery, all at once, where that can be."""
    named = [(adapter, number) for adapter, number in sorted(ports, key=str) if adapter]
    saved = {(adapter, number): files.text(f"{NEIGHBORS}/{adapter}-{number}") for adapter, number in named}
    texts = ask_neighbors(named) if files.live else saved
    return {port: node for port, text in texts.items() if text and (node := neighbor_of(text))}


def ask_neighbors(ports: list[tuple[str, int]]) -> dict[tuple[str, int], str | None]:
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
    found: dict[tuple[str, int], str | None] = {}
    for port, process in started.items():
        try:
            found[port] = process.communicate(timeout=PATIENCE_SECONDS)[0]
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
