"""Who in a lab host may open which InfiniBand device file, and the port that it leads to: a real host's rules. Pure.

Read first: `umad_devnode` of drivers/infiniband/core/user_mad.c, `ucma_misc` of ucma.c; rdma-core's udev rules, which
in Debian leave the modes alone. umad and issm are root's, mode 0600. A process that has umad open may send any MAD,
Sets of subnet management included: the kernel checks nothing more. rdma_cm has mode 0666. A host has
device files for the end ports of its own adapters and for nothing else of the subnet.

A server asks here before it lets a program in, with credentials that come from the kernel (`host.credentials`), never
with what the program says of itself. Left out: how programs get in.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence

from ibbond.host.credentials import Credentials

ROOT = 0


class DeviceFile(enum.Enum):
    """The mode of a file below /dev/infiniband; owner and group are root."""

    UMAD = "umad", 0o600
    ISSM = "issm", 0o600
    RDMA_CM = "rdma_cm", 0o666

    @property
    def mode(self) -> int:
        mode: int = self.value[1]
        return mode


def may_open(who: Credentials, file: DeviceFile) -> bool:
    """Whether open(2) for reading and writing would succeed: path_resolution(7), where root has every capability."""
    if who.uid == ROOT:
        return True
    shift = 3 if who.gid == ROOT else 0
    return file.mode >> shift & 0o6 == 0o6


def port_of(node: str, host: str, ports: Sequence[str], is_active: Callable[[str], bool]) -> str | None:
    """The end port (of `ports`, all that the host has) that a program names; None when it is not this host's.

    `h1:2` and `h1/2` are ports. The host's name and no name at all are its first active port, as libibumad chooses,
    an adapter's name the first active one there; where none is active, the first.
    """
    name = node.replace(":", "/", 1)
    if "/" in name:
        return name if name in ports else None
    found = [port for port in ports if name in ("", host) or port.partition("/")[0] == name]
    return next((port for port in found if is_active(port)), found[0] if found else None)
