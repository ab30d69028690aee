"""A bond at one moment, as a value: what sysfs, procfs, netlink, the CLI and JSON are rendered from."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class MemberSnapshot:
    """One member; `state` is active or backup, `link` one of up, going down, down, going back."""

    name: str
    state: str
    link: str
    link_failure_count: int
    permanent_address: bytes
    queue_id: int = 0
    priority: int = 0
    speed: int | None = None  # Mbit/s
    duplex: str | None = None


@dataclass(frozen=True, slots=True)
class BondSnapshot:
    """One bond; `options` maps every option of the table to its value (ints, words as their number, tuples, text)."""

    name: str
    type: int
    address: bytes
    broadcast: bytes
    mtu: int
    up: bool
    carrier: bool
    active: str | None
    primary: str | None
    members: tuple[MemberSnapshot, ...]
    options: dict[str, object] = field(default_factory=dict)
