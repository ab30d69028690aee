"""/sys/class/infiniband* and /dev/infiniband of one lab host: files in a folder of the lab, mounted in the host alone.

Read first: mount_namespaces(7), Documentation/filesystems/overlayfs.rst. No directory can be made in sysfs, so an
overlay over /sys/class gives places to mount on, and the folders themselves are bound there: what is written later is
seen at once, and whole, for a file is replaced and never rewritten. /dev becomes a tmpfs with all that is in it bound
again. What a program opens below /dev/infiniband is /dev/null; its open never gets so far (`notification`). Left out:
the texts (`abi.infiniband_text`).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from ibbond.host.syscalls import MS_BIND, MS_NOSUID, MS_REC, mount

CLASS, DEV = "/sys/class", "/dev"
BOUND = ("infiniband", "infiniband_verbs", "infiniband_mad")
MS_MOVE = 0x2000


class RdmaView:
    """The view of one host; `folder` is ours alone, and readable by all who get to it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._written: dict[str, str] = {}
        self._devices: set[str] = set()

    def show(self, texts: Mapping[str, str], links: Mapping[str, str], devices: Iterable[str]) -> None:
        """Have exactly these files (paths below /sys/class), links, and names below /dev/infiniband."""
        wanted = {**texts, **{path: f"\0{target}" for path, target in links.items()}}
        for path in self._written.keys() - wanted.keys():
            self._remove(path)
        for path, text in wanted.items():
            if self._written.get(path) != text:
                self._write(path, text)
        self._written = wanted
        self._show_devices(set(devices))

    def mount(self) -> None:
        """In the host's mount namespace, once: later calls change nothing. OSError where it cannot be mounted."""
        if _is_mounted(f"{CLASS}/{BOUND[0]}"):
            return
        self._mount_class()
        self._mount_dev()

    def remove(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def _place(self, path: str) -> Path:
        return self._folder / "class" / path

    def _write(self, path: str, text: str) -> None:
        place = self._place(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        scratch = self._folder / "new"
        scratch.unlink(missing_ok=True)
        if text.startswith("\0"):
            scratch.symlink_to(text[1:])
        else:
            scratch.write_text(f"{text}\n")
            scratch.chmod(0o444)
        scratch.replace(place)

    def _remove(self, path: str) -> None:
        place = self._place(path)
        place.unlink(missing_ok=True)
        for folder in place.parents:  # those that are empty now, but not what is mounted
            if folder.parent == self._folder / "class" or folder == self._folder:
                break
            with contextlib.suppress(OSError):
                folder.rmdir()

    def _show_devices(self, devices: set[str]) -> None:
        """Regular files, on which `mount` binds /dev/null; those of later adapters appear with the next host."""
        place = self._folder / "dev"
        place.mkdir(parents=True, exist_ok=True)
        for name in devices - self._devices:
            (place / name).touch(mode=0o666)
        self._devices |= devices

    def _mount_class(self) -> None:
        own = self._folder / "class"
        for name in BOUND:
            (own / name).mkdir(parents=True, exist_ok=True)
        aside = self._folder / "aside"
        aside.mkdir(exist_ok=True)
        net = f"{CLASS}/net"
        held = os.open(net, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            try:
                mount(net, str(aside), None, MS_MOVE)  # our view of /sys/class/net, where there is one
                moved = True
            except OSError:
                moved = False
            mount("ibbond", CLASS, "overlay", 0, f"lowerdir={own}:{CLASS}")
            if moved:
                mount(str(aside), net, None, MS_MOVE)
            else:
                mount(f"/proc/self/fd/{held}", net, None, MS_BIND | MS_REC)
        finally:
            os.close(held)
        for name in BOUND:
            mount(str(own / name), f"{CLASS}/{name}", None, MS_BIND)

    def _mount_dev(self) -> None:
        place = self._folder / "root"
        place.mkdir(exist_ok=True)
        mount("ibbond", str(place), "tmpfs", MS_NOSUID, "mode=0755")
        infiniband = place / "infiniband"
        infiniband.mkdir()
        for name in sorted(self._devices):
            (infiniband / name).touch()
            mount("/dev/null", str(infiniband / name), None, MS_BIND)
        for entry in os.scandir(DEV):
            if entry.name != infiniband.name:
                with contextlib.suppress(OSError):  # it has just disappeared
                    _bind(entry, place / entry.name)
        mount(str(place), DEV, None, MS_MOVE)


def _bind(entry: os.DirEntry[str], place: Path) -> None:
    mode = entry.stat(follow_symlinks=False).st_mode
    if stat.S_ISLNK(mode):
        place.symlink_to(os.readlink(entry.path))
        return
    if stat.S_ISDIR(mode):
        place.mkdir()
    else:
        place.touch()
    mount(entry.path, str(place), None, MS_BIND | MS_REC)


def _is_mounted(place: str) -> bool:
    with open("/proc/thread-self/mountinfo") as mounts:
        return any(line.split()[4] == place for line in mounts)
