"""The IP addresses of one device: which ones are new and must be announced, and who else claims one of them.

Read first: RFC 5227 sections 2.3 (announcements; their number and spacing are used for IPv6, too) and 2.4 (conflicts),
RFC 4862 section 5.4. A Linux kernel does not announce a new address; programs that move one do (keepalived, IPaddr2),
and need the device's link-layer address for it, which a TUN device cannot show them. So every new address is announced
here. Duplicate address detection is the kernel's: what it asks passes through `asked`, so that the answer can be handed
to it. Left out: defending an address.
"""

from __future__ import annotations

from dataclasses import dataclass

from ibbond.machine import SECOND
from ibbond.netdev.device import Device

ANNOUNCEMENTS = 2  # ANNOUNCE_NUM
ANNOUNCE_EVERY = 2 * SECOND  # ANNOUNCE_INTERVAL
MAX_QUESTIONS = 64  # remembered; the oldest is forgotten


@dataclass(frozen=True, slots=True)
class Conflict:
    """Effect: the neighbor at `hardware` uses an address of this device, or (`detected`) one that it was to get."""

    ip: bytes
    hardware: bytes
    detected: bool


class LocalAddresses:
    """The (address, prefix length) pairs of a device; addresses are 4 or 16 bytes."""

    def __init__(self, device: Device) -> None:
        self.pairs: tuple[tuple[bytes, int], ...] = ()
        self.all: frozenset[bytes] = frozenset()
        self._device = device
        self._unannounced: dict[bytes, int] = {}  # address -> announcements left
        self._announce_at = 0
        self._asked: dict[bytes, bool] = {}  # targets of the host's solicitations -> whether to detect a duplicate
        self._conflicts: dict[tuple[bytes, bytes], None] = {}  # reported

    def set(self, now: int, pairs: tuple[tuple[bytes, int], ...]) -> None:
        """Replace the addresses. New ones are due for announcement, unless the device has never had a carrier.

        Those of a host that starts need none: neighbors cannot know them under another link-layer address, and all
        hosts of a large subnet start together.
        """
        old, self.pairs = self.all, pairs
        self.all = frozenset(address for address, _ in pairs)
        new = [address for address, _ in pairs if address not in old]
        self._unannounced = {ip: left for ip, left in self._unannounced.items() if ip in self.all}
        self._conflicts = {key: None for key in self._conflicts if key[0] in self.all}
        for address in new:
            self._asked.pop(address, None)
        if new and self._device.had_carrier:
            self._unannounced |= dict.fromkeys(new, ANNOUNCEMENTS)
            self._announce_at = now

    def take_due(self, now: int) -> list[bytes]:
        """The addresses to announce now."""
        if not self._can_send() or now < self._announce_at:
            return []
        due = list(self._unannounced)
        self._unannounced = {ip: left - 1 for ip, left in self._unannounced.items() if left > 1}
        self._announce_at = now + ANNOUNCE_EVERY
        return due

    def deadline(self) -> int | None:
        """When the next announcement is due; None while there is none, or no carrier."""
        return self._announce_at if self._unannounced and self._can_send() else None

    def asked(self, target: bytes, *, detection: bool) -> None:
        """The host itself solicits this address: it wants to have the answers."""
        self._asked.pop(target, None)
        if len(self._asked) >= MAX_QUESTIONS:
            del self._asked[next(iter(self._asked))]
        self._asked[target] = detection

    def wants_answer(self, target: bytes) -> bool:
        return target in self._asked

    def claimed(self, address: bytes, hardware: bytes) -> list[Conflict]:
        """A neighbor says that it has this address: a conflict if it is ours. Each is reported once."""
        if self._asked.get(address):
            self._asked[address] = False
            return [Conflict(address, hardware, detected=True)]
        key = address, hardware
        if address not in self.all or hardware == self._device.address or key in self._conflicts:
            return []
        self._conflicts[key] = None
        return [Conflict(address, hardware, detected=False)]

    def _can_send(self) -> bool:
        return self._device.usable and self._device.master is None
