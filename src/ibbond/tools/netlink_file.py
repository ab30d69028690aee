"""A NETLINK_RDMA socket of a program: a real socket of another family, whose questions we answer.

Read first: `wire.rdma_netlink`; netlink(7). The program has a NETLINK_USERSOCK socket of its host's namespace, so bind,
getsockname, poll and receiving are the kernel's own; only what it sends is trapped, and answered to its port.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from collections.abc import Callable

from ibbond.abi import rdma_netlink_text
from ibbond.errors import Malformed
from ibbond.host.notification import Call
from ibbond.host.queue_file import CloseWatch
from ibbond.tools.program_call import Caller
from ibbond.tools.rdma_hosts import RdmaHost, netlink_socket
from ibbond.wire import rdma_netlink

MAX_BYTES, MAX_PIECES = 1 << 16, 16


class NetlinkFile:
    """One socket, until the program closes it or ends."""

    device_number = None

    def __init__(self, host: RdmaHost, *, blocking: bool) -> None:
        self._host = host
        self._socket = host.space.run_in(netlink_socket)
        self.descriptor = self._socket.fileno()
        os.set_blocking(self.descriptor, blocking)
        self._name = os.readlink(f"/proc/self/fd/{self.descriptor}")  # with its inode

    def close(self) -> None:
        self._socket.close()

    def in_use(self, process: int, number: int) -> bool:
        """Whether the program still has it; a socket does not signal when it is closed."""
        try:
            return os.readlink(f"/proc/{process}/fd/{number}") == self._name
        except OSError:
            return False

    def watch(self, closes: CloseWatch, closed: Callable[[], None]) -> None:
        pass  # see `in_use`

    def call(self, caller: Caller) -> None:
        raw = self._sent(caller)
        try:
            question = rdma_netlink.parse(raw)
        except Malformed:
            raise OSError(errno.EINVAL, "not a netlink message") from None
        own = self._socket.getsockname()[0]
        if not own:  # sending would have bound it
            self._socket.bind((0, 0))
            own = self._socket.getsockname()[0]
        bodies = rdma_netlink_text.answer(question, self._host.devices)
        for packet in rdma_netlink.answers(question, bodies):
            with contextlib.suppress(OSError):  # it does not read: the kernel drops, too
                self._host.answering().sendto(packet, (own, 0))
        caller.answer(len(raw))

    def _sent(self, caller: Caller) -> bytes:
        arguments = caller.arguments
        if caller.call in (Call.SENDTO, Call.WRITE):
            return caller.read(arguments[1], min(arguments[2], MAX_BYTES))
        if caller.call != Call.SENDMSG:
            raise OSError(errno.ENOTTY, "not served")
        pieces, count = struct.unpack("=QQ", caller.read(arguments[1] + 16, 16))  # msg_iov, msg_iovlen
        vector = caller.read(pieces, 16 * min(count, MAX_PIECES))
        raw = b""
        for address, length in struct.iter_unpack("=QQ", vector):
            raw += caller.read(address, min(length, MAX_BYTES - len(raw)))
        return raw
