"""The helper that touches memory of programs: what it reads and writes, and that it never makes the lab wait long."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import time
from collections.abc import Iterator

import pytest

from ibbond.host.memory_helper import CHUNK, MAX_WAIT_NS, HelpedMemory, MemoryHelper, MemoryOperation
from ibbond.host.program_memory import ProgramMemory
from tests.host.waiting_copy import waiting_copy

SIZE = 3 * CHUNK + 17
NOWHERE = 0x1000  # nothing is mapped below vm.mmap_min_addr


@pytest.fixture
def helper() -> Iterator[MemoryHelper]:
    made = MemoryHelper()
    yield made
    made.close()


def pid_of(helper: MemoryHelper) -> int:
    helper.ask(MemoryOperation.COVERS, os.getpid(), 0, 0, 0)  # it is started when it is first needed
    assert helper._process is not None
    return helper._process


def test_bytes_longer_than_the_shared_buffer_come_and_go_whole(helper: MemoryHelper) -> None:
    content = os.urandom(SIZE)
    buffer = ctypes.create_string_buffer(content, SIZE)
    address = ctypes.addressof(buffer)
    with waiting_copy() as number:
        memory = HelpedMemory(helper, number)
        assert memory.read(address, SIZE) == content
        assert memory.write(address, content[::-1])
        assert ProgramMemory(number).read(address, SIZE) == content[::-1]
        assert memory.covers(address, SIZE, write=True)
        assert buffer.raw == content, "this process has a copy of its own"
        memory.close()


def test_what_is_not_there_is_none_and_the_helper_lives(helper: MemoryHelper) -> None:
    buffer = ctypes.create_string_buffer(b"a name\0and more", 32)
    with waiting_copy() as number:
        memory = HelpedMemory(helper, number)
        assert memory.read(NOWHERE, 8) is None
        assert not memory.write(NOWHERE, b"x")
        assert not memory.covers(NOWHERE, 8, write=False)
        assert memory.read(1 << 64, 8) is None
        assert memory.string(ctypes.addressof(buffer)) == b"a name"
        assert memory.alive()
    assert not memory.alive()
    assert memory.read(ctypes.addressof(buffer), 4) is None
    with pytest.raises(OSError) as caught:  # noqa: PT011
        HelpedMemory(helper, number)
    assert caught.value.errno == errno.ENOENT
    assert not helper.stalled


def test_copies_between_helped_and_direct_memory(helper: MemoryHelper) -> None:
    content = os.urandom(SIZE)
    buffer = ctypes.create_string_buffer(content, SIZE)
    address = ctypes.addressof(buffer)
    with waiting_copy() as one:
        ctypes.memset(address, 0, SIZE)
        with waiting_copy() as other:
            assert HelpedMemory(helper, one).copy(address, ProgramMemory(other), address, SIZE)
            assert ProgramMemory(other).read(address, SIZE) == content
            assert ProgramMemory(other).write(address, content[::-1])
            assert ProgramMemory(other).copy(address, HelpedMemory(helper, one), address, SIZE)
            assert ProgramMemory(one).read(address, SIZE) == content[::-1]


def test_a_helper_that_does_not_answer_is_given_up_soon_and_for_good(helper: MemoryHelper) -> None:
    os.kill(pid_of(helper), signal.SIGSTOP)  # as blocked as by a page that never comes: it does not want the processor
    began = time.monotonic_ns()
    for _ in range(20):
        with pytest.raises(OSError) as caught:  # noqa: PT011
            helper.ask(MemoryOperation.COVERS, os.getpid(), 0, 0, 0)
        assert caught.value.errno == errno.EFAULT
    assert helper.stalled
    assert time.monotonic_ns() - began < MAX_WAIT_NS / 2


def test_a_killed_helper_is_the_end_of_access_and_no_exception_of_another_kind(helper: MemoryHelper) -> None:
    buffer = ctypes.create_string_buffer(b"here", 8)
    with waiting_copy() as number:
        memory = HelpedMemory(helper, number)
        killed = pid_of(helper)
        os.kill(killed, signal.SIGKILL)
        os.waitid(os.P_PID, killed, os.WEXITED | os.WNOWAIT)
        assert memory.read(ctypes.addressof(buffer), 4) is None
        assert not memory.alive()
        memory.close()
    assert helper.stalled


def test_a_closed_helper_leaves_no_process(helper: MemoryHelper) -> None:
    number = pid_of(helper)
    helper.close()
    end = time.monotonic() + 5
    while os.path.exists(f"/proc/{number}"):
        MemoryHelper().close()  # reaps what has ended since
        assert time.monotonic() < end
        time.sleep(0.01)
