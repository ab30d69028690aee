"""NetworkManager's keyfiles as a desired state, and a desired state as keyfiles.

Read first: nm-settings-keyfile(5), nm-settings(5) (connection, bond, bond-port, infiniband, ipv4, ipv6). A port names
its bond by interface name, by the UUID of the bond's profile or by its id; with `p-key` the interface's name is
PARENT.PKEY by definition. Left out: profiles of RHEL's ifcfg files (ifcfg.py), secrets.
"""

from __future__ import annotations

import ipaddress
import re
import uuid
from collections.abc import Mapping

from ibbond.bonding.options import OPTIONS
from ibbond.config.desired import (
    Desired,
    DesiredBond,
    DesiredMember,
    DesiredRoute,
    Match,
    Problem,
    Setting,
    adopt_children,
    hardware_address,
    pkey_names,
    set_option,
)
from ibbond.config.fields import NO_MONITOR, label
from ibbond.config.gaps import Gap, Version
from ibbond.config.lines import Entry, sections

TOOL = "NetworkManager"
FOLDERS = ("etc", "run", "usr/lib")
PATTERNS = tuple(f"{folder}/NetworkManager/system-connections/*" for folder in FOLDERS)
ONLY_HERE = ("active_slave", "interface-name")  # accepted in [bond]: active_slave is an alias of primary

FOLDER = "etc/NetworkManager/system-connections"
PREFIX = bytes(4) + b"\xfe\x80" + bytes(6)  # before a port GUID: only its eight bytes are compared
NAMESPACE = uuid.UUID("c3c1b1a2-5f0e-4b8e-9a57-1bb0bd000000")
REFUSED = "makes NetworkManager refuse the whole profile: it does not know that option"
GAPS = (
    Gap("option.ns_ip6_target", REFUSED, since=(1, 46)),
    Gap("option.lacp_active", REFUSED, since=(1, 46)),
    Gap("option.arp_missed_max", REFUSED, since=(1, 44)),
    *(Gap(f"option.{name}", REFUSED) for name in ("coupled_control", "broadcast_neighbor", "lacp_strict")),
    Gap("prio", "is dropped: [bond-port] has no prio before 1.44", since=(1, 44)),
    Gap(NO_MONITOR, "becomes miimon 100, NetworkManager's own default", harmless=True),
)

Keys = dict[tuple[str, str], Entry]


def read(files: Mapping[str, str]) -> Desired:
    """The bonds of these files."""
    desired = Desired()
    profiles = [_keys(text, path) for path, text in sorted(files.items())]
    bonds: dict[str, str] = {}
    for keys in profiles:
        if _text(keys, "connection", "type") == "bond":
            _bond(desired, keys, bonds)
    for keys in profiles:
        _port(desired, keys, bonds)
    adopt_children(desired)
    return desired


def _keys(text: str, path: str) -> Keys:
    return {(entry.section, entry.key): entry for part in sections(text, path) for entry in part}


def _text(keys: Keys, section: str, *names: str) -> str:
    return next((keys[section, name].value for name in names if (section, name) in keys), "")


def _bond(desired: Desired, keys: Keys, bonds: dict[str, str]) -> None:
    """A profile of a bond; its interface name, UUID and id all stand for it."""
    entry = keys.get(("connection", "interface-name")) or keys.get(("bond", "interface-name"))
    if entry is None:
        return
    bond = desired.bond(entry.value, TOOL, entry.source)
    bond.is_defined = True
    bond.starts = bond.starts and _text(keys, "connection", "autoconnect").lower() not in ("false", "no", "0")
    for name in ("interface-name", "uuid", "id"):
        if text := _text(keys, "connection", name):
            bonds[text] = entry.value
    for (section, key), each in keys.items():
        setting = Setting(each.value, each.source)
        if section == "bond":
            name = "primary" if key == "active_slave" else key
            if key == "active_slave":
                what = "NetworkManager takes active_slave for another word for primary"
                desired.problems.append(
                    Problem("active-slave-is-primary", each.source, what, "Write primary, if that is meant", bond.name)
                )
            set_option(desired, bond, name, each.value, each.source, known=(*ONLY_HERE, *OPTIONS), word=key)
        elif section in ("ethernet", "802-3-ethernet") and key == "cloned-mac-address" and ":" in each.value:
            bond.hardware_address = setting
        elif section in ("ethernet", "802-3-ethernet", "infiniband") and key == "mtu" and each.value != "0":
            bond.mtu = setting
        elif section in ("ipv4", "ipv6"):
            _layer_3(bond, section, key, setting)


