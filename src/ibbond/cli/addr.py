"""Names of devices as people type them, and whose bonds they mean.

`h1/bond0` is a device of host h1 in a lab; a plain `bond0` is this host's own, or, inside `ibbond lab exec h1`, that
host's. Backends are imported when they are needed: most commands need one of the two.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import NamedTuple

from ibbond.backend.contract import Backend
from ibbond.backend.control_socket import CONTROL, HOST, Control, LabBackend
from ibbond.cli.output import as_dict
from ibbond.errors import Refused


class DeviceName(NamedTuple):
    """`host` is empty for this host's own kernel."""

    host: str
    device: str

    def __str__(self) -> str:
        return f"{self.host}/{self.device}" if self.host else self.device


def parse_device(name: str, lab: str = "") -> DeviceName:
    """`h1/bond0`, or `bond0` as this process's surroundings mean it; with a lab named, it must be one of that lab's."""
    host, slash, device = name.rpartition("/")
    if not device or (slash and not host) or "/" in host:
        raise Refused(
            f"{name!r} is not a device name",
            why="a device is HOST/DEVICE in a lab, or a plain DEVICE of this host",
            fix="For example: h1/bond0, or bond0",
        )
    if not (host := host or inside_host()) and lab:
        bonds = [f"{host}/{bond}" for host, bonds in bonds_of(lab).items() for bond in bonds]
        fix = f"Choose one of {listed(bonds)}" if bonds else "For example: h1/bond0"
        why = "with --name or IBBOND_LAB a bond is HOST/BOND"
        raise Refused(f"{name!r} does not name a bond of lab {lab}", why=why, fix=fix)
    return DeviceName(host, device)


def parse_host(name: str, lab: str = "") -> str:
    """A lab host by name; the empty name is the one we are inside of, or, with no lab named, this host."""
    host = name.rstrip("/") or inside_host()
    if not host and lab:
        why = "--name and IBBOND_LAB choose the lab, not the host"
        raise Refused(
            f"lab {lab} has several hosts and none was named", why=why, fix=f"Choose one of {listed(bonds_of(lab))}"
        )
    return host


def bonds_of(lab: str) -> dict[str, list[str]]:
    """The hosts of a lab and the bonds of each. Refused when it does not run."""
    with Control.of(lab) as control:
        hosts = as_dict(as_dict(control.ask("status"))["hosts"])
    return {host: list(as_dict(as_dict(facts)["bonds"])) for host, facts in hosts.items()}


def listed(names: Iterable[str]) -> str:
    from ibbond.topology.model import listed as sentence

    return sentence(names)


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
