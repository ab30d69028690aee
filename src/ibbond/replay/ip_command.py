"""The ip(8) commands that recordings use, as requests to a recorded world.

Read first: ip-link(8), ip-address(8). One frozen value a command; what ip itself refuses is `IpRefused`. Left out: the
words of bonding (`ip_bond_options`), and everything else that ip can do; `Unknown` says so.
"""

from __future__ import annotations

import ipaddress
import shlex
from dataclasses import dataclass, field

from ibbond.replay.ip_bond_options import bond_options, member_options, number
from ibbond.wire.hwaddr import parse_address_text

FAMILIES = {"-4": 4, "-6": 16}
QUEUE_LENGTH = ("txqueuelen", "txqlen", "qlen")
INTEGER = (-(2**31), 2**31 - 1)  # ip reads signed numbers here, the kernel refuses what it does not like


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
class FlushAddresses:
    """`addr flush dev DEV`: all addresses, or those of `width` bytes."""

    device: str
    width: int | None = None


@dataclass(frozen=True, slots=True)
class AddBond:
    """`link add NAME type bond ...`; options in the order in which the driver applies them."""

    name: str
    options: tuple[tuple[str, str], ...] = ()
    address: bytes | None = None
    mtu: int | None = None
    tx_queue_len: int | None = None
    up: bool = False


@dataclass(frozen=True, slots=True)
class DeleteLink:
    name: str


@dataclass(frozen=True, slots=True)
class SetLink:
    """`link set DEV ...`: what is not None is to be changed, after the options in the order of the fields."""

    device: str
    mtu: int | None = None
    address: bytes | None = None
    name: str | None = None
    promisc: bool | None = None
    allmulticast: bool | None = None
    multicast: bool | None = None
    arp: bool | None = None
    master: str | None = None  # "" is nomaster
    up: bool | None = None
    tx_queue_len: int | None = None
    options: tuple[tuple[str, str], ...] = field(default=())
    member_options: tuple[tuple[str, str], ...] = field(default=())


Command = AddAddress | RemoveAddress | FlushAddresses | AddBond | DeleteLink | SetLink


def parse_command(arguments: str) -> Command:
    """One command line without the leading `ip`. Raises `Unknown`, or `IpRefused` where ip itself does not go on."""
    try:
        given = shlex.split(arguments)
        width = next((FAMILIES[word] for word in given if word in FAMILIES), None)
        words = [word for word in given if word not in ("-4", "-6", "-family", "inet", "inet6")]
        match words:
            case ["addr" | "address" | "a", "add" | "a", address, *rest]:
                return _address(address, rest)
            case ["addr" | "address" | "a", "del" | "delete" | "d", address, *rest]:
                return RemoveAddress(_after("dev", rest), ipaddress.ip_interface(address).packed)
            case ["addr" | "address" | "a", "flush" | "f", "dev", device] | [
                "addr" | "address" | "a",
                "flush" | "f",
                device,
            ]:
                return FlushAddresses(device, width)
            case ["link" | "l", "add" | "a", *rest]:
                return _add_link(rest)
            case ["link" | "l", "del" | "delete" | "d", *rest]:
                return DeleteLink(rest[1] if rest[0] == "dev" else rest[0])
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
    found: dict[str, object] = {}
    name, rest = None, words[:kind]
    while rest:
        match rest:
            case ["address", value, *tail]:
                found["address"], rest = parse_address_text(value), tail
            case ["mtu", value, *tail]:
                found["mtu"], rest = number("mtu", value, *INTEGER), tail
            case [word, value, *tail] if word in QUEUE_LENGTH:
                found["tx_queue_len"], rest = number(word, value, *INTEGER), tail
            case ["up" | "down" as state, *tail]:
                found["up"], rest = state == "up", tail
            case ["dev" | "name", value, *tail] if name is None:
                name, rest = value, tail
            case [value, *tail] if name is None:
                name, rest = value, tail
            case _:
                raise ValueError(f"{rest[0]!r} is not known here")
    return AddBond(name or "bond%d", bond_options(words[kind + 2 :]), **found)  # type: ignore[arg-type]


def _set_link(words: list[str]) -> SetLink:
    rest = words[1:] if words[0] == "dev" else words
    device, rest = rest[0], rest[1:]
    found: dict[str, object] = {}
    while rest:
        match rest:
            case ["up" | "down" as state, *tail]:
                found["up"], rest = state == "up", tail
            case ["mtu", value, *tail]:
                found["mtu"], rest = number("mtu", value, *INTEGER), tail
            case ["address", value, *tail]:
                found["address"], rest = parse_address_text(value), tail
            case ["name", value, *tail]:
                found["name"], rest = value, tail
            case [word, value, *tail] if word in QUEUE_LENGTH:
                found["tx_queue_len"], rest = number(word, value, *INTEGER), tail
            case ["promisc" | "allmulticast" | "multicast" | "arp" as flag, "on" | "off" as value, *tail]:
                found[flag], rest = value == "on", tail
            case ["master", value, *tail]:
                found["master"], rest = value, tail
            case ["nomaster", *tail]:
                found["master"], rest = "", tail
            case ["type", "bond", *tail]:
                found["options"], rest = bond_options(tail), []
            case ["type", "bond_slave", *tail]:
                found["member_options"], rest = member_options(tail), []
            case _:
                raise ValueError(f"{rest[0]!r} is not known here")
    return SetLink(device, **found)  # type: ignore[arg-type]
