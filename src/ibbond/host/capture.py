"""Captures of a running lab: what passes a port, as ERF, or what one device sends and receives, as IPoIB frames.

Read first: `wire.pcap` on the two formats; `stack.events.FrameCaptured`. What flows carry past a capture point waits in
a `Backlog`, and may be missed there when it is too much, which is counted. GSO packets come as the packets that a wire
would carry. A bond's capture is that of its members, without what a backup receives and the bond drops; messages of
connected mode are put together. Left out: filters, rotation.
"""

from __future__ import annotations

import contextlib
import os
import time
from abc import ABC, abstractmethod

from ibbond.errors import Malformed, Refused
from ibbond.host.capture_backlog import Backlog
from ibbond.host.loop import LiveLoop
from ibbond.ipoib.interface import Interface
from ibbond.machine import MS, SECOND
from ibbond.stack.events import FrameCaptured, NetworkEffect
from ibbond.stack.network import Network
from ibbond.verbs.verbs import MULTICAST_QPN
from ibbond.wire.hwaddr import ADDRESS_BYTES
from ibbond.wire.ib import UdPacket
from ibbond.wire.pcap import LINKTYPE_ERF, LINKTYPE_IPOIB, FileHeader, erf_record, group_destination, ipoib_record
from ibbond.wire.rc import RcPacket, SentMessages

STOPPING_SLICE = 5 * MS  # of a turn, to make records of what waits for a capture that ends


class Capture(ABC):
    """Writes records to a descriptor that the client opened, from `begin` on.

    `frames` counts records, `missed` frames that there was no room for, which is also what the reader of a pipe has not
    taken. When a write fails (disk full, the reader is gone) `problem` says why, and nothing more is written.
    """

    linktype: int

    def __init__(self, descriptor: int, ports: tuple[str, ...]) -> None:
        self.ports = ports
        self.frames = 0
        self.missed = 0
        self.problem: OSError | None = None
        self._descriptor = descriptor
        self._rest = b""  # of a record of which a pipe took a part
        self._epoch = time.time_ns() - time.monotonic_ns()

    def begin(self) -> None:
        """Empty the file, and write its head."""
        with contextlib.suppress(OSError):  # a pipe
            os.ftruncate(self._descriptor, 0)
        self._write(FileHeader(self.linktype).pack())

    def on_frame(self, now: int, captured: FrameCaptured) -> None:
        """A frame at one of the ports, at a monotonic nanosecond."""
        if self.problem is None:
            record = self.record(now + self._epoch, captured)
            if record and self._write(record):
                self.frames += 1
            elif record:
                self.missed += 1

    @abstractmethod
    def record(self, at: int, captured: FrameCaptured) -> bytes:
        """The record of this frame, `at` nanoseconds after 1970; empty when it does not belong in the capture."""

    def end(self) -> None:
        """Nothing more comes; what a pipe has not taken by now it never gets."""
        if self.problem is None:
            try:
                self._flush()
            except OSError as problem:
                self.problem = problem

    def _write(self, raw: bytes) -> bool:
        """Whether there was room for it, but for a rest."""
        try:
            self._flush()
            self._rest = raw
            with contextlib.suppress(BlockingIOError):
                self._flush()
        except BlockingIOError:
            return False
        except OSError as problem:
            self.problem = problem
            return False
        return True

    def _flush(self) -> None:
        while self._rest:
            self._rest = self._rest[os.write(self._descriptor, self._rest) :]


class PortCapture(Capture):
    """Everything that passes a port, management included, from LRH to VCRC."""

    linktype = LINKTYPE_ERF

    def record(self, at: int, captured: FrameCaptured) -> bytes:
        return erf_record(at, captured.frame)


