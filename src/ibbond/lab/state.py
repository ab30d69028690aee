"""What is on disk of a lab: its lock, socket, log and the note from which a killed lab is resumed or cleaned.

All of it is in the runtime directory (`backend.control_socket`), named after the lab. The lock is held by the running
lab and by no other process, so that it shows whether the lab runs even after a kill.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

from ibbond.backend.control_socket import (
    DEFAULT_LAB,
    WHOLE_FILE,
    locked,
    made_runtime_directory,
    runtime_directory,
)
from ibbond.errors import Refused
from ibbond.lab.saved_state import SavedState

NOT_OURS = ("story",)  # what a scenario file says to the simulator
Made = TypeVar("Made")
LAB_NAME = re.compile(r"[a-z][a-z0-9_]{0,15}\Z")


@dataclass(frozen=True, slots=True)
class LabConfig:
    """What a lab is asked to be. `text` is its topology; `leased` labs end when the connection of their owner does."""

    name: str
    text: str
    source: str
    resume: bool = False
    profile: str = "default"
    without: tuple[str, ...] = ()
    leased: bool = False
    manager: str = "builtin"  # or "opensm"


@dataclass(frozen=True, slots=True)
class Note:
    """What a lab writes down once it runs. `spaces` are the inodes of its hosts' network namespaces."""

    pid: int
    config: LabConfig
    spaces: dict[str, int] = field(default_factory=dict)


class Files:
    """The files of one lab."""

    def __init__(self, name: str, directory: Path | None = None) -> None:
        if not LAB_NAME.match(name):
            raise Refused(
                f"cannot name a lab {name!r}",
                why="a lab's name is a lower-case letter, then at most 15 lower-case letters, digits and _",
                fix="Choose another name",
            )
        self.name = name
        self.directory = directory or runtime_directory()
        self.socket = self.directory / f"{name}.sock"
        self.lock = self.directory / f"{name}.lock"
        self.log = self.directory / f"{name}.log"
        self.note = self.directory / f"{name}.json"
        self.saved = self.directory / f"{name}.memory"
        self.rdma = self.directory / f"{name}.rdma"  # a folder: what sysfs says of RDMA devices, host by host
        self.keeper = self.directory / f"{name}.keeper"  # a socket: see host.listener_keeper
        self.tools = self.directory / f"{name}.tools"  # a folder: what InfiniBand tools write

    def hold(self) -> int:
        """Take the lock for as long as this process lives; `Refused` when the lab runs. A descriptor."""
        while True:
            lock = in_runtime_directory(lambda: os.open(self.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            try:
                fcntl.fcntl(lock, fcntl.F_OFD_SETLK, WHOLE_FILE)
            except BlockingIOError:
                os.close(lock)
                raise self.running() from None
            if not self._is_at_its_path(lock):  # its holder removed it while it was opened here
                os.close(lock)
                continue
            if self.process() is not None:
                os.close(lock)
                raise self.running()
            return lock

    @property
    def held(self) -> bool:
        """Whether the lab runs (or is just starting or ending)."""
        return locked(self.lock) or self.process() is not None

    def wait_for_dying_process(self, timeout: float) -> None:
        """Give a lab that was just killed the moment that its process needs to go."""
        note = self.read_note()
        until = time.monotonic() + timeout
        while note is not None and self.held and is_dying(note.pid) and time.monotonic() < until:
            time.sleep(0.01)

    def process(self) -> int | None:
        """The living process of the lab of the note. It runs without the lock only if the lock file was removed."""
        note = self.read_note()
        return note.pid if note and note.pid != os.getpid() and is_process_of(note.pid, self.name) else None

    def _is_at_its_path(self, lock: int) -> bool:
        try:
            return os.path.samestat(os.fstat(lock), self.lock.stat())
        except FileNotFoundError:
            return False

    def running(self) -> Refused:
        note = self.read_note()
        option = "" if self.name == DEFAULT_LAB else f" --name {self.name}"
        return Refused(
            f"lab {self.name} is already running" + (f" (process {note.pid})" if note else ""),
            why="two labs cannot have the same name",
            fix=f"Take it down with: ibbond lab down{option}, or start another one with --name",
            code=errno.EEXIST,
        )

    def write_note(self, note: Note) -> None:
        replace_text(self.note, json.dumps(asdict(note)).encode())

    def write_state(self, saved: SavedState) -> None:
        import msgspec

        replace_text(self.saved, msgspec.json.encode(saved))

    def read_state(self) -> SavedState | None:
        """What the lab remembered last; None where it never did."""
        import msgspec

        try:
            return msgspec.json.decode(self.saved.read_bytes(), type=SavedState)
        except (OSError, msgspec.MsgspecError):
            return None

    def read_note(self) -> Note | None:
        """The note of the running lab, or of one that was killed; None after a proper end."""
        try:
            raw = json.loads(self.note.read_text())
            config = raw["config"]
            config["without"] = tuple(config["without"])
            return Note(raw["pid"], LabConfig(**config), raw["spaces"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def remove(self, lock: int, *, keep_log: bool = False) -> None:
        """After a proper end nothing is left, the directory included when it is empty; the lock goes last.

        `lock` is what `hold` gave. Where another lock is in its place by now, the files are another lab's.
        """
        if self.lock.exists() and not self._is_at_its_path(lock):
            return
        for folder in (self.tools, self.rdma):
            shutil.rmtree(folder, ignore_errors=True)
        for path in (self.socket, self.keeper, self.note, self.saved, *(() if keep_log else (self.log,)), self.lock):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.directory.rmdir()


def in_runtime_directory(make: Callable[[], Made]) -> Made:
    """Make something in the runtime directory, again where the end of another lab removed that meanwhile."""
    for _ in range(100):
        with contextlib.suppress(FileNotFoundError, FileExistsError):
            made_runtime_directory()
            return make()
    made_runtime_directory()
    return make()


def replace_text(path: Path, text: bytes) -> None:
    """Write a file so that readers find the old text or the new one."""
    scratch = path.with_suffix(f"{path.suffix}.new")
    scratch.write_bytes(text)
    scratch.replace(path)


def is_process_of(pid: int, lab: str) -> bool:
    """Whether this process is the lab of this name. A process that was killed no longer has a command line."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"ibbond.lab.daemon" in words and lab.encode() in words


def is_dying(pid: int) -> bool:
    """Whether a process has been killed and is not quite gone: a zombie, or one with SIGKILL pending (proc(5))."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    facts = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    pending = int(facts.get("ShdPnd", "0"), 16) | int(facts.get("SigPnd", "0"), 16)
    return facts.get("State", "").strip()[:1] in ("Z", "X") or bool(pending & 1 << (signal.SIGKILL - 1))


def names() -> list[str]:
    """The labs of this user that run or were killed."""
    directory = runtime_directory()
    return sorted({path.stem for kind in ("lock", "json") for path in directory.glob(f"*.{kind}")})
