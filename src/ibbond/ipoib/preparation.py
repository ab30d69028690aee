"""Make before break: what an interface joins and finds out before traffic is switched to it.

Read first: docs/architecture.md, walk 2. What was prepared and is not taken into the device's own list within ten
seconds is given up again.
"""

from __future__ import annotations

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
        self.mgids: tuple[bytes, ...] = ()
        self.neighbors: tuple[bytes, ...] = ()
        self._until: int | None = None

    def begin(self, now: int, mgids: Iterable[bytes], neighbors: Iterable[bytes]) -> None:
        self.mgids, self.neighbors = tuple(mgids), tuple(neighbors)
        self._until = now + PREPARATION_NS

    def clear(self) -> None:
        self.mgids, self.neighbors, self._until = (), (), None

    def expire(self, now: int) -> bool:
        """Whether it has just ended."""
        if self._until is None or self._until > now:
            return False
        self.clear()
        return True

    def done(self) -> bool:
        """Whether every group is joined or refused, and every path found or not to be found."""
        for mgid in self.mgids:
            group = self._groups.get(mgid)
            if group is not None and not group.settled and not group.tries:
                return False
        return not any(self._paths.resolving(neighbor) for neighbor in self.neighbors)

    def deadline(self) -> int | None:
        return self._until
