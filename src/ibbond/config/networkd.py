"""systemd-networkd's .netdev and .network files as a desired state, and a desired state as such files.

Read first: systemd.netdev(5), systemd.network(5); networkd's netdev-gperf.gperf for the keys of [Bond]. Of files with
one name that of /etc counts, then /run, then /usr/lib; drop-ins (NAME.network.d/*.conf) add to it. Left out: matches by
driver, path or kernel command line, and that only the first .network file that matches a device configures it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

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
    hardware_address,
    set_option,
)
from ibbond.config.fields import label
from ibbond.config.gaps import Gap, Version, not_of_child
from ibbond.config.lines import Entry, sections

TOOL = "systemd-networkd"
FOLDERS = ("etc/systemd/network", "run/systemd/network", "usr/lib/systemd/network", "lib/systemd/network")
PATTERNS = tuple(
    f"{folder}/{name}"
    for folder in FOLDERS
    for name in ("*.netdev", "*.network", "*.netdev.d/*.conf", "*.network.d/*.conf")
)
BONDS = {  # key of [Bond]: option
    "Mode": "mode",
    "TransmitHashPolicy": "xmit_hash_policy",
    "LACPTransmitRate": "lacp_rate",
    "MIIMonitorSec": "miimon",
    "UpDelaySec": "updelay",
    "DownDelaySec": "downdelay",
    "PeerNotifyDelaySec": "peer_notif_delay",
    "LearnPacketIntervalSec": "lp_interval",
    "AdSelect": "ad_select",
    "AdActorSystemPriority": "ad_actor_sys_prio",
    "AdUserPortKey": "ad_user_port_key",
    "AdActorSystem": "ad_actor_system",
    "FailOverMACPolicy": "fail_over_mac",
    "ARPValidate": "arp_validate",
    "ARPIntervalSec": "arp_interval",
    "ARPIPTargets": "arp_ip_target",
    "ARPAllTargets": "arp_all_targets",
    "ARPMissedMax": "arp_missed_max",
    "PrimaryReselectPolicy": "primary_reselect",
    "ResendIGMP": "resend_igmp",
    "PacketsPerSlave": "packets_per_slave",
    "GratuitousARP": "num_grat_arp",
    "AllSlavesActive": "all_slaves_active",
    "DynamicTransmitLoadBalancing": "tlb_dynamic_lb",
    "MinLinks": "min_links",
}
KEYS = {option: key for key, option in BONDS.items()}
FOLDER = "etc/systemd/network"
NO_KEY = "is not set: networkd has no key for it"
GAPS = (
    Gap("option.peer_notif_delay", "is ignored: the key is unknown before 256", since=(256,)),
    Gap("option.arp_missed_max", "is ignored: the key is unknown before 256", since=(256,)),
    Gap("option.use_carrier", NO_KEY, text="0"),
    Gap("option.use_carrier", NO_KEY, harmless=True),
    *(
        Gap(f"option.{name}", "is never sent to the kernel, which has 0 by itself", text="0", harmless=True)
        for name in ("miimon", "updelay", "downdelay", "arp_interval", "peer_notif_delay")
    ),
    *(
        Gap(f"option.{name}", NO_KEY)
        for name in (
            "ns_ip6_target",
            "lacp_active",
            "num_unsol_na",
            "coupled_control",
            "broadcast_neighbor",
            "lacp_strict",
        )
    ),
    Gap("prio", NO_KEY),
    Gap("queue_id", NO_KEY),
    Gap("ethernet", "is not said: networkd takes any device that matches", harmless=True),
    Gap("transport", "is ignored: networkd never reads [IPoIB] of a .network file", when=not_of_child),
    Gap("start", "is not held: networkd makes every bond that it has files of", text="no"),
    Gap("guid", "is not held: networkd compares all 20 bytes, and the queue pair changes; the name counts"),
)
SECONDS = ("LearnPacketIntervalSec",)  # counted in seconds by the kernel
SUSPICIOUS_SECONDS = 10
UNITS = {"us": 0.001, "ms": 1, "s": 1000, "sec": 1000, "min": 60_000, "m": 60_000, "h": 3_600_000, "": 1000}
YES, NO = ("1", "yes", "y", "true", "t", "on"), ("0", "no", "n", "false", "f", "off")


def read(files: Mapping[str, str]) -> Desired:
    """The bonds of these files (paths below the root of a host, or as they were named)."""
    desired = Desired()
    for parts in _whole(files, ".netdev"):
        _netdev(desired, parts)
    for parts in _whole(files, ".network"):
        _network(desired, parts)
    adopt_children(desired)
    return desired


def _whole(files: Mapping[str, str], ending: str) -> list[list[list[Entry]]]:
    """Each file that counts, in the order of its base name, with its drop-ins."""
    found: dict[str, str] = {}
    for path in sorted(files, key=_priority):
        if path.endswith(ending):
            found.setdefault(path.rpartition("/")[2], path)
    whole = []
    for base in sorted(found):
        parts = sections(files[found[base]], found[base], continues=True)
        for path in sorted(files, key=lambda path: path.rpartition("/")[2]):
            if f"/{base}.d/" in path:
                parts += sections(files[path], path, continues=True)
        whole.append(parts)
    return whole


def _priority(path: str) -> tuple[int, str]:
    return next((n for n, folder in enumerate(FOLDERS) if path.lstrip("/").startswith(folder)), len(FOLDERS)), path


def _netdev(desired: Desired, parts: list[list[Entry]]) -> None:
    values = {(entry.section, entry.key): entry for part in parts for entry in part}
    kind, name = values.get(("NetDev", "Kind")), values.get(("NetDev", "Name"))
    if name is None or kind is None:
        return
    source = name.source
    if kind.value == "ipoib":
        key = values.get(("IPoIB", "PartitionKey"))
        pkey = int(key.value, 0) if key and re.fullmatch(r"0[xX][0-9a-fA-F]+|\d+", key.value) else None
        child = DesiredMember(Match((name.value,)), source, pkey=pkey)
        child.invented_guid = "MACAddress" not in {entry.key for entry in values.values() if entry.section == "NetDev"}
        if mode := values.get(("IPoIB", "Mode")):
            child.transport = Setting(mode.value, mode.source)
        desired.children.append(child)
    if kind.value != "bond":
        return
    bond = desired.bond(name.value, TOOL, source)
    bond.is_defined = True
    bond.source = source
    if (address := values.get(("NetDev", "MACAddress"))) and hardware_address(address.value):
        bond.hardware_address = Setting(address.value, address.source)
    if mtu := values.get(("NetDev", "MTUBytes")):
        bond.mtu = Setting(mtu.value, mtu.source)
    for entry in values.values():
        if entry.section == "Bond":
            _bond_option(desired, bond, entry)


def _bond_option(desired: Desired, bond: DesiredBond, entry: Entry) -> None:
    key, text = entry.key, entry.value
    if key.endswith("Sec") and key not in SECONDS and text.isdigit() and int(text) >= SUSPICIOUS_SECONDS:
        desired.problems.append(
            Problem(
                "bare-number-is-seconds",
                entry.source,
                f"{key}={text} is {text} seconds: systemd counts a number without a unit in seconds",
                f"Write {key}={text}ms",
                bond.name,
            )
        )
    if key.endswith("Sec") and (milliseconds := span_ms(text)) is not None:
        text = str(int(milliseconds / 1000 if key in SECONDS else milliseconds))
    elif text.lower() in (*YES, *NO) and not text.isdigit():
        text = "1" if text.lower() in YES else "0"
    set_option(desired, bond, BONDS.get(key, ""), text, entry.source, known=BONDS, word=key)


def span_ms(text: str) -> float | None:
    """A time span of systemd.time(7) in milliseconds: `100ms`, `1s 500ms`; a bare number is seconds."""
    total, rest = 0.0, text.replace(" ", "")
    while rest:
        match = re.match(r"(\d+(?:\.\d+)?)([a-z]*)", rest)
        if match is None or match[2] not in UNITS:
            return None
        total += float(match[1]) * UNITS[match[2]]
        rest = rest[match.end() :]
    return total if text.strip() else None


def _network(desired: Desired, parts: list[list[Entry]]) -> None:
    names = [word for part in parts for entry in part if _is(entry, "Match", "Name") for word in entry.value.split()]
    addresses = _addresses(parts)
    for entry in (entry for part in parts for entry in part if _is(entry, "Network", "IPoIB")):
        for child in [child for child in desired.children if child.match.name == entry.value and names]:
            child.parent = names[0]
            if child.pkey is not None:
                child.match = Match(tuple(dict.fromkeys((child.match.name, child.device))))
    for bond in [bond for bond in desired.bonds if bond.tool == TOOL and bond.name in names]:
        _layer_3(bond, parts)
    above = next((entry for part in parts for entry in part if _is(entry, "Network", "Bond")), None)
    if above is not None:
        bond = desired.bond(above.value, TOOL, above.source)
        members = [Match((name,)) if _is_plain(name) else Match(glob=name) for name in names if name[:1] != "!"]
        members += [Match(address=address) for address in addresses]
        for match in members:
            bond.members.append(_member(match, parts, above.source))
        _primary(desired, bond, parts, members)
        return
    for entry in (entry for part in parts for entry in part if _is(entry, "Network", "PrimarySlave")):
        owner = next((bond for bond in desired.bonds if bond.name in names), None)
        if owner is not None:
            _misplaced(desired, owner, entry)


def _member(match: Match, parts: list[list[Entry]], source: Source) -> DesiredMember:
    member = DesiredMember(match, source)
    for entry in (entry for part in parts for entry in part):
        if _is(entry, "Link", "MTUBytes"):
            member.mtu = Setting(entry.value, entry.source)
        elif _is(entry, "IPoIB", "Mode"):
            member.transport = Setting(entry.value, entry.source)
            if entry.value == "connected":
                member.transport_ignored = "systemd-networkd reads no [IPoIB] section of a .network file"
    return member


def _primary(desired: Desired, bond: DesiredBond, parts: list[list[Entry]], members: list[Match]) -> None:
    """`PrimarySlave=yes` in a member's file makes that member the primary; anything else than yes or no is ignored."""
    for entry in (entry for part in parts for entry in part if _is(entry, "Network", "PrimarySlave")):
        if entry.value.lower() in YES:
            names = [match.name for match in members if match.name]
            if names:
                bond.options.setdefault("primary", Setting(" ".join(names), entry.source))
        elif entry.value.lower() not in NO:
            _misplaced(desired, bond, entry)


