"""Configuration files without their secrets: what the readers of this folder understand is kept, all else is left out.

Read first: files.py, and the reader of each format. Lines keep their numbers, so a reader says the same of what is
left. Comments are left out as well: an old password is often kept in one. Left out here: which files to take.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Any

from ibbond.bonding.options import OPTIONS
from ibbond.config import bonds_toml, files, ifcfg, ifupdown, netplan, networkd
from ibbond.config.lines import ASSIGNMENT, joined_lines
from ibbond.config.yaml_file import load
from ibbond.errors import Malformed

LEFT_OUT = "# (left out by ibbond collect)"
ADDRESSES = r"(address(es)?|routes?)\d*|gateway|dns(-search)?|method"
KEYFILE = {  # section: the keys that are kept
    "connection": "id|uuid|type|interface-name|autoconnect|controller|master|port-type|slave-type",
    "bond": "|".join((*OPTIONS, "interface-name")),
    "bond-port": "queue-id|prio",
    "infiniband": "mtu|p-key|parent|transport-mode|mac-address",
    "ethernet": "mtu|mac-address",
    "802-3-ethernet": "mtu|mac-address",
    "ipv4": ADDRESSES,
    "ipv6": ADDRESSES,
    "match": "interface-name",
}
NETWORKD = {
    "NetDev": "Name|Kind|MTUBytes|MACAddress",
    "Bond": "|".join(networkd.BONDS),
    "IPoIB": "PartitionKey|Mode|IgnoreUserspaceMulticastGroups",
    "Match": "Name|MACAddress|PermanentMACAddress|Type",
    "Link": "MTUBytes|MACAddress|RequiredForOnline",
    "Network": "Bond|IPoIB|PrimarySlave|Address|Gateway|DNS|Domains|DHCP|LinkLocalAddressing|ActiveSlave",
    "Address": "Address",
    "Route": "Gateway|Destination|Metric",
}
IFCFG = re.compile(
    r"TYPE|DEVICE|NAME|UUID|ONBOOT|STARTMODE|BOOTPROTO|HWADDR|MTU|NM_CONTROLLED|MASTER|MASTER_UUID|SLAVE|DOMAIN"
    r"|BONDING_(MASTER|OPTS|MODULE_OPTS|SLAVE_?\d+)|(IPADDR|PREFIX|PREFIXLEN|NETMASK|ADDRESS|GATEWAY|DNS)_?\d*"
    r"|(IPADDR|PREFIXLEN|NETMASK)_\w+|IPV6(ADDR|ADDR_SECONDARIES|INIT|_DEFAULTGW)|DHCPV6C|DEFROUTE|PHYSDEV|PKEY|PKEY_ID"
    r"|PKEY_ID_NM|IPOIB_(DEVICE|PKEY|MODE|UMCAST)|CONNECTED_MODE"
)
OFED = re.compile(r"IPOIBBOND_ENABLE|IPOIB_(BONDS|MTU|LOAD)|SET_IPOIB_CM|ONBOOT|\w+_(SLAVES|IP)")
STANZAS = ("iface", "auto", "mapping", "source", "source-directory", "template", "vlan")
STANZA_KEYS = re.compile(
    r"address|netmask|gateway|mtu|hwaddress|network|broadcast|metric|dns-(nameservers?|search)|slaves"
    r"|bond-primary|" + "|".join((*ifupdown.NOT_OPTIONS, *ifupdown.MEMBERS))
)
BOND_KEYS = frozenset(f"bond-{name.replace('_', '-')}" for name in OPTIONS)
MODPROBE = re.compile(r"\s*(options|alias|blacklist|softdep)\s+(bonding|ib_\w+|mlx\w+|bond\w*)(\s|$)")
COMMENT = re.compile(r"""^((?:[^"'#]|"(?:[^"\\]|\\.)*"|'[^']*'|(?<=\S)#)*?)(?:^|(?<=\s))#.*$""")
DEVICE: dict[str, Any] = dict.fromkeys(
    ("interfaces", "addresses", "dhcp4", "dhcp6", "gateway4", "gateway6", "routes", "nameservers", "mtu", "match")
)
DEVICE |= dict.fromkeys(("set-name", "infiniband-mode", "macaddress", "optional"))
DEVICE["parameters"] = dict.fromkeys(netplan.PARAMETERS)
NETPLAN: dict[str, Any] = {
    "network": {"version": None, "renderer": None, "bonds": {"*": DEVICE}, "ethernets": {"*": DEVICE}}
}


def without_secrets(path: str, text: str) -> str:
    """The text of the file at `path` (below a root) without secrets; empty for other formats."""
    for name, reader in files.READERS.items():
        if reader.at_boot and any(PurePosixPath(path).match(pattern) for pattern in reader.patterns):
            return FILTERS[name](text)
    if path.startswith("etc/modprobe.d/"):
        return _lines(_modprobe(text))
    return LEFT_OUT + "\n"


def _lines(lines: Iterator[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _numbered(text: str, keep: Callable[[str], str], *, continues: bool) -> Iterator[str]:
    """What `keep` leaves of each line; of lines that were joined the first, the others are left out."""
    for number, line, end in joined_lines(text, continues):
        yield keep(line) or LEFT_OUT
        yield from [LEFT_OUT] * (end - number)


def _sections(text: str, known: dict[str, str], *, continues: bool) -> str:
    section = ""

    def keep(line: str) -> str:
        nonlocal section
        stripped = line.strip()
        if stripped.startswith("[") and stripped.endswith("]"):
            section = stripped[1:-1]
            return stripped if section in known else ""
        key, equals, value = (part.strip() for part in stripped.partition("="))
        if not equals or section not in known:
            return ""
        if re.fullmatch(known[section], key):
            return f"{key}={value}"
        return f"{key}=" if section.lower() == "bond" and re.fullmatch(r"[\w-]+", key) else ""

    return _lines(_numbered(text, keep, continues=continues))


def _assignments(text: str, known: re.Pattern[str]) -> str:
    """Also the lines of a route file, which assign nothing."""

    def keep(line: str) -> str:
        if match := ASSIGNMENT.match(line):
            return match[0] if known.fullmatch(match[1]) else ""
        route = ifcfg.ROUTE.match(line)
        return f"{route[1]} via {route[2]}" if route is not None else ""

    return _lines(_numbered(text, keep, continues=False))


def _interfaces(text: str) -> str:
    def keep(line: str) -> str:
        words = re.sub(r"\s#.*", "", line).split()
        if not words or words[0].startswith("#"):
            return ""
        key = words[0].replace("_", "-")
        if words[0] in STANZAS or words[0].startswith("allow-"):
            return " ".join(words[:4] if words[0] == "iface" else words)
        if STANZA_KEYS.fullmatch(key) or key in BOND_KEYS:
            return " ".join(words)
        if key.startswith("bond-"):
            return words[0]
        if key in ("pre-up", "up", "post-up"):
            patterns = (ifupdown.CHILD, ifupdown.MODE, ifupdown.ROUTE, ifupdown.MTU, ifupdown.OPTION)
            found = [match[0] for pattern in patterns if (match := pattern.search(" ".join(words[1:])))]
            return f"{key} {'; '.join(found)}" if found else ""
        return ""

    return _lines(_numbered(text, keep, continues=True))


def _modprobe(text: str) -> Iterator[str]:
    return _numbered(text, lambda line: line if MODPROBE.match(line) else "", continues=True)


def _netplan(text: str) -> str:
    """Values of keys that are not in the table are replaced; a file that is not YAML stays unreadable."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        node = YAML(typ="rt").compose(text)
        spans = sorted(set(_secret_spans(node, NETPLAN, set())), reverse=True)
    except (YAMLError, ValueError, RecursionError):
        return f"network: [{LEFT_OUT}\n"
    covered = len(text) + 1
    for start, end in spans:
        if end > covered:  # inside one that was replaced
            continue
        gone = text[start:end].rstrip()
        text = text[:start] + ": left-out" + "\n" * gone.count("\n") + text[start + len(gone) :]
        covered = start
    text = _lines(COMMENT.sub(r"\1", line) for line in text.splitlines())
    try:
        load(text, "")
    except Malformed:
        return f"network: [{LEFT_OUT}\n"
    return text


def _secret_spans(node: Any, known: dict[str, Any] | None, seen: set[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """From the end of a key to the end of its value, for each key that is not known; below None all is."""
    if (id(node), id(known)) in seen or known is None or not isinstance(getattr(node, "value", None), list):
        return
    seen.add((id(node), id(known)))
    if node.id != "mapping":
        yield (node.start_mark.index, node.end_mark.index)
        return
    for key, value in node.value:
        if key.value == "<<":
            yield from _secret_spans(value, known, seen)
        elif key.value in known or "*" in known:
            yield from _secret_spans(value, known.get(key.value, known.get("*")), seen)
        else:
            yield (key.end_mark.index, value.end_mark.index)


def _bonds_toml(text: str) -> str:
    """A valid file has no room for secrets but its comments."""
    if bonds_toml.read({"bonds.toml": text}).problems:
        return LEFT_OUT + "\n"
    return _lines(COMMENT.sub(r"\1", line) for line in text.splitlines())


FILTERS: dict[str, Callable[[str], str]] = {
    "bonds.toml": _bonds_toml,
    "netplan": _netplan,
    "networkmanager": lambda text: _sections(text, KEYFILE, continues=False),
    "networkd": lambda text: _sections(text, NETWORKD, continues=True),
    "ifupdown": _interfaces,
    "ifcfg": lambda text: _assignments(text, IFCFG),
    "ofed": lambda text: _assignments(text, OFED),
}
