"""The programs that talk over the bond in a demo: ordinary processes with ordinary sockets inside the lab's hosts.

Run as `python traffic.py KIND ...` inside a host; they know nothing of InfiniBand or bonding. Each prints
one JSON line ten times a second (`sent`, `received`, `lost` so far) and, when its standard input ends, one last line
with all it knows (`final`).
Times are CLOCK_MONOTONIC, which all processes of a machine share. Kept free of imports that slow a start down.

    datagrams OWN PEER PORT SPACING_US     UDP both ways: numbered probes out, the peer's probes in
    multicast OWN GROUP PORT SPACING_US    the same to a multicast group that both sides have joined
    icmp OWN PEER SPACING_US               echo requests by a raw socket, where the system has no usable ping
    tcp-send OWN PEER PORT SPACING_US      a block every SPACING_US; counts and hashes what it sent
    tcp-receive OWN PORT                   takes the one connection; counts, hashes, and notes silences
"""

import array
import contextlib
import hashlib
import json
import select
import socket
import struct
import sys
import time
from collections.abc import Callable

PROBE = struct.Struct("!QQ")  # number, nothing
SIZE = 64
SO_TIMESTAMPNS = 35  # asm-generic/socket.h; Python has no name for it
STAMP = struct.Struct("@qq")
STAMP_BYTES = socket.CMSG_SPACE(STAMP.size)
BLOCK = bytes(i * 7 % 251 for i in range(8192))
REPORT_NS = 100_000_000
SILENCE_NS = 2_000_000  # shorter silences of a TCP receiver are not noted
STOP = sys.stdin


def main(words: list[str]) -> None:
    kind, own = words[0], words[1]
    match kind:
        case "datagrams":
            peer, port, spacing = words[2], int(words[3]), int(words[4])
            probe(udp_socket(own, port), (peer, port), spacing)
        case "multicast":
            group, port, spacing = words[2], int(words[3]), int(words[4])
            probe(multicast_socket(own, group, port), (group, port), spacing)
        case "icmp":
            ping(own, words[2], int(words[3]))
        case "tcp-send":
            tcp_send(own, words[2], int(words[3]), int(words[4]))
        case "tcp-receive":
            tcp_receive(own, int(words[2]))
        case _:
            sys.exit(f"unknown kind {kind}")


def emit(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


def udp_socket(own: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    sock.bind((own, port))
    return sock


def multicast_socket(own: str, group: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    sock.bind((group, port))
    interface = socket.inet_aton(own)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, interface)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(group) + interface)
    return sock


def probe(sock: socket.socket, target: tuple[str, int], spacing_us: int) -> None:
    """Send numbered probes at a fixed spacing and note which of the peer's arrive, until standard input ends."""
    numbers, times = array.array("Q"), array.array("Q")

    def send(number: int) -> None:
        sock.sendto(PROBE.pack(number, 0).ljust(SIZE, b"\0"), target)

    def receive() -> None:
        message, at = receive_stamped(sock)
        if len(message) >= PROBE.size:
            numbers.append(PROBE.unpack_from(message)[0])
            times.append(at)

    sent = spaced(sock, spacing_us * 1000, send, receive, numbers)
    emit(final=True, sent=sent.tolist(), numbers=numbers.tolist(), times=times.tolist())


def receive_stamped(sock: socket.socket) -> tuple[bytes, int]:
    """A datagram, and when the kernel had it: a receiver that is scheduled late does not make it late.

    The kernel's stamp is of the time of day (SO_TIMESTAMPNS); what that clock has more than ours is asked each time.
    """
    message, ancillary, _, _ = sock.recvmsg(2048, STAMP_BYTES)
    at = time.monotonic_ns()
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPNS):
            seconds, nanoseconds = STAMP.unpack_from(data)
            at -= max(0, time.time_ns() - seconds * 1_000_000_000 - nanoseconds)
    return message, at


