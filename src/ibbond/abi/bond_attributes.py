"""A bond's options as rtnetlink carries them (IFLA_BOND_*), read and written by the option table.

Read first: `bond_policy` in drivers/net/bonding/bond_netlink.c, linux/if_link.h. The table gives each option its
number; here is only how wide it is. Values are those of a snapshot: ints, tuples of packed addresses, an ifindex for
`primary` and `active_slave`. Left out: the 802.3ad facts (IFLA_BOND_AD_INFO).
"""

import sys
from collections.abc import Mapping
from typing import Final

from ibbond.abi.netlink_attributes import (
    IFLA_INFO_DATA,
    IFLA_INFO_KIND,
    IFLA_INFO_SLAVE_DATA,
    IFLA_INFO_SLAVE_KIND,
    IFLA_LINKINFO,
    LINK,
    NESTED,
    attribute,
    attributes,
    number,
)
from ibbond.bonding.option import Kind, Option
from ibbond.bonding.options import OPTIONS
from ibbond.errors import Malformed

U8 = frozenset(
    {
        "mode",
        "use_carrier",
        "primary_reselect",
        "fail_over_mac",
        "xmit_hash_policy",
        "num_grat_arp",
        "all_slaves_active",
        "lacp_rate",
        "ad_select",
        "tlb_dynamic_lb",
        "lacp_active",
        "arp_missed_max",
        "coupled_control",
        "broadcast_neighbor",
        "lacp_strict",
    }
)
U16 = frozenset({"ad_actor_sys_prio", "ad_user_port_key", "queue_id"})

BOND_OPTIONS: dict[int, Option] = {}
for _option in OPTIONS.values():
    if _option.netlink is not None and not _option.of_member and _option.kind is not Kind.QUEUES:
        BOND_OPTIONS.setdefault(_option.netlink, _option)  # num_unsol_na is num_grat_arp again
MEMBER_OPTIONS = {name: OPTIONS[name] for name in ("queue_id", "prio")}


def width(option: Option) -> int:
    """How many bytes the value of a `Kind.VALUE` option has."""
    return 1 if option.name in U8 else 2 if option.name in U16 else 4


def read_bond(found: Mapping[int, bytes]) -> dict[str, object]:
    """Options by name out of the attributes of IFLA_INFO_DATA; raises `Malformed`. Unknown numbers are passed over."""
    values: dict[str, object] = {}
    for kind, raw in found.items():
        option = BOND_OPTIONS.get(kind)
        if option is not None:
            values[option.name] = _read(option, raw)
    return values


def pack_bond(values: Mapping[str, object]) -> bytes:
    """The attributes of IFLA_INFO_DATA. A list of targets replaces all of them. KeyError for an unknown option."""
    return b"".join(_pack(OPTIONS[name], value) for name, value in values.items())


def change_bond(index: int, values: Mapping[str, object]) -> bytes:
    """The body of an RTM_NEWLINK that sets options of the bond with this ifindex."""
    info = attribute(IFLA_INFO_KIND, b"bond\0") + attribute(IFLA_INFO_DATA | NESTED, pack_bond(values))
    return LINK.pack(0, 0, index, 0, 0) + attribute(IFLA_LINKINFO | NESTED, info)


def change_member(index: int, values: Mapping[str, int]) -> bytes:
    """The body of an RTM_NEWLINK that sets `prio` or `queue_id` of the member with this ifindex."""
    data = b"".join(
        attribute(_number(MEMBER_OPTIONS[name]), value.to_bytes(width(OPTIONS[name]), _ORDER, signed=name == "prio"))
        for name, value in values.items()
    )
    info = attribute(IFLA_INFO_SLAVE_KIND, b"bond\0") + attribute(IFLA_INFO_SLAVE_DATA | NESTED, data)
    return LINK.pack(0, 0, index, 0, 0) + attribute(IFLA_LINKINFO | NESTED, info)


def _read(option: Option, raw: bytes) -> object:
    match option.kind:
        case Kind.TARGETS | Kind.TARGETS6:
            size = 4 if option.kind is Kind.TARGETS else 16
            targets = tuple(attributes(raw).values())
            if any(len(target) != size for target in targets):
                raise Malformed(f"{option.name}: an address of the wrong length")
            return targets
        case Kind.ADDRESS:
            return raw
        case _:
            wanted = 4 if option.kind is Kind.NAME else width(option)
            if len(raw) != wanted:
                raise Malformed(f"{option.name} has {len(raw)} bytes, {wanted} expected")
            return number(raw)


def _pack(option: Option, value: object) -> bytes:
    match value:
        case int():
            return attribute(_number(option), value.to_bytes(4 if option.kind is Kind.NAME else width(option), _ORDER))
        case bytes():
            return attribute(_number(option), value)
        case tuple():
            nested = b"".join(attribute(place, bytes(target)) for place, target in enumerate(value))
            return attribute(_number(option) | NESTED, nested)
    raise TypeError(f"{option.name} cannot be {value!r}")


def _number(option: Option) -> int:
    assert option.netlink is not None, f"{option.name} has no attribute"
    return option.netlink


_ORDER: Final = sys.byteorder