def _layer_3(bond: DesiredBond, section: str, key: str, setting: Setting) -> None:
    words = [word for word in re.split(r"[;,]", setting.text) if word]
    if re.fullmatch(r"address(es)?\d*", key) and words:
        bond.addresses.append(Setting(words[0], setting.source))
        if len(words) > 1:
            bond.routes.append(DesiredRoute("default", words[1], setting.source))
    elif key == "gateway":
        bond.routes.append(DesiredRoute("default", setting.text, setting.source))
    elif re.fullmatch(r"routes?\d+", key) and len(words) > 1:
        metric = int(words[2]) if len(words) > 2 and words[2].isdigit() else 0
        bond.routes.append(DesiredRoute(words[0], words[1], setting.source, metric))
    elif key == "dns":
        bond.dns += [Setting(word, setting.source) for word in words]
    elif key == "dns-search":
        known = [each.text for each in bond.search]  # some tools write them for both families
        bond.search += [Setting(word, setting.source) for word in words if word not in known]
    elif key == "method" and setting.text in ("auto", "dhcp"):
        bond.dhcp |= {int(section[-1])}


def _port(desired: Desired, keys: Keys, bonds: dict[str, str]) -> None:
    """A profile of a port, or of a P_Key child that is in no bond."""
    kind = _text(keys, "connection", "port-type", "slave-type")
    above = _text(keys, "connection", "controller", "master")
    first = next(iter(keys.values()), None)
    member = _device(keys, first) if first is not None else None
    if first is None or member is None:
        return
    own_name = f"{member.parent}.{member.pkey or 0:04x}"
    if member.pkey is not None and member.match.name != own_name and _text(keys, "connection", "interface-name"):
        entry = keys["connection", "interface-name"]
        what = f"NetworkManager refuses the profile: the interface of this p-key is {own_name}, not {entry.value}"
        bond_name = bonds.get(above, above)
        fix = "Leave interface-name out; NetworkManager makes it of parent and p-key"
        desired.problems.append(Problem("pkey-name", entry.source, what, fix, bond_name))
    if kind == "bond" and above:
        entry = keys.get(("connection", "controller")) or keys["connection", "master"]
        bond = desired.bond(bonds.get(above, above), TOOL, entry.source)
        member.source = entry.source
        bond.members.append(member)
    elif member.pkey is not None:
        desired.children.append(member)


def _device(keys: Keys, first: Entry) -> DesiredMember | None:
    name, parent = _text(keys, "connection", "interface-name"), _text(keys, "infiniband", "parent")
    key_text = _text(keys, "infiniband", "p-key")
    address = hardware_address(_text(keys, "infiniband", "mac-address") or _text(keys, "ethernet", "mac-address"))
    pkey = int(key_text, 0) if re.fullmatch(r"0[xX][0-9a-fA-F]+|[1-9]\d*|0", key_text) else None
    names = (name,) if name else ()
    if pkey is not None and parent:
        own, other = f"{parent}.{pkey:04x}", pkey_names(parent, pkey)
        names = tuple(dict.fromkeys((*names, own, *other)))
    if not names and not address:
        return None
    member = DesiredMember(Match(names, address=address), first.source, pkey, parent)
    for key, field in (("transport-mode", "transport"), ("mtu", "mtu")):
        if entry := keys.get(("infiniband", key)):
            setattr(member, field, Setting(entry.value, entry.source))
    if _text(keys, "connection", "type") in ("ethernet", "802-3-ethernet"):
        member.ethernet = True
        if entry := keys.get(("ethernet", "mtu")) or keys.get(("802-3-ethernet", "mtu")):
            member.mtu = Setting(entry.value, entry.source)
    for key, option in (("queue-id", "queue_id"), ("prio", "prio")):
        if entry := keys.get(("bond-port", key)):
            member.options[option] = Setting(entry.value, entry.source)
    return member


