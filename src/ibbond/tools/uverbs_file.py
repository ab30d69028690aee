"""/dev/infiniband/uverbsN of a program: commands in, answers out, doorbells, events by pipes.

Read first: `wire.uverbs`; `verbs_objects.context`, which decides. A doorbell is answered when its work is done: a
program that continues at once and polls would take the processor that the work needs. Left out: where calls come from
(`rdma_programs`).
"""

from __future__ import annotations

import errno
import functools
import os
import select
import struct
from collections.abc import Callable

from ibbond.abi.infiniband_text import RdmaDevice
from ibbond.errors import Malformed
from ibbond.fabric.port import Port
from ibbond.host.guard import Entry
from ibbond.host.loop import LiveLoop
from ibbond.host.memory_helper import HelpedMemory
from ibbond.host.notification import Call
from ibbond.host.program_memory import ProgramMemory
from ibbond.host.queue_file import CloseWatch, QueueFile
from ibbond.tools.event_pipes import EventPipe, EventPipes
from ibbond.tools.program_access import ProgramAccess, ReachedMemory
from ibbond.tools.program_call import Caller
from ibbond.verbs.memory import Memory
from ibbond.verbs.verbs import PortEventKind
from ibbond.verbs_objects.context import Context
from ibbond.verbs_objects.refusal import refuse
from ibbond.wire import uverbs, uverbs_answers
from ibbond.wire.uverbs import CreateCompChannel, CreateCq, GetContext

COMPLETION_VECTORS = 1
MAX_CHANNELS = 1024
DOORBELL = struct.Struct("=IHHQI")  # header, response address, handle
POST_SEND = 28


class UverbsFile:
    """One open device."""

    def __init__(self, loop: LiveLoop, device: RdmaDevice) -> None:
        self._loop = loop
        self.device = device
        self._queues = QueueFile()
        self._pipes = EventPipes()
        self._context = Context(loop.network.subnet.verbs(device.hca), self._queues, self._pipes)
        self._memories: dict[tuple[int, type[ReachedMemory]], ReachedMemory] = {}  # by process
        self._unwatch: Callable[[], None] = lambda: None

    @property
    def descriptor(self) -> int:
        return self._queues.descriptor

    @property
    def device_number(self) -> tuple[int, int]:
        return self.device.uverbs_dev

    def watch(self, closes: CloseWatch, closed: Callable[[], None]) -> None:
        watch = closes.add(self._queues.path, closed)
        self._unwatch = functools.partial(closes.remove, watch)
        self._queues.release()

    def in_use(self, process: int, number: int) -> bool:
        return True  # it signals when it is closed

    def call(self, caller: Caller) -> None:
        if caller.call == Call.IOCTL:
            raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))  # libibverbs then writes
        if caller.call != Call.WRITE:
            raise OSError(errno.ENOTSOCK, os.strerror(errno.ENOTSOCK))
        address, length = caller.arguments[1:3]
        if length > uverbs.MAX_COMMAND_BYTES:
            refuse()
        if length == uverbs.POST_SEND_BYTES:
            raw = caller.read_doorbell(address, length, self._loop.now())
            if self._is_doorbell(caller, raw):
                return
        else:
            raw = caller.read(address, length)
        try:
            envelope, request = uverbs.parse(raw)
        except Malformed:
            refuse()
        match request:
            case GetContext():
                answer = envelope.fit(self._get_context(caller))
            case CreateCompChannel():
                answer = envelope.fit(self._create_channel(caller))
            case _:
                if (
                    isinstance(request, CreateCq)
                    and request.channel >= 0
                    and request.channel not in self._pipes.channels
                ):
                    refuse(errno.EBADF)
                answer = self._context.execute(_Process(self, caller), envelope, request)
        if answer:
            caller.write(envelope.address, answer)
        caller.answer(length)
        self._loop.resume_if_pending()

    def _is_doorbell(self, caller: Caller, raw: bytes) -> bool:
        command, _, _, _, handle = DOORBELL.unpack_from(raw)
        if command != POST_SEND:
            return False
        pair = self._context.pair(handle)
        if self._context.gone:
            refuse(errno.EIO)
        self._loop.ring(pair.ring)
        caller.answer(len(raw))
        return True

    def _advance(self) -> None:
        """Bring the subnet's time up to now, before it handles the current event."""
        self._loop.network.subnet.advance(self._loop.now())

    def port_event(self, port: Port, kind: PortEventKind) -> None:
        if port.node is self.device.hca:
            self._context.port_event(port, kind)

    def flush_failed(self) -> None:
        self._context.flush_failed(self._loop.now())

    def close(self) -> None:
        self._unwatch()
        for pipe in self._pipes.channels.values():
            self._loop.remove_reader(pipe.descriptor)
        self._advance()
        self._context.close()
        self._pipes.close()
        self._queues.close()
        for memory in self._memories.values():
            memory.close()
        self._memories.clear()
        self._loop.resume_if_pending()

    def memory_of(self, process: int, access: ProgramAccess, kind: type[ReachedMemory]) -> ReachedMemory:
        """Kept as long as the device is open: regions are read and written through it."""
        memory = self._memories.get((process, kind))
        if memory is None or not memory.alive():
            if memory is not None:
                memory.close()
            memory = access.helped(process) if kind is HelpedMemory else ProgramMemory(process)
            self._memories[process, kind] = memory
        return memory

    def _get_context(self, caller: Caller) -> bytes:
        if self._pipes.asynchronous_pipe is not None:
            refuse()
        pipe = self._pipes.asynchronous_pipe = EventPipe(caller)
        return uverbs_answers.pack_words(pipe.number, COMPLETION_VECTORS)

    def _create_channel(self, caller: Caller) -> bytes:
        if len(self._pipes.channels) >= MAX_CHANNELS:
            refuse(errno.EMFILE)
        pipe = EventPipe(caller)
        known = self._pipes.channels.pop(pipe.number, None)
        if known is not None:  # closed, but not yet reported
            self._end_channel(known)
        self._pipes.channels[pipe.number] = pipe
        self._loop.add_watcher(pipe.descriptor, select.EPOLLERR, lambda _: self._channel_closed(pipe), Entry.RDMA)
        return uverbs_answers.pack_words(pipe.number)

    def _channel_closed(self, pipe: EventPipe) -> None:
        """The last process has closed the other end."""
        if self._pipes.channels.get(pipe.number) is pipe:
            del self._pipes.channels[pipe.number]
            self._end_channel(pipe)

    def _end_channel(self, pipe: EventPipe) -> None:
        self._loop.remove_reader(pipe.descriptor)
        pipe.close()


class _Process:
    """`verbs_objects.context.Caller`: who registers memory."""

    def __init__(self, file: UverbsFile, caller: Caller) -> None:
        self._file = file
        self._caller = caller

    def registered(self, start: int, length: int, *, write: bool) -> Memory:
        process, access = self._caller.process(), self._caller.access
        kind = access.region(process, start, length, write=write)
        if kind is None:
            refuse(errno.EFAULT)
        return self._file.memory_of(process, access, kind)
