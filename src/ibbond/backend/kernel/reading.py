"""One bond of a kernel's driver as a snapshot, each fact read on its own: what one source lacks another may have.

Read first: bond_sysfs.c, bond_sysfs_slave.c (`bonding_slave` exists since Linux 3.14) and bond_procfs.c. The order is
sysfs, then rtnetlink, then the text of /proc/net/bonding; an option that this kernel's version does not have yet
behaves as its default. What none of them says is named in `unknown`, never guessed. Left out: who asks and why.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ibbond.abi import procfs_text
from ibbond.abi.device_text import parse_address
from ibbond.abi.netlink_attributes import IFF_UP
from ibbond.abi.sysfs_text import parse_bond
from ibbond.backend.kernel.files import CLASS_NET, HostFiles
from ibbond.bonding.option import Kind, Mode, Option, Version
from ibbond.bonding.options import OPTIONS
from ibbond.bonding.snapshot import BondSnapshot, Lacp, MemberSnapshot
from ibbond.errors import Malformed, Refused

if TYPE_CHECKING:
    from ibbond.abi.netlink_attributes import LinkInfo

PROC_BONDS = "proc/net/bonding"
EMPTY = BondSnapshot("", 0, b"", b"", 0, False, False, None, None, ())
IS_A_VALUE = (Kind.VALUE, Kind.TARGETS, Kind.TARGETS6, Kind.ADDRESS)
Link = Callable[[str], "LinkInfo | None"]


@dataclass(slots=True)
class BondReader:
    """Reads one bond. `version` is that of the kernel, (0, 0) where it is not known; `link` asks rtnetlink."""

    files: HostFiles
    bond: str
    version: Version
    link: Link
    unknown: set[str] = field(default_factory=set)

    def snapshot(self) -> BondSnapshot:
        """Everything that is known of the bond. Refused where its mode is not in the table of modes."""
        proc = self._proc()
        options = self._options(proc)
        members = self._members(proc, options)
        type_ = self._number("type", proc.type if "type" not in proc.unknown else None)
        flags = self._number("flags", None)
        self.unknown -= {"flags"}
        mii = self._text("bonding/mii_status")
        carrier = None if mii is None else mii == "up"
        if carrier is None and "carrier" not in proc.unknown:
            carrier = proc.carrier
        return BondSnapshot(
            name=self.bond,
            type=type_ or 0,
            address=self._address("address"),
            broadcast=self._address("broadcast"),
            mtu=self._number("mtu", None) or 0,
            up=bool(self._known("up", None if flags is None else flags & IFF_UP)),
            carrier=bool(self._known("carrier", carrier)),
            active=self._name("active_slave", "active", proc.active, options, proc.unknown),
            primary=self._name("primary", "primary", proc.primary, options, proc.unknown),
            members=members,
            options=options,
            lacp=proc.lacp if options.get("mode") == Mode.LACP else Lacp(),
            unknown=frozenset(self.unknown),
        )

    def _proc(self) -> BondSnapshot:
        """What /proc/net/bonding says; an empty snapshot if it cannot be read."""
        with contextlib.suppress(Malformed):
            return procfs_text.parse(self.files.text(f"{PROC_BONDS}/{self.bond}") or "")
        return BondSnapshot(
            **{name: getattr(EMPTY, name) for name in EMPTY.__slots__ if name != "unknown"},
            unknown=frozenset({"type", "carrier", "active", "primary", "members"}),
        )

    def _options(self, proc: BondSnapshot) -> dict[str, object]:
        """The options that are known; the mode first, because others depend on it."""
        link = self.link(self.bond)
        netlink: dict[str, object] = {}
        if link is not None:
            from ibbond.abi.bond_attributes import read_bond

            netlink = read_bond(link.bond)
        values: dict[str, object] = {}
        mode = self._mode(proc, netlink)
        for option in OPTIONS.values():
            if option.of_member or option.ours or option.kind not in IS_A_VALUE:
                continue
            value: object = mode if option.name == "mode" else None
            if value is None and option.has_file:
                value = self._from_file(option, mode)
            if value is None:
                value = netlink.get(option.name, proc.options.get(option.name))
            if value is None and self._has_default(option, mode):
                value = {Kind.VALUE: option.default, Kind.ADDRESS: bytes(6)}.get(option.kind, ())
            if value is None:
                self.unknown.add(option.name)
            else:
                values[option.name] = value
        return values

    def _mode(self, proc: BondSnapshot, netlink: dict[str, object]) -> int | None:
        text = self._text("bonding/mode")
        number: object = None
        with contextlib.suppress(Malformed):
            number = parse_bond("mode", text or "")
        if number is None:
            number = netlink.get("mode", proc.options.get("mode"))
        if isinstance(number, int) and number not in list(Mode):
            raise Refused(
                f"cannot read {self.bond}",
                why=f"it is in a mode that this version does not know: {(text or str(number)).split()[0]}",
                fix="Use a newer ibbond",
            )
        return number if isinstance(number, int) else None

    def _from_file(self, option: Option, mode: int | None) -> object:
        text = self._text(f"bonding/{option.name}")
        if text == "" and option.kind in (Kind.TARGETS, Kind.TARGETS6):
            return ()
        with contextlib.suppress(Malformed):
            return parse_bond(option.name, text) if text else None
        return None

    def _has_default(self, option: Option, mode: int | None) -> bool:
        """The option cannot have another value: the driver has no such option, or not in this mode."""
        older = (0, 0) < self.version < option.since
        empty_here = mode is not None and mode not in option.readable_in
        by_netlink_only = option.netlink_only and self._text("bonding/mode") is not None
        return older or empty_here or by_netlink_only

    def _members(self, proc: BondSnapshot, options: dict[str, object]) -> tuple[MemberSnapshot, ...]:
        names = self._member_names(proc)
        reported = {member.name: member for member in proc.members}
        queues = dict(_pairs(self._text("bonding/queue_id")))
        return tuple(self._member(name, reported.get(name), options, queues) for name in names)

    def _member_names(self, proc: BondSnapshot) -> list[str]:
        """From `slaves`, which the driver cuts at a page; the links to the devices below name them all."""
        text = self._text("bonding/slaves")
        names = (text or "").replace("++more++", " ").split()
        if text is None or "++more++" in text:
            entries = self.files.entries(f"{CLASS_NET}/{self.bond}")
            below = [entry.removeprefix("lower_") for entry in entries if entry.startswith("lower_")]
            names = list(dict.fromkeys([*names, *below, *(member.name for member in proc.members)]))
            if text is None and not names and "members" in proc.unknown:
                self.unknown.add("members")
        return names

    def _member(
        self, name: str, proc: MemberSnapshot | None, options: dict[str, object], queues: dict[str, int]
    ) -> MemberSnapshot:
        unknown: set[str] = set()

        def fact(file: str, key: str, parse: Callable[[str], object]) -> object:
            text = self.files.text(f"{CLASS_NET}/{name}/bonding_slave/{file}")
            with contextlib.suppress(ValueError):
                if text:
                    return parse(text)
            if proc is not None and key not in proc.unknown:
                return getattr(proc, key)
            unknown.add(key)
            return None

        state, link_state = fact("state", "state", str), fact("mii_status", "link", str)
        active = self._text("bonding/active_slave")
        if state is None and active is not None and options.get("mode") == Mode.ACTIVE_BACKUP:
            state = "active" if active == name else "backup"
            unknown.discard("state")
        failures = fact("link_failure_count", "link_failure_count", int)
        permanent = fact("perm_hwaddr", "permanent_address", parse_address)
        link = self.link(name)
        speed = self.files.number(f"{CLASS_NET}/{name}/speed")
        if speed is None and proc is not None:
            speed = proc.speed
        duplex = self.files.text(f"{CLASS_NET}/{name}/duplex") or (proc.duplex if proc else None)
        return MemberSnapshot(
            name=name,
            state=str(state or ""),
            link=str(link_state or ""),
            link_failure_count=failures if isinstance(failures, int) else 0,
            permanent_address=permanent if isinstance(permanent, bytes) else b"",
            queue_id=queues.get(name, proc.queue_id if proc else 0),
            priority=link.member.priority if link and link.member else 0,
            speed=speed if speed is not None and speed > 0 else None,
            duplex=duplex if duplex in ("full", "half") else None,
            lacp=proc.lacp if proc else None,
            unknown=frozenset(unknown),
        )

    def _name(
        self, file: str, fact: str, reported: str | None, options: dict[str, object], untold: frozenset[str]
    ) -> str | None:
        """A member's name, or None for none, as always in a mode that has no such member."""
        text = self._text(f"bonding/{file}")
        mode = options.get("mode")
        if text is not None:
            return text or None
        if fact in untold and not (isinstance(mode, int) and not Mode(mode).uses_primary):
            self.unknown.add(fact)
        return reported

    def _text(self, path: str) -> str | None:
        return self.files.text(f"{CLASS_NET}/{self.bond}/{path}")

    def _number(self, path: str, reported: int | None) -> int | None:
        found = self.files.number(f"{CLASS_NET}/{self.bond}/{path}")
        return self._known(path, reported if found is None else found)

    def _known(self, fact: str, value: int | None) -> int | None:
        if value is None:
            self.unknown.add(fact)
        return value

    def _address(self, path: str) -> bytes:
        with contextlib.suppress(Malformed):
            if text := self._text(path):
                return parse_address(text)
        self.unknown.add(path)
        return b""


def _pairs(text: str | None) -> list[tuple[str, int]]:
    pairs = (word.rpartition(":") for word in (text or "").split())
    return [(name, int(number)) for name, _, number in pairs if number.isdigit()]
