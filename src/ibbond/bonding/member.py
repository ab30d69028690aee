"""A device inside a bond, and what the bond remembers of it (`struct slave`).

`backup` and `inactive` are different things: backup or active is what is shown and what decides ARP validation,
inactive is what drops received frames. Read first: section 1 of the kernel's behavior in docs, `bonding.h` of Linux.
"""

import enum
from dataclasses import dataclass, field

from ibbond.netdev.device import Device, Statistics

MAX_TARGETS = 16
MAX_FAILURES = 2**32 - 1
UNKNOWN_SPEED = 2**32 - 1  # compares as the fastest, as in the kernel
DUPLEXES = {"half": 0, "full": 1, None: 255}


class Link(enum.IntEnum):
    """What the monitor concluded."""

    UP = 0
    FAIL = 1  # carrier lost, downdelay runs
    DOWN = 2
    BACK = 3  # carrier back, updelay runs

    @property
    def word(self) -> str:
        """As sysfs and procfs show it."""
        return ("up", "going down", "down", "going back")[self]


@dataclass(eq=False, slots=True)
class Member:
    """One member; times are monotonic nanoseconds, delays are runs of the monitor."""

    device: Device
    original_mtu: int
    permanent_address: bytes
    link: Link = Link.DOWN
    proposal: Link | None = None
    delay: int = 0
    delay_ends_at: int | None = None  # with link_events: when `delay` ends
    backup: bool = True
    inactive: bool = True
    last_link_up: int = 0
    last_rx: int = 0
    last_tx: int = 0
    target_rx: list[int] = field(default_factory=lambda: [0] * MAX_TARGETS)
    echoes: dict[int, int] = field(default_factory=dict)  # target -> when a probe of another member was received here
    failures: int = 0
    speed: int | None = None
    duplex: str | None = None
    queue_id: int = 0
    priority: int = 0
    counted: Statistics = field(default_factory=Statistics)
    solicited: tuple[bytes, ...] = ()  # the groups of IPv6 targets that it listens to as a backup
    aggregated: bool = False  # 802.3ad: it has an aggregator
    receives_until: int | None = None  # the handover after it was the active one

    @property
    def name(self) -> str:
        return self.device.name

    @property
    def usable(self) -> bool:
        """Running, with carrier (`bond_slave_is_up`)."""
        return self.device.usable

    @property
    def rank(self) -> tuple[int, int]:
        """Speed and duplex as `primary_reselect better` compares them; unknown is the best."""
        return (UNKNOWN_SPEED if self.speed is None else self.speed, DUPLEXES[self.duplex])

    def fail(self) -> None:
        """Count a failure."""
        if self.failures < MAX_FAILURES:
            self.failures += 1

    def refresh_speed(self) -> bool:
        """Read speed and duplex; False while they are unknown (`bond_update_speed_duplex`)."""
        self.speed = self.device.driver.speed(self.device)
        self.duplex = self.device.driver.duplex(self.device) if self.speed is not None else None
        return self.speed is not None
