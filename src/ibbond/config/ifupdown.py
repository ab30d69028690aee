"""/etc/network/interfaces of ifupdown (with ifenslave) and ifupdown2 as a desired state.

Read first: interfaces(5), ifenslave's README.Debian and if-pre-up.d/ifenslave, ifupdown2's addons/bond.py. Options are
`bond-NAME` or `bond_NAME`, in the bond's stanza; a member may name its bond by `bond-master`. ifupdown2 takes patterns
of members, `glob ib0-1` and `regex ib.*`. Left out: mappings, templates, what scripts in `up` lines do but for files of
IPoIB.
"""

from __future__ import annotations

import fnmatch
import ipaddress
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ibbond.bonding.options import OPTIONS
from ibbond.config.desired import (
    Desired,
    DesiredBond,
    DesiredMember,
    DesiredRoute,
    Match,
    Setting,
    Source,
    pkey_names,
    set_option,
)
from ibbond.config.lines import joined_lines

TOOL = "ifupdown"
PATTERNS = ("etc/network/interfaces", "etc/network/interfaces.d/*")
MEMBERS = ("bond-slaves", "bond-ports", "slaves")
NOT_OPTIONS = (  # of ifenslave and ifupdown2, besides the options of the driver
    "bond-master",
    "bond-give-a-chance",
    "bond-lacp-bypass-allow",
    "bond-lacp-bypass-priority",
    "bond-lacp-bypass-period",
    "bond-lacp-bypass-all-active",
    "bond-arp-ip-targets",
)
AUTO = ("auto", "allow-auto", "allow-hotplug", "allow-boot")
CHILD = re.compile(r"echo\s+(0x[0-9a-fA-F]+)\s*>\s*/sys/class/net/([^/\s]+)/create_child")
ROUTE = re.compile(r"ip (?:-6 )?route add (\S+) via (\S+)")
MODE = re.compile(r"echo\s+(connected|datagram)\s*>\s*/sys/class/net/([^/\s]+)/mode")


@dataclass(slots=True)
class _Stanza:
    """`iface NAME FAMILY METHOD` and the options below it."""

    name: str
    source: Source
    method: str = ""
    family: str = ""
    options: list[tuple[str, str, Source]] = field(default_factory=list)


def read(files: Mapping[str, str]) -> Desired:
    """The bonds of these files."""
    desired = Desired()
    stanzas: list[_Stanza] = []
    auto: set[str] = set()
    for path, text in sorted(files.items()):
        stanzas += _stanzas(path, text, auto)
    of_member = {
        word for stanza in stanzas for key, value, _ in stanza.options if key == "bond-master" for word in [value]
    }
    for stanza in stanzas:
        keys = {key for key, _, _ in stanza.options}
        is_bond = stanza.name in of_member or (
            any(key.startswith("bond-") or key in MEMBERS for key in keys) and "bond-master" not in keys
        )
        if is_bond:
            _bond(desired, stanza, auto)
    for stanza in stanzas:
        _member(desired, stanza)
    return desired


def _stanzas(path: str, text: str, auto: set[str]) -> Iterator[_Stanza]:
    current: _Stanza | None = None
    for number, line, _ in joined_lines(text, continues=True):
        words = re.sub(r"\s#.*", "", line).split()
        if not words or words[0].startswith("#"):
            continue
        if words[0] in AUTO:
            auto.update(words[1:])
        elif words[0] == "iface" and len(words) > 1:
            if current is not None:
                yield current
            family, method = ([*words[2:4], "", ""])[:2]
            current = _Stanza(words[1], Source(path, number), method, family)
        elif words[0] in ("mapping", "source", "source-directory", "template", "vlan") or words[0].startswith("allow-"):
            if current is not None:
                yield current
            current = None
        elif current is not None:
            key = words[0].replace("_", "-")
            current.options.append((key, " ".join(words[1:]), Source(path, number)))
    if current is not None:
        yield current


