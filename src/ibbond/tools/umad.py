"""Where real InfiniBand tools come in: a server for libumad2sim in every namespace of a lab.

Read first: `wire.simulated_umad` for the messages; docs/subnet.md for what tools see. A tool is a client at one port of
the subnet: its MADs become `SendMad`, and what arrives there for software goes to it. Transaction ids carry the
number of the client in their top 16 bits; our own software uses 0x8000 and up. Nothing here waits: what a client does
not read stays in a queue of its own, and a client that is gone is dropped. Left out: the subnet, which does not know
tools from managers.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import socket
import struct
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ibbond.errors import Malformed
from ibbond.fabric.events import MadArrived, SendMad, SetIsSm
from ibbond.fabric.subnet import Subnet
from ibbond.host import foreign_descriptors
from ibbond.host.credentials import Credentials, receive
from ibbond.host.descriptors import is_scarce
from ibbond.host.device_access import DeviceFile, may_open, port_of
from ibbond.host.guard import Entry
from ibbond.host.loop import LiveLoop
from ibbond.host.namespace import NetNamespace
from ibbond.machine import MS
from ibbond.stack.events import NetworkEffect, OnSubnet
from ibbond.verbs.verbs import SMI_QPN, ManagementDatagram, PortState
from ibbond.wire.mad import RESPONSE, ManagementClass, Method
from ibbond.wire.sa import RmppFlags, RmppType, SaMad, is_rmpp_control
from ibbond.wire.simulated_umad import (
    CONTROL_DATA_BYTES,
    SA_DATA_VISIBLE,
    TIMED_OUT,
    Connect,
    Control,
    ControlType,
    UmadPacket,
    socket_name,
)
from ibbond.wire.smp import PERMISSIVE_LID

SMP_CLASSES = (ManagementClass.SUBNET_LID_ROUTED, ManagementClass.SUBNET_DIRECTED_ROUTE)
LOST_AFTER = 50 * MS  # an unanswered SMP is then returned to its sender as timed out
RETRY_AFTER = 1 * MS  # a client that does not read is tried again
PAUSE = 1 * MS  # a manager that has written nothing for so long has finished, as far as hosts are concerned
MAX_WRITE_NS = 20 * MS  # but they wait no longer than that
TOGETHER = 8  # answers that leave together; most kernels keep ten for who does not read
QUEUE_LIMIT = 4096  # packets that may wait for one client
MAX_CLIENTS = 0x7FFF
CLIENTS_PER_HOST = 10
MAX_QUEUE = 4096  # datagrams; net.unix.max_dgram_qlen is 10 nearly everywhere
VENDOR = struct.Struct("=IIIxxxxQ")
SA_HEADER_BYTES = 56

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(slots=True, eq=False)
class Client:
    """One tool: its process, its socket, the port at which it is, and what waits for it."""

    number: int
    host: str
    process: Credentials
    port: str
    sock: socket.socket
    ended: int  # pidfd, readable when the process has ended
    is_sm: bool = False
    waiting: deque[bytes] = field(default_factory=deque)
    full: bool = False  # it did not read, and is tried again soon
    asked: dict[int, tuple[int, UmadPacket]] = field(default_factory=dict)  # SMPs without answer, and their last moment
    watched: bool = False  # whether `asked` will be checked


class UmadServer:
    """Serves tools in the given namespaces; a tool that names no port is at the first active one of its host.

    `spaces` maps host names to namespaces, `ports` host names to their HCA ports; `manager_host` is where `admit` is
    for. A process is one client, at one port at a time. All sockets are bound from the start, or a program could bind
    their names and be the server to the next tool. Only on the loop's thread.
    """

    def __init__(
        self,
        loop: LiveLoop,
        base: str,
        spaces: Mapping[str, NetNamespace],
        ports: Mapping[str, Sequence[str]],
        manager_host: str | None = None,
    ) -> None:
        self.base = base
        self._loop = loop
        self._subnet: Subnet = loop.network.subnet
        self._spaces = spaces
        self._ports = ports
        self._sockets: dict[int, socket.socket] = {}  # by the number of the client that may have it
        self._places: dict[str, list[int]] = {}  # numbers of a host's clients
        self._manager_place = -1  # the number that is kept for a manager of the lab's own
        self._clients: dict[int, Client] = {}
        self._by_process: dict[int, Client] = {}
        self._managers: dict[int, str] = {}  # processes of the lab's own, and the port of each
        self._controls: dict[str, socket.socket] = {}
        self._gathering: Client | None = None  # whose packets are being read
        self._written_at: int | None = None  # the last Set that hosts have not seen yet
        self._first_written_at: int | None = None
        self._lengths: dict[int, int] = {}  # MAD lengths that senders said, by transaction id
        for host in spaces:
            control = self._bind(host, "ctl")
            self._controls[host] = control
            loop.add_reader(control.fileno(), functools.partial(self._control, host), Entry.UMAD)
            self._places[host] = [self._new_place(host) for _ in range(CLIENTS_PER_HOST)]
        if manager_host is not None:
            self._manager_place = self._new_place(manager_host)
        loop.listeners.append(self._on_event)

    def close(self) -> None:
        self._loop.listeners.remove(self._on_event)
        for client in tuple(self._clients.values()):
            self._forget(client)
        for sock in self._controls.values():
            self._loop.remove_reader(sock.fileno())
        for sock in (*self._controls.values(), *self._sockets.values()):
            sock.close()
        self._controls.clear()
        self._sockets.clear()

    def admit(self, process: int, port: str) -> None:
        """A program of the lab itself in `manager_host`, a subnet manager, attaches to this port and to no other."""
        self._managers[process] = port

    def dismiss(self, process: int) -> None:
        """It has ended."""
        self._managers.pop(process, None)

    # --- control messages

    def _control(self, host: str) -> None:
        control = self._controls[host]
        try:
            raw, sender, address = receive(control, 512)
            request = Control.parse(raw)
        except BlockingIOError:
            return
        except Malformed:
            self._loop.faults.malformed[Entry.UMAD] += 1
            return
        answer = self._answer(host, sender, request) if sender is not None else None
        if answer is None:
            answer = replace(request, type=ControlType.ERROR)
        with contextlib.suppress(OSError):  # it is gone, or does not read: it asks again
            control.sendto(answer.pack(), address)

    def _answer(self, host: str, sender: Credentials, request: Control) -> Control | None:
        """None where the request is refused."""
        if request.type == ControlType.CONNECT:
            data = self._connect(host, sender, Connect.parse(request.data))
            return None if data is None else replace(request, data=data)
        client = self._by_process.get(sender.pid)
        if client is None or client.number != request.client or client.host != host:
            return None
        port = self._subnet.port(client.port)
        match request.type:
            case ControlType.DISCONNECT:
                self._drop(client)
                data = request.data
            case ControlType.GET_PORT:
                data = struct.pack("=HB", port.lid, port.state)
            case ControlType.GET_VENDOR:
                info = port.node.info_through(port)
                data = VENDOR.pack(info.vendor_id, info.device_id, info.revision, 1)
            case ControlType.GET_GID:
                data = port.gid
            case ControlType.GET_GUID:
                data = port.node.guid.to_bytes(8)
            case ControlType.GET_NODE_INFO:
                data = port.node.info_through(port).pack()
            case ControlType.GET_PORT_INFO:
                asked = port.node.ports.get(request.data[0], port) if request.data[0] else port
                data = asked.info.changed(local_port=asked.number).pack()
            case ControlType.SET_IS_SM:
                if not may_open(sender, DeviceFile.ISSM):
                    return None
                self._set_is_sm(client, on=bool(struct.unpack_from("=i", request.data)[0]))
                data = request.data
            case ControlType.GET_PKEYS:
                keys = (*port.pkeys, *[0] * CONTROL_DATA_BYTES)[: CONTROL_DATA_BYTES // 2]
                data = struct.pack("!32H", *keys)
            case _:
                return None
        return replace(request, data=data)

    def _connect(self, host: str, sender: Credentials, request: Connect) -> bytes | None:
        """Register a process. Permission is checked here, as by open(2); processes may inherit the socket."""
        port = self._managers.get(sender.pid)
        if port is None:
            if not may_open(sender, DeviceFile.UMAD):
                return None
            port = port_of(request.node, host, self._ports[host], self._is_active)
        if port is None or not self._subnet.port(port).node.alive:
            return None
        if sender.pid in self._by_process:
            self._drop(self._by_process[sender.pid])
        places = [self._manager_place] if sender.pid in self._managers else self._places[host]
        number = next((place for place in places if place not in self._clients), None)
        if number is None:
            return None
        try:
            ended = os.pidfd_open(sender.pid)
        except OSError:  # it is gone, or no descriptor is free
            return None
        sock = self._sockets[number]
        if is_scarce(ended) or not connect(sock, socket_name(self.base, f"in{request.number}")):
            os.close(ended)
            return None
        client = Client(number, host, sender, port, sock, ended)
        self._clients[number] = self._by_process[sender.pid] = client
        self._loop.network.outside[port] = self._loop.network.outside.get(port, 0) + 1
        drop = functools.partial(self._drop, client)
        self._loop.add_reader(sock.fileno(), functools.partial(self._packets, client), Entry.UMAD, drop)
        self._loop.add_reader(ended, drop, Entry.UMAD, drop)
        if request.is_sm:
            client.is_sm = True
        return Connect(number, request.queue_pair, request.is_sm, request.node or port.replace("/", ":")).pack()

    def _is_active(self, port: str) -> bool:
        return self._subnet.port(port).state is PortState.ACTIVE

    def _set_is_sm(self, client: Client, *, on: bool) -> None:
        """A port is a manager's as long as one of its clients says so."""
        others = any(each.is_sm for each in self._clients.values() if each.port == client.port and each is not client)
        client.is_sm = on
        if not others:
            self._loop.handle(OnSubnet(SetIsSm(client.port, on)))

    def _drop(self, client: Client) -> None:
        """A tool is gone, or must go."""
        if self._clients.get(client.number) is not client:
            return
        self._forget(client)
        if client.is_sm:  # only now: the trap that this brings is not for who is gone
            self._set_is_sm(client, on=False)

    def _forget(self, client: Client) -> None:
        del self._clients[client.number]
        if self._by_process.get(client.process.pid) is client:
            del self._by_process[client.process.pid]
        outside = self._loop.network.outside
        outside[client.port] -= 1
        if not outside[client.port]:
            del outside[client.port]
        for fd in (client.sock.fileno(), client.ended):
            self._loop.remove_reader(fd)
        os.close(client.ended)
        disconnect(client.sock)

    # --- MADs

    def _packets(self, client: Client) -> None:
        """What the client has sent; answers that are there at once leave together, for each wakes the client."""
        self._gathering = client
        try:
            for _ in range(32):
                try:
                    packet = UmadPacket.parse(foreign_descriptors.read(client.sock, 512))
                except BlockingIOError:
                    break
                except Malformed:
                    self._loop.faults.malformed[Entry.UMAD] += 1
                    continue
                except OSError:
                    self._drop(client)
                    break
                self._send(client, packet)
                if self._clients.get(client.number) is not client:
                    break
        finally:
            self._gathering = None
        self._flush(client)
        if self._written_at is not None and self._first_written_at is None:
            self._first_written_at = self._written_at
            self._loop.call_at(self._written_at + PAUSE, self._notify_hosts)

    def _notify_hosts(self) -> None:
        """What a manager wrote reaches the hosts when it pauses: it has its answers first, as from an adapter."""
        assert self._written_at is not None
        assert self._first_written_at is not None
        until = min(self._written_at + PAUSE, self._first_written_at + MAX_WRITE_NS)
        if self._loop.now() < until:
            self._loop.call_at(until, self._notify_hosts)
            return
        self._written_at = self._first_written_at = None
        self._loop.resume_work()

    def _send(self, client: Client, packet: UmadPacket) -> None:
        mad = packet.mad
        asks = not answers(mad)
        if asks:
            mad = b"%b%b%b" % (mad[:8], client.number.to_bytes(2), mad[10:])
        port = self._subnet.port(client.port)
        answer = None
        if packet.destination_lid == PERMISSIVE_LID and packet.destination_qpn == SMI_QPN:
            now = self._loop.now()
            answer = self._subnet.answer(now, port, mad)
            if mad[3] == Method.SET and answer is not None:
                self._written_at = now
            if answer:
                self._give(client, UmadPacket(PERMISSIVE_LID, PERMISSIVE_LID, 0, 0, answer, length=packet.length))
                return
        transaction = int.from_bytes(mad[8:16])
        self._lengths[transaction] = packet.length
        if len(self._lengths) > QUEUE_LIMIT:  # the oldest has had no answer
            del self._lengths[next(iter(self._lengths))]
        if asks and mad[1] in SMP_CLASSES and mad[3] != Method.TRAP:
            client.asked[transaction] = (self._loop.now() + LOST_AFTER, packet)
            if not client.watched:
                self._watch(client)
        if answer is not None:
            return
        sent = ManagementDatagram(
            PERMISSIVE_LID if packet.destination_lid == PERMISSIVE_LID else port.lid,  # never what the client says
            packet.destination_lid,
            packet.source_qpn,
            packet.destination_qpn,
            mad,
        )
        self._loop.handle(OnSubnet(SendMad(client.port, sent)))
        if not asks:
            self._lengths.pop(transaction, None)

    def _watch(self, client: Client) -> None:
        """Look again when the first of those that wait for an answer has waited long enough."""
        first = next(iter(client.asked.values()), None)
        client.watched = first is not None
        if first is not None:
            self._loop.call_at(first[0], functools.partial(self._late, client))

    def _late(self, client: Client) -> None:
        if self._clients.get(client.number) is not client:
            return
        now = self._loop.now()
        for transaction in [transaction for transaction, (until, _) in client.asked.items() if until <= now]:
            _, packet = client.asked.pop(transaction)
            mad = b"%b%b%b" % (packet.mad[:8], client.number.to_bytes(2), packet.mad[10:])
            self._give(client, packet._replace(mad=mad, status=TIMED_OUT))
        self._watch(client)

    def _on_event(self, _now: int, effect: NetworkEffect) -> None:
        """A MAD arrived for software at a port: whose answer is it, or who manages from there?"""
        if not isinstance(effect, MadArrived):
            return
        mad = effect.mad.mad
        if answers(mad):
            client = self._clients.get(int.from_bytes(mad[8:10]))
            if client is None or client.port != effect.port:
                return
            client.asked.pop(int.from_bytes(mad[8:16]), None)
        else:
            client = next((each for each in self._clients.values() if each.port == effect.port and each.is_sm), None)
            if client is None:
                return
        deliver = functools.partial(self._deliver, client, effect.mad)
        self._loop.faults.guard(Entry.UMAD, deliver, functools.partial(self._drop, client))

    def _deliver(self, client: Client, arrived: ManagementDatagram) -> None:
        mad = arrived.mad
        length = self._lengths.pop(int.from_bytes(mad[8:16]), len(mad))
        rest = None
        try:
            mad, length, rest = whole(mad, length)
        except Malformed:  # the client gets it as it came
            self._loop.faults.malformed[Entry.UMAD] += 1
        if rest is not None:
            stop = ManagementDatagram(arrived.destination_lid, arrived.source_lid, 1, arrived.source_qpn, rest)
            self._loop.handle(OnSubnet(SendMad(client.port, stop)))
        packet = UmadPacket(
            arrived.destination_lid,
            arrived.source_lid,
            arrived.destination_qpn,
            arrived.source_qpn,
            mad,
            length=length,
        )
        self._give(client, packet)

    def _give(self, client: Client, packet: UmadPacket) -> None:
        if len(client.waiting) >= QUEUE_LIMIT:
            self._drop(client)
            return
        client.waiting.append(packet.pack())
        if client is not self._gathering or len(client.waiting) >= TOGETHER:
            self._flush(client)

    def _flush(self, client: Client) -> None:
        """Send what waits; a full socket is tried again soon."""
        while client.waiting and not client.full and self._clients.get(client.number) is client:
            try:
                client.sock.send(client.waiting[0])
            except BlockingIOError:
                client.full = True
                self._loop.call_at(self._loop.now() + RETRY_AFTER, functools.partial(self._flush_again, client))
            except OSError:
                self._drop(client)
            else:
                client.waiting.popleft()

    def _flush_again(self, client: Client) -> None:
        client.full = False
        self._flush(client)

    def _new_place(self, host: str) -> int:
        number = len(self._sockets)
        assert number < MAX_CLIENTS
        self._sockets[number] = self._bind(host, f"out{number}")
        return number

    def _bind(self, host: str, what: str) -> socket.socket:
        """A socket in the namespace of a host: abstract names belong to a network namespace."""

        def bind() -> socket.socket:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)  # first: what was sent before has no sender
            foreign_descriptors.refuse(sock)
            sock.bind(socket_name(self.base, what))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            return sock

        return self._spaces[host].run_in(bind)


