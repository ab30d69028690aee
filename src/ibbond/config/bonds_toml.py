"""bonds.toml, the desired state in ibbond's own words: read strictly, every error with its line, and written.

Read first: docs/configuration.md for the schema, desired.py. A bond has its members by the names of devices; a table
`device.NAME` says more of one: the port GUID or hardware address that it is found by, partition, transport mode, MTU.
Left out: whether the settings make sense together (traps.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from ibbond.bonding.option import Kind
from ibbond.bonding.options import OPTIONS
from ibbond.config.desired import (
    Desired,
    DesiredBond,
    DesiredMember,
    DesiredRoute,
    Match,
    Problem,
    Setting,
    Source,
    hardware_address,
    nearest,
    set_option,
)
from ibbond.config.fields import label
from ibbond.config.toml_places import Path, places
from ibbond.errors import Refused
from ibbond.topology.reader import read_document
from ibbond.wire.ipoib import CONNECTED_MTU

TOOL = "ibbond"
PATTERNS = ("etc/ibbond/*.toml",)
INVALID = "config-unreadable"
VERSION = 1
TOP = ("version", "bond", "device")
BOND = ("members", "start", "mtu", "dhcp", "addresses", "routes", "dns", "search", "options")
DEVICE = ("guid", "address", "pkey", "parent", "transport", "mtu", "queue_id", "prio", "ethernet")
ROUTE = ("to", "via", "metric")
OF_MEMBERS = ("queue_id", "prio")
GUID_BYTES, ADDRESS_BYTES = 8, (6, 20)
HEAD = "# Desired state of this host's bonds; see docs/configuration.md of ibbond.\n"


def read(files: Mapping[str, str]) -> Desired:
    """The bonds of these files. What is wrong is a problem with its line, and nothing of that file counts."""
    desired = Desired()
    for path, text in sorted(files.items()):
        found = _Document(text, path).desired()
        if found.problems:
            desired.problems += found.problems
        else:
            desired.add(found)
    return desired


class _Document:
    """One file on its way into a desired state."""

    def __init__(self, text: str, path: str) -> None:
        self.text, self.path = text, path
        self.lines: dict[Path, int] = {}
        self.result = Desired()

    def desired(self) -> Desired:
        try:
            document = read_document(self.text, self.path)
        except Refused as refused:
            line = re.search(r"at line (\d+)", refused.why)
            self.result.problems.append(
                Problem(INVALID, Source(self.path, int(line[1]) if line else 0), refused.why, refused.fix)
            )
            return self.result
        self.lines = places(self.text)
        self.known((), document, TOP)
        if document.get("version", VERSION) != VERSION:
            self.wrong(("version",), f"version {document['version']} of the format is not known", "Write version = 1")
        tables = self.table(("device",), document.get("device", {}))
        devices = {name: self.device(name, self.table(("device", name), body)) for name, body in tables.items()}
        for name, body in self.table(("bond",), document.get("bond", {})).items():
            self.bond(name, self.table(("bond", name), body), devices)
        for name, device in devices.items():
            if not any(device is member for bond in self.result.bonds for member in bond.members):
                if device.pkey is None and device.transport is None and device.mtu is None:
                    self.wrong(("device", name), f"{name} is in no bond", "Remove the table, or name it in `members`")
                self.result.children.append(device)
        return self.result

    def source(self, path: Path) -> Source:
        while path and path not in self.lines:
            path = path[:-1]
        return Source(self.path, self.lines.get(path, 0))

    def wrong(self, path: Path, what: str, fix: str) -> None:
        bond = path[1] if path[:1] == ("bond",) and len(path) > 1 else ""
        self.result.problems.append(Problem(INVALID, self.source(path), what, fix, bond))

    def known(self, path: Path, table: Mapping[str, object], keys: tuple[str, ...]) -> None:
        for key in table:
            if key not in keys:
                near = nearest(key, keys)
                where = ".".join(path) or "the file"
                fix = f"Write {near}" if near else f"It takes {', '.join(keys)}"
                self.wrong((*path, key), f"{where} has an unknown key {key}", fix)

    def table(self, path: Path, value: object) -> Mapping[str, object]:
        if isinstance(value, dict):
            return value
        self.wrong(path, f"{'.'.join(path)} is not a table", f"Write [{'.'.join(path)}]")
        return {}

    def items(self, path: Path, value: object) -> Iterable[tuple[Path, object]]:
        if not isinstance(value, list):
            self.wrong(path, f"{'.'.join(path)} is not a list", f"Write {path[-1]} = [...]")
            return
        for index, item in enumerate(value):
            yield (*path, str(index)), item

    def text_of(self, path: Path, value: object) -> str:
        if isinstance(value, bool):
            return "1" if value else "0"
        if isinstance(value, str | int):
            return str(value)
        self.wrong(path, f"{'.'.join(path)} is neither a text nor a number", "Write it in quotes")
        return ""

    def texts(self, path: Path, body: Mapping[str, object]) -> Iterable[Setting]:
        for place, item in self.items(path, body.get(path[-1], [])):
            if text := self.text_of(place, item):
                yield Setting(text, self.source(place))

    def number(self, path: Path, value: object, low: int, high: int) -> Setting | None:
        if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
            return Setting(str(value), self.source(path))
        self.wrong(path, f"{'.'.join(path)} is not a number of {low} to {high}", f"Write {path[-1]} = {high}")
        return None

    def device(self, name: str, body: Mapping[str, object]) -> DesiredMember:
        path = ("device", name)
        self.known(path, body, DEVICE)
        address = b""
        for key, sizes in (("guid", (GUID_BYTES,)), ("address", ADDRESS_BYTES)):
            if key in body:
                address = hardware_address(self.text_of((*path, key), body[key]))
                if len(address) not in sizes:
                    example = ":".join(["00"] * sizes[-1])
                    self.wrong((*path, key), f"{key} of {name} is not {sizes[-1]} bytes", f'Write "{example}"')
        member = DesiredMember(Match((name,), address=address), self.source(path))
        if "pkey" in body:
            pkey = self.number((*path, "pkey"), body["pkey"], 1, 0xFFFF)
            member.pkey = int(pkey.text) if pkey else None
            if "parent" not in body:
                self.wrong((*path, "pkey"), f"{name} has a pkey and no parent", 'Write parent = "ib0"')
        member.parent = self.text_of((*path, "parent"), body.get("parent", ""))
        if "transport" in body:
            text = self.text_of((*path, "transport"), body["transport"])
            member.transport = Setting(text, self.source((*path, "transport")))
            if text not in ("datagram", "connected"):
                self.wrong((*path, "transport"), f"transport of {name} is {text!r}", "Write datagram or connected")
        if "mtu" in body:
            member.mtu = self.number((*path, "mtu"), body["mtu"], 68, CONNECTED_MTU)
        for key in OF_MEMBERS:
            if key in body:
                low, high = OPTIONS[key].limits or (0, 0)
                if setting := self.number((*path, key), body[key], low, high):
                    member.options[key] = setting
        member.ethernet = body.get("ethernet", False) is True
        if not isinstance(body.get("ethernet", False), bool):
            self.wrong((*path, "ethernet"), f"ethernet of {name} is neither true nor false", "Write ethernet = true")
        if member.pkey is not None and member.parent:
            member.match = Match(tuple(dict.fromkeys((name, member.device))))
        return member

    def bond(self, name: str, body: Mapping[str, object], devices: Mapping[str, DesiredMember]) -> None:
        path = ("bond", name)
        self.known(path, body, BOND)
        bond = self.result.bond(name, TOOL, self.source(path))
        bond.is_defined = True
        bond.starts = body.get("start", True) is not False
        if not isinstance(body.get("start", True), bool):
            self.wrong((*path, "start"), f"start of {name} is neither true nor false", "Write start = false")
        for setting in self.texts((*path, "members"), body):
            member = devices.get(setting.text) or DesiredMember(Match((setting.text,)), setting.source)
            if any(member.match.name == each.match.name for each in bond.members):
                self.wrong((*path, "members"), f"{name} has {setting.text} twice", "Name each member once")
            bond.members.append(member)
        if "mtu" in body:
            bond.mtu = self.number((*path, "mtu"), body["mtu"], 68, CONNECTED_MTU)
        bond.addresses += self.texts((*path, "addresses"), body)
        bond.dns += self.texts((*path, "dns"), body)
        bond.search += self.texts((*path, "search"), body)
        for setting in self.texts((*path, "dhcp"), body):
            if setting.text not in ("ipv4", "ipv6"):
                self.wrong((*path, "dhcp"), f"dhcp of {name} has {setting.text!r}", 'Write dhcp = ["ipv4"]')
            bond.dhcp |= {6 if setting.text == "ipv6" else 4}
        for place, item in self.items((*path, "routes"), body.get("routes", [])):
            self.route(bond, place, self.table(place, item))
        for option, value in self.table((*path, "options"), body.get("options", {})).items():
            self.option(bond, (*path, "options", option), option, value)

    def route(self, bond: DesiredBond, path: Path, body: Mapping[str, object]) -> None:
        self.known(path, body, ROUTE)
        to, via = (self.text_of((*path, key), body.get(key, "")) for key in ("to", "via"))
        if not to or not via:
            self.wrong(
                path, f"a route of {bond.name} needs `to` and `via`", 'Write {to = "default", via = "10.0.0.254"}'
            )
            return
        metric = self.number((*path, "metric"), body.get("metric", 0), 0, 0xFFFFFFFF)
        bond.routes.append(DesiredRoute(to, via, self.source(path), int(metric.text) if metric else 0))

    def option(self, bond: DesiredBond, path: Path, name: str, value: object) -> None:
        if name in OF_MEMBERS:
            self.wrong(path, f"{name} is a setting of a member", f"Write [device.ib0] with {name} = ...")
            return
        if isinstance(value, list):
            text = " ".join(self.text_of((*path, str(index)), item) for index, item in enumerate(value))
        else:
            text = self.text_of(path, value)
        before = len(self.result.problems)
        set_option(self.result, bond, name, text, self.source(path))
        self.result.problems[before:] = [
            Problem(INVALID, each.source, each.what, each.fix, each.bond) for each in self.result.problems[before:]
        ]


def render(desired: Desired) -> str:
    """The text of bonds.toml; reading it gives the same desired state."""
    import tomli_w

    devices: dict[str, dict[str, object]] = {}
    bonds = {bond.name: _bond_table(bond) for bond in desired.bonds}
    for member in (*(member for bond in desired.bonds for member in bond.members), *desired.children):
        if table := _device_table(member):
            devices[label(member)] = table
    document: dict[str, object] = {"version": VERSION, "bond": bonds}
    if devices:
        document["device"] = devices
    return f"{HEAD}{tomli_w.dumps(document)}"


def files(desired: Desired, version: tuple[int, ...] = ()) -> dict[str, str]:
    return {"etc/ibbond/bonds.toml": render(desired)}


def _bond_table(bond: DesiredBond) -> dict[str, object]:
    table: dict[str, object] = {"members": [label(member) for member in bond.members]}
    if not bond.starts:
        table["start"] = False
    if bond.mtu:
        table["mtu"] = _number(bond.mtu.text)
    if bond.dhcp:
        table["dhcp"] = [f"ipv{family}" for family in sorted(bond.dhcp)]
    for key, settings in (("addresses", bond.addresses), ("dns", bond.dns), ("search", bond.search)):
        if settings:
            table[key] = [setting.text for setting in settings]
    if bond.routes:
        table["routes"] = [
            {"to": route.to, "via": route.via, **({"metric": route.metric} if route.metric else {})}
            for route in bond.routes
        ]
    if bond.options:
        table["options"] = {name: _option(name, setting.text) for name, setting in bond.options.items()}
    return table


def _option(name: str, text: str) -> object:
    if OPTIONS[name].kind in (Kind.TARGETS, Kind.TARGETS6):
        return text.split()
    return _number(text)


def _number(text: str) -> object:
    return int(text) if re.fullmatch(r"-?[0-9]{1,18}", text) else text


def _device_table(device: DesiredMember) -> dict[str, object]:
    table: dict[str, object] = {}
    if address := device.match.address:
        table["guid" if len(address) == GUID_BYTES else "address"] = address.hex(":")
    if device.pkey is not None:
        table |= {"pkey": device.pkey, "parent": device.parent}
    if device.transport:
        table["transport"] = device.transport.text
    if device.mtu:
        table["mtu"] = _number(device.mtu.text)
    table |= {name: _number(setting.text) for name, setting in device.options.items()}
    if device.ethernet:
        table["ethernet"] = True
    return table
