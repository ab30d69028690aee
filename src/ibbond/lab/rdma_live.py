"""The block session of `rdma.session` in a running lab: two processes inside its hosts, real time, pulled cables.

Read first: `lab.rdma_session`, whose report this one has the shape of. All times are CLOCK_MONOTONIC of this machine:
the lab's time line and the initiator use the same. Left out: `heed_address_change`, seeds.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time

from ibbond.backend.control_socket import Control
from ibbond.errors import Refused
from ibbond.lab.inside import Door, door
from ibbond.lab.rdma_session import Plain, settings
from ibbond.machine import MS
from ibbond.topology.model import Topology

HEALTHY = 0.5  # seconds before and after each move
RECOVERING = 2.0
PATIENCE = 60.0


def perform(control: Control, topology: Topology, source: str, target: str, *, failovers: int) -> Plain:
    """Run the session in a lab of this topology and pull `failovers` cables."""
    bonds = {}
    for host in (source, target):
        found = [bond for bond in topology.host(host).bonds if bond.members[1:] and bond.addresses]
        if not found:
            why = "it has no bond of two members with an address"
            raise Refused(f"no failovers on {host}", why=why, fix="Name a host that has one")
        bonds[host] = found[0]
    with contextlib.ExitStack() as closing:
        serving = _start(closing, door(control, target), "target")
        address = str(bonds[target].addresses[0].ip)
        asking = _start(closing, door(control, source), "initiator", address)
        began = time.monotonic_ns()
        time.sleep(HEALTHY)
        moves = []
        for number in range(failovers):
            host = (source, target)[number % 2]
            moves.append((host, *_move(control, host, bonds[host].name)))
        out, _ = asking.communicate(timeout=PATIENCE)
        serving.communicate(timeout=PATIENCE)
    facts = json.loads(out)
    reports = [
        _report(host, began, cut_at, moved_at, until, facts["recoveries"]) for host, cut_at, moved_at, until in moves
    ]
    return {
        "mode": "live",
        "settings": settings(heed_address_change=True),
        "failovers": reports,
        **{name: facts[name] for name in ("writes", "writes_lost", "writes_doubled", "verified")},
        "refused": [],
    }


def _start(closing: contextlib.ExitStack, way: Door, *words: str) -> subprocess.Popen[bytes]:
    """One end of the session in a host; returns when it has registered its memory and begun."""
    closing.callback(way.close)
    command = [sys.executable, "-m", "ibbond.rdma.program", *words]
    process = way.popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
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
    time.sleep(RECOVERING)
    items = control.ask("past_events")
    assert isinstance(items, list)
    moved = [
        int(item["at_ns"])
        for item in items
        if item["where"] == f"{host}/{bond}" and item["what"] == "failover" and int(item["at_ns"]) >= cut_at
    ]
    control.ask("mend", cables=[f"{host}/{active}"])
    time.sleep(HEALTHY)
    return cut_at, moved[0] if moved else None, time.monotonic_ns()


def _report(
    host: str, began: int, cut_at: int, moved_at: int | None, until: int, recoveries: list[dict[str, int | None]]
) -> Plain:
    found = [each for each in recoveries if each["seen_at"] is not None and cut_at <= each["seen_at"] < until]
    first: dict[str, int | None] = found[0] if found else {}
    last: dict[str, int | None] = found[-1] if found else {}

    def at(when: int | None) -> float | None:
        return None if when is None else round((when - began) / MS, 3)

    return {
        "host": host,
        "cut_ms": at(cut_at),
        "failover_ms": at(moved_at),
        "sign": first.get("sign"),
        "error_seen_ms": at(first.get("error_at")),
        "addr_change_ms": at(first.get("addr_change_at")),
        "resolved_ms": at(last.get("resolved_at")),
        "reconnected_ms": at(last.get("reconnected_at")),
        "first_io_ms": at(last.get("first_io_at")),
        "attempts": sum(each["attempts"] or 0 for each in found),
    }
