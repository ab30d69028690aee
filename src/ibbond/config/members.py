"""Which members the configuration files of a host give each bond: ifupdown, ifcfg, NetworkManager, networkd, OFED.

Read first: interfaces(5) with ifenslave's `bond-slaves`, ifcfg of RHEL (MASTER=) and SUSE (BONDING_SLAVE_n=),
nm-settings-keyfile(5), systemd.network(5), OFED's openib.conf (IPOIB_BONDS, NAME_SLAVES). Only membership is read; what
a file says wrong is passed over: this serves the question whether a member is missing. Left out: netplan, which writes
files of the two backends read here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

INTERFACES = ("etc/network/interfaces", "etc/network/interfaces.d/*")
IFCFG = ("etc/sysconfig/network-scripts/ifcfg-*", "etc/sysconfig/network/ifcfg-*")
KEYFILES = ("etc/NetworkManager/system-connections/*", "run/NetworkManager/system-connections/*")
NETWORKS = ("etc/systemd/network/*.network", "run/systemd/network/*.network", "usr/lib/systemd/network/*.network")
OFED = ("etc/infiniband/openib.conf", "etc/sysconfig/infiniband")
PATTERNS = (*INTERFACES, *IFCFG, *KEYFILES, *NETWORKS, *OFED)
LARGEST = 1 << 20


@dataclass(slots=True)
class Configured:
    """The members of one bond in the order in which files name them, and the file that named the last one."""

    members: list[str] = field(default_factory=list)
    file: str = ""


def configured_members(root: str = "/") -> dict[str, Configured]:
    """Every bond that some file below `root` gives members; none where nothing can be read."""
    base = Path(root)
    found: dict[str, Configured] = {}
    for patterns, read in (
        (INTERFACES, _interfaces),
        (IFCFG, _ifcfg),
        (KEYFILES, _keyfile),
        (NETWORKS, _network),
        (OFED, _ofed),
    ):
        for pattern in patterns:
            for path in sorted(base.glob(pattern)):
                if path.name.startswith(".") or path.name.endswith(("~", ".bak", ".rpmsave", ".rpmnew", ".dpkg-old")):
                    continue
                for bond, member in read(path, _text(path)):
                    entry = found.setdefault(bond, Configured())
                    if member not in entry.members:
                        entry.members.append(member)
                        entry.file = f"/{path.relative_to(base)}"
    return found


Pairs = Iterator[tuple[str, str]]


def _interfaces(path: Path, text: str) -> Pairs:
    """Stanzas of ifupdown: `bond-slaves ib0 ib1` in the bond's, `bond-master bond0` in a member's."""
    name = ""
    for line in re.sub(r"\\\n", " ", text).splitlines():
        words = line.split("#")[0].split()
        if not words:
            continue
        if words[0] == "iface" and len(words) > 1:
            name = words[1]
        elif name and words[0].replace("_", "-") in ("bond-slaves", "slaves") and words[1:] not in (["none"], ["all"]):
            yield from ((name, member) for member in words[1:])
        elif name and words[0].replace("_", "-") == "bond-master" and len(words) > 1:
            yield words[1], name


def _ifcfg(path: Path, text: str) -> Pairs:
    values = _assignments(text)
    name = values.get("DEVICE") or path.name.removeprefix("ifcfg-")
    if "MASTER" in values and values.get("SLAVE", "yes").lower() in ("yes", "true", "1"):
        yield values["MASTER"], name
    if values.get("BONDING_MASTER", "").lower() == "yes":
        slaves = [key for key in values if re.fullmatch(r"BONDING_SLAVE_?\d+", key)]
        slaves.sort(key=lambda key: int(re.sub(r"\D", "", key)))
        yield from ((name, values[key]) for key in slaves if values[key])


def _keyfile(path: Path, text: str) -> Pairs:
    section = _sections(text).get("connection", {})
    kind = section.get("slave-type") or section.get("port-type")
    above = section.get("controller") or section.get("master")
    if kind == "bond" and above and "interface-name" in section:
        yield above, section["interface-name"]


def _network(path: Path, text: str) -> Pairs:
    sections = _sections(text)
    above = sections.get("Network", {}).get("Bond")
    for name in sections.get("Match", {}).get("Name", "").split():
        if above and not re.search(r"[*?!\[]", name):
            yield above, name


def _ofed(path: Path, text: str) -> Pairs:
    values = _assignments(text)
    if values.get("IPOIBBOND_ENABLE", "no").lower() != "yes":
        return
    for bond in filter(None, re.split(r"[,\s]+", values.get("IPOIB_BONDS", ""))):
        slaves = re.split(r"[,\s]+", values.get(f"{bond}_SLAVES", values.get(f"{bond.upper()}_SLAVES", "")))
        yield from ((bond, member) for member in slaves if member)


def _assignments(text: str) -> dict[str, str]:
    """`KEY=value` and `KEY="value"` lines of a shell-like file."""
    found = re.finditer(
        r"""^[ \t]*(?:export[ \t]+)?(\w+)=[ \t]*(?:"([^"]*)"|'([^']*)'|([^\s#]*))""", text, re.MULTILINE
    )
    return {match[1]: match[2] or match[3] or match[4] or "" for match in found}


def _sections(text: str) -> dict[str, dict[str, str]]:
    """An ini-like file, without configparser's opinions about duplicates."""
    sections: dict[str, dict[str, str]] = {}
    current: dict[str, str] = {}
    for line in text.splitlines():
        line = line.strip()
        if line.startswith("[") and line.endswith("]"):
            current = sections.setdefault(line[1:-1], {})
        elif "=" in line and not line.startswith(("#", ";")):
            key, _, value = line.partition("=")
            current[key.strip()] = value.strip()
    return sections


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(LARGEST).decode("utf-8", "replace")
    except OSError:
        return ""
