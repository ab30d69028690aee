"""The values of one bond's options: `struct bond_params`, made from the table of options.

Read first: `options`. Delays are kept in runs of the monitor (ticks), as the kernel keeps them: a later change of
miimon changes their milliseconds. Left out: lists that belong to members (queue ids, priorities).
"""

from dataclasses import dataclass, field, fields

from ibbond.bonding.option import Kind, Mode
from ibbond.bonding.options import OPTIONS
from ibbond.bonding.quirks import Rules

TICKS = frozenset(option.name for option in OPTIONS.values() if option.counted_in_runs)


MODES = {int(mode): mode for mode in Mode}


@dataclass(slots=True)
class Values:
    """One field per number of the table, under its `key`; then what is not a number."""

    mode: int
    primary_reselect: int
    fail_over_mac: int
    miimon: int
    updelay: int  # ticks
    downdelay: int  # ticks
    use_carrier: int
    arp_interval: int
    arp_validate: int
    arp_all_targets: int
    arp_missed_max: int
    num_peer_notif: int
    peer_notif_delay: int  # ticks
    resend_igmp: int
    all_slaves_active: int
    min_links: int
    xmit_hash_policy: int
    packets_per_slave: int
    lp_interval: int
    tlb_dynamic_lb: int
    lacp_rate: int
    lacp_active: int
    ad_select: int
    ad_actor_sys_prio: int
    ad_user_port_key: int
    coupled_control: int
    broadcast_neighbor: int
    lacp_strict: int
    link_events: int
    handover_ms: int
    primary: str = field(default="", init=False)  # the name that was asked for, a member's or not
    arp_ip_target: tuple[bytes, ...] = field(default=(), init=False)
    ns_ip6_target: tuple[bytes, ...] = field(default=(), init=False)
    ad_actor_system: bytes = field(default=bytes(6), init=False)

    @property
    def kind(self) -> Mode:
        return MODES[self.mode]

    @property
    def uses_primary(self) -> bool:
        return self.kind.uses_primary

    @property
    def active_backup(self) -> bool:
        return self.mode == Mode.ACTIVE_BACKUP

    def number(self, key: str) -> int:
        """The value of a row of numbers, as it is shown: delays in milliseconds."""
        value = getattr(self, key)
        assert isinstance(value, int), key
        return _int32(value * self.miimon) if key in TICKS else value

    def store(self, key: str, number: int) -> None:
        assert key in NUMBERS, key
        setattr(self, key, number)


def _int32(number: int) -> int:
    """Delays of absurd length overflow in the kernel's driver, and so they read there."""
    return (number + 2**31) % 2**32 - 2**31


NUMBERS = tuple(entry.name for entry in fields(Values) if entry.type in (int, "int"))


def initial(rules: Rules) -> Values:
    """The values of a new bond: the table's defaults, where the profile has no other."""
    rows = {option.key: option for option in OPTIONS.values() if option.kind is Kind.VALUE and not option.of_member}
    return Values(**{key: rules.default(option.name, option.default) for key, option in rows.items()})
