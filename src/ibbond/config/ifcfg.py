"""ifcfg files as a desired state and back: initscripts and NetworkManager's plugin (RHEL), wicked (SUSE).

Read first: sysconfig.txt of initscripts, nm-settings-ifcfg-rh(5); ifcfg(5), ifcfg-bonding(5), ifcfg-ipoib(5) of wicked.
On RHEL a member names its bond (MASTER, MASTER_UUID), on SUSE a bond its members (BONDING_SLAVE_n). Left out: aliases,
rules, what /etc/sysconfig/network says for all.
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
    Setting,
    Source,
    adopt_children,
    hardware_address,
    pkey_names,
    set_option,
)
from ibbond.config.fields import label
from ibbond.config.gaps import Gap, Version, of_child
from ibbond.config.ifupdown import with_prefix
from ibbond.config.lines import Entry, assignments

RHEL, SUSE = "initscripts", "wicked"
PATTERNS = (
    "etc/sysconfig/network-scripts/ifcfg-*",
    "etc/sysconfig/network-scripts/route-*",
    "etc/sysconfig/network/ifcfg-*",
    "etc/sysconfig/network/ifroute-*",
)
YES = ("yes", "true", "1", "y", "t")
ROUTE = re.compile(r"([0-9a-fA-F.:/]+|default)\s+(?:via\s+)?([0-9a-fA-F.:]+)(?:\s.*?metric\s+(\d+)|\s|$)")
STARTS = ("auto", "boot", "onboot", "on", "hotplug", "nfsroot")

NO_FILE = "is not set: it has no file in sysfs, which is what BONDING_OPTS is written to"
NO_KEY = "is not held: there is no key for it"
RHEL_GAPS = (
    *(Gap(f"option.{name}", NO_FILE) for name, row in OPTIONS.items() if row.netlink_only and not row.of_member),
    Gap("queue_id", NO_KEY),
    Gap("prio", NO_KEY),
    Gap("guid", "is not held: HWADDR is compared with all 20 bytes, and the queue pair changes; the name counts"),
)
SUSE_GAPS = (
    *RHEL_GAPS,
    Gap("ethernet", "is not said: the device is known by its name", harmless=True),
    Gap("dns", "is not of an interface: NETCONFIG_DNS_STATIC_SERVERS in /etc/sysconfig/network/config has it"),
    Gap("search", "is not of an interface: NETCONFIG_DNS_STATIC_SEARCHLIST in /etc/sysconfig/network/config has it"),
    Gap("pkey", "is not held: wicked takes 0x8001 to 0xfffe only", text="0xffff", when=of_child),
)

Values = dict[str, Entry]


def read(files: Mapping[str, str]) -> Desired:
    """The bonds of these files."""
    desired = Desired()
    uuids: dict[str, str] = {}
    whole = {path: assignments(text, path) for path, text in sorted(files.items()) if "/ifcfg-" in f"/{path}"}
    for path, values in whole.items():
        if _is_bond(values):
            _bond(desired, path, values, files)
            if uuid := _text(values, "UUID"):
                uuids[uuid] = device_of(path, values)
    for path, values in whole.items():
        _member(desired, path, values, uuids)
    adopt_children(desired)
    return desired


def device_of(path: str, values: Values) -> str:
    return _text(values, "DEVICE") or path.rpartition("/")[2].removeprefix("ifcfg-")


def _text(values: Values, *keys: str) -> str:
    return next((values[key].value for key in keys if key in values and values[key].value), "")


def _is_bond(values: Values) -> bool:
    return _text(values, "TYPE").lower() == "bond" or _text(values, "BONDING_MASTER").lower() in YES


def _tool(path: str, values: Values) -> str:
    return SUSE if "sysconfig/network/" in path or "STARTMODE" in values else RHEL


def _bond(desired: Desired, path: str, values: Values, files: Mapping[str, str]) -> None:
    name, tool = device_of(path, values), _tool(path, values)
    bond = desired.bond(name, tool, Source(path))
    bond.is_defined = True
    if tool == SUSE:
        bond.starts = _text(values, "STARTMODE").lower() in STARTS
    else:
        bond.starts = _text(values, "ONBOOT").lower() not in ("no", "false", "0", "n", "f")
    for key in ("BONDING_OPTS", "BONDING_MODULE_OPTS"):
        if key in values:
            options(desired, bond, values[key])
    slaves = [key for key in values if re.fullmatch(r"BONDING_SLAVE_?\d+", key) and values[key].value]
    for key in sorted(slaves, key=lambda key: int(re.sub(r"\D", "", key))):
        bond.members.append(DesiredMember(_suse_member(values[key].value), values[key].source))
    for key in ("MACADDR", "LLADDR"):
        if key in values:
            bond.hardware_address = Setting(values[key].value, values[key].source)
    _layer_3(bond, values)
    _routes(bond, path, name, files)


def _suse_member(text: str) -> Match:
    """A name, or older SUSE's `bus-pci-...` and `id-00:11:...`, of which only the address says which device it is."""
    if text.startswith(("bus-", "eth-bus-")):
        return Match()
    if text.startswith(("id-", "eth-id-")):
        return Match(address=hardware_address(text.rpartition("id-")[2]))
    return Match((text,))


