"""Whether this machine can run a lab at all, found out by trying what a lab needs, in a process that ends at once."""

from __future__ import annotations

import subprocess
import sys

PROBE = """
import os
from ibbond.topology.model import DATAGRAM_MTU
from ibbond.errors import Refused
from ibbond.host import namespace, rtnetlink, tun
from ibbond.host.privilege import gain_privileges
try:
    gain_privileges()
    why = tun.available()
    if why is None:
        space = namespace.make(f"probe{os.getpid()}", "h")
        try:
            routes = space.run_in(rtnetlink.RouteSocket)
            tun.open_tun(space, routes, "ib0", mtu=DATAGRAM_MTU).close()
        finally:
            space.remove()
except Refused as refusal:
    why = str(refusal)
except OSError as error:
    why = str(error)
print(why or "", end="")
"""


def why_not_live() -> str | None:
    """None where namespaces and TUN devices work, else the reason in words."""
    try:
        tried = subprocess.run(
            [sys.executable, "-c", PROBE],
            capture_output=True,
            text=True,
            timeout=20,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if tried.returncode:
        return (tried.stderr.strip().splitlines() or ["it ended without a message"])[-1]
    return tried.stdout.strip().rstrip(".") or None
