"""Where real InfiniBand tools come in: a server for libumad2sim in every namespace of a lab.

Read first: `wire.simulated_umad` for the messages; docs/subnet.md for what tools see. A tool is a client at one port of
the subnet: its MADs become `SendMad`, and what arrives there for software goes to it. Transaction ids carry the
number of the client in their top 16 bits; our own software uses 0x8000 and up. Nothing here waits: what a client does
not read stays in a queue of its own, and a client that is gone is dropped. Left out: the subnet, which does not know
tools from managers.
"""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import struct
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ibbond.errors import Malformed, Refused
from ibbond.fabric.events import MadArrived, SendMad, SetIsSm
from ibbond.fabric.subnet import Subnet
from ibbond.host.loop import LiveLoop
from ibbond.host.namespace import Space
from ibbond.machine import MS
from ibbond.stack.events import NetworkEffect, OnSubnet
from ibbond.verbs.verbs import SMI_QPN, ManagementDatagram, PortState
from ibbond.wire.mad import RESPONSE, ManagementClass, Method
from ibbond.wire.sa import RmppFlags, RmppType, SaMad, is_rmpp_control
from ibbond.wire.simulated_umad import (
    CLIENTS_PER_SERVER,
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
LOST_AFTER = 50 * MS  # an SMP that nobody has answered by then goes back to its sender as timed out
RETRY_AFTER = 1 * MS  # a client that does not read is tried again
PAUSE = 1 * MS  # a manager that has written nothing for so long has finished, as far as hosts are concerned
LONGEST_WRITING = 20 * MS  # but they wait no longer than that
TOGETHER = 8  # answers that leave together; most kernels keep ten for who does not read
QUEUE_LIMIT = 4096  # packets that may wait for one client
MAX_CLIENTS = 0x7FFF
VENDOR = struct.Struct("=IIIxxxxQ")
SA_HEADER_BYTES = 56


@dataclass(slots=True)
class Client:
    """One tool: its socket, the port at which it is, and what waits for it."""

    number: int
    space: str
    sock: socket.socket
    process: int = 0
    port: str = ""
    is_sm: bool = False
    waiting: deque[bytes] = field(default_factory=deque)
    full: bool = False  # it did not read, and is tried again soon
    asked: dict[int, tuple[int, UmadPacket]] = field(default_factory=dict)  # SMPs without answer, and their last moment
    watched: bool = False  # whether somebody will look at `asked`


class UmadServer:
    """Serves tools in the given namespaces; a tool that names no port is at the first active one of its host.

    `spaces` maps host names to namespaces, `ports` host names to their HCA ports. Only on the loop's thread.
    """

    def __init__(
        self, loop: LiveLoop, base: str, spaces: Mapping[str, Space], ports: Mapping[str, Sequence[str]]
    ) -> None:
        self.base = base
        self._loop = loop
        self._subnet: Subnet = loop.network.subnet
        self._spaces = spaces
        self._ports = ports
        self._clients: dict[int, Client] = {}
        self._controls: dict[str, socket.socket] = {}
        self._gathering: Client | None = None  # whose packets are being read
        self._written_at: int | None = None  # the last Set of which hosts have not heard yet
        self._first_written_at: int | None = None
        self._lengths: dict[int, int] = {}  # MAD lengths that senders said, by transaction id
        for host in spaces:
            control = self._bind(host, "ctl")
            self._controls[host] = control
            loop.add_reader(control.fileno(), functools.partial(self._control, host))
            for _ in range(CLIENTS_PER_SERVER):
                number = len(self._clients)
                assert number < MAX_CLIENTS
                self._clients[number] = Client(number, host, self._bind(host, f"out{number}"))
        loop.listeners.append(self._heard)

    def close(self) -> None:
        self._loop.listeners.remove(self._heard)
        for sock in (*self._controls.values(), *(client.sock for client in self._clients.values())):
            self._loop.remove_reader(sock.fileno())
            sock.close()
        self._controls.clear()
        self._clients.clear()

    @property
    def attached(self) -> list[tuple[int, str]]:
        """(process, port) of every tool that is there."""
        return [(client.process, client.port) for client in self._clients.values() if client.process]

    # --- control messages

    def _control(self, host: str) -> None:
        control = self._controls[host]
        try:
            raw, sender = control.recvfrom(512)
            request = Control.parse(raw)
        except (BlockingIOError, Malformed):
            return
        answer = self._answer(host, request)
        with contextlib.suppress(OSError):  # it has gone, or does not read: it asks again
            control.sendto(answer.pack(), sender)

    def _answer(self, host: str, request: Control) -> Control:
        refused = replace(request, type=ControlType.ERROR)
        if request.type == ControlType.CONNECT:
            data = self._connect(host, Connect.parse(request.data))
            return refused if data is None else replace(request, data=data)
        client = self._clients.get(request.client)
        if client is None or not client.process or client.space != host:
            return refused
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
                client.is_sm = bool(struct.unpack_from("=i", request.data)[0])
                self._loop.handle(OnSubnet(SetIsSm(client.port, client.is_sm)))
                data = request.data
            case ControlType.GET_PKEYS:
                keys = (*port.pkeys, *[0] * CONTROL_DATA_BYTES)[: CONTROL_DATA_BYTES // 2]
                data = struct.pack("!32H", *keys)
            case _:
                return refused
        return replace(request, data=data)

    def _connect(self, host: str, wish: Connect) -> bytes | None:
        try:
            own = self._subnet.port(self._port_of(host, wish.node))
        except (Refused, ValueError):
            return None
        if not own.node.alive:
            return None
        port = own.name
        for former in tuple(self._clients.values()):
            if former.process and not os.path.exists(f"/proc/{former.process}"):
                self._drop(former)
        client = next((c for c in self._clients.values() if c.space == host and not c.process), None)
        if client is None:
            return None
        try:
            client.sock.connect(socket_name(self.base, f"in{wish.number}"))
        except OSError:
            return None
        client.process, client.port, client.is_sm = wish.number, port, bool(wish.is_sm)
        self._loop.network.outside[port] = self._loop.network.outside.get(port, 0) + 1
        self._loop.add_reader(client.sock.fileno(), functools.partial(self._packets, client))
        return Connect(client.number, wish.queue_pair, wish.is_sm, wish.node or port.replace("/", ":")).pack()

    def _port_of(self, host: str, node: str) -> str:
        """`h1:2` and `h1/2` are ports, `h1` is its first active one, `s1` a switch's port 0.

        As libibumad chooses where a tool names no port; the first one where none is active.
        """
        name, _, number = (node or host).replace("/", ":").partition(":")
        if number:
            return f"{name}/{int(number)}"
        ports = self._ports.get(name) or [f"{name}/{min(self._subnet.node(name).ports)}"]
        return next((port for port in ports if self._subnet.port(port).state is PortState.ACTIVE), ports[0])

    def _drop(self, client: Client) -> None:
        """A tool has gone: its socket is made anew, because it is connected to what no longer exists."""
        outside = self._loop.network.outside
        outside[client.port] -= 1
        if not outside[client.port]:
            del outside[client.port]
        self._loop.remove_reader(client.sock.fileno())
        client.sock.close()
        fresh = Client(client.number, client.space, self._bind(client.space, f"out{client.number}"))
        self._clients[client.number] = fresh
        if client.is_sm:  # only now: the trap that this brings is not for who has gone
            self._loop.handle(OnSubnet(SetIsSm(client.port, on=False)))

    # --- MADs

    def _packets(self, client: Client) -> None:
        """What the client has sent; answers that are there at once leave together, for each wakes the client."""
        self._gathering = client
        for _ in range(32):
            try:
                packet = UmadPacket.parse(client.sock.recv(512))
            except BlockingIOError:
                break
            except Malformed:
                continue
            except OSError:
                self._drop(client)
                break
            self._send(client, packet)
            if self._clients[client.number] is not client:
                break
        self._gathering = None
        self._flush(client)
        if self._written_at is not None and self._first_written_at is None:
            self._first_written_at = self._written_at
            self._loop.call_at(self._written_at + PAUSE, self._tell_hosts)

    def _tell_hosts(self) -> None:
        """What a manager wrote reaches the hosts when it pauses: it has its answers first, as from an adapter."""
        assert self._written_at is not None
        assert self._first_written_at is not None
        until = min(self._written_at + PAUSE, self._first_written_at + LONGEST_WRITING)
        if self._loop.now() < until:
            self._loop.call_at(until, self._tell_hosts)
            return
        self._written_at = self._first_written_at = None
        self._loop.carry_on()

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
            packet.source_lid or port.lid,
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

    def _heard(self, _now: int, effect: NetworkEffect) -> None:
        """A MAD arrived for software at a port: whose answer is it, or who manages from there?"""
        if not isinstance(effect, MadArrived):
            return
        mad = effect.mad.mad
        transaction = int.from_bytes(mad[8:16])
        if answers(mad):
            client = self._clients.get(transaction >> 48)
            if client is None or client.port != effect.port:
                return
            client.asked.pop(transaction, None)
        else:
            client = next((c for c in self._clients.values() if c.port == effect.port and c.is_sm and c.process), None)
            if client is None:
                return
        arrived = effect.mad
        length = self._lengths.pop(transaction, len(mad))
        mad, length, rest = whole(mad, length)
        if rest is not None:
            stop = ManagementDatagram(arrived.destination_lid, arrived.source_lid, 1, arrived.source_qpn, rest)
            self._loop.handle(OnSubnet(SendMad(effect.port, stop)))
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

    def _bind(self, host: str, what: str) -> socket.socket:
        """A socket in the namespace of a host: abstract names belong to a network namespace."""

        def bind() -> socket.socket:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
            sock.bind(socket_name(self.base, what))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            return sock

        return self._spaces[host].within(bind)


def answers(mad: bytes | bytearray) -> bool:
    """Does this MAD answer another one? (A Report does not, but a TrapRepress does.)"""
    if mad[1] == ManagementClass.SUBNET_DIRECTED_ROUTE and mad[4] & 0x80:
        return True
    return bool(mad[3] & RESPONSE) or mad[3] == Method.TRAP_REPRESS or is_rmpp_control(bytes(mad))


def whole(mad: bytes, length: int) -> tuple[bytes, int, bytes | None]:
    """What a tool can take of an answer in segments: (MAD, its length, an ABORT for the rest).

    The library hands 168 bytes of subnet administration data to a tool and knows no RMPP; the length says how many
    records are there, so that a tool shows no more than it got.
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
