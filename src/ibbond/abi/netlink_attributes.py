"""Attributes of rtnetlink messages: what the kernel says of links and bonds, with hardware addresses of any length.

Read first: netlink(7), linux/if_link.h (IFLA_*, IFLA_BOND_*, IFLA_BOND_SLAVE_*), linux/rtnetlink.h, linux/neighbour.h.
A link message becomes a `LinkInfo`; what a bond says of its options is read and written by `bond_attributes`. Left out:
sockets (host/rtnetlink.py), pyroute2's classes (abi/pyroute2_addresses.py), messages about anything but links.
"""

import struct
import sys
from dataclasses import dataclass, field
from typing import Final, Self

from ibbond.errors import Malformed

HEADER = struct.Struct("=HH")  # length type
LINK = struct.Struct("=BxHiII")  # family, ARPHRD type, ifindex, flags, change mask
NESTED = 0x8000

IFLA_ADDRESS, IFLA_BROADCAST, IFLA_IFNAME, IFLA_MTU, IFLA_MASTER = 1, 2, 3, 4, 10
IFLA_OPERSTATE, IFLA_LINKINFO, IFLA_CARRIER, IFLA_CARRIER_CHANGES, IFLA_EVENT = 16, 18, 33, 35, 44
IFLA_MIN_MTU, IFLA_MAX_MTU, IFLA_PERM_ADDRESS = 50, 51, 54
IFLA_INFO_KIND, IFLA_INFO_DATA, IFLA_INFO_SLAVE_KIND, IFLA_INFO_SLAVE_DATA = 1, 2, 4, 5
IFF_UP, IFF_LOWER_UP = 0x1, 0x10000

OPERSTATES = ("unknown", "notpresent", "down", "lowerlayerdown", "testing", "dormant", "up")
EVENTS = {
    1: "reboot",
    2: "features",
    3: "bonding_failover",
    4: "notify_peers",
    5: "igmp_resend",
    6: "bonding_options",
}
MEMBER_STATES = ("active", "backup")
MEMBER_LINKS = ("up", "going down", "down", "going back")


@dataclass(frozen=True, slots=True)
class MemberInfo:
    """IFLA_BOND_SLAVE_*: what a link message says of a device as the member of a bond."""

    state: str
    link: str
    link_failure_count: int
    permanent_address: bytes
    queue_id: int
    priority: int = 0

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        found = attributes(raw)
        state, link = number(found.get(1, b"")), number(found.get(2, b""))
        return cls(
            state=MEMBER_STATES[state] if state < len(MEMBER_STATES) else str(state),
            link=MEMBER_LINKS[link] if link < len(MEMBER_LINKS) else str(link),
            link_failure_count=number(found.get(3, b"")),
            permanent_address=found.get(4, b""),
            queue_id=number(found.get(5, b"")),
            priority=number(found.get(9, b""), signed=True),
        )


@dataclass(frozen=True, slots=True)
class LinkInfo:
    """RTM_NEWLINK or RTM_DELLINK as far as it concerns bonds. Addresses have the device's own length."""

    index: int
    name: str
    type: int
    up: bool
    carrier: bool
    operstate: str
    mtu: int
    address: bytes
    broadcast: bytes
    master: int  # ifindex of the bond above, 0: none
    kind: str
    max_mtu: int = 0
    carrier_changes: int = 0
    event: str | None = None
    bond: dict[int, bytes] = field(default_factory=dict)  # IFLA_BOND_*, raw
    member: MemberInfo | None = None

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """`body` is what follows the netlink header; raises `Malformed`."""
        if len(body) < LINK.size:
            raise Malformed(f"link message of {len(body)} bytes, at least {LINK.size} expected")
        _, arphrd, index, flags, _ = LINK.unpack_from(body)
        found = attributes(body, LINK.size)
        info = attributes(found.get(IFLA_LINKINFO, b""))
        kind = text(info.get(IFLA_INFO_KIND, b""))
        operstate = number(found.get(IFLA_OPERSTATE, b""))
        is_member = text(info.get(IFLA_INFO_SLAVE_KIND, b"")) == "bond"
        return cls(
            index=index,
            name=text(found.get(IFLA_IFNAME, b"")),
            type=arphrd,
            up=bool(flags & IFF_UP),
            carrier=bool(flags & IFF_LOWER_UP),
            operstate=OPERSTATES[operstate] if operstate < len(OPERSTATES) else str(operstate),
            mtu=number(found.get(IFLA_MTU, b"")),
            address=found.get(IFLA_ADDRESS, b""),
            broadcast=found.get(IFLA_BROADCAST, b""),
            master=number(found.get(IFLA_MASTER, b"")),
            kind=kind,
            max_mtu=number(found.get(IFLA_MAX_MTU, b"")),
            carrier_changes=number(found.get(IFLA_CARRIER_CHANGES, b"")),
            event=EVENTS.get(number(found.get(IFLA_EVENT, b""))),
            bond=attributes(info.get(IFLA_INFO_DATA, b"")) if kind == "bond" else {},
            member=MemberInfo.parse(info.get(IFLA_INFO_SLAVE_DATA, b"")) if is_member else None,
        )


def attributes(raw: bytes, at: int = 0) -> dict[int, bytes]:
    """The attributes from `at` on, by type (nested and byte-order bits removed); raises `Malformed`."""
    found: dict[int, bytes] = {}
    while at + HEADER.size <= len(raw):
        length, kind = HEADER.unpack_from(raw, at)
        if length < HEADER.size or at + length > len(raw):
            raise Malformed(f"netlink attribute of {length} bytes, {len(raw) - at} are there")
        found[kind & 0x3FFF] = raw[at + HEADER.size : at + length]
        at += (length + 3) & ~3
    return found


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute with its padding."""
    return HEADER.pack(HEADER.size + len(value), kind) + value + bytes(-len(value) % 4)


def number(raw: bytes, *, signed: bool = False) -> int:
    """An integer in the machine's byte order, of any width; an absent one is 0."""
    return int.from_bytes(raw, _BYTE_ORDER, signed=signed)


def text(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode("utf-8", "replace")


_BYTE_ORDER: Final = sys.byteorder