def options(desired: Desired, bond: DesiredBond, entry: Entry) -> None:
    """`mode=active-backup miimon=100 arp_ip_target=+10.0.0.1,+10.0.0.2`, as the module takes them."""
    for word in entry.value.split():
        option, equals, text = word.partition("=")
        if equals:
            set_option(desired, bond, option, text, entry.source)


def _layer_3(bond: DesiredBond, values: Values) -> None:
    for key, entry in values.items():
        if match := re.fullmatch(r"IPADDR(_?\w*)", key):
            prefix = _text(values, f"PREFIX{match[1]}", f"PREFIXLEN{match[1]}", f"NETMASK{match[1]}")
            bond.addresses.append(Setting(with_prefix(entry.value, prefix), entry.source))
        elif key in ("IPV6ADDR", "IPV6ADDR_SECONDARIES"):
            bond.addresses += [Setting(word, entry.source) for word in entry.value.split()]
        elif key in ("GATEWAY", "IPV6_DEFAULTGW"):
            bond.routes.append(DesiredRoute("default", entry.value, entry.source))
        elif re.fullmatch(r"DNS\d+", key):
            bond.dns.append(Setting(entry.value, entry.source))
        elif key == "DOMAIN":
            bond.search += [Setting(word, entry.source) for word in entry.value.split()]
        elif key == "MTU" and entry.value:
            bond.mtu = Setting(entry.value, entry.source)
        elif key == "BOOTPROTO" and entry.value.lower().startswith("dhcp"):
            both = {4, 6} if "STARTMODE" in values else {4}  # what dhcp alone means to wicked, and to initscripts
            bond.dhcp |= {"4": {4}, "6": {6}}.get(entry.value[-1], both)
        elif key == "DHCPV6C" and entry.value.lower() in YES:
            bond.dhcp |= {6}


def _routes(bond: DesiredBond, path: str, name: str, files: Mapping[str, str]) -> None:
    """route-bond0 and ifroute-bond0: `NETWORK via GATEWAY`, or wicked's columns NETWORK GATEWAY."""
    folder = path.rpartition("/")[0]
    for other in (f"{folder}/route-{name}", f"{folder}/route6-{name}", f"{folder}/ifroute-{name}"):
        for number, line in enumerate(files.get(other, "").splitlines(), 1):
            if found := ROUTE.match(line):
                metric = int(found[3] or 0)
                bond.routes.append(DesiredRoute(found[1], found[2], Source(other, number), metric))


def _member(desired: Desired, path: str, values: Values, uuids: Mapping[str, str]) -> None:
    """A member of RHEL's kind, or a P_Key child that another file makes a member."""
    name = device_of(path, values)
    parent = _text(values, "PHYSDEV", "IPOIB_DEVICE")
    key = _text(values, "PKEY_ID", "PKEY_ID_NM", "IPOIB_PKEY")
    pkey = None
    if re.fullmatch(r"(0[xX])?[0-9a-fA-F]+", key):
        pkey = int(key, 0 if key[:2].lower() == "0x" or "IPOIB_PKEY" not in values else 16)
    names = (name, *pkey_names(parent, pkey)) if parent and pkey is not None else (name,)
    member = DesiredMember(Match(tuple(dict.fromkeys(names))), Source(path), pkey, parent)
    if "CONNECTED_MODE" in values:
        entry = values["CONNECTED_MODE"]
        member.transport = Setting("connected" if entry.value.lower() in YES else "datagram", entry.source)
    if "IPOIB_MODE" in values:
        member.transport = Setting(values["IPOIB_MODE"].value, values["IPOIB_MODE"].source)
    if "MTU" in values and values["MTU"].value:
        member.mtu = Setting(values["MTU"].value, values["MTU"].source)
    member.ethernet = _text(values, "TYPE").lower() == "ethernet"
    above = uuids.get(_text(values, "MASTER_UUID"), "") or _text(values, "MASTER")
    above = uuids.get(above, above)
    if above and _text(values, "SLAVE").lower() in ("", *YES):
        entry = values.get("MASTER") or values["MASTER_UUID"]
        member.source = entry.source
        desired.bond(above, _tool(path, values), entry.source).members.append(member)
    elif pkey is not None:
        desired.children.append(member)
    for bond in desired.bonds:  # of SUSE: what the member's own file says
        for each in bond.members:
            if each is not member and each.match.name == name:
                each.transport, each.mtu = each.transport or member.transport, each.mtu or member.mtu


