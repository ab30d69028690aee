"""The formats of configuration files: where each is found on a host, how it is read and written, by which versions.

Read first: desired.py; the formats' own files. `configured` reads all that a host has; what a tool makes of another
one's files (netplan's in /run) is read like any other, and a bond that several tools have is there once for each.
sources.py reads files anywhere. A new format is one row of `READERS`, and of `RENDERERS` where it can be written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ibbond.config import bonds_toml, cloud_init, ifcfg, ifupdown, netplan, networkd, networkmanager, nmstate, ofed
from ibbond.config.desired import Desired
from ibbond.config.gaps import Gap, Loss, Version, reduced

Read = Callable[[Mapping[str, str]], Desired]
Render = Callable[[Desired, Version], dict[str, str]]


@dataclass(frozen=True, slots=True)
class Reader:
    """A format that can be read. `patterns` are paths below the root of a host; `at_boot`: a tool of it reads them."""

    patterns: tuple[str, ...]
    read: Read
    at_boot: bool = True


@dataclass(frozen=True, slots=True)
class Renderer:
    """A format that can be written, for the tool's `versions`: the first is meant where none is named.

    `verified`: what is written was read by these versions of the tool itself (docs/formats.md).
    """

    reader: str
    tool: str
    render: Render
    gaps: tuple[Gap, ...] = ()
    versions: tuple[str, ...] = ()
    verified: bool = True


READERS: dict[str, Reader] = {
    "bonds.toml": Reader(bonds_toml.PATTERNS, bonds_toml.read),
    "netplan": Reader(netplan.PATTERNS, netplan.read),
    "networkmanager": Reader(networkmanager.PATTERNS, networkmanager.read),
    "networkd": Reader(networkd.PATTERNS, networkd.read),
    "ifupdown": Reader(ifupdown.PATTERNS, ifupdown.read),
    "ifupdown2": Reader((), partial(ifupdown.read, tool="ifupdown2"), at_boot=False),
    "ifenslave": Reader((), partial(ifupdown.read, tool="ifenslave"), at_boot=False),
    "ifcfg": Reader(ifcfg.PATTERNS, ifcfg.read),
    "ofed": Reader(ofed.PATTERNS, ofed.read),
    "cloud-init": Reader(cloud_init.PATTERNS, cloud_init.read, at_boot=False),
    "nmstate": Reader(nmstate.PATTERNS, nmstate.read, at_boot=False),
}
RENDERERS: dict[str, Renderer] = {
    "bonds.toml": Renderer("bonds.toml", "ibbond", bonds_toml.files),
    "networkmanager": Renderer(
        "networkmanager", "NetworkManager", networkmanager.render, networkmanager.GAPS, ("1.42", "1.52")
    ),
    "networkd": Renderer("networkd", "systemd-networkd", networkd.render, networkd.GAPS, ("252", "257")),
    "netplan": Renderer("netplan", "netplan with networkd", netplan.render, netplan.NETWORKD_GAPS, ("0.106", "1.1")),
    "netplan-networkmanager": Renderer(
        "netplan",
        "netplan with NetworkManager",
        netplan.render_for_networkmanager,
        netplan.NETWORKMANAGER_GAPS,
        ("0.106", "1.1"),
    ),
    "ifupdown": Renderer("ifupdown", "ifenslave", ifupdown.render, ifupdown.GAPS, ("2.13", "2.14")),
    "ifupdown2": Renderer("ifupdown", "ifupdown2", ifupdown.render_for_ifupdown2, ifupdown.IFUPDOWN2_GAPS, ("3.0.0",)),
    "cloud-init-1": Renderer(
        "cloud-init", "cloud-init", cloud_init.render_version_1, cloud_init.GAPS, ("22.4", "25.1")
    ),
    "cloud-init-2": Renderer(
        "cloud-init", "cloud-init", cloud_init.render_version_2, netplan.NETWORKD_GAPS, ("22.4", "25.1")
    ),
    "rhel-ifcfg": Renderer("ifcfg", "initscripts", ifcfg.render_rhel, ifcfg.RHEL_GAPS, verified=False),
    "suse-ifcfg": Renderer("ifcfg", "wicked", ifcfg.render_suse, ifcfg.SUSE_GAPS, verified=False),
    "nmstate": Renderer("nmstate", "nmstate", nmstate.render, nmstate.GAPS, ("2.2",), verified=False),
}
PATTERNS = tuple(pattern for reader in READERS.values() if reader.at_boot for pattern in reader.patterns)
MAX_BYTES = 1 << 20
MAX_FILES = 2000
NOT_READ = ("~", ".bak", ".orig", ".rpmsave", ".rpmnew", ".rpmorig", ".dpkg-old", ".dpkg-dist", ".dpkg-new", ".swp")


@dataclass(frozen=True, slots=True)
class Rendering:
    """Files by their paths below a root, and what they do not hold."""

    files: dict[str, str]
    losses: list[Loss]

    @property
    def is_complete(self) -> bool:
        return all(loss.harmless for loss in self.losses)


def render(desired: Desired, to: str, version: Version) -> Rendering:
    """A desired state in the format of that name for that version of its tool."""
    row = RENDERERS[to]
    held, losses = reduced(desired, row.gaps, version)
    return Rendering(row.render(held, version), losses)


def parsed_version(text: str) -> Version:
    """`1.42.4` as numbers; raises ValueError."""
    return tuple(int(part) for part in text.split("."))


def default_version(to: str) -> Version:
    versions = RENDERERS[to].versions
    return parsed_version(versions[0]) if versions else ()


def configured(root: str = "/") -> Desired:
    """What the files below `root` want; nothing where nothing can be read."""
    base = Path(root)
    inside = "" if root == "/" else str(base.resolve())
    desired = Desired()
    for reader in READERS.values():
        if not reader.at_boot:
            continue
        paths = {path for pattern in reader.patterns for path in base.glob(pattern)}
        files = {
            f"/{path.relative_to(base)}": text
            for path in sorted(paths)[:MAX_FILES]
            if not path.name.startswith(".")
            and not path.name.endswith(NOT_READ)
            and (text := _text(path, inside)) is not None
        }
        if files:
            desired.add(reader.read(files))
    return desired


def _text(path: Path, inside: str) -> str | None:
    """The text of a regular file; a device or a pipe could keep a reader forever, a copy's link may lead outside."""
    try:
        if not path.is_file() or not str(path.resolve()).startswith(inside):
            return None
        with path.open("rb") as file:
            return file.read(MAX_BYTES).decode("utf-8", "replace")
    except OSError:
        return None
