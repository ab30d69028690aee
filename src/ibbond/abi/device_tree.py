"""What is at a path below /sys/class/net: one grammar for the sysfs view, the backend of a lab host and the replay.

Read first: Documentation/ABI/testing/sysfs-class-net and sysfs-class-net-ib... of Linux. A device is a directory here
(in the kernel's tree it is a link to one), so that its links lead to its neighbors: `bond0/lower_ib0 -> ../ib0`. What a
host does not know is the kernel's (`Foreign`). Left out: what the texts are (`sysfs_text`, `device_text`).
"""

from __future__ import annotations

import enum
import errno
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from ibbond.abi import device_text, procfs_text, sysfs_text
from ibbond.abi.device_text import DEVICE_FILES, STATISTICS
from ibbond.abi.sysfs_text import BOND_FILES, MEMBER_FILES
from ibbond.bonding.registry import Registry
from ibbond.errors import Refused
from ibbond.netdev.device import Device
from ibbond.netdev.namespace import Namespace

MASTERS = "bonding_masters"
PROC = "proc_net_bonding"
"""The file BOND/proc_net_bonding has the text of /proc/net/bonding/BOND, which no file system can be put over."""
IPOIB_FILES = {"mode": 0o644, "pkey": 0o444, "umcast": 0o644}
CHILD_FILES = {**IPOIB_FILES, "parent": 0o444}
PARENT_FILES = {**IPOIB_FILES, "create_child": 0o200, "delete_child": 0o200}
HIDDEN = frozenset(("tun_flags", "owner"))
"""Files of the kernel that would show that a device is a TUN."""
ADAPTER = "device"
"""The link by which programs come from a network device to its RDMA device."""


class Kind(enum.Enum):
    """What a file's text is about."""

    MASTERS = enum.auto()  # bonding_masters
    BOND = enum.auto()  # bonding/NAME
    MEMBER = enum.auto()  # bonding_slave/NAME
    STATISTIC = enum.auto()  # statistics/NAME
    IPOIB = enum.auto()
    DEVICE = enum.auto()
    PROC = enum.auto()


@dataclass(frozen=True, slots=True)
class File:
    """A file of a device, by its name in its directory, with its permissions."""

    kind: Kind
    device: str
    name: str
    mode: int


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory; `DeviceTree.names` lists its entries. The kernel may have more where it is `shared`."""

    shared: bool = False


@dataclass(frozen=True, slots=True)
class Link:
    target: str


@dataclass(frozen=True, slots=True)
class Foreign:
    """Whatever the kernel has there, if anything: below a device of the host, or another device altogether."""


Place = File | Directory | Link | Foreign

OWN, SHARED = Directory(), Directory(shared=True)
FOREIGN = Foreign()
SUBSYSTEM = Link("../../net")
"""The kernel's own link would be wrong from a directory, and a program that follows it comes back into the view."""
COUNTERS = dict.fromkeys(STATISTICS, 0o444)


class Facts(Protocol):
    """What exists in a host at this moment."""

    def devices(self) -> tuple[str, ...]: ...

    def has(self, device: str) -> bool: ...

    def members(self, device: str) -> tuple[str, ...] | None:
        """The members of a bond; None for what is not a bond."""
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


