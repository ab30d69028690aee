"""One end of the block session as a process inside a lab host: `python -m ibbond.rdma.program initiator ADDRESS`.

Read first: `rdma.session`, which decides everything. The first line is `ready`: a target listens then, an
initiator has begun to look for it. The initiator ends when its standard input ends, and prints what it knows as one
line of JSON; times are CLOCK_MONOTONIC ns. The target ends when its input ends. What is refused is one line of JSON too
(`refusal_in` reads it), and the exit code is 2.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import select
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from ipaddress import ip_address

from ibbond.errors import Refused
from ibbond.machine import MS, SECOND, US
from ibbond.rdma.client import Context
from ibbond.rdma.initiator import Initiator
from ibbond.rdma.session import MEMORY_BYTES
from ibbond.rdma.target import Target

FINAL_TIMEOUT = 10 * SECOND
PROGRESS_EVERY = 100 * MS


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m ibbond.rdma.program", description=__doc__)
    ends = parser.add_subparsers(dest="end", required=True)
    ends.add_parser("target")
    initiator = ends.add_parser("initiator")
    initiator.add_argument("address", type=ip_address)
    initiator.add_argument("--spacing-us", type=spacing, default=1000, help="from one write to the next")
    initiator.add_argument("--ignore-addr-change", action="store_true", help="wait for the transport's own error")
    initiator.add_argument("--progress", action="store_true", help="a line of JSON every 0.1 s")
    return parser.parse_args()


def spacing(text: str) -> int:
    """Whole microseconds, at least one."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of microseconds from 1 up")
    return int(text)


def main() -> None:
    options = arguments()
    try:
        play(options)
    except Refused as refusal:
        words = {"what": refusal.what, "why": refusal.why, "fix": refusal.fix, "code": refusal.code}
        print(json.dumps({"refused": words}), flush=True)
        sys.exit(2)
    except (KeyboardInterrupt, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the reader has exited; Python's last flush must not fail either
        sys.exit(130)


def refusal_in(line: bytes) -> Refused | None:
    """The refusal in a line of output, if it is one."""
    try:
        words = json.loads(line)["refused"]
        return Refused(words["what"], why=words["why"], fix=words["fix"], code=words["code"])
    except (ValueError, KeyError, TypeError):
        return None


def play(options: argparse.Namespace) -> None:
    context = Context()
    memory, key = context.register(MEMORY_BYTES)
    if options.end == "target":
        run(context, Target(memory, key))
        return
    initiator = Initiator(
        memory,
        key,
        options.address.packed,
        secrets.randbits(64),
        spacing_ns=options.spacing_us * US,
        heed_address_change=not options.ignore_addr_change,
    )
    run(context, initiator, print_progress if options.progress else None)
    if initiator.over:
        raise Refused("cannot reconnect the session", why=initiator.over, fix="Start another session")
    print(json.dumps({"final": True, **facts(initiator)}), flush=True)


def run(context: Context, end: Initiator | Target, on_progress: Callable[[Initiator], None] | None = None) -> None:
    """Let one end live until standard input ends, and an initiator until it has read its target back or cannot."""
    context.ask(*end.start(time.monotonic_ns()))
    context.settle()
    print("ready", flush=True)
    input_open, give_up_at, report_at = True, 0, 0
    while True:
        now = time.monotonic_ns()
        context.ask(*end.tick(now))
        while (event := context.poll(0)) is not None:
            context.ask(*end.on_event(time.monotonic_ns(), event))
        if not input_open and (isinstance(end, Target) or end.verified or now > give_up_at or output_closed()):
            return
        if isinstance(end, Initiator) and end.over:
            return
        if on_progress is not None and isinstance(end, Initiator) and now >= report_at:
            on_progress(end)
            report_at = now + PROGRESS_EVERY
        at = end.deadline()
        wait = 0.1 if at is None else max(0.0, min(0.1, (at - time.monotonic_ns()) / SECOND))
        readable, _, _ = select.select([context.fileno(), *([0] if input_open else [])], [], [], wait)
        if 0 in readable and not os.read(0, 100):
            input_open, give_up_at = False, now + FINAL_TIMEOUT
            if isinstance(end, Initiator):
                end.finish()


def output_closed() -> bool:
    """Standard output is a pipe whose other end is closed."""
    looking = select.poll()
    looking.register(1, 0)  # errors are always reported
    return any(events & select.POLLERR for _, events in looking.poll(0))


def print_progress(initiator: Initiator) -> None:
    print(json.dumps({"sent": initiator.issued, "received": initiator.completed, "lost": 0}), flush=True)


def facts(initiator: Initiator) -> dict[str, object]:
    """What an initiator knows in the end."""
    return {
        "writes_sent": initiator.issued,
        "writes": initiator.completed,
        "writes_lost": initiator.lost,
        "writes_doubled": initiator.doubled,
        "verified": initiator.verified,
        "recoveries": [asdict(each) for each in initiator.recoveries],
        "silences": initiator.silences,
        "last_at": initiator.answered_at,
    }


if __name__ == "__main__":
    main()
