"""Files that only one host of a lab sees, at any path of the machine, which itself is not touched.

Read first: mount_namespaces(7), mount(2). The nearest directory above such a file that exists is mirrored: a tmpfs in
its place shows everything that the directory has (bind mounts; symbolic links as they are) and takes the files. Nothing
but tmpfs and bind mounts is needed, which an ordinary user's namespace allows, too.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from ibbond.errors import Refused
from ibbond.host.syscalls import MS_BIND, MS_REC, mount, unmount
from ibbond.topology.model import HostFile

MAX_ENTRIES = 8192  # of a directory that is mirrored: each is a mount, and the kernel has 100,000 for a namespace


def check_files(host: str, files: Iterable[HostFile]) -> None:
    """`Refused` where a file cannot be laid out on this machine."""
    for file in files:
        what = f"cannot show {file.path} in {host}"
        above = nearest_existing(file.path)
        below = Path(file.path).relative_to(above).parts
        if above.resolve() == Path("/"):
            fix = "Choose a path below a directory that exists, for example /etc"
            raise Refused(what, why=f"/{below[0]} does not exist on this machine", fix=fix)
        if os.path.isdir(file.path):
            raise Refused(what, why="it is a directory on this machine", fix="Choose another path")
        if len(below) > 1 and os.path.lexists(above / below[0]):
            raise Refused(what, why=f"{above / below[0]} is not a directory", fix="Choose another path")
        if len(os.listdir(above)) > MAX_ENTRIES:
            why = f"{above} has more than {MAX_ENTRIES} entries"
            raise Refused(what, why=why, fix="Choose a path in another directory")


def lay_out(files: Iterable[HostFile]) -> None:
    """In a mount namespace of the host's own: show these files. OSError where the kernel refuses it."""
    own: set[Path] = set()
    for file in files:
        above = nearest_existing(file.path)
        below = Path(file.path).relative_to(above)
        directory = above.resolve()
        if directory not in own:
            mirror(directory)
            own.add(directory)
        for part in below.parts[:-1]:
            directory /= part
            directory.mkdir(mode=0o755)
            own.add(directory)
        place = directory / below.name
        if os.path.lexists(place):
            unshow(place)
        place.write_text(file.text, encoding="utf-8")
        place.chmod(file.mode)


def nearest_existing(path: str) -> Path:
    """The lowest directory above a file that exists, as the path names it."""
    return next(directory for directory in Path(path).parents if directory.is_dir())


def mirror(directory: Path) -> None:
    """Put a tmpfs in the place of a directory that shows what the directory has."""
    facts = directory.stat()
    old = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    below = f"/proc/self/fd/{old}"
    try:
        mount("tmpfs", str(directory), "tmpfs", 0, f"mode={stat.S_IMODE(facts.st_mode):o}")
        with contextlib.suppress(OSError):  # a user that an ordinary user's namespace does not have
            os.chown(directory, facts.st_uid, facts.st_gid)
        for entry in os.scandir(below):
            show(Path(below) / entry.name, directory / entry.name)
    finally:
        os.close(old)


def show(source: Path, place: Path) -> None:
    """One entry of a mirrored directory; a file that was removed meanwhile is left out."""
    try:
        kind = os.lstat(source).st_mode
        if stat.S_ISLNK(kind):
            os.symlink(os.readlink(source), place)
            return
    except FileNotFoundError:
        return
    if stat.S_ISDIR(kind):
        place.mkdir()
    else:
        place.touch()
    try:
        mount(str(source), str(place), None, MS_BIND | MS_REC)
    except FileNotFoundError:  # a mounted file whose name was removed, as the host's own /etc/hosts
        place.write_bytes(source.read_bytes())
        place.chmod(stat.S_IMODE(kind))


def unshow(place: Path) -> None:
    """Take an entry out of a mirrored directory."""
    if os.path.ismount(place):
        unmount(str(place))
    place.unlink()
