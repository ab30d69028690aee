#!/usr/bin/env python3
"""Reliable datagrams over ibbond, as RDS has them: none lost, none doubled, in order per destination, over failovers.

In a lab: ibbond lab exec h2 -- examples/rdma-datagram.py, then ibbond lab exec h1 -- examples/rdma-datagram.py 10.0.0.2
(several addresses are several destinations). Pull cables meanwhile: ibbond lab cut h1/ib0. Ctrl-D ends each; the sender
then waits for its acknowledgments. The last line of both is JSON. Exit 0 only if nothing is missing: a sender has every
acknowledgment, a receiver has every datagram of each sender since the first one.
"""

import argparse
import errno
import json
import secrets
import select
import sys
import time
from dataclasses import dataclass
from ipaddress import ip_address

from ibbond.errors import Refused
from ibbond.rdma.client import Context
from ibbond.rdma.datagram import MEMORY_BYTES, Arrived, Endpoint

EVERY, TIMEOUT = 0.001, 20.0  # seconds
TEXT = "datagram "


@dataclass
class Heard:
    """What has come from one sender."""

    sender: str
    address: str
    first: int  # 0, or where a receiver that began again came in
    count: int = 0
    out_of_order: int = 0

    def take(self, number: int) -> None:
        self.out_of_order += number != self.first + self.count
        self.count += 1


def main(destinations: list[bytes]) -> None:
    context = Context()
    memory, key = context.register(MEMORY_BYTES)
    endpoint = Endpoint(memory, key, name=secrets.randbits(64))
    sent = dict.fromkeys(destinations, 0)
    refused = 0
    received: dict[int, Heard] = {}
    reported: dict[bytes, str] = {}
    if not destinations:
        context.ask(*endpoint.start(time.monotonic_ns()))
    print("ready", flush=True)
    input_open, give_up_at, send_at = True, 0.0, time.monotonic()
    while True:
        while destinations and input_open and time.monotonic() >= send_at:
            send_at += EVERY
            for destination in sent:
                refused += not send(context, endpoint, destination, sent)
        context.ask(*endpoint.tick(time.monotonic_ns()))
        while (event := context.poll(0)) is not None:
            context.ask(*endpoint.on_event(time.monotonic_ns(), event))
        while endpoint.arrived:
            take(received, endpoint.arrived.popleft())
        for destination, why in endpoint.refusals.items():
            if reported.get(destination) != why:
                print(f"{ip_address(destination)} refuses: {why}; trying on", file=sys.stderr, flush=True)
        reported = endpoint.refusals
        if not input_open and (not endpoint.unacknowledged or time.monotonic() >= give_up_at):
            break
        wait = max(0.0, send_at - time.monotonic()) if destinations and input_open else 0.02
        readable, _, _ = select.select([context, *([sys.stdin] if input_open else [])], [], [], wait)
        if sys.stdin in readable and not sys.stdin.readline():
            input_open, give_up_at = False, time.monotonic() + TIMEOUT
    facts = {
        "name": f"{endpoint.name:016x}",
        "sent": sum(sent.values()),
        "acknowledged": endpoint.acknowledged,
        "received": [vars(each) for each in received.values()],
        "out_of_order": sum(each.out_of_order for each in received.values()),
        "replayed": endpoint.replayed,
        "reconnects_ms": [round((until - since) / 1e6, 3) for since, until in endpoint.reconnects],
        "began_anew": [str(ip_address(each.destination)) for each in endpoint.began_anew],
        "refused": refused,
        "refusals": {str(ip_address(destination)): why for destination, why in endpoint.refusals.items()},
    }
    print(json.dumps(facts))
    sys.exit(facts["out_of_order"] != 0 or endpoint.acknowledged != sum(sent.values()))


def send(context: Context, endpoint: Endpoint, destination: bytes, sent: dict[bytes, int]) -> bool:
    """The next datagram to a destination; False when as many as may wait do, as while the network is away."""
    payload = f"{TEXT}{sent[destination]}".encode().ljust(256, b".")
    try:
        requests = endpoint.send(time.monotonic_ns(), destination, payload)
    except Refused as error:
        if error.code != errno.EAGAIN:
            sys.exit(str(error))
        return False
    context.ask(*requests)
    sent[destination] += 1
    return True


def take(received: dict[int, Heard], datagram: Arrived) -> None:
    """Count it for its sender."""
    digits = datagram.payload.split(b".")[0].removeprefix(TEXT.encode())
    number = int(digits) if digits.isdigit() else -1
    if datagram.sender not in received:
        received[datagram.sender] = Heard(f"{datagram.sender:016x}", datagram.address, number)
    received[datagram.sender].take(number)


def given() -> list[bytes]:
    """The addresses on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("addresses", nargs="*", type=ip_address, help="of the other ends")
    return [address.packed for address in parser.parse_args().addresses]


if __name__ == "__main__":
    main(given())
