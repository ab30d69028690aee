"""Partitions: who may talk to whom, and the broadcast group that carries IPoIB in each.

Read first: InfiniBand Architecture volume 1, 10.9 (partitioning); RFC 4391 section 4 for the broadcast GID. Ports are
named `h1/1`; the subnet translates names to GUIDs before the subnet manager sees them.
"""

from __future__ import annotations

from dataclasses import dataclass

from ibbond.wire.group_address import IPV4_SIGNATURE
from ibbond.wire.pkey import DEFAULT_PKEY, FULL_MEMBER

BROADCAST_GROUP = 0xFFFFFFFF
DEFAULT_QKEY = 0x0B1B
RATE_10 = 3  # code of 10 Gb/s, OpenSM's default for IPoIB


@dataclass(frozen=True, slots=True)
class Partition:
    """A P_Key (with or without bit 15), its full and limited members, and its IPoIB broadcast group.

    `full` None is every port. `mtu_bytes` is the InfiniBand MTU of the broadcast group, 2048 or 4096.
    """

    name: str
    pkey: int
    full: tuple[str, ...] | None = None
    limited: tuple[str, ...] = ()
    mtu_bytes: int = 2048
    rate: int = RATE_10
    qkey: int = DEFAULT_QKEY
    sl: int = 0
    scope: int = 2
    ipoib: bool = True

    @property
    def full_pkey(self) -> int:
        return self.pkey | FULL_MEMBER

    def broadcast_mgid(self) -> bytes:
        """ff1S:401b:PKEY::ffff:ffff"""
        head = bytes((0xFF, 0x10 | self.scope)) + IPV4_SIGNATURE.to_bytes(2, "big")
        return head + self.full_pkey.to_bytes(2, "big") + bytes(6) + BROADCAST_GROUP.to_bytes(4, "big")

    def key_of(self, port: str) -> int | None:
        """The P_Key that goes into this port's table."""
        if port in self.limited:
            return self.pkey & ~FULL_MEMBER
        return self.full_pkey if self.full is None or port in self.full else None


DEFAULT_PARTITION = Partition("Default", DEFAULT_PKEY)
