"""How many files this process may still open, and the reserve that programs in hosts cannot use up.

Read first: getrlimit(2), RLIMIT_NOFILE. The kernel gives out the lowest free number, so a number near the limit says
that few are left. What a host causes to be opened (connections, memory, devices) asks `is_scarce` and gives the
descriptor back; the reserve stays for the lab's own: its control socket, files that it writes, programs it starts.
"""

from __future__ import annotations

import resource
from typing import Final

RESERVE: Final = 48
ALWAYS: Final = 16  # of the reserve, what even control connections leave


def is_scarce(descriptor: int, reserve: int = RESERVE) -> bool:
    """Whether fewer than `reserve` descriptors were left when this one was opened."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft != resource.RLIM_INFINITY and descriptor >= soft - reserve
