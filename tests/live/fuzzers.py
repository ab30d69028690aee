"""What a hostile program may send to a lab from inside a host: `python fuzzers.py ENTRY SEED SECONDS` runs in h1.

One function per way in. Everything random comes from the seed. Prints how many things were sent.
"""

import json
import os
import random
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ibbond.rdma.messages import SOCKET_NAME
from ibbond.wire.simulated_umad import Connect, Control, UmadPacket, socket_name

ROOT = Path("/sys/class/net")
CLASSES = (0x01, 0x81, 0x03, 0x04, 0x07, 0x21)
METHODS = (0x01, 0x02, 0x03, 0x05, 0x06, 0x07, 0x12, 0x14, 0x81, 0x92, 0x93, 0x95)
ATTRIBUTES = (*range(0x01, 0x20), 0x31, 0x35, 0x36, 0x38, 0x39, 0xF3, 0xFF00)
NAMES = ("status", "host", "read", "write", "entries", "snapshot", "proc", "log", "addresses", "subnet", "past_events")


def nastily(chance: random.Random, raw: bytes) -> bytes:
    """The same bytes with some changed, cut off or repeated."""
    text = bytearray(raw)
    for _ in range(chance.randrange(6)):
        if text:
            text[chance.randrange(len(text))] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
    if chance.random() < 0.2:
        del text[chance.randrange(len(text) + 1) :]
    return bytes(text)


def word(chance: random.Random) -> object:
    kinds: tuple[Callable[[], object], ...] = (
        lambda: chance.choice((-1, 0, 1, 2**31, 2**32, 2**63, 2**64, -(2**63), 1e308)),
        lambda: "".join(chance.choice("abc019/.:-+ \n\0\u2028\ud800é") for _ in range(chance.randrange(30))),
        lambda: chance.choice(("h1", "h2", "bond0", "bond0/bonding/mode", "h1/bond0", None, True, [], {})),
        lambda: [word(chance) for _ in range(chance.randrange(3))],
        lambda: {"x": word(chance)},
    )
    return chance.choice(kinds)()


def mad(chance: random.Random) -> bytes:
    """One that gets past the first checks more often than not."""
    raw = bytearray(chance.randbytes(256))
    raw[0:4] = bytes((1, chance.choice(CLASSES), chance.choice((1, 2)), chance.choice(METHODS)))
    raw[16:18] = chance.choice(ATTRIBUTES).to_bytes(2)
    if chance.random() < 0.5:
        raw[4:8] = bytes((0, 0, 0, chance.randrange(4)))
    if chance.random() < 0.5:
        raw[24:28] = bytes((1, chance.randrange(10), chance.randrange(8), 0))
    return nastily(chance, bytes(raw)).ljust(256, b"\0")


def umad(chance: random.Random) -> Iterator[None]:
    """As root at a port of its own: MADs to any port, and control messages between them."""
    process = os.getpid()
    control, data = (socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2))
    control.bind(socket_name("sim", f"ctl{process}"))
    control.connect(socket_name("sim", "ctl"))
    data.bind(socket_name("sim", f"in{process}"))
    data.setblocking(False)
    control.settimeout(5)
    while True:
        control.send(Control(0, 1, 44, Connect(process, 0, chance.randrange(2), "h1:1").pack()).pack())
        number = Connect.parse(Control.parse(control.recv(512)).data).number
        data.connect(socket_name("sim", f"out{number}"))
        for _ in range(chance.randrange(1, 500)):
            lid = chance.choice((0xFFFF, 0xFFFF, chance.randrange(10), chance.randrange(0x10000), 0xC000))
            queue_pair = chance.choice((0, 1, 1, 2, 0xFFFFFF))
            packet = UmadPacket(lid, chance.randrange(0x10000), queue_pair, queue_pair, mad(chance)).pack()
            if chance.random() < 0.02:
                packet = nastily(chance, packet)
            send(data, packet)
            while receive(data):
                pass
            yield
        kind, body = chance.randrange(12), chance.randbytes(64)
        if kind != 1:
            control.send(nastily(chance, Control(number, kind, chance.randrange(100), body).pack()))
            control.settimeout(0.02)
            receive(control)
            control.settimeout(5)


def umad_unprivileged(chance: random.Random) -> Iterator[None]:
    """Without rights: anything to the names that are there."""
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind("")
    sock.setblocking(False)
    while True:
        connect = Connect(chance.randrange(70000), 0, 1, chance.choice(("", "h1", "s1:3", "h2:1")))
        message = Control(chance.randrange(30), chance.randrange(12), 44, connect.pack()).pack()
        name = chance.choice(("ctl", f"out{chance.randrange(30)}"))
        try:
            sock.sendto(nastily(chance, message), socket_name("sim", name))
        except OSError:
            time.sleep(0.0005)
        while receive(sock):
            pass
        yield


