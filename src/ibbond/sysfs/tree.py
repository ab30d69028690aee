"""Paths below /sys/class/net of one host: which are files, directories and links of ours, and which we pass through.

Read first: Documentation/ABI/testing/sysfs-class-net and sysfs-class-net-ib..., `backend.contract` for the texts behind
the files. A device of ours is a directory here (in the kernel's tree it is a link to one), so that its links lead to
its neighbors: `bond0/lower_ib0 -> ../ib0`. What we do not know of is the kernel's own. Pure; left out: the texts
(`backend`), serving it (`fuse`), putting it over /sys/class/net (`mount`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from ibbond.abi.device_text import DEVICE_FILES, STATISTICS
from ibbond.abi.sysfs_text import BOND_FILES, MEMBER_FILES
from ibbond.backend.own import IPOIB_FILES, MASTERS, PARENT_FILES
from ibbond.stack.host_stack import HostStack

PROC = "proc_net_bonding"
"""The file BOND/proc_net_bonding has the text of /proc/net/bonding/BOND, which no file system can be put over."""
KERNELS_OWN = frozenset(("ifindex", "iflink"))
"""Files of ours that show what the host's kernel says where it says so: its numbers are those of `ip link`."""
HIDDEN = frozenset(("tun_flags", "owner"))
"""Files of the kernel that would show that a device is a TUN."""


class Facts(Protocol):
    """What exists in a host at this moment."""

    def devices(self) -> tuple[str, ...]: ...

    def has(self, device: str) -> bool: ...

    def members(self, device: str) -> tuple[str, ...] | None:
        """The members of a bond; None for what is no bond."""
        ...

    def master(self, device: str) -> str | None:
        """The bond that a device is a member of."""
        ...

    def parent(self, device: str) -> str | None:
        """The parent of an IPoIB child, "" for a parent, None for what is not IPoIB."""
        ...

    def adapter(self, device: str) -> str | None:
        """The RDMA device of an IPoIB device, where sysfs has one."""
        ...


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory; `Tree.names` tells what is in it. The kernel may have more where `passed` says so."""

    passed: bool = False


@dataclass(frozen=True, slots=True)
class File:
    """A file whose text is the backend's; `passed` prefers the kernel's own text where there is one."""

    mode: int
    passed: bool = False


@dataclass(frozen=True, slots=True)
class ProcFile:
    """The procfs text of a bond."""

    bond: str
    mode: int = 0o444


@dataclass(frozen=True, slots=True)
class Link:
    target: str


@dataclass(frozen=True, slots=True)
class Passed:
    """Whatever the kernel has there, if anything: below a device of ours, or another device altogether."""


Node = Directory | File | ProcFile | Link | Passed

OURS, SHARED = Directory(), Directory(passed=True)
DEVICE_NODES = {name: File(mode, passed=name in KERNELS_OWN) for name, mode in DEVICE_FILES.items()}
BOND_NODES = {name: File(mode) for name, mode in BOND_FILES.items()}
MEMBER_NODES = {name: File(mode) for name, mode in MEMBER_FILES.items()}
COUNTER_NODES = {name: File(0o444) for name in STATISTICS}
MASTERS_NODE = File(0o644)
PASSED = Passed()
ADAPTER = "device"
"""The link by which programs come from a network device to its RDMA device."""
SUBSYSTEM = Link("../../net")
"""The kernel's own link would be wrong from a directory, and whoever follows it comes back into the view."""


class Tree:
    """The tree of one host."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts

    def find(self, path: str) -> Node | None:
        """What is at a path such as `bond0/bonding/mode` ("" is the root); None for what cannot be there."""
        device, _, rest = path.partition("/")
        if not self._facts.has(device):
            return SHARED if path == "" else MASTERS_NODE if path == MASTERS else None if rest else PASSED
        if not rest:
            return SHARED
        name, _, below = rest.partition("/")
        if name not in ("bonding", "bonding_slave", "statistics"):
            return PASSED if below else self._entry(device, name)
        nodes = self._nodes(device, name)
        return nodes if nodes is None else nodes.get(below) if below else OURS

    def names(self, path: str) -> tuple[str, ...]:
        """What is ours in a directory; nothing for what is none."""
        if path == "":
            return (*self._facts.devices(), MASTERS)
        device, _, directory = path.partition("/")
        if not self._facts.has(device):
            return ()
        return tuple(self._nodes(device, directory) or ()) if directory else self._names(device)

    def _names(self, device: str) -> tuple[str, ...]:
        members, master, parent = self._of(device)
        found = [*DEVICE_NODES, "statistics", "subsystem"]
        if members is not None:
            found += ["bonding", PROC, *(f"lower_{member}" for member in members)]
        if master is not None:
            found += ["bonding_slave", "master", f"upper_{master}"]
        if parent is not None:
            found += [name for name in IPOIB_FILES if name != "parent" or parent]
            found += () if parent else PARENT_FILES
            found += [ADAPTER] if self._facts.adapter(device) is not None else []
        return tuple(found)

    def _entry(self, device: str, name: str) -> Node | None:
        node = DEVICE_NODES.get(name)
        if node is not None:
            return node
        if name == "subsystem":
            return SUBSYSTEM
        if name in HIDDEN:
            return None
        if name == ADAPTER and (adapter := self._facts.adapter(device)) is not None:
            return Link(f"../../infiniband/{adapter}/{ADAPTER}")
        members, master, parent = self._of(device)
        kind, _, other = name.partition("_")
        if kind == "lower" and other:
            return Link(f"../{other}") if members is not None and other in members else None
        if name == "master" or kind == "upper":
            return Link(f"../{master}") if master is not None and name in ("master", f"upper_{master}") else None
        if name == PROC:
            return ProcFile(device) if members is not None else None
        if name in IPOIB_FILES:
            return File(IPOIB_FILES[name]) if parent or (parent == "" and name != "parent") else None
        if name in PARENT_FILES:
            return File(PARENT_FILES[name]) if parent == "" else None
        return PASSED

    def _nodes(self, device: str, directory: str) -> Mapping[str, File] | None:
        """The files of a directory that is ours altogether; None where a device does not have it."""
        if directory == "statistics":
            return COUNTER_NODES
        if directory == "bonding":
            return BOND_NODES if self._facts.members(device) is not None else None
        if directory == "bonding_slave":
            return MEMBER_NODES if self._facts.master(device) is not None else None
        return None

    def _of(self, device: str) -> tuple[tuple[str, ...] | None, str | None, str | None]:
        return self._facts.members(device), self._facts.master(device), self._facts.parent(device)


class HostFacts:
    """The facts of a host of the running lab. Each is one look at the model, so that any thread may ask."""

    def __init__(self, host: HostStack, adapters: Mapping[str, str]) -> None:
        """`adapters` are the names of RDMA devices by node name of the subnet."""
        self._host = host
        self._adapters = adapters

    def devices(self) -> tuple[str, ...]:
        return tuple(device.name for device in self._host.namespace)

    def has(self, device: str) -> bool:
        return device in self._host.namespace

    def members(self, device: str) -> tuple[str, ...] | None:
        bond = self._host.registry.bonds.get(device)
        return tuple(bond.members) if bond is not None else None

    def master(self, device: str) -> str | None:
        found = self._host.namespace.get(device)
        above = found.master if found is not None else None
        return above.name if above is not None else None

    def parent(self, device: str) -> str | None:
        if self._host.links.get(device) is None:
            return None
        return self._host.links.parent(device) or ""

    def adapter(self, device: str) -> str | None:
        interface = self._host.links.get(device)
        return self._adapters.get(interface.port.name.partition("/")[0]) if interface is not None else None