def _misplaced(desired: Desired, bond: DesiredBond, entry: Entry) -> None:
    wanted = entry.value if entry.value.lower() not in (*YES, *NO) else ""
    desired.problems.append(
        Problem(
            "option-misplaced",
            entry.source,
            f"PrimarySlave={entry.value} has no effect there: it is yes or no, in the .network file of a member",
            f"Write PrimarySlave=yes into a .network file that matches {wanted or 'the primary'} only",
            bond.name,
        )
    )
    if wanted:
        bond.options.setdefault("primary", Setting(wanted, entry.source))


def _layer_3(bond: DesiredBond, parts: list[list[Entry]]) -> None:
    for part in parts:
        route: dict[str, Entry] = {}
        for entry in part:
            setting = Setting(entry.value, entry.source)
            match (entry.section, entry.key):
                case ("Network" | "Address", "Address"):
                    bond.addresses.append(setting)
                case ("Network", "Gateway"):
                    bond.routes.append(DesiredRoute("default", entry.value, setting.source))
                case ("Network", "DNS"):
                    bond.dns += [Setting(word, setting.source) for word in entry.value.split()]
                case ("Network", "Domains"):
                    bond.search += [Setting(word, setting.source) for word in entry.value.split()]
                case ("Network", "DHCP"):
                    bond.dhcp = {"yes": frozenset({4, 6}), "ipv4": frozenset({4}), "ipv6": frozenset({6})}.get(
                        entry.value.lower(), frozenset()
                    )
                case ("Link", "MTUBytes"):
                    bond.mtu = setting
                case ("Route", key):
                    route[key] = entry
                case _:
                    pass
        if "Gateway" in route:
            to, metric = route.get("Destination"), route.get("Metric")
            number = int(metric.value) if metric and metric.value.isdigit() else 0
            source = route["Gateway"].source
            bond.routes.append(DesiredRoute(to.value if to else "default", route["Gateway"].value, source, number))


