#!/usr/bin/env python3
"""A block session as iSER has it, over ibbond: log in, a queue of numbered writes, reconnect and replay, read back.

In a lab: ibbond lab exec h2 -- examples/rdma-block-session.py, then, in another terminal,
ibbond lab exec h1 -- examples/rdma-block-session.py 10.0.0.2, and pull cables meanwhile: ibbond lab cut h1/ib0.
Ctrl-D ends each; the initiator then reads the target's disk and ledger back by RDMA and compares every block. Exit 0
only if no write is missing, wrong or done twice, and the session came back from every break. The session itself is
ibbond.rdma.initiator and ibbond.rdma.target, which both ends run.
"""

import argparse
import secrets
import sys
from ipaddress import ip_address

from ibbond.errors import Refused
from ibbond.machine import MS
from ibbond.rdma.client import Context
from ibbond.rdma.initiator import Initiator, Recovery
from ibbond.rdma.program import run
from ibbond.rdma.session import MEMORY_BYTES
from ibbond.rdma.target import Target


def serve() -> None:
    context = Context()
    try:
        run(context, Target(*context.register(MEMORY_BYTES)))
    except Refused as refusal:
        sys.exit(str(refusal))


def write(address: bytes) -> int:
    context = Context()
    initiator = Initiator(*context.register(MEMORY_BYTES), address, secrets.randbits(64))
    reported = 0

    def tell(one: Initiator) -> None:
        nonlocal reported
        for recovery in one.recoveries[reported:]:
            if recovery.first_io_at is not None:
                reported += 1
                print(describe(recovery), flush=True)

    run(context, initiator, tell)
    tell(initiator)
    if not initiator.verified:
        print(f"{initiator.over or 'the session did not come back'}: nothing was compared")
    lost, doubled = ("not known" if count is None else count for count in (initiator.lost, initiator.doubled))
    print(f"{initiator.completed} writes, {lost} lost, {doubled} done twice")
    return int((initiator.lost, initiator.doubled, initiator.unrecovered) != (0, 0, 0))


def describe(recovery: Recovery) -> str:
    def after(at: int | None) -> str:
        return "-" if at is None else f"{(at - recovery.seen_at) / MS:.1f} ms"

    return (
        f"{recovery.sign}: resolved after {after(recovery.resolved_at)}, reconnected after "
        f"{after(recovery.reconnected_at)}, writing again after {after(recovery.first_io_at)}"
    )


def given() -> bytes | None:
    """The address on the command line, None for the end that waits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address", nargs="?", type=ip_address, help="of the end that waits; without it this end waits")
    address = parser.parse_args().address
    return address.packed if address is not None else None


if __name__ == "__main__":
    target = given()
    if target is not None:
        sys.exit(write(target))
    serve()