def spaced(
    sock: socket.socket,
    spacing: int,
    send: Callable[[int], None],
    receive: Callable[[], None],
    numbers: "array.array[int]",
) -> "array.array[int]":
    """The loop of every prober; the send times, by number. A slot that was overslept is left out, not made up for."""
    sock.setblocking(False)
    sent = array.array("Q")
    now = time.monotonic_ns()
    send_at, report_at = now, now
    stopping_at = 0
    while not stopping_at or now < stopping_at:
        if now >= send_at and not stopping_at:
            with contextlib.suppress(OSError):  # no route, no buffer: the probe counts as sent, and is lost
                send(len(sent))
            sent.append(now)
            send_at = max(send_at + spacing, now + spacing // 4)
        if now >= report_at:
            lost = numbers[-1] - numbers[0] + 1 - len(numbers) if numbers else 0
            emit(sent=len(sent), received=len(numbers), lost=max(0, lost))
            report_at = now + REPORT_NS
        wake_at = min(stopping_at or send_at, report_at)
        readable, _, _ = select.select(
            [sock] if stopping_at else [sock, STOP], [], [], max(0, wake_at - time.monotonic_ns()) / 1e9
        )
        if sock in readable:
            with contextlib.suppress(OSError):
                while True:
                    receive()
        now = time.monotonic_ns()
        if STOP in readable and not STOP.readline():
            stopping_at = now + 100_000_000  # what is in flight may still arrive
    return sent


def ping(own: str, peer: str, spacing_us: int) -> None:
    """ICMP echo by a raw socket: what the system's ping does, for systems that have none."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    sock.bind((own, 0))
    sock.connect((peer, 0))
    identity = time.monotonic_ns() & 0xFFFF
    numbers, times = array.array("Q"), array.array("Q")

    def send(number: int) -> None:
        body = struct.pack("!BBHHH", 8, 0, 0, identity, number & 0xFFFF) + PROBE.pack(number, 0).ljust(48, b"\0")
        sock.send(body[:2] + struct.pack("!H", internet_checksum(body)) + body[4:])

    def receive() -> None:
        packet = sock.recv(2048)
        header = (packet[0] & 15) * 4
        kind, _, _, found, _ = struct.unpack_from("!BBHHH", packet, header)
        if kind == 0 and found == identity:
            numbers.append(PROBE.unpack_from(packet, header + 8)[0])
            times.append(time.monotonic_ns())

    sent = spaced(sock, spacing_us * 1000, send, receive, numbers)
    emit(final=True, sent=sent.tolist(), numbers=numbers.tolist(), times=times.tolist())


def internet_checksum(body: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(body) // 2}H", body))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def tcp_send(own: str, peer: str, port: int, spacing_us: int) -> None:
    sock = socket.create_connection((peer, port), timeout=20, source_address=(own, 0))
    sock.settimeout(None)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setblocking(False)
    digest = hashlib.sha256()
    sent, start = 0, 0
    spacing = spacing_us * 1000
    now = send_at = report_at = time.monotonic_ns()
    while True:
        if now >= send_at:
            with contextlib.suppress(BlockingIOError):
                done = sock.send(BLOCK[start:])
                digest.update(memoryview(BLOCK)[start : start + done])
                sent, start = sent + done, (start + done) % len(BLOCK)
            send_at = max(send_at + spacing, now + spacing // 4)
        if now >= report_at:
            emit(sent=sent)
            report_at = now + REPORT_NS
        wait = max(0, min(send_at, report_at) - time.monotonic_ns()) / 1e9
        if select.select([STOP], [], [], wait)[0] and not STOP.readline():
            break
        now = time.monotonic_ns()
    sock.setblocking(True)
    sock.shutdown(socket.SHUT_WR)
    sock.settimeout(10)
    with contextlib.suppress(OSError):
        sock.recv(1)  # the receiver has read to the end and closes
    emit(final=True, sent=sent, sha256=digest.hexdigest())


def tcp_receive(own: str, port: int) -> None:
    listener = socket.create_server((own, port))
    emit(received=0)
    readable, _, _ = select.select([listener, STOP], [], [])
    if listener not in readable:
        emit(final=True, received=0, sha256="", silences=[], last_at=0)
        return
    sock, _ = listener.accept()
    digest = hashlib.sha256()
    received = 0
    silences = []
    buffer = bytearray(1 << 18)
    view = memoryview(buffer)
    last_at = time.monotonic_ns()
    report_at = last_at
    sock.settimeout(12)
    with contextlib.suppress(TimeoutError, ConnectionError):
        while size := sock.recv_into(buffer):
            now = time.monotonic_ns()
            if now - last_at >= SILENCE_NS:
                silences.append((last_at, now))
            last_at = now
            digest.update(view[:size])
            received += size
            if now >= report_at:
                emit(received=received)
                report_at = now + REPORT_NS
    sock.close()
    emit(final=True, received=received, sha256=digest.hexdigest(), silences=silences, last_at=last_at)


if __name__ == "__main__":
    main(sys.argv[1:])
