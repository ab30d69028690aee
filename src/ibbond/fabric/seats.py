"""At which switch ports the members of one multicast group hang, kept up as members come and go.

A group of a thousand members changes by one at a time; only that one is looked at. Left out: trees (`routing`).
"""

from __future__ import annotations

from collections.abc import Mapping

from ibbond.fabric.directory import EndPort
from ibbond.fabric.groups import RECEIVING_STATES

_RECEIVING = int(RECEIVING_STATES)


class Seats:
    """Of one group, as long as end ports and switches stay what they are."""

    def __init__(self, ends: Mapping[int, EndPort], switches: Mapping[int, object]) -> None:
        self.ends = ends
        self.switches = switches
        self.masks: dict[int, int] = {}  # switch -> the ports at which somebody receives
        self.counts: dict[int, int] = {}  # switch -> how many members it has
        self._members: dict[int, int] = {}  # port GUID -> join state, as seen last

    def update(self, members: Mapping[int, int]) -> None:
        """The group's members (port GUID -> join state) are these now."""
        for guid, state in sorted(self._members.items() - members.items()):
            self._count(guid, state, -1)
            del self._members[guid]
        for guid, state in sorted(members.items() - self._members.items()):
            self._count(guid, state, 1)
            self._members[guid] = state

    def _count(self, guid: int, state: int, by: int) -> None:
        end = self.ends.get(guid)
        if end is None or end.home is None or end.home[0] not in self.switches:
            return
        switch, port = end.home
        self.counts[switch] = self.counts.get(switch, 0) + by
        if not self.counts[switch]:
            del self.counts[switch]
        if state & _RECEIVING:  # one end port alone hangs there
            self.masks[switch] = self.masks.get(switch, 0) ^ 1 << port
