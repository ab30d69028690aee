"""The frames of a recording that are compared, in comparable form: announcements, and probes of the ARP monitor.

Read first: tests/golden/kernel-6.1/README.md, "What counts as passed", section Events. Left out: how they are compared
(`replay/compare_events`, `replay/compare_probes`).
"""

from __future__ import annotations

from collections.abc import Callable

from ibbond.abi.recording import Observed
from ibbond.replay.trace import Facts

STATE_CHANGE_RECORDS = (3, 4, 5, 6)  # IGMPv3 records of a host that joins or leaves


def is_announcement(facts: Facts) -> bool:
    """Gratuitous ARP, NA, and IGMP reports that no join caused."""
    if "arp" in facts:
        return facts["arp"] == "request" and facts["spa"] == facts["tpa"]
    if "icmp6" in facts:
        return facts["icmp6"] == "NA"
    return "igmp" in facts and _repeats_membership(str(facts["body"]))


def _repeats_membership(body: str) -> bool:
    """An IGMP report that repeats what is joined; a version 3 report of a change was caused by a join."""
    data = bytes.fromhex(body)
    return data[0] != 0x22 or len(data) < 9 or data[8] not in STATE_CHANGE_RECORDS


def is_probe(facts: Facts) -> bool:
    return facts.get("arp") == "request" and facts["spa"] != facts["tpa"]


def comparable(facts: Facts) -> tuple[tuple[str, object], ...]:
    """All fields; of IGMP without the checksum and the types of the records."""
    return tuple((key, _igmp_body(str(value)) if key == "body" else value) for key, value in sorted(facts.items()))


def _igmp_body(body: str) -> str:
    data = bytearray.fromhex(body)
    data[2:4] = bytes(2)
    if data[0] == 0x22:
        at = 8
        while at + 8 <= len(data):
            data[at] = 0
            at += 8 + 4 * data[at + 1] + 4 * int.from_bytes(data[at + 2 : at + 4])
    return data.hex()


def recorded_frames(events: list[Observed], device: str, wanted: Callable[[Facts], bool]) -> list[tuple[float, Facts]]:
    found = [
        (event.t_ms, {key: value for key, value in event.facts.items() if key not in ("dev", "dir")})
        for event in events
        if event.what == "frame" and event.text("dir") == "out" and event.text("dev") == device
    ]
    return [(at, facts) for at, facts in found if wanted(facts)]
