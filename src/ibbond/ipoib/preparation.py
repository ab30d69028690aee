"""Make before break: what an interface joins and finds out before traffic is switched to it.

Read first: docs/architecture.md, walk 2. What was prepared and is not taken into the device's own list within ten
seconds is given up again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from ibbond.ipoib.membership import Membership
from ibbond.ipoib.paths import Paths
from ibbond.machine import SECOND

PREPARATION_NS = 10 * SECOND


class Preparation:
    """One preparation; a later one replaces it. `mgids` are wanted by the interface as long as it lasts."""

    def __init__(self, groups: Membership, paths: Paths) -> None:
        self._groups = groups
        self._paths = paths
        self.mgids: dict[bytes, None] = {}
        self._until: int | None = None
        self._open_groups: deque[bytes] = deque()  # not found to be done yet, and those behind it
        self._open_neighbors: deque[bytes] = deque()

    def begin(self, now: int, mgids: Iterable[bytes], neighbors: Iterable[bytes]) -> None:
        self.mgids = dict.fromkeys(mgids)
        self._open_groups, self._open_neighbors = deque(self.mgids), deque(neighbors)
        self._until = now + PREPARATION_NS

    def change(self, now: int, mgid: bytes, *, wanted: bool) -> None:
        """One group more, or less."""
        if not wanted:
            self.mgids.pop(mgid, None)
        elif mgid not in self.mgids:
            self.mgids[mgid] = None
            self._open_groups.append(mgid)
            self._until = now + PREPARATION_NS if self._until is None else self._until

    def clear(self) -> None:
        self.mgids, self._until = {}, None
        self._open_groups.clear()
        self._open_neighbors.clear()

    def expire(self, now: int) -> bool:
        """Whether it has just ended."""
        if self._until is None or self._until > now:
            return False
        self.clear()
        return True

    def done(self) -> bool:
        """Whether every group has been joined or refused, and every path found or not to be found.

        Asked at every event while a switch waits for it, so what is done is not looked at again.
        """
        while self._open_groups:
            group = self._groups.get(self._open_groups[0])
            if group is not None and not group.settled and not group.tries:
                return False
            self._open_groups.popleft()
        while self._open_neighbors and not self._paths.resolving(self._open_neighbors[0]):
            self._open_neighbors.popleft()
        return not self._open_neighbors

    def deadline(self) -> int | None:
        return self._until
