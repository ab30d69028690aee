"""What a set of bonds can do, whoever drives them: the sysfs store, read and written as text.

The request language is the kernel's own: a path below /sys/class/net and a text. `backend.own` answers it from our
driver in a lab host, `backend.kernel` from this host's files; the CLI, `check` and the view speak only this.
"""

from collections.abc import Iterator
from typing import Protocol

from ibbond.bonding.snapshot import BondSnapshot


class Backend(Protocol):
    """A host's bonds. Every method may raise `Refused`, whose `code` is the errno of the refused system call."""

    where: str  # "h1" in a lab, "" for this host: what stands before DEV in names

    def read(self, path: str) -> str:
        """The text of one file below /sys/class/net, e.g. `bond0/bonding/mode`."""
        ...

    def write(self, path: str, text: str) -> None:
        """One write(2) of `text`, byte for byte."""
        ...

    def entries(self, path: str) -> list[str]:
        """The names in one directory below /sys/class/net, sorted."""
        ...

    def set_admin(self, device: str, up: bool) -> None:
        """`ip link set DEVICE up|down`."""
        ...

    def addresses(self, device: str) -> list[str]:
        """The IP addresses with prefix length, `10.0.0.1/24`."""
        ...

    def add_address(self, device: str, address: str) -> None: ...

    def snapshot(self, bond: str) -> BondSnapshot: ...

    def proc(self, bond: str) -> str:
        """The text of /proc/net/bonding/BOND."""
        ...

    def log(self) -> list[str]:
        """The driver's last log lines, oldest first; empty where they cannot be read."""
        ...

    def watch(self) -> Iterator[dict[str, object]]:
        """Changes as they happen: `{"t_ms", "what", "where", ...}`."""
        ...
