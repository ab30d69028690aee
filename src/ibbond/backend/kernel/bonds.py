"""This host's own bonds: the kernel's bonding driver, through its files and rtnetlink, behind the one contract.

Read first: backend/contract.py, Documentation/networking/bonding.rst. Everything is read from below one root, so a
saved copy of a host answers as the host did; only a live one can be changed. Requests of people become plans
(requests.py), which `apply` carries out. Left out: making plans, the meaning of options.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING

from ibbond.abi.device_text import parse_address
from ibbond.abi.sysfs_text import parse_bond, parse_masters, parse_member
from ibbond.backend.kernel.files import CLASS_NET, HostFiles
from ibbond.backend.kernel.log import KernelLog, about
from ibbond.bonding.option import Kind, Mode, Version
from ibbond.bonding.options import OPTIONS
from ibbond.bonding.snapshot import BondSnapshot, Lacp, MemberSnapshot
from ibbond.errors import Malformed, Refused

if TYPE_CHECKING:  # what only a change, or a live host, needs is imported there: reading must be quick
    from ibbond.abi.netlink_attributes import LinkNews
    from ibbond.backend.kernel.apply import Done, Executor
    from ibbond.backend.kernel.plan import Plan, Step
    from ibbond.backend.kernel.state import HostState
    from ibbond.host.rtnetlink import RouteSocket

MASTERS = "bonding_masters"
SAVED_ADDRESSES = "ibbond/addresses"
SAVED_LOG = "ibbond/kernel.log"


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
        return self.files.read(f"{CLASS_NET}/{path}")

    def write(self, path: str, text: str) -> None:
        from ibbond.backend.kernel.refusals import explain

        self._must_be_live()
        log = KernelLog()
        try:
            self.files.write(f"{CLASS_NET}/{path}", text)
        except OSError as error:
            lines = about(log.fresh(), [path.split("/")[0], text.strip().lstrip("+-")])
            raise explain(self.files.name(f"{CLASS_NET}/{path}"), text, error.errno or errno.EIO, lines) from None
        finally:
            log.close()

    def entries(self, path: str) -> list[str]:
        return self.files.entries(f"{CLASS_NET}/{path}".rstrip("/"))

    def set_admin(self, device: str, up: bool) -> None:
        self._must_be_live()
        self._executor.set_admin(device, up)

    def addresses(self, device: str) -> list[str]:
        if not self.files.live:
            lines = (self.files.text(SAVED_ADDRESSES) or "").splitlines()
            return [words[1] for words in map(str.split, lines) if len(words) == 2 and words[0] == device]
        import ipaddress

        index = self.files.number(f"{CLASS_NET}/{device}/ifindex")
        found = (each for each in self.routes.addresses() if each.index == index)
        return [f"{ipaddress.ip_address(each.address)}/{each.prefix}" for each in found]

    def add_address(self, device: str, address: str) -> None:
        self._must_be_live()
        self._executor.set_address(device, address, True)

    def snapshot(self, bond: str) -> BondSnapshot:
        """Everything that the driver says of one bond. Refused (ENODEV) when there is none of that name."""
        self._must_exist(bond)
        base = f"{CLASS_NET}/{bond}"
        try:
            options = self._options(bond)
            members = self._members(bond)
            primary, active = (self._name(f"{base}/bonding/{option}") for option in ("primary", "active_slave"))
            lacp = self._lacp(bond) if options.get("mode") == Mode.LACP else Lacp()
            return BondSnapshot(
                name=bond,
                type=self.files.number(f"{base}/type") or 0,
                address=parse_address(self.files.text(f"{base}/address") or ""),
                broadcast=parse_address(self.files.text(f"{base}/broadcast") or ""),
                mtu=self.files.number(f"{base}/mtu") or 0,
                up=self.files.is_up(bond),
                carrier=self.files.text(f"{base}/bonding/mii_status") == "up",
                active=active,
                primary=primary,
                members=members,
                options=options,
                lacp=lacp,
            )
        except Malformed as malformed:
            raise Refused(
                f"cannot read {bond}", why=str(malformed), fix="Is this the bonding driver of a Linux kernel?", code=5
            ) from None

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

    def watch(self) -> Iterator[dict[str, object]]:
        from ibbond.backend.kernel.watch import watch

        self._must_be_live()
        return watch()

    # -- what only a kernel's host has ---------------------------------------------------------------------------------

    def bonds(self) -> list[str]:
        """The names of the bonds; none where the driver is not loaded."""
        return sorted(parse_masters(self.files.text(f"{CLASS_NET}/bonding_masters") or ""))

    @property
    def loaded(self) -> bool:
        """Whether the bonding driver is there."""
        return self.files.exists(f"{CLASS_NET}/bonding_masters")

    @cached_property
    def release(self) -> str:
        """The kernel's release, `6.1.0-56-amd64`; empty where it is not known."""
        return self.files.text("proc/sys/kernel/osrelease") or ""

    @cached_property
    def version(self) -> Version:
        """The kernel's release as the option table has versions: (6, 1), (2, 6, 24); (0, 0) where it is not known."""
        found = re.match(r"2\.6\.\d+|\d+\.\d+", self.release)
        return tuple(int(part) for part in found[0].split(".")) if found else (0, 0)

    @cached_property
    def routes(self) -> RouteSocket:
        """A socket for requests to the kernel; one for the life of this object."""
        from ibbond.host.rtnetlink import RouteSocket

        return RouteSocket()

    def capture(self, bonds: list[str], devices: list[str]) -> HostState:
        """What a change of these bonds and devices may touch, as it is now."""
        from ibbond.backend.kernel.state import capture

        self._must_be_live()
        return capture(self.files, self.routes, bonds, devices)

    def apply(self, plan: Plan, watch: Callable[[Step], None] = lambda step: None) -> Done:
        """Carry out a plan; when a step fails, what was there is put back and the failure is Refused."""
        self._must_be_live()
        return self._executor.apply(plan, watch)

    def link(self, device: str) -> LinkNews | None:
        """What rtnetlink says of a device; None on a saved copy or when it is gone."""
        if not self.files.live:
            return None
        from ibbond.backend.kernel.state import link_news

        return link_news(self.files, self.routes, device)

    @cached_property
    def _executor(self) -> Executor:
        from ibbond.backend.kernel.apply import Executor

        return Executor(self.files, self.routes)

    def _options(self, bond: str) -> dict[str, object]:
        """The value of every option: from its file, else from rtnetlink, else what a kernel without it does."""
        netlink = self._by_netlink(bond)
        values: dict[str, object] = {}
        for option in OPTIONS.values():
            if (
                option.of_member
                or option.ours
                or option.kind not in (Kind.VALUE, Kind.TARGETS, Kind.TARGETS6, Kind.ADDRESS)
            ):
                continue
            text = self.files.text(f"{CLASS_NET}/{bond}/bonding/{option.name}") if option.has_file else None
            value = parse_bond(option.name, text) if text is not None else netlink.get(option.name)
            if value is None:
                value = {Kind.VALUE: option.default, Kind.ADDRESS: bytes(6)}.get(option.kind, ())
            values[option.name] = value
        return values

    def _by_netlink(self, bond: str) -> dict[str, object]:
        link = self.link(bond)
        if link is None:
            return {}
        from ibbond.abi.bond_attributes import read_bond

        return read_bond(link.bond)

    def _lacp(self, bond: str) -> Lacp:
        from ibbond.abi import procfs_text

        return procfs_text.parse(self.proc(bond)).lacp

    def _members(self, bond: str) -> tuple[MemberSnapshot, ...]:
        names = (self.files.text(f"{CLASS_NET}/{bond}/bonding/slaves") or "").split()
        members = []
        for name in names:
            found = parse_member(name, self.read)
            link = self.link(name)
            speed = self.files.number(f"{CLASS_NET}/{name}/speed")
            duplex = self.files.text(f"{CLASS_NET}/{name}/duplex")
            members.append(
                MemberSnapshot(
                    name=name,
                    state=found.state,
                    link=found.link,
                    link_failure_count=found.link_failure_count,
                    permanent_address=found.permanent_address,
                    queue_id=found.queue_id,
                    priority=link.member.priority if link and link.member else 0,
                    speed=speed if speed is not None and speed > 0 else None,
                    duplex=duplex if duplex in ("full", "half") else None,
                )
            )
        return tuple(members)

    def _name(self, path: str) -> str | None:
        return self.files.text(path) or None

    def _must_exist(self, bond: str) -> None:
        if not self.files.exists(f"{CLASS_NET}/{bond}/bonding"):
            others = ", ".join(self.bonds())
            raise Refused(
                f"cannot find {bond}",
                why="there is no bond of that name" if self.loaded else "the bonding driver is not loaded",
                fix=f"This host has {others}" if others else f"Make it: ibbond bond create {bond}",
                code=errno.ENODEV,
            )

    def _must_be_live(self) -> None:
        if not self.files.live:
            raise Refused(
                f"cannot do that to {self.files.root}",
                why="it is a saved copy of a host",
                fix="Leave out --root",
                code=errno.EROFS,
            )
