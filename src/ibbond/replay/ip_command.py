"""The ip(8) commands that recordings use, as requests to a recorded world.

Read first: ip-link(8), ip-address(8), and for the order in which a message's bonding attributes are applied
`bond_changelink` of Linux. One frozen value a command. Left out: everything else that ip can do; `Unknown` says so.
"""

from __future__ import annotations

import ipaddress
import shlex
from dataclasses import dataclass, field

from ibbond.wire.hwaddr import parse_address_text

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
    "lacp_rate",
    "ad_select",
    "ad_actor_sys_prio",
    "ad_user_port_key",
    "ad_actor_system",
    "tlb_dynamic_lb",
    "arp_missed_max",
)
"""ip's words for options, in the order of `bond_changelink`."""


class Unknown(Exception):
    """A command that this module does not know."""


@dataclass(frozen=True, slots=True)
class AddAddress:
    device: str
    ip: bytes
    prefix: int
    check: bool = True  # duplicate detection (IPv6)


@dataclass(frozen=True, slots=True)
class RemoveAddress:
    device: str
    ip: bytes


@dataclass(frozen=True, slots=True)
class AddBond:
    """`link add NAME type bond ...`; options in the order in which the driver applies them."""

    name: str
    options: tuple[tuple[str, str], ...] = ()
    address: bytes | None = None


@dataclass(frozen=True, slots=True)
class DeleteLink:
    name: str


@dataclass(frozen=True, slots=True)
class SetLink:
    """`link set DEV ...`: what is not None is to be changed, in the order of the fields."""

    device: str
    mtu: int | None = None
    address: bytes | None = None
    name: str | None = None
    promisc: bool | None = None
    allmulticast: bool | None = None
    master: str | None = None  # "" is nomaster
    up: bool | None = None
    options: tuple[tuple[str, str], ...] = field(default=())
    member_options: tuple[tuple[str, str], ...] = field(default=())


Command = AddAddress | RemoveAddress | AddBond | DeleteLink | SetLink


def parse_command(arguments: str) -> Command:
    """One command line without the leading `ip`. Raises `Unknown`."""
    words = [word for word in shlex.split(arguments) if word not in ("-4", "-6", "-family", "inet", "inet6")]
    try:
        match words:
            case ["addr" | "address" | "a", "add" | "a", address, *rest]:
                return _address(address, rest)
            case ["addr" | "address" | "a", "del" | "delete" | "d", address, *rest]:
                return RemoveAddress(_after("dev", rest), ipaddress.ip_interface(address).packed)
            case ["link" | "l", "add" | "a", *rest]:
                return _add_link(rest)
            case ["link" | "l", "del" | "delete" | "d", *rest]:
                return DeleteLink(rest[-1])
            case ["link" | "l", "set" | "s", *rest]:
                return _set_link(rest)
    except (ValueError, IndexError) as error:
        raise Unknown(f"ip {arguments}: {error}") from None
    raise Unknown(f"ip {arguments}")


def _address(text: str, rest: list[str]) -> AddAddress:
    address = ipaddress.ip_interface(text)
    check = address.version == 6 and "nodad" not in rest
    return AddAddress(_after("dev", rest), address.packed, address.network.prefixlen, check=check)


def _after(word: str, words: list[str]) -> str:
    return words[words.index(word) + 1]


def _add_link(words: list[str]) -> AddBond:
    kind = words.index("type")
    if words[kind + 1] != "bond":
        raise ValueError(f"type {words[kind + 1]}")
    head = words[:kind]
    address = None
    if "address" in head:
        at = head.index("address")
        address = parse_address_text(head[at + 1])
        del head[at : at + 2]
    names = [word for word in head if word not in ("dev", "name")]
    if len(names) != 1:
        raise ValueError("more than a name")
    return AddBond(names[0], _options(words[kind + 2 :]), address)


def _set_link(words: list[str]) -> SetLink:
    rest = words[1:] if words[0] == "dev" else words
    device, rest = rest[0], rest[1:]
    found: dict[str, object] = {}
    while rest:
        match rest:
            case ["up" | "down" as state, *tail]:
                found["up"], rest = state == "up", tail
            case ["mtu", value, *tail]:
                found["mtu"], rest = int(value), tail
            case ["address", value, *tail]:
                found["address"], rest = parse_address_text(value), tail
            case ["name", value, *tail]:
                found["name"], rest = value, tail
            case ["promisc" | "allmulticast" as flag, "on" | "off" as value, *tail]:
                found[flag], rest = value == "on", tail
            case ["master", value, *tail]:
                found["master"], rest = value, tail
            case ["nomaster", *tail]:
                found["master"], rest = "", tail
            case ["type", "bond", *tail]:
                found["options"], rest = _options(tail), []
            case ["type", "bond_slave", *tail]:
                found["member_options"], rest = tuple(zip(tail[::2], tail[1::2], strict=True)), []
            case _:
                raise ValueError(f"{rest[0]!r} is not known here")
    return SetLink(device, **found)  # type: ignore[arg-type]


def _options(words: list[str]) -> tuple[tuple[str, str], ...]:
    """Pairs of option and value, sorted into the order in which the driver applies them."""
    pairs = list(zip(words[::2], words[1::2], strict=True))
    rank = {name: number for number, name in enumerate(APPLIED_FIRST)}
    unknown = [name for name, _ in pairs if name not in rank and name != "clear_active_slave"]
    if unknown:
        raise ValueError(f"option {unknown[0]!r}")
    return tuple(sorted(pairs, key=lambda pair: rank.get(pair[0], 0)))
