"""Names of devices as people type them, and whose bonds they mean.

`h1/bond0` is a device of host h1 in a lab; a plain `bond0` is this host's own, or, inside `ibbond lab exec h1`, that
host's. Backends are imported when they are needed: most commands need one of the two.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from ibbond.backend.contract import Backend
from ibbond.backend.control_socket import CONTROL, HOST, Control, LabBackend
from ibbond.errors import Refused


class DeviceName(NamedTuple):
    """`host` is empty for this host's own kernel."""

    host: str
    device: str

    def __str__(self) -> str:
        return f"{self.host}/{self.device}" if self.host else self.device


def parse_device(name: str) -> DeviceName:
    """`h1/bond0`, or `bond0` as this process's surroundings mean it."""
    host, slash, device = name.rpartition("/")
    if not device or (slash and not host) or "/" in host:
        raise Refused(
            f"{name!r} is no device name",
            why="a device is HOST/DEVICE in a lab, or a plain DEVICE of this host",
            fix="Write for example h1/bond0, or bond0",
        )
    return DeviceName(host or inside_host(), device)


def parse_host(name: str) -> str:
    """A lab host by name; the empty name is the one we are inside of, or this host."""
    return name.rstrip("/") or inside_host()


def inside_host() -> str:
    """The lab host in which this process runs, or nothing."""
    return os.environ.get(HOST, "") if os.environ.get(CONTROL) else ""


def backend_of(host: str, lab: str = "") -> Backend:
    """The bonds of a lab host, or of this host when the name is empty."""
    if host:
        control = Control.of(lab)
        control.ask("host", host=host)
        return LabBackend(control, host)
    from ibbond.backend.kernel.bonds import KernelBackend

    return KernelBackend()
