"""What `ibbond check` knows of a host when it judges: values only, read by ops/read_facts.py, judged by ops/rules*.py.

None means that the host did not tell (an older driver, a lab host, a saved copy without that file); a rule then stays
silent rather than guess.
"""

from __future__ import annotations

from dataclasses import dataclass

from ibbond.bonding.option import Version
from ibbond.bonding.snapshot import BondSnapshot, MemberSnapshot
from ibbond.wire.hardware_type import INFINIBAND


@dataclass(frozen=True, slots=True)
class PortFacts:
    """The InfiniBand port below a device. `card` names the piece of hardware that dies at once; `neighbor` a switch."""

    adapter: str | None  # mlx5_0
    card: str | None
    number: int
    state: str | None  # ACTIVE, INIT, DOWN
    sm_lid: int | None
    neighbor: str | None


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """A network device. Addresses are `10.0.0.1/24`, link-local ones too; `pkey` has its full-member bit as read."""

    name: str
    type: int
    up: bool
    carrier: bool | None
    mtu: int
    hardware_address: bytes
    broadcast: bytes
    addresses: tuple[str, ...] = ()
    pkey: int | None = None
    transport: str | None = None  # datagram, connected
    carrier_changes: int | None = None
    max_mtu: int | None = None
    port: PortFacts | None = None


@dataclass(frozen=True, slots=True)
class MemberFacts:
    """A member: what the bonding driver says of it, and what its device says of itself."""

    bonding: MemberSnapshot
    device: DeviceFacts

    @property
    def name(self) -> str:
        return self.bonding.name


@dataclass(frozen=True, slots=True)
class BondFacts:
    """A bond. `expected` are the members that the host's configuration gives it, where one was found."""

    snapshot: BondSnapshot
    device: DeviceFacts
    members: tuple[MemberFacts, ...]
    expected: tuple[str, ...] | None = None
    expected_from: str = ""
    generated_link_local: bool = True  # made from the hardware address, as addr_gen_mode eui64 does

    @property
    def name(self) -> str:
        return self.snapshot.name

    @property
    def is_infiniband(self) -> bool:
        return self.snapshot.type == INFINIBAND or any(member.device.type == INFINIBAND for member in self.members)

    def number(self, option: str) -> int:
        """The value of an option that is a number or a word."""
        value = self.snapshot.options.get(option, 0)
        return value if isinstance(value, int) else 0

    def targets(self, option: str) -> tuple[object, ...]:
        value = self.snapshot.options.get(option, ())
        return value if isinstance(value, tuple) else ()


@dataclass(frozen=True, slots=True)
class HostFacts:
    """A host. `version` is that of the kernel whose bonding driver it is, None in a lab host with ours."""

    bonds: tuple[BondFacts, ...]
    version: Version | None = None
    release: str = ""
    failures_allowed: int = 2