def connect(sock: socket.socket, name: bytes) -> bool:
    """Whether a datagram socket is connected to this one now. Nothing remains of what others sent it before."""
    try:
        sock.connect(name)
    except OSError:
        return False
    discard(sock)
    return True


def disconnect(sock: socket.socket) -> None:
    """Dissolve the association (connect(2), AF_UNSPEC), which Python has no call for, and keep the name."""
    nowhere = struct.pack("=H14x", socket.AF_UNSPEC)
    _libc.connect(sock.fileno(), nowhere, len(nowhere))
    discard(sock)


def discard(sock: socket.socket) -> None:
    """Drop what waits to be read; no more than a queue holds, for others may be sending."""
    with contextlib.suppress(OSError):
        for _ in range(MAX_QUEUE):
            foreign_descriptors.read(sock, 1)


def answers(mad: bytes | bytearray) -> bool:
    """Does this MAD answer another one? (A Report does not, but a TrapRepress does.)"""
    if mad[1] == ManagementClass.SUBNET_DIRECTED_ROUTE and mad[4] & 0x80:
        return True
    return bool(mad[3] & RESPONSE) or mad[3] == Method.TRAP_REPRESS or is_rmpp_control(bytes(mad))


def whole(mad: bytes, length: int) -> tuple[bytes, int, bytes | None]:
    """What a tool can take of an answer in segments: (MAD, its length, an ABORT for the rest).

    The library hands 168 bytes of subnet administration data to a tool and knows no RMPP; the length says how many
    records are there, so that a tool shows no more than it got. Raises `Malformed`.
    """
    if mad[1] != ManagementClass.SUBNET_ADMINISTRATION:
        return mad, length, None
    segment = mad[25] == RmppType.DATA
    if not segment and mad[3] != Method.GET_TABLE_RESP:  # OpenSM's tables come without RMPP, which the library cut off
        return mad, length, None
    first = SaMad.parse(mad)
    visible = min(first.data_bytes if segment else max(length - SA_HEADER_BYTES, 0), SA_DATA_VISIBLE)
    if first.record_bytes:
        visible -= visible % first.record_bytes
    last = not segment or bool(first.rmpp.flags & RmppFlags.LAST)
    abort = None if last else replace(first, rmpp=replace(first.rmpp, type=RmppType.ABORT), data=b"").pack()
    single = replace(first, rmpp=replace(first.rmpp, version=0, type=0, flags=0, segment=0, payload_bytes=0))
    return single.pack(), SA_HEADER_BYTES + visible, abort
