"""The fast path: packets from one TUN to another by remembered decisions, everything else to the slow path.

Read first: docs/architecture.md on the data path. A flow is the memory of one decision of `stack`; it holds while the
world's generation counter stands still. Nothing is decided here, and no packet is copied into an object: each is read
into one buffer, with its virtio-net header in front, and written from there. A GSO packet travels whole and
counts as its packets. Left out: multicast, first packets, lossy cables: all of these have no flow.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from ibbond.host.tun import OFFLOAD_BYTES
from ibbond.stack.flows import CapturePoint
from ibbond.verbs.generation import Generation
from ibbond.wire.offload import segment_count

PACKET_BYTES: Final = 65_536 + 64  # the largest GSO packet with its headers
BATCH: Final = 32  # packets of one TUN before the next one has its turn
SLOW: Final = 8  # of these without a flow: each may cost milliseconds, where a group has many members
ALONE: Final = 4  # wake-ups with one packet each, after which it looks for a second one again
FLOWS: Final = 4_096  # destinations that one TUN remembers

NO_BUFFER = frozenset((errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM))
IP_AT: Final = 16  # in the buffer, so that the kernel copies from and to aligned places
OFFLOAD_AT: Final = IP_AT - OFFLOAD_BYTES
IPV4_BYTES: Final = OFFLOAD_BYTES + 20
IPV6_BYTES: Final = OFFLOAD_BYTES + 40
IPV4_DESTINATION = struct.Struct(f"={IP_AT + 16}xI")
IPV6_DESTINATION = struct.Struct(f"{IP_AT + 24}x16s")


class Flow(Protocol):
    """A decision of `stack`: the device (host, name) at which packets to one destination come out.

    What is counted here its maker collects.
    """

    target: tuple[str, str]
    packets: int
    bytes: int

    @property
    def capture_point(self) -> CapturePoint | None: ...


@dataclass(slots=True)
class Drops:
    """Packets that went nowhere, by reason."""

    no_buffer: int = 0  # the receiving kernel had no memory for it
    down: int = 0  # the receiving device is down
    malformed: int = 0  # the receiving kernel did not like its headers
    gone: int = 0  # the receiving device is no more

    def count(self, problem: OSError) -> None:
        if problem.errno in NO_BUFFER:
            self.no_buffer += 1
        elif problem.errno == errno.EIO:
            self.down += 1
        elif problem.errno == errno.EINVAL:
            self.malformed += 1
        else:
            self.gone += 1

    def add(self, other: Drops) -> None:
        self.no_buffer += other.no_buffer
        self.down += other.down
        self.malformed += other.malformed
        self.gone += other.gone


class Pump:
    """The reading side of one TUN.

    `find` gives the flow of a packet or None; `descriptor` the open TUN of a flow's target, or None;
    `slow` takes a packet (bytes, with its 10-byte offload header) that has no flow, `record` what a captured flow has
    carried (a view that lasts as long as the call).
    """

    def __init__(
        self,
        fd: int,
        generation: Generation,
        *,
        find: Callable[[bytes], Flow | None],
        descriptor: Callable[[tuple[str, str]], int | None],
        slow: Callable[[bytes, bytes], None],
        record: Callable[[CapturePoint, memoryview], None] | None = None,
    ) -> None:
        self.fd = fd
        self.drops = Drops()
        self.flows: dict[int | bytes, tuple[Flow, int, CapturePoint | None]] = {}
        self._generation = generation
        self._learnt_at = generation.value
        self._find = find
        self._descriptor = descriptor
        self._slow = slow
        self._record = record
        self.drain = self._made_drain()

    def _learn(self, key: int | bytes, packet: bytes) -> tuple[Flow, int, CapturePoint | None] | None:
        if len(self.flows) >= FLOWS:
            self._generation.bump()  # who made the flows lets go of them as well
        if self._generation.value != self._learnt_at:
            self.flows.clear()
            self._learnt_at = self._generation.value
        flow = self._find(packet)
        if flow is None or self._generation.value != self._learnt_at:
            return None
        out = self._descriptor(flow.target)
        if out is None:
            return None
        self.flows[key] = known = flow, out, flow.capture_point if self._record is not None else None
        return known

    def _made_drain(self) -> Callable[[], None]:
        """Build the function that moves waiting packets; everything it touches is a local name.

        Where packets come one by one it takes one and does not ask for more: epoll reports them. Where more are found
        it takes up to `BATCH`.
        """
        fd, flows, generation, drops = self.fd, self.flows, self._generation, self.drops
        buffer = bytearray(IP_AT + PACKET_BYTES)
        view = memoryview(buffer)[OFFLOAD_AT:]
        vectors = [view]
        readv, write = os.readv, os.write
        remembered = flows.get
        ipv4_destination, ipv6_destination = IPV4_DESTINATION.unpack_from, IPV6_DESTINATION.unpack_from
        learn, slow, record = self._learn, self._slow, self._record
        turns, alone = BATCH, 0

        def drain() -> None:
            nonlocal turns, alone
            slowly = 0
            for turn in range(turns):
                if slowly >= SLOW:
                    return
                try:
                    size = readv(fd, vectors)
                except OSError:  # EAGAIN: nothing more; EBADFD: the device was deleted, netlink reports it
                    if turn <= 1:
                        turns, alone = 1, 0
                    return
                is_ipv4 = 0x40 <= buffer[IP_AT] < 0x60  # ARP of programs begins with 0
                if size < IPV6_BYTES and (size < IPV4_BYTES or not is_ipv4):  # what follows is of an older packet
                    slow(bytes(view[OFFLOAD_BYTES:size]), bytes(view[:OFFLOAD_BYTES]))
                    slowly += 1
                    continue
                (key,) = ipv4_destination(buffer) if is_ipv4 else ipv6_destination(buffer)
                known = remembered(key) if generation.value == self._learnt_at else None
                if known is None:
                    packet = bytes(view[OFFLOAD_BYTES:size])
                    known = learn(key, packet)
                    if known is None:
                        slow(packet, bytes(view[:OFFLOAD_BYTES]))
                        slowly += 1
                        continue
                flow, out, capture_point = known
                try:
                    write(out, view[:size])
                except OSError as problem:
                    drops.count(problem)
                    continue
                if capture_point is not None and record is not None:
                    record(capture_point, view[:size])
                is_gso = buffer[OFFLOAD_AT + 1]
                flow.packets += segment_count(bytes(view[:OFFLOAD_BYTES]), view[OFFLOAD_BYTES:size]) if is_gso else 1
                flow.bytes += size - OFFLOAD_BYTES
            if turns == 1:
                alone += 1
                if alone > ALONE:
                    turns = BATCH

        return drain
