"""Our driver's bonds in one lab host, behind the contract: paths below /sys/class/net, and texts as the kernel has.

Read first: `backend.contract`, `abi.sysfs_text`, `abi.device_text`; Documentation/infiniband/ipoib.rst for IPoIB's own
files. Requests come from other threads and are made on the loop's. Settings of ours (`link_events`, `handover_ms`) and
what the kernel has in netlink only (`prio`, `ns_ip6_target`) are written like options, but are no files: `entries` does
not name them. Left out: the file system (`sysfs`).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Protocol, TypeVar

from ibbond.abi import device_text, procfs_text, sysfs_text
from ibbond.backend.own_requests import requests
from ibbond.bonding.bond import Bond
from ibbond.bonding.events import BondEvent
from ibbond.bonding.option import Mode, Version
from ibbond.bonding.options import OPTIONS
from ibbond.bonding.snapshot import BondSnapshot
from ibbond.errors import Refused
from ibbond.host import ip_settings
from ibbond.host.ip_settings import IpSetting
from ibbond.host.rtnetlink import RouteSocket
from ibbond.ipoib.interface import Interface
from ibbond.netdev.device import Device, Flags
from ibbond.stack.events import (
    CreateBond,
    CreateChild,
    DeleteBond,
    DeleteChild,
    HostEvent,
    SetAdmin,
    SetDeviceMode,
    SetDeviceMtu,
    ToBond,
)
from ibbond.stack.host_stack import HostStack

T = TypeVar("T")
MASTERS = "bonding_masters"
IPOIB_FILES: dict[str, int] = {"mode": 0o644, "pkey": 0o444, "umcast": 0o644, "parent": 0o444}
PARENT_FILES: dict[str, int] = {"create_child": 0o200, "delete_child": 0o200}


class World(Protocol):
    """The host's surroundings, as the running lab provides them."""

    def run(self, call: Callable[[], T]) -> T:
        """Make a call on the loop's thread and wait for its result."""
        ...

    def handle(self, host: str, event: HostEvent) -> None:
        """Tell the network of an event of this host (on the loop's thread); may raise `Refused`."""
        ...

    def hear(self, host: str) -> None:
        """Take note of what users did in this host by `ip` (on the loop's thread): requests keep their order."""
        ...

    def settle(self) -> None:
        """Bring the counters up to date (on the loop's thread)."""
        ...

    def addresses(self, host: str, device: str) -> list[str]: ...

    def route_socket(self, host: str) -> RouteSocket:
        """A new socket to the host's kernel, for one thread."""
        ...

    def log(self, host: str) -> list[str]: ...

    def watch(self, host: str) -> Iterator[dict[str, object]]: ...


