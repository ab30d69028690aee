"""A byte stream with TCP's retransmission timer: what a TCP connection feels of an outage, without TCP.

Read first: RFC 6298 (the timer, here with the minimum of 200 ms that Linux uses). A sender offers one segment every
interval, the receiver acknowledges what it has in order, and silence doubles the timer. Left out: congestion control,
selective acknowledgement, windows smaller than the outage.
"""

import struct
from dataclasses import dataclass, field

from ibbond.machine import MS
from ibbond.wire.udp import UdpDatagram

STREAM_PORT = 4792
SEGMENT = struct.Struct("!?I")  # is it an acknowledgement; segment number, or the next one expected
SEGMENT_BYTES = 1000
MIN_TIMEOUT = 200 * MS
MAX_TIMEOUT = 120_000 * MS


@dataclass(slots=True)
class StreamSender:
    """Offers segments; a machine in small: `handle` takes acknowledgements, `tick` sends again what is overdue."""

    source: bytes
    destination: bytes
    interval: int = MS
    next_offer: int = 0
    offered: int = 0
    acknowledged: int = 0
    timeout: int = MIN_TIMEOUT
    resend_at: int | None = None

    def deadline(self) -> int:
        return min(self.next_offer, self.resend_at) if self.resend_at is not None else self.next_offer

    def tick(self, now: int) -> list[bytes]:
        packets = []
        if now >= self.next_offer:
            packets.append(self._segment(self.offered))
            self.offered += 1
            self.next_offer = now + self.interval
            if self.resend_at is None:
                self.resend_at = now + self.timeout
        if self.resend_at is not None and now >= self.resend_at:
            packets.append(self._segment(self.acknowledged))
            self.timeout = min(self.timeout * 2, MAX_TIMEOUT)
            self.resend_at = now + self.timeout
        return packets

    def acknowledge(self, now: int, expected: int) -> list[bytes]:
        """The receiver has everything before `expected`; what it still misses of the flight goes out again at once."""
        if expected <= self.acknowledged:
            return []
        was_silent = self.timeout > MIN_TIMEOUT
        self.acknowledged = expected
        self.timeout = MIN_TIMEOUT
        self.resend_at = now + self.timeout if self.acknowledged < self.offered else None
        return [self._segment(n) for n in range(expected, self.offered)] if was_silent else []

    def _segment(self, number: int) -> bytes:
        data = SEGMENT.pack(False, number) + bytes(SEGMENT_BYTES - SEGMENT.size)
        return UdpDatagram(self.source, self.destination, STREAM_PORT, STREAM_PORT, data).pack()


@dataclass(slots=True)
class StreamReceiver:
    """Takes segments in any order, delivers in order, and notes when the program got its next byte."""

    address: bytes
    peer: bytes
    expected: int = 0
    early: dict[int, None] = field(default_factory=dict)
    progress: list[int] = field(default_factory=list)  # times (ns) at which bytes were delivered

    def take(self, now: int, number: int) -> bytes:
        """The acknowledgement for a segment."""
        if number >= self.expected:
            self.early[number] = None
        before = self.expected
        while self.expected in self.early:
            del self.early[self.expected]
            self.expected += 1
        if self.expected > before:
            self.progress.append(now)
        data = SEGMENT.pack(True, self.expected)
        return UdpDatagram(self.address, self.peer, STREAM_PORT, STREAM_PORT, data).pack()

    @property
    def bytes_delivered(self) -> int:
        return self.expected * SEGMENT_BYTES
