"""Lines of the kernel log as the bonding driver writes them, and the verdicts that can be read from them.

Read first: `slave_info`, `netdev_info` of Linux. Wording is not a contract of the kernel's; what a line reports is. So
comparisons go by `Verdict`: which member became active, whose link was found up or down, whether none is left.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ibbond.bonding.effects import Log

LINE = re.compile(r"(?P<bond>\S+?)(?: \(unregistering\))?: (?:\(slave (?P<member>\S+)\): )?(?P<text>.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a line reports: `active`, `up`, `down` of a member, or `none` and `any` of the bond."""

    kind: str
    member: str | None
    bond: str

    def __str__(self) -> str:
        return f"{self.kind} {self.member}" if self.member else self.kind


VERDICTS = (
    (re.compile(r"making interface .*the new active one"), "active"),
    (re.compile(r"link status definitely up\b"), "up"),
    (re.compile(r"link status definitely down\b"), "down"),
    (re.compile(r"now running without any active interface"), "none"),
    (re.compile(r"active interface up!"), "any"),
)


DELAY = re.compile(r"link status (?:up, enabling|down for .*, disabling) it in (?P<ms>[1-9]\d*) ms")


def delay(line: str) -> str | None:
    """The member whose updelay or downdelay begins with this line; None for any other line."""
    parts = parse(line)
    return parts[1] if parts is not None and DELAY.match(parts[2]) else None


def render(bond: str, entry: Log) -> str:
    """One line: `bond0: (slave ib0): link status definitely up`."""
    about = f"(slave {entry.member}): " if entry.member else ""
    return f"{bond}: {about}{entry.text}"


def parse(line: str) -> tuple[str, str | None, str] | None:
    """Bond, member (if the line is about one) and text of a line; None for a line of another form."""
    match = LINE.fullmatch(line)
    return (match["bond"], match["member"], match["text"]) if match else None


def verdict(line: str) -> Verdict | None:
    """What the line reports, if it is one of the five reports that matter."""
    parts = parse(line)
    if parts is None:
        return None
    bond, member, text = parts
    kind = next((kind for pattern, kind in VERDICTS if pattern.match(text)), None)
    return Verdict(kind, member, bond) if kind else None
