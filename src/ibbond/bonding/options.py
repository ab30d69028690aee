"""The table of options: one row each, read by the driver, sysfs text, netlink, the CLI and the reference page.

Read first: `bond_opts[]` (bond_options.c) and Documentation/networking/bonding.rst of Linux. The kernel's word tables
are kept as they are, `maxval` and `minval` included: the driver really takes them as words. Rows marked `ours` are
settings of this project; they are not sysfs files.
"""

from dataclasses import replace

from ibbond.bonding.option import ALL_MODES, INT_MAX, Kind, Mode, Option, Word

ARP_MODES = ALL_MODES - {Mode.LACP, Mode.BALANCE_TLB, Mode.BALANCE_ALB}
PRIMARY_MODES = frozenset(mode for mode in Mode if mode.uses_primary)
ADAPTIVE = frozenset({Mode.BALANCE_TLB, Mode.BALANCE_ALB})
LACP_ONLY = frozenset({Mode.LACP})
RR_ONLY = frozenset({Mode.BALANCE_RR})
BACKUP_ONLY = frozenset({Mode.ACTIVE_BACKUP})

OFF_TO_MAX = (Word("off", 0), Word("maxval", INT_MAX))
OFF_ON = (Word("off", 0), Word("on", 1))
TO_255 = (Word("off", 0), Word("maxval", 255), Word("default", 1))


def _words(*texts: str) -> tuple[Word, ...]:
    return tuple(Word(text, number) for number, text in enumerate(texts))


def _milliseconds(name: str, netlink: int, doc: str) -> Option:
    return Option(name, doc, netlink, words=OFF_TO_MAX, limits=(0, INT_MAX), default_word=0, unit="ms")


def _delay(name: str, netlink: int, label: str, doc: str) -> Option:
    return replace(_milliseconds(name, netlink, doc), label=label, counted_in_runs=True, needs="miimon")


