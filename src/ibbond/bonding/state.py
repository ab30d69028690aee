"""What a bond knows (`struct bonding`), and the two ways in which it speaks: effects and log lines.

The other files of this room are the bond's behavior, one subject each; they all work on this state. Left out: any
decision.
"""

import enum
from collections.abc import Callable
from dataclasses import dataclass, field

from ibbond.bonding.effects import BondEffect, Changed, Log
from ibbond.bonding.member import Member
from ibbond.bonding.option import Mode
from ibbond.bonding.quirks import Rules
from ibbond.bonding.values import Values
from ibbond.machine import MS, Timers
from ibbond.netdev.device import AddressOrigin, Device, Flags
from ibbond.netdev.namespace import Namespace

JIFFY = 4 * MS  # HZ=250, as the recordings have it; the kernel delays some work by one
ADDRESS_BYTES = 32  # MAX_ADDR_LEN


class BondTimer(enum.Enum):
    """What a bond waits for, but for members' delays and announcements, which wait for more than a time."""

    MONITOR = enum.auto()  # the next run of the MII monitor
    ARP = enum.auto()  # the next run of the ARP monitor
    REPORTS = enum.auto()  # the next repetition of group reports
    LACP = enum.auto()
    OVERHEARING = enum.auto()  # until the member that is overhearing stops


@dataclass(eq=False, slots=True)
class Preparation:
    """A planned switch that waits until `target` has joined its groups, but not longer than `until`."""

    target: Member
    until: int


@dataclass(eq=False, slots=True)
class State:
    """One bond. `now` is the time of the event that is being handled."""

    device: Device
    namespace: Namespace
    rules: Rules
    values: Values
    log_to: Callable[[str, Log], None] | None = None
    members: dict[str, Member] = field(default_factory=dict)
    active_member: Member | None = None
    primary_member: Member | None = None
    arp_member: Member | None = None  # current_arp_slave: tried while none is active
    force_primary: bool = False
    timers: Timers[BondTimer] = field(default_factory=Timers)
    announcements_left: int = 0
    announce_at: int | None = None
    reports_left: int = 0
    overhearing: Member | None = None  # balance-alb: receives all, because a dead member has an address in use
    lock_taken: bool = False  # the request that queued a run of the monitor still holds the lock (kernel only)
    probing: bool = False  # frames are looked at for the ARP monitor (recv_probe)
    preparation: Preparation | None = None
    ip_addresses: frozenset[bytes] = frozenset()
    promiscuous_seen: bool = False
    allmulti_seen: bool = False
    address_memory: bytes = bytes(ADDRESS_BYTES)  # dev_addr beyond the type's address length
    made_up: int = 0  # how many addresses were made up
    gone: bool = False  # the bond's device has left its namespace
    now: int = 0
    effects: list[BondEffect] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.device.name

    @property
    def active(self) -> str | None:
        """The name of the member in use."""
        return self.active_member.name if self.active_member else None

    @property
    def running(self) -> bool:
        return self.device.up

    def run_monitor_now(self) -> None:
        """Queue the MII monitor with delay 0."""
        self.timers.set(BondTimer.MONITOR, self.now)
        self.lock_taken = self.rules.kernel("first_run_locked_out")

    def run_arp_monitor_now(self) -> None:
        self.timers.set(BondTimer.ARP, self.now)
        self.lock_taken = self.rules.kernel("first_run_locked_out")

    def monitor_ran_without_members(self) -> None:
        """The run that the kernel queues when a bond is opened ends before the first member joins; here too."""
        if not self.rules.kernel("first_run_locked_out"):
            return
        if self.timers.get(BondTimer.MONITOR) is not None:
            self.timers.set(BondTimer.MONITOR, self.now + self.values.miimon * MS)
        if self.timers.get(BondTimer.ARP) is not None:
            self.timers.set(BondTimer.ARP, self.now + self.values.arp_interval * MS)
        self.lock_taken = False

    def member_of(self, device: Device) -> Member | None:
        return next((member for member in self.members.values() if member.device is device), None)

    def emit(self, effect: BondEffect) -> None:
        self.effects.append(effect)

    def changed(self, attribute: str, member: Member | None = None) -> None:
        self.emit(Changed(attribute, member.name if member else None))

    def say(self, text: str, member: Member | None = None, level: str = "info") -> None:
        self.say_of(text, member.name if member else None, level)

    def say_of(self, text: str, member: str | None, level: str = "info") -> None:
        """A log line; also one that explains a refusal, so it goes to the log before the refusal is raised."""
        line = Log(text, member, level)
        self.emit(line)
        if self.log_to is not None:
            self.log_to(self.name, line)

    def say_what_mode_carries(self) -> None:
        """Log that modes other than active-backup can be configured but carry no traffic."""
        mode = self.values.kind
        if mode is not Mode.ACTIVE_BACKUP:
            self.say(f"mode {mode.word} carries no traffic in this driver: use active-backup", level="warning")

    def take_effects(self) -> list[BondEffect]:
        effects, self.effects = self.effects, []
        return effects


def made_up_address(state: State) -> bytes:
    """Six random octets: locally administered, unicast, different for every bond and every call."""
    state.made_up += 1
    number = (state.device.ifindex << 16 | state.made_up & 0xFFFF) & 0xFF_FFFF_FFFF
    return b"\x02" + number.to_bytes(5, "big")


def has_own_address(state: State) -> bool:
    """The bond's address is still made up, so the first member's may replace it."""
    return state.device.address_origin is AddressOrigin.RANDOM


def is_promiscuous(state: State) -> bool:
    return bool(state.device.flags & Flags.PROMISC)


def takes_all_multicast(state: State) -> bool:
    return bool(state.device.flags & Flags.ALLMULTI)
