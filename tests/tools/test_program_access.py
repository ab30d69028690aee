"""Which memory of programs the lab touches by itself, and what it remembers of a thread between doorbells."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator

import pytest

from ibbond.host.memory_helper import HelpedMemory
from ibbond.host.program_memory import ProgramMemory
from ibbond.tools.program_access import MAX_KNOWN, RECENT_NS, ProgramAccess, is_trusted, own_devices
from tests.host.waiting_copy import waiting_copy

NOWHERE = 0x1000
CONTENT = bytes(range(64))
BUFFER = ctypes.create_string_buffer(CONTENT, 64)
ADDRESS = ctypes.addressof(BUFFER)


@pytest.fixture
def access() -> Iterator[ProgramAccess]:
    made = ProgramAccess()
    yield made
    made.close()


def test_anonymous_memory_of_an_own_program_is_touched_directly(access: ProgramAccess) -> None:
    with waiting_copy() as number:
        assert is_trusted(number)
        assert access.directly(number, ADDRESS, 64)
        assert not access.directly(number, NOWHERE, 64)
        assert access.region(number, ADDRESS, 64, write=True) is ProgramMemory
        assert access.region(number, NOWHERE, 64, write=True) is None
    assert not is_trusted(number)
    assert not access.directly(number, ADDRESS, 64)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a program of another user")
def test_memory_of_another_users_program_is_left_to_the_helper(access: ProgramAccess) -> None:
    with waiting_copy(user=65534) as number:
        assert not is_trusted(number)
        assert not access.directly(number, ADDRESS, 64)
        assert access.region(number, ADDRESS, 64, write=True) is HelpedMemory
        memory = access.helped(number)
        assert memory.read(ADDRESS, 64) == CONTENT
        memory.close()


def test_a_file_of_a_file_system_that_a_program_serves_is_left_to_the_helper(
    access: ProgramAccess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The devices of FUSE are those that are not in the list; here the list does not have that of memfds."""
    memfd = os.memfd_create("page")
    os.write(memfd, CONTENT)
    mapped = mmap.mmap(memfd, 64)
    at = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
    device = os.fstat(memfd).st_dev
    name = b"%02x:%02x" % (os.major(device), os.minor(device))
    with waiting_copy() as number:
        assert access.directly(number, at, 64)
        other = ProgramAccess()
        monkeypatch.setattr("ibbond.tools.program_access.own_devices", lambda: own_devices() - {name})
        assert not other.directly(number, at, 64)
        assert other.region(number, at, 64, write=True) is HelpedMemory
        other.close()


def test_what_is_remembered_of_a_thread_serves_its_doorbells_for_a_moment(access: ProgramAccess) -> None:
    with waiting_copy() as number:
        assert access.read_recent(number, ADDRESS, 64, 0) is None, "nothing is known"
        assert access.directly(number, ADDRESS, 64)
        access.remember(number, ProgramMemory(number), 1000)
        assert access.read_recent(number, ADDRESS, 64, 1000 + RECENT_NS) == CONTENT
        assert access.read_recent(number, ADDRESS, 64, 1001 + RECENT_NS) is None, "too old"
        assert access.read_recent(number, NOWHERE, 64, 1000) is None, "not known to be readable without a helper"
        access.forget(number)
        assert access.read_recent(number, ADDRESS, 64, 1000) is None
        access.remember(number, ProgramMemory(number), 1000)
    assert access.read_recent(number, ADDRESS, 64, 1000) is None, "its memory has ended with it"


def test_threads_that_are_remembered_are_limited_and_hold_no_descriptors_after_the_end(access: ProgramAccess) -> None:
    with waiting_copy() as number:
        before = len(os.listdir("/proc/self/fd"))
        for thread in range(MAX_KNOWN + 50):
            access.remember(thread, ProgramMemory(number), 0)
        assert len(os.listdir("/proc/self/fd")) == before + MAX_KNOWN
        access.close()
        assert len(os.listdir("/proc/self/fd")) == before
