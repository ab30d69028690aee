"""/dev/infiniband/uverbsN of a program: commands in, answers out, events by pipes.

Read first: `wire.uverbs`; `verbs_objects.context`, which decides. Left out: queues of events that are not read: a pipe
that is full drops what comes, and the program is told by a CQ that is in error.
"""

from __future__ import annotations

import errno
import functools
import os
from collections.abc import Callable

from ibbond.abi.infiniband_text import RdmaDevice
from ibbond.errors import Malformed
from ibbond.host.notification import Call
from ibbond.host.queue_file import CloseWatch, QueueFile
from ibbond.tools.program_call import Caller
from ibbond.tools.rdma_hosts import RdmaHost
from ibbond.verbs_objects.context import Context, refuse
from ibbond.wire import uverbs
from ibbond.wire.uverbs import GetContext

COMPLETION_VECTORS = 1


class UverbsFile:
    """One open device."""

    def __init__(self, host: RdmaHost, device: RdmaDevice) -> None:
        self._device = device
        self._queues = QueueFile()
        self._context = Context(device.hca)
        self._events = -1  # our end of the pipe of asynchronous events
        self._unwatch: Callable[[], None] = lambda: None

    @property
    def descriptor(self) -> int:
        return self._queues.descriptor

    @property
    def device_number(self) -> tuple[int, int]:
        return self._device.uverbs_dev

    def watch(self, closes: CloseWatch, closed: Callable[[], None]) -> None:
        watch = closes.add(self._queues.path, closed)
        self._unwatch = functools.partial(closes.remove, watch)
        self._queues.release()

    def in_use(self, process: int, number: int) -> bool:
        return True  # it tells when it is closed

    def call(self, caller: Caller) -> None:
        if caller.call == Call.IOCTL:
            raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))  # libibverbs then writes
        if caller.call != Call.WRITE:
            raise OSError(errno.ENOTSOCK, os.strerror(errno.ENOTSOCK))
        address, length = caller.arguments[1:3]
        if length > uverbs.MAX_COMMAND_BYTES:
            refuse()
        try:
            envelope, request = uverbs.parse(caller.read(address, length))
        except Malformed:
            refuse()
        match request:
            case GetContext():
                answer = envelope.fit(self._get_context(caller))
            case _:
                answer = self._context.execute(envelope, request)
        if answer:
            caller.write(envelope.address, answer)
        caller.answer(length)

    def close(self) -> None:
        self._unwatch()
        if self._events >= 0:
            os.close(self._events)
        self._queues.close()

    def _get_context(self, caller: Caller) -> bytes:
        if self._events >= 0:
            refuse()
        theirs, self._events = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._events, False)
        try:
            number = caller.give(theirs)
        finally:
            os.close(theirs)
        return uverbs.pack_words(number, COMPLETION_VECTORS)
