"""The block session of `rdma.session` in a running lab: two processes inside its hosts, real time, pulled cables.

Read first: `lab.rdma_session`, whose report this one has the shape of. All times are CLOCK_MONOTONIC of this machine:
the lab's time line and the initiator use the same. The lab may be somebody's: every cable that is pulled is plugged
again, whatever happens. Left out: seeds.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import NamedTuple

from ibbond.backend.control_socket import Control
from ibbond.errors import Refused
from ibbond.lab.inside import Door, door
from ibbond.lab.rdma_report import Plain, failover_row, settings

HEALTHY = 0.5  # seconds before and after each move
RECOVERING = 2.0
PATIENCE = 60.0
PROGRAM = ("-m", "ibbond.rdma.program")


class _Bond(NamedTuple):
    """A bond that can fail over, and its first address without the prefix."""

    name: str
    address: str


def perform(control: Control, source: str, target: str, *, failovers: int, heed_address_change: bool = True) -> Plain:
    """Run the session in a lab and pull `failovers` cables."""
    hosts = _table(control.ask("status"), "hosts")
    bonds = {host: _bond(hosts, host) for host in (source, target)}
    with contextlib.ExitStack() as closing:
        serving = _start(closing, door(control, target), "target")
        words = [] if heed_address_change else ["--ignore-addr-change"]
        asking = _start(closing, door(control, source), "initiator", bonds[target].address, *words)
        began = time.monotonic_ns()
        time.sleep(HEALTHY)
        moves = []
        for number in range(failovers):
            host = (source, target)[number % 2]
            moves.append((host, *_move(control, host, bonds[host].name)))
        out, _ = asking.communicate(timeout=PATIENCE)
        serving.communicate(timeout=PATIENCE)
    if asking.returncode or not out:
        raise Refused("the session ended early", why="see its words above", fix="Look at the lab's hosts")
    facts = json.loads(out)
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
        raise Refused(f"no host {host}", why=f"the lab has {', '.join(hosts)}", fix="Name one of these")
    devices = _table(hosts[host], "devices")
    for name, facts in _table(hosts[host], "bonds").items():
        assert isinstance(facts, dict)
        ready = [member for member in facts["members"] if _table(devices, member)["carrier"]]
        if len(ready) > 1 and facts["addresses"]:
            return _Bond(name, str(facts["addresses"][0]).partition("/")[0])
    why = "it has no bond with an address whose members have two links"
    raise Refused(f"no failovers on {host}", why=why, fix="Name a host that has one, or plug its cables")


def _table(value: object, key: str) -> dict[str, object]:
    assert isinstance(value, dict), value
    found = value[key]
    assert isinstance(found, dict), found
    return found


def _start(closing: contextlib.ExitStack, way: Door, *words: str) -> subprocess.Popen[bytes]:
    """One end of the session in a host; returns when it has registered its memory and begun."""
    closing.callback(way.close)
    process = way.popen([sys.executable, *PROGRAM, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    closing.callback(_end, process)
    assert process.stdout is not None, "it was asked for"
    if process.stdout.readline() != b"ready\n":
        raise Refused(f"the {words[0]} did not start", why="see its words above", fix="Look at the lab's hosts")
    return process


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def _move(control: Control, host: str, bond: str) -> tuple[int, int | None, int]:
    """Pull the active member's cable and plug it again: (cut at, failed over at, plugged and healthy at)."""
    active = str(control.ask("read", host=host, path=f"{bond}/bonding/active_slave")).strip()
    cut_at = time.monotonic_ns()
    control.ask("cut", cables=[f"{host}/{active}"])
    try:
        time.sleep(RECOVERING)
        items = control.ask("past_events")
    finally:
        control.ask("mend", cables=[f"{host}/{active}"])
    assert isinstance(items, list)
    moved = [
        int(item["at_ns"])
        for item in items
        if item["where"] == f"{host}/{bond}" and item["what"] == "failover" and int(item["at_ns"]) >= cut_at
    ]
    time.sleep(HEALTHY)
    return cut_at, moved[0] if moved else None, time.monotonic_ns()
