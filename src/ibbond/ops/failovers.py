"""Failovers of a host's bonds, read from the changes that `watch` prints: how often, when last, and why.

Read first: backend/kernel/watch.py for the changes of a kernel; a lab has words of its own for some of them. Pure: the
caller says what time it is. What happened before the first change is not known and not guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

REQUESTED = "requested, or preferred"
CAME_UP = "a member came up"
LOSSES: dict[tuple[str, object], str] = {  # what a change of a member says it lost
    ("carrier", False): "carrier lost",
    ("carrier", "off"): "carrier lost",
    ("up", False): "set down",
    ("admin", "down"): "set down",
    ("link", "down"): "link monitor",
    ("left", None): "left the bond",
    ("deleted", None): "device removed",
}
RETURNS: dict[tuple[str, object], tuple[str, ...]] = {  # what a change of a member says it got back
    ("carrier", True): ("carrier lost",),
    ("carrier", "on"): ("carrier lost",),
    ("up", True): ("set down",),
    ("admin", "up"): ("set down",),
    ("link", "up"): ("link monitor",),
    ("joined", None): ("left the bond", "device removed"),
    ("created", None): ("left the bond", "device removed"),
}
ANNOUNCED = ("announce", "notify_peers")


@dataclass(frozen=True, slots=True)
class Failover:
    """A change of the active member, at a time in seconds; None where there was or is none."""

    at: float
    old: str | None
    new: str | None
    why: str


@dataclass(slots=True)
class BondHistory:
    """What was seen of one bond since the watch began."""

    failovers: int = 0
    announcements: int = 0
    last: Failover | None = None


@dataclass(slots=True)
class History:
    """What was seen of a host's bonds."""

    bonds: dict[str, BondHistory] = field(default_factory=dict)
    _lost: dict[str, list[str]] = field(default_factory=dict)

    def add(self, now: float, change: Mapping[str, object]) -> None:
        """One change of `watch`, which became known at `now`, in seconds."""
        name = str(change.get("where", "")).rpartition("/")[2]
        what, value = str(change.get("what", "")), change.get("new", change.get("detail"))
        if what in ANNOUNCED:
            self._bond(name).announcements += 1
        elif what == "active":
            self._failover(now, name, _name(change.get("old")), _name(value))
        elif what == "failover":
            old, _, new = str(value).partition(" -> ")
            self._failover(now, name, _name(old), _name(new))
        for key in ((what, value), (what, None)):
            if loss := LOSSES.get(key):
                self._lost.setdefault(name, []).append(loss)
            for returned in RETURNS.get(key, ()):
                self._lost[name] = [each for each in self._lost.get(name, ()) if each != returned]

    def _failover(self, now: float, bond: str, old: str | None, new: str | None) -> None:
        record = self._bond(bond)
        record.failovers += 1
        record.last = Failover(now, old, new, self._why(old))

    def _why(self, old: str | None) -> str:
        if old is None:
            return CAME_UP
        return next(iter(self._lost.get(old, ())), REQUESTED)

    def _bond(self, name: str) -> BondHistory:
        return self.bonds.setdefault(name, BondHistory())


def _name(value: object) -> str | None:
    return None if value in (None, "", "none") else str(value)