def _addresses(parts: list[list[Entry]]) -> list[bytes]:
    keys = ("MACAddress", "PermanentMACAddress")
    texts = [word for part in parts for e in part if e.section == "Match" and e.key in keys for word in e.value.split()]
    return [found for text in texts if (found := hardware_address(text))]


def _is(entry: Entry, section: str, key: str) -> bool:
    return (entry.section, entry.key) == (section, key)


def _is_plain(name: str) -> bool:
    return not re.search(r"[*?!\[]", name)


def render(desired: Desired, version: Version) -> dict[str, str]:
    """The .netdev and .network files by their paths."""
    files: dict[str, str] = {}
    members = {label(member): (bond, member) for bond in desired.bonds for member in bond.members}
    devices = {name: member for name, (_, member) in members.items()} | {label(each): each for each in desired.children}
    children: dict[str, list[str]] = {}
    for name, device in devices.items():
        if device.pkey is not None:
            children.setdefault(device.parent, []).append(name)
            files[f"{FOLDER}/10-{name}.netdev"] = _child_netdev(name, device)
    for bond in desired.bonds:
        files[f"{FOLDER}/10-{bond.name}.netdev"] = _bond_netdev(bond)
        files[f"{FOLDER}/10-{bond.name}.network"] = _bond_network(bond)
    for name in dict.fromkeys((*devices, *children)):
        above = members.get(name)
        device = devices.get(name) or DesiredMember(Match((name,)), Source(""))
        files[f"{FOLDER}/20-{name}.network"] = _device_network(
            device, above[0] if above else None, children.get(name, [])
        )
    return files


