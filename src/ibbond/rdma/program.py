"""One end of the block session as a process inside a lab host: `python -m ibbond.rdma.program initiator ADDRESS`.

Read first: `rdma.session`, which decides everything. The initiator ends when its standard input ends, and prints what
it knows as one line of JSON; times are CLOCK_MONOTONIC ns. The target ends when its input ends.
"""

from __future__ import annotations

import json
import os
import select
import sys
import time
from dataclasses import asdict
from ipaddress import ip_address

from ibbond.machine import SECOND
from ibbond.rdma.client import Context
from ibbond.rdma.session import MEMORY_BYTES, Initiator, Target

LAST_PATIENCE = 20 * SECOND


def main() -> None:
    context = Context()
    memory, key = context.register(MEMORY_BYTES)
    wish = sys.argv[1:]
    end = Initiator(memory, key, ip_address(wish[1]).packed) if wish[0] == "initiator" else Target(memory, key)
    for request in end.start(time.monotonic_ns()):
        context.ask(request)
    print("ready", flush=True)
    input_open, give_up_at = True, 0
    while True:
        now = time.monotonic_ns()
        if not input_open and (isinstance(end, Target) or end.verified or now > give_up_at):
            break
        for request in end.tick(now):
            context.ask(request)
        at = end.deadline()
        wait = 0.1 if at is None else max(0.0, min(0.1, (at - time.monotonic_ns()) / SECOND))
        readable, _, _ = select.select([context.fileno(), *([0] if input_open else [])], [], [], wait)
        if 0 in readable and not os.read(0, 100):
            input_open, give_up_at = False, now + LAST_PATIENCE
            if isinstance(end, Initiator):
                end.finish()
        while context.fileno() in readable and (news := context.poll(0)) is not None:
            for request in end.hear(time.monotonic_ns(), news):
                context.ask(request)
    if isinstance(end, Initiator):
        facts = {
            "writes": end.completed,
            "writes_lost": end.lost,
            "writes_doubled": end.doubled,
            "verified": end.verified,
            "recoveries": [asdict(each) for each in end.recoveries],
        }
        print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    main()
