"""NetworkManager's keyfiles as a desired state.

Read first: nm-settings-keyfile(5), nm-settings(5) (connection, bond, bond-port, infiniband, ipv4, ipv6). A port names
its bond by interface name, by the UUID of the bond's profile or by its id; with `p-key` the interface's name is
PARENT.PKEY by definition. Left out: profiles of RHEL's ifcfg files (ifcfg.py), secrets.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ibbond.bonding.options import OPTIONS
from ibbond.config.desired import (
    Desired,
    DesiredBond,
    DesiredMember,
    DesiredRoute,
    Match,
    Setting,
    hardware_address,
    pkey_names,
    set_option,
)
from ibbond.config.lines import Entry, sections

TOOL = "NetworkManager"
FOLDERS = ("etc", "run", "usr/lib")
PATTERNS = tuple(f"{folder}/NetworkManager/system-connections/*" for folder in FOLDERS)
ONLY_HERE = ("active_slave", "interface-name")  # accepted in [bond]: active_slave is an alias of primary

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
            set_option(desired, bond, name, each.value, each.source, known=(*ONLY_HERE, *OPTIONS), word=key)
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
        bond.search += [Setting(word, setting.source) for word in words]
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
    for key, option in (("queue-id", "queue_id"), ("prio", "prio")):
        if entry := keys.get(("bond-port", key)):
            member.options[option] = Setting(entry.value, entry.source)
    return member
