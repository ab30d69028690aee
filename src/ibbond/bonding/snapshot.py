"""A bond at one moment, as a value: what sysfs, procfs, netlink, the CLI and JSON are rendered from."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class LacpSide:
    """What one side of a link says of itself in its LACPDUs: half of `details ... lacp pdu` in procfs."""

    system_priority: int
    system_address: bytes
    key: int
    port_priority: int
    port_number: int
    state: int


@dataclass(frozen=True, slots=True)
class LacpPort:
    """What 802.3ad knows of a member that belongs to an aggregator."""

    aggregator: int
    actor_churn: str
    partner_churn: str
    actor_churned: int
    partner_churned: int
    actor: LacpSide
    partner: LacpSide


@dataclass(frozen=True, slots=True)
class Aggregator:
    """The active aggregator of an 802.3ad bond."""

    identifier: int
    ports: int
    actor_key: int
    partner_key: int
    partner_address: bytes


@dataclass(frozen=True, slots=True)
class Lacp:
    """What 802.3ad knows of the bond as a whole; all zero until it has had its first member."""

    system_priority: int = 0
    system_address: bytes = bytes(6)
    aggregator: Aggregator | None = None


@dataclass(frozen=True, slots=True)
class MemberSnapshot:
    """One member; `state` is active or backup, `link` one of up, going down, down, going back.

    `unknown` names the fields that the source did not give (an old driver, a partial copy); their values mean nothing.
    """

    name: str
    state: str
    link: str
    link_failure_count: int
    permanent_address: bytes
    queue_id: int = 0
    priority: int = 0
    speed: int | None = None  # Mbit/s
    duplex: str | None = None
    lacp: LacpPort | None = None  # 802.3ad only
    unknown: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class BondSnapshot:
    """One bond; `options` maps every option of the table to its value (ints, words as their number, tuples, text).

    `unknown` names the fields that the source did not give; an option that it did not give is not in `options`.
    """

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
    lacp: Lacp = Lacp()  # means something in 802.3ad only
    unknown: frozenset[str] = frozenset()