def _ini(*parts: tuple[str, list[tuple[str, str]]]) -> str:
    return "\n".join(
        f"[{section}]\n" + "".join(f"{key}={value}\n" for key, value in values) for section, values in parts if values
    )


def _child_netdev(name: str, child: DesiredMember) -> str:
    """Without MACAddress=none networkd would invent an address, of a port GUID that the subnet does not know."""
    of_child = [("PartitionKey", f"{child.pkey or 0:#06x}")]
    of_child += [("Mode", child.transport.text)] if child.transport else []
    return _ini(("NetDev", [("Name", name), ("Kind", "ipoib"), ("MACAddress", "none")]), ("IPoIB", of_child))


def _bond_netdev(bond: DesiredBond) -> str:
    values = []
    for name, setting in bond.options.items():
        if name != "primary":
            key = KEYS[name]
            unit = "s" if key in SECONDS else "ms"
            values.append((key, f"{setting.text}{unit}" if key.endswith("Sec") else setting.text))
    return _ini(("NetDev", [("Name", bond.name), ("Kind", "bond")]), ("Bond", values))


def _bond_network(bond: DesiredBond) -> str:
    network = [("Address", each.text) for each in bond.addresses]
    network += [("DNS", each.text) for each in bond.dns] + [("Domains", each.text) for each in bond.search]
    if bond.dhcp:
        network.append(("DHCP", "yes" if len(bond.dhcp) == 2 else f"ipv{min(bond.dhcp)}"))
    parts = [("Match", [("Name", bond.name)])]
    parts.append(("Link", [("MTUBytes", bond.mtu.text)] if bond.mtu else []))
    if 6 not in bond.dhcp:  # 252 cannot set up its DHCPv6 client on such a bond, and then gives up the whole link
        network.append(("IPv6AcceptRA", "no"))
    parts.append(("Network", network))
    for route in bond.routes:
        default = "::/0" if ":" in route.via else "0.0.0.0/0"
        values = [("Destination", default if route.to == "default" else route.to), ("Gateway", route.via)]
        parts.append(("Route", values + ([("Metric", str(route.metric))] if route.metric else [])))
    return _ini(*parts)


def _device_network(device: DesiredMember, bond: DesiredBond | None, children: list[str]) -> str:
    match = [("Name", label(device))]
    network = [("Bond", bond.name)] if bond else [("LinkLocalAddressing", "no")]
    if bond and "primary" in bond.options and bond.options["primary"].text == device.match.name:
        network.append(("PrimarySlave", "yes"))
    network += [("IPoIB", child) for child in children]
    link = [("MTUBytes", device.mtu.text)] if device.mtu else []
    return _ini(("Match", match), ("Link", link), ("Network", network))
