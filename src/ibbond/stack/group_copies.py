"""Group frames around a planned switch: two members receive them, and the host gets each once.

Both members of an active-backup bond are in the bond's groups, so that each broadcast and multicast frame arrives
twice, by ways of different length. Which member's frames are taken is decided when a copy arrives: a frame whose first
copy arrives before the switch at the new member, and whose second copy arrives after it at the old one, would be taken
by neither, and so would one that was on its way before the new member was in the group. In the opposite order both
copies would be taken. So what was taken a moment ago is remembered, and during a handover a copy is taken from either
member if it is not one of these. Read first: docs/architecture.md, walk 2. Left out: who is active, and for how long a
handover lasts (`bonding.datapath`).
"""

from __future__ import annotations

from ibbond.ipoib.events import Frame
from ibbond.machine import MS

WINDOW_NS = 50 * MS  # at least so long a frame is remembered, and at most twice as long
MAX_FRAMES = 4096  # remembered in one window

_Key = tuple[int, int, int]


class GroupCopies:
    """Of one bond. Frames with the same sender and bytes are counted, so that one sent twice is taken twice."""

    __slots__ = ("_before", "_counts", "_until")

    def __init__(self) -> None:
        self._counts: dict[_Key, dict[str, int]] = {}  # by member
        self._before: dict[_Key, dict[str, int]] = {}  # of the window before
        self._until = 0

    def take(self, now: int, member: str, frame: Frame) -> bool:
        """Remember a frame that arrived at a member; whether it is new to the host, and not another one's copy."""
        if now >= self._until:
            self._before = self._counts if now < self._until + WINDOW_NS else {}
            self._counts, self._until = {}, now + WINDOW_NS
        key = (frame.source_qpn, len(frame.payload), hash((frame.source_gid, frame.payload)))
        counts = self._counts.get(key) or self._before.get(key)
        if counts is None:
            if len(self._counts) < MAX_FRAMES:
                self._counts[key] = {member: 1}
            return True
        before = max(counts.values())
        counts[member] = counts.get(member, 0) + 1
        return counts[member] > before
