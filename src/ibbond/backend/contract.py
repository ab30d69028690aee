"""What a set of bonds can do, whichever driver has them: the sysfs store as text, and the IP settings beside it.

The request language is the kernel's own: a path below /sys/class/net and a text. Options without a file (the kernel has
them in netlink only, ibbond's driver has some of its own) are read and written as if they had one. `backend.emulated`
answers from ibbond's driver in a lab host, `backend.kernel` from this host's files and rtnetlink; the commands, `check`
and the sysfs view speak only this.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

from ibbond.bonding.option import Option, Version
from ibbond.bonding.options import OPTIONS
from ibbond.bonding.snapshot import BondSnapshot
from ibbond.errors import Refused

if TYPE_CHECKING:  # values of rtnetlink, which only changes and `ip_settings` need
    from ibbond.host.ip_settings import IpSetting


class Files(Protocol):
    """Texts below /sys/class/net. Every method may raise `Refused`, whose `code` is the refused call's errno."""

    def read(self, path: str) -> str:
        """The text of one file below /sys/class/net, e.g. `bond0/bonding/mode`."""
        ...

    def write(self, path: str, text: str) -> None:
        """One write(2) of `text`, byte for byte."""
        ...

    def entries(self, path: str) -> list[str]:
        """The names in one directory below /sys/class/net, sorted."""
        ...

    def proc(self, bond: str) -> str:
        """The text of /proc/net/bonding/BOND."""
        ...


class Backend(Files, Protocol):
    """A host's bonds, read and changed. Every method may raise `Refused`."""

    where: str  # "h1" in a lab, "" for this host: what precedes DEV in names

    @property
    def version(self) -> Version:
        """The kernel whose options and words the driver has; (0, 0) where that is not known."""
        ...

    @property
    def loaded(self) -> bool:
        """Whether the driver is there."""
        ...

    def load_driver(self) -> None:
        """Load the bonding driver if it is not loaded; `Refused` if that fails."""
        ...

    def bonds(self) -> list[str]:
        """The names of the bonds; none where the driver is not loaded."""
        ...

    def options(self, bond: str) -> dict[str, str]:
        """The text of every option that can be read now, those without a file too; no newlines."""
        ...

    def master(self, device: str) -> str | None:
        """The bond (or bridge, or team) that a device is a member of."""
        ...

    def snapshot(self, bond: str) -> BondSnapshot:
        """Everything about one bond, read at once; `Refused` (ENOENT) if it does not exist."""
        ...

    def set_admin(self, device: str, up: bool) -> None:
        """`ip link set DEVICE up|down`."""
        ...

    def addresses(self, device: str) -> list[str]:
        """The IP addresses with prefix length, `10.0.0.1/24`."""
        ...

    def ip_settings(self) -> tuple[IpSetting, ...]:
        """What users have set on devices: addresses, routes, permanent neighbors, rules."""
        ...

    def add_ip(self, setting: IpSetting) -> None:
        """Make a setting; one that is there already is fine."""
        ...

    def delete_ip(self, setting: IpSetting) -> None:
        """Remove a setting; one that is not there is fine."""
        ...

    def owner_of(self, device: str, address: bytes) -> bytes | None:
        """The hardware address of another host that answers for an IPv4 address; None without one, or an answer.

        A lab's bonds detect that themselves and report it as the event `duplicate`.
        """
        ...

    def log(self) -> list[str]:
        """The driver's last log lines, oldest first; empty where they cannot be read."""
        ...

    def new_log_lines(self) -> list[str]:
        """The driver's log lines since the last call; none at the first."""
        ...

    def watch(self) -> Iterator[dict[str, object]]:
        """Changes as they happen: `{"t_ms", "what", "where", ...}`."""
        ...

    def alone(self) -> AbstractContextManager[None]:
        """While it lasts no other ibbond changes these bonds. Refused (EBUSY) when another one does not finish."""
        ...

    def reconnect(self) -> Backend:
        """The same bonds over connections of its own, for another process."""
        ...


def option_without_file(path: str) -> tuple[str, Option] | None:
    """The bond and the option that a path such as `bond0/bonding/prio` stands for, where no driver has that file."""
    bond, _, name = path.partition("/bonding/")
    option = OPTIONS.get(name)
    return (bond, option) if option is not None and not option.has_file else None


def text(host: Backend, path: str) -> str | None:
    """The text of a file without its newline; None for one that is not there or cannot be read now."""
    with contextlib.suppress(Refused):
        return host.read(path).rstrip("\n")
    return None


def number(host: Backend, path: str) -> int | None:
    """A decimal or 0x number in a file; None if there is no number."""
    with contextlib.suppress(TypeError, ValueError):
        return int(text(host, path) or "", 0)
    return None
