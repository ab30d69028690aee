#!/usr/bin/env python3
"""rping over ibbond: the server reads the client's bytes by RDMA and writes them back by RDMA, then says so.

In a lab: ibbond lab exec h2 -- examples/rdma-rping.py, then ibbond lab exec h1 -- examples/rdma-rping.py 10.0.0.2
"""

import argparse
import struct
import sys
import time
from ipaddress import ip_address

from ibbond.rdma.client import Context
from ibbond.rdma_cm import events as cm
from ibbond.verbs.reliable_verbs import Operation, Receive, Status, Work

PORT, SIZE, ROUNDS = 7174, 4096, 10
HELLO = struct.Struct("!I")  # the key of the client's memory


def expect(context: Context, kind: cm.RdmaKind | Operation) -> cm.RdmaCmEvent | cm.WorkCompleted:
    """The next event or completion of this kind; completions of other successful work pass by."""
    while True:
        event = context.poll(10)
        if event is None:
            sys.exit("nothing arrived within 10 s")
        if isinstance(event, cm.WorkCompleted):
            if event.completion.status is not Status.SUCCESS:
                sys.exit(f"{event.completion.operation.value}: {event.completion.status.value}")
            if event.completion.operation is kind:
                return event
        elif event.kind is kind:
            return event
        else:
            sys.exit(f"{event.kind.value} ({event.status})")


def serve(context: Context) -> None:
    memory, key = context.register(2 * SIZE)
    context.ask(cm.Listen(0, PORT))
    peer = -1
    while peer < 0:
        event = context.poll(None)
        peer = event.id if isinstance(event, cm.RdmaCmEvent) else -1
    context.ask(cm.MakeQueuePair(peer))
    for number in range(2):
        context.ask(cm.PostWork(peer, Receive(number, key, SIZE, HELLO.size)))
    context.ask(cm.Accept(peer))
    expect(context, cm.RdmaKind.ESTABLISHED)
    for number in range(ROUNDS):
        expect(context, Operation.RECEIVE)
        (remote,) = HELLO.unpack_from(memory, SIZE)
        context.ask(cm.PostWork(peer, Receive(number, key, SIZE, HELLO.size)))
        context.ask(cm.PostWork(peer, Work(number, Operation.READ, key, 0, SIZE, remote, 0)))
        expect(context, Operation.READ)
        context.ask(cm.PostWork(peer, Work(number, Operation.WRITE, key, 0, SIZE, remote, SIZE)))
        context.ask(cm.PostWork(peer, Work(number, Operation.SEND, inline=b"done")))
        expect(context, Operation.SEND)
    while not isinstance(event := context.poll(5), cm.RdmaCmEvent) and event is not None:
        pass  # until the client has disconnected


def ping(context: Context, address: bytes) -> None:
    memory, key = context.register(2 * SIZE + 64)
    context.ask(cm.ResolveAddress(0, address, PORT))
    expect(context, cm.RdmaKind.ADDR_RESOLVED)
    context.ask(cm.ResolveRoute(0))
    expect(context, cm.RdmaKind.ROUTE_RESOLVED)
    context.ask(cm.MakeQueuePair(0))
    context.ask(cm.Connect(0))
    expect(context, cm.RdmaKind.ESTABLISHED)
    for number in range(ROUNDS):
        memory[:SIZE] = bytes((number + at) % 256 for at in range(SIZE))
        began = time.monotonic()
        context.ask(cm.PostWork(0, Receive(number, key, 2 * SIZE, 64)))
        context.ask(cm.PostWork(0, Work(number, Operation.SEND, inline=HELLO.pack(key))))
        expect(context, Operation.RECEIVE)
        if memory[:SIZE] != memory[SIZE : 2 * SIZE]:
            sys.exit("the bytes that came back are others")
        print(f"{SIZE} bytes there and back: {(time.monotonic() - began) * 1000:.2f} ms")
    context.ask(cm.Disconnect(0))


def given() -> bytes | None:
    """The address on the command line, None for the end that waits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address", nargs="?", type=ip_address, help="of the end that waits; without it this end waits")
    address = parser.parse_args().address
    return address.packed if address is not None else None


if __name__ == "__main__":
    server = given()
    if server is not None:
        ping(Context(), server)
    else:
        serve(Context())
