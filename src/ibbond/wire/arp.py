"""ARP for hardware addresses of any length: 56 bytes on IPoIB, 28 on Ethernet.

Read first: RFC 826, RFC 4391 section 9.2. As Linux sends them: the target hardware address of requests, gratuitous
ones included, is zero.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar, Self

from ibbond.errors import Malformed
from ibbond.wire.hardware_type import INFINIBAND
from ibbond.wire.ipoib import ETHERTYPE_IPV4

HEADER = INFINIBAND.to_bytes(2) + ETHERTYPE_IPV4.to_bytes(2)  # with which an ARP packet of IPoIB begins
REQUEST = 1
REPLY = 2


@dataclass(frozen=True, slots=True)
class Arp:
    """One ARP packet; both hardware addresses have one length, both protocol addresses another."""

    LAYOUT: ClassVar = struct.Struct("!HHBBH")
    operation: int
    sender_hardware: bytes
    sender_ip: bytes
    target_hardware: bytes
    target_ip: bytes
    hardware_type: int = INFINIBAND
    protocol: int = ETHERTYPE_IPV4

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        if len(raw) < cls.LAYOUT.size:
            raise Malformed(f"ARP header needs {cls.LAYOUT.size} bytes, got {len(raw)}")
        hardware_type, protocol, hardware_bytes, ip_bytes, operation = cls.LAYOUT.unpack_from(raw)
        end = cls.LAYOUT.size + 2 * (hardware_bytes + ip_bytes)
        if len(raw) < end:
            raise Malformed(f"ARP with addresses of {hardware_bytes} and {ip_bytes} needs {end} bytes, got {len(raw)}")
        first = raw[cls.LAYOUT.size :]  # longer packets carry padding
        second = first[hardware_bytes + ip_bytes :]
        return cls(
            operation,
            sender_hardware=first[:hardware_bytes],
            sender_ip=first[hardware_bytes : hardware_bytes + ip_bytes],
            target_hardware=second[:hardware_bytes],
            target_ip=second[hardware_bytes : hardware_bytes + ip_bytes],
            hardware_type=hardware_type,
            protocol=protocol,
        )

    def pack(self) -> bytes:
        lengths = len(self.sender_hardware), len(self.sender_ip)
        assert lengths == (len(self.target_hardware), len(self.target_ip)), "ARP addresses differ in length"
        header = self.LAYOUT.pack(self.hardware_type, self.protocol, *lengths, self.operation)
        return header + self.sender_hardware + self.sender_ip + self.target_hardware + self.target_ip

    @property
    def gratuitous(self) -> bool:
        return self.sender_ip == self.target_ip


def request(sender_hardware: bytes, sender_ip: bytes, target_ip: bytes, *, hardware_type: int = INFINIBAND) -> Arp:
    """Who has `target_ip`? Gratuitous when that is the sender's own."""
    unknown_host = bytes(len(sender_hardware))
    return Arp(REQUEST, sender_hardware, sender_ip, unknown_host, target_ip, hardware_type=hardware_type)


def reply(asked: Arp, hardware: bytes) -> Arp:
    """The answer to a request: its target is at `hardware`."""
    return Arp(
        REPLY,
        sender_hardware=hardware,
        sender_ip=asked.target_ip,
        target_hardware=asked.sender_hardware,
        target_ip=asked.sender_ip,
        hardware_type=asked.hardware_type,
        protocol=asked.protocol,
    )
