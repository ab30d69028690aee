"""The words after `type bond` and `type bond_slave`, as ip(8) of iproute2 6.1 (Debian 12) reads them.

Read first: `bond_parse_opt` of ip/iplink_bond.c, and `bond_changelink` of Linux for the order in which the options of a
message are applied. What ip itself refuses never reaches the kernel: it knows fewer words than sysfs (no `off`, no
`default`), calls one option `peer_notify_delay`, and sends every option at most once, the last value that it was given.
Left out: abbreviated words.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from ibbond.bonding.options import OPTIONS

COMMAND_LINE = 255  # exit status where a value is wrong or missing
USAGE = 1  # exit status where a word is not known, or no device has that name

U8, U16, U32 = 2**8 - 1, 2**16 - 1, 2**32 - 1
NUMBERS = {
    "miimon": U32,
    "updelay": U32,
    "downdelay": U32,
    "peer_notify_delay": U32,
    "use_carrier": U8,
    "arp_interval": U32,
    "resend_igmp": U32,
    "num_grat_arp": U8,
    "num_unsol_na": U8,
    "all_slaves_active": U8,
    "min_links": U32,
    "lp_interval": U32,
    "packets_per_slave": U32,
    "ad_actor_sys_prio": U16,
    "ad_user_port_key": U16,
    "tlb_dynamic_lb": U8,
    "arp_missed_max": U8,
}
WORDS = (
    "mode",
    "arp_validate",
    "arp_all_targets",
    "primary_reselect",
    "fail_over_mac",
    "xmit_hash_policy",
    "lacp_active",
    "lacp_rate",
    "ad_select",
)
TARGETS = {"arp_ip_target": ipaddress.IPv4Address, "ns_ip6_target": ipaddress.IPv6Address}
MAX_TARGETS = 16  # ip reads no more
DEVICES = ("active_slave", "primary")
OTHER_NAMES = {"peer_notify_delay": "peer_notif_delay", "num_unsol_na": "num_grat_arp"}
IP_KERNEL = (6, 1)  # ip has the words of the kernel that it came out with

APPLIED_FIRST = (
    "mode",
    "active_slave",
    "miimon",
    "updelay",
    "downdelay",
    "peer_notif_delay",
    "use_carrier",
    "arp_interval",
    "arp_ip_target",
    "ns_ip6_target",
    "arp_validate",
    "arp_all_targets",
    "primary",
    "primary_reselect",
    "fail_over_mac",
    "xmit_hash_policy",
    "resend_igmp",
    "num_grat_arp",
    "all_slaves_active",
    "min_links",
    "lp_interval",
    "packets_per_slave",
    "lacp_active",
    "lacp_rate",
    "ad_select",
    "ad_actor_sys_prio",
    "ad_user_port_key",
    "ad_actor_system",
    "tlb_dynamic_lb",
    "arp_missed_max",
)
"""Our names of the options, in the order of `bond_changelink`."""


class IpRefused(Exception):
    """ip(8) does not send this command; `rc` is its exit status."""

    def __init__(self, rc: int, why: str) -> None:
        super().__init__(why)
        self.rc = rc


def bond_options(words: list[str]) -> tuple[tuple[str, str], ...]:
    """Our option names and values in the order in which the driver applies them. Raises `IpRefused`."""
    found: dict[str, str] = {}
    rest = iter(words)
    for word in rest:
        if word == "clear_active_slave":
            found["active_slave"] = ""
        else:
            found[OTHER_NAMES.get(word, word)] = _value(word, rest)
    return tuple((name, found[name]) for name in APPLIED_FIRST if name in found)


def member_options(words: list[str]) -> tuple[tuple[str, str], ...]:
    """What follows `type bond_slave`, in the order of `bond_slave_changelink`. Raises `IpRefused`."""
    found: dict[str, str] = {}
    rest = iter(words)
    for word in rest:
        if word not in ("queue_id", "prio"):
            raise IpRefused(USAGE, f'bond_slave: unknown option "{word}"?')
        limits = (0, U16) if word == "queue_id" else (-(2**31), 2**31 - 1)
        found[word] = str(number(word, argument(word, rest), *limits))
    return tuple((name, found[name]) for name in ("queue_id", "prio") if name in found)


def argument(word: str, rest: Iterator[str]) -> str:
    """The word after a word (`NEXT_ARG`)."""
    following = next(rest, None)
    if following is None:
        raise IpRefused(COMMAND_LINE, f"{word}: command line is not complete")
    return following


def number(word: str, text: str, low: int, high: int) -> int:
    """A number in C's notation (`strtol` with base 0)."""
    octal = text.lstrip("-+").startswith("0") and text.lstrip("-+").isdigit()
    try:
        value = int(text, 8 if octal else 0)
    except ValueError:
        value = high + 1
    if not low <= value <= high or "_" in text:
        raise IpRefused(COMMAND_LINE, f'argument "{text}" is wrong: invalid {word}')
    return value


def _value(word: str, rest: Iterator[str]) -> str:
    if word in NUMBERS:
        return str(number(word, argument(word, rest), 0, NUMBERS[word]))
    if word in WORDS:
        text = argument(word, rest)
        known = [each for each in OPTIONS[word].words if each.since <= IP_KERNEL]
        match = next((each for each in known if text in (each.text, str(each.number))), None)
        if match is None:
            raise IpRefused(COMMAND_LINE, f'argument "{text}" is wrong: invalid {word}')
        return str(match.number)
    if word in TARGETS:
        targets = [target for target in argument(word, rest).split(",") if target][:MAX_TARGETS]
        try:
            return ",".join(str(TARGETS[word](target)) for target in targets)
        except ValueError as error:
            raise IpRefused(USAGE, f"{word}: {error}") from None
    if word in DEVICES or word == "ad_actor_system":
        return argument(word, rest)
    raise IpRefused(USAGE, f'bond: unknown command "{word}"?')
