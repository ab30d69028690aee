"""Pipes by which a program reads its events, and how unread ones are taken back.

Read first: `verbs_objects.completion_queue.EventSink`. The program has the read end, and no other process has one: so
the kernel signals by EPOLLERR when the last copy is closed. To take something back, a read end is opened for a moment,
by way of our own descriptor: what the program has at its number may be another file by now. A pipe that is full takes
nothing more.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Callable

from ibbond.tools.program_call import Caller
from ibbond.wire import uverbs_answers
from ibbond.wire.uverbs import AsyncEvent

ASYNC = struct.Struct("=QII")
COMPLETION = struct.Struct("=Q")
PORT_EVENTS = range(AsyncEvent.DEVICE_FATAL, AsyncEvent.GID_CHANGE + 1)
OBJECT_EVENTS = (AsyncEvent.SRQ_ERR, AsyncEvent.SRQ_LIMIT_REACHED, AsyncEvent.LAST_WQE_REACHED)
ROOM = 1 << 16


class EventPipe:
    """Our end of a pipe of records, and its number in the program."""

    def __init__(self, caller: Caller) -> None:
        """OSError where the program can have no more descriptors."""
        theirs, self.descriptor = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self.descriptor, False)
        try:
            self.number = caller.give(theirs)
        except OSError:
            os.close(self.descriptor)
            raise
        finally:
            os.close(theirs)

    def put(self, record: bytes) -> bool:
        try:
            return os.write(self.descriptor, record) == len(record)
        except OSError:  # full, or the reader has closed it
            return False

    def retract(self, size: int, mine: Callable[[bytes], bool]) -> int:
        """Take the unread records of `size` bytes out that are `mine`; how many. The others stay in their order."""
        try:
            reader = os.open(f"/proc/self/fd/{self.descriptor}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return 0
        try:
            raw = os.read(reader, ROOM)
        except OSError:
            return 0
        finally:
            os.close(reader)
        records = [raw[at : at + size] for at in range(0, len(raw), size)]
        kept = [record for record in records if not mine(record)]
        if kept:
            with contextlib.suppress(OSError):
                os.write(self.descriptor, b"".join(kept))
        return len(records) - len(kept)

    def close(self) -> None:
        os.close(self.descriptor)


class EventPipes:
    """The `EventSink` of one open device: its completion channels by their numbers, and its asynchronous events."""

    def __init__(self) -> None:
        self.asynchronous_pipe: EventPipe | None = None
        self.channels: dict[int, EventPipe] = {}

    def completion(self, channel: int, user: int) -> bool:
        pipe = self.channels.get(channel)
        return pipe is not None and pipe.put(uverbs_answers.pack_comp_event(user))

    def asynchronous(self, element: int, kind: AsyncEvent) -> bool:
        pipe = self.asynchronous_pipe
        return pipe is not None and pipe.put(uverbs_answers.pack_async_event(element, kind))

    def retract_completions(self, channel: int, user: int) -> int:
        pipe, mine = self.channels.get(channel), uverbs_answers.pack_comp_event(user)
        return pipe.retract(COMPLETION.size, mine.__eq__) if pipe is not None else 0

    def retract_asynchronous(self, element: int) -> int:
        pipe = self.asynchronous_pipe

        def mine(record: bytes) -> bool:
            about, kind, _ = ASYNC.unpack(record.ljust(ASYNC.size, b"\0"))
            return about == element and (kind in OBJECT_EVENTS or kind not in PORT_EVENTS)

        return pipe.retract(ASYNC.size, mine) if pipe is not None else 0

    def close(self) -> None:
        for pipe in self.channels.values():
            pipe.close()
        if self.asynchronous_pipe is not None:
            self.asynchronous_pipe.close()
        self.channels.clear()
        self.asynchronous_pipe = None
