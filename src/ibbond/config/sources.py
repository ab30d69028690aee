"""Configuration files anywhere.

Found below the paths that a person names, their formats recognized by name and content.

Read first: files.py. A directory that is the root of a host is read as that host's tools would; of any other directory
all files whose format is known are read, those of one folder and format together. What cannot be read is Refused where
a person named it, and a problem with file and line where it was found. Left out: archives of hosts (ops/saved.py).
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ibbond.config.desired import Desired, Problem, Source
from ibbond.config.files import MAX_BYTES, MAX_FILES, NOT_READ, READERS
from ibbond.errors import Refused
from ibbond.topology.model import listed

UNREADABLE = "config-unreadable"
NAMES = (  # of files: a pattern, and the format that it stands for without a look inside
    (r".*\.nmconnection", "networkmanager"),
    (r".*\.(netdev|network)", "networkd"),
    (r"(ifcfg|route6?|ifroute)-.+", "ifcfg"),
    (r"openib\.conf|infiniband", "ofed"),
    (r"interfaces", "ifupdown"),
)
CONTENTS = (  # what a line of the format looks like, the most telling first
    (r"^\[(NetDev|Bond|Match|Network|Link)\]", "networkd"),
    (r"^\[(connection|bond|infiniband)\]", "networkmanager"),
    (r"^\[(bond|device)[.\]]|^version *= *1", "bonds.toml"),
    (r"^ *(iface|auto|allow-hotplug) +\S+", "ifupdown"),
    (r"^ *-? *(desiredState|interfaces) *:", "nmstate"),
    (r"^ *IPOIBBOND_ENABLE=", "ofed"),
    (r"^ *(BONDING_MASTER|BONDING_OPTS|DEVICE|STARTMODE|BOOTPROTO)=", "ifcfg"),
)
YAML = (".yaml", ".yml", ".cfg")
ALIASES = re.compile(r"(?:^|[\s,\[{:-])\*[A-Za-z0-9_]+")
MAX_ALIASES = 200
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass(slots=True)
class Loaded:
    """What was read: the desired state, and how many files of which format; `passed` files of unknown format."""

    desired: Desired = field(default_factory=Desired)
    formats: dict[str, int] = field(default_factory=dict)
    passed: int = 0

    @property
    def unreadable(self) -> list[Problem]:
        return [problem for problem in self.desired.problems if problem.kind == UNREADABLE]


def load(paths: Iterable[Path], as_format: str = "") -> Loaded:
    """Everything below these paths. Refused for one that is not there, cannot be read, or has no known format."""
    loaded = Loaded()
    groups: dict[tuple[str, str], dict[str, str]] = {}
    for path in paths:
        if path.is_dir():
            for found, folder in _below(path):
                _take(loaded, groups, found, folder, as_format)
        else:
            text = _read(path)
            name = as_format or format_of(path.name, text)
            if not name:
                raise Refused(
                    f"cannot read {shown(path)}",
                    why="its format is not one of those that ibbond reads",
                    fix=f"Name it with --format: {listed(READERS)}",
                )
            groups.setdefault((name, ""), {})[shown(path)] = text
    for (name, _), files in groups.items():
        loaded.formats[name] = loaded.formats.get(name, 0) + len(files)
        loaded.desired.add(_parsed(name, files))
    return loaded


def _take(
    loaded: Loaded, groups: dict[tuple[str, str], dict[str, str]], path: Path, folder: str, as_format: str
) -> None:
    """One file that was found in a directory."""
    try:
        text = _read(path)
    except Refused as refused:
        if not as_format and not format_of(path.name, ""):
            loaded.passed += 1
            return
        loaded.desired.problems.append(Problem(UNREADABLE, Source(shown(path)), refused.why, refused.fix))
        return
    name = as_format or format_of(path.name, text)
    if not name:
        loaded.passed += 1
        return
    groups.setdefault((name, folder), {})[shown(path)] = text


def _below(directory: Path) -> Iterator[tuple[Path, str]]:
    """The files of a directory, each with the folder whose files belong together: the whole host, or its own."""
    patterns = [pattern for reader in READERS.values() for pattern in reader.patterns]
    if of_host := sorted({path for pattern in patterns for path in directory.glob(pattern)}):
        for path in of_host[:MAX_FILES]:
            if _is_regular(path) and not path.name.endswith(NOT_READ):
                yield path, ""
        return
    count = 0
    for folder, folders, names in os.walk(directory):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(folder, name)
            if name.startswith(".") or name.endswith(NOT_READ) or not _is_regular(path):
                continue
            count += 1
            if count > MAX_FILES:
                raise Refused(
                    f"cannot read {shown(directory)}",
                    why=f"it has more than {MAX_FILES} files",
                    fix="Name a directory below it",
                )
            yield path, folder.removesuffix(".d")


def _is_regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False


def _read(path: Path) -> str:
    """The text of a regular file. Refused for anything else, for one that is too large, and for other bytes."""
    what, fix = f"cannot read {shown(path)}", "Name a configuration file or a directory of them"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)  # waits for no writer
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise Refused(what, why="it is not a regular file", fix=fix)
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise Refused(what, why=error.strerror or str(error), fix="Check its path and permissions") from None
    if len(data) > MAX_BYTES:
        raise Refused(what, why=f"it is larger than {MAX_BYTES >> 20} MiB", fix=fix)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise Refused(what, why=f"line {line} is not UTF-8", fix="Save it as UTF-8") from None
    if "\0" in text:
        raise Refused(what, why=f"line {text.count(chr(10), 0, text.index(chr(0))) + 1} has a NUL byte", fix=fix)
    return text


def format_of(name: str, text: str) -> str:
    """The format of a file by its name, then by what is in it; empty for an unknown one."""
    for pattern, known in NAMES:
        if re.fullmatch(pattern, name):
            return known
    if name.endswith(".toml"):
        return "bonds.toml"
    if name.endswith(YAML):
        return _yaml_format(text)
    return next((known for pattern, known in CONTENTS if re.search(pattern, text, re.M)), "")


def _yaml_format(text: str) -> str:
    if re.search(r"^ *(desiredState|interfaces) *:", text, re.M) and not re.search(r"^network *:", text, re.M):
        return "nmstate"
    if re.search(r"^ +config *:|^config *:|version['\"]? *: *1\b", text, re.M) or text.startswith("#cloud-config"):
        return "cloud-init"
    if re.search(r"^['\"]?network['\"]? *:|[{,] *network *:", text, re.M):
        return "netplan"
    return "cloud-init" if re.search(r"^version *: *2", text, re.M) else ""


def _parsed(name: str, files: dict[str, str]) -> Desired:
    """One group of files; those with more aliases than a person writes are not parsed."""
    problems = []
    for path, text in list(files.items()):
        if name in ("netplan", "cloud-init", "nmstate") and len(ALIASES.findall(text)) > MAX_ALIASES:
            what = f"it has more than {MAX_ALIASES} YAML aliases"
            problems.append(Problem(UNREADABLE, Source(path, 1), what, "Write the values out"))
            del files[path]
    desired = READERS[name].read(files)
    desired.problems += problems
    return desired


def shown(path: Path | str) -> str:
    """A name that cannot move a terminal's cursor: control characters are written out."""
    return CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), str(path))
