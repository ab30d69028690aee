"""The bonds of a lab host, behind the contract: paths below /sys/class/net, and texts as the kernel has.

Read first: `backend.contract`, `abi.device_tree` for paths, `abi.sysfs_text`; Documentation/infiniband/ipoib.rst for
IPoIB's own files. Requests come from other threads and are made on the loop's, those for IP settings excepted. Settings
of ibbond (`link_events`, `handover_ms`) and what the kernel has in netlink only (`prio`, `ns_ip6_target`) are read and
written like options, but are not files: `entries` does not name them. Left out: the file system (`sysfs`).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Protocol, TypeVar

from ibbond.abi import device_text, procfs_text, sysfs_text
from ibbond.abi.device_tree import DeviceTree, Directory, File, Kind, ModelFacts, no_file
from ibbond.backend.contract import option_without_file
from ibbond.backend.emulated_requests import requests
from ibbond.bonding.bond import Bond
from ibbond.bonding.events import BondEvent
from ibbond.bonding.option import Mode, Version
from ibbond.bonding.options import OPTIONS
from ibbond.bonding.snapshot import BondSnapshot
from ibbond.errors import Refused
from ibbond.host import ip_settings, ip_settings_read
from ibbond.host.ip_settings import IpSetting
from ibbond.host.rtnetlink import RouteSocket
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


class World(Protocol):
    """The host's surroundings, as the running lab provides them."""

    def run(self, call: Callable[[], T]) -> T:
        """Make a call on the loop's thread and wait for its result."""
        ...

    def handle(self, host: str, event: HostEvent) -> None:
        """Hand the network an event of this host (on the loop's thread); may raise `Refused`."""
        ...

    def refresh(self, host: str) -> None:
        """Take note of what users did in this host by `ip` (on the loop's thread): requests keep their order."""
        ...

    def flush_counters(self) -> None:
        """Bring the counters up to date (on the loop's thread)."""
        ...

    def addresses(self, host: str, device: str) -> list[str]: ...

    def route_socket(self, host: str) -> RouteSocket:
        """A new socket to the host's kernel, for one thread."""
        ...

    def log(self, host: str) -> list[str]: ...

    def watch(self, host: str) -> Iterator[dict[str, object]]: ...


class EmulatedBackend:
    """The bonds of one lab host (see `backend.contract`)."""

    def __init__(self, host: HostStack, world: World) -> None:
        self.where = host.name
        self._host = host
        self._world = world
        self._facts = facts_of(host)
        self._tree = DeviceTree(self._facts)

    def read(self, path: str) -> str:
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
        return ip_settings_read.read(self._kernel)

    def add_ip(self, setting: IpSetting) -> None:
        self._set_ip(f"add {setting}", lambda: ip_settings.add(self._kernel, setting))

    def owner_of(self, device: str, address: bytes) -> bytes | None:
        return None

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
        def received() -> T:
            self._world.refresh(self.where)
            return call()

        return self._world.run(received)

    # Reading

    def _read(self, path: str) -> str:
        if (found := option_without_file(path)) and (bond := self._host.registry.bonds.get(found[0])) is not None:
            return sysfs_text.render_option(bond.snapshot(), found[1])
        file = self._file(path)
        if file.kind is Kind.STATISTIC:
            self._world.flush_counters()
        return self._read_ipoib(file) if file.kind is Kind.IPOIB else self._facts.text(file)

    def _read_ipoib(self, file: File) -> str:
        interface = self._host.links.get(file.device)
        assert interface is not None
        match file.name:
            case "mode":
                return f"{self._host.links.mode(file.device)}\n"
            case "pkey":
                return f"{interface.pkey:#06x}\n"
            case "umcast":
                return "0\n"
            case "parent":
                return f"{self._host.links.parent(file.device)}\n"
        raise Refused(
            f"cannot read {file.device}/{file.name}",
            why="it is write-only",
            fix="Read another file of the device",
            code=errno.EACCES,
        )

    # Changing, on the loop's thread

    def _write(self, path: str, text: str) -> None:
        text = text.partition("\0")[0]  # a C string to the driver
        if (found := option_without_file(path)) and (bond := self._host.registry.bonds.get(found[0])) is not None:
            self._write_option(bond, found[1].name, text)
            return
        file = self._file(path)
        match file.kind:
            case Kind.MASTERS:
                sign, name = sysfs_text.masters_request(text)
                self._handle(CreateBond(name) if sign == "+" else DeleteBond(self._host.bond(name).name))
            case Kind.BOND:
                self._write_option(self._host.bond(file.device), file.name, text)
            case Kind.DEVICE | Kind.IPOIB:
                self._write_device(self._host.device(file.device), file.name, text)
            case _:
                raise read_only(file)

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
            case "create_child":
                self._handle(CreateChild(name, parse_pkey(text)))
            case "delete_child":
                self._handle(DeleteChild(name, parse_pkey(text)))
            case "mode":
                self._handle(SetDeviceMode(name, device_text.parse_transport_mode(text)))
            case "umcast":
                if device_text.scan_number(text):  # `simple_strtoul`: what does not begin with a number is 0
                    raise Refused(
                        f"cannot enable umcast on {name}",
                        why="user programs join groups by IP multicast only",
                        fix="Write 0",
                        code=errno.EINVAL,
                    )
            case "carrier":
                raise Refused(
                    f"cannot set the carrier of {name}",
                    why="its driver does not support it" if device.up else "it is down",
                    fix="Cut or mend its cable",
                    code=errno.EOPNOTSUPP if device.up else errno.EINVAL,
                )
            case _:
                raise read_only(File(Kind.DEVICE, name, file, 0o444))

    def _entries(self, path: str) -> tuple[str, ...]:
        if not isinstance(self._tree.find(path), Directory):
            raise no_file(path)
        return self._tree.names(path)

    def _file(self, path: str) -> File:
        place = self._tree.find(path)
        if not isinstance(place, File):
            raise no_file(path)
        return place

    def _set_admin(self, name: str, up: bool) -> None:
        self._handle(SetAdmin(self._host.device(name).name, up))

    def _handle(self, event: HostEvent) -> None:
        self._world.handle(self.where, event)


def parse_pkey(text: str) -> int:
    """What is written to create_child and delete_child (`sscanf("%i")`)."""
    number = device_text.scan_number(text)
    if number is None:
        what = f"cannot take {text.strip()!r}"
        raise Refused(what, why="it is not a P_Key", fix="Write a number such as 0x8001", code=errno.EINVAL)
    return number


def read_only(file: File) -> Refused:
    what = f"cannot write {file.device}/{file.name}"
    return Refused(
        what, why="it is read-only", fix="See what can be written: ls -l on its directory", code=errno.EACCES
    )


def facts_of(host: HostStack, adapters: Mapping[str, str] = MappingProxyType({})) -> ModelFacts:
    """What exists in a host of a running lab; `adapters` are the names of RDMA devices by node name of the subnet."""

    def parent(device: str) -> str | None:
        return (host.links.parent(device) or "") if host.links.get(device) is not None else None

    def adapter(device: str) -> str | None:
        interface = host.links.get(device)
        return adapters.get(interface.port.name.partition("/")[0]) if interface is not None else None

    return ModelFacts(host.namespace, host.registry, parent, adapter)
