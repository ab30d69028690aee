"""What this host's kernel shows of a failover, with times: link messages, the driver's log, frames at the members.

Read first: packet(7), rtnetlink(7), `backend.kernel.watch`. One thread waits on all three and stamps what comes
with the monotonic clock; frames have the kernel's own stamps. Traffic control messages tell when a filter was set.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import select
import socket
import struct
import threading
import time
from collections.abc import Mapping

from ibbond.abi.netlink_attributes import LinkInfo
from ibbond.backend.kernel.log import KernelLog
from ibbond.backend.kernel.watch import Change, LinkTable
from ibbond.demo.generators import UDP_PORT
from ibbond.demo.traffic import SO_TIMESTAMPNS, STAMP, STAMP_BYTES
from ibbond.drill.sightings import Event, Frame
from ibbond.errors import Malformed
from ibbond.host import rtnetlink
from ibbond.wire.ipoib import ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6

ETH_P_ALL, PACKET_OUTGOING = 3, 4
RTMGRP_TC = 1 << 3
SNAP_BYTES = 256  # enough of a probe or an announcement
WAIT_MS = 200
DRAIN_SECONDS = 3.0
MAX_PACKETS = 16  # in one turn, for link messages must not wait
SO_ATTACH_FILTER = 26
# Classic BPF (linux/bpf_common.h, linux/filter.h): opcodes, and offsets of what the kernel knows of a packet
LOAD_WORD, LOAD_HALF, LOAD_BYTE, JUMP_EQUAL, RETURN = 0x20, 0x28, 0x30, 0x15, 0x06
PROTOCOL, PACKET_TYPE, IFINDEX = (0xFFFFF000 + offset for offset in (0, 4, 8))
INSTRUCTION = struct.Struct("=HBBI")


class HostWatch:
    """Watches from its making to `close`; `addresses` are the link-layer addresses of the members."""

    def __init__(self, bond: str, addresses: Mapping[str, bytes]) -> None:
        self.events: list[Event] = []
        self.lines: list[tuple[int, str]] = []
        self.frames: list[Frame] = []
        self.filters: list[int] = []  # when traffic control changed
        self._bond, self._addresses = bond, addresses
        self._links = rtnetlink.RouteListener()
        self._table = LinkTable()
        self._look()
        self._log = KernelLog()
        self._control = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        self._control.bind((0, RTMGRP_TC))
        self._packets = socket.socket(
            socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, socket.htons(ETH_P_ALL)
        )
        self._packets.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self._packets.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self._packets.setblocking(False)
        attach(self._packets, wanted_packets(socket.if_nametoindex(bond), UDP_PORT))
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the watch; what has come by now is in the lists."""
        self._ended.set()
        self._thread.join(timeout=5)
        for each in (self._links, self._log, self._control, self._packets):
            each.close()
        self.frames.sort(key=lambda frame: frame.at)

    def _look(self) -> list[Change]:
        requests = rtnetlink.RouteSocket()
        try:
            body = rtnetlink.LINK.pack(0, 0, 0, 0, 0)
            answers = requests.request(rtnetlink.GETLINK, rtnetlink.DUMP, body)
            links = sorted((LinkInfo.parse(each.body) for each in answers), key=lambda link: link.kind != "bond")
            return self._table.resynchronize(links)
        finally:
            requests.close()

    def _run(self) -> None:
        poll = select.poll()
        readers = {
            self._links.fileno(): self._on_links,
            self._control.fileno(): self._on_filter,
            self._packets.fileno(): self._on_packets,
        }
        if self._log.fileno() >= 0:
            readers[self._log.fileno()] = self._on_log
        for descriptor in readers:
            poll.register(descriptor, select.POLLIN)
        until = float("inf")
        while time.monotonic() < until:
            ready = poll.poll(0 if self._ended.is_set() else WAIT_MS)
            for descriptor, _ in ready:
                with contextlib.suppress(BlockingIOError):
                    readers[descriptor]()
            if self._ended.is_set():  # what has come by now is read, but only for a while
                until = min(until, time.monotonic() + (DRAIN_SECONDS if ready else 0))

    def _on_links(self) -> None:
        now = time.monotonic_ns()
        try:
            changes = [change for message in self._links.receive() for change in self._changes(message)]
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            changes = self._look()
        for change in changes:
            if (event := event_of(now, change)) is not None:
                self.events.append(event)

    def _changes(self, message: rtnetlink.Message) -> list[Change]:
        with contextlib.suppress(Malformed):
            if message.type == rtnetlink.NEWLINK:
                return self._table.update(LinkInfo.parse(message.body))
            if message.type == rtnetlink.DELLINK:
                return self._table.remove(LinkInfo.parse(message.body).index)
        return []

    def _on_filter(self) -> None:
        self._control.recv(1 << 16)
        self.filters.append(time.monotonic_ns())

    def _on_log(self) -> None:
        now = time.monotonic_ns()
        self.lines += [(now, line) for line in self._log.fresh()]

    def _on_packets(self) -> None:
        for _ in range(MAX_PACKETS):
            data, ancillary, _, place = self._packets.recvmsg(SNAP_BYTES, STAMP_BYTES)
            device, ethertype, direction = place[0], place[1], place[2]
            if device not in self._addresses:
                continue
            own, datagram = self._addresses[device], struct.pack("!HH", ethertype, 0) + data
            ends = (own, b"") if direction == PACKET_OUTGOING else (b"", own)
            self.frames.append(Frame(stamp(ancillary), *ends, datagram))