def render(desired: Desired, version: Version) -> dict[str, str]:
    """The keyfiles by their paths; NetworkManager wants them to be root's, mode 0600."""
    files = {f"{FOLDER}/{bond.name}.nmconnection": _bond_profile(bond) for bond in desired.bonds}
    for bond in desired.bonds:
        for member in bond.members:
            files[f"{FOLDER}/{label(member)}.nmconnection"] = _port_profile(member, bond.name, version)
    for child in desired.children:
        if child.pkey is not None:
            files[f"{FOLDER}/{label(child)}.nmconnection"] = _port_profile(child, "", version)
    return files


def _profile(name: str, kind: str, parts: list[tuple[str, dict[str, str]]]) -> str:
    first = {"id": name, "uuid": str(uuid.uuid5(NAMESPACE, name)), "type": kind}
    texts = []
    for section, values in (("connection", first | dict(parts[0][1])), *parts[1:]):
        if values:
            texts.append(f"[{section}]\n" + "".join(f"{key}={value}\n" for key, value in values.items()))
    return "\n".join(texts)


def _bond_profile(bond: DesiredBond) -> str:
    connection = {"interface-name": bond.name} | ({} if bond.starts else {"autoconnect": "false"})
    options = {}
    for name, setting in bond.options.items():
        is_list = name in ("arp_ip_target", "ns_ip6_target")
        options[name] = setting.text.replace(" ", ",") if is_list else setting.text
    parts = [("connection", connection), ("bond", options)]
    parts.append(("ethernet", {"mtu": bond.mtu.text} if bond.mtu else {}))
    return _profile(bond.name, "bond", [*parts, ("ipv4", _family(bond, 4)), ("ipv6", _family(bond, 6))])


def _family(bond: DesiredBond, family: int) -> dict[str, str]:
    """The section of one family of addresses."""
    values: dict[str, str] = {}
    addresses = [each.text for each in bond.addresses if version_of(each.text) == family]
    for number, text in enumerate(addresses, 1):
        values[f"address{number}"] = text
    number = 0
    for route in (route for route in bond.routes if version_of(route.via) == family):
        if route.to == "default" and not route.metric and "gateway" not in values and addresses:
            values["gateway"] = route.via
            continue
        number += 1
        to = {4: "0.0.0.0/0", 6: "::/0"}[family] if route.to == "default" else route.to
        values[f"route{number}"] = f"{to},{route.via}" + (f",{route.metric}" if route.metric else "")
    if servers := [each.text for each in bond.dns if version_of(each.text) == family]:
        values["dns"] = "".join(f"{server};" for server in servers)
    other = any(version_of(each.text) == 4 for each in bond.addresses) or 4 in bond.dhcp
    if bond.search and (family == 4) == other:
        values["dns-search"] = "".join(f"{each.text};" for each in bond.search)
    if family in bond.dhcp:
        return {"method": "auto", **values}
    if addresses:
        return {"method": "manual", **values}
    return {"method": "disabled" if family == 4 else "link-local", **values}


def version_of(text: str) -> int:
    """4 or 6; 0 for what is not an address."""
    try:
        return ipaddress.ip_interface(text).version
    except ValueError:
        return 0


def _port_profile(device: DesiredMember, bond: str, version: Version) -> str:
    connection: dict[str, str] = {}
    values: dict[str, str] = {}
    if device.match.address:
        address = device.match.address
        whole = PREFIX + address if len(address) == 8 else address
        values["mac-address"] = whole.hex(":").upper()
    elif device.pkey is None:
        connection["interface-name"] = device.match.name
    if bond:
        words = ("controller", "port-type") if version >= (1, 46) else ("master", "slave-type")
        connection |= {words[0]: bond, words[1]: "bond"}
    if device.mtu:
        values["mtu"] = device.mtu.text
    if device.pkey is not None:
        values |= {"p-key": str(device.pkey), "parent": device.parent}
    if not device.ethernet:
        values["transport-mode"] = device.transport.text if device.transport else "datagram"
    kind = "ethernet" if device.ethernet else "infiniband"
    port = {name.replace("_", "-"): setting.text for name, setting in device.options.items()}
    parts = [("connection", connection), (kind, values), ("bond-port", port)]
    if not bond:
        parts += [("ipv4", {"method": "disabled"}), ("ipv6", {"method": "disabled"})]
    return _profile(label(device), kind, parts)
