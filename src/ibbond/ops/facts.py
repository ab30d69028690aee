"""What `ibbond check` knows of a host when it judges: values only, read by ops/read_*.py, judged by ops/rules*.py.

None means unknown (an older driver, a saved copy without that file), and `unknown` names such facts
where a value has no None; a rule that needs one of them stays silent rather than guess.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ibbond.abi.ip_text import RouteText
from ibbond.bonding.option import Mode, Version
from ibbond.bonding.snapshot import BondSnapshot, MemberSnapshot
from ibbond.config.desired import Desired, Match
from ibbond.wire.hardware_type import INFINIBAND


@dataclass(frozen=True, slots=True)
class PortFacts:
    """The port of an RDMA adapter below a device.

    `card` names the piece of hardware that dies at once, `socket` the one that a cable is plugged into, `neighbor` the
    switch at its other end; `pkeys` is the port's table without empty entries.
    """

    adapter: str | None  # mlx5_0
    card: str | None
    number: int
    state: str | None  # ACTIVE, INIT, DOWN
    sm_lid: int | None
    neighbor: str | None
    link_layer: str | None = None  # InfiniBand, Ethernet (RoCE)
    phys_state: str | None = None  # LinkUp, Polling, Disabled
    rate: str | None = None  # 100 Gb/sec (4X EDR)
    socket: str | None = None
    pkeys: tuple[int, ...] | None = None

    @property
    def is_infiniband(self) -> bool:
        """False for a RoCE port, which has a `state` and a `rate` too; older kernels do not report it, and had none."""
        return self.link_layer != "Ethernet"


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """A network device. Addresses are `10.0.0.1/24`, link-local ones too; `pkey` has its full-member bit as read."""

    name: str
    type: int | None = None
    up: bool | None = None
    carrier: bool | None = None
    mtu: int | None = None
    hardware_address: bytes = b""
    broadcast: bytes = b""
    addresses: tuple[str, ...] | None = None
    address_flags: Mapping[str, frozenset[str]] = field(default_factory=dict)
    pkey: int | None = None
    transport: str | None = None  # datagram, connected
    carrier_changes: int | None = None
    max_mtu: int | None = None
    port: PortFacts | None = None
    flags: int | None = None
    speed: int | None = None  # Mbit/s
    master: str | None = None  # the bond, bridge or VRF above it
    lower: tuple[str, ...] = ()  # the devices below it

    @property
    def is_infiniband(self) -> bool:
        return self.type == INFINIBAND


@dataclass(frozen=True, slots=True)
class MemberFacts:
    """A member: what the bonding driver says of it, and what its device says of itself."""

    bonding: MemberSnapshot
    device: DeviceFacts

    @property
    def name(self) -> str:
        return self.bonding.name

    @property
    def link(self) -> str | None:
        return None if "link" in self.bonding.unknown else self.bonding.link

    @property
    def is_missing(self) -> bool:
        """A copy has nothing of it but its name."""
        return "link" in self.bonding.unknown and self.device.type is None and self.device.up is None

    @property
    def address(self) -> bytes:
        """The hardware address of the port, whole: kernels before 4.12 keep 6 of 20 bytes as the permanent one."""
        permanent = self.bonding.permanent_address
        return permanent if len(permanent) >= len(self.device.hardware_address) else self.device.hardware_address


@dataclass(frozen=True, slots=True)
class Expected:
    """A member that a bond should have, and what says so: a place in a file, or `--expect`."""

    match: Match
    source: str


@dataclass(frozen=True, slots=True)
class BondFacts:
    """A bond. `expected` are the members that the host's configuration, or the person who asks, gives it."""

    snapshot: BondSnapshot
    device: DeviceFacts
    members: tuple[MemberFacts, ...]
    expected: tuple[Expected, ...] = ()
    generated_link_local: bool = True  # made from the hardware address, as addr_gen_mode eui64 does

    @property
    def name(self) -> str:
        return self.snapshot.name

    @property
    def type(self) -> int | None:
        """The type of its members, if one reports it, else its own."""
        found = {member.device.type for member in self.members} - {None}
        if INFINIBAND in found or ("type" not in self.snapshot.unknown and self.snapshot.type == INFINIBAND):
            return INFINIBAND
        return next(iter(found), None if "type" in self.snapshot.unknown else self.snapshot.type)

    @property
    def is_infiniband(self) -> bool:
        return self.type == INFINIBAND

    @property
    def mode(self) -> Mode | None:
        value = self.snapshot.options.get("mode")
        return Mode(value) if isinstance(value, int) else None

    def number(self, option: str) -> int:
        """The value of an option that is a number or a word. A rule that asks names the option in its `needs`."""
        value = self.snapshot.options.get(option, 0)
        return value if isinstance(value, int) else 0

    def targets(self, option: str) -> tuple[object, ...]:
        value = self.snapshot.options.get(option, ())
        return value if isinstance(value, tuple) else ()

    def member(self, name: str | None) -> MemberFacts | None:
        return next((member for member in self.members if member.name == name), None)


@dataclass(frozen=True, slots=True)
class HostFacts:
    """A host.

    `version` is that of its kernel, None where it is not known; `is_ours` marks a lab host, whose driver is ibbond's;
    `where` and `lab` name it, the lab only where commands must (a lab host that is looked at from outside).
    `bonds` are those to judge, `bond_names` all that there are.
    `sysctls` maps `ipv4/conf/bond0/arp_ignore` to its value; `devices` has every device, members and bonds too.
    `unreadable` has a sentence for each bond that could not be judged at all. `desired` is what its files want.
    """

    bonds: tuple[BondFacts, ...]
    version: Version | None = None
    release: str = ""
    failures_allowed: int = 2
    is_ours: bool = False
    where: str = ""
    lab: str = ""
    bond_names: frozenset[str] = frozenset()
    devices: Mapping[str, DeviceFacts] = field(default_factory=dict)
    routes: tuple[RouteText, ...] | None = None
    sysctls: Mapping[str, int] = field(default_factory=dict)
    unreadable: Mapping[str, str] = field(default_factory=dict)
    desired: Desired = field(default_factory=Desired)

    def conf(self, family: str, device: str, name: str) -> int | None:
        """What holds for a device: the greater of its own value and that of `all`, as the kernel reads arp_ignore."""
        own, every = (self.sysctls.get(f"{family}/conf/{where}/{name}") for where in (device, "all"))
        return None if own is None else max(own, every or 0)