def _bond(desired: Desired, stanza: _Stanza, auto: set[str]) -> None:
    bond = desired.bond(stanza.name, TOOL, stanza.source)
    if not bond.is_defined:
        bond.source = stanza.source
        bond.starts = any(fnmatch.fnmatchcase(stanza.name, pattern) for pattern in auto)
    bond.is_defined = True
    if stanza.method in ("dhcp", "auto"):
        bond.dhcp |= {6 if stanza.family == "inet6" else 4}
    values = {key: value for key, value, _ in stanza.options}
    for key, value, source in stanza.options:
        if key in MEMBERS:
            bond.members += [DesiredMember(match, source) for match in members(value)]
        elif key.startswith("bond-") and not key.startswith("bond-lacp-bypass"):
            option = "arp_ip_target" if key == "bond-arp-ip-targets" else key.removeprefix("bond-").replace("-", "_")
            known = [f"bond-{name.replace('_', '-')}" for name, row in OPTIONS.items() if row.has_file]
            set_option(desired, bond, option, value, source, known=(*NOT_OPTIONS, *MEMBERS, *known), word=key)
        else:
            _layer_3(bond, key, value, source, values.get("netmask", ""))


def members(text: str) -> list[Match]:
    """`ib0 ib1`, `none`, `all`, and ifupdown2's `glob ib0-1 regex eno[12]`; what `all` means is not known here."""
    found: list[Match] = []
    kind = ""
    for word in text.split():
        if word in ("glob", "regex"):
            kind = word
        elif word in ("none", "all"):
            continue
        elif kind == "regex":
            found.append(Match(regex=word))
        elif kind == "glob" and (span := re.fullmatch(r"(\D*)(\d+)-(\d+)(\D*)", word)):
            first, last = int(span[2]), int(span[3])
            names = [f"{span[1]}{number}{span[4]}" for number in range(first, min(last, first + 64) + 1)]
            found += [Match((name,)) for name in names]
        elif kind == "glob":
            found.append(Match(glob=word))
        else:
            found.append(Match((word,)))
    return found


def _member(desired: Desired, stanza: _Stanza) -> None:
    above = next(((value, source) for key, value, source in stanza.options if key == "bond-master"), None)
    for key, value, source in stanza.options:
        if key not in ("pre-up", "up", "post-up"):
            continue
        if child := CHILD.search(value):
            pkey = int(child[1], 16)
            names = pkey_names(child[2], pkey)
            desired.children.append(DesiredMember(Match(names), source, pkey, child[2]))
    if above is None or above[0] in ("none", ""):
        return
    bond = desired.bond(above[0], TOOL, above[1])
    member = DesiredMember(Match((stanza.name,)), above[1])
    bond.members.append(member)
    for key, value, source in stanza.options:
        if key == "bond-primary":
            bond.options.setdefault("primary", Setting(value, source))
        elif key == "mtu":
            member.mtu = Setting(value, source)
        elif key in ("pre-up", "up", "post-up") and (mode := MODE.search(value)):
            member.transport = Setting(mode[1], source)


def _layer_3(bond: DesiredBond, key: str, value: str, source: Source, netmask: str) -> None:
    words = value.split()
    if key == "address" and words:
        bond.addresses.append(Setting(with_prefix(words[0], netmask), source))
    elif key == "gateway" and words:
        bond.routes.append(DesiredRoute("default", words[0], source))
    elif key == "mtu":
        bond.mtu = Setting(value, source)
    elif key in ("dns-nameservers", "dns-nameserver"):
        bond.dns += [Setting(word, source) for word in words]
    elif key == "dns-search":
        bond.search += [Setting(word, source) for word in words]
    elif key in ("up", "post-up") and (route := ROUTE.search(value)):
        bond.routes.append(DesiredRoute(route[1], route[2], source))


def with_prefix(address: str, netmask: str) -> str:
    """`10.0.0.1/24` of an address without its prefix length and a netmask (or a length); as it is otherwise."""
    if "/" in address or not netmask:
        return address
    try:
        return f"{address}/{ipaddress.ip_interface(f'{address}/{netmask}').network.prefixlen}"
    except ValueError:
        return address
