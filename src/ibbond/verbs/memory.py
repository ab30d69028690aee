"""Registered memory: what a queue pair may touch, by key.

Read first: InfiniBand Architecture volume 1, 10.6 (keys, regions, access rights). A key stands for a range of
addresses of its own, which usually are the program's. Memory itself is whatever can be read and written by address: a
buffer here, a process elsewhere; it may vanish at any moment. Left out: memory windows, local invalidation.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol


class Access(enum.IntFlag):
    """Rights beside reading by its owner (`enum ib_access_flags`)."""

    LOCAL_WRITE = 1
    REMOTE_WRITE = 2
    REMOTE_READ = 4
    REMOTE_ATOMIC = 8


ALL_ACCESS = int(Access.LOCAL_WRITE | Access.REMOTE_WRITE | Access.REMOTE_READ | Access.REMOTE_ATOMIC)


class Memory(Protocol):
    """Bytes by address. Nothing here checks rights."""

    def read(self, address: int, length: int) -> bytes | None:
        """Exactly these bytes; None where there is no such memory."""
        ...

    def write(self, address: int, data: bytes | memoryview) -> bool:
        """Whether there was memory to take all of it."""
        ...

    def copy(self, address: int, target: Memory, target_address: int, length: int) -> bool:
        """From here to another memory; whether there was memory at both ends."""
        ...


class BufferMemory:
    """A buffer, whose first byte has address 0."""

    __slots__ = ("_buffer",)

    def __init__(self, buffer: memoryview) -> None:
        self._buffer = buffer

    def read(self, address: int, length: int) -> bytes | None:
        found = bytes(self._buffer[address : address + length])
        return found if len(found) == length else None

    def write(self, address: int, data: bytes | memoryview) -> bool:
        if address + len(data) > len(self._buffer):
            return False
        self._buffer[address : address + len(data)] = data
        return True

    def copy(self, address: int, target: Memory, target_address: int, length: int) -> bool:
        found = self.read(address, length)
        return found is not None and target.write(target_address, found)


@dataclass(eq=False, slots=True)
class Region:
    """`length` bytes of a memory from `base` on, which keys call `start` and up."""

    memory: Memory
    base: int
    start: int
    length: int
    access: int

    def locate(self, address: int, length: int, need: int) -> int | None:
        """Where the memory has these bytes; None where the range or a right is missing."""
        offset = address - self.start
        if offset < 0 or offset + length > self.length or need & ~self.access:
            return None
        return self.base + offset


class ProtectionDomain:
    """The regions that the queue pairs of one domain may touch; `draw` gives 32 random bits for unguessable keys."""

    __slots__ = ("_draw", "_regions")

    def __init__(self, draw: Callable[[], int]) -> None:
        self._draw = draw
        self._regions: dict[int, Region] = {}

    def __bool__(self) -> bool:
        """Whether there are regions."""
        return bool(self._regions)

    def __iter__(self) -> Iterator[Region]:
        return iter(self._regions.values())

    def register(self, region: Region) -> int:
        """The key of the region, for local and for remote use."""
        key = self._draw()
        while not key or key in self._regions:
            key = self._draw()
        self._regions[key] = region
        return key

    def deregister(self, key: int) -> None:
        self._regions.pop(key, None)

    def find(self, key: int, address: int, length: int, need: int) -> tuple[Memory, int] | None:
        """The memory behind a key, and where these bytes are in it; None where key, range or right are wrong."""
        region = self._regions.get(key)
        if region is None:
            return None
        at = region.locate(address, length, need)
        return (region.memory, at) if at is not None else None
