"""One system call of a program while it waits for us."""

from __future__ import annotations

import errno
import os

from ibbond.host.memory_helper import HelpedMemory
from ibbond.host.notification import Call, Listener, Notification
from ibbond.host.program_memory import MAX_PATH, ProgramMemory
from ibbond.tools.program_access import ProgramAccess, ReachedMemory


class Caller:
    """Who calls, with what; its memory while the call waits. Exactly one of the answers ends the call."""

    def __init__(self, listener: Listener, notification: Notification, access: ProgramAccess) -> None:
        self.listener = listener
        self.id, self.thread, self.call, self.arguments = notification
        self.access = access
        self.answered = False
        self._direct: ProgramMemory | None = None
        self._helped: HelpedMemory | None = None

    def memory(self, address: int, length: int) -> ReachedMemory:
        """To access these bytes. OSError (ESRCH) where the thread ended meanwhile, and its number may be another's."""
        memory: ReachedMemory
        self.access.forget(self.thread)
        if self.access.directly(self.thread, address, length):
            memory = self._direct = self._direct or ProgramMemory(self.thread)
        else:
            memory = self._helped = self._helped or self.access.helped(self.thread)
        if not self.listener.valid(self.id):
            raise OSError(errno.ESRCH, os.strerror(errno.ESRCH))
        return memory

    def process(self) -> int:
        """The number of the process that the thread belongs to."""
        with open(f"/proc/{self.thread}/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("Tgid:"))

    def read(self, address: int, length: int) -> bytes:
        """OSError (EFAULT) where the program has no memory."""
        found = self.memory(address, length).read(address, length)
        if found is None:
            raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))
        return found

    def read_doorbell(self, address: int, length: int, now: int) -> bytes:
        """As `read`, of a thread that may do so again at once."""
        found = self.access.read_recent(self.thread, address, length, now)
        if found is None:
            found = self.read(address, length)
            if self._direct is not None:
                self.access.remember(self.thread, self._direct, now)
                self._direct = None
        return found

    def string(self, address: int) -> bytes:
        """See `ProgramMemory.string`."""
        return self.memory(address, MAX_PATH).string(address)

    def write(self, address: int, data: bytes) -> None:
        if not self.memory(address, len(data)).write(address, data):
            raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))

    def answer(self, value: int = 0) -> None:
        self.answered = True
        self.listener.answer(self.id, value)

    def fail(self, number: int) -> None:
        self.answered = True
        self.listener.answer(self.id, error=number)

    def go_on(self) -> None:
        """The kernel carries out the call."""
        self.answered = True
        self.listener.go_on(self.id)

    def give(self, descriptor: int, number: int | None = None, *, answer: bool = False) -> int:
        """See `Listener.give`."""
        found = self.listener.give(self.id, descriptor, number, answer=answer)
        self.answered = self.answered or answer
        return found

    def writes(self) -> bool:
        return self.call == Call.WRITE

    def close(self) -> None:
        for memory in (self._direct, self._helped):
            if memory is not None:
                memory.close()
        self._direct = self._helped = None
