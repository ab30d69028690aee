"""How many files this process may still open, and the reserve that programs in hosts cannot use up.

Read first: getrlimit(2), RLIMIT_NOFILE. The kernel gives out the lowest free number, so a number near the limit says
that few are left. What a host causes to be opened (connections, memory, devices) asks `is_scarce` and gives the
descriptor back; the reserve stays for the lab's own: its control socket, files that it writes, programs it starts.
"""

from __future__ import annotations

import errno
import resource
from typing import Final

from ibbond.errors import Refused

RESERVE: Final = 48
OF_LAB: Final = 64  # what a lab opens
OF_HOST: Final = 28  # and for each host: devices, namespaces, sockets of its tools
ALWAYS: Final = 16  # of the reserve, what even control connections leave


def is_scarce(descriptor: int, reserve: int = RESERVE) -> bool:
    """Whether fewer than `reserve` descriptors were left when this one was opened."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft != resource.RLIM_INFINITY and descriptor >= soft - reserve


def raise_limit(hosts: int) -> tuple[int, int]:
    """Let this process open as many files as it may; the limits (soft, hard) before, which programs get that it starts.

    `Refused` where a lab of so many hosts needs more.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = OF_LAB + hosts * OF_HOST + RESERVE
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise Refused(
            f"cannot start a lab of {hosts} hosts",
            why=f"it needs {needed} open files, and this process may have {hard}",
            fix="Raise the hard limit (ulimit -H -n, or LimitNOFILE= of the service), or use fewer hosts",
            code=errno.EMFILE,
        )
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return soft, hard