def rdma(chance: random.Random) -> Iterator[None]:
    """Requests of RDMA CM with values of all kinds, descriptors that are no memory, and ends at any moment."""
    kinds = ("Listen", "ResolveAddress", "ResolveRoute", "MakeQueuePair", "Connect", "Accept", "Reject", "Disconnect")
    fields = ("id", "port", "address", "destination", "timeout_ms", "request", "question", "private", "qpn")
    while True:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.connect(SOCKET_NAME)
        sock.setblocking(False)
        for _ in range(chance.randrange(1, 300)):
            names = (*kinds, "Destroy", "PostWork", "Work", "Register", "Settle", "Completion", "Nothing")
            requests = [
                {"": chance.choice(names)} | {chance.choice(fields): word(chance) for _ in range(chance.randrange(5))}
                for _ in range(chance.randrange(1, 4))
            ]
            if chance.random() < 0.5:
                requests = [
                    {"": "ResolveAddress", "id": chance.randrange(9), "destination": "0a000002", "timeout_ms": 100},
                    {"": "Destroy", "id": chance.randrange(9)},
                ]
            raw = json.dumps(requests).encode("utf-8", "surrogatepass")
            raw = nastily(chance, raw) if chance.random() < 0.2 else raw
            files = [0, 1, 2][: chance.randrange(4)] if chance.random() < 0.3 else []
            try:
                socket.send_fds(sock, [raw or b"x"], files)
            except BlockingIOError:
                time.sleep(0.001)
            except OSError:
                break
            while receive(sock, 1 << 17):
                pass
            yield
        sock.close()


def control(chance: random.Random) -> Iterator[None]:
    """Requests to the lab's own socket that only ask; lines that are none."""
    while True:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.connect(os.environ["IBBOND_CONTROL"])
        sock.settimeout(5)
        for _ in range(chance.randrange(1, 50)):
            words = {chance.choice(("host", "path", "bond", "device", "table", "x")): word(chance) for _ in range(2)}
            request: object = {"do": chance.choice((*NAMES, str(word(chance)))), "with": words}
            request = word(chance) if chance.random() < 0.1 else request
            raw = json.dumps(request).encode("utf-8", "surrogatepass")
            try:
                sock.sendall((nastily(chance, raw) if chance.random() < 0.2 else raw).replace(b"\n", b"") + b"\n")
                receive(sock, 1 << 16)
            except OSError:
                break
            yield
            sock.settimeout(0.05)
        sock.close()


def packets(chance: random.Random) -> Iterator[None]:
    """Frames through every device: noise, and headers whose fields lie."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    ours, theirs = bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2))
    ipv6 = bytes.fromhex("fd000000000000000000000000000001fd000000000000000000000000000002")
    while True:
        size = chance.choice((0, 1, 20, 40, 60, 500, 2000))
        body = chance.randbytes(size)
        ipv4 = bytes((0x45, 0)) + (20 + size).to_bytes(2) + chance.randbytes(2) + chance.choice((b"\0\0", b"\x20\0"))
        shapes = (
            body,
            ipv4 + bytes((64, chance.choice((1, 2, 6, 17, 255)), 0, 0)) + ours + theirs + body,
            ipv4 + bytes((64, 2, 0, 0)) + ours + bytes((224, 0, 0, 22)) + body,
            b"\x60\0\0\0" + size.to_bytes(2) + bytes((chance.choice((0, 44, 58, 17)), 255)) + ipv6 + body,
            b"\0\x20\x08\0\x14\x04" + chance.randbytes(2) + chance.randbytes(48),
        )
        raw = nastily(chance, chance.choice(shapes))
        try:
            sock.sendto(raw or b"\0", (chance.choice(("bond0", "ib0", "ib1")), chance.choice((0x0800, 0x86DD, 0x0806))))
        except OSError:
            time.sleep(0.0002)  # no room in the device's queue
        yield


def sysfs(chance: random.Random) -> Iterator[None]:
    """Every attribute of a bond without members, and what makes and deletes devices."""
    masters = ROOT / "bonding_masters"
    write(masters, "+fuzz0")
    try:
        names = sorted(path.name for path in (ROOT / "fuzz0/bonding").iterdir())
        texts = (
            "0",
            "1",
            "-1",
            "99999999999999999999",
            "active-backup",
            "ib9",
            "+ib9",
            "10.0.0.9",
            "\0",
            "",
            "x" * 4096,
        )
        while True:
            text = chance.choice(texts) if chance.random() < 0.8 else str(word(chance))
            place = chance.choice((*(f"fuzz0/bonding/{name}" for name in names), "bonding_masters", "ib0/create_child"))
            if "bonding_masters" in place:
                text = chance.choice(
                    ("+fuzz1", "-fuzz1", "-nothere", "+", "-", f"+{text}"[:20] if text != "x" else "+")
                )
            elif "create_child" in place:
                text = chance.choice(("0", "0xffff", "99999999", "-1", "no key"))
            write(ROOT / place, text)
            yield
    finally:
        for name in masters.read_text().split():
            if name != "bond0":
                write(masters, f"-{name}")


def write(path: Path, text: str) -> None:
    try:
        with open(path, "wb", buffering=0) as file:
            file.write(text.encode("utf-8", "surrogatepass"))
    except (OSError, ValueError):
        pass


def send(sock: socket.socket, raw: bytes) -> None:
    try:
        sock.send(raw)
    except OSError:  # no room, or what was sent before is discarded because we connect again
        time.sleep(0.0005)


def receive(sock: socket.socket, size: int = 512) -> bytes:
    try:
        return sock.recv(size)
    except OSError:
        return b""


ENTRIES = {each.__name__: each for each in (umad, umad_unprivileged, rdma, control, packets, sysfs)}


def main() -> None:
    entry, seed, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    sent = 0
    steps = ENTRIES[entry](random.Random(f"{entry} {seed}"))
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        next(steps)
        sent += 1
    steps.close()  # type: ignore[attr-defined]
    print(sent)


if __name__ == "__main__":
    main()
