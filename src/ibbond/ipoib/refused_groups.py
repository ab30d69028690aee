"""The groups that the subnet has no room for: they wait together, and a few of them are asked for at a time.

Read first: InfiniBand Architecture volume 1, 15.4.3 (status ERR_NO_RESOURCES); a subnet has as many multicast LIDs as
its smallest switch has table entries. A thousand refused groups that each had a back-off of their own would keep the
administrator busy forever.
"""

from __future__ import annotations

from collections import OrderedDict

from ibbond.machine import SECOND

PROBES = 8  # groups that are asked for together when the back-off ends
MAX_BACKOFF_S = 16


class RefusedGroups:
    """Groups by MGID, and their one back-off: 2, 4, 8, then 16 seconds."""

    def __init__(self) -> None:
        self._groups: OrderedDict[bytes, None] = OrderedDict()  # those that have waited longest first
        self._probed: set[bytes] = set()  # asked for when the back-off ended last
        self._backoff_s = 1
        self._until: int | None = None

    def __contains__(self, mgid: bytes) -> bool:
        return mgid in self._groups

    def add(self, now: int, mgid: bytes) -> None:
        """The administrator has refused the group for lack of resources."""
        self._groups[mgid] = None
        if self._until is None:
            self._back_off(now)

    def forget(self, mgid: bytes) -> None:
        """The group is no longer wanted."""
        if mgid in self._groups:
            del self._groups[mgid]
            if not self._groups:
                self._until, self._backoff_s = None, 1

    def granted(self, now: int, mgid: bytes) -> None:
        """A group was given; if it had been refused before, there may be room for others."""
        if mgid in self._probed and self._groups:
            self._until, self._backoff_s = now, 1

    def due(self, now: int) -> list[bytes]:
        """The groups to request now; they are no longer waiting."""
        if self._until is None or self._until > now:
            return []
        chosen = [self._groups.popitem(last=False)[0] for _ in range(min(PROBES, len(self._groups)))]
        self._probed = set(chosen)
        self._until = None
        if self._groups:
            self._back_off(now)
        return chosen

    def deadline(self) -> int | None:
        return self._until

    def _back_off(self, now: int) -> None:
        self._backoff_s = min(self._backoff_s * 2, MAX_BACKOFF_S)
        self._until = now + self._backoff_s * SECOND
