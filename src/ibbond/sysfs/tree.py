"""Paths below /sys/class/net of one host: which are files, directories and links of ours, and which we pass through.

Read first: Documentation/ABI/testing/sysfs-class-net and sysfs-class-net-ib..., `backend.contract` for the texts behind
the files. A device of ours is a directory here (in the kernel's tree it is a link to one), so that its links lead to
its neighbors: `bond0/lower_ib0 -> ../ib0`. What we do not know of is the kernel's own. Pure; left out: the texts
(`backend`), serving it (`fuse`), putting it over /sys/class/net (`mount`).
"""

from __future__ import annotations

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


@dataclass(frozen=True, slots=True)
class Directory:
    """`names` are ours; the kernel may have more where `passed` says so."""

    names: tuple[str, ...]
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

STATISTICS_DIRECTORY = Directory(STATISTICS)
MEMBER_DIRECTORY = Directory(tuple(MEMBER_FILES))
BOND_DIRECTORY = Directory(tuple(BOND_FILES))
SUBSYSTEM = Link("../../net")
"""The kernel's own link would be wrong from a directory, and whoever follows it comes back into the view."""


class Tree:
    """The tree of one host."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts

    def find(self, path: str) -> Node | None:
        """What is at a path such as `bond0/bonding/mode` ("" is the root); None for what cannot be there."""
        if path == "":
            return Directory((*self._facts.devices(), MASTERS), passed=True)
        if path == MASTERS:
            return File(0o644)
        device, _, rest = path.partition("/")
        if not self._facts.has(device):
            return None if rest else Passed()
        if not rest:
            return Directory(self._names(device), passed=True)
        name, _, below = rest.partition("/")
        if name in ("bonding", "bonding_slave", "statistics"):
            return self._in_directory(device, name, below)
        return Passed() if below else self._entry(device, name)

    def _names(self, device: str) -> tuple[str, ...]:
        members, master, parent = self._of(device)
        found = [*DEVICE_FILES, "statistics", "subsystem"]
        if members is not None:
            found += ["bonding", PROC, *(f"lower_{member}" for member in members)]
        if master is not None:
            found += ["bonding_slave", "master", f"upper_{master}"]
        if parent is not None:
            found += [name for name in IPOIB_FILES if name != "parent" or parent]
            found += () if parent else PARENT_FILES
        return tuple(found)

    def _entry(self, device: str, name: str) -> Node | None:
        mode = DEVICE_FILES.get(name)
        if mode is not None:
            return File(mode, passed=name in KERNELS_OWN)
        if name == "subsystem":
            return SUBSYSTEM
        if name in HIDDEN:
            return None
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
        return Passed()

    def _in_directory(self, device: str, directory: str, name: str) -> Node | None:
        """Directories that are ours altogether."""
        if directory == "statistics":
            if not name:
                return STATISTICS_DIRECTORY
            return File(0o444) if name in STATISTICS else None
        modes, found = BOND_FILES, BOND_DIRECTORY
        if directory == "bonding":
            exists = self._facts.members(device) is not None
        else:
            exists = self._facts.master(device) is not None
            modes, found = MEMBER_FILES, MEMBER_DIRECTORY
        if not exists:
            return None
        if not name:
            return found
        return File(modes[name]) if name in modes else None

    def _of(self, device: str) -> tuple[tuple[str, ...] | None, str | None, str | None]:
        return self._facts.members(device), self._facts.master(device), self._facts.parent(device)


class HostFacts:
    """The facts of a host of the running lab. Each is one look at the model, so that any thread may ask."""

    def __init__(self, host: HostStack) -> None:
        self._host = host

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
