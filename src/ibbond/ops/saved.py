"""A saved copy of a host, opened: a directory, an archive with or without a folder on top, or a text of the driver.

Read first: ops/collect.py for what a bundle has; general support archives (sosreport) have parts of the same tree. A
copy comes from elsewhere: nothing in it may reach outside, whatever its links say.
"""

from __future__ import annotations

import contextlib
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from ibbond.abi.procfs_text import TITLE
from ibbond.errors import Refused
from ibbond.host.scratch import scratch

MARKS = ("sys/class/net", "proc/net/bonding", "ibbond/bundle")  # one of them makes a directory a copy of a host
WANTED = frozenset(
    {"sys", "proc", "etc", "run", "usr", "lib", "ibbond", "sos_commands", "uname", "ip_addr", "ip_route"}
)
MAX_FILE_BYTES = 1 << 20
MAX_BYTES = 256 << 20  # of all files that are unpacked
MAX_FILES = 200_000
# What tarfile lets out of damaged or hostile archives: ValueError for a NUL in a name, RecursionError for headers that
# announce headers.
UNREADABLE = (OSError, EOFError, zlib.error, lzma.LZMAError, tarfile.TarError, ValueError, RecursionError)
FIX = "Give a directory, an archive such as ibbond collect writes, or a text of /proc/net/bonding"
DEPTH = 2  # folders on top: sosreport-HOST-DATE/, or HOST/sosreport-HOST-DATE/


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Path]:
    """The root of a saved copy, unpacked for the time of the call where it is an archive. Refused, code 2."""
    if path.is_dir():
        yield root_of(path, path)
        return
    if path.exists() and not path.is_file():
        raise Refused(f"cannot read {path}", why="it is neither a directory nor a regular file", fix=FIX, code=2)
    with scratch("bundle") as root:
        if (bond := _bond_of_text(path)) is not None:
            place = root / "proc/net/bonding" / bond
            place.parent.mkdir(parents=True)
            with path.open("rb") as file:
                place.write_bytes(file.read(MAX_FILE_BYTES))
            yield root
            return
        try:
            with tarfile.open(path) as tar:
                _unpack(tar, root)
                while tar.fileobj is not None and tar.fileobj.read(MAX_FILE_BYTES):
                    pass  # the checksum of what was unpacked stands at the end
        except UNREADABLE as error:
            raise Refused(
                f"cannot read {path}",
                why=_reason(error),
                fix=FIX,
                code=2,
            ) from None
        yield root_of(root, path)


def root_of(directory: Path, path: Path) -> Path:
    """Where the copy begins: here, or in the one folder below that looks like a host. Refused, code 2."""
    level = [directory]
    for _ in range(DEPTH + 1):
        found = [each for each in level if any((each / mark).is_dir() or (each / mark).is_file() for mark in MARKS)]
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(sorted(each.name for each in found))
            raise Refused(f"cannot read {path}", why=f"it has several hosts: {names}", fix="Choose one of them", code=2)
        level = [
            below for each in level for below in sorted(each.iterdir()) if below.is_dir() and not below.is_symlink()
        ]
    raise Refused(
        f"cannot read {path}",
        why="it is not a copy of a host: it contains neither sys/class/net nor proc/net/bonding",
        fix="Give the directory above those, or save a bundle on that host: ibbond collect",
        code=2,
    )


def _bond_of_text(path: Path) -> str | None:
    """The name for a bond of which there is nothing but its text: the file's, where that can be a device's name."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        if file.read(len(TITLE)).decode("ascii", "replace") == TITLE:
            name = path.stem[:15]
            return name if name.isalnum() else "bond0"
    return None


def _unpack(tar: tarfile.TarFile, root: Path) -> None:
    """The members that a check may read; hostile, huge and special ones are passed over."""
    count = size = 0
    for member in tar:
        count += 1
        parts = [part for part in member.name.split("/") if part not in ("", ".")]
        wanted = any(part in WANTED for part in parts[: DEPTH + 1])
        if not wanted or member.size > MAX_FILE_BYTES or not (member.isreg() or member.issym() or member.isdir()):
            continue
        if count > MAX_FILES:
            raise tarfile.TarError(f"it has more than {MAX_FILES} files")
        size += member.size
        if size > MAX_BYTES:
            raise tarfile.TarError(f"its files have more than {MAX_BYTES >> 20} MiB")
        with contextlib.suppress(tarfile.FilterError, FileExistsError, NotADirectoryError, IsADirectoryError):
            tar.extract(member, root, filter="data")


def _reason(error: Exception) -> str:
    """Why it cannot be unpacked, in one line."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, EOFError):
        return "it is truncated"
    if isinstance(error, tarfile.ReadError):
        return "it is not an archive"
    if isinstance(error, tarfile.TarError):
        return str(error).splitlines()[0]
    return f"it is damaged ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
