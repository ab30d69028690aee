"""IPv6 neighbor discovery with link-layer addresses of 6 and of 20 bytes, as whole packets.

Read first: RFC 4861 sections 4 and 7.1, RFC 4391 section 9.3 (the 24-byte option: two zero bytes, then the address).
Left out: what hosts do with prefixes of router advertisements; such options are kept as bytes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar, Self

from ibbond.errors import Malformed
from ibbond.wire.checksum import upper_checksum
from ibbond.wire.hwaddr import ADDRESS_BYTES
from ibbond.wire.ip import ICMPV6, Ipv6

HOP_LIMIT = 255  # a packet that crossed a router has less and is no neighbor's
SOURCE_LINK_ADDRESS = 1
TARGET_LINK_ADDRESS = 2
UNSPECIFIED = bytes(16)
ALL_NODES = b"\xff\x02" + bytes(13) + b"\x01"
ALL_ROUTERS = b"\xff\x02" + bytes(13) + b"\x02"
_SOLICITED_NODE = b"\xff\x02" + bytes(9) + b"\x01\xff"
_INFINIBAND_PAD = 2  # ndisc_addr_option_pad


def solicited_node(address: bytes) -> bytes:
    """The group in which the owner of an IPv6 address receives solicitations."""
    return _SOLICITED_NODE + address[13:]


@dataclass(frozen=True, slots=True)
class Option:
    """An option as it lies on the wire: kind, then all bytes after the length octet (8n - 2 of them)."""

    kind: int
    body: bytes

    def pack(self) -> bytes:
        assert (len(self.body) + 2) % 8 == 0, "ND options fill units of eight bytes"
        return bytes((self.kind, (len(self.body) + 2) // 8)) + self.body


def link_address_option(kind: int, address: bytes) -> Option:
    """Source or target link-layer address; 20-byte addresses stand behind two zero bytes."""
    body = bytes(_INFINIBAND_PAD) + address if len(address) == ADDRESS_BYTES else address
    return Option(kind, body + bytes(-(len(body) + 2) % 8))


def parse_options(raw: bytes) -> tuple[Option, ...]:
    options = []
    while raw:
        size = raw[1] * 8 if len(raw) >= 2 else 0
        if size == 0 or size > len(raw):
            raise Malformed("ND option is cut short or has length zero")
        options.append(Option(raw[0], raw[2:size]))
        raw = raw[size:]
    return tuple(options)


def _link_address(options: tuple[Option, ...], kind: int) -> tuple[bytes, tuple[Option, ...]]:
    """The address of the first option of this kind (or empty), and the options that remain."""
    address = b""
    others = []
    for option in options:
        if option.kind == kind and not address:
            infiniband = len(option.body) == ADDRESS_BYTES + _INFINIBAND_PAD
            address = option.body[_INFINIBAND_PAD:] if infiniband else option.body
        else:
            others.append(option)
    return address, tuple(others)


def _pack_options(kind: int, address: bytes, others: tuple[Option, ...]) -> bytes:
    first = link_address_option(kind, address).pack() if address else b""
    return first + b"".join(option.pack() for option in others)


@dataclass(frozen=True, slots=True)
class NeighborSolicitation:
    """Who has `target`? From the unspecified address: is it in use (duplicate address detection)?"""

    KIND: ClassVar = 135
    source: bytes
    destination: bytes
    target: bytes
    link_address: bytes = b""
    others: tuple[Option, ...] = ()

    @classmethod
    def read(cls, packet: Ipv6, body: bytes) -> Self:
        target = _target(body)
        address, others = _link_address(parse_options(body[20:]), SOURCE_LINK_ADDRESS)
        return cls(packet.source, packet.destination, target, address, others)

    def pack(self) -> bytes:
        body = bytes(4) + self.target + _pack_options(SOURCE_LINK_ADDRESS, self.link_address, self.others)
        return _pack(self.source, self.destination, self.KIND, body)


@dataclass(frozen=True, slots=True)
class NeighborAdvertisement:
    """`target` is at `link_address`; unsolicited to all nodes after a failover, with override set."""

    KIND: ClassVar = 136
    source: bytes
    destination: bytes
    target: bytes
    link_address: bytes = b""
    router: bool = False
    solicited: bool = False
    override: bool = False
    others: tuple[Option, ...] = ()

    @classmethod
    def read(cls, packet: Ipv6, body: bytes) -> Self:
        target = _target(body)
        address, others = _link_address(parse_options(body[20:]), TARGET_LINK_ADDRESS)
        router, solicited, override = (bool(body[0] & bit) for bit in (0x80, 0x40, 0x20))
        return cls(packet.source, packet.destination, target, address, router, solicited, override, others)

    def pack(self) -> bytes:
        flags = self.router << 7 | self.solicited << 6 | self.override << 5
        options = _pack_options(TARGET_LINK_ADDRESS, self.link_address, self.others)
        return _pack(self.source, self.destination, self.KIND, bytes((flags, 0, 0, 0)) + self.target + options)


@dataclass(frozen=True, slots=True)
class RouterSolicitation:
    KIND: ClassVar = 133
    source: bytes
    destination: bytes
    link_address: bytes = b""
    others: tuple[Option, ...] = ()

    @classmethod
    def read(cls, packet: Ipv6, body: bytes) -> Self:
        _need(body, 4)
        address, others = _link_address(parse_options(body[4:]), SOURCE_LINK_ADDRESS)
        return cls(packet.source, packet.destination, address, others)

    def pack(self) -> bytes:
        options = _pack_options(SOURCE_LINK_ADDRESS, self.link_address, self.others)
        return _pack(self.source, self.destination, self.KIND, bytes(4) + options)


@dataclass(frozen=True, slots=True)
class RouterAdvertisement:
    """`lifetime` in seconds, `reachable_ms` and `retransmit_ms` zero when unspecified; `flags` is the octet."""

    KIND: ClassVar = 134
    LAYOUT: ClassVar = struct.Struct("!BBHII")
    source: bytes
    destination: bytes
    hop_limit: int = 64
    flags: int = 0
    lifetime: int = 0
    reachable_ms: int = 0
    retransmit_ms: int = 0
    link_address: bytes = b""
    others: tuple[Option, ...] = ()

    @classmethod
    def read(cls, packet: Ipv6, body: bytes) -> Self:
        _need(body, cls.LAYOUT.size)
        hops, flags, lifetime, reachable, retransmit = cls.LAYOUT.unpack_from(body)
        address, others = _link_address(parse_options(body[cls.LAYOUT.size :]), SOURCE_LINK_ADDRESS)
        return cls(packet.source, packet.destination, hops, flags, lifetime, reachable, retransmit, address, others)

    def pack(self) -> bytes:
        fields = (self.hop_limit, self.flags, self.lifetime, self.reachable_ms, self.retransmit_ms)
        options = _pack_options(SOURCE_LINK_ADDRESS, self.link_address, self.others)
        return _pack(self.source, self.destination, self.KIND, self.LAYOUT.pack(*fields) + options)


@dataclass(frozen=True, slots=True)
class Redirect:
    """Packets to `redirected` should go to `target`, which is at `link_address`."""

    KIND: ClassVar = 137
    source: bytes
    destination: bytes
    target: bytes
    redirected: bytes
    link_address: bytes = b""
    others: tuple[Option, ...] = ()

    @classmethod
    def read(cls, packet: Ipv6, body: bytes) -> Self:
        _need(body, 36)
        target = _target(body)
        address, others = _link_address(parse_options(body[36:]), TARGET_LINK_ADDRESS)
        return cls(packet.source, packet.destination, target, body[20:36], address, others)

    def pack(self) -> bytes:
        options = _pack_options(TARGET_LINK_ADDRESS, self.link_address, self.others)
        body = bytes(4) + self.target + self.redirected + options
        return _pack(self.source, self.destination, self.KIND, body)


Message = NeighborSolicitation | NeighborAdvertisement | RouterSolicitation | RouterAdvertisement | Redirect
MESSAGES: dict[int, type[Message]] = {
    kind.KIND: kind
    for kind in (NeighborSolicitation, NeighborAdvertisement, RouterSolicitation, RouterAdvertisement, Redirect)
}


def is_message(packet: bytes) -> bool:
    """Whether an IPv6 packet claims to be neighbor discovery; cheap, and true of malformed ones too."""
    return len(packet) > 40 and packet[6] == ICMPV6 and packet[40] in MESSAGES


def parse(packet: bytes) -> Message:
    """Read a whole IPv6 packet as neighbor discovery; the checks are those of RFC 4861 section 7.1."""
    outer = Ipv6.parse(packet)
    if outer.next_header != ICMPV6 or len(outer.payload) < 4:
        raise Malformed(f"not neighbor discovery: next header {outer.next_header}")
    kind, code = outer.payload[0], outer.payload[1]
    if kind not in MESSAGES or code:
        raise Malformed(f"not neighbor discovery: ICMPv6 type {kind}, code {code}")
    if outer.hop_limit != HOP_LIMIT:
        raise Malformed(f"neighbor discovery from beyond a router: hop limit {outer.hop_limit}")
    if upper_checksum(outer.source, outer.destination, ICMPV6, outer.payload):
        raise Malformed("ICMPv6 checksum is wrong")
    return MESSAGES[kind].read(outer, outer.payload[4:])


def _need(body: bytes, size: int) -> None:
    if len(body) < size:
        raise Malformed(f"neighbor discovery message needs {size} bytes, got {len(body)}")


def _target(body: bytes) -> bytes:
    _need(body, 20)
    target = body[4:20]
    if target[0] == 0xFF:
        raise Malformed("neighbor discovery with a group as its target")
    return target


def _pack(source: bytes, destination: bytes, kind: int, body: bytes) -> bytes:
    bare = bytes((kind, 0, 0, 0)) + body
    checksum = upper_checksum(source, destination, ICMPV6, bare)
    message = bare[:2] + checksum.to_bytes(2) + body
    return Ipv6(source, destination, ICMPV6, message, hop_limit=HOP_LIMIT).pack()