def render_rhel(desired: Desired, version: Version) -> dict[str, str]:
    """ifcfg and route files as initscripts of RHEL 7 and 8 read them."""
    folder = "etc/sysconfig/network-scripts"
    files: dict[str, str] = {}
    for bond in desired.bonds:
        lines = ["TYPE=Bond", f"DEVICE={bond.name}", f"NAME={bond.name}", "BONDING_MASTER=yes"]
        lines += [f"ONBOOT={'yes' if bond.starts else 'no'}", f"BOOTPROTO={'dhcp' if 4 in bond.dhcp else 'none'}"]
        lines += ["DHCPV6C=yes", "IPV6INIT=yes"] if 6 in bond.dhcp else []
        lines += [f'BONDING_OPTS="{_module_options(bond)}"'] + ([f"MTU={bond.mtu.text}"] if bond.mtu else [])
        for index, each in enumerate(each for each in bond.addresses if ":" not in each.text):
            address, _, prefix = each.text.partition("/")
            lines += [f"IPADDR{index or ''}={address}", f"PREFIX{index or ''}={prefix}"]
        first, *others = [each.text for each in bond.addresses if ":" in each.text] or [""]
        lines += ["IPV6INIT=yes", f"IPV6ADDR={first}"] if first else []
        lines += [f'IPV6ADDR_SECONDARIES="{" ".join(others)}"'] if others else []
        lines += [f"DNS{number}={each.text}" for number, each in enumerate(bond.dns, 1)]
        lines += [f'DOMAIN="{" ".join(each.text for each in bond.search)}"'] if bond.search else []
        files[f"{folder}/ifcfg-{bond.name}"] = _lines(lines)
        for name, routes in (
            ("route", [route for route in bond.routes if ":" not in route.via]),
            ("route6", [route for route in bond.routes if ":" in route.via]),
        ):
            if routes:
                files[f"{folder}/{name}-{bond.name}"] = _lines(_route_line(route, bond.name) for route in routes)
    for bond_name, device in _devices(desired):
        lines = [f"TYPE={'Ethernet' if device.ethernet else 'InfiniBand'}", f"DEVICE={label(device)}"]
        lines += ["ONBOOT=yes", "BOOTPROTO=none"]
        if device.pkey is not None:
            lines += ["PKEY=yes", f"PKEY_ID={device.pkey:#06x}", f"PHYSDEV={device.parent}"]
        if device.transport:
            lines.append(f"CONNECTED_MODE={'yes' if device.transport.text == 'connected' else 'no'}")
        lines += [f"MTU={device.mtu.text}"] if device.mtu else []
        lines += [f"MASTER={bond_name}", "SLAVE=yes"] if bond_name else []
        files[f"{folder}/ifcfg-{label(device)}"] = _lines(lines)
    return files


def render_suse(desired: Desired, version: Version) -> dict[str, str]:
    """ifcfg and ifroute files as wicked reads them."""
    folder = "etc/sysconfig/network"
    files: dict[str, str] = {}
    for bond in desired.bonds:
        boot = {0: "static", 1: "dhcp", 2: "dhcp"}[len(bond.dhcp)]
        boot = f"dhcp{min(bond.dhcp)}" if len(bond.dhcp) == 1 else boot
        lines = [f"STARTMODE='{'auto' if bond.starts else 'manual'}'", f"BOOTPROTO='{boot}'", "BONDING_MASTER='yes'"]
        lines += [f"BONDING_SLAVE_{number}='{label(member)}'" for number, member in enumerate(bond.members)]
        lines += [f"BONDING_MODULE_OPTS='{_module_options(bond)}'"] + ([f"MTU='{bond.mtu.text}'"] if bond.mtu else [])
        lines += [f"IPADDR{f'_{index}' if index else ''}='{each.text}'" for index, each in enumerate(bond.addresses)]
        files[f"{folder}/ifcfg-{bond.name}"] = _lines(lines)
        if bond.routes:
            routes = [
                f"{route.to} {route.via} - {bond.name}" + (f" metric {route.metric}" if route.metric else "")
                for route in bond.routes
            ]
            files[f"{folder}/ifroute-{bond.name}"] = _lines(routes)
    for _, device in _devices(desired):
        lines = ["STARTMODE='hotplug'", "BOOTPROTO='none'"]
        if device.pkey is not None:
            lines += [f"IPOIB_DEVICE='{device.parent}'", f"IPOIB_PKEY='{device.pkey | 0x8000:04x}'"]
        lines += [f"IPOIB_MODE='{device.transport.text}'"] if device.transport else []
        lines += [f"MTU='{device.mtu.text}'"] if device.mtu else []
        files[f"{folder}/ifcfg-{label(device)}"] = _lines(lines)
    return files


def _devices(desired: Desired) -> list[tuple[str, DesiredMember]]:
    members = [(bond.name, member) for bond in desired.bonds for member in bond.members]
    return members + [("", child) for child in desired.children]


def _module_options(bond: DesiredBond) -> str:
    words = []
    for name, setting in bond.options.items():
        separator = "," if OPTIONS[name].kind is Kind.TARGETS else " "
        words.append(f"{name}={separator.join(setting.text.split())}")
    return " ".join(words)


def _route_line(route: DesiredRoute, device: str) -> str:
    return f"{route.to} via {route.via} dev {device}" + (f" metric {route.metric}" if route.metric else "")


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
