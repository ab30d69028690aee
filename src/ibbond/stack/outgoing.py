"""What the IP side of a device wants to leave it: frames for the link below, packets for the host above."""

from __future__ import annotations

from dataclasses import dataclass

from ibbond.stack.local_addresses import Conflict


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A frame for the link: link-layer destination (20 or 6 bytes), ethertype, payload, virtio-net header or empty.

    `next_hop` is the IP address of the neighbor that it is for, where there is one.
    """

    destination: bytes
    ethertype: int
    payload: bytes
    offload: bytes = b""
    next_hop: bytes = b""


@dataclass(frozen=True, slots=True)
class ToHost:
    """An IP packet for the host's own stack (an ICMP error about one of its packets)."""

    packet: bytes


@dataclass(frozen=True, slots=True)
class Announced:
    """The announcements that follow are about these addresses, which the device got just now."""

    addresses: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Doubtful:
    """The path to this link-layer address may no longer be valid."""

    hardware: bytes


IpEffect = Outgoing | ToHost | Announced | Doubtful | Conflict
