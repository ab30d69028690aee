"""Which bond uses which port of which RDMA adapter: bond, member, adapter, port, GID, state.

Read first: docs/rdma.md; Mellanox's ibdev2netdev shows the middle columns. Programs that use verbs name an adapter and
a port, people name a bond. For hosts and saved copies the facts are those of sysfs, for labs those of `lab status`.
Left out: GIDs other than that of index 0, and adapters without a network device.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from ibbond.backend.kernel.bonds import KernelBackend
from ibbond.backend.kernel.files import CLASS_NET
from ibbond.ops.read_facts import port_below
from ibbond.wire.hardware_type import INFINIBAND


@dataclass(frozen=True, slots=True)
class MapRow:
    """A network device with an InfiniBand address. What is not known is None; `bond` is None outside of bonds.

    `role` is "active" or "backup"; `state` is that of the port as sysfs names it (ACTIVE, INIT, DOWN, ...).
    """

    host: str
    bond: str | None
    role: str | None
    device: str
    adapter: str | None
    port: int | None
    state: str | None
    gid: str | None

    def as_json(self) -> dict[str, object]:
        return asdict(self)


def map_of_host(kernel: KernelBackend) -> list[MapRow]:
    """This host's or a saved copy's, bonds first, in the order in which members joined."""
    files = kernel.files
    rows: list[MapRow] = []
    for bond in kernel.bonds():
        active = files.text(f"{CLASS_NET}/{bond}/bonding/active_slave")
        for member in (files.text(f"{CLASS_NET}/{bond}/bonding/slaves") or "").split():
            role = None if active is None else "active" if active.strip() == member else "backup"
            rows += _row(kernel, member, bond, role)
    members = {row.device for row in rows}
    for device in files.entries(CLASS_NET):
        if device not in members and device not in kernel.bonds():
            rows += _row(kernel, device, None, None)
    return rows


def _row(kernel: KernelBackend, device: str, bond: str | None, role: str | None) -> Iterable[MapRow]:
    files = kernel.files
    if files.number(f"{CLASS_NET}/{device}/type") != INFINIBAND:
        return
    address = bytes.fromhex((files.text(f"{CLASS_NET}/{device}/address") or "").strip().replace(":", ""))
    below = files.where(f"{CLASS_NET}/{device}/device")
    port = port_below(files, device, below) if below is not None else None
    known = port is not None and port.adapter is not None
    yield MapRow(
        host="",
        bond=bond,
        role=role,
        device=device,
        adapter=port.adapter if port is not None else None,
        port=port.number if port is not None and known else None,
        state=port.state if port is not None else None,
        gid=gid_of(address),
    )


def map_of_lab(hosts: Mapping[str, object]) -> list[MapRow]:
    """All hosts of a lab, from `hosts` of its status; a lab that serves no RDMA devices has no adapter names."""
    rows: list[MapRow] = []
    for host, facts in hosts.items():
        assert isinstance(facts, dict)
        devices = {name: device for name, device in facts["devices"].items() if device["kind"] == "ipoib"}
        bonds = {member: (name, bond["active"]) for name, bond in facts["bonds"].items() for member in bond["members"]}
        for name in sorted(devices, key=lambda name: (name not in bonds, bonds.get(name, ("",))[0], name)):
            rdma = devices[name]["rdma"]
            bond, active = bonds.get(name, (None, None))
            rows.append(
                MapRow(
                    host=host,
                    bond=bond,
                    role=None if bond is None else "active" if active == name else "backup",
                    device=name,
                    adapter=rdma["device"],
                    port=rdma["port"],
                    state=rdma["state"],
                    gid=gid_of(bytes.fromhex(devices[name]["hardware_address"].replace(":", ""))),
                )
            )
    return rows


def gid_of(address: bytes) -> str | None:
    """The port GID in a 20-byte address (RFC 4391, 9.1.1); None in a shorter one."""
    return str(ipaddress.IPv6Address(address[4:20])) if len(address) == 20 else None
