"""How the lab reaches the memory of a family of programs: by itself where that cannot block it, else by a helper.

Read first: `host.memory_helper`. A program with the user id of the lab could end it by kill(2) anyway; its anonymous
memory, and mappings of files on file systems that the kernel serves by itself, are accessed at once. All other memory
is accessed by the helper, which costs two switches between processes. What is known of a program's mappings may be
outdated; that matters to no program but those that may kill the lab.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from ibbond.host.memory_helper import HelpedMemory, MemoryHelper
from ibbond.host.program_memory import ProgramMemory, covers, mappings

OWN_FILE_SYSTEMS = frozenset({"btrfs", "ext2", "ext3", "ext4", "overlay", "ramfs", "squashfs", "tmpfs", "xfs"})
MAX_KNOWN = 256  # threads
RECENT_NS = 10_000_000  # how long what was found out about a thread is used for its doorbells

ReachedMemory = ProgramMemory | HelpedMemory


class _Recent(NamedTuple):
    until: int
    memory: ProgramMemory
    spans: list[tuple[int, int]]


class ProgramAccess:
    """Of one family: those that share a listener, and a helper."""

    def __init__(self) -> None:
        self._helper = MemoryHelper()
        self._plain: dict[int, list[tuple[int, int]]] = {}  # by thread: addresses that cannot block
        self._devices: frozenset[bytes] | None = None
        self._recent: dict[int, _Recent] = {}

    def close(self) -> None:
        self._helper.close()
        for known in self._recent.values():
            known.memory.close()
        self._recent.clear()

    @property
    def stalled(self) -> bool:
        """Whether a program of this family made the lab wait too long: none of them is served any longer."""
        return self._helper.stalled

    def directly(self, thread: int, address: int, length: int) -> bool:
        """Whether these bytes can be accessed without a helper."""
        if not is_trusted(thread):
            return False
        end = address + length
        for low, high in self._plain.get(thread, ()):
            if low <= address and end <= high:
                return True
        if len(self._plain) >= MAX_KNOWN:
            self._plain.clear()
        spans = self._plain[thread] = self._look(thread)
        return any(low <= address and end <= high for low, high in spans)

    def read_recent(self, thread: int, address: int, length: int, now: int) -> bytes | None:
        """What a thread has there, if a moment ago it could be read without a helper; else None, nothing is found out.

        Only for calls of which a mistake harms no other program: since then the thread may have executed another one.
        `now` is in nanoseconds.
        """
        known = self._recent.get(thread)
        if known is None or now > known.until:
            return None
        for low, high in known.spans:
            if low <= address and address + length <= high:
                return known.memory.read(address, length)
        return None

    def remember(self, thread: int, memory: ProgramMemory, now: int) -> None:
        """Keep the memory, which was just found to be accessible, for `read_recent`; it is closed here."""
        if len(self._recent) >= MAX_KNOWN:
            self._recent.pop(next(iter(self._recent))).memory.close()
        self.forget(thread)
        self._recent[thread] = _Recent(now + RECENT_NS, memory, self._plain.get(thread, []))

    def forget(self, thread: int) -> None:
        """A thread does something else than ringing doorbells."""
        known = self._recent.pop(thread, None)
        if known is not None:
            known.memory.close()

    def helped(self, process: int) -> HelpedMemory:
        """OSError if there is no such process, or its family is no longer served."""
        return HelpedMemory(self._helper, process)

    def region(self, process: int, start: int, length: int, *, write: bool) -> type[ReachedMemory] | None:
        """How memory that a program registers is to be accessed; None where it does not have it all."""
        if is_trusted(process):
            if covers(process, start, length, write=write, devices=self._own_devices()):
                return ProgramMemory
            return HelpedMemory if covers(process, start, length, write=write) else None
        memory = self.helped(process)
        try:
            return HelpedMemory if memory.covers(start, length, write=write) else None
        finally:
            memory.close()

    def _look(self, thread: int) -> list[tuple[int, int]]:
        """The mappings of a thread's process that cannot block, neighbors joined."""
        devices = self._own_devices()
        spans: list[tuple[int, int]] = []
        for found in mappings(thread):
            if found.rights[:1] != b"r" or (found.inode and found.device not in devices):
                continue
            if spans and spans[-1][1] == found.start:
                spans[-1] = spans[-1][0], found.end
            else:
                spans.append((found.start, found.end))
        return spans

    def _own_devices(self) -> frozenset[bytes]:
        if self._devices is None:
            self._devices = own_devices()
        return self._devices


def is_trusted(thread: int) -> bool:
    """Whether a thread has the user id of the lab. The directory has the thread's, dumpable or not (proc(5))."""
    try:
        return os.stat(f"/proc/{thread}").st_uid == os.geteuid()
    except OSError:
        return False


def own_devices() -> frozenset[bytes]:
    """The devices, as /proc/PID/maps writes them, of file systems that need no program to deliver a page."""
    memfd = os.memfd_create("ibbond-device", os.MFD_CLOEXEC)
    try:
        device = os.fstat(memfd).st_dev
    finally:
        os.close(memfd)
    found = {b"%02x:%02x" % (os.major(device), os.minor(device))}
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        fields = line.split()
        if fields[fields.index(b"-") + 1].decode() in OWN_FILE_SYSTEMS:
            major, minor = fields[2].split(b":")
            found.add(b"%02x:%02x" % (int(major), int(minor)))
    return frozenset(found)
