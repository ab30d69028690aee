"""May this process make namespaces and devices? As root yes; an ordinary user becomes root in a user namespace.

Read first: user_namespaces(7), capabilities(7).
"""

from __future__ import annotations

import os
from pathlib import Path

from ibbond.host import netns

CAP_NET_ADMIN, CAP_SYS_ADMIN = 12, 21


def may_make_namespaces() -> bool:
    """Whether this process is root, as far as a lab needs it."""
    wanted = 1 << CAP_SYS_ADMIN | 1 << CAP_NET_ADMIN
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16) & wanted == wanted
    return os.geteuid() == 0


def become_able() -> bool:
    """Enter a user namespace of our own where that is needed; whether it was. `Refused` where it is not allowed."""
    if may_make_namespaces():
        return False
    netns.become_root()
    return True