class OwnBackend:
    """The bonds of one lab host (see `backend.contract`)."""

    def __init__(self, host: HostStack, world: World) -> None:
        self.where = host.name
        self._host = host
        self._world = world

    def read(self, path: str) -> str:
        if "/statistics/" in path:
            return self._ask(lambda: self._read_statistic(path))
        return self._ask(lambda: self._read(path))

    def write(self, path: str, text: str) -> None:
        self._ask(lambda: self._write(path, text))

    def entries(self, path: str) -> list[str]:
        return self._ask(lambda: sorted(self._entries(path)))

    def set_admin(self, device: str, up: bool) -> None:
        self._ask(lambda: self._set_admin(device, up))

    def addresses(self, device: str) -> list[str]:
        return self._world.run(lambda: self._world.addresses(self.where, self._host.device(device).name))

    @property
    def version(self) -> Version:
        return self._host.registry.rules.profile.kernel

    def bonds(self) -> list[str]:
        return self._world.run(lambda: sorted(self._host.registry.bonds))

    def options(self, bond: str) -> dict[str, str]:
        snapshot = self.snapshot(bond)
        return {
            option.name: sysfs_text.render_option(snapshot, option).rstrip("\n")
            for option in OPTIONS.values()
            if option.since <= self.version or option.ours
        }

    def master(self, device: str) -> str | None:
        above = self._ask(lambda: self._host.device(device).master)
        return above.name if above is not None else None

    def ip_settings(self) -> tuple[IpSetting, ...]:
        return ip_settings.read(self._kernel)

    def add_ip(self, setting: IpSetting) -> None:
        self._set_ip(f"add {setting}", lambda: ip_settings.add(self._kernel, setting))

    def delete_ip(self, setting: IpSetting) -> None:
        self._set_ip(f"delete {setting}", lambda: ip_settings.delete(self._kernel, setting))

    @cached_property
    def _kernel(self) -> RouteSocket:
        return self._world.route_socket(self.where)

    def _set_ip(self, what: str, request: Callable[[], None]) -> None:
        try:
            request()
        except OSError as error:
            why = f"the kernel answered {os.strerror(error.errno or 0)}"
            fix = "See ip address and ip route in the host"
            raise Refused(f"cannot {what} in {self.where}", why=why, fix=fix, code=error.errno or errno.EIO) from None

    def snapshot(self, bond: str) -> BondSnapshot:
        return self._ask(lambda: self._host.bond(bond).snapshot())

    def proc(self, bond: str) -> str:
        """Tools read past the version, people do not."""
        snapshot = self.snapshot(bond)
        silent = snapshot.options["mode"] != Mode.ACTIVE_BACKUP
        version = f"{procfs_text.VERSION} (carries no traffic in this mode, use active-backup)"
        return procfs_text.render(snapshot, version) if silent else procfs_text.render(snapshot)

    def log(self) -> list[str]:
        return self._world.log(self.where)

    def watch(self) -> Iterator[dict[str, object]]:
        return self._world.watch(self.where)

    def _ask(self, call: Callable[[], T]) -> T:
        def heard() -> T:
            self._world.hear(self.where)
            return call()

        return self._world.run(heard)

    # Reading

    def _read(self, path: str) -> str:
        if path == MASTERS:
            return sysfs_text.render_masters(self._host.registry.masters())
        name, _, rest = path.partition("/")
        device = self._device(name, path)
        directory, _, file = rest.rpartition("/")
        if directory == "bonding" and (bond := self._host.registry.bonds.get(name)) is not None:
            option = OPTIONS.get(file)
            if option is not None and not option.has_file:
                return sysfs_text.render_option(bond.snapshot(), option)
            return sysfs_text.read_bond(bond.snapshot(), file)
        if directory == "bonding_slave" and (bond := self._host.bond_above(device)) is not None:
            snapshot = bond.snapshot()
            member = next(member for member in snapshot.members if member.name == name)
            return sysfs_text.read_member(snapshot, member, file)
        if directory == "statistics":
            return device_text.read_statistic(device, file)
        if directory == "" and (interface := self._host.links.get(name)) is not None and file in IPOIB_FILES:
            return self._read_ipoib(interface, file)
        if directory:
            raise no_file(path)
        return device_text.read_device(device, file)

    def _read_statistic(self, path: str) -> str:
        self._world.settle()
        return self._read(path)

    def _read_ipoib(self, interface: Interface, file: str) -> str:
        name = interface.device.name
        match file:
            case "mode":
                return f"{self._host.links.mode(name)}\n"
            case "pkey":
                return f"{interface.pkey:#06x}\n"
            case "umcast":
                return "0\n"
            case _:
                parent = self._host.links.parent(name)
                if parent is None:
                    raise no_file(f"{name}/{file}")
                return f"{parent}\n"

    # Changing, on the loop's thread

    def _write(self, path: str, text: str) -> None:
        if path == MASTERS:
            sign, name = sysfs_text.masters_request(text)
            self._handle(CreateBond(name) if sign == "+" else DeleteBond(self._host.bond(name).name))
            return
        name, _, rest = path.partition("/")
        device = self._device(name, path)
        directory, _, file = rest.rpartition("/")
        if directory == "bonding" and name in self._host.registry.bonds:
            self._write_option(self._host.registry.bonds[name], file, text)
        elif directory:
            raise no_file(path)
        else:
            self._write_device(device, file, text)

    def _write_option(self, bond: Bond, option: str, text: str) -> None:
        """All that one write asks for, or nothing of it: what was done is undone when a later part is refused."""
        done: list[BondEvent] = []
        try:
            for event, undo in requests(bond, option, text):
                self._handle(ToBond(bond.name, event))
                done += () if undo is None else (undo,)
        except Refused:
            for undo in reversed(done):
                self._handle(ToBond(bond.name, undo))
            raise

    def _write_device(self, device: Device, file: str, text: str) -> None:
        name = device.name
        match file:
            case "mtu":
                self._handle(SetDeviceMtu(name, device_text.parse_number(text)))
            case "flags":
                self._set_admin(name, bool(device_text.parse_number(text) & Flags.UP))
            case "tx_queue_len":
                device.tx_queue_len = device_text.parse_number(text)
            case "create_child" if self._is_parent(name):
                self._handle(CreateChild(name, parse_pkey(text)))
            case "delete_child" if self._is_parent(name):
                self._handle(DeleteChild(name, parse_pkey(text)))
            case "mode" if self._host.links.get(name) is not None:
                self._handle(SetDeviceMode(name, device_text.parse_transport_mode(text)))
            case "umcast" if self._host.links.get(name) is not None:
                if device_text.scan_number(text):  # `simple_strtoul`: what is no number is 0
                    raise Refused(
                        f"cannot switch umcast of {name} on",
                        why="groups of user programs are joined by IP multicast only",
                        fix="Write 0",
                        code=errno.EINVAL,
                    )
            case "carrier":
                raise Refused(
                    f"cannot set the carrier of {name}",
                    why="its driver cannot" if device.up else "it is down",
                    fix="Cut or mend its cable",
                    code=errno.EOPNOTSUPP if device.up else errno.EINVAL,
                )
            case _:
                device_text.read_device(device, file)  # ENOENT for what does not exist at all
                raise Refused(f"cannot write {name}/{file}", why="it is read-only", fix="Read it", code=errno.EACCES)

    def _entries(self, path: str) -> list[str]:
        if path == "":
            return [*(device.name for device in self._host.namespace), MASTERS]
        name, _, directory = path.partition("/")
        device = self._device(name, path)
        bond = self._host.registry.bonds.get(name)
        above = self._host.bond_above(device)
        match directory:
            case "":
                found = [*device_text.DEVICE_FILES, "statistics"]
                if bond is not None:
                    found += ["bonding", *(f"lower_{member}" for member in bond.members)]
                if above is not None:
                    found += ["bonding_slave", "master", f"upper_{above.name}"]
                if self._host.links.get(name) is not None:
                    parent = self._host.links.parent(name)
                    found += [file for file in IPOIB_FILES if file != "parent" or parent is not None]
                    found += PARENT_FILES if parent is None else ()
                return found
            case "bonding" if bond is not None:
                return list(sysfs_text.BOND_FILES)
            case "bonding_slave" if above is not None:
                return list(sysfs_text.MEMBER_FILES)
            case "statistics":
                return list(device_text.STATISTICS)
        raise no_file(path)

    def _set_admin(self, name: str, up: bool) -> None:
        self._handle(SetAdmin(self._host.device(name).name, up))

    def _is_parent(self, name: str) -> bool:
        return self._host.links.get(name) is not None and self._host.links.parent(name) is None

    def _device(self, name: str, path: str) -> Device:
        device = self._host.namespace.get(name)
        if device is None:
            raise no_file(path)
        return device

    def _handle(self, event: HostEvent) -> None:
        self._world.handle(self.where, event)


def parse_pkey(text: str) -> int:
    """What is written to create_child and delete_child (`sscanf("%i")`)."""
    number = device_text.scan_number(text)
    if number is None:
        what = f"cannot take {text.strip()!r}"
        raise Refused(what, why="it is no P_Key", fix="Write a number, as 0x8001", code=errno.EINVAL)
    return number


def no_file(path: str) -> Refused:
    return Refused(
        f"cannot open {path}",
        why="there is no such file",
        fix="List the directory to see what it has",
        code=errno.ENOENT,
    )