_ROWS = (
    Option(
        "mode",
        "How members share the traffic. Only active-backup carries traffic in this driver.",
        1,
        words=_words(*(mode.word for mode in Mode)),
        default_word=0,
        no_members=True,
        bond_down=True,
        shows_word=True,
    ),
    Option("slaves", "The members, in the order in which they joined: +NAME adds, -NAME removes.", kind=Kind.MEMBERS),
    Option(
        "active_slave",
        "The member in use. Writing a name switches to it; an empty line lets the driver choose.",
        2,
        kind=Kind.NAME,
        modes=PRIMARY_MODES,
        after_members=True,
    ),
    Option(
        "primary",
        "The preferred member. The name may be that of a device that is not a member yet.",
        11,
        kind=Kind.NAME,
        modes=PRIMARY_MODES,
        after_members=True,
    ),
    Option(
        "primary_reselect",
        "When the primary takes over again: always, only if it is better (speed, duplex), or only after a failure.",
        12,
        words=_words("always", "better", "failure"),
        default_word=0,
        shows_word=True,
        in_effect=PRIMARY_MODES,
        since=(2, 6, 33),
    ),
    Option(
        "fail_over_mac",
        "Which hardware address the bond shows: one for all members, the active member's, or one that follows it."
        " Members of InfiniBand type force active.",
        13,
        words=_words("none", "active", "follow"),
        default_word=0,
        no_members=True,
        shows_word=True,
        in_effect=BACKUP_ONLY,
        since=(2, 6, 24),
    ),
    _milliseconds("miimon", 3, "The interval at which carriers are polled. Setting it stops the ARP monitor."),
    _delay(
        "updelay",
        4,
        "up delay",
        "How long a member's carrier must be back before the member is used; a multiple of miimon.",
    ),
    _delay(
        "downdelay",
        5,
        "down delay",
        "How long a member's carrier must be lost before the member fails; a multiple of miimon.",
    ),
    Option(
        "use_carrier",
        "Poll the carrier (on) or ask the driver's MII registers (off). Both are the same here.",
        6,
        default=1,
        words=OFF_ON,
        default_word=1,
        needs="miimon",
    ),
    Option(
        "arp_interval",
        "The interval at which ARP targets are probed. Setting it stops the MII monitor.",
        7,
        words=OFF_TO_MAX,
        limits=(0, INT_MAX),
        default_word=0,
        unit="ms",
        modes=ARP_MODES,
    ),
    Option(
        "arp_ip_target",
        "IPv4 addresses to probe, up to 16: +A.B.C.D adds, -A.B.C.D removes.",
        8,
        Kind.TARGETS,
        needs="arp_interval",
    ),
    Option(
        "ns_ip6_target",
        "IPv6 addresses to probe, up to 16.",
        31,
        Kind.TARGETS6,
        netlink_only=True,
        since=(5, 18),
        needs="arp_interval",
    ),
    Option(
        "arp_validate",
        "Accept only replies of targets as proof of life: on the active member, on backups, or on both; "
        "filter ignores everything but ARP and ND.",
        9,
        words=_words("none", "active", "backup", "all", "filter", "filter_active", "filter_backup"),
        default_word=0,
        modes=ARP_MODES,
        shows_word=True,
        needs="arp_interval",
        since=(2, 6, 19),
    ),
    Option(
        "arp_all_targets",
        "A member is up if any target answers, or only if all do.",
        10,
        words=_words("any", "all"),
        default_word=0,
        shows_word=True,
        needs="arp_interval",
        since=(3, 11),
    ),
    Option(
        "arp_missed_max",
        "The number of intervals without a reply after which a member fails.",
        30,
        default=2,
        words=(Word("minval", 1), Word("maxval", 255), Word("default", 2)),
        limits=(1, 255),
        default_word=2,
        modes=ARP_MODES,
        since=(5, 17),
        needs="arp_interval",
    ),
    Option(
        "num_grat_arp",
        "How many times a failover is announced to peers (gratuitous ARP and unsolicited NA).",
        16,
        default=1,
        words=TO_255,
        limits=(0, 255),
        default_word=1,
        field="num_peer_notif",
        in_effect=BACKUP_ONLY,
        since=(2, 6, 27),
    ),
    Option(
        "num_unsol_na",
        "Another name for num_grat_arp.",
        16,
        default=1,
        words=TO_255,
        limits=(0, 255),
        default_word=1,
        field="num_peer_notif",
        since=(2, 6, 29),
    ),
    Option(
        "peer_notif_delay",
        "The time between two of these messages; a multiple of miimon.",
        28,
        words=(Word("off", 0), Word("maxval", 300_000)),
        limits=(0, 300_000),
        unit="ms",
        needs="num_grat_arp",
        counted_in_runs=True,
        label="peer notification delay",
        since=(5, 3),
    ),
    Option(
        "resend_igmp",
        "How many times group reports (IGMP, MLD) are sent after a failover, 200 ms apart.",
        15,
        default=1,
        words=TO_255,
        limits=(0, 255),
        default_word=1,
        since=(2, 6, 37),
    ),
    Option(
        "all_slaves_active",
        "Also deliver packets that arrive at backups (including duplicates of broadcasts).",
        17,
        words=OFF_ON,
        default_word=0,
        since=(2, 6, 36),
    ),
    Option(
        "queue_id",
        "The transmit queue that always uses this member: NAME:ID.",
        5,
        Kind.QUEUES,
        limits=(0, 16),
        after_members=True,
        since=(2, 6, 36),
    ),
    Option(
        "prio",
        "The member's priority if no primary is set; of the members that are up, the one with the highest "
        "priority is chosen.",
        9,
        limits=(-(2**31), INT_MAX),
        modes=PRIMARY_MODES,
        netlink_only=True,
        of_member=True,
        since=(6, 0),
        after_members=True,
    ),
    Option(
        "min_links",
        "How many members must be up for the bond to be up (802.3ad).",
        18,
        words=OFF_TO_MAX,
        limits=(0, INT_MAX),
        default_word=0,
        in_effect=LACP_ONLY,
        since=(3, 1),
    ),
    Option(
        "xmit_hash_policy",
        "What decides the member of a flow in balance-xor and 802.3ad.",
        14,
        words=_words("layer2", "layer3+4", "layer2+3", "encap2+3", "encap3+4", "vlan+srcmac"),
        default_word=0,
        shows_word=True,
        in_effect=frozenset({Mode.BALANCE_XOR, Mode.LACP, Mode.BALANCE_TLB}),
    ),
    Option(
        "packets_per_slave",
        "Packets sent through a member before the next one is used (balance-rr); 0 chooses at random.",
        20,
        default=1,
        words=(Word("default", 1), Word("maxval", 65535)),
        limits=(0, 65535),
        default_word=1,
        modes=RR_ONLY,
        since=(3, 13),
    ),
    Option(
        "lp_interval",
        "The time between learning packets of the adaptive modes.",
        19,
        default=1,
        words=(Word("minval", 1), Word("maxval", INT_MAX)),
        limits=(1, INT_MAX),
        default_word=1,
        unit="s",
        in_effect=ADAPTIVE,
        since=(3, 13),
    ),
    Option(
        "tlb_dynamic_lb",
        "Rebalance flows by load, or leave them where their hash puts them.",
        27,
        default=1,
        words=OFF_ON,
        default_word=1,
        modes=ADAPTIVE,
        bond_down=True,
        since=(3, 16),
    ),
    Option(
        "lacp_rate",
        "The rate at which the partner is asked to send LACPDUs.",
        21,
        words=_words("slow", "fast"),
        modes=LACP_ONLY,
        bond_down=True,
        shows_word=True,
    ),
    Option(
        "lacp_active",
        "Send LACPDUs without waiting for the partner's.",
        29,
        default=1,
        words=OFF_ON,
        default_word=1,
        modes=LACP_ONLY,
        bond_down=True,
        shows_word=True,
        since=(5, 15),
    ),
    Option(
        "ad_select",
        "Which aggregator carries the traffic.",
        22,
        words=(*_words("stable", "bandwidth", "count"), Word("actor_port_prio", 3, since=(7, 0))),
        default_word=0,
        bond_down=True,
        shows_word=True,
        in_effect=LACP_ONLY,
        since=(2, 6, 29),
    ),
    Option(
        "ad_actor_sys_prio",
        "The system priority in LACPDUs.",
        24,
        default=65535,
        words=(Word("minval", 1), Word("maxval", 65535)),
        limits=(1, 65535),
        default_word=65535,
        modes=LACP_ONLY,
        readable_in=LACP_ONLY,
        since=(4, 2),
    ),
    Option(
        "ad_actor_system",
        "The system address in LACPDUs; zero means that of the bond.",
        26,
        Kind.ADDRESS,
        modes=LACP_ONLY,
        readable_in=LACP_ONLY,
        since=(4, 2),
    ),
    Option(
        "ad_user_port_key",
        "The upper bits of the port key in LACPDUs.",
        25,
        words=(Word("minval", 0), Word("maxval", 1023)),
        limits=(0, 1023),
        default_word=0,
        modes=LACP_ONLY,
        bond_down=True,
        readable_in=LACP_ONLY,
        since=(4, 2),
    ),
    Option(
        "coupled_control",
        "Couple collecting and distributing in 802.3ad.",
        32,
        default=1,
        words=OFF_ON,
        default_word=1,
        modes=LACP_ONLY,
        bond_down=True,
        netlink_only=True,
        since=(6, 9),
    ),
    Option(
        "broadcast_neighbor",
        "Send ARP and ND to all members in 802.3ad.",
        33,
        words=OFF_ON,
        default_word=0,
        modes=LACP_ONLY,
        netlink_only=True,
        since=(6, 17),
    ),
    Option(
        "lacp_strict",
        "Reject partners that do not answer in 802.3ad.",
        34,
        words=OFF_ON,
        default_word=0,
        modes=LACP_ONLY,
        netlink_only=True,
        since=(7, 0),
    ),
    Option("mii_status", "The bond's carrier: up or down.", kind=Kind.FACT, read_only=True),
    *(
        Option(name, doc, kind=Kind.FACT, read_only=True, readable_in=LACP_ONLY)
        for name, doc in (
            ("ad_aggregator", "The active aggregator's number."),
            ("ad_num_ports", "How many members the active aggregator has."),
            ("ad_actor_key", "The active aggregator's key."),
            ("ad_partner_key", "The partner's key."),
            ("ad_partner_mac", "The partner's system address."),
        )
    ),
    Option(
        "link_events",
        "Act on a carrier change at once, even with miimon 0, instead of at the next poll.",
        default=1,
        words=OFF_ON,
        default_word=1,
        ours=True,
    ),
    Option(
        "handover_ms",
        "How long the old member keeps receiving unicast frames after a change of the active member, so that "
        "frames in flight arrive.",
        default=50,
        words=(Word("off", 0),),
        limits=(0, 10_000),
        default_word=50,
        unit="ms",
        ours=True,
    ),
)

OPTIONS: dict[str, Option] = {option.name: option for option in _ROWS}
