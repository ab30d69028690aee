"""All configuration files of a host that can have bonds: found below a root, read by the format of each, put together.

Read first: desired.py; the formats' own files. What a tool makes of another one's files (netplan's in /run) is read
like any other; a bond that several tools have is there once for each. Left out: formats that no host reads at boot.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from ibbond.config import ifcfg, ifupdown, netplan, networkd, networkmanager, ofed
from ibbond.config.desired import Desired

Reader = Callable[[Mapping[str, str]], Desired]
FORMATS: dict[str, tuple[tuple[str, ...], Reader]] = {
    "netplan": (netplan.PATTERNS, netplan.read),
    "networkmanager": (networkmanager.PATTERNS, networkmanager.read),
    "networkd": (networkd.PATTERNS, networkd.read),
    "ifupdown": (ifupdown.PATTERNS, ifupdown.read),
    "ifcfg": (ifcfg.PATTERNS, ifcfg.read),
    "ofed": (ofed.PATTERNS, ofed.read),
}
PATTERNS = tuple(pattern for patterns, _ in FORMATS.values() for pattern in patterns)
MAX_BYTES = 1 << 20
MAX_FILES = 2000
NOT_READ = ("~", ".bak", ".orig", ".rpmsave", ".rpmnew", ".rpmorig", ".dpkg-old", ".dpkg-dist", ".dpkg-new", ".swp")


def configured(root: str = "/") -> Desired:
    """What the files below `root` want; nothing where nothing can be read."""
    base = Path(root)
    inside = "" if root == "/" else str(base.resolve())
    desired = Desired()
    for patterns, read in FORMATS.values():
        paths = {path for pattern in patterns for path in base.glob(pattern)}
        files = {
            f"/{path.relative_to(base)}": text
            for path in sorted(paths)[:MAX_FILES]
            if not path.name.startswith(".")
            and not path.name.endswith(NOT_READ)
            and (text := _text(path, inside)) is not None
        }
        if files:
            desired.add(read(files))
    return desired


def _text(path: Path, inside: str) -> str | None:
    """The text of a regular file; a device or a pipe could keep a reader for ever, a copy's link may lead outside."""
    try:
        if not path.is_file() or not str(path.resolve()).startswith(inside):
            return None
        with path.open("rb") as file:
            return file.read(MAX_BYTES).decode("utf-8", "replace")
    except OSError:
        return None
