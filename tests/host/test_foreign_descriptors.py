"""Descriptors of programs are closed without delay, and idle threads end (`host.foreign_descriptors`)."""

import contextlib
import os
import socket
import struct
import time
from collections.abc import Callable

from ibbond.host import foreign_descriptors


def until(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def closed(descriptor: int) -> bool:
    """Whether the other end of a pipe has seen the end of file."""
    try:
        return os.read(descriptor, 1) == b""
    except BlockingIOError:
        return False


def lingering() -> tuple[int, socket.socket]:
    """A TCP socket whose close(2) waits 30 s for its peer, and the peer."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        sender = socket.create_connection(server.getsockname())
        peer, _ = server.accept()
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 30))
    sender.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            sender.send(bytes(1 << 16))
    sender.setblocking(True)
    return sender.detach(), peer


def test_a_close_that_waits_delays_no_other() -> None:
    stuck, peers = zip(*(lingering() for _ in range(3)), strict=True)
    began = time.monotonic()
    foreign_descriptors.discard(*stuck)
    pipes = [os.pipe2(os.O_NONBLOCK) for _ in range(8)]
    foreign_descriptors.discard(*(write for _, write in pipes))
    assert time.monotonic() - began < 0.5
    assert until(lambda: all(closed(read) for read, _ in pipes), 5)
    assert 3 <= foreign_descriptors._threads <= foreign_descriptors.MAX_THREADS
    for peer in peers:
        peer.close()
    assert until(lambda: foreign_descriptors._threads == 0, 5 + foreign_descriptors.IDLE_S), "idle threads end"
    for read, _ in pipes:
        os.close(read)
