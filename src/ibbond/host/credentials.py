"""Who is at the other end of a Unix socket, as the kernel says it.

Read first: unix(7) on SO_PEERCRED, SO_PASSCRED and SCM_CREDENTIALS. Ids are those of the lab's user namespace, pids
those of its pid namespace; the kernel translates. Left out: what a user may do (`host.device_access`).
"""

from __future__ import annotations

import socket
import struct
from typing import Any, NamedTuple

from ibbond.host import foreign_descriptors

UCRED = struct.Struct("=iII")  # struct ucred
ROOM = socket.CMSG_SPACE(UCRED.size) + socket.CMSG_SPACE(4 * foreign_descriptors.MAX_IN_MESSAGE)
Address = Any


class Credentials(NamedTuple):
    """A process; `pid` is 0 when it has no number in our pid namespace."""

    pid: int
    uid: int
    gid: int


def of_peer(sock: socket.socket) -> Credentials:
    """The process that connected this stream or sequenced-packet socket, with its ids at that time."""
    return Credentials(*UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, UCRED.size)))


def receive(sock: socket.socket, size: int) -> tuple[bytes, Credentials | None, Address]:
    """A datagram, its sender, and the sender's address. The socket has had SO_PASSCRED since before it was bound.

    Descriptors that come along are discarded.
    """
    data, ancillary, _, address = sock.recvmsg(size, ROOM, socket.MSG_CMSG_CLOEXEC)
    sender = None
    for level, kind, value in ancillary:
        if level != socket.SOL_SOCKET:
            continue
        if kind == socket.SCM_CREDENTIALS and len(value) >= UCRED.size:
            sender = Credentials(*UCRED.unpack_from(value))
        elif kind == socket.SCM_RIGHTS:
            foreign_descriptors.discard(*(number for (number,) in struct.iter_unpack("=i", value)))
    return data, sender, address