class DeviceTree:
    """The tree of one host."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts

    def find(self, path: str) -> Place | None:
        """What is at a path such as `bond0/bonding/mode` ("" is the root); None for what cannot be there."""
        device, _, rest = path.partition("/")
        if not self._facts.has(device):
            if path == MASTERS:
                return File(Kind.MASTERS, "", MASTERS, 0o644)
            return SHARED if path == "" else None if rest else FOREIGN
        if not rest:
            return SHARED
        name, _, below = rest.partition("/")
        if name not in ("bonding", "bonding_slave", "statistics"):
            return FOREIGN if below else self._entry(device, name)
        kind, modes = self._directory(device, name)
        if modes is None or not below:
            return None if modes is None else OWN
        return File(kind, device, below, modes[below]) if below in modes else None

    def names(self, path: str) -> tuple[str, ...]:
        """What the host has in a directory; nothing for what is not one."""
        if path == "":
            return (*self._facts.devices(), MASTERS)
        device, _, directory = path.partition("/")
        if not self._facts.has(device):
            return ()
        return tuple(self._directory(device, directory)[1] or ()) if directory else self._names(device)

    def _names(self, device: str) -> tuple[str, ...]:
        members, master = self._facts.members(device), self._facts.master(device)
        found = [*DEVICE_FILES, "statistics", "subsystem"]
        if members is not None:
            found += ["bonding", PROC, *(f"lower_{member}" for member in members)]
        if master is not None:
            found += ["bonding_slave", "master", f"upper_{master}"]
        found += [ADAPTER] if self._facts.adapter(device) is not None else []
        return (*found, *self._ipoib_files(device))

    def _entry(self, device: str, name: str) -> Place | None:
        if name in DEVICE_FILES:
            return File(Kind.DEVICE, device, name, DEVICE_FILES[name])
        if name in CHILD_FILES or name in PARENT_FILES:
            files = self._ipoib_files(device)
            return File(Kind.IPOIB, device, name, files[name]) if name in files else None
        if name == "subsystem":
            return SUBSYSTEM
        if name in HIDDEN:
            return None
        if name == ADAPTER and (adapter := self._facts.adapter(device)) is not None:
            return Link(f"../../infiniband/{adapter}/{ADAPTER}")
        members, master = self._facts.members(device), self._facts.master(device)
        kind, _, other = name.partition("_")
        if kind == "lower" and other:
            return Link(f"../{other}") if members is not None and other in members else None
        if name == "master" or kind == "upper":
            return Link(f"../{master}") if master is not None and name in ("master", f"upper_{master}") else None
        if name == PROC:
            return File(Kind.PROC, device, name, 0o444) if members is not None else None
        return FOREIGN

    def _directory(self, device: str, directory: str) -> tuple[Kind, Mapping[str, int] | None]:
        """The files of a directory that is the host's altogether, and their modes; None where a device has none."""
        if directory == "statistics":
            return Kind.STATISTIC, COUNTERS
        if directory == "bonding":
            return Kind.BOND, BOND_FILES if self._facts.members(device) is not None else None
        return Kind.MEMBER, MEMBER_FILES if directory == "bonding_slave" and self._facts.master(device) else None

    def _ipoib_files(self, device: str) -> Mapping[str, int]:
        parent = self._facts.parent(device)
        if parent is None:
            return {}
        return CHILD_FILES if parent else PARENT_FILES


def _nothing(_device: str) -> str | None:
    return None


class ModelFacts:
    """The facts of a model of devices and bonds. Each is one look at it, so that any thread may ask."""

    def __init__(
        self,
        namespace: Namespace,
        registry: Registry,
        parent: Callable[[str], str | None] = _nothing,
        adapter: Callable[[str], str | None] = _nothing,
    ) -> None:
        self._namespace = namespace
        self._registry = registry
        self.parent = parent
        self.adapter = adapter

    def devices(self) -> tuple[str, ...]:
        return tuple(device.name for device in self._namespace)

    def has(self, device: str) -> bool:
        return device in self._namespace

    def members(self, device: str) -> tuple[str, ...] | None:
        bond = self._registry.bonds.get(device)
        return tuple(bond.members) if bond is not None else None

    def master(self, device: str) -> str | None:
        found = self._namespace.get(device)
        above = found.master if found is not None else None
        return above.name if above is not None else None

    def text(self, file: File) -> str:
        """The text of a file of the bonding driver or of the network core; KeyError for one of IPoIB."""
        match file.kind:
            case Kind.MASTERS:
                return sysfs_text.render_masters(self._registry.masters())
            case Kind.BOND:
                return sysfs_text.read_bond(self._registry.bonds[file.device].snapshot(), file.name)
            case Kind.MEMBER:
                snapshot = self._registry.bonds[self.master(file.device) or ""].snapshot()
                member = next(member for member in snapshot.members if member.name == file.device)
                return sysfs_text.read_member(snapshot, member, file.name)
            case Kind.STATISTIC:
                return device_text.read_statistic(self._device(file), file.name)
            case Kind.DEVICE:
                return device_text.read_device(self._device(file), file.name)
            case Kind.PROC:
                return procfs_text.render(self._registry.bonds[file.device].snapshot())
            case Kind.IPOIB:
                raise KeyError(file)

    def _device(self, file: File) -> Device:
        found = self._namespace.get(file.device)
        if found is None:
            raise no_file(f"{file.device}/{file.name}")
        return found


def no_file(path: str) -> Refused:
    return Refused(
        f"cannot open {path}",
        why="there is no such file",
        fix="List the directory to see its files",
        code=errno.ENOENT,
    )
