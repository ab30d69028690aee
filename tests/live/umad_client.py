"""A client of the umad sockets of a lab host that says what it likes: run inside a host, `python umad_client.py STORY`.

It speaks the messages of libumad2sim by hand, so that it can say what the library never would. Prints one word or
line per step; the test reads them.
"""

import os
import socket
import sys

from ibbond.wire.simulated_umad import Connect, Control, ControlType, UmadPacket, socket_name

BASE = "sim"


class UmadClient:
    """One client; `name` is the number by which it calls its sockets (the library takes its process's)."""

    def __init__(self, name: int) -> None:
        self.name = name
        self.number = -1
        self.control = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.control.bind(socket_name(BASE, f"ctl{name}"))
        self.control.connect(socket_name(BASE, "ctl"))
        self.control.settimeout(3)
        self.data = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.data.bind(socket_name(BASE, f"in{name}"))
        self.data.settimeout(3)

    def ask(self, kind: int, data: bytes = b"", length: int = 0) -> Control:
        self.control.send(Control(self.number if self.number >= 0 else 0, kind, length, data).pack())
        return Control.parse(self.control.recv(512))

    def connect(self, node: str, *, is_sm: bool = False) -> bool:
        """Whether the lab took us in."""
        answer = self.ask(ControlType.CONNECT, Connect(self.name, 0, int(is_sm), node).pack(), 44)
        if answer.type == ControlType.ERROR:
            return False
        self.number = Connect.parse(answer.data).number
        self.data.connect(socket_name(BASE, f"out{self.number}"))
        return True

    def lid(self) -> int:
        return int.from_bytes(self.ask(ControlType.GET_PORT).data[:2], sys.byteorder)

    def send(self, lid: int, mad: bytes, queue_pair: int = 1) -> None:
        self.data.send(UmadPacket(lid, 0, queue_pair, queue_pair, mad.ljust(256, b"\0")).pack())

    def receive(self) -> bytes | None:
        try:
            return UmadPacket.parse(self.data.recv(512)).mad
        except TimeoutError:
            return None


def segmented_table(receiver: int) -> bytes:
    """A GetTableResp of subnet administration for client `receiver` whose RMPP type (9) does not exist."""
    mad = bytearray(256)
    mad[0:4] = bytes((1, 3, 2, 0x92))  # base version, class, class version, method
    mad[8:10] = receiver.to_bytes(2)
    mad[16:18] = (0x35).to_bytes(2)
    mad[24:27] = bytes((1, 9, 1))
    return bytes(mad)


def malformed() -> None:
    """From one process at port 1 to another at port 2: what cannot be parsed arrives as it was sent."""
    reported, telling = os.pipe()
    if os.fork() == 0:
        one = UmadClient(os.getpid())
        print(one.connect("h1:1"), flush=True)
        number, lid = os.read(reported, 100).split()
        one.send(int(lid), segmented_table(int(number)))
        one.receive()  # stays until the other has it
        os._exit(0)
    two = UmadClient(os.getpid())
    assert two.connect("h1:2")
    os.write(telling, b"%d %d" % (two.number, two.lid()))
    got = two.receive()
    print("nothing" if got is None else "as sent" if got == segmented_table(two.number) else "changed", flush=True)


def squatter() -> None:
    """Leaves in the lab's sockets what would be counted if it were read as coming from the next client."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sent = 0
    for number in range(40):
        try:
            sock.sendto(b"no packet", socket_name(BASE, f"out{number}"))
            sent += 1
        except OSError:
            pass
    print(sent > 0)


def switch() -> None:
    """A switch's outer port, then IsSM there."""
    client = UmadClient(3)
    print(client.connect("s1:3"))
    client.number = max(client.number, 0)
    print(client.ask(ControlType.SET_IS_SM, b"\1\0\0\0", 4).type == ControlType.ERROR)


def nodes() -> None:
    """Whether each node on the command line takes us in."""
    for number, node in enumerate(sys.argv[3:]):
        print(node, UmadClient(100 + number).connect(node))


def slots() -> None:
    """Ten connections of one process that lies about its number, then more of others."""
    client = UmadClient(os.getpid())
    for _ in range(30):
        client.ask(ControlType.CONNECT, Connect(os.getpid(), 0, 0, "").pack(), 44)
    print("asked")
    sys.stdin.readline()


STORIES = {"malformed": malformed, "squatter": squatter, "switch": switch, "nodes": nodes, "slots": slots}


def main() -> None:
    story, user = sys.argv[1], int(sys.argv[2])
    if user:
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)
    STORIES[story]()


if __name__ == "__main__":
    main()