def wanted_packets(bond: int, port: int) -> bytes:
    """A filter that lets through what phases are made of: ARP, IPv6, and UDP that comes in to the probes' port.

    What the bond's own ifindex shows is a copy of what its members do. The packet begins with its network header; IPv4
    options do not occur in probes.
    """
    program = (
        (LOAD_WORD, 0, 0, IFINDEX),
        (JUMP_EQUAL, 11, 0, bond),  # to the end: nothing
        (LOAD_WORD, 0, 0, PROTOCOL),
        (JUMP_EQUAL, 8, 0, ETHERTYPE_ARP),  # to the end: all of it
        (JUMP_EQUAL, 7, 0, ETHERTYPE_IPV6),
        (JUMP_EQUAL, 0, 7, ETHERTYPE_IPV4),
        (LOAD_WORD, 0, 0, PACKET_TYPE),
        (JUMP_EQUAL, 5, 0, PACKET_OUTGOING),
        (LOAD_BYTE, 0, 0, 9),  # protocol
        (JUMP_EQUAL, 0, 3, socket.IPPROTO_UDP),
        (LOAD_HALF, 0, 0, 22),  # destination port
        (JUMP_EQUAL, 0, 1, port),
        (RETURN, 0, 0, SNAP_BYTES),
        (RETURN, 0, 0, 0),
    )
    return b"".join(INSTRUCTION.pack(*each) for each in program)


def attach(sock: socket.socket, program: bytes) -> None:
    """struct sock_fprog: how many instructions, and where they are."""
    kept = ctypes.create_string_buffer(program, len(program))
    where = struct.pack("@HP", len(program) // INSTRUCTION.size, ctypes.addressof(kept))
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, where)


def stamp(ancillary: list[tuple[int, int, bytes]]) -> int:
    """The kernel's time of a packet, on the monotonic clock."""
    at = time.monotonic_ns()
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPNS):
            seconds, nanoseconds = STAMP.unpack_from(data)
            at -= max(0, time.time_ns() - seconds * 1_000_000_000 - nanoseconds)
    return at


def event_of(at: int, change: Change) -> Event | None:
    """A link message's change as the event log of a lab would have it; None for what no phase is made of."""
    where, new = str(change["where"]), change.get("new")
    match change["what"]:
        case "carrier":
            return Event(at, "carrier", where, "on" if new else "off")
        case "active":
            return Event(at, "failover", where, f"{change.get('old')} -> {new}")
        case "address":
            return Event(at, "address", where, str(new))
        case "left" | "deleted":
            return Event(at, "port", where, "device_fatal")
        case "joined":
            return Event(at, "port", where, "port_active")
    return None