class DeviceCapture(Capture):
    """The IPoIB frames of a device (an interface, or a bond: those of all members)."""

    linktype = LINKTYPE_IPOIB

    def __init__(self, descriptor: int, network: Network, host: str, device: str) -> None:
        self._network = network
        self._host = host
        self._device = device
        self._messages: dict[tuple[str, bool], SentMessages] = {}  # by port, and whether they leave it
        super().__init__(descriptor, tuple(interface.port.name for interface in self._interfaces()))
        if not self.ports:
            raise Refused(
                f"cannot capture on {host}/{device}",
                why="it is neither an IPoIB device nor a bond of IPoIB devices",
                fix="Choose another device, or a port such as h1/1",
            )

    def record(self, at: int, captured: FrameCaptured) -> bytes:
        try:
            packet = UdPacket.parse(captured.frame)
        except Malformed:
            return self._record_message(at, captured)
        for interface in self._interfaces():
            if interface.port.name == captured.port:
                ours = packet.source_qpn == interface.qpn if captured.sent else self._takes(interface, packet)
                if ours:
                    source = self._address(packet.source_lid, packet.source_qpn)
                    return ipoib_record(at, self._destination(packet), packet.payload, source)
        return b""

    def _record_message(self, at: int, captured: FrameCaptured) -> bytes:
        """The record of a message of connected mode, when this frame is its last; other frames have none."""
        try:
            packet = RcPacket.parse(captured.frame)
        except Malformed:
            return b""
        message = self._messages.setdefault((captured.port, captured.sent), SentMessages()).take(packet)
        if message is None:
            return b""
        there = self._interface(packet.destination_lid, packet.destination_qpn)
        sender_qpn = (
            self._network.subnet.peer_of(there.port.name, packet.destination_qpn) if there is not None else None
        )
        here = self._interface(packet.source_lid, sender_qpn) if sender_qpn is not None else None
        if there is None or here is None:
            return b""  # of an RDMA user, or of a connection that is gone already
        ours = here if captured.sent else there
        if ours not in self._interfaces() or not (captured.sent or self._lets_in(ours, unicast=True)):
            return b""
        return ipoib_record(at, _address_of(there), message, _address_of(here))

    def _interface(self, lid: int, qpn: int) -> Interface | None:
        """The interface with this queue pair, or whose connection has it."""
        for stack in self._network.hosts.values():
            for interface in stack.links:
                if interface.port.lid == lid:
                    return stack.links.at(interface.port.name, qpn)
        return None

    def _interfaces(self) -> list[Interface]:
        stack = self._network.host(self._host)
        bond = stack.registry.bonds.get(self._device)
        names = list(bond.members) if bond is not None else [stack.device(self._device).name]
        return [interface for name in names if (interface := stack.links.get(name)) is not None]

    def _takes(self, interface: Interface, packet: UdPacket) -> bool:
        """Whether a packet that came in at the interface's port is the interface's, and its bond lets it in."""
        group = packet.destination_qpn == MULTICAST_QPN
        if not group and packet.destination_qpn != interface.qpn:
            return False
        if group and interface.device.broadcast[8:10] != packet.destination_gid[4:6]:
            return False  # of another partition
        return self._lets_in(interface, unicast=not group)

    def _lets_in(self, interface: Interface, *, unicast: bool) -> bool:
        bond = self._network.hosts[self._host].registry.bonds.get(self._device)
        return bond is None or bond.accepts(interface.device.name, time.monotonic_ns(), unicast)

    def _destination(self, packet: UdPacket) -> bytes:
        if packet.destination_qpn == MULTICAST_QPN:
            return group_destination(packet.destination_gid)
        return self._address(packet.destination_lid, packet.destination_qpn)

    def _address(self, lid: int, qpn: int) -> bytes:
        """The link-layer address of a queue pair in this subnet; zeros when no port has the LID."""
        interface = self._interface(lid, qpn)
        return _address_of(interface) if interface is not None else bytes(ADDRESS_BYTES)


def _address_of(interface: Interface) -> bytes:
    return interface.device.permanent_address or interface.device.address


class Captures:
    """The captures of a lab. Capture points of ports are shared; everything here runs on the loop's thread."""

    def __init__(self, loop: LiveLoop) -> None:
        self._loop = loop
        self._running: list[Capture] = []
        self._backlog = Backlog(loop, self._give, self._missed)
        loop.recorder = self._backlog.take
        loop.network.record_flows()
        loop.listeners.append(self._on_frame)

    def start_port(self, port: str, descriptor: int) -> Capture:
        """Capture a port (`h1/1`, `s1/7`); `Refused` when there is none."""
        return self._start(PortCapture(descriptor, (self._loop.network.subnet.port(port).name,)))

    def start_device(self, host: str, device: str, descriptor: int) -> Capture:
        """Capture a device (`h1`, `bond0`); `Refused` unless it is an IPoIB device or a bond of IPoIB devices."""
        return self._start(DeviceCapture(descriptor, self._loop.network, host, device))

    def stop(self, capture: Capture) -> None:
        """End a capture; its descriptor stays open with its owner. Not on the loop's thread.

        What waits for it still is made into records, a little in each turn. Other captures may go on, and traffic may
        come faster than records are made: only what came before this call is waited for.
        """
        end = self._loop.ask(lambda: self._unmirror(capture))
        while self._loop.ask(lambda: self._backlog.work(STOPPING_SLICE, end)):
            time.sleep(STOPPING_SLICE / SECOND)
        self._loop.ask(lambda: self._remove(capture))

    def _remove(self, capture: Capture) -> None:
        self._running.remove(capture)
        capture.end()

    def _unmirror(self, capture: Capture) -> int:
        """Nothing new for this capture; the place in the backlog after all that waits for it."""
        for port in capture.ports:
            if not any(port in other.ports for other in self._running if other is not capture):
                self._loop.network.subnet.mirror(port, False)
        return self._backlog.end

    def _start(self, capture: Capture) -> Capture:
        capture.begin()
        for port in capture.ports:
            self._loop.network.subnet.mirror(port, True)
        self._running.append(capture)
        return capture

    def _on_frame(self, now: int, effect: NetworkEffect) -> None:
        if isinstance(effect, FrameCaptured):
            self._backlog.on_frame(now, effect)

    def _give(self, now: int, captured: FrameCaptured) -> None:
        for capture in self._running:
            if captured.port in capture.ports:
                capture.on_frame(now, captured)

    def _missed(self, port: str, count: int) -> None:
        for capture in self._running:
            if port in capture.ports:
                capture.missed += count
