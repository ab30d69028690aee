"""This host's own bonds: the kernel's bonding driver, through its files and rtnetlink, behind the one contract.

Read first: backend/contract.py, Documentation/networking/bonding.rst. Everything is read from below one root, so a
saved copy of a host answers as the host did; only a live one can be changed. Options that have no file go by rtnetlink
(netlink_options.py). Left out: making plans and carrying them out, the meaning of options.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import cached_property
from typing import TYPE_CHECKING, Self, TypeVar

from ibbond.abi.sysfs_text import parse_masters
from ibbond.backend.contract import option_without_file
from ibbond.backend.kernel.files import CLASS_NET, HostFiles
from ibbond.backend.kernel.log import KernelLog, about
from ibbond.backend.kernel.reading import PROC_BONDS, BondReader
from ibbond.backend.lock import alone
from ibbond.bonding.option import Version
from ibbond.bonding.options import OPTIONS
from ibbond.bonding.snapshot import BondSnapshot
from ibbond.errors import Refused

if TYPE_CHECKING:  # what only a change, or a live host, needs is imported there: reading must be quick
    from ibbond.abi.netlink_attributes import LinkInfo
    from ibbond.host.ip_settings import IpSetting
    from ibbond.host.rtnetlink import RouteSocket

T = TypeVar("T")
MASTERS = "bonding_masters"
SAVED_ADDRESSES = "ibbond/addresses"
SAVED_LOG = "ibbond/kernel.log"
RELEASES = ("proc/version", "uname", "sos_commands/kernel/uname_-a")


class KernelBackend:
    """The bonds of the kernel that runs here, or of a saved copy of a host below `root`."""

    where = ""

    def __init__(self, root: str | os.PathLike[str] = "/") -> None:
        self.files = HostFiles(root)

    # -- the contract --------------------------------------------------------------------------------------------------

    def read(self, path: str) -> str:
        if path == MASTERS and not self.loaded:
            raise Refused(
                "cannot list the bonds of this host",
                why="the bonding driver is not loaded",
                fix="Load it: modprobe bonding max_bonds=0",
                code=errno.ENOENT,
            )
        found = option_without_file(path)
        if found and self.files.live:
            from ibbond.backend.kernel.netlink_options import read_option

            return read_option(self.routes, self.files, *found) + "\n"
        return self.files.read(f"{CLASS_NET}/{path}")

    def write(self, path: str, text: str) -> None:
        self._must_be_live()
        if found := option_without_file(path):
            from ibbond.backend.kernel.netlink_options import write_option

            bond, option = found
            what = f"set {option.name} of {bond} to {text.strip()}"
            self._ask(what, lambda: write_option(self.routes, bond, option, text))
            return
        log = KernelLog()
        try:
            self.files.write(f"{CLASS_NET}/{path}", text)
        except OSError as error:
            from ibbond.backend.kernel.refusals import explain

            lines = about(log.fresh(), [path.split("/")[0], text.strip().lstrip("+-").split(":")[0]])
            raise explain(self.files.name(f"{CLASS_NET}/{path}"), text, error.errno or errno.EIO, lines) from None
        finally:
            log.close()

    def entries(self, path: str) -> list[str]:
        return self.files.entries(f"{CLASS_NET}/{path}".rstrip("/"))

    def options(self, bond: str) -> dict[str, str]:
        from ibbond.backend.contract import text

        netlink_only = [option.name for option in OPTIONS.values() if option.netlink_only]
        names = (*self.entries(f"{bond}/bonding"), *netlink_only)
        found = {name: text(self, f"{bond}/bonding/{name}") for name in names}
        return {name: value for name, value in found.items() if value is not None}

    def master(self, device: str) -> str | None:
        above = self.files.where(f"{CLASS_NET}/{device}/master")
        return above.rpartition("/")[2] if above is not None else None

    def set_admin(self, device: str, up: bool) -> None:
        self._must_be_live()
        self._ask(
            f"set {device} {'up' if up else 'down'}",
            lambda: self.routes.set_up(self.routes.link(device).index, up),
        )

    def addresses(self, device: str) -> list[str]:
        if not self.files.live:
            from ibbond.abi.ip_text import parse_addresses

            text = self.files.text(SAVED_ADDRESSES) or ""
            return [address.text for address in parse_addresses(text) if address.device == device]
        import ipaddress

        index = self.files.number(f"{CLASS_NET}/{device}/ifindex")
        found = (each for each in self.routes.addresses() if each.index == index)
        return [f"{ipaddress.ip_address(each.address)}/{each.prefix}" for each in found]

    def ip_settings(self) -> tuple[IpSetting, ...]:
        from ibbond.host import ip_settings_read

        self._must_be_live()
        return ip_settings_read.read(self.routes)

    def add_ip(self, setting: IpSetting) -> None:
        from ibbond.host import ip_settings

        self._must_be_live()
        self._ask(f"add {setting}", lambda: ip_settings.add(self.routes, setting))

    def delete_ip(self, setting: IpSetting) -> None:
        from ibbond.host import ip_settings

        self._must_be_live()
        self._ask(f"delete {setting}", lambda: ip_settings.delete(self.routes, setting))

    def owner_of(self, device: str, address: bytes) -> bytes | None:
        from ibbond.host import ip_settings

        self._must_be_live()
        return self._ask(
            f"ask who has an address on {device}", lambda: ip_settings.owner_of(self.routes, device, address)
        )

    def snapshot(self, bond: str) -> BondSnapshot:
        """Everything that the driver says of one bond; what it does not say is named in `unknown`.

        Refused (ENODEV) when there is none of that name, and where its mode is not known.
        """
        self._must_exist(bond)
        return BondReader(self.files, bond, self.version, self.link).snapshot()

    def proc(self, bond: str) -> str:
        self._must_exist(bond)
        return self.files.read(f"proc/net/bonding/{bond}")

    def log(self) -> list[str]:
        if not self.files.live:
            return (self.files.text(SAVED_LOG) or "").splitlines()
        log = KernelLog(from_start=True)
        try:
            return about(log.fresh(), self.bonds())
        finally:
            log.close()

    def new_log_lines(self) -> list[str]:
        return about(self._following_log.fresh(), self.bonds())

    def watch(self) -> Iterator[dict[str, object]]:
        from ibbond.backend.kernel.watch import watch

        self._must_be_live()
        return watch()

    def alone(self) -> AbstractContextManager[None]:
        self._must_be_live()
        return alone(self.files.name(CLASS_NET), "the bonds of this host")

    def reconnect(self) -> Self:
        return type(self)(self.files.root)

    def bonds(self) -> list[str]:
        """The names of the bonds; none where the driver is not loaded. A copy may have them in one place only."""
        masters = self.files.text(f"{CLASS_NET}/bonding_masters")
        if masters is not None:
            return sorted(parse_masters(masters))
        below = (name for name in self.files.entries(CLASS_NET) if self.files.exists(f"{CLASS_NET}/{name}/bonding"))
        return sorted({*below, *self.files.entries(PROC_BONDS)})

    @property
    def loaded(self) -> bool:
        """Whether the bonding driver is there, or was where a copy was made."""
        return self.files.exists(f"{CLASS_NET}/bonding_masters") or bool(self.bonds())

    def load_driver(self) -> None:
        import subprocess

        self._must_be_live()
        command = ["modprobe", "bonding", "max_bonds=0"]
        try:
            result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            problem = result.stderr.strip() if result.returncode else ""
        except (OSError, subprocess.TimeoutExpired) as error:
            problem = str(error)
        if problem or not self.loaded:
            raise Refused(
                "cannot load the bonding driver",
                why=problem or "modprobe succeeded, but /sys/class/net/bonding_masters is not there",
                fix="Install the modules of the running kernel, or use a kernel that has CONFIG_BONDING",
            )

    @cached_property
    def release(self) -> str:
        """The kernel's release, `6.1.0-56-amd64`; empty where it is not known."""
        release = self.files.text("proc/sys/kernel/osrelease")
        if release:
            return release
        for path in RELEASES:
            if found := re.search(r"(?:^Linux version|^Linux \S+) (\d\S*)", self.files.text(path) or ""):
                return found[1]
        return ""

    @cached_property
    def version(self) -> Version:
        """The kernel's release as the option table has versions: (6, 1), (6, 12, 117), (2, 6, 24); (0, 0) if not known.

        Where a distribution keeps the third number at 0, the stable release is not known.
        """
        found = re.match(r"2\.6\.\d+|\d+\.\d+(\.[1-9]\d*)?", self.release)
        return tuple(int(part) for part in found[0].split(".")) if found else (0, 0)

    @cached_property
    def routes(self) -> RouteSocket:
        """A socket for requests to the kernel; one for the life of this object."""
        from ibbond.host.rtnetlink import RouteSocket

        return RouteSocket()

    def link(self, device: str) -> LinkInfo | None:
        """What rtnetlink says of a device; None on a saved copy or when it is gone."""
        if not self.files.live:
            return None
        from ibbond.backend.kernel.netlink_options import link_info

        return link_info(self.routes, device)

    @cached_property
    def _following_log(self) -> KernelLog:
        return KernelLog()

    def _ask(self, what: str, request: Callable[[], T]) -> T:
        """A request to rtnetlink. Refused, with the driver's log line, when the kernel refuses it."""
        log = KernelLog()
        try:
            return request()
        except OSError as error:
            lines = about(log.fresh(), ())
            logged = f"; the kernel logged: {lines[-1]}" if lines else ""
            raise Refused(
                f"cannot {what}",
                why=f"the kernel answered {os.strerror(error.errno or 0)}{logged}",
                fix="See ip link, ip address and ip route" if os.geteuid() == 0 else "Run as root",
                code=error.errno or errno.EIO,
            ) from None
        finally:
            log.close()

    def _must_exist(self, bond: str) -> None:
        if bond not in self.bonds():
            others = ", ".join(self.bonds())
            raise Refused(
                f"cannot find {bond}",
                why="there is no bond of that name" if self.loaded else "the bonding driver is not loaded",
                fix=f"This host has {others}" if others else f"Create it: ibbond bond create {bond}",
                code=errno.ENODEV,
            )

    def _must_be_live(self) -> None:
        if not self.files.live:
            raise Refused(
                f"cannot do that to {self.files.root}",
                why="this is a saved copy of a host",
                fix="Omit --root",
                code=errno.EROFS,
            )
