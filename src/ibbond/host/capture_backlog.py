"""What the fast path carried past a capture point: kept raw, made into frames when the loop has time for it.

Read first: `host.capture`. As with tcpdump a capture must not slow what it looks at: packets of flows go their way at
once, a copy waits here. While much is carried little is worked off; what no longer fits is counted as missed. Whatever
else passes a capture point meanwhile (first packets, groups, management) waits in the same queue, so that times only
grow.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace

from ibbond.fabric.capture import frames_of
from ibbond.fabric.packet import datagram_packet
from ibbond.host.loop import LiveLoop
from ibbond.host.tun import OFFLOAD_BYTES
from ibbond.machine import MS
from ibbond.stack.events import FrameCaptured
from ibbond.stack.flows import CapturePoint
from ibbond.wire.ipoib import ETHERTYPE_IPV4, ETHERTYPE_IPV6
from ibbond.wire.offload import segment_count

ROOM = 32 << 20  # bytes of packets that may wait
LOOK_EVERY = 5 * MS
CALM = 8  # packets between two looks, up to which there is time
SLICE = 3 * MS  # to work off at once, when there is
HURRIED_SLICE = 1  # else: one packet
HURRIED_LOOK = 25 * MS
HEADERS = {4: ETHERTYPE_IPV4.to_bytes(2) + bytes(2), 6: ETHERTYPE_IPV6.to_bytes(2) + bytes(2)}


class Backlog:
    """`give` gets each frame with its time and its port; `miss` a port and how many of its frames were not kept."""

    def __init__(
        self, loop: LiveLoop, give: Callable[[int, FrameCaptured], None], miss: Callable[[str, int], None]
    ) -> None:
        self._loop = loop
        self._give = give
        self._miss = miss
        self._waiting: deque[tuple[int, CapturePoint | None, bytes | FrameCaptured]] = deque()
        self._held = 0
        self._missed: dict[tuple[tuple[str, bool], ...], int] = {}
        self._since = 0  # packets taken since the last look
        self._looking = False
        self._worked = 0  # of all that has ever waited

    def take(self, capture_point: CapturePoint, raw: memoryview) -> None:
        """A packet (with its offload header in front) that a flow has carried."""
        self._since += 1
        if self._held + len(raw) > ROOM:
            missed = segment_count(bytes(raw[:OFFLOAD_BYTES]), raw[OFFLOAD_BYTES:]) if raw[1] else 1
            self._missed[capture_point.ports] = self._missed.get(capture_point.ports, 0) + missed
            return
        self._held += len(raw)
        self._waiting.append((self._loop.now(), capture_point, bytes(raw)))
        self._look_soon(LOOK_EVERY)

    def on_frame(self, now: int, captured: FrameCaptured) -> None:
        """A frame of the slow path: given at once when nothing waits before it."""
        if self._waiting:
            self._waiting.append((now, None, captured))
        else:
            self._give(now, captured)

    @property
    def end(self) -> int:
        """The place in line after everything that waits now."""
        return self._worked + len(self._waiting)

    def work(self, ns: int, end: int | None = None) -> bool:
        """Make frames for so long; whether something before that `end`, or anything at all, waits still."""
        until = self._loop.now() + ns
        missed, self._missed = self._missed, {}
        for ports, count in missed.items():
            for port, _ in ports:
                self._miss(port, count)
        while self._waiting:
            at, capture_point, raw = self._waiting.popleft()
            self._worked += 1
            if isinstance(raw, FrameCaptured):
                self._give(at, raw)
            elif capture_point is not None:
                self._held -= len(raw)
                self._frames(at, capture_point, raw)
            if self._loop.now() >= until:
                break
        return self._worked < end if end is not None else bool(self._waiting)

    def _frames(self, at: int, capture_point: CapturePoint, raw: bytes) -> None:
        offload, packet = raw[:OFFLOAD_BYTES], raw[OFFLOAD_BYTES:]
        payload = HEADERS[packet[0] >> 4] + packet
        for frame in frames_of(datagram_packet(replace(capture_point.datagram, payload=payload, offload=offload))):
            for port, sent in capture_point.ports:
                self._give(at, FrameCaptured(port, frame, sent))

    def _look_soon(self, ns: int) -> None:
        if not self._looking:
            self._looking = True
            self._loop.call_at(self._loop.now() + ns, self._look)

    def _look(self) -> None:
        calm, self._since = self._since <= CALM, 0  # per look, be it a hurried one
        self._looking = False
        if self.work(SLICE if calm else HURRIED_SLICE):
            self._look_soon(LOOK_EVERY if calm else HURRIED_LOOK)
