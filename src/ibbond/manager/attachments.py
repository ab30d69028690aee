"""At which switch ports the members of one multicast group hang, kept up as members come and go.

A group of a thousand members changes by one at a time; only that one is looked at. Left out: trees (`routing`).
"""

from __future__ import annotations

from collections.abc import Mapping

from ibbond.manager.directory import EndPort
from ibbond.manager.discovery import PortKey
from ibbond.manager.groups import RECEIVING_STATES

_RECEIVING = int(RECEIVING_STATES)


class Attachments:
    """Of one group, as long as no member moves to another port and the switches stay the same."""

    def __init__(self) -> None:
        self.masks: dict[int, int] = {}  # switch -> the ports at which members receive
        self.counts: dict[int, int] = {}  # switch -> how many members it has
        self._members: dict[int, int] = {}  # port GUID -> join state, as seen last
        self._homes: dict[int, PortKey] = {}  # of those that hang at a switch

    def update(self, members: Mapping[int, int], ends: Mapping[int, EndPort], switches: Mapping[int, object]) -> None:
        """The group's members (port GUID -> join state) are these now; `ends` knows where the new ones are."""
        for guid, state in sorted(self._members.items() - members.items()):
            del self._members[guid]
            if guid in self._homes:
                self._count(self._homes.pop(guid), state, -1)
        for guid, state in sorted(members.items() - self._members.items()):
            self._members[guid] = state
            home = ends[guid].home if guid in ends else None
            if home is not None and home[0] in switches:
                self._homes[guid] = home
                self._count(home, state, 1)

    def _count(self, home: PortKey, state: int, by: int) -> None:
        switch, port = home
        self.counts[switch] = self.counts.get(switch, 0) + by
        if not self.counts[switch]:
            del self.counts[switch]
        if state & _RECEIVING:  # one end port alone hangs there
            self.masks[switch] = self.masks.get(switch, 0) ^ 1 << port
