#!/usr/bin/env python3
"""Reliable datagrams over ibbond, as RDS has them: none lost, none doubled, in order per destination, over failovers.

In a lab: ibbond lab exec h2 -- examples/rdma-datagram.py, then ibbond lab exec h1 -- examples/rdma-datagram.py 10.0.0.2
(several addresses are several destinations). Pull cables meanwhile: ibbond lab cut h1/ib0. Ctrl-D ends each; the sender
then waits for its acknowledgments. The last line of both is JSON. Exit 0 only if nothing is missing.
"""

import argparse
import json
import secrets
import select
import sys
import time
from ipaddress import ip_address

from ibbond.errors import Refused
from ibbond.rdma.client import Context
from ibbond.rdma.datagram import MEMORY_BYTES, Endpoint

EVERY, PATIENCE = 0.001, 20.0  # seconds


def main(destinations: list[bytes]) -> None:
    context = Context()
    memory, key = context.register(MEMORY_BYTES)
    endpoint = Endpoint(memory, key, name=secrets.randbits(64))
    sent, refused = 0, 0
    received: dict[str, int] = {}
    wrong = 0
    if not destinations:
        context.ask(*endpoint.start(time.monotonic_ns()))
    print("ready", flush=True)
    input_open, give_up_at, send_at = True, 0.0, time.monotonic()
    while input_open or (endpoint.unacknowledged and time.monotonic() < give_up_at):
        while destinations and input_open and time.monotonic() >= send_at:
            send_at += EVERY
            try:
                for destination in destinations:
                    payload = f"datagram {sent}".encode().ljust(256, b".")
                    context.ask(*endpoint.send(time.monotonic_ns(), destination, payload))
                sent += 1
            except Refused:  # as many as may wait do: the network is away
                refused += 1
        wait = max(0.0, send_at - time.monotonic()) if destinations and input_open else 0.02
        readable, _, _ = select.select([context, *([sys.stdin] if input_open else [])], [], [], wait)
        if sys.stdin in readable and not sys.stdin.readline():
            input_open, give_up_at = False, time.monotonic() + PATIENCE
        while context in readable and (news := context.poll(0)) is not None:
            context.ask(*endpoint.hear(time.monotonic_ns(), news))
        context.ask(*endpoint.tick(time.monotonic_ns()))
        while endpoint.arrived:
            datagram = endpoint.arrived.popleft()
            number = received.get(datagram.address, 0)
            wrong += datagram.payload.split(b".")[0] != f"datagram {number}".encode()
            received[datagram.address] = number + 1
    gaps = [round((until - since) / 1e6, 3) for since, until in endpoint.reconnects]
    facts = {
        "sent": sent,
        "acknowledged": endpoint.acknowledged,
        "received": received,
        "out_of_order": wrong,
        "replayed": endpoint.replayed,
        "reconnects_ms": gaps,
        "refused": refused,
    }
    print(json.dumps(facts))
    sys.exit(wrong != 0 or endpoint.acknowledged != sent * len(destinations))


def given() -> list[bytes]:
    """The addresses on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("addresses", nargs="*", type=ip_address, help="of the other ends")
    return [address.packed for address in parser.parse_args().addresses]


if __name__ == "__main__":
    main(given())
