"""/etc/network/interfaces of ifupdown (with ifenslave) and ifupdown2 as a desired state, and back.

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
    adopt_children,
    pkey_names,
    set_option,
)
from ibbond.config.fields import label
from ibbond.config.gaps import Gap, Version, not_of_ethernet, of_ethernet
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
ROUTE = re.compile(r"ip (?:-6 )?route add (\S+) via (\S+)(?: dev \S+)?(?: metric (\d+))?")
MODE = re.compile(r"echo\s+(connected|datagram)\s*>\s*/sys/class/net/([^/\s]+)/mode")
MTU = re.compile(r"ip link set (?:dev )?(\S+) mtu (\d+)")
OPTION = re.compile(r"echo\s+(\S*)\s*>\s*/sys/class/net/([^/\s]+)/bonding/(\w+)")
IFENSLAVE = (  # what ifenslave 2.13 writes, in its order; other options are written by `up` lines
    *("mode", "fail_over_mac", "use_carrier", "num_grat_arp", "num_unsol_na", "arp_ip_target", "arp_interval"),
    *("miimon", "downdelay", "updelay", "ad_select", "xmit_hash_policy", "tlb_dynamic_lb", "packets_per_slave"),
    *("arp_validate", "lacp_rate", "primary", "primary_reselect"),
)
IFUPDOWN2 = (  # bond.py of ifupdown2 3.0.0
    *("mode", "miimon", "use_carrier", "lacp_rate", "xmit_hash_policy", "min_links", "num_grat_arp", "num_unsol_na"),
    *("ad_actor_system", "ad_actor_sys_prio", "updelay", "downdelay", "primary", "primary_reselect"),
)
NOT_OPTIONS_OF_IFENSLAVE = ("active_slave", "slaves", "master")  # handled in ways of their own
NO_FILE = "is not set: it has neither a keyword nor a file in sysfs"
NEEDS_DOWN = "is not set: it has no keyword, and a bond that is up does not take it"
BY_NAME = "is not held: ifupdown knows devices by their names only"
GAPS = (
    *(Gap(f"option.{name}", NO_FILE) for name, row in OPTIONS.items() if row.netlink_only and not row.of_member),
    Gap("prio", NO_FILE),
    Gap("option.lacp_active", NEEDS_DOWN),
    Gap("option.ad_user_port_key", NEEDS_DOWN),
    Gap("guid", BY_NAME),
    Gap("ethernet", "is not said: the device is known by its name", harmless=True),
)
IFUPDOWN2_GAPS = (
    *GAPS,
    Gap("option.fail_over_mac", "has no keyword; InfiniBand members force it", harmless=True, when=not_of_ethernet),
    Gap("option.fail_over_mac", NEEDS_DOWN, when=of_ethernet),
    Gap("option.ad_select", NEEDS_DOWN),
    Gap("option.tlb_dynamic_lb", NEEDS_DOWN),
)


@dataclass(slots=True)
class _Stanza:
    """`iface NAME FAMILY METHOD` and the options below it."""

    name: str
    source: Source
    method: str = ""
    family: str = ""
    options: list[tuple[str, str, Source]] = field(default_factory=list)


def read(files: Mapping[str, str], tool: str = "ifupdown") -> Desired:
    """The bonds of these files; `tool` is `ifenslave` or `ifupdown2` where it is known which of them reads them."""
    desired = Desired()
    stanzas: list[_Stanza] = []
    auto: set[str] = set()
    for path, text in sorted(files.items()):
        stanzas += _stanzas(path, text, auto)
    of_member = {
        word for stanza in stanzas for key, value, _ in stanza.options if key == "bond-master" for word in [value]
    }
    bonds = {
        stanza.name
        for stanza in stanzas
        if stanza.name in of_member
        or (
            any(key.startswith("bond-") or key in MEMBERS for key, _, _ in stanza.options)
            and all(key != "bond-master" for key, _, _ in stanza.options)
        )
    }
    for stanza in stanzas:
        if stanza.name in bonds:
            _bond(desired, stanza, auto, tool)
    for stanza in stanzas:
        _member(desired, stanza)
    adopt_children(desired)
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


def _bond(desired: Desired, stanza: _Stanza, auto: set[str], tool: str) -> None:
    keywords = {"ifupdown2": IFUPDOWN2, "ifenslave": IFENSLAVE}.get(tool, (*IFUPDOWN2, *IFENSLAVE))
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
            if option in OPTIONS and option not in keywords and option not in NOT_OPTIONS_OF_IFENSLAVE:
                path = f"/sys/class/net/{bond.name}/bonding/{option}"
                fix = f"Write post-up echo {value} > {path}" if OPTIONS[option].has_file else "Set it after boot"
                what = f"{tool} passes over {key}: it has no such keyword"
                desired.problems.append(Problem("option-not-read", source, what, fix, bond.name))
        elif (written := OPTION.search(value)) and written[2] == bond.name and key in ("up", "post-up"):
            _written(desired, bond, written[3], written[1], source)
        else:
            _layer_3(bond, key, value, source, values.get("netmask", ""))
    for key, value, source in stanza.options:
        if key in ("pre-up", "up", "post-up"):
            _of_members(bond, value, source)


def _written(desired: Desired, bond: DesiredBond, name: str, text: str, source: Source) -> None:
    """An option that a line of shell writes to its file."""
    if name == "queue_id" and ":" in text:
        device, _, queue = text.rpartition(":")
        for member in bond.members:
            if member.match.name == device:
                member.options["queue_id"] = Setting(queue, source)
        return
    old = bond.options.get(name)
    if text.startswith("+") and old is not None:
        bond.options[name] = Setting(f"{old.text} {text[1:]}", old.source)
    elif name in OPTIONS:
        set_option(desired, bond, name, text, source)


def _of_members(bond: DesiredBond, line: str, source: Source) -> None:
    """Transport mode and MTU of members that a line of shell sets before the bond takes them."""
    for pattern, field_name, device, text in ((MODE, "transport", 2, 1), (MTU, "mtu", 1, 2)):
        for found in pattern.finditer(line):
            for member in bond.members:
                if member.match.name == found[device]:
                    setattr(member, field_name, Setting(found[text], source))


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
    elif key == "hwaddress" and words:
        bond.hardware_address = Setting(words[-1], source)
    elif key in ("dns-nameservers", "dns-nameserver"):
        bond.dns += [Setting(word, source) for word in words]
    elif key == "dns-search":
        bond.search += [Setting(word, source) for word in words]
    elif key in ("up", "post-up") and (route := ROUTE.search(value)):
        bond.routes.append(DesiredRoute(route[1], route[2], source, int(route[3] or 0)))


def with_prefix(address: str, netmask: str) -> str:
    """`10.0.0.1/24` of an address without its prefix length and a netmask (or a length); as it is otherwise."""
    if "/" in address or not netmask:
        return address
    try:
        return f"{address}/{ipaddress.ip_interface(f'{address}/{netmask}').network.prefixlen}"
    except ValueError:
        return address


def render(desired: Desired, version: Version) -> dict[str, str]:
    """One file for the whole state, for ifupdown with ifenslave."""
    return _file(desired, IFENSLAVE)


def render_for_ifupdown2(desired: Desired, version: Version) -> dict[str, str]:
    return _file(desired, IFUPDOWN2)


def _file(desired: Desired, keywords: tuple[str, ...]) -> dict[str, str]:
    lines: list[str] = []
    for child in desired.children:
        lines += [f"auto {label(child)}", f"iface {label(child)} inet manual", *_before(child), ""]
    for bond in desired.bonds:
        lines += ([f"auto {bond.name}"] if bond.starts else []) + _stanzas_of(bond, keywords)
    return {"etc/network/interfaces.d/ibbond": "\n".join(lines).rstrip() + "\n"}


def _before(device: DesiredMember) -> list[str]:
    """What must be done before a device can be used: it is made, and its transport mode and MTU are set."""
    lines = []
    if device.pkey is not None:
        path = f"/sys/class/net/{device.parent}/create_child"
        lines.append(f"    pre-up test -e /sys/class/net/{device.device} || echo {device.pkey:#06x} > {path}")
    if device.transport:
        lines.append(f"    pre-up echo {device.transport.text} > /sys/class/net/{label(device)}/mode")
    if device.mtu:
        lines.append(f"    pre-up ip link set {label(device)} mtu {device.mtu.text}")
    return lines


def _stanzas_of(bond: DesiredBond, keywords: tuple[str, ...]) -> list[str]:
    """One stanza for each address: ifupdown takes one address a stanza, and merges those of one name."""
    body = [f"    bond-slaves {' '.join(label(member) for member in bond.members) or 'none'}"]
    body += [line for member in bond.members for line in _before(member)]
    for name in (*(name for name in keywords if name in bond.options), *bond.options):
        text = bond.options[name].text
        if name in keywords:
            line = f"    bond-{name.replace('_', '-')} {text}"
            body += [line] if line not in body else []
        else:
            words = [f"+{word}" for word in text.split()] if OPTIONS[name].kind is Kind.TARGETS else [text]
            body += [f"    post-up echo {word} > /sys/class/net/{bond.name}/bonding/{name}" for word in words]
    for member in bond.members:
        if queue := member.options.get("queue_id"):
            body.append(f"    post-up echo {label(member)}:{queue.text} > /sys/class/net/{bond.name}/bonding/queue_id")
    if bond.mtu:
        body.append(f"    mtu {bond.mtu.text}")
    for route in bond.routes:
        metric = f" metric {route.metric}" if route.metric else ""
        six = "-6 " if ":" in route.via else ""
        body.append(f"    post-up ip {six}route add {route.to} via {route.via} dev {bond.name}{metric}")
    for key, settings in (("dns-nameservers", bond.dns), ("dns-search", bond.search)):
        body += [f"    {key} {' '.join(each.text for each in settings)}"] if settings else []
    heads = [f"iface {bond.name} {_family(each.text)} static\n    address {each.text}" for each in bond.addresses]
    heads += [f"iface {bond.name} {'inet6' if family == 6 else 'inet'} dhcp" for family in sorted(bond.dhcp)]
    first, *rest = heads or [f"iface {bond.name} inet manual"]
    return [first, *body, "", *(line for head in rest for line in (head, ""))]


def _family(address: str) -> str:
    return "inet6" if ":" in address else "inet"
