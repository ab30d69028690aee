"""The block session of `rdma.session` in a running lab: two processes inside its hosts, real time, pulled cables.

Read first: `demo.rdma_session`, whose report this one has the shape of. All times are CLOCK_MONOTONIC of this machine:
the lab's time line and the initiator use the same. The lab may be in use: every cable that is pulled is plugged
again, whatever becomes of us, for the lab does that. Left out: seeds.
"""

from __future__ import annotations

import contextlib
import errno
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from ibbond.backend.control_socket import Control
from ibbond.demo.rdma_report import Plain, failover_row, settings
from ibbond.errors import Refused
from ibbond.lab.exec import HostHandle, host_handle
from ibbond.rdma.program import refusal_in
from ibbond.rdma.session import SERVICE_PORT

HEALTHY = 0.5  # seconds before and after each move
RECOVERING = 2.0
TIMEOUT = 60.0
LOOKING_EVERY = 0.05
PROGRAM = ("-m", "ibbond.rdma.program")


class _Bond(NamedTuple):
    """A bond that can fail over, and its first address without the prefix."""

    name: str
    address: str


def run_session(
    control: Control, source: str, target: str, *, failovers: int, heed_address_change: bool = True
) -> Plain:
    """Run the session in a lab and pull `failovers` cables."""
    hosts = _table(control.ask("status"), "hosts")
    bonds = {host: _bond(hosts, host) for host in (source, target)}
    with contextlib.ExitStack() as closing:
        serving = _start(closing, host_handle(control, target), f"the target on {target}", "target")
        words = [] if heed_address_change else ["--ignore-addr-change"]
        initiator = ("initiator", bonds[target].address, *words)
        asking = _start(closing, host_handle(control, source), f"the initiator on {source}", *initiator)
        began = time.monotonic_ns()
        _rest((asking, serving), HEALTHY)
        moves = []
        for number in range(failovers):
            host = (source, target)[number % 2]
            cut_at, moved_at = _move(control, host, bonds[host].name, (asking, serving))
            _rest((asking, serving), HEALTHY)
            moves.append((host, cut_at, moved_at, time.monotonic_ns()))
        facts = json.loads(_last_words(asking))
        _last_words(serving)
    return {
        "mode": "live",
        "settings": settings(heed_address_change=heed_address_change),
        "failovers": [
            failover_row(host, began, cut_at, moved_at, until, facts["recoveries"])
            for host, cut_at, moved_at, until in moves
        ],
        **{name: facts[name] for name in ("writes", "writes_lost", "writes_doubled", "verified")},
        "refused": [],
    }


def _bond(hosts: Mapping[str, object], host: str) -> _Bond:
    """The bond of a host whose cables are pulled: two members with a link, and an address."""
    if host not in hosts:
        raise Refused(f"no host {host}", why=f"the lab has {', '.join(hosts)}", fix="Choose one of these")
    devices = _table(hosts[host], "devices")
    for name, facts in _table(hosts[host], "bonds").items():
        assert isinstance(facts, dict)
        ready = [member for member in facts["members"] if _table(devices, member)["carrier"]]
        if len(ready) > 1 and facts["addresses"]:
            return _Bond(name, str(facts["addresses"][0]).partition("/")[0])
    why = "it has no bond with an address whose members have two links"
    raise Refused(f"no failovers on {host}", why=why, fix="Choose a host that has one, or plug in its cables")


def _table(value: object, key: str) -> dict[str, object]:
    assert isinstance(value, dict), value
    found = value[key]
    assert isinstance(found, dict), found
    return found


class _End(NamedTuple):
    """A running end of the session, and what people call it."""

    name: str
    process: subprocess.Popen[bytes]


def _start(closing: contextlib.ExitStack, way: HostHandle, name: str, *words: str) -> _End:
    """One end of the session in a host; returns when its requests so far have been granted."""
    closing.callback(way.close)
    process = way.popen(
        [sys.executable, *PROGRAM, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        process_group=0,  # Ctrl-C is not for it: we end it
    )
    closing.callback(_kill, process)
    assert process.stdout is not None, "it was asked for"
    line = process.stdout.readline()
    if line == b"ready\n":
        return _End(name, process)
    refusal = refusal_in(line)
    if refusal is not None and refusal.code == errno.EADDRINUSE:
        why = f"its service port {SERVICE_PORT} is in use"
        fix = "End the program that listens there, or choose another target"
        raise Refused(f"cannot start {name}", why=why, fix=fix, code=errno.EADDRINUSE)
    raise _early(name, "start", refusal)


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


def _last_words(end: _End) -> bytes:
    """End one end of the session; the last line that it says."""
    try:
        out, _ = end.process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        why = f"{end.name} did not end within {TIMEOUT:.0f} s"
        raise Refused("the session did not end", why=why, fix="See which cables are cut: ibbond lab status") from None
    lines = out.splitlines() or [b""]
    if end.process.returncode:
        raise _early(end.name, "end well", refusal_in(lines[-1]))
    return lines[-1]


def _early(name: str, what: str, refusal: Refused | None) -> Refused:
    why = f"{refusal.what}: {refusal.why}" if refusal is not None else "it was ended, or see its messages above"
    fix = refusal.fix if refusal is not None else "Check that the lab is running (ibbond lab status) and try again"
    return Refused(f"{name} did not {what}", why=why, fix=fix)


def _rest(ends: tuple[_End, ...], seconds: float) -> None:
    """Let the session be; `Refused` as soon as one of its ends is no more."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        for end in ends:
            if end.process.poll() is not None:
                _last_words(end)
                raise _early(end.name, "last", None)
        time.sleep(min(left, LOOKING_EVERY))


def _move(control: Control, host: str, bond: str, ends: tuple[_End, ...]) -> tuple[int, int | None]:
    """Pull the active member's cable and plug it again: (cut at, failed over at)."""
    active = str(control.ask("read", host=host, path=f"{bond}/bonding/active_slave")).strip()
    with _pulled(control, f"{host}/{active}") as cut_at:
        _rest(ends, RECOVERING)
        items = control.ask("past_events")
    assert isinstance(items, list)
    moved = [
        int(item["at_ns"])
        for item in items
        if item["where"] == f"{host}/{bond}" and item["what"] == "failover" and int(item["at_ns"]) >= cut_at
    ]
    return cut_at, moved[0] if moved else None


@contextlib.contextmanager
def _pulled(control: Control, cable: str) -> Iterator[int]:
    """The cable is out in this block, which gets the time; whatever ends us there, the lab plugs it again."""
    with Control(control.path) as holder:
        cut_at = time.monotonic_ns()
        holder.ask("pull", cable=cable)
        try:
            yield cut_at
        finally:
            with contextlib.suppress(Refused):  # the lab has ended, and its cables with it
                holder.ask("mend", cables=[cable])  # at once, and not when the lab notices that we are gone
