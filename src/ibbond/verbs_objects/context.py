"""One open device: its objects by handle, and the commands that make, change and destroy them.

Read first: `wire.uverbs` for the commands, `drivers/infiniband/core/uverbs_cmd.c` of Linux for what each refuses.
OSError carries the errno of the system call. Left out: descriptors, which the server of programs gives out.
"""

from __future__ import annotations

import errno
import os
from typing import NoReturn

from ibbond.fabric.hca import Hca
from ibbond.verbs_objects.adapter import FIRMWARE, limits, port_attributes
from ibbond.wire import uverbs
from ibbond.wire.uverbs import Envelope, QueryDevice, QueryPort, Request


class Context:
    """The objects of one open device."""

    def __init__(self, hca: Hca) -> None:
        self._hca = hca

    def execute(self, envelope: Envelope, request: Request) -> bytes:
        """Carry out a command; its answer, as long as the program has room for. OSError when it is refused."""
        if not self._hca.alive:
            refuse(errno.EIO)
        match request:
            case QueryDevice():
                found = uverbs.pack_device(FIRMWARE, self._hca.guid, limits(self._hca), extended=envelope.extended)
                return envelope.fit(found)
            case QueryPort(number):
                port = self._hca.ports.get(number)
                return envelope.fit(uverbs.pack_port(port_attributes(port))) if port is not None else refuse()
        return refuse(errno.EOPNOTSUPP)


def refuse(number: int = errno.EINVAL) -> NoReturn:
    raise OSError(number, os.strerror(number))
